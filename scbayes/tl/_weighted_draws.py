"""Draws of the latent numbers of a population of cells, with importance weights where they are asked for."""

from typing import NamedTuple

import numpy as np

from scbayes.models._importance_weights import Anchors, Weights, importance_weights
from scbayes.models._latent_scores import CELLS
from scbayes.tl._latent_reading import LatentReading


class WeightedDraws(NamedTuple):
    """Draws ``v`` float32 ``(n_draws, D)``, position of the cell of each, and their weights."""

    v: np.ndarray
    cells: np.ndarray
    weights: Weights


def weighted_draws(
    reading: LatentReading,
    cells: np.ndarray,
    n_draws: int,
    *,
    max_cells: int = 1024,
    n_samples: int = 500,
    truncate: bool = False,
    rng: np.random.Generator,
) -> WeightedDraws:
    """Draws from the mixture of the q of some cells, as evenly spread over them as can be, and their weights.

    Every draw is decoded for every cell: ``n_draws * max_cells * n_genes`` densities of a count, about 5 ns each.

    Parameters
    ----------
    cells
        Positions or a mask.
    max_cells
        If there are more cells, so many of them stand for all.
    n_samples, truncate
        As in :func:`scbayes.models._importance_weights.importance_weights`.
    """
    cells = np.arange(reading.n_cells)[cells]
    if len(cells) > max_cells:
        cells = np.sort(rng.choice(cells, max_cells, replace=False))
    each, rest = divmod(n_draws, len(cells))
    of = np.concatenate([np.repeat(np.arange(len(cells)), each), rng.choice(len(cells), rest, replace=False)])
    few = reading.select(cells)
    noise = rng.standard_normal((n_draws, few.fit.loc.shape[1]))
    v = (few.fit.loc[of] + few.fit.scale[of] * noise).astype(np.float32)
    anchors = (Anchors(b.inputs, b.loc, b.scale, b.cells.stop - b.cells.start) for b in few.blocks(CELLS))
    seed = int(rng.integers(2**31))
    weights = importance_weights(few.model, anchors, v, seed=seed, n_samples=n_samples, truncate=truncate)
    return WeightedDraws(v, cells[of], weights)
