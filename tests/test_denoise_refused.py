"""Input that `tl.denoise` refuses, before it writes anything."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb


@pytest.fixture
def fresh(soupy):
    adata = soupy(n_cells=60)
    del adata.layers["native"]
    return adata


def denoise(adata, **settings):
    return sb.tl.denoise(adata, **({"progress": False} | settings))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"ambient": "nothing"}, KeyError, "no profile 'nothing'"),
        ({"ambient": np.ones(5)}, ValueError, "shape"),
        ({"ambient": np.ones((300, 1, 1))}, ValueError, "shape"),
        ({"ambient": np.ones((300, 0))}, ValueError, "shape"),
        ({"ambient": np.full(300, "a")}, TypeError, "no numbers"),
        ({"ambient": sparse.eye_array(300)}, TypeError, "no numbers"),
        ({"ambient": -np.ones(300)}, ValueError, "not negative"),
        ({"ambient": np.full(300, np.nan)}, ValueError, "finite"),
        ({"ambient": np.zeros(300)}, ValueError, "all zero"),
        ({"ambient": pd.Series([1.0], ["g0"])}, ValueError, "no row for 299 genes"),
        ({"ambient": pd.Series(1.0, [*(f"g{i}" for i in range(300)), "g1"])}, ValueError, "genes twice"),
        ({"batch_key": None}, ValueError, "2 columns"),
        ({"batch_key": "lane"}, KeyError, "lane"),
        ({"ambient": np.ones(300), "batch_key": "lane"}, KeyError, "lane"),
        ({"batch_key": "kind"}, ValueError, "do not match"),
        ({"groupby": "nothing"}, KeyError, "nothing"),
        ({"groupby": "rho"}, ValueError, "fractional"),
        ({"groupby": "same"}, ValueError, "same name"),
        ({"key": "nothing"}, KeyError, "nothing"),
        ({"groupby": "kind", "key": "sb"}, KeyError, "no fit 'sb'"),
        ({"sample_key": "nothing"}, KeyError, "nothing"),
        ({"sample_key": "holes"}, ValueError, "missing values"),
        ({"layer": "nothing"}, KeyError, "nothing"),
        ({"prior": 0.1}, ValueError, "prior"),
        ({"prior": (0.0, 1.0)}, ValueError, "prior"),
        ({"prior": (0.1, np.nan)}, ValueError, "prior"),
        ({"prior": ("a", 1)}, ValueError, "prior"),
        ({"interval": 1}, ValueError, "interval"),
        ({"interval": "wide"}, ValueError, "interval"),
        ({"rounding": "mode"}, ValueError, "ranked"),
        ({"rng": -1}, ValueError, "non-negative"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(fresh, settings, error, match):
    fresh.obs["same"] = pd.Categorical.from_codes(np.arange(fresh.n_obs) % 2, pd.Index([1, "1"], dtype=object))
    fresh.obs["holes"] = pd.Categorical(np.where(np.arange(fresh.n_obs) > 3, fresh.obs["kind"], None))
    before = str(fresh)
    with pytest.raises(error, match=match):
        denoise(fresh, **({"ambient": "soup", "batch_key": "batch"} | settings))
    assert str(fresh) == before


def test_values_that_are_no_counts_are_refused(fresh):
    fresh.X = fresh.X * 0.5
    with pytest.raises(ValueError, match="fractional"):
        denoise(fresh, ambient="soup", batch_key="batch")
    fresh.X = fresh.X * 0
    with pytest.raises(ValueError, match="no counts"):
        denoise(fresh, ambient="soup", batch_key="batch")
    assert "sb_denoised" not in fresh.layers
