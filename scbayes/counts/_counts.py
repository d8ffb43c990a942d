"""One door to the counts of a data set, whatever holds them."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np
from scipy import sparse

from scbayes.counts._blocks import row_blocks
from scbayes.counts._check import check_counts, check_shape
from scbayes.counts._project import gather, scatter
from scbayes.counts._score import score_cells, score_genes
from scbayes.counts._summary import Summary, merge, summarise_block
from scbayes.counts._weigh import spread, tally

#: Threads that score cells.
N_THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Counts:
    """Counts of cells x genes, read in blocks of cells and never dense.

    Parameters
    ----------
    x
        Cells x genes: CSR, CSC, dense, a backed matrix, or a dask array.
    batch
        Batch of each cell, integers from 0, shape ``(n_cells,)``; one batch where it is None.
    n_batches
        Number of batches.
    mask
        Genes to keep, bool, shape ``(n_genes,)``. The others are pooled into one last gene, so that totals stay whole.
    where
        What messages call the matrix, e.g. ``"layer 'counts'"``.
    """

    def __init__(self, x, batch=None, n_batches: int = 1, mask=None, where: str = "X") -> None:
        check_shape(x, where)
        # columns cannot be read in blocks of cells: turned into rows once, not at each pass
        self.x = sparse.csr_array(x) if sparse.issparse(x) and x.format == "csc" else x
        self.where = where
        self.batch = np.zeros(x.shape[0], np.int32) if batch is None else np.ascontiguousarray(batch, np.int32)
        self.n_batches = n_batches
        self.column = None
        self.n_genes = x.shape[1]
        if mask is not None and not mask.all():
            kept = int(mask.sum())
            self.column = np.where(mask, np.cumsum(mask) - 1, kept)
            self.n_genes = kept + 1

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.x.shape[0]

    def blocks(self, *, check: bool = False) -> Iterator[tuple[int, object]]:
        """First cell and CSR matrix of each block, checked if asked, columns pooled as the mask says."""
        for first, block in row_blocks(self.x, where=self.where):
            if check:
                check_counts(block, self.where)
            yield first, block if self.column is None else _pool(block, self.column, self.n_genes)

    def cells(self, index) -> "Counts":
        """Counts of some of the cells, in memory."""
        rows = [block for _, block in self.blocks()]
        x = rows[0] if len(rows) == 1 else sparse.vstack(rows, format="csr")
        return Counts(x[index], self.batch[index], self.n_batches, where=self.where)

    def genes(self, index) -> "Counts":
        """Counts of some of the genes, in memory."""
        blocks = [block[:, index] for _, block in self.blocks()]
        x = blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")
        return Counts(x, self.batch, self.n_batches, where=self.where)

    def summarise(self) -> Summary:
        """Sufficient statistics, from one checked pass over the non-zeros."""
        parts = []
        for first, block in self.blocks(check=True):
            batch = self.batch[first : first + block.shape[0]]
            parts.append(summarise_block(block.indptr, block.indices, block.data, batch, self.n_genes, self.n_batches))
        return reduce(merge, parts)

    def weigh(self, summary: Summary, membership: np.ndarray) -> Summary:
        """The summary of these counts with each cell in the components of a mixture, as ``membership`` says."""
        first = np.searchsorted(summary.row, np.arange(self.n_batches * self.n_genes + 1))
        membership = np.ascontiguousarray(membership, float)
        cells = np.zeros((len(summary.row), membership.shape[1]))
        for start, block in self.blocks():
            here = slice(start, start + block.shape[0])
            parts = block.indptr, block.indices, block.data, self._offset(here)
            tally(*parts, first, summary.count, membership[here], cells)
        return spread(summary, membership, cells)

    def gather(self, weights: np.ndarray, *, detected: bool) -> tuple[np.ndarray, np.ndarray]:
        """Node sums of counts and, if asked, of detections: float64, shape ``(n_batches, n_genes, n_nodes)`` each.

        Cells whose weights are all zero cost nothing.
        """
        n_rows = self.n_batches * self.n_genes
        counts = np.zeros((n_rows, weights.shape[1]))
        seen = np.zeros((n_rows if detected else 0, weights.shape[1]))
        for first, block in self.blocks():
            cells = slice(first, first + block.shape[0])
            gather(block.indptr, block.indices, block.data, self._offset(cells), weights[cells], counts, seen)
        shape = (self.n_batches, self.n_genes, weights.shape[1])
        return counts.reshape(shape), seen.reshape(shape if detected else (0, 0, weights.shape[1]))

    def scatter(self, per_count: np.ndarray, per_detection: np.ndarray | None = None, active=None) -> np.ndarray:
        """Sums over each cell's non-zeros of functions tabulated per gene on nodes: ``(n_cells, n_nodes)``.

        Parameters
        ----------
        per_count, per_detection
            Shape ``(n_batches, n_genes, n_nodes)``: added count times, and once for each non-zero.
        active
            Bool ``(n_cells,)``: the others stay zero.
        """
        n_nodes = per_count.shape[-1]
        out = np.zeros((self.n_cells, n_nodes))
        active = np.ones(self.n_cells, bool) if active is None else active
        per_count = np.ascontiguousarray(per_count).reshape(-1, n_nodes)
        once = np.zeros((0, n_nodes)) if per_detection is None else np.ascontiguousarray(per_detection)
        for first, block in self.blocks():
            cells = slice(first, first + block.shape[0])
            offset = self._offset(cells)
            parts = block.indptr, block.indices, block.data, offset
            scatter(*parts, active[cells], per_count, once.reshape(-1, n_nodes), out[cells])
        return out

    def score_cells(self, size, odds, gate, nu, weight=None) -> np.ndarray:
        """What each cell's non-zeros score under each component, see :mod:`scbayes.counts._score`.

        Parameters
        ----------
        size, odds, gate
            Float64 ``(n_batches, n_genes, n_components)``: size, odds at nu = 1, probability of an excess zero or None.
            Odds of one gene only are those of all.
        nu
            Shape ``(n_cells,)``.
        weight
            Multiplies each gene's part, ``(n_genes,)``.

        Returns
        -------
        Float64 ``(n_cells, n_components, 3)``: the score and its first two derivatives in ln nu.
        """
        size, odds, gate = self._tables(size, odds, gate)
        weight = np.zeros(0) if weight is None else np.ascontiguousarray(weight, float)
        out = np.zeros((self.n_cells, size.shape[1], 3))
        nu = np.ascontiguousarray(nu, float)

        def score(cells: slice, block, rows: slice) -> None:
            parts = block.indptr[rows.start : rows.stop + 1], block.indices, block.data
            rest = self._offset(cells), self.batch[cells], size, odds, gate, weight, nu[cells], out[cells]
            score_cells(*parts, *rest)

        with ThreadPoolExecutor(N_THREADS) as pool:  # cells do not touch each other's rows
            for first, block in self.blocks():
                ends = np.linspace(0, block.shape[0], N_THREADS + 1).astype(int)
                rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
                done = [pool.submit(score, slice(first + r.start, first + r.stop), block, r) for r in rows]
                for job in done:
                    job.result()
        return out

    def score_genes(self, size, odds, gate, nu, weight) -> np.ndarray:
        """What each gene's non-zeros score, cells weighted by ``weight`` (n_cells, n_components).

        Returns float64 ``(n_batches, n_genes, n_components)``; the other arguments are those of :meth:`score_cells`.
        """
        size, odds, gate = self._tables(size, np.broadcast_to(odds, np.shape(size)), gate)
        out = np.zeros_like(size)
        for first, block in self.blocks():
            cells = slice(first, first + block.shape[0])
            parts = block.indptr, block.indices, block.data, self._offset(cells)
            score_genes(*parts, size, odds, gate, np.ascontiguousarray(weight[cells], float), nu[cells], out)
        return out.reshape(self.n_batches, self.n_genes, -1)

    def _tables(self, size, odds, gate) -> list[np.ndarray]:
        """Tables with one row per batch and gene (or batch, where genes share them); no rows for a gate of None."""
        n = np.shape(size)[-1]
        gate = np.zeros((0, n)) if gate is None else np.broadcast_to(gate, np.shape(size))
        return [np.ascontiguousarray(part, float).reshape(-1, n) for part in (size, odds, gate)]

    def _offset(self, cells: slice) -> np.ndarray:
        return self.batch[cells].astype(np.int64) * self.n_genes


def _pool(block, column: np.ndarray, n_genes: int):
    """``block`` with its columns renumbered, those of pooled genes summed into the last one."""
    # sums of small integer types could overflow
    data = block.data.astype(np.int64 if np.issubdtype(block.dtype, np.integer) else np.float64)
    pooled = sparse.csr_array((data, column[block.indices], block.indptr.copy()), shape=(block.shape[0], n_genes))
    pooled.sum_duplicates()
    return pooled
