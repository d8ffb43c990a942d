"""Sums over cells and over genes in one pass, for filters, QC columns and the choice of genes. No AnnData here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scbayes.counts._blocks import row_blocks
from scbayes.counts._check import check_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

_ROWS = 2048  # cells a step: bounds the float64 temporaries of in-memory CSR, whose blocks are otherwise the whole


@dataclass
class Sums:
    """Which cells pass the filters, and what cells and genes add up to."""

    cells: np.ndarray  # bool (n_cells,): passes the filters
    cell_total: np.ndarray  # int64 (n_cells,)
    cell_genes: np.ndarray  # int64 (n_cells,)
    gene_total: np.ndarray  # int64 (n_genes,), over the cells that pass
    gene_cells: np.ndarray  # int64 (n_genes,), over the cells that pass
    score: np.ndarray | None  # float64 (n_genes,)


def steps(x, where: str = "X") -> Iterator[tuple[int, sparse.csr_array]]:
    """First cell and counts of a few cells at a time."""
    for first, block in row_blocks(x, where=where):
        for start, step in row_blocks(block, _ROWS):
            yield first + start, step


def within(number: np.ndarray, least, most) -> np.ndarray:
    """Whether each number lies in a closed range, of which either end may be None."""
    kept = np.ones(number.shape, bool)
    if least is not None:
        kept &= number >= least
    if most is not None:
        kept &= number <= most
    return kept


def add_up(x, where: str, counts_range, genes_range, batch: np.ndarray, *, scores: bool) -> Sums:
    """Check the counts, filter the cells and add up cells and genes, in one pass. Sums are exact below 2**53."""
    n_cells, n_genes = x.shape
    n_batches = int(batch.max()) + 1
    cells = np.zeros(n_cells, bool)
    cell_total, cell_genes = np.zeros(n_cells), np.zeros(n_cells, np.int64)
    gene_cells, total = np.zeros(n_genes), np.zeros((n_genes, n_batches))
    squares, by_depth = np.zeros((2, n_genes, n_batches)) if scores else (None, None)
    for first, block in steps(x, where):
        check_counts(block, where)
        rows = slice(first, first + block.shape[0])
        values = block.astype(np.float64)
        cell_total[rows] = depth = values @ np.ones(n_genes)
        cell_genes[rows] = np.diff(block.indptr)
        cells[rows] = kept = within(depth, *counts_range) & within(cell_genes[rows], *genes_range)
        member = np.zeros((len(kept), n_batches))
        member[np.arange(len(kept)), batch[rows]] = kept
        total += values.T @ member
        if scores:
            by_depth += values.T @ (member * depth[:, None])
            values.data **= 2
            squares += values.T @ member
        values.data[:] = 1
        gene_cells += values.T @ kept
    score = _score(total, squares, by_depth, cell_total * cells, batch) if scores else None
    as_int = [a.astype(np.int64) for a in (cell_total, cell_genes, total.sum(axis=1), gene_cells)]
    return Sums(cells, *as_int, score)


def _score(total, squares, by_depth, depth: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Variance around what the cells' totals predict, in units of the Poisson variance; -1 for empty genes."""
    n_batches = total.shape[1]
    whole = np.maximum(np.bincount(batch, depth, n_batches), 1)
    rate = total / whole  # m_cg = rate_gb * depth_c
    mean_squares = rate**2 * np.bincount(batch, depth**2, n_batches)
    observed = (squares - 2 * rate * by_depth + mean_squares).sum(axis=1)
    expected = total.sum(axis=1)
    return np.divide(observed, expected, out=np.full(len(total), -1.0), where=expected > 0)


def cell_sums(x, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up counts and expressed genes of each cell among `genes`."""
    total, detected = np.zeros((2, x.shape[0]), np.int64)
    for first, block in steps(x):
        rows = slice(first, first + block.shape[0])
        values = block.astype(np.float64)
        total[rows] = values @ genes
        values.data[:] = 1
        detected[rows] = values @ genes
    return total, detected


def same_counts(x, y) -> bool:
    """Whether two matrices are equal, by one random sum per cell: exact for integers, whatever their kinds."""
    weights = np.random.default_rng(0).integers(1, 2**20, x.shape[1]).astype(np.float64)
    prints = []
    for matrix in (x, y):
        prints.append(np.concatenate([block @ weights for _, block in row_blocks(matrix)]))
    return np.array_equal(*prints)
