"""What is asked about the effects of a contrast."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse


class Question(NamedTuple):
    """What is asked.

    Attributes
    ----------
    statistic
        ``"mean"`` or ``"dispersion"``: what effects are log ratios of.
    mode
        ``"change"``: is there an effect beyond ``delta``; ``"vanilla"``: in which direction is it.
    delta
        In log2, or ``"auto"``.
    fdr
        Expected share of false calls.
    levels
        Of the intervals, the first of which is the main one.
    relative_to
        As :func:`scbayes.models._units.size_factors`.
    change, in_region
        Effect of the means of both arms, and which effects count as a change; or None.
    n_samples, n_pairs
        Draws for these two, and how many pairs are made of them; None: as drawn.
    seed
        Of these draws.
    sets
        Weights of genes in sets whose effects are asked for, ``(n_sets, n_genes)``; or None.
    """

    statistic: str = "mean"
    mode: str = "change"
    delta: float | str = 0.0
    fdr: float = 0.05
    levels: tuple[float, ...] = (0.95,)
    relative_to: "str | np.ndarray" = "median"
    change: Callable | None = None
    in_region: Callable | None = None
    n_samples: int = 5000
    n_pairs: int | None = None
    seed: int = 0
    sets: sparse.csr_matrix | None = None


def interval_columns(levels: tuple[float, ...], prefix: str = "ci") -> list[tuple[str, float]]:
    """Columns of the ends of intervals, and the probability below each: the first level has the plain names."""
    named = [("" if k == 0 else f"_{100 * level:g}", level) for k, level in enumerate(levels)]
    return [
        (f"{prefix}_{end}{name}", (1 + sign * level) / 2)
        for name, level in named
        for end, sign in (("low", -1), ("high", 1))
    ]
