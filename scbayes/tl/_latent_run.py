"""What is fitted where a model has a latent space, and what was found."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from scbayes.models._latent_config import LatentConfig
from scbayes.models._latent_model import Sizes
from scbayes.tl._latent_cells import LatentCells


class LatentRun(NamedTuple):
    """Model and data of a run.

    Attributes
    ----------
    config, sizes
        The model.
    cells, fixed
        What it is told.
    facts
        Inputs and settings, for the manifest.
    sets, split
        Positions of the cells that train and that validate; the set of each cell.
    """

    config: LatentConfig
    sizes: Sizes
    cells: LatentCells
    fixed: dict
    facts: dict
    sets: tuple[np.ndarray, np.ndarray]
    split: pd.Categorical


class Found(NamedTuple):
    """What a run gave.

    Attributes
    ----------
    params
        Learned numbers, a pytree.
    loc, scale
        Mean and standard deviation of the latent numbers of the cells, float32 ``(n_cells, D)``.
    history, best_epoch
        Means over cells of reconstruction, KL and label by epoch and set, ``(n_epochs, 2, 3)``, and which one is kept.
    n_rejected
        Steps that were not finite.
    n_active
        Latent dimensions in use.
    accuracy
        Of labels, by set; None without labels.
    converged, interrupted
        How it ended.
    unfinished
        Arrays with which to go on; None if it is done, or starts anew each time.
    """

    params: dict
    loc: np.ndarray
    scale: np.ndarray
    history: np.ndarray
    best_epoch: int
    n_rejected: int
    n_active: int
    accuracy: dict | None
    converged: bool
    interrupted: bool
    unfinished: list | None
