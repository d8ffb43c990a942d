"""What sb.tl.denoise is given: layers, files, profiles as values, order, and wrong input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb

N_CELLS, N_GENES = 90, 24


def denoise(adata, **settings) -> ad.AnnData | None:
    return sb.tl.denoise(adata, **({"groupby": "kind", "progress": False} | settings))


@pytest.fixture(scope="module")
def _plain() -> ad.AnnData:
    """Two kinds of cells, with counts of each other's genes."""
    rng = np.random.default_rng(1)
    kind = np.arange(N_CELLS) % 2
    native = rng.lognormal(0, 1, (2, N_GENES))
    native[0, :6] = native[1, 6:12] = 0
    native /= native.sum(1, keepdims=True)
    soup = native.mean(0)
    share = rng.beta(2, 14, N_CELLS)[:, None]
    x = rng.poisson(rng.lognormal(6, 0.3, (N_CELLS, 1)) * ((1 - share) * native[kind] + share * soup))
    obs = pd.DataFrame({"kind": np.array(["x", "y"])[kind]}, index=[f"c{i}" for i in range(N_CELLS)])
    obs["batch"] = np.array(["b0", "b1"])[np.arange(N_CELLS) // 2 % 2]
    adata = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)), obs, pd.DataFrame(index=[f"g{i}" for i in range(24)]))
    adata.varm["sb_ambient"] = soup[:, None]
    return adata


@pytest.fixture
def plain(_plain) -> ad.AnnData:
    return _plain.copy()


@pytest.fixture(scope="module")
def done(_plain) -> ad.AnnData:
    return denoise(_plain, copy=True)


def assert_same(adata, expected, key: str = "sb") -> None:
    for what in ("contamination", "contamination_low", "contamination_high"):
        np.testing.assert_allclose(adata.obs[f"{key}_{what}"], expected.obs[f"sb_{what}"], rtol=1e-6)
    for what in ("native_probability", "denoised"):
        found, other = adata.layers[f"{key}_{what}"], expected.layers[f"sb_{what}"]
        assert found.format == "csr"
        np.testing.assert_allclose(found.toarray(), other.toarray(), rtol=1e-6)
    np.testing.assert_allclose(adata.var[f"{key}_removed"], expected.var["sb_removed"], rtol=1e-6)


def test_layers_and_prepared_counts(plain, done):
    plain.layers["umi"], plain.X = plain.X, plain.X.log1p()
    denoise(plain, layer="umi")
    assert sb.get.contamination(plain).attrs["layer"] == "umi"
    assert_same(plain, done)
    sb.pp.prepare_counts(plain, "umi")
    denoise(plain, key_added="new")
    assert sb.get.contamination(plain, "new").attrs["layer"] == "counts"
    assert_same(plain, done, "new")


def test_backed_counts(plain, done, tmp_path):
    plain.write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    adata = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    denoise(adata)
    assert adata.isbacked
    assert_same(adata, done)
    adata.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == before


def test_a_view_becomes_a_copy_of_its_own(plain):
    view = plain[:70]
    with pytest.warns(UserWarning, match="Received a view"):
        denoise(view)
    assert not view.is_view
    assert "sb_contamination" in view.obs
    assert "sb_contamination" not in plain.obs


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_a_file(done, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    getattr(done, f"write_{suffix}")(path)
    again = getattr(ad, f"read_{suffix}")(path)
    assert_same(again, done)
    for by in ("cell", "group"):
        found, expected = sb.get.contamination(again, by=by), sb.get.contamination(done, by=by)
        pd.testing.assert_frame_equal(found, expected, check_index_type=False, check_column_type=False)
        assert found.attrs == expected.attrs


def test_profiles_as_values(plain, done):
    value = plain.varm["sb_ambient"][:, 0]
    denoise(plain, ambient=7 * value, key_added="array")
    assert_same(plain, done, "array")
    np.testing.assert_allclose(plain.varm["array_denoise_ambient"][:, 0], value)
    shuffled = pd.Series(value, plain.var_names).sample(frac=1, random_state=0)
    denoise(plain, ambient=shuffled, key_added="series")
    assert_same(plain, done, "series")
    both = pd.DataFrame({"b1": value, "b0": value}, index=plain.var_names)
    denoise(plain, ambient=both, batch_key="batch", key_added="two")
    assert sorted(set(sb.get.contamination(plain, "two", by="group")["batch"])) == ["b0", "b1"]


def test_order_of_cells_does_not_matter(plain, done):
    """But for counts that are as likely ambient as others, of which one is removed."""
    other = plain[np.random.default_rng(0).permutation(N_CELLS)].copy()
    denoise(other)
    other = other[plain.obs_names]
    for what in ("contamination", "contamination_low", "contamination_high"):
        np.testing.assert_allclose(other.obs[f"sb_{what}"], done.obs[f"sb_{what}"], rtol=1e-6)
    native = (adata.layers["sb_native_probability"].toarray() for adata in (other, done))
    np.testing.assert_allclose(*native, rtol=1e-6)
    found, expected = (adata.layers["sb_denoised"].toarray() for adata in (other, done))
    np.testing.assert_array_equal(found.sum(0), expected.sum(0))
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_order_of_genes_matters_little(plain, done):
    """Programmes are sought from a random start."""
    other = plain[:, np.random.default_rng(0).permutation(N_GENES)].copy()
    denoise(other)
    width = done.obs["sb_contamination_high"] - done.obs["sb_contamination_low"]
    change = (other.obs["sb_contamination"] - done.obs["sb_contamination"]).abs() / width
    assert change.median() < 0.1, change.describe()
    assert change.max() < 0.5, change.describe()


BAD = [
    ({"ambient": "none"}, KeyError, "no profile 'none'"),
    ({"ambient": np.ones(3)}, ValueError, "shape"),
    ({"ambient": np.full(N_GENES, np.nan)}, ValueError, "finite"),
    ({"ambient": -np.ones(N_GENES)}, ValueError, "not negative"),
    ({"ambient": np.zeros(N_GENES)}, ValueError, "all zero"),
    ({"ambient": pd.Series([1.0], ["g0"])}, ValueError, "no row for 23 genes"),
    ({"ambient": np.ones((N_GENES, 2))}, ValueError, "batch_key="),
    ({"ambient": np.ones((N_GENES, 3)), "batch_key": "batch"}, ValueError, "3 columns"),
    ({"ambient": np.ones((N_GENES, 2)), "batch_key": "none"}, KeyError, "none"),
    ({"groupby": "none"}, KeyError, "none"),
    ({"key": "sb"}, KeyError, "no fit 'sb'"),
    ({"groupby": None, "key": "none"}, KeyError, "none"),
    ({"sample_key": "none"}, KeyError, "none"),
    ({"sample_key": "holes"}, ValueError, "missing"),
    ({"layer": "none"}, KeyError, "none"),
    ({"layer": "halves"}, ValueError, "fractional"),
    ({"layer": "negative"}, ValueError, "negative"),
    ({"layer": "empty"}, ValueError, "no counts"),
    ({"prior": (0, 1)}, ValueError, "prior="),
    ({"prior": (0.1, -1)}, ValueError, "prior="),
    ({"prior": 0.1}, ValueError, "prior="),
    ({"interval": 1}, ValueError, "interval="),
    ({"interval": "90%"}, ValueError, "interval="),
    ({"rounding": "mode"}, ValueError, "'ranked'"),
    ({"key_added": ""}, ValueError, "key_added"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_leaves_adata_alone(plain, settings, error, message):
    plain.layers["halves"], plain.layers["negative"] = plain.X * 0.5, -plain.X
    plain.layers["empty"] = sparse.csr_matrix(plain.shape, dtype=np.float32)
    plain.obs["holes"] = pd.Series(["s"] * 80, plain.obs_names[:80])
    slots = {name: list(getattr(plain, name)) for name in ("obs", "var", "uns", "obsm", "varm", "layers")}
    with pytest.raises(error, match=message):
        denoise(plain, **settings)
    assert {name: list(getattr(plain, name)) for name in slots} == slots


def test_a_kind_without_a_name_and_a_cell_without_counts(plain):
    plain.obs["kind"] = plain.obs["kind"].where(np.arange(N_CELLS) > 2)
    x = plain.X.tolil()
    x[10] = 0
    plain.X = x.tocsr()
    denoise(plain)
    assert list(plain.obs["sb_denoise_group"].cat.categories) == ["x", "y", "missing"]
    assert list(plain.obs_names[plain.obs["sb_contamination"].isna()]) == ["c10"]
    assert plain.layers["sb_denoised"][10].nnz == 0
