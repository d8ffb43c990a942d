r"""Sufficient statistics of counts: per gene a histogram, per cell a total.

For size :math:`r_g`, the likelihood of the negative binomial family reads the counts of gene :math:`g` only through
:math:`n_g(u)`, the number of cells with count :math:`u > 0`, and those of cell :math:`c` through their total
:math:`U_c`. Summaries of blocks of cells add up exactly: everything here is an integer.
"""

from dataclasses import dataclass, replace

import numpy as np

from scbayes.counts._past import Past
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
        ``(batch * n_components + component) * n_genes + gene``. One component that has all cells if not given. Of cells
        that stand for others (:meth:`alike`), their number.
    past
        Cells that the pairs hold beside those above, and of which no more is known than sums.
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
    past: Past | None = None

    def __post_init__(self) -> None:
        if self.membership is None:
            object.__setattr__(self, "membership", np.ones((len(self.batch), 1)))

    @property
    def n_cells(self) -> int:
        """Number of cells, those that are alike counted once."""
        return len(self.batch)

    @property
    def weight(self) -> np.ndarray:
        """How many cells each stands for, float64, shape ``(n_cells,)``."""
        return self.membership.sum(1)

    def alike(self, most: int) -> tuple["Summary", np.ndarray]:
        """The summary with cells of equal batch and total put together, at most ``most`` of them into one.

        Returns it, with the number of cells behind each as its weight, and which of these each cell is.
        """
        key = self.batch * (self.cell_total.max(initial=0) + 1) + self.cell_total
        order = np.argsort(key, kind="stable")
        place = np.arange(self.n_cells) - np.searchsorted(key[order], key[order])  # among its like
        starts = place % most == 0
        index = np.empty(self.n_cells, np.int64)
        index[order] = np.cumsum(starts) - 1
        first = order[starts]
        cells = {name: getattr(self, name)[first] for name in ("batch", "cell_total", "cell_detected")}
        return replace(self, **cells, membership=np.bincount(index)[:, None].astype(float)), index

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
        of_batch = np.stack([np.bincount(self.batch, part, self.n_batches) for part in self.membership.T], 1)
        if self.past is not None:
            of_batch += np.bincount(self.past.batch, minlength=self.n_batches)[:, None]
        return of_batch.ravel()

    @property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Totals of all cells, the past ones last, and how many cells each stands for."""
        if self.past is None:
            return self.cell_total, self.weight
        past = self.past.cell_total
        return np.concatenate([self.cell_total, past]), np.concatenate([self.weight, np.ones(len(past))])

    @property
    def gene_total(self) -> np.ndarray:
        """Sum of the counts of each gene in each group, float64, shape ``(n_groups, n_genes)``."""
        return self._per_row(self.count * self.cells)

    @property
    def gene_detected(self) -> np.ndarray:
        """Number of cells that express each gene in each group, float64, shape ``(n_groups, n_genes)``."""
        return self._per_row(self.cells)

    def reordered(self, place: np.ndarray, n_batches: int) -> "Summary":
        """With gene ``i`` at ``place[i]``, and room for more batches."""
        batch, gene = np.divmod(self.row, self.n_genes)
        row = batch * self.n_genes + place[gene]
        order = np.lexsort((self.count, row))
        pairs = {"row": row[order], "count": self.count[order], "cells": self.cells[order]}
        return replace(self, n_batches=n_batches, **pairs)

    def without_cells(self, n: int, past: Past) -> "Summary":
        """The same pairs, with the first ``n`` cells as ``past`` has them."""
        names = ("batch", "cell_total", "cell_detected", "membership")
        return replace(self, **{name: getattr(self, name)[n:] for name in names}, past=past)

    def _per_row(self, value: np.ndarray) -> np.ndarray:
        size = self.n_groups * self.n_genes
        return np.bincount(self.row, value, size).reshape(self.n_groups, self.n_genes)


class Tally:
    """A summary in the making: blocks of cells go in, in any order, from several threads at once.

    Parameters
    ----------
    batch
        Batch of each cell, shape ``(n_cells,)``.
    n_tables
        Number of threads that add at the same time: each has a table of its own.
    """

    def __init__(self, batch, n_genes: int, n_batches: int, n_tables: int = 1) -> None:
        self.batch = np.ascontiguousarray(batch, np.int32)
        self.n_genes, self.n_batches = n_genes, n_batches
        n_rows = n_genes * n_batches
        # Counts first, then rows: most counts are 1 or 2, whose parts of the table stay in the cache.
        self.table = np.zeros((n_tables, TABLE[n_rows <= MANY_ROWS], n_rows), np.int32)
        self.large: list[tuple[np.ndarray, np.ndarray]] = []
        self.total, self.detected = np.zeros((2, len(self.batch)), np.int64)

    def add(self, table: int, cells: slice, indptr, indices, data) -> None:
        """Add the cells of one block, given as the three vectors of CSR with columns that ascend in each row."""
        own = self.table[table]
        large = np.empty(_count_large(data[indptr[0] : indptr[-1]], len(own)), np.int64)
        self.detected[cells] = np.diff(indptr)
        _tally(indptr, indices, data, self.batch[cells], self.n_genes, own, self.total[cells], large)
        if len(large):
            self.large.append(np.unique(large, return_counts=True))

    def summary(self) -> Summary:
        """Summary of what was added."""
        table = np.ascontiguousarray(self.table.sum(0, dtype=np.int32).T)
        row, count = np.nonzero(table)
        pairs = [(_key(row, count), table[row, count].astype(np.int64)), *self.large]
        sizes = self.n_genes, self.n_batches
        return Summary(
            *sizes, self.batch, self.total, self.detected, *_joined(*map(np.concatenate, zip(*pairs, strict=True)))
        )


def merge(first: Summary, second: Summary) -> Summary:
    """Summary of the cells of ``first`` followed by those of ``second``: the same genes and batches in both."""
    if (first.n_genes, first.n_batches) != (second.n_genes, second.n_batches):
        msg = (
            f"cannot merge a summary of {first.n_genes} genes and {first.n_batches} batches "
            f"with one of {second.n_genes} genes and {second.n_batches} batches"
        )
        raise ValueError(msg)
    keys, cells, *of_cells = (
        np.concatenate(parts)
        for parts in (
            [_key(s.row, s.count) for s in (first, second)],
            (first.cells, second.cells),
            (first.batch, second.batch),
            (first.cell_total, second.cell_total),
            (first.cell_detected, second.cell_detected),
        )
    )
    return Summary(first.n_genes, first.n_batches, *of_cells, *_joined(keys, cells))


def _key(row: np.ndarray, count: np.ndarray) -> np.ndarray:
    """One number for a row and a count, in the same order; the largest count has 31 bits."""
    return (row << 31) | count


def _joined(keys: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, count and cells of pairs in order, equal ones joined."""
    order = np.argsort(keys, kind="stable")  # linear in time where runs are sorted
    keys, cells = keys[order], cells[order]
    start = np.flatnonzero(np.diff(keys, prepend=-1))
    cells = np.add.reduceat(cells, start) if len(start) else cells
    return keys[start] >> 31, keys[start] & (2**31 - 1), cells


@jit
def _tally(indptr, indices, data, batch, n_genes, table, total, large):
    n_large = 0
    for c in range(len(indptr) - 1):
        offset = batch[c] * n_genes
        values, genes = data[indptr[c] : indptr[c + 1]], indices[indptr[c] : indptr[c + 1]]
        for k in range(len(values)):
            u, row = np.int64(values[k]), offset + genes[k]
            total[c] += u
            if u < len(table):
                table[np.uint64(u), np.uint64(row)] += 1  # unsigned: no test for an index from the end
            else:
                large[n_large] = (row << 31) | u
                n_large += 1
    return n_large


@jit
def _count_large(values, smallest):
    n = 0
    for k in range(len(values)):
        n += values[k] >= smallest
    return n
