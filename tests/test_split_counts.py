"""`pp.split_counts`: two independent parts of each count, against scipy and against what double use does."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.cluster import KMeans

import scbayes as sb

N_CELLS, SHARE = 4000, 0.3
#: Mean and size of each gene.
MEAN = np.array([0.1, 1.0, 5.0, 30.0, 3.0, 300.0])
SIZE = np.array([0.3, 0.5, 2.0, 1.0, 40.0, 5.0])


def population(n_cells: int = N_CELLS, rng=0) -> ad.AnnData:
    """Cells of one kind and one depth: NB(MEAN, SIZE)."""
    u = np.random.default_rng(rng).negative_binomial(SIZE, SIZE / (SIZE + MEAN), (n_cells, len(SIZE)))
    return named(sparse.csr_matrix(u.astype(np.float32)))


def named(x) -> ad.AnnData:
    adata = ad.AnnData(x)
    adata.obs_names, adata.var_names = ([f"{of}{i}" for i in range(n)] for of, n in zip("cg", x.shape, strict=True))
    return adata


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = population()
    sb.tl.fit(adata, "nbdm", method="laplace", progress=False)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


def parts(adata: ad.AnnData, key: str = "split") -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.asarray(adata.layers[f"{key}_{part}"].todense()) for part in ("train", "test"))


def covariances(adata: ad.AnnData, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the parts over cells per gene, in units of ``scale``, and its standard error."""
    train, test = parts(adata)
    product = (train - train.mean(0)) * (test - test.mean(0)) / scale
    return product.mean(0), product.std(0) / np.sqrt(len(product))


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sb", None])
def test_parts_are_sparse_integers_that_add_up(fitted, key):
    before = fitted.X.copy()
    sb.pp.split_counts(fitted, SHARE, key=key)
    for part in ("train", "test"):
        x = fitted.layers[f"split_{part}"]
        assert isinstance(x, sparse.csr_matrix)
        assert x.dtype == np.int32
        assert x.has_canonical_format
        assert (x.data > 0).all()
    assert abs(fitted.layers["split_train"] + fitted.layers["split_test"] - before).sum() == 0
    for name in ("data", "indices", "indptr"):  # the user's matrix is as it was
        np.testing.assert_array_equal(getattr(fitted.X, name), getattr(before, name))
    train, _ = parts(fitted)
    np.testing.assert_allclose(train.mean(0) / np.asarray(before.mean(0))[0], SHARE, rtol=0.1)


def test_parts_have_the_distributions_of_scipy(fitted):
    """Each part is NB(share m, share r); chi-square on counts that are expected in at least 20 cells."""
    sb.pp.split_counts(fitted, SHARE, rng=3)
    for part, share in zip(parts(fitted), (SHARE, 1 - SHARE), strict=True):
        for gene, (m, r) in enumerate(zip(MEAN, SIZE, strict=True)):
            law = stats.nbinom(share * r, r / (r + m))
            cuts = np.unique(law.ppf(np.linspace(0, 1, 22)[1:-1]))
            observed = np.bincount(np.searchsorted(cuts, part[:, gene]), minlength=len(cuts) + 1)
            expected = np.diff(law.cdf(cuts), prepend=0, append=1) * len(part)
            kept = expected > 20
            statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
            assert stats.chi2.sf(statistic, kept.sum()) > 1e-3, (gene, share)


def test_parts_are_independent_with_the_fitted_size_and_not_without(fitted):
    scale = SHARE * (1 - SHARE) * MEAN**2 / SIZE  # of binomial splitting
    sb.pp.split_counts(fitted, SHARE, rng=1)
    covariance, error = covariances(fitted, scale)
    assert (np.abs(covariance) < 4 * error + 0.02).all(), covariance
    assert (error < 0.2)[SIZE < 10].all()
    sb.pp.split_counts(fitted, SHARE, key=None, rng=1)
    covariance, error = covariances(fitted, scale)
    np.testing.assert_array_less(np.abs(covariance - 1), 4 * error)
    assert (covariance > 5 * error)[(SIZE < 10) & (MEAN > 0.5)].all()


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_size_leaves_the_covariance_that_is_documented(fitted, factor):
    r = SIZE * factor
    columns = sb.get.fit(fitted).model.columns
    fitted.varm["sb_loc"][:, [name for name, _ in columns].index("r")] = np.log(r)
    np.testing.assert_allclose(sb.get.distributions(fitted, backend="scipy")["r"].median(), r)
    sb.pp.split_counts(fitted, SHARE, rng=2)
    covariance, error = covariances(fitted, SHARE * (1 - SHARE) * MEAN**2 * np.abs(r - SIZE) / (SIZE * (r + 1)))
    np.testing.assert_array_less(np.abs(covariance - np.sign(factor - 1)), 4 * error)


def test_the_whole_joint_distribution_is_a_product(fitted):
    """Not only uncorrelated: a table of small training and test counts has the product of the margins."""
    sb.pp.split_counts(fitted, 0.5, rng=5)
    train, test = (np.minimum(part[:, 1:3], 3) for part in parts(fitted))
    for gene in range(2):
        table = np.zeros((4, 4))
        np.add.at(table, (train[:, gene], test[:, gene]), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


# --- whose size -------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_component_and_of_the_batch():
    """A gene of the same mean, whose size differs: in one group of cells thinning is nearly all-or-nothing."""
    rng = np.random.default_rng(0)
    n, label = 1200, np.repeat(["a", "b"], 600)
    size = np.where(label == "a", 0.05, 50.0)[:, None]
    u = rng.negative_binomial(size, size / (size + 20.0), (n, 3)).astype(np.float32)
    marks = rng.poisson(np.where(label == "a", 30.0, 3.0)[:, None], (n, 2)).astype(np.float32)
    adata = named(sparse.csr_matrix(np.hstack([u, marks, marks.max() - marks])))
    adata.obs["label"] = label
    quick = {"method": "laplace", "progress": False}
    sb.tl.fit(adata, "nbdm", labels_key="label", key_added="mix", **quick)
    sb.tl.fit(adata, "nbdm", batch_key="label", per_batch="r", key_added="own", **quick)
    for key in ("mix", "own"):
        sb.pp.split_counts(adata, key=key, rng=1)
        train, _ = parts(adata)
        seen = u >= 4
        extreme = ((train[:, :3] == 0) | (train[:, :3] == u)) & seen
        rates = [extreme[label == name].sum() / seen[label == name].sum() for name in "ab"]
        assert rates[0] > 0.7, key
        assert rates[1] < 0.05, key


# --- what it is for ---------------------------------------------------------------------------------------------------


def two_clusters(x) -> np.ndarray:
    x = np.asarray(x.todense(), float)
    logged = np.log1p(x / x.sum(1, keepdims=True) * np.median(x.sum(1)))
    _, _, axes = np.linalg.svd(logged - logged.mean(0), full_matrices=False)
    return KMeans(2, n_init=4, random_state=0).fit_predict((logged - logged.mean(0)) @ axes[:5].T)


def share_below(x, labels: np.ndarray) -> float:
    """Share of genes with p < 0.05 in a rank test between two clusters."""
    x = np.asarray(x.todense(), float)
    return float(np.mean(stats.mannwhitneyu(x[labels == 0], x[labels == 1]).pvalue < 0.05))


@pytest.mark.slow
def test_groups_found_in_noise_are_called_by_double_use_only():
    """100 genes, one population: two clusters of it differ in the counts that made them, not in the others."""
    rng = np.random.default_rng(1)
    size, mean = rng.uniform(0.8, 1.2, 100), rng.lognormal(1.5, 0.3, 100)
    adata = named(sparse.csr_matrix(rng.negative_binomial(size, size / (size + mean), (600, 100)).astype(np.float32)))
    sb.tl.fit(adata, "nbdm", method="laplace", progress=False)
    double = share_below(adata.X, two_clusters(adata.X))
    found = {}
    for key in ("sb", None):
        sb.pp.split_counts(adata, key=key, rng=4)
        found[key] = share_below(adata.layers["split_test"], two_clusters(adata.layers["split_train"]))
    assert double > 0.3
    assert found["sb"] < 0.1
    assert found[None] > 0.15
    adata.obs["double"] = two_clusters(adata.X).astype(str)
    sb.pp.split_counts(adata, rng=4)
    adata.obs["split"] = two_clusters(adata.layers["split_train"]).astype(str)
    calls = {}
    for column, layer in (("double", None), ("split", "split_test")):
        sb.tl.de(adata, column, ["1"], reference="0", layer=layer)
        calls[column] = int(sb.get.de(adata, "1")["is_de"].sum())
    assert calls["double"] > 20
    assert calls["split"] <= 2


# --- what is written --------------------------------------------------------------------------------------------------


def dask_csr(x):
    import dask.array as da

    return da.from_array(np.asarray(x.todense()), chunks=(1500, x.shape[1])).map_blocks(sparse.csr_matrix)


KINDS = {
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "dense": lambda x: np.asarray(x.todense()),
    "int64": lambda x: x.astype(np.int64),
    "dask": dask_csr,
}


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix_is_split_alike(fitted, kind):
    sb.pp.split_counts(fitted)
    expected = parts(fitted)
    fitted.X = KINDS[kind](fitted.X)
    sb.pp.split_counts(fitted)
    np.testing.assert_array_equal(parts(fitted), expected)
    assert isinstance(fitted.layers["split_train"], sparse.csr_matrix)


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_counts_in_a_file(fitted, tmp_path):
    expected = sb.pp.split_counts(fitted, copy=True)
    fitted.write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    sb.pp.split_counts(backed)
    np.testing.assert_array_equal(parts(backed), parts(expected))
    backed.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == before


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_parts_survive_a_file_and_can_be_fitted(fitted, tmp_path, suffix):
    sb.pp.split_counts(fitted)
    getattr(fitted, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    again = getattr(ad, f"read_{suffix}")(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(parts(again), parts(fitted))
    sb.tl.fit(again, "nbdm", layer="split_test", progress=False)  # in place of the fit that gave the sizes
    np.testing.assert_array_equal(parts(again), parts(fitted))
    np.testing.assert_allclose(sb.get.map(again)["mu"], MEAN / 2, rtol=0.2)
    sb.tl.remove(again, "sb")
    assert {"split_train", "split_test"} <= set(again.layers)


def test_the_seed_decides(fitted):
    splits = [
        parts(sb.pp.split_counts(fitted, rng=rng, copy=True))[0]
        for rng in (5, np.random.default_rng(5), np.int64(5), 6)
    ]
    np.testing.assert_array_equal(splits[0], splits[1])
    np.testing.assert_array_equal(splits[0], splits[2])
    assert (splits[0] != splits[3]).any()


def test_a_layer_is_split_and_subsets_keep_their_sizes(fitted):
    fitted.layers["umi"] = fitted.X
    fitted.X = fitted.X.log1p()
    with pytest.raises(ValueError, match="counts"):
        sb.pp.split_counts(fitted)
    part = fitted[:500, ["g3", "g1"]].copy()
    sb.pp.split_counts(part, layer="umi", key_added="mine")
    assert abs(part.layers["mine_train"] + part.layers["mine_test"] - part.layers["umi"]).sum() == 0
    assert part.uns["mine"].keys() == {"result"}
    with pytest.warns(UserWarning, match="view"):
        sb.pp.split_counts(view := fitted[:10], layer="umi")
    assert not view.is_view


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, np.nan, "half", None])
def test_shares_out_of_range(fitted, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        sb.pp.split_counts(fitted, share)
    assert not fitted.layers


WRONG = {
    "key": ({"key": "x"}, KeyError, "no fit 'x'"),
    "layer": ({"layer": "x"}, KeyError, "no layer 'x'"),
    "name": ({"key_added": "a/b"}, ValueError, "without '/'"),
    "taken": ({"key_added": "sb"}, ValueError, "something else"),
}


@pytest.mark.parametrize(("settings", "error", "match"), WRONG.values(), ids=WRONG)
def test_bad_arguments(fitted, settings, error, match):
    with pytest.raises(error, match=match):
        sb.pp.split_counts(fitted, **settings)
    assert not fitted.layers


@pytest.mark.slow
def test_fits_without_a_size_for_each_count():
    adata = population(200)
    adata.var["some"] = np.arange(adata.n_vars) > 2
    quick = {"method": "laplace", "progress": False}
    sb.tl.fit(adata, "nbdm", mask_var="some", key_added="masked", **quick)
    sb.tl.fit(adata, "zinb", key_added="gated", **quick)
    with pytest.raises(ValueError, match="3 of 6 genes were not fitted"):
        sb.pp.split_counts(adata, key="masked")
    with pytest.raises(ValueError, match="zero inflation"):
        sb.pp.split_counts(adata, key="gated")
    sb.pp.split_counts(part := adata[:, sb.get.fit(adata, "masked").fitted].copy(), key="masked")
    assert part.layers["split_train"].shape == (200, 3)


@pytest.mark.parametrize("bad", [-1.0, 0.5, np.nan])
def test_what_is_no_count(bad):
    adata = population(50)
    adata.X.data[0] = bad
    with pytest.raises(ValueError, match="X has"):
        sb.pp.split_counts(adata, key=None)
    assert not adata.layers
    with pytest.raises(TypeError, match="AnnData"):
        sb.pp.split_counts(np.ones((3, 3)), key=None)
