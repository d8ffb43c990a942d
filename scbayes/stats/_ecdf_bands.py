r"""Are numbers uniform? Their ECDF within bands that hold it as a whole with a stated probability.

Of :math:`N` independent uniform numbers, :math:`R_i` lie below :math:`z_i`, and :math:`R_i \sim \mathrm{Bin}(N, z_i)`.
Intervals that each hold :math:`R_i` with probability :math:`1 - \gamma` hold all of them less often.
:math:`R_1, R_2, \dots` is a Markov chain,

.. math:: R_{i+1} - R_i \mid R_i \sim \mathrm{Bin}\!\left(N - R_i, \frac{z_{i+1} - z_i}{1 - z_i}\right),

so that the probability of all is a sum over paths, which gives :math:`\gamma` exactly (Säilynoja, Bürkner, Vehtari
2022, Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and multiple sample
comparison, Stat Comput 32, 32; their algorithm 2).
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import binom

#: Points at which an ECDF is looked at, at most.
MOST = 50


class Verdict(NamedTuple):
    """Whether numbers look uniform.

    Attributes
    ----------
    p
        Probability that uniform numbers leave narrower bands than these do: below 0.01, they leave the bands of 99%.
    points
        Where the ECDF was looked at, within 0 and 1.
    difference
        ECDF less the uniform distribution function, at each point.
    """

    p: float
    points: np.ndarray
    difference: np.ndarray


def ecdf_bands(n: int, points: np.ndarray, level: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """Bands that the ECDF of ``n`` uniform numbers stays within, at all points at once, with probability ``level``.

    Parameters
    ----------
    points
        Increasing, within 0 and 1 (both excluded).

    Returns
    -------
    Lowest and highest ECDF less the uniform distribution function, at each point. Counts are whole, so that the
    probability is at least ``level``, and the bands are the narrowest of their kind with that property.
    """
    low, high = 0.0, 1.0
    for _ in range(40):  # the probability falls, in steps, as gamma rises
        gamma = (low + high) / 2
        low, high = (gamma, high) if _stays(n, points, *_range(n, points, gamma)) >= level else (low, gamma)
    least, most = _range(n, points, low)
    return least / n - points, most / n - points


def judge_ranks(ranks: np.ndarray, n_draws: int) -> Verdict:
    """Whether ranks of true values among ``n_draws`` draws of their posteriors are uniform on 0, ..., ``n_draws``.

    Parameters
    ----------
    ranks
        Independent of each other: one of each simulated data set.
    """
    n, size = len(ranks), n_draws + 1
    edges = np.unique(np.round(np.linspace(0, size, min(MOST, size, max(n, 2)) + 1)).astype(int))[1:-1]
    points = edges / size
    below = np.searchsorted(np.sort(ranks), edges)
    depth = _depth(n, points, below)
    p = 1 - _stays(n, points, *_range(n, points, float(depth.min()), closed=False))
    return Verdict(p, points, below / n - points)


def _depth(n: int, points: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Twice the smaller tail of each count: the gamma whose interval it just leaves."""
    return 2 * np.minimum(binom.cdf(below, n, points), binom.sf(below - 1, n, points))


def _range(n: int, points: np.ndarray, gamma: float, *, closed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest count whose depth is at least ``gamma`` (above it, where not ``closed``)."""
    count = np.arange(n + 1)
    depth = _depth(n, points[:, None], count)
    inside = depth >= gamma if closed else depth > gamma * (1 + 1e-12)
    return np.where(inside, count, n + 1).min(1), np.where(inside, count, -1).max(1)


def _stays(n: int, points: np.ndarray, least: np.ndarray, most: np.ndarray) -> float:
    """Probability that all counts lie within ``least`` and ``most``."""
    if np.any(least > most):
        return 0.0
    count = np.arange(n + 1)
    reached, at = np.where(count == 0, 1.0, 0.0), 0.0
    for point, low, high in zip(points, least, most, strict=True):
        here = np.flatnonzero(reached)
        there = np.arange(low, high + 1)
        step = binom.pmf(there[:, None] - here, n - here, (point - at) / (1 - at))
        now = np.zeros(n + 1)
        now[there] = step @ reached[here]
        reached, at = now, point
    return float(reached.sum())
