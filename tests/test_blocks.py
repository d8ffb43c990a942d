"""Every kind of matrix gives the same canonical blocks; what is not counts is refused with a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

from scbayes.counts import _blocks
from scbayes.counts._blocks import is_dask, is_stored, row_blocks
from scbayes.counts._check import MAX_COUNT, check_counts, check_dtype, check_shape

# pandas 3 warns of pandas 4 inside AnnData.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


def random_counts(seed: int, shape=(53, 17), dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.4, 2.0, shape[1]), shape)
    counts[rng.integers(shape[0])] = 0  # an empty cell
    counts[:, rng.integers(shape[1])] = 0  # an empty gene
    return counts.astype(dtype)


def write_sparse(root, x):
    ad.io.write_elem(root, "X", x)
    return ad.io.sparse_dataset(root["X"])


def hdf5(path):
    return h5py.File(path / f"{len(list(path.iterdir()))}.h5", "w")


def zarr_group(path):
    return zarr.open_group(path / "x.zarr", mode="w")


def chunked_dask(x, chunks, make=np.asarray):
    import dask.array as da

    return da.from_array(x, chunks=chunks).map_blocks(make, dtype=x.dtype)


def unpruned(x):
    csr = sparse.csr_matrix(x)
    csr.data = np.append(csr.data, np.full(5, 250, x.dtype))
    csr.indices = np.append(csr.indices, np.zeros(5, csr.indices.dtype))
    return csr


def long_indices(x):
    csr = sparse.csr_matrix(x)
    csr.indices, csr.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    return csr


KINDS = {
    "csr_matrix": lambda x, p: sparse.csr_matrix(x),
    "csr_array": lambda x, p: sparse.csr_array(x),
    "csr int64 indices": lambda x, p: long_indices(x),
    "csr unpruned": lambda x, p: unpruned(x),
    "csc_matrix": lambda x, p: sparse.csc_matrix(x),
    "csc_array": lambda x, p: sparse.csc_array(x),
    "dense": lambda x, p: x,
    "dense, by columns": lambda x, p: np.asfortranarray(x),
    "view of csr": lambda x, p: ad.AnnData(sparse.csr_matrix(np.vstack([x, x])))[: len(x)].X,
    "view of csc": lambda x, p: ad.AnnData(sparse.csc_matrix(np.vstack([x, x])))[: len(x)].X,
    "view of dense": lambda x, p: ad.AnnData(np.vstack([x, x]))[: len(x)].X,
    "hdf5 csr": lambda x, p: write_sparse(hdf5(p), sparse.csr_matrix(x)),
    "hdf5 csc": lambda x, p: write_sparse(hdf5(p), sparse.csc_matrix(x)),
    "hdf5 dense": lambda x, p: hdf5(p).create_dataset("X", data=x),
    "hdf5 dense, chunked": lambda x, p: hdf5(p).create_dataset("X", data=x, chunks=(min(7, len(x)), 1)),
    "zarr csr": lambda x, p: write_sparse(zarr_group(p), sparse.csr_matrix(x)),
    "zarr csc": lambda x, p: write_sparse(zarr_group(p), sparse.csc_matrix(x)),
    "zarr dense": lambda x, p: zarr.create_array(p / "d.zarr", data=x, chunks=(7, 5)),
    "dask dense": lambda x, p: chunked_dask(x, (20, -1)),
    "dask dense, both axes": lambda x, p: chunked_dask(x, (20, 6)),
    "dask csr": lambda x, p: chunked_dask(x, (20, -1), sparse.csr_matrix),
    "dask csr, both axes": lambda x, p: chunked_dask(x, (20, 6), sparse.csr_array),
    "dask csc": lambda x, p: chunked_dask(x, (20, -1), sparse.csc_matrix),
}


def collect(x, n_rows=None):
    """Put blocks together again, checking each on the way."""
    parts, expected = [], 0
    for first, block in row_blocks(x, n_rows):
        assert first == expected
        assert isinstance(block, sparse.csr_array)
        assert np.count_nonzero(block.data) == block.data.size == block.indptr[-1]
        assert block.sorted_indices().has_canonical_format
        assert block.indices.dtype == block.indptr.dtype
        assert n_rows is None or block.shape[0] <= n_rows
        expected += block.shape[0]
        parts.append(block)
    assert expected == x.shape[0]
    return sparse.vstack(parts, format="csr")


@pytest.mark.parametrize("n_rows", [None, 1, 8, 1000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "dtype"), [(0, np.float32), (1, np.int32), (2, np.uint16), (3, np.float64)])
def test_every_kind_gives_the_same_values(kind, seed, dtype, n_rows, tmp_path):
    counts = random_counts(seed, dtype=dtype)
    whole = collect(KINDS[kind](counts, tmp_path), n_rows)
    assert whole.dtype == dtype
    np.testing.assert_array_equal(whole.toarray(), counts)


@pytest.mark.parametrize("kind", KINDS)
def test_small_blocks_by_bytes(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 300)
    counts = random_counts(4)
    x = KINDS[kind](counts, tmp_path)
    np.testing.assert_array_equal(collect(x).toarray(), counts)
    n_blocks = sum(1 for _ in row_blocks(x))
    if kind.startswith("dask") and kind != "dask dense":
        assert n_blocks == 3  # a sparse chunk is in memory as it is
    elif kind.startswith(("csr", "csc", "view of cs", "hdf5 csc", "zarr csc")):
        assert n_blocks == 1
    else:
        assert n_blocks > 3


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_one_cell_or_one_gene(kind, shape, tmp_path):
    counts = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(collect(KINDS[kind](counts, tmp_path)).toarray(), counts)


def test_csr_in_memory_is_not_copied():
    for make in (sparse.csr_matrix, long_indices):
        x = make(random_counts(5))
        ((_, block),) = row_blocks(x)
        for name in ("data", "indices", "indptr"):
            assert np.shares_memory(getattr(block, name), getattr(x, name)), name
        for _, block in row_blocks(x, 10):
            assert np.shares_memory(block.data, x.data)
            assert np.shares_memory(block.indices, x.indices)


@pytest.mark.parametrize("n_rows", [None, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_duplicates_and_zeros_are_cleaned_on_a_copy(n_rows, dtype):
    data = np.array([200, 100, 0, 3, 5, 2], np.uint8).astype(dtype)
    x = sparse.csr_matrix((data, np.array([2, 2, 0, 1, 3, 0]), np.array([0, 2, 4, 4, 6])), shape=(4, 4))
    before = [a.copy() for a in (x.data, x.indices, x.indptr)]
    expected = np.array([[0, 0, 300, 0], [0, 3, 0, 0], [0, 0, 0, 0], [2, 0, 0, 5]])
    np.testing.assert_array_equal(collect(x, n_rows).toarray(), expected)
    for a, b in zip((x.data, x.indices, x.indptr), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", [hdf5, zarr_group])
def test_stored_csc_keeps_duplicates_apart_until_summed(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 40)
    x = sparse.csc_matrix(random_counts(6))
    twice = sparse.csc_matrix((np.repeat(x.data, 2), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape)
    np.testing.assert_array_equal(collect(write_sparse(backend(tmp_path), twice)).toarray(), 2 * x.toarray())


def test_unsorted_indices_are_allowed():
    x = sparse.csr_matrix(random_counts(7))
    for row in range(x.shape[0]):
        part = slice(x.indptr[row], x.indptr[row + 1])
        x.indices[part], x.data[part] = x.indices[part][::-1].copy(), x.data[part][::-1].copy()
    np.testing.assert_array_equal(collect(x).toarray(), x.toarray())


def test_types_that_scipy_cannot_hold(tmp_path):
    counts = random_counts(8)
    for x in (counts.astype(np.float16), counts.astype(">f4"), counts.astype(np.longdouble)):
        np.testing.assert_array_equal(collect(x).toarray(), counts)
    file = hdf5(tmp_path)
    stored = write_sparse(file, sparse.csr_matrix(counts))
    del file["X/data"]
    file["X"].create_dataset("data", data=sparse.csr_matrix(counts).data.astype(np.float16))
    whole = collect(ad.io.sparse_dataset(stored.group))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole.toarray(), counts)


@pytest.mark.parametrize("encoding", ["csr", "csc", "dense"])
def test_backed_h5ad(encoding, tmp_path):
    counts = random_counts(9)
    x = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[encoding](counts)
    ad.AnnData(x, layers={"raw": x}).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for matrix in (adata.X, adata.layers["raw"]):
        np.testing.assert_array_equal(collect(matrix).toarray(), counts)
    assert is_stored(adata.X)
    np.testing.assert_array_equal(collect(adata[10:30].X).toarray(), counts[10:30])
    adata.file.close()


def test_kinds_are_told_apart(tmp_path):
    counts = random_counts(10)
    for kind, make in KINDS.items():
        x = make(counts, tmp_path)
        assert is_dask(x) == kind.startswith("dask"), kind
        assert is_stored(x) == kind.startswith(("hdf5", "zarr")), kind


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ma.masked_array(np.ones((2, 2)), mask=np.eye(2)), TypeError, "MaskedArray: pass a plain array"),
        ([[1, 2]], TypeError, r"builtins.list. Counts are read from"),
        (sparse.coo_matrix(np.eye(2)), TypeError, "coo_matrix. Counts are read from"),
        (np.array([["a", "b"]]), TypeError, "values of type <U1"),
        (np.array([[1, None]], dtype=object), TypeError, "values of type object"),
        (np.ones((2, 2), complex), TypeError, "values of type complex128"),
        (np.ones((2, 2), bool), TypeError, "boolean"),
        (sparse.csr_matrix(np.eye(2, dtype=bool)), TypeError, "boolean"),
        (np.ones(3), ValueError, "2 dimensions"),
        (np.ones((2, 2, 2)), ValueError, "2 dimensions"),
    ],
)
def test_what_is_no_count_matrix_is_refused_at_once(x, error, message):
    with pytest.raises(error, match=f"layer 'a'.*{message}"):
        row_blocks(x, where="layer 'a'")


def test_numpy_matrix_and_bad_block_size_are_refused():
    with pytest.raises(TypeError, match="is a matrix"):
        row_blocks(sparse.csr_matrix(np.eye(2)).todense())
    with pytest.raises(ValueError, match="at least 1, not 0"):
        row_blocks(np.eye(2), 0)


BAD = {
    "negative": ([1, -2, 3], "negative values, for example -2: was a background"),
    "negative fraction": ([1, -0.5, 2], "negative values, for example -0.5: it looks scaled"),
    "nan": ([1, np.nan, 2], "1 NaN"),
    "infinite": ([1, np.inf, 2], "1 infinite"),
    "minus infinite": ([1, -np.inf, 2], "1 infinite"),
    "log": ([0, np.log1p(3), 2.5], r"fractional values, for example 1.38629: it looks log-normalised.*layer='counts'"),
    "denoised": ([0, 1.25, 2500], "fractional values, for example 1.25: denoised or scaled. Round them"),
    "huge": ([0, 1, 2.0**33], "above 2.*31 - 1, for example 8589934592"),
}


@pytest.mark.parametrize("position", [0, 100_000, 299_999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", BAD)
def test_values_that_are_no_counts(case, dtype, position):
    values, message = BAD[case]
    data = np.ones(300_000 + len(values), dtype)  # several chunks; the culprits in any of them
    data[position : position + len(values)] = values
    block = sparse.csr_array(data[None])
    with pytest.raises(ValueError, match=f"^layer 'x' has .*{message}"):
        check_counts(block, "layer 'x'")


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]
)
@pytest.mark.parametrize("seed", range(3))
def test_counts_pass(dtype, seed):
    counts = np.random.default_rng(seed).poisson(3, 1000).astype(dtype)
    check_counts(counts, "X")
    check_counts(counts.reshape(10, 100), "X")
    check_counts(counts[:0], "X")


def test_integer_limits():
    check_counts(np.array([MAX_COUNT]))
    for dtype in (np.int64, np.uint64, np.uint32):
        with pytest.raises(ValueError, match="above"):
            check_counts(np.array([0, MAX_COUNT + 1], dtype))
    with pytest.raises(ValueError, match="for example -7"):
        check_counts(np.array([3, -7], np.int8))


def test_shapes_and_types():
    for shape in ((1, 1), (1, 5), (5, 1)):
        check_shape(np.ones(shape))
    for shape, message in (((0, 3), "0 cells"), ((3, 0), "0 genes"), ((3,), "2 dimensions")):
        with pytest.raises(ValueError, match=f"layer 'l'.*{message}"):
            check_shape(np.ones(shape), "layer 'l'")
    with pytest.raises(TypeError, match="not a matrix but list"):
        check_shape([[1]])
    for dtype in ("bool", "object", "U3", "complex64", "datetime64[s]"):
        with pytest.raises(TypeError, match="X"):
            check_dtype(dtype)


def test_dask_of_unknown_size():
    x = chunked_dask(random_counts(0), (20, -1))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        check_shape(x[x.sum(axis=1) > 3])


def test_nothing_heavy_is_imported():
    code = (
        "import sys; import scbayes.counts._blocks as b, numpy as np; list(b.row_blocks(np.eye(3)));"
        "print(sorted({'dask', 'anndata', 'h5py', 'zarr', 'scanpy', 'jax'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_real_data_backed_equals_memory(real, data_dir):
    memory = real("pbmc_facs").X
    backed = ad.read_h5ad(data_dir / "pbmc_facs.h5ad", backed="r")
    sums = np.zeros(memory.shape[1])
    for first, block in row_blocks(backed.X, 1000):
        check_counts(block)
        assert (block != memory[first : first + block.shape[0]]).nnz == 0
        sums += block.sum(axis=0)
    np.testing.assert_array_equal(sums, np.asarray(memory.sum(axis=0)).ravel())
    backed.file.close()
