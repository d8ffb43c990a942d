"""Sums over the cells of each unit, such as a donor's cells of one type."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scbayes.counts._counts import Counts
from scbayes.counts._threads import over_rows
from scbayes.stats._jit import jit

#: Memory that the sums of threads may take together.
SUM_BYTES, MAX_SUMS = 512 * 1024**2, 4


class Members(NamedTuple):
    """Which units each cell belongs to, and how much of it, in the layout of CSR.

    Attributes
    ----------
    indptr
        ``(n_cells + 1,)``: entries of a cell; none where it takes no part.
    unit, weight
        ``(n_entries,)``.
    n_units
        Number of units.
    """

    indptr: np.ndarray
    unit: np.ndarray
    weight: np.ndarray
    n_units: int

    @property
    def cell(self) -> np.ndarray:
        """Cell of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    @property
    def n_cells(self) -> np.ndarray:
        """Cells of each unit, by weight."""
        return np.bincount(self.unit, self.weight, self.n_units)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of a value of each cell, over the cells of each unit."""
        return np.bincount(self.unit, self.weight * values[self.cell], self.n_units)

    def layers(self) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
        """Unit and weight of each cell, as often as a cell has units; weight zero where it has no more."""
        cell, n_cells = self.cell, len(self.indptr) - 1
        rank = np.arange(len(cell)) - self.indptr[cell]
        for k in range(rank.max(initial=-1) + 1):
            here = rank == k
            unit, weight = np.zeros(n_cells, np.int32), np.zeros(n_cells)
            unit[cell[here]], weight[cell[here]] = self.unit[here], self.weight[here]
            yield unit, weight


def sum_by_unit(counts: Counts, members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Sums of counts, of their squares, and numbers of non-zeros, by unit and gene; and the total of each cell.

    One checked pass over the non-zeros.

    Returns
    -------
    float64 ``(3, n_units, n_genes)``, and int64 ``(n_cells,)`` (zero for cells of no unit).
    """
    n_rows = members.n_units * counts.n_genes
    n_parts = min(max(SUM_BYTES // (24 * max(n_rows, 1)), 1), MAX_SUMS)
    sums = np.zeros((n_parts, n_rows, 3))
    total = np.zeros(counts.n_cells, np.int64)
    unit = np.ascontiguousarray(members.unit, np.int64) * counts.n_genes

    def add(part: int, cells: slice, *vectors) -> None:
        entries = members.indptr[cells.start : cells.stop + 1]
        _add(*vectors, entries, unit, members.weight, sums[part], total[cells])

    for first, block in counts.blocks(check=True):
        over_rows(add, block, first, n_parts)
    return sums.sum(0).T.reshape(3, members.n_units, counts.n_genes), total


def detail_by_unit(counts: Counts, members: Members, nodes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Histograms of the counts of each unit and gene, and the counts and cells on nodes.

    Three passes over the non-zeros, as many times as a cell has units.

    Parameters
    ----------
    nodes
        Weights of each cell on the nodes of an interpolation, ``(n_cells, n_nodes)``.

    Returns
    -------
    Row (``unit * n_genes + gene``, ascending), count (ascending within a row) and weight of cells of the distinct
    counts; counts on nodes ``(n_units, n_genes, n_nodes)``, and cells on nodes ``(n_units, n_nodes)``.
    """
    node_counts = np.zeros((members.n_units, counts.n_genes, nodes.shape[1]))
    node_cells = np.zeros((members.n_units, nodes.shape[1]))
    pairs = []
    for unit, weight in members.layers():
        own = Counts(counts.x, unit, members.n_units, where=counts.where)
        summary = own.weigh(own.summarise(), weight[:, None])
        pairs.append((summary.row, summary.count, summary.cells))
        weighted = nodes * weight[:, None]
        node_counts += own.gather(weighted, detected=False)[0]
        np.add.at(node_cells, unit, weighted)
    row, count, cells = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.lexsort((count, row)) if len(pairs) > 1 else slice(None)
    return row[order], count[order], cells[order], node_counts, node_cells


@jit
def _add(indptr, indices, data, entries, offset, weight, sums, total):
    for c in range(len(indptr) - 1):
        if entries[c] == entries[c + 1]:
            continue
        for k in range(indptr[c], indptr[c + 1]):
            u = np.int64(data[k])
            total[c] += u
            for m in range(entries[c], entries[c + 1]):
                to = sums[np.uint64(offset[m] + indices[k])]  # unsigned: no test for an index from the end
                to[0] += weight[m] * u
                to[1] += weight[m] * u * u
                to[2] += weight[m]
