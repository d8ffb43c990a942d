"""`pp.prepare_counts` against plain NumPy, on every kind of matrix, and what it refuses."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scbayes.pp import prepare_counts
from scbayes.pp._sums import add_up

# pandas 3 warns of pandas 4 inside AnnData.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


def random_counts(seed: int, shape=(90, 40)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, 2.0, shape[1]) * rng.lognormal(0, 0.5, (shape[0], 1))
    counts = rng.poisson(mean * rng.gamma(2, 0.5, shape))
    counts[3] = 0
    counts[:, 5] = 0
    return counts.astype(np.float32)


def make(counts, kind=sparse.csr_matrix) -> ad.AnnData:
    n_cells, n_genes = counts.shape
    adata = ad.AnnData(kind(counts))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    adata.var_names = [f"gene{i}" for i in range(n_genes)]
    adata.obs["donor"] = pd.Categorical(np.array(["a", "b", "c"])[np.arange(n_cells) % 3])
    return adata


def dask_csr(counts):
    import dask.array as da

    return da.from_array(counts, chunks=(40, -1)).map_blocks(sparse.csr_matrix, dtype=counts.dtype)


def dask_dense(counts):
    import dask.array as da

    return da.from_array(counts, chunks=(40, 15))


KINDS = {
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "dense": np.array,
    "dask dense": dask_dense,
    "dask csr": dask_csr,
}


def dense(x) -> np.ndarray:
    """Make any kind dense."""
    x = x.compute() if hasattr(x, "compute") else x
    x = x.to_memory() if hasattr(x, "to_memory") else x
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def snapshot(adata) -> tuple:
    """Everything that prepare_counts may touch."""
    return (
        dense(adata.X),
        {name: dense(x) for name, x in adata.layers.items() if name is not None},
        adata.obs.copy(),
        adata.var.copy(),
        sorted(adata.uns),
        adata.is_view,
    )


def assert_same(a: tuple, b: tuple) -> None:
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        np.testing.assert_array_equal(a[1][name], b[1][name])
    pd.testing.assert_frame_equal(a[2], b[2])
    pd.testing.assert_frame_equal(a[3], b[3])
    assert a[4:] == b[4:]


def assert_describes(adata, counts) -> None:
    """Check columns and layer against plain NumPy."""
    np.testing.assert_array_equal(dense(adata.layers["counts"]), counts)
    for column, expected in {
        "total_counts": counts.sum(axis=1),
        "n_genes_by_counts": (counts > 0).sum(axis=1),
    }.items():
        assert adata.obs[column].dtype == np.int64
        np.testing.assert_array_equal(adata.obs[column], expected)
    for column, expected in {
        "total_counts": counts.sum(axis=0),
        "n_cells_by_counts": (counts > 0).sum(axis=0),
    }.items():
        assert adata.var[column].dtype == np.int64
        np.testing.assert_array_equal(adata.var[column], expected)
    np.testing.assert_allclose(adata.var["mean_counts"], counts.mean(axis=0, dtype=float))
    np.testing.assert_allclose(adata.var["pct_dropout_by_counts"], 100 * (counts == 0).mean(axis=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_describes_every_kind(kind, seed):
    counts = random_counts(seed)
    adata = make(counts, KINDS[kind])
    assert prepare_counts(adata) is None
    assert_describes(adata, counts)
    np.testing.assert_array_equal(dense(adata.X), counts)
    assert adata.shape == counts.shape
    assert "sb_mask" not in adata.var
    if "dask" not in kind:
        assert isinstance(adata.layers["counts"], sparse.csr_matrix)
        assert adata.layers["counts"].dtype == np.float32
    record = adata.uns["sb_counts"]
    assert (record["layer"], record["mask"], record["n_cells_before"]) == ("counts", None, 90)
    assert record["params"]["layer"] is None
    assert "adata" not in record["params"]


@pytest.mark.parametrize("seed", range(3))
def test_names_and_values_are_those_of_scanpy(seed):
    counts = random_counts(seed)
    counts[:, 7] += 1
    adata = make(counts)
    prepare_counts(adata)
    obs, var = sc.pp.calculate_qc_metrics(make(counts), percent_top=None, log1p=False)
    for ours, theirs in ((adata.obs, obs), (adata.var, var)):
        pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False, rtol=1e-5)


def test_raw_counts_survive_normalisation():
    counts = random_counts(1)
    counts[3, 0] = 1
    for kind in (sparse.csr_matrix, sparse.csc_matrix, np.array):
        adata = make(counts, kind)
        prepare_counts(adata)
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        np.testing.assert_array_equal(dense(adata.layers["counts"]), counts)
        with pytest.raises(ValueError, match=r"^X has fractional.*log-normalised. Pass layer='counts'"):
            prepare_counts(adata)
        layer = adata.layers["counts"]
        prepare_counts(adata, layer="counts", n_top_genes=5)
        assert adata.layers["counts"] is layer
        assert adata.var["sb_mask"].sum() == 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "added"), [("umi", "counts"), ("umi", "umi"), (None, "other"), ("umi", None)])
def test_layers(kind, layer, added):
    counts = random_counts(4)
    adata = make(counts if layer is None else counts + 0.5, np.array)
    if layer is None:
        adata.X = KINDS[kind](counts)
    else:
        adata.layers[layer] = KINDS[kind](counts)
    prepare_counts(adata, layer, layer_added=added)
    kept = added or layer
    assert adata.uns["sb_counts"]["layer"] == kept
    np.testing.assert_array_equal(dense(adata.layers[kept]), counts)
    assert {name for name in adata.layers if name is not None} == {name for name in (layer, added) if name}
    np.testing.assert_array_equal(adata.obs["total_counts"], counts.sum(axis=1))


def test_integers_and_unclean_matrices():
    counts = random_counts(5)
    x = sparse.csr_matrix(counts)
    unclean = sparse.csr_matrix(
        (np.column_stack([x.data - 1, np.ones_like(x.data)]).ravel(), np.repeat(x.indices, 2), 2 * x.indptr), x.shape
    )
    for dtype in (np.float64, np.int32, np.uint16, np.int64):
        for source in (x, unclean):
            source = source.astype(dtype)
            adata = make(counts)
            adata.X = source.copy()
            data = adata.X.data.copy()
            prepare_counts(adata, n_top_genes=4)
            np.testing.assert_array_equal(adata.X.data, data)
            assert_describes(adata, counts)
            kept = adata.layers["counts"]
            assert kept.has_canonical_format
            assert kept.nnz == np.count_nonzero(counts)
            assert not np.shares_memory(kept.data, adata.X.data)
            assert not np.shares_memory(kept.indices, adata.X.indices)


FILTERS = [
    {"min_counts": 30},
    {"max_counts": 60},
    {"min_genes": 10, "max_genes": 25},
    {"min_cells": 10},
    {"min_gene_counts": 50},
    {"min_counts": 20, "min_cells": 15, "min_gene_counts": 40},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filters", FILTERS, ids="+".join)
@pytest.mark.parametrize("seed", range(2))
def test_filters(kind, filters, seed):
    counts = random_counts(seed)
    total, detected = counts.sum(axis=1), (counts > 0).sum(axis=1)
    cells = (total >= filters.get("min_counts", 0)) & (total <= filters.get("max_counts", np.inf))
    cells &= (detected >= filters.get("min_genes", 0)) & (detected <= filters.get("max_genes", np.inf))
    left = counts[cells]
    genes = ((left > 0).sum(axis=0) >= filters.get("min_cells", 0)) & (
        left.sum(axis=0) >= filters.get("min_gene_counts", 0)
    )
    assert not (cells.all() and genes.all())  # else nothing is tested
    adata = make(counts, KINDS[kind])
    adata.obsm["X_pca"] = np.arange(90.0)[:, None]
    names = adata.obs_names[cells], adata.var_names[genes]
    prepare_counts(adata, **filters)
    assert list(adata.obs_names) == list(names[0])
    assert list(adata.var_names) == list(names[1])
    assert not adata.is_view
    assert_describes(adata, left[:, genes])
    np.testing.assert_array_equal(dense(adata.X), left[:, genes])
    np.testing.assert_array_equal(adata.obsm["X_pca"][:, 0], np.flatnonzero(cells))
    assert adata.uns["sb_counts"]["n_genes_before"] == 40


@pytest.mark.parametrize("seed", range(3))
def test_filters_are_those_of_scanpy(seed):
    counts = random_counts(seed)
    ours, theirs = make(counts), make(counts)
    prepare_counts(ours, min_genes=12, min_cells=20)
    sc.pp.filter_cells(theirs, min_genes=12)
    sc.pp.filter_genes(theirs, min_cells=20)
    assert ours.shape == theirs.shape != counts.shape
    np.testing.assert_array_equal(dense(ours.X), dense(theirs.X))


def score(counts, batch):
    """Variance over Poisson variance around what the totals predict, entry by entry."""
    counts = counts.astype(float)
    mean = np.zeros_like(counts)
    for b in np.unique(batch):
        u = counts[batch == b]
        mean[batch == b] = np.outer(u.sum(axis=1), u.sum(axis=0)) / u.sum()
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(((counts - mean) ** 2).sum(axis=0) / mean.sum(axis=0), nan=-1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_key", [None, "donor"])
@pytest.mark.parametrize("n_top_genes", [1, 13])
def test_most_variable_genes(kind, batch_key, n_top_genes):
    for seed in range(3):
        counts = random_counts(seed)
        counts[:, 8] = 0
        counts[1::3, 8] = np.round(0.3 * counts[1::3].sum(axis=1))  # varies between donors and not within
        adata = make(counts, KINDS[kind])
        batch = np.zeros(90) if batch_key is None else adata.obs["donor"].cat.codes.to_numpy()
        expected = np.argsort(-score(counts, batch), kind="stable")[:n_top_genes]
        prepare_counts(adata, n_top_genes=n_top_genes, batch_key=batch_key)
        mask = adata.var["sb_mask"]
        assert mask.dtype == bool
        assert set(np.flatnonzero(mask)) == set(expected)
        if n_top_genes == 13:
            assert mask.iloc[8] == (batch_key is None)


def test_score_is_one_for_poisson():
    rng = np.random.default_rng(0)
    depth, share = rng.lognormal(6, 0.4, 4000), rng.dirichlet(np.ones(60))
    counts = sparse.csr_matrix(rng.poisson(np.outer(depth, share)).astype(np.float32))
    everything = (None, None)
    sums = add_up(counts, "X", everything, everything, np.arange(4000) % 4, scores=True)
    np.testing.assert_allclose(sums.score[sums.gene_total > 1000], 1, atol=0.15)
    np.testing.assert_allclose(sums.score, score(counts.toarray(), np.arange(4000) % 4))


def test_filtered_cells_do_not_choose_genes():
    counts = random_counts(7)
    sums = add_up(sparse.csr_matrix(counts), "X", (30, 80), (None, None), np.arange(90) % 2, scores=True)
    assert 10 < sums.cells.sum() < 80
    np.testing.assert_allclose(sums.score, score(counts[sums.cells], (np.arange(90) % 2)[sums.cells]))
    counts[10, 20] = 4000  # one cell makes gene 20 vary
    adata = make(counts)
    prepare_counts(adata, n_top_genes=1, copy=True)
    assert prepare_counts(adata, n_top_genes=1, copy=True).var["sb_mask"]["gene20"]
    left = prepare_counts(adata, n_top_genes=6, max_counts=2000, min_cells=1, copy=True)
    kept = np.delete(counts, 10, axis=0)
    best = np.argsort(-score(kept, np.zeros(89)), kind="stable")[:6]
    assert set(left.var_names[left.var["sb_mask"]]) == {f"gene{i}" for i in best}


@pytest.mark.parametrize("coverage", [0.01, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_coverage_is_the_smallest_set(coverage, seed):
    counts = random_counts(seed)
    adata = make(counts)
    prepare_counts(adata, coverage=coverage)
    mask, total = adata.var["sb_mask"].to_numpy(), counts.sum(axis=0)
    assert total[mask].sum() >= coverage * total.sum()
    assert total[mask].sum() - total[mask].min() < coverage * total.sum()
    assert total[mask].min() >= total[~mask].max()


def test_coverage_at_a_rounding_edge():
    adata = make(np.ones((1, 100), np.float32))
    for percent in range(1, 101):
        prepare_counts(adata, coverage=percent / 100)
        assert adata.var["sb_mask"].sum() == percent


def test_more_genes_than_there_are():
    adata = make(random_counts(0))
    prepare_counts(adata, n_top_genes=1000, mask_added="fit_me")
    assert adata.var["fit_me"].all()
    assert adata.uns["sb_counts"]["mask"] == "fit_me"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [{}, {"min_counts": 25, "min_cells": 10, "n_top_genes": 9}])
def test_copy_equals_in_place(kind, arguments):
    counts = random_counts(2)
    inplace, original = make(counts, KINDS[kind]), make(counts, KINDS[kind])
    before = snapshot(original)
    copied = prepare_counts(original, copy=True, **arguments)
    assert_same(snapshot(original), before)
    assert prepare_counts(inplace, **arguments) is None
    assert_same(snapshot(copied), snapshot(inplace))
    again = snapshot(inplace)
    if not arguments:
        prepare_counts(inplace)  # a second call changes nothing
        assert_same(snapshot(inplace), again)


@pytest.mark.parametrize("arguments", [{}, {"min_counts": 25}])
@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "dense"])
def test_views_are_made_actual(kind, arguments):
    counts = random_counts(3)
    whole = make(counts, KINDS[kind])
    before = snapshot(whole)
    view = whole[10:60, ::2]
    with pytest.warns(UserWarning, match="Received a view of an AnnData. Making a copy."):
        prepare_counts(view, **arguments)
    assert not view.is_view
    part = counts[10:60, ::2]
    assert_describes(view, part[part.sum(axis=1) >= arguments.get("min_counts", 0)])
    assert_same(snapshot(whole), before)
    copied = prepare_counts(whole[10:60, ::2], copy=True, **arguments)  # no warning: a copy was asked for
    assert_same(snapshot(copied), snapshot(view))


def test_one_cell_and_one_gene():
    for shape in ((1, 30), (30, 1), (1, 1)):
        counts = np.full(shape, 2, np.float32)
        adata = make(counts)
        prepare_counts(adata, n_top_genes=1)
        assert_describes(adata, counts)


def spoiled(value, at=(50, 20)):
    counts = random_counts(0)
    counts[at] = value
    return make(counts)


def duplicated(axis):
    adata = make(random_counts(0))
    names = [f"n{i}" for i in range(adata.shape[axis == "var"])]
    names[7] = names[2]
    setattr(adata, f"{axis}_names", names)
    return adata


def with_layer(values, name="counts"):
    adata = make(random_counts(0))
    adata.layers[name] = sparse.csr_matrix(values)
    return adata


def with_missing_donor():
    adata = make(random_counts(0))
    adata.obs.loc["cell4", "donor"] = None
    return adata


BAD = {
    "negative": (lambda: spoiled(-3), {}, ValueError, "X has negative values, for example -3"),
    "nan": (lambda: spoiled(np.nan), {}, ValueError, "X has 1 NaN"),
    "infinite": (lambda: spoiled(np.inf), {}, ValueError, "X has 1 infinite"),
    "huge": (lambda: spoiled(2.0**40), {}, ValueError, "X has counts above"),
    "fraction in a layer": (lambda: with_layer(random_counts(0) / 2, "l"), {"layer": "l"}, ValueError, "layer 'l' has"),
    "fraction in the last cell": (lambda: spoiled(0.5, (-1, -1)), {}, ValueError, "for example 0.5"),
    "boolean": (lambda: make(random_counts(0) > 0), {}, TypeError, "boolean"),
    "no layer": (lambda: with_layer(random_counts(0)), {"layer": "raw"}, KeyError, r"adata.layers has \['counts'\]"),
    "no batch": (lambda: spoiled(1), {"n_top_genes": 3, "batch_key": "x"}, KeyError, r"which has \['donor'\]"),
    "missing batch": (with_missing_donor, {"n_top_genes": 3, "batch_key": "donor"}, ValueError, "missing for 1 cells"),
    "idle batch": (lambda: spoiled(1), {"batch_key": "donor"}, ValueError, "only matters with n_top_genes"),
    "cells twice": (lambda: duplicated("obs"), {}, ValueError, r"'n2': call adata.obs_names_make_unique\(\)"),
    "genes twice": (lambda: duplicated("var"), {}, ValueError, r"'n2': call adata.var_names_make_unique\(\)"),
    "no cell left": (lambda: spoiled(1), {"min_counts": 10**6}, ValueError, "leave none of the 90 cells"),
    "no gene left": (lambda: spoiled(1), {"min_cells": 91}, ValueError, "leave none of the 40 genes"),
    "other counts there": (lambda: with_layer(random_counts(1)), {}, ValueError, r"layers\['counts'\] already holds"),
    "both masks": (lambda: spoiled(1), {"n_top_genes": 3, "coverage": 0.5}, ValueError, "not both"),
    "no genes": (lambda: spoiled(1), {"n_top_genes": 0}, ValueError, "at least 1, not 0"),
    "coverage 0": (lambda: spoiled(1), {"coverage": 0}, ValueError, r"in \(0, 1\], not 0"),
    "coverage 2": (lambda: spoiled(1), {"coverage": 2}, ValueError, r"in \(0, 1\], not 2"),
    "slash": (lambda: spoiled(1), {"coverage": 0.5, "mask_added": "a/b"}, ValueError, "'a/b' has a '/'"),
}


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(case, copy):
    build, arguments, error, message = BAD[case]
    adata = build()
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        prepare_counts(adata, copy=copy, **arguments)
    assert_same(snapshot(adata), before)


def test_wrong_objects():
    with pytest.raises(TypeError, match="takes an AnnData, not ndarray"):
        prepare_counts(np.eye(3))
    with pytest.raises(ValueError, match="X is None"):
        prepare_counts(ad.AnnData(obs=pd.DataFrame(index=["a"])))
    for shape, axis in (((0, 3), "cells"), ((3, 0), "genes")):
        with pytest.raises(ValueError, match=f"X has 0 {axis}"):
            prepare_counts(ad.AnnData(np.zeros(shape, np.float32)))


@pytest.mark.parametrize("at", [0, 1, 89])
def test_equal_counts_elsewhere_are_kept_and_one_difference_is_seen(at):
    counts = random_counts(0)
    adata = with_layer(counts)
    kept = adata.layers["counts"]
    prepare_counts(adata)
    assert adata.layers["counts"] is kept
    other = counts.copy()
    other[at] = np.roll(other[at], 1)  # the same totals
    other[at, 0] += not other[at].any()
    with pytest.raises(ValueError, match="already holds other values than X"):
        prepare_counts(with_layer(other))


def test_empty_cells_and_genes_are_kept_with_one_warning(monkeypatch):
    told = []
    monkeypatch.setattr(sc.logging, "warning", told.append)
    adata = make(random_counts(0))
    prepare_counts(adata)
    n_cells, n_genes = (adata.obs["total_counts"] == 0).sum(), (adata.var["total_counts"] == 0).sum()
    assert adata.shape == (90, 40)
    assert n_cells > 0
    assert n_genes > 0
    assert len(told) == 1
    assert f"{n_cells} cells and {n_genes} genes have no counts" in told[0]
    prepare_counts(adata, min_counts=1, min_cells=1)
    assert len(told) == 1


def test_log_says_what_was_added(monkeypatch):
    told = []
    monkeypatch.setattr(sc.logging, "info", lambda *args, **kwargs: told.append((args, kwargs)) or "the start")
    prepare_counts(make(random_counts(0)), coverage=0.5, min_cells=3, min_genes=2)
    (begin, _), (dropped, _), (end, more) = told
    assert begin == ("preparing counts",)
    assert dropped[0].startswith("    filtered out ")
    assert end == ("    finished",)
    assert more["time"] == "the start"
    for words in ("added\n", "'sb_mask'", "'counts', the raw counts (adata.layers)"):
        assert words in more["deep"]


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "dense", "dask csr"])
@pytest.mark.parametrize("store", ["h5ad", "zarr"])
def test_round_trip(kind, store, tmp_path):
    counts = random_counts(6)
    adata = make(counts, KINDS[kind])
    prepare_counts(adata, min_counts=20, n_top_genes=7, batch_key="donor")
    path = tmp_path / f"a.{store}"
    if store == "h5ad":
        adata.write_h5ad(path)
        back = ad.read_h5ad(path)
    else:
        adata.write_zarr(path)
        back = ad.read_zarr(path)
    assert back.uns["sb_counts"] == adata.uns["sb_counts"]
    np.testing.assert_array_equal(dense(back.layers["counts"]), counts[counts.sum(axis=1) >= 20])
    np.testing.assert_array_equal(back.var["sb_mask"], adata.var["sb_mask"])
    assert back.var["sb_mask"].dtype == bool
    before = snapshot(back)
    prepare_counts(back, layer="counts", n_top_genes=7, batch_key="donor")
    assert_same(snapshot(back), before)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "dense"])
def test_backed(kind, tmp_path):
    counts = random_counts(6)
    make(counts, KINDS[kind]).write_h5ad(tmp_path / "a.h5ad")
    backed, memory = ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), make(counts, KINDS[kind])
    for adata in (backed, memory):
        prepare_counts(adata, n_top_genes=7)
    assert "counts" not in backed.layers
    assert backed.uns["sb_counts"]["layer"] is None
    del memory.layers["counts"]
    assert_same(snapshot(backed.to_memory()), snapshot(memory))
    for bad in ({"min_counts": 20}, {"copy": True}):
        with pytest.raises(ValueError, match="to_memory"):
            prepare_counts(backed, **bad)
    with pytest.raises(ValueError, match="to_memory"):
        prepare_counts(backed[:10])
    backed.write_h5ad(tmp_path / "b.h5ad")
    backed.file.close()
    assert_same(snapshot(ad.read_h5ad(tmp_path / "b.h5ad")), snapshot(memory))


def test_layer_in_a_zarr_store(tmp_path):
    import zarr

    counts = random_counts(6)
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    ad.io.write_elem(group, "X", sparse.csr_matrix(counts))
    adata = make(counts)
    adata.layers["disk"] = ad.io.sparse_dataset(group["X"])
    prepare_counts(adata, "disk", min_counts=20)
    assert_describes(adata, counts[counts.sum(axis=1) >= 20])


def test_real_data(real):
    adata = real("pbmc_facs")
    adata.var_names_make_unique()
    prepare_counts(adata, min_genes=200, min_cells=5, n_top_genes=1000)
    x = adata.layers["counts"]
    np.testing.assert_array_equal(adata.obs["total_counts"], np.asarray(x.sum(axis=1, dtype=float)).ravel())
    np.testing.assert_array_equal(adata.var["n_cells_by_counts"], x.getnnz(axis=0))
    assert adata.var["n_cells_by_counts"].min() >= 5
    markers = ["CD79A", "MS4A1", "GNLY", "NKG7", "LYZ", "S100A8", "CD74"]
    assert adata.var["sb_mask"].reindex(markers).sum() >= 6
