"""Small dense blocks of cells, for computations that need every gene of a cell at once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from scbayes.counts._counts import Counts

#: Entries that one block may have; it then stays near the processor.
ENTRIES = 1 << 20
#: Fewest and most cells of a block.
ROWS = (32, 512)


class DenseBlock(NamedTuple):
    """Counts of a few cells of one batch.

    ``cells`` (n,) says which they are; ``x`` is float32 ``(rows, n_genes)``, rows beyond the n-th are zero.
    """

    batch: int
    cells: np.ndarray
    x: np.ndarray


def n_rows(counts: Counts) -> int:
    """Rows of each block: a power of two, so that few shapes are compiled; not much more than a batch has cells."""
    fit = ENTRIES // max(counts.n_genes, 1)
    usual = counts.n_cells // max(2 * counts.n_batches, 1)
    rows = min(fit, max(usual, 1))
    return 1 << int(np.clip(rows, *ROWS)).bit_length() - 1


def dense_blocks(counts: Counts) -> Iterator[DenseBlock]:
    """Walk over all cells, a block of cells of one batch at a time; all blocks have the same number of rows.

    Cells of a batch that do not fill a block wait for those of the next read, so few rows are empty.
    """
    rows = n_rows(counts)
    waiting: dict[int, tuple[np.ndarray, sparse.csr_array]] = {}
    for first, block in counts.blocks():
        batch = counts.batch[first : first + block.shape[0]]
        for b in np.unique(batch):
            own = np.flatnonzero(batch == b)
            cells, part = own + first, block if len(own) == block.shape[0] else block[own]
            if b in waiting:
                before, left = waiting.pop(b)
                cells, part = np.concatenate([before, cells]), sparse.vstack([left, part], format="csr")
            full = len(cells) - len(cells) % rows
            for start in range(0, full, rows):
                yield _dense(b, cells[start : start + rows], part, start, rows)
            if full < len(cells):
                waiting[b] = cells[full:], part[full:]
    for b, (cells, part) in waiting.items():
        yield _dense(b, cells, part, 0, rows)


def _dense(batch: int, cells: np.ndarray, part: sparse.csr_array, start: int, rows: int) -> DenseBlock:
    indptr = part.indptr[start : start + len(cells) + 1]
    values = slice(indptr[0], indptr[-1])
    x = np.zeros((rows, part.shape[1]), np.float32)
    x[np.repeat(np.arange(len(cells)), np.diff(indptr)), part.indices[values]] = part.data[values]
    return DenseBlock(int(batch), cells, x)
