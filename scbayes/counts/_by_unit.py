"""Sums over the cells of each unit, such as a donor's cells of one type."""

import numpy as np

from scbayes.counts._counts import Counts
from scbayes.counts._threads import over_rows
from scbayes.stats._jit import jit

#: Memory that the sums of threads may take together.
SUM_BYTES, MAX_SUMS = 512 * 1024**2, 4


def sum_by_unit(counts: Counts, unit: np.ndarray, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of counts, of their squares, and numbers of non-zeros, by unit and gene; and the total of each cell.

    One checked pass over the non-zeros.

    Parameters
    ----------
    unit
        Unit of each cell; negative for cells of none.

    Returns
    -------
    float64 ``(3, n_units, n_genes)``, and int64 ``(n_cells,)`` (zero for cells of no unit).
    """
    n_rows = n_units * counts.n_genes
    n_parts = min(max(SUM_BYTES // (24 * max(n_rows, 1)), 1), MAX_SUMS)
    sums = np.zeros((n_parts, n_rows, 3))
    total = np.zeros(counts.n_cells, np.int64)
    unit = np.ascontiguousarray(unit, np.int64)

    def add(part: int, cells: slice, *vectors) -> None:
        _add(*vectors, unit[cells] * counts.n_genes, sums[part], total[cells])

    for first, block in counts.blocks(check=True):
        over_rows(add, block, first, n_parts)
    return sums.sum(0).T.reshape(3, n_units, counts.n_genes), total


@jit
def _add(indptr, indices, data, offset, sums, total):
    for c in range(len(indptr) - 1):
        if offset[c] < 0:
            continue
        for k in range(indptr[c], indptr[c + 1]):
            u = np.int64(data[k])
            total[c] += u
            to = sums[np.uint64(offset[c] + indices[k])]  # unsigned: no test for an index from the end
            to[0] += u
            to[1] += u * u
            to[2] += 1
