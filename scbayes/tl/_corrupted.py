"""Counts that are made smaller, to see what a model takes them to have been."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from scbayes.tl._latent_cells import LatentCells

#: Probability that a count stays ("uniform"), or that each molecule of it does ("binomial").
KEPT = {"uniform": 0.9, "binomial": 0.2}


class Corrupted(NamedTuple):
    """Cells with counts that are too low, and which these are.

    Attributes
    ----------
    cells
        The cells as a model would see them.
    cell, gene
        Where counts changed, positions in order of cells, int32 ``(m,)``.
    original, corrupted
        The counts there before and after, float32 ``(m,)``.
    n_spared
        Cells that would have lost all counts, and were left as they are.
    """

    cells: LatentCells
    cell: np.ndarray
    gene: np.ndarray
    original: np.ndarray
    corrupted: np.ndarray
    n_spared: int

    @property
    def baselines(self) -> dict[str, np.ndarray]:
        """What would be said without a model: the corrupted count itself; and the composition of all cells."""
        profile = np.asarray(self.cells.x.sum(0), float)
        return {
            "corrupted": self.corrupted,
            "profile": self.cells.total[self.cell] * (profile / profile.sum())[self.gene],
        }


def corrupt(cells: LatentCells, corruption: str, rate: float, rng: np.random.Generator, *, observed: bool) -> Corrupted:
    """Make a share `rate` of the counts smaller.

    ``"uniform"``: the count is multiplied by Bernoulli(0.9); ``"binomial"``: it becomes Binomial(count, 0.2). Zeros
    stay zeros, so that of all entries, zeros included, only counts above 0 have to be drawn.

    Parameters
    ----------
    observed
        Whether the library size is the sum of the counts, and falls with them.
    """
    x = cells.x
    picked = np.flatnonzero(rng.random(x.nnz) < rate)
    value = x.data.copy()
    if corruption == "uniform":
        value[picked] *= rng.random(len(picked)) < KEPT[corruption]
    else:
        value[picked] = rng.binomial(value[picked].astype(np.int64), KEPT[corruption])
    cell = np.repeat(np.arange(x.shape[0], dtype=np.int32), np.diff(x.indptr))
    spared = np.bincount(cell, value, x.shape[0]) == 0
    value = np.where(spared[cell], x.data, value)
    changed = np.flatnonzero(value != x.data)
    low = sparse.csr_array((value, x.indices, x.indptr), shape=x.shape)
    total = np.asarray(low.sum(1), np.float32)
    size = np.log(total) if observed else cells.log_size
    seen = cells._replace(x=low, total=total, log_size=size)
    where = cell[changed], x.indices[changed].astype(np.int32)
    return Corrupted(seen, *where, x.data[changed], value[changed], int(spared.sum()))
