"""Cells among droplets: recall, false calls, probabilities, storage, bad input."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scbayes as sb
from scbayes.models._cell_calls import call, cell_probability

N_CELLS = 200


@pytest.fixture(scope="module")
def _raw(droplets):
    return droplets(cell_total=150)[1]


@pytest.fixture
def raw(_raw):
    return _raw.copy()


def test_cells_are_found_where_totals_overlap(raw):
    truth, total = raw.obs["is_cell"].to_numpy(), np.asarray(raw.X.sum(1)).ravel()
    sb.pp.call_cells(raw, empty_range=(2, 40))
    called, probability = raw.obs["sb_is_cell"].to_numpy(), raw.obs["sb_cell_probability"].to_numpy()
    assert called.dtype == bool
    assert probability.dtype == np.float64
    recall = (called & truth).sum() / truth.sum()
    assert (called & ~truth).sum() <= 0.03 * called.sum()
    best_cut = max((total[truth] > cut).mean() for cut in range(1000) if (total[~truth] > cut).sum() <= 0.01 * N_CELLS)
    assert recall > best_cut + 0.1
    assert recall > 0.97  # 0.90 if profiles are learned from the droplets farthest from the liquid alone
    assert ((probability >= 0) & (probability <= 1)).all()
    assert probability[called].min() > 0.5
    assert (1 - probability[called]).mean() <= 0.01
    assert probability.sum() == pytest.approx(truth.sum(), rel=0.1)


def test_where_totals_tell_all_are_found(droplets):
    raw = droplets()[1]
    sb.pp.call_cells(raw, batch_key="batch", key_added="x")
    called, truth = raw.obs["x_is_cell"].to_numpy(), raw.obs["is_cell"].to_numpy()
    assert called[truth].all()
    assert called[~truth].sum() <= 2
    facts = sb.get.barcode_rank(raw, "x_call_cells").attrs
    assert facts["n_cells"] == called.sum()
    assert facts["batches"] == ["b0", "b1"]


@pytest.mark.parametrize("kind", ["csc", "dense", "backed", "layer"])
def test_formats_give_the_same_calls(raw, kind, tmp_path):
    other = raw.copy()
    sb.pp.call_cells(raw, empty_range=(2, 40))
    settings = {"empty_range": (2, 40)}
    if kind == "csc":
        other.X = sparse.csc_matrix(other.X)
    elif kind == "dense":
        other.X = np.asarray(other.X.todense())
    elif kind == "layer":
        other.layers["umi"] = other.X.copy()
        other.X = other.X.log1p()
        settings["layer"] = "umi"
    else:
        other.write_h5ad(tmp_path / "x.h5ad")
        other = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    sb.pp.call_cells(other, **settings)
    np.testing.assert_allclose(other.obs["sb_cell_probability"], raw.obs["sb_cell_probability"], atol=1e-6)
    if kind == "backed":
        other.file.close()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_calls_survive_a_file(raw, suffix, tmp_path):
    sb.pp.call_cells(raw, empty_range=(2, 40))
    getattr(raw, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    again = (ad.read_zarr if suffix == "zarr" else ad.read_h5ad)(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(again.obs["sb_is_cell"], raw.obs["sb_is_cell"])
    assert sb.get.barcode_rank(again).equals(sb.get.barcode_rank(raw))
    assert sb.get.barcode_rank(raw)["cells"].sum() == pytest.approx(raw.obs["sb_cell_probability"].sum())


def test_cells_that_were_called_give_the_profile(raw):
    truth = raw.obs["is_cell"].to_numpy()
    sb.pp.call_cells(raw, empty_range=(2, 40))
    cells = raw[raw.obs["sb_is_cell"].to_numpy()].copy()
    sb.pp.ambient_profile(cells, raw)
    pooled = np.asarray(raw.X[~truth].sum(0)).ravel()
    assert np.abs(cells.varm["sb_ambient"][:, 0] - pooled / pooled.sum()).sum() < 0.03


def test_expected_share_of_false_calls_is_kept():
    p = np.array([0.999, 0.2, 0.95, 0.9, 0.6, 0.45])
    np.testing.assert_array_equal(call(p, 0.05), [True, False, True, False, False, False])
    np.testing.assert_array_equal(call(p, 0.06), [True, False, True, True, False, False])
    np.testing.assert_array_equal(call(p, 0.9), p > 0.5)
    assert not call(np.array([0.5, 0.1]), 0.01).any()


def test_the_prior_is_learned_from_totals():
    rng = np.random.default_rng(0)
    total = np.repeat([30, 3000], 2000)
    cell = rng.random(4000) < np.where(total == 30, 0.02, 0.95)
    bayes_factor = rng.normal(np.where(cell, 2.0, -2.0), 2)  # sd^2 = 2 * mean: the log odds of two normals
    p = cell_probability(bayes_factor, total)
    assert p[total == 30].mean() == pytest.approx(0.02, abs=0.01)
    assert p[total == 3000].mean() == pytest.approx(0.95, abs=0.02)
    for low, high in ((0.05, 0.5), (0.5, 0.95)):
        own = (p > low) & (p < high)
        assert cell[own].mean() == pytest.approx(p[own].mean(), abs=0.12)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"fdr": 0}, ValueError, "fdr"),
        ({"fdr": "x"}, ValueError, "fdr"),
        ({"n_profiles": 0}, ValueError, "n_profiles"),
        ({"min_counts": 0}, ValueError, "min_counts"),
        ({"empty_range": (5, 2)}, ValueError, "empty_range"),
        ({"batch_key": "lane"}, KeyError, "lane"),
        ({"layer": "umi"}, KeyError, "umi"),
    ],
)
def test_bad_input_is_refused(raw, settings, error, match):
    with pytest.raises(error, match=match):
        sb.pp.call_cells(raw, **settings)
    assert "sb_is_cell" not in raw.obs


def test_only_empty_droplets_give_no_cells(droplets):
    raw = droplets()[1][N_CELLS:].copy()
    with pytest.raises(ValueError, match="one hump"):
        sb.pp.call_cells(raw)
    sb.pp.call_cells(raw, empty_range=(2, 40))
    assert raw.obs["sb_is_cell"].sum() <= 3
