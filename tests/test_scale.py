"""Counts that do not fit into memory: files, several at once, dask arrays, clusters; and work in threads."""

import threading

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbayes as sb
from scbayes.counts import ClusterCounts, Counts, cluster_of
from scbayes.counts import _blocks as blocks_module
from scbayes.counts import _compact as compact_module
from scbayes.counts import _counts as counts_module
from scbayes.counts import _threads as threads_module
from scbayes.counts._compact import Compact
from scbayes.counts._gzip import Unpacked, unpacked
from scbayes.counts._threads import over_rows, read_ahead

# pandas 3 warns of pandas 4 inside AnnData.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")

FIELDS = ("batch", "cell_total", "cell_detected", "row", "count", "cells")


def some_counts(seed: int, shape=(90, 400)) -> np.ndarray:
    """Counts with gaps and values on both sides of what one, two or three bytes hold; an empty cell, an empty gene."""
    rng = np.random.default_rng(seed)
    u = rng.poisson(rng.gamma(0.05, 3.0, shape[1]), shape)
    u[5, :] = 0
    u[7, [0, 127, 128, 256, 399]] = [127, 128, 16_383, 16_384, 2**31 - 1]
    u[8:11] = 0
    u[9, 399] = 1
    u[:, 200] = 0
    return u


def assert_equal(first, second) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)


def results(counts: Counts, *, keep: bool = False) -> dict[str, np.ndarray]:
    """Everything that counts are asked for, the summary first."""
    summary = counts.summarise(keep=keep)
    rng = np.random.default_rng(0)
    weights = rng.random((counts.n_cells, 5)) * (rng.random((counts.n_cells, 1)) < 0.8)
    table = rng.random((counts.n_batches, counts.n_genes, 5))
    found = {field: getattr(summary, field) for field in FIELDS}
    found["gathered"], found["detected"] = counts.gather(weights, detected=True)
    found["only counts"], _ = counts.gather(weights, detected=False)
    found["scattered"] = counts.scatter(table, table[::-1])
    found["some cells"] = counts.scatter(table, None, weights[:, 0] > 0.5)
    found["weighed"] = counts.weigh(summary, weights).cells
    found["scores of cells"] = counts.score_cells(table, table, table / 2, weights[:, 0] + 0.1)
    found["scores of genes"] = counts.score_genes(table, table, None, weights[:, 0] + 0.1, weights)
    return found


def assert_alike(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


# --- compact counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [None, 1, 7])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_compact_counts_come_back(dtype, n_rows, monkeypatch):
    monkeypatch.setattr(compact_module, "BLOCK_VALUES", 300)
    monkeypatch.setattr(threads_module, "MIN_VALUES", 50)
    u = some_counts(0)
    compact = Compact(u.shape[1])
    for start, stop in ((0, 8), (8, 11), (11, 12), (12, 90)):
        compact.add(sparse.csr_array(u[start:stop].astype(dtype)))
    assert compact.shape == u.shape
    expected = 0
    for first, block in compact.blocks(n_rows):
        assert first == expected
        assert n_rows is None or block.shape[0] <= n_rows
        assert block.has_canonical_format
        np.testing.assert_array_equal(block.toarray(), u[first : first + block.shape[0]])
        expected += block.shape[0]
    assert expected == len(u)


def test_compact_counts_take_two_bytes():
    u = sparse.random_array((2000, 1000), density=0.03, format="csr", rng=np.random.default_rng(0))
    u.data = np.ceil(5 * u.data)
    compact = Compact(1000)
    compact.add(u)
    assert (compact.n_bytes - 16 * 2000) / u.nnz < 2.1


@pytest.fixture
def stored(tmp_path):
    """A function that writes counts into a file and opens them there."""

    def write(u: np.ndarray, **how):
        file = h5py.File(tmp_path / f"{len(list(tmp_path.iterdir()))}.h5", "w")
        ad.io.write_elem(file, "X", sparse.csr_matrix(u), dataset_kwargs=how)
        return ad.io.sparse_dataset(file["X"])

    return write


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("budget", [0, 2**31])
def test_what_is_kept_is_read_once(stored, budget, masked, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(counts_module, "KEEP_BYTES", budget)
    u = some_counts(1)
    u[7, 399] = 2**24  # the largest that float32 holds
    batch, mask = np.arange(len(u)) % 3, np.arange(u.shape[1]) % 4 > 0 if masked else None
    expected = results(Counts(u, batch, 3, mask))
    counts = Counts(stored(u.astype(np.float32)), batch, 3, mask)
    assert counts.streamed
    assert_alike(results(counts, keep=True), expected)
    assert counts.streamed == (budget == 0)
    assert_alike(results(counts), expected)


def test_bad_counts_are_not_kept(stored):
    u = some_counts(2).astype(float)
    u[60, 3] = 0.5
    counts = Counts(stored(u), where="layer 'raw'")
    with pytest.raises(ValueError, match=r"layer 'raw' has fractional values, for example 0.5"):
        counts.summarise(keep=True)
    assert counts.streamed


def test_pooled_counts_have_a_limit():
    u = np.full((1, 3), 2**31 - 1)
    with pytest.raises(ValueError, match=r"the sum of the pooled genes in X has counts above 2\*\*31"):
        Counts(u, mask=np.array([True, False, False])).summarise()


# --- threads ----------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(threads_module, "MIN_VALUES", 50)
    u, batch = some_counts(3), np.arange(90) % 3
    found = {}
    for n in (1, 2, 7):
        monkeypatch.setattr(threads_module, "N_THREADS", n)
        monkeypatch.setattr(counts_module, "N_THREADS", n)
        found[n] = results(Counts(sparse.csr_array(u), batch, 3))
    for n in (2, 7):
        for name, value in found[1].items():
            np.testing.assert_array_equal(found[n][name], value, err_msg=name)


def test_sums_of_many_rows_take_bounded_memory(monkeypatch):
    monkeypatch.setattr(threads_module, "MIN_VALUES", 50)
    u, batch = sparse.csr_array(some_counts(4)), np.arange(90) % 3
    expected = results(Counts(u, batch, 3))
    monkeypatch.setattr(counts_module, "SUM_BYTES", 100)
    assert counts_module._sums(1000, 5).shape == (1, 1000, 5)
    assert_alike(results(Counts(u, batch, 3)), expected)


@pytest.mark.parametrize("n_parts", [1, 3, 8, 500])
def test_parts_cover_all_rows_once(n_parts, monkeypatch):
    monkeypatch.setattr(threads_module, "MIN_VALUES", 1)
    x = sparse.csr_array(some_counts(5))
    parts = over_rows(lambda *part: part, x, 1000, n_parts)
    assert [part for part, *_ in parts] == list(range(len(parts)))
    rows = [np.arange(cells.start, cells.stop) for _, cells, *_ in parts]
    np.testing.assert_array_equal(np.concatenate(rows), 1000 + np.arange(90))
    for _, cells, indptr, indices, data in parts:
        np.testing.assert_array_equal(indptr, x.indptr[cells.start - 1000 : cells.stop - 999])
        assert indices is x.indices
        assert data is x.data
    if n_parts == 3:
        sizes = [indptr[-1] - indptr[0] for _, _, indptr, _, _ in parts]
        assert len(parts) == 3
        assert max(sizes) < 0.5 * x.nnz


def test_the_next_block_is_read_while_one_is_worked_on():
    asked = [threading.Event() for _ in range(4)]

    def blocks():
        for i, event in enumerate(asked):
            event.set()
            yield i

    found = []
    for i in read_ahead(blocks()):
        found.append(i)
        assert i == 3 or asked[i + 1].wait(10)
        assert i >= 2 or not asked[i + 2].is_set()
    assert found == [0, 1, 2, 3]


def test_errors_of_the_reader_arrive():
    def blocks():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_ahead(blocks()))


# --- compressed files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "i8", "u2", ">i4"])
def test_gzip_is_unpacked(dtype, how, tmp_path):
    values = np.random.default_rng(0).poisson(2, 1000).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        vector = unpacked(file.create_dataset("x", data=values, chunks=(64,), **how))
        assert isinstance(vector, Unpacked)
        for start, stop in ((0, 1000), (0, 64), (63, 65), (64, 128), (990, 1000), (500, 500), (0, 0)):
            np.testing.assert_array_equal(vector[start:stop], values[start:stop])
            assert vector[start:stop].dtype == dtype


def test_chunks_without_the_filter_are_read_too(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", data=np.arange(100), chunks=(30,), compression="gzip")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["x"].id.write_direct_chunk((30,), np.arange(1000, 1030).tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "a.h5") as file:
        dataset = file["x"]
        expected = np.r_[np.arange(30), np.arange(1000, 1030), np.arange(60, 100)]
        np.testing.assert_array_equal(dataset[...], expected)
        np.testing.assert_array_equal(unpacked(dataset)[0:100], expected)


def test_other_vectors_are_read_as_they_are(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        settings = ({}, {"compression": "lzf"}, {"compression": "gzip", "fletcher32": True}, {"scaleoffset": 0})
        for i, how in enumerate(settings):
            dataset = file.create_dataset(f"x{i}", data=np.arange(100), **how)
            assert unpacked(dataset) is dataset


@pytest.mark.parametrize("how", [{}, {"compression": "gzip"}], ids=str)
def test_compressed_or_not_gives_the_same(stored, how, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 2000)
    u = some_counts(6)
    assert_equal(Counts(stored(u, **how)).summarise(), Counts(u).summarise())


# --- a fit ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=120, n_genes=40, rng=0)
    adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    adata.obs["half"] = pd.Categorical(np.repeat(["first", "second"], 60))
    return adata


def fitted(adata: ad.AnnData, **how) -> dict[str, np.ndarray]:
    sb.tl.fit(adata, "nbvcp", progress=False, n_steps=50, **how)
    return {"loc": adata.varm["sb_loc"], "nu": adata.obsm["sb_nu"], "tril": adata.varm["sb_tril"]}


@pytest.fixture(scope="module")
def in_memory(data) -> dict[str, np.ndarray]:
    return fitted(data.copy())


@pytest.mark.filterwarnings("ignore:the fit .* has not converged")
def test_fit_of_a_backed_file_reads_it_once(data, in_memory, tmp_path, monkeypatch):
    data.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    reads = []
    walk = blocks_module._walk_stored_csr
    monkeypatch.setattr(blocks_module, "_walk_stored_csr", lambda *args: reads.append(1) or walk(*args))
    for name, value in fitted(adata).items():
        np.testing.assert_allclose(value, in_memory[name], rtol=1e-6, err_msg=name)
    assert len(reads) == 1
    assert adata.isbacked
    adata.file.close()


def opened(path) -> ad.AnnData:
    """As the documentation shows it."""
    file = h5py.File(path)
    frames = {name: ad.io.read_elem(file[name]) for name in ("obs", "var")}
    return ad.AnnData(ad.experimental.read_elem_lazy(file["X"]), **frames)


def test_fit_of_several_files(data, in_memory, tmp_path):
    for name in ("first", "second"):
        data[data.obs["half"] == name].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    adata = ad.concat([opened(tmp_path / f"{name}.h5ad") for name in ("first", "second")])
    for name, value in fitted(adata).items():
        np.testing.assert_allclose(value, in_memory[name], rtol=1e-6, err_msg=name)


# --- a cluster --------------------------------------------------------------------------------------------------------


def as_dask(u, chunks=(20, -1)):
    import dask.array as da

    return da.from_array(np.asarray(u), chunks=chunks).map_blocks(sparse.csr_matrix, dtype=u.dtype)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as made:
        yield made


def test_the_cluster_is_found(client):
    import dask

    x = as_dask(some_counts(7))
    assert cluster_of(x) is client
    assert cluster_of(np.eye(2)) is None
    with dask.config.set(scheduler="synchronous"):
        assert cluster_of(x) is None


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("chunks", [(20, -1), (90, 150), (8, -1)], ids=str)
def test_a_cluster_gives_the_same(client, chunks, keep):
    u, batch, mask = some_counts(8), np.arange(90) % 3, np.arange(400) < 350
    u[7, 399] = 3
    expected = results(Counts(sparse.csr_array(u), batch, 3, mask))
    counts = ClusterCounts(as_dask(u, chunks), batch, 3, mask)
    assert_alike(results(counts, keep=keep), expected)


def test_only_summaries_leave_the_cluster(client, monkeypatch):
    monkeypatch.setattr(Counts, "blocks", None)  # of the counts here; those of the chunks are called by the workers

    u = some_counts(9)
    with pytest.raises(TypeError, match="NoneType"):
        ClusterCounts(as_dask(u)).summarise()


def test_chunks_are_computed_once_where_they_are_kept(client, tmp_path):
    u, log = some_counts(10), tmp_path / "computed"

    def chunk(part):
        with log.open("a") as file:
            file.write("x")
        return part

    counts = ClusterCounts(as_dask(u, (30, -1)).map_blocks(chunk, dtype=u.dtype, meta=sparse.csr_matrix((0, 0))))
    results(counts, keep=True)
    assert log.read_text() == "xxx"
    results(counts)
    assert log.read_text() == "xxx"


def test_bad_counts_on_a_cluster(client):
    u = some_counts(11)
    u[50, 2] = -3
    with pytest.raises(ValueError, match="layer 'raw' has negative values, for example -3"):
        ClusterCounts(as_dask(u), where="layer 'raw'").summarise()


def test_fit_on_a_cluster(client, data, in_memory):
    adata = ad.AnnData(as_dask(data.X.toarray(), (50, -1)), obs=data.obs.copy(), var=data.var.copy())
    for name, value in fitted(adata).items():
        np.testing.assert_allclose(value, in_memory[name], rtol=1e-6, err_msg=name)


def test_a_backed_file_is_not_copied(tmp_path):
    adata = sb.datasets.simulate(n_cells=30, n_genes=10)
    adata.write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    with pytest.raises(ValueError, match="leave out copy=True"):
        sb.tl.fit(backed, copy=True, progress=False)
    backed.file.close()
