"""One door to the counts of a data set, whatever holds them."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from scbayes.counts._blocks import is_dask, is_stored, row_blocks
from scbayes.counts._check import check_counts, check_shape
from scbayes.counts._compact import Compact
from scbayes.counts._project import gather, scatter
from scbayes.counts._score import score_cells, score_genes
from scbayes.counts._summary import Summary, Tally
from scbayes.counts._threads import N_THREADS, over_rows
from scbayes.counts._weigh import spread, tally
from scbayes.stats._jit import jit

#: Memory that the sums of parts of blocks may take together, and their largest number; not those of the machine.
SUM_BYTES, MAX_SUMS = 256 * 1024**2, 8
#: Memory for counts from a file that are kept between passes: about a billion non-zeros. Beyond it they are read again.
KEEP_BYTES = 2 * 1024**3


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
    only
        Columns that are read, bool; the others are as if they were not there.
    """

    def __init__(self, x, batch=None, n_batches: int = 1, mask=None, where: str = "X", only=None) -> None:
        check_shape(x, where)
        # columns cannot be read in blocks of cells: turned into rows once, not at each pass
        self.x = sparse.csr_array(x) if sparse.issparse(x) and x.format == "csc" else x
        self.where = where
        self.batch = np.zeros(x.shape[0], np.int32) if batch is None else np.ascontiguousarray(batch, np.int32)
        self.n_batches = n_batches
        self.column = None
        self.only = None if only is None or only.all() else np.flatnonzero(only)
        self.n_genes = x.shape[1] if self.only is None else len(self.only)
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
            if self.only is not None:
                block = block[:, self.only]
            if check:
                check_counts(block, self.where)
            if self.column is not None:
                block = _pool(block, self.column, self.n_genes)
                if check:
                    check_counts(block, f"the sum of the pooled genes in {self.where}")
            yield first, block

    def cells(self, index) -> "Counts":
        """Counts of some of the cells, in memory."""
        rows = [block for _, block in self.blocks()]
        x = rows[0] if len(rows) == 1 else sparse.vstack(rows, format="csr")
        return Counts(x[index], self.batch[index], self.n_batches, where=self.where)

    def pick(self, keep: np.ndarray) -> "Counts":
        """Counts of the cells that a mask keeps, in memory; the others are never there together."""
        parts = [block[keep[first : first + block.shape[0]]] for first, block in self.blocks()]
        x = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        return Counts(x, self.batch[keep], self.n_batches, where=self.where)

    def totals(self, *, keep: bool = False) -> np.ndarray:
        """Sum of the counts of each cell, int64, from one checked pass; what a file gives is kept as `summarise` does.

        Parameters
        ----------
        keep
            Whether it is kept.
        """
        total = np.zeros(self.n_cells, np.int64)
        kept = Compact(self.n_genes) if keep and self.streamed else None

        def add(_, cells: slice, indptr, indices, data) -> None:
            _add_rows(indptr, data, total[cells])

        for first, block in self.blocks(check=True):
            over_rows(add, block, first)
            kept = _kept(kept, block)
        self._take(kept)
        return total

    def genes(self, index) -> "Counts":
        """Counts of some of the genes, in memory."""
        blocks = [block[:, index] for _, block in self.blocks()]
        x = blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")
        return Counts(x, self.batch, self.n_batches, where=self.where)

    @property
    def streamed(self) -> bool:
        """Whether each pass reads a file, or computes a dask array."""
        return is_stored(self.x) or is_dask(self.x)

    def summarise(self, *, keep: bool = False) -> Summary:
        """Sufficient statistics, from one checked pass over the non-zeros.

        Parameters
        ----------
        keep
            Keep what was read in memory, for further passes, if it fits in `KEEP_BYTES` (about two a non-zero).
        """
        summary = Tally(self.batch, self.n_genes, self.n_batches, N_THREADS)
        kept = Compact(self.n_genes) if keep else None
        for first, block in self.blocks(check=True):
            over_rows(summary.add, block, first)
            kept = _kept(kept, block)
        self._take(kept)
        return summary.summary()

    def weigh(self, summary: Summary, membership: np.ndarray) -> Summary:
        """The summary of these counts with each cell in the components of a mixture, as ``membership`` says."""
        first = np.searchsorted(summary.row, np.arange(self.n_batches * self.n_genes + 1))
        membership = np.ascontiguousarray(membership, float)
        return spread(summary, membership, self.tally(first, summary.count, membership))

    def tally(self, first: np.ndarray, count: np.ndarray, membership: np.ndarray) -> np.ndarray:
        """Sums of memberships over the cells behind each pair, see :func:`scbayes.counts._weigh.tally`."""
        sums = _sums(len(count), membership.shape[1])

        def add(part: int, cells: slice, *vectors) -> None:
            tally(*vectors, self._offset(cells), first, count, membership[cells], sums[part])

        self._run(add, len(sums))
        return sums.sum(0)

    def gather(self, weights: np.ndarray, *, detected: bool) -> tuple[np.ndarray, np.ndarray]:
        """Node sums of counts and, if asked, of detections: float64, shape ``(n_batches, n_genes, n_nodes)`` each.

        Cells whose weights are all zero cost nothing.
        """
        n_rows, n_nodes = self.n_batches * self.n_genes, weights.shape[1]
        sums = _sums(n_rows * (1 + detected), n_nodes)

        def add(part: int, cells: slice, *vectors) -> None:
            gather(*vectors, self._offset(cells), weights[cells], sums[part, :n_rows], sums[part, n_rows:])

        self._run(add, len(sums))
        counts, seen = np.split(sums.sum(0), [n_rows])
        shape = (self.n_batches, self.n_genes, n_nodes)
        return counts.reshape(shape), seen.reshape(shape if detected else (0, 0, n_nodes))

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
        once = once.reshape(-1, n_nodes)

        def add(_, cells: slice, *vectors) -> None:
            scatter(*vectors, self._offset(cells), active[cells], per_count, once, out[cells])

        self._run(add)
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

        def score(_, cells: slice, *vectors) -> None:
            score_cells(
                *vectors, self._offset(cells), self.batch[cells], size, odds, gate, weight, nu[cells], out[cells]
            )

        self._run(score)
        return out

    def score_genes(self, size, odds, gate, nu, weight) -> np.ndarray:
        """What each gene's non-zeros score, cells weighted by ``weight`` (n_cells, n_components).

        Returns float64 ``(n_batches, n_genes, n_components)``; the other arguments are those of :meth:`score_cells`.
        """
        size, odds, gate = self._tables(size, np.broadcast_to(odds, np.shape(size)), gate)
        weight = np.ascontiguousarray(weight, float)
        sums = _sums(*size.shape)

        def score(part: int, cells: slice, *vectors) -> None:
            score_genes(*vectors, self._offset(cells), size, odds, gate, weight[cells], nu[cells], sums[part])

        self._run(score, len(sums))
        return sums.sum(0).reshape(self.n_batches, self.n_genes, -1)

    def _take(self, kept: Compact | None) -> None:
        """Read from memory from now on."""
        if kept is not None:
            self.x, self.column, self.only = kept, None, None

    def _run(self, function, n_parts: int | None = None) -> None:
        for first, block in self.blocks():
            over_rows(function, block, first, n_parts)

    def _tables(self, size, odds, gate) -> list[np.ndarray]:
        """Tables with one row per batch and gene (or batch, where genes share them); no rows for a gate of None."""
        n = np.shape(size)[-1]
        gate = np.zeros((0, n)) if gate is None else np.broadcast_to(gate, np.shape(size))
        return [np.ascontiguousarray(part, float).reshape(-1, n) for part in (size, odds, gate)]

    def _offset(self, cells: slice) -> np.ndarray:
        return self.batch[cells].astype(np.int64) * self.n_genes


def _kept(kept: Compact | None, block) -> Compact | None:
    """What is kept with a block more, None if it takes more than `KEEP_BYTES`."""
    if kept is not None:
        kept.add(block)
    return None if kept is None or kept.n_bytes > KEEP_BYTES else kept


def _sums(n_rows: int, n_columns: int) -> np.ndarray:
    """Zeros for sums that parts of blocks add to, each its own: no sum depends on the number of threads."""
    n_parts = min(max(SUM_BYTES // (8 * max(n_rows * n_columns, 1)), 1), MAX_SUMS)
    return np.zeros((n_parts, n_rows, n_columns))


def _pool(block, column: np.ndarray, n_genes: int):
    """``block`` with its columns renumbered, those of pooled genes summed into the last one."""
    # sums of small integer types could overflow
    data = block.data.astype(np.int64 if np.issubdtype(block.dtype, np.integer) else np.float64)
    pooled = sparse.csr_array((block.shape[0], n_genes), dtype=data.dtype)
    pooled.indptr, pooled.indices = np.empty_like(block.indptr), np.empty_like(block.indices)
    n_values = _pool_rows(block.indptr, block.indices, data, column, n_genes, pooled.indptr, pooled.indices)
    pooled.indices, pooled.data = pooled.indices[:n_values], data[:n_values]
    return pooled


@jit
def _add_rows(indptr, data, out):
    for c in range(len(indptr) - 1):
        total = 0
        for k in range(indptr[c], indptr[c + 1]):
            total += np.int64(data[k])
        out[c] = total


@jit
def _pool_rows(indptr, indices, data, column, n_genes, new_indptr, new_indices):
    """Write the new columns, and their values over ``data``; genes that are kept keep their order."""
    last, to, none = n_genes - 1, 0, np.zeros(1, data.dtype)[0]
    for c in range(len(indptr) - 1):
        new_indptr[c] = to
        rest = none
        for k in range(indptr[c], indptr[c + 1]):
            gene = column[indices[k]]
            if gene == last:
                rest += data[k]
            else:
                new_indices[to], data[to] = gene, data[k]
                to += 1
        if rest > 0:
            new_indices[to], data[to] = last, rest
            to += 1
    new_indptr[-1] = to
    return to
