"""Counts in memory at about two bytes a non-zero, for passes after the first over what is slow to read.

A row is a string of bytes: for each non-zero, the gap from the gene before it and the count, both as variable-length
integers (seven bits a byte, the highest bit says that more follow). Most gaps and counts are below 128.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from scbayes.counts._threads import over_rows
from scbayes.stats._jit import jit

#: Values that are made into CSR at a time: they stay in the processor's cache.
BLOCK_VALUES = 1 << 20


class Compact:
    """Cells x genes, added block by block and read as canonical CSR."""

    def __init__(self, n_genes: int) -> None:
        self.shape = (0, n_genes)
        self.dtype = np.dtype(np.int32)
        self.n_bytes = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, block: sparse.csr_array) -> None:
        """Add the next cells, as canonical CSR of counts."""
        n_rows = block.shape[0]
        size = np.zeros(n_rows + 1, np.int64)
        over_rows(lambda _, rows, *vectors: _measure(*vectors, size[1:][rows]), block)
        start = np.cumsum(size)
        code = np.empty(start[-1], np.uint8)
        over_rows(lambda _, rows, *vectors: _encode(*vectors, start[rows], code), block)
        self._parts.append((block.indptr.astype(np.int64), start, code))
        self.shape = (self.shape[0] + n_rows, self.shape[1])
        self.n_bytes += code.nbytes + 16 * n_rows

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[int, sparse.csr_array]]:
        """First cell and CSR of a few cells at a time."""
        first = 0
        for indptr, start, code in self._parts:
            a, last = 0, len(indptr) - 1
            while a < last:
                b = int(np.searchsorted(indptr, indptr[a] + BLOCK_VALUES, side="right")) - 1
                b = min(max(b, a + 1), last, a + (n_rows or last))
                yield first + a, self._decode(indptr[a : b + 1] - indptr[a], start[a : b + 1], code)
                a = b
            first += last

    def _decode(self, indptr: np.ndarray, start: np.ndarray, code: np.ndarray) -> sparse.csr_array:
        block = sparse.csr_array((len(indptr) - 1, self.shape[1]), dtype=self.dtype)
        block.indptr = indptr.astype(np.int32)
        block.indices, block.data = np.empty((2, indptr[-1]), np.int32)
        over_rows(lambda _, rows, *vectors: _decode(*vectors, start[rows], code), block)
        return block


@jit
def _n_bytes(value):
    n = 1
    while value >= 128:
        value >>= 7
        n += 1
    return n


@jit
def _measure(indptr, indices, data, size):
    for c in range(len(size)):
        genes, values = indices[indptr[c] : indptr[c + 1]], data[indptr[c] : indptr[c + 1]]
        n, last = 0, 0
        for k in range(len(genes)):
            n += _n_bytes(np.int64(genes[k]) - last) + _n_bytes(np.int64(values[k]))
            last = np.int64(genes[k])
        size[c] = n


@jit
def _put(code, at, value):
    while value >= 128:
        code[np.uint64(at)] = (value & 127) | 128  # unsigned: no test for an index from the end
        value >>= 7
        at += 1
    code[np.uint64(at)] = value
    return at + 1


@jit
def _encode(indptr, indices, data, start, code):
    for c in range(len(start)):
        genes, values = indices[indptr[c] : indptr[c + 1]], data[indptr[c] : indptr[c + 1]]
        at, last = start[c], 0
        for k in range(len(genes)):
            at = _put(code, at, np.int64(genes[k]) - last)
            at = _put(code, at, np.int64(values[k]))
            last = np.int64(genes[k])


@jit
def _decode(indptr, indices, data, start, code):
    for c in range(len(start)):
        at, gene = np.uint64(start[c]), np.int64(0)
        for k in range(np.uint64(indptr[c]), np.uint64(indptr[c + 1])):
            for which in range(2):
                byte = np.int64(code[at])
                at += np.uint64(1)
                value, shift = byte & 127, 7
                while byte >= 128:
                    byte = np.int64(code[at])
                    at += np.uint64(1)
                    value |= (byte & 127) << shift
                    shift += 7
                if which == 0:
                    gene += value
                    indices[k] = gene
                else:
                    data[k] = value
