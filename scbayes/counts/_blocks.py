"""One way through every kind of count matrix: a block of rows at a time, as canonical CSR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scbayes.counts._check import check_dtype, holdable
from scbayes.counts._compact import Compact
from scbayes.counts._gzip import unpacked
from scbayes.counts._threads import over_rows, read_ahead
from scbayes.stats._jit import jit

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 64 * 1024**2
"""Memory that one block may take where blocks have to be made."""

_CHUNK_NAME = "a chunk of the dask array"


def row_blocks(x, n_rows: int | None = None, *, where: str = "X") -> Iterator[tuple[int, sparse.csr_array]]:
    """Walk over the rows of a count matrix in blocks of canonical CSR.

    Every block holds each (cell, gene) pair at most once and no explicit zero; its indices ascend within rows. Values
    keep their type (half precision, which SciPy cannot hold, becomes float32). The user's matrix never changes.

    ==========================================  =======================================================================
    matrix                                      cost
    ==========================================  =======================================================================
    CSR in memory                               nothing is copied; one block unless `n_rows` is given. With duplicates
                                                or explicit zeros: a cleaned copy of one block at a time
    CSC in memory                               converted once: memory of a second copy of the matrix
    dense in memory                             one block at a time
    CSR in a file (AnnData's `CSRDataset`)      two blocks at a time: the next one is read by a thread of its own
    CSC in a file (AnnData's `CSCDataset`)      read by columns into one CSR in memory, indices twice: memory of one
                                                copy of the matrix. Store as CSR to stream it
    dense in a file (HDF5 or zarr array)        two blocks at a time, aligned with the chunks of the file
    dask array of dense, CSR or CSC chunks      two chunks at a time, computed one after another
    :class:`~scbayes.counts._compact.Compact`   a few cells at a time
    ==========================================  =======================================================================

    Parameters
    ----------
    x
        Matrix, cells x genes: one of the kinds above.
    n_rows
        Largest number of rows a block may have. By default whatever fits in `BLOCK_BYTES` (64 MB, at least one row).
    where
        Name of the matrix in messages.

    Yields
    ------
    first_row
        Row of `x` that is row 0 of the block. Blocks come in order and cover every row once.
    block
        `scipy.sparse.csr_array`, (rows of the block) x genes. In-memory CSR shares its arrays with `x`: do not write.

    Raises
    ------
    TypeError
        If `x` is no such matrix (`numpy.matrix` and masked arrays are refused), or its values are not numbers.
    ValueError
        If `x` does not have two dimensions, or `n_rows` is below 1.
    """
    if n_rows is not None and n_rows < 1:
        msg = f"n_rows must be at least 1, not {n_rows}"
        raise ValueError(msg)
    walk = _walker(x, where)
    check_dtype(x.dtype, where)
    if len(x.shape) != 2:
        msg = f"{where} must have 2 dimensions (cells x genes), not {len(x.shape)}"
        raise ValueError(msg)
    return read_ahead(walk(x, n_rows)) if is_stored(x) or is_dask(x) else walk(x, n_rows)


def is_stored(x) -> bool:
    """Whether `x` lies in a file (HDF5 or zarr; sparse as AnnData stores it, or dense)."""
    return _walker(x, "X") in (_walk_stored_csr, _walk_stored_csc, _walk_stored_dense)


def is_dask(x) -> bool:
    """Whether `x` is a dask array."""
    # By module and not by isinstance: dask is not imported unless the user did.
    return type(x).__module__.partition(".")[0] == "dask" and hasattr(x, "numblocks")


def _walker(x, where: str):
    """Choose the function that walks over `x`, by what `x` can do and not by importing the libraries it may be from."""
    if isinstance(x, np.matrix | np.ma.MaskedArray):
        msg = f"{where} is a {type(x).__name__}: pass a plain array (np.asarray; .filled(0) if masked means 'not seen')"
        raise TypeError(msg)
    if isinstance(x, np.ndarray):
        return _walk_dense
    if isinstance(x, Compact):
        return Compact.blocks
    if sparse.issparse(x) and x.format in ("csr", "csc"):
        return _walk_csr if x.format == "csr" else _walk_csc
    if is_dask(x):
        return _walk_dask
    if hasattr(x, "group") and getattr(x, "format", None) in ("csr", "csc"):
        return _walk_stored_csr if x.format == "csr" else _walk_stored_csc
    if type(x).__module__.partition(".")[0] in ("h5py", "zarr") and hasattr(x, "chunks"):
        return _walk_stored_dense
    msg = (
        f"{where} is a {type(x).__module__}.{type(x).__name__}. Counts are read from SciPy CSR or CSC, NumPy arrays, "
        "backed AnnData matrices, HDF5 or zarr arrays, and dask arrays of these"
    )
    raise TypeError(msg)


def _walk_csr(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    if n_rows is None:
        n_values = x.indptr[-1]  # SciPy allows unused room behind the last value
        whole = _share(x.data[:n_values], x.indices[:n_values], x.indptr, x.shape[1])
        if _is_canonical(whole):
            if x.shape[0]:
                yield 0, whole
            return
    yield from _walk_vectors(x.data, x.indices, x.indptr, x.shape[1], n_rows)


def _walk_csc(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    yield from _walk_csr(x.tocsr(), n_rows)


def _walk_stored_csr(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    # Straight from the file's three vectors: slicing through AnnData would copy every block once more.
    data, indices, indptr = unpacked(x.group["data"]), unpacked(x.group["indices"]), x.group["indptr"][...]
    yield from _walk_vectors(data, indices, indptr, x.shape[1], n_rows)


def _walk_vectors(data, indices, indptr, n_cols: int, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    """Walk over CSR given by its vectors: NumPy arrays (blocks are views) or arrays in a file (blocks are read)."""
    for start, stop in _row_ranges(indptr, data.dtype.itemsize + indices.dtype.itemsize, n_rows):
        lo, hi = int(indptr[start]), int(indptr[stop])
        block = _share(data[lo:hi], indices[lo:hi], indptr[start : stop + 1] - indptr[start], n_cols)
        yield start, _canonical(block)


def _row_ranges(indptr, bytes_per_value: int, n_rows: int | None) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most `BLOCK_BYTES` or, if given, `n_rows`."""
    last, budget = len(indptr) - 1, BLOCK_BYTES // bytes_per_value
    start = 0
    while start < last:
        if n_rows is None:
            stop = int(np.searchsorted(indptr, int(indptr[start]) + budget, side="right")) - 1
        else:
            stop = start + n_rows
        stop = min(max(stop, start + 1), last)
        yield start, stop
        start = stop


def _walk_stored_csc(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    yield from _walk_csr(_stored_csc_to_csr(x), n_rows)


def _stored_csc_to_csr(x) -> sparse.csr_array:
    """Read CSC from a file into CSR: count each row's values, then drop slabs of columns into their places."""
    data, indices, indptr = x.group["data"], x.group["indices"], x.group["indptr"][...]
    n_cells, n_genes = x.shape
    slabs = list(_row_ranges(indptr, data.dtype.itemsize + indices.dtype.itemsize, None))
    per_row = np.zeros(n_cells, np.int64)
    for start, stop in slabs:
        per_row += np.bincount(indices[int(indptr[start]) : int(indptr[stop])], minlength=n_cells)
    out_indptr = np.concatenate([[0], np.cumsum(per_row)])
    out_data = np.empty(out_indptr[-1], holdable(data.dtype))
    out_indices = np.empty(out_indptr[-1], np.int32 if max(n_genes, out_indptr[-1]) < 2**31 else np.int64)
    filled = out_indptr[:-1].copy()
    for start, stop in slabs:
        lo, hi = int(indptr[start]), int(indptr[stop])
        rows = indices[lo:hi]
        order = np.argsort(rows, kind="stable")
        here = np.bincount(rows, minlength=n_cells)
        # The j-th value of a row in this slab goes j places after what earlier slabs left in that row.
        place = np.arange(hi - lo) + np.repeat(filled - (np.cumsum(here) - here), here)
        out_data[place] = data[lo:hi][order]
        out_indices[place] = np.repeat(np.arange(start, stop), np.diff(indptr[start : stop + 1]))[order]
        filled += here
    return _share(out_data, out_indices, out_indptr, n_genes)


def _walk_dense(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    x = np.asarray(x)  # drops subclasses, copies nothing
    dtype = holdable(x.dtype)
    step = n_rows or max(1, BLOCK_BYTES // max(1, x.shape[1] * x.dtype.itemsize))
    for start in range(0, x.shape[0], step):
        yield start, sparse.csr_array(x[start : start + step].astype(dtype, copy=False))


def _walk_stored_dense(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    step = n_rows
    if step is None:
        step = max(1, BLOCK_BYTES // max(1, x.shape[1] * x.dtype.itemsize))
        if x.chunks is not None and step > x.chunks[0]:
            step -= step % x.chunks[0]  # a chunk is decompressed whole: never read one twice
    for start in range(0, x.shape[0], step):
        for _, block in _walk_dense(np.asarray(x[start : start + step]), step):
            yield start, block


def _walk_dask(x, n_rows: int | None) -> Iterator[tuple[int, sparse.csr_array]]:
    first = 0
    for i in range(x.numblocks[0]):
        chunk = join([x.blocks[i, j].compute() for j in range(x.numblocks[1])])
        for start, block in _walker(chunk, _CHUNK_NAME)(chunk, n_rows):
            yield first + start, block
        first += chunk.shape[0]


def join(parts: list):
    """Put the column chunks of one row of chunks side by side."""
    if len(parts) == 1 or not parts[0].shape[0]:
        return parts[0]
    whole = [block for part in parts for _, block in _walker(part, _CHUNK_NAME)(part, part.shape[0])]
    return sparse.hstack(whole, format="csr")


def _share(data, indices, indptr, n_cols: int) -> sparse.csr_array:
    """Wrap CSR vectors without copying or checking them."""
    dtype = holdable(data.dtype)
    if indices.dtype.kind != "i" or indices.dtype.itemsize < 4 or not indices.dtype.isnative:
        indices = indices.astype(np.int64 if indices.dtype.itemsize >= 4 else np.int32)
    if indptr.dtype != indices.dtype:
        if len(data) > np.iinfo(indices.dtype).max:
            indices = indices.astype(indptr.dtype)
        indptr = indptr.astype(indices.dtype)
    # SciPy's constructor may copy 64-bit indices to 32 bits, so the vectors are set one by one.
    shared = sparse.csr_array((len(indptr) - 1, n_cols), dtype=dtype)
    shared.data = data.astype(dtype, copy=False).view(np.ndarray)
    shared.indices = indices.view(np.ndarray)
    shared.indptr = indptr.view(np.ndarray)
    return shared


def _is_canonical(block: sparse.csr_array) -> bool:
    def check(_, __, *vectors) -> bool:
        return _ascends(*vectors, block.shape[1])

    return all(over_rows(check, block))


@jit
def _ascends(indptr, indices, data, n_cols):
    """Whether columns ascend within rows and no value is 0."""
    start, stop = indptr[0], indptr[-1]
    values, left, right = data[start:stop], indices[start : max(start, stop - 1)], indices[start + 1 : stop]
    zeros, drops = 0, 0  # plain loops over whole vectors, the ends of rows among them, run fast
    for i in range(len(values)):
        zeros += values[i] == 0
    for i in range(len(right)):
        drops += right[i] <= left[i]
    for c in range(len(indptr) - 1):
        i, end = indptr[c], indptr[c + 1]
        if i < end:
            drops -= i > start and indices[i] <= indices[i - 1]
            drops += indices[i] < 0 or indices[end - 1] >= n_cols
    return zeros == 0 and drops == 0


def _canonical(block: sparse.csr_array) -> sparse.csr_array:
    """Return `block`, or a copy with duplicates summed and explicit zeros dropped."""
    if _is_canonical(block):
        return block
    block.check_format()
    # Small integers are widened, so that a sum of duplicates cannot overflow.
    narrow = block.dtype.kind in "iu" and block.dtype.itemsize < 4 and not _has_unique_pairs(block)
    block = block.astype(np.int64) if narrow else block.copy()
    block.sum_duplicates()
    block.eliminate_zeros()
    return block


def _has_unique_pairs(block: sparse.csr_array) -> bool:
    return block.sorted_indices().has_canonical_format
