r"""Sufficient statistics of counts: per gene a histogram, per cell a total.

For size :math:`r_g`, the likelihood of the negative binomial family reads the counts of gene :math:`g` only through
:math:`n_g(u)`, the number of cells with count :math:`u > 0`, and those of cell :math:`c` through their total
:math:`U_c`. Summaries of blocks of cells add up exactly: everything here is an integer.
"""

from dataclasses import dataclass

import numpy as np

from scbayes.stats._jit import jit

#: Counts below this are tallied in a table; larger ones are few and are sorted instead. With many rows (genes x
#: batches) the table is narrower, so that it stays in the cache.
TABLE = {True: 64, False: 16}
MANY_ROWS = 100_000


@dataclass(frozen=True)
class Summary:
    """What the models read of ``n_cells`` x ``n_genes`` counts, batch by batch.

    Attributes
    ----------
    n_genes, n_batches
        Sizes of the gene and batch axes.
    batch
        Batch of each cell, int32, shape ``(n_cells,)``.
    cell_total, cell_detected
        Sum of the counts and number of non-zero counts of each cell, int64, shape ``(n_cells,)``.
    row
        ``batch * n_genes + gene`` of each distinct pair of a gene and a count, int64, shape ``(n_pairs,)``, ascending.
    count
        The count of each pair, int64, at least 1, ascending within a row.
    cells
        Number of cells with this count in this gene, int64; where cells are weighted, the sum of weights, float64.
    membership
        Weights of each cell in the components of a mixture, float64 ``(n_cells, n_components)``; rows are then
        ``(batch * n_components + component) * n_genes + gene``. One component that has all cells if not given.
    """

    n_genes: int
    n_batches: int
    batch: np.ndarray
    cell_total: np.ndarray
    cell_detected: np.ndarray
    row: np.ndarray
    count: np.ndarray
    cells: np.ndarray
    membership: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.membership is None:
            object.__setattr__(self, "membership", np.ones((len(self.batch), 1)))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.batch)

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self.membership.shape[1]

    @property
    def n_groups(self) -> int:
        """Number of groups of cells: batches x components."""
        return self.n_batches * self.n_components

    @property
    def group_cells(self) -> np.ndarray:
        """Number (or sum of weights) of the cells of each group, float64, shape ``(n_groups,)``."""
        of_batch = [np.bincount(self.batch, part, self.n_batches) for part in self.membership.T]
        return np.stack(of_batch, 1).ravel()

    @property
    def gene_total(self) -> np.ndarray:
        """Sum of the counts of each gene in each group, float64, shape ``(n_groups, n_genes)``."""
        return self._per_row(self.count * self.cells)

    @property
    def gene_detected(self) -> np.ndarray:
        """Number of cells that express each gene in each group, float64, shape ``(n_groups, n_genes)``."""
        return self._per_row(self.cells)

    def _per_row(self, value: np.ndarray) -> np.ndarray:
        size = self.n_groups * self.n_genes
        return np.bincount(self.row, value, size).reshape(self.n_groups, self.n_genes)


def summarise_block(indptr, indices, data, batch, n_genes: int, n_batches: int) -> Summary:
    """Summary of one block of cells, given as the three arrays of a CSR matrix without duplicates."""
    batch = np.ascontiguousarray(batch, np.int32)
    width = TABLE[n_batches * n_genes <= MANY_ROWS]
    table, total, detected, n_large = _tally(
        indptr, indices, data, batch, n_genes, np.zeros((n_batches * n_genes, width), np.int32)
    )
    row, count = np.nonzero(table)
    cells = table[row, count].astype(np.int64)
    summary = Summary(n_genes, n_batches, batch, total, detected, row, count, cells)
    if n_large:
        large = _collect(indptr, indices, data, batch, n_genes, width, np.empty((2, n_large), np.int64))
        summary = _add(summary, large[0], large[1], np.ones(n_large, np.int64))
    return summary


def merge(first: Summary, second: Summary) -> Summary:
    """Summary of the cells of ``first`` followed by those of ``second``: the same genes and batches in both."""
    if (first.n_genes, first.n_batches) != (second.n_genes, second.n_batches):
        msg = (
            f"cannot merge a summary of {first.n_genes} genes and {first.n_batches} batches "
            f"with one of {second.n_genes} genes and {second.n_batches} batches"
        )
        raise ValueError(msg)
    both = Summary(
        first.n_genes,
        first.n_batches,
        np.concatenate([first.batch, second.batch]),
        np.concatenate([first.cell_total, second.cell_total]),
        np.concatenate([first.cell_detected, second.cell_detected]),
        first.row,
        first.count,
        first.cells,
    )
    return _add(both, second.row, second.count, second.cells)


def _add(summary: Summary, row, count, cells) -> Summary:
    """``summary`` with more pairs, equal ones joined."""
    row = np.concatenate([summary.row, row])
    count = np.concatenate([summary.count, count])
    cells = np.concatenate([summary.cells, cells])
    order = np.lexsort((count, row))
    row, count, cells = row[order], count[order], cells[order]
    new = np.ones(len(row), bool)
    new[1:] = (np.diff(row) != 0) | (np.diff(count) != 0)
    start = np.flatnonzero(new)
    return Summary(
        summary.n_genes,
        summary.n_batches,
        summary.batch,
        summary.cell_total,
        summary.cell_detected,
        row[start],
        count[start],
        np.add.reduceat(cells, start) if len(start) else cells,
    )


@jit
def _tally(indptr, indices, data, batch, n_genes, table):
    n_cells = len(indptr) - 1
    total = np.zeros(n_cells, np.int64)
    detected = np.zeros(n_cells, np.int64)
    n_large = 0
    for c in range(n_cells):
        offset = batch[c] * n_genes
        for k in range(indptr[c], indptr[c + 1]):
            u = np.int64(data[k])
            if u > 0:
                total[c] += u
                detected[c] += 1
                if u < table.shape[1]:
                    table[offset + indices[k], u] += 1
                else:
                    n_large += 1
    return table, total, detected, n_large


@jit
def _collect(indptr, indices, data, batch, n_genes, smallest, large):
    i = 0
    for c in range(len(indptr) - 1):
        for k in range(indptr[c], indptr[c + 1]):
            if data[k] >= smallest:
                large[0, i] = np.int64(batch[c]) * n_genes + indices[k]
                large[1, i] = np.int64(data[k])
                i += 1
    return large
