r"""Mean and size of the native counts of features, from expected counts, with priors that are learned.

.. math:: N \sim \mathrm{NB}(m\,s, r) \mid N > 0, \qquad \log m \sim \mathrm{N}(M_b, \tau^2), \quad
          \log r \sim \mathrm{N}(R, \rho^2)

with :math:`s = (\lambda / \bar\lambda)^\gamma`. Features of few cells are drawn to the others of their batch.
"""

import math
from typing import NamedTuple

import numpy as np

from scbayes.models._feature_counts import Features, Nodes, Sums
from scbayes.stats._jit import jit

#: Hyperpriors: cells' worth of the first spread in that which is learned, smallest spread, centre and spread of R.
N_PRIOR, SMALLEST, SIZE_CENTRE, SIZE_SPREAD = 5.0, 0.05, math.log(3.0), 1.0
#: Spreads of log m and log r at the start, and of M around the mean of all batches.
START, BATCHES = np.array([0.5, 0.5]), 1.0
#: Newton steps in each round, longest step, and where log r stays.
N_STEPS, LONGEST, SIZE_RANGE = 3, 0.7, (math.log(0.1), math.log(1000.0))
#: Centre and spread of log phi, which is 50 at the start, and where it stays.
AMBIENT_SIZE, AMBIENT_SPREAD, AMBIENT_RANGE = 50.0, 1.5, (math.log(0.3), math.log(1e4))
#: Where gamma stays, and its prior.
COUPLINGS, COUPLING_SPREAD = (0.0, 1.5), 0.5


class Population(NamedTuple):
    """Centres of log m ``(B,)`` and of log r, and spreads of both ``(2,)``."""

    mean: np.ndarray
    size: float
    spread: np.ndarray


def renew_natives(mean, size, population: Population, coupling: float, offset: np.ndarray, sums: Sums) -> tuple:
    """One round of the most probable means and sizes ``(B, F)``, of what they have in common, and of gamma.

    Parameters
    ----------
    offset
        Log of each node's ambient amount over the batch's centre, ``(B, G)``.
    sums
        Expected sums of these.
    """
    cells, counts, above, start = sums.cells, sums.native, sums.native_above, sums.start
    n_batches, n_features = mean.shape
    log = np.stack([np.log(mean).ravel(), np.log(size).ravel()], 1)
    curvature = np.empty((len(log), 2, 2))
    gamma = np.zeros(2)
    centre = np.stack([np.repeat(population.mean, n_features), np.full(len(log), population.size)], 1)
    _newton(log, curvature, gamma, coupling, offset, centre, population.spread, cells, counts, above, start)
    step = (gamma[0] - (coupling - 0.5) / COUPLING_SPREAD**2) / (gamma[1] + 1 / COUPLING_SPREAD**2)
    coupling = float(np.clip(coupling + np.clip(step, -0.2, 0.2), *COUPLINGS))
    seen = (cells.sum(1) > 0.5).reshape(n_batches, n_features)
    variance = np.linalg.inv(curvature)[:, [0, 1], [0, 1]].reshape(n_batches, n_features, 2)
    log = log.reshape(n_batches, n_features, 2)
    population = _population(log, variance, seen, population)
    return np.exp(log[..., 0]), np.exp(log[..., 1]), population, coupling


def renew_ambient_size(features: Features, at: Nodes, node: np.ndarray, sums: Sums) -> np.ndarray:
    """A Newton step for phi of each batch, ``(B,)``.

    Parameters
    ----------
    node
        Cells at each node, ``(B, G)``.
    sums
        Expected sums.
    """
    n_batches, n_features = features.profile.shape
    start, new = sums.start, np.empty(n_batches)
    for b, size in enumerate(features.ambient_size):
        h = b * n_features
        j = np.arange(start[h], start[h + n_features]) - np.repeat(
            start[h : h + n_features], np.diff(start[h : h + n_features + 1])
        )
        above = sums.ambient_above[start[h] : start[h + n_features]]
        rate = np.exp(at.amount[b]) * features.profile[b][:, None]
        cells, counts = node[b], sums.ambient[h : h + n_features]
        both, zero = rate + size, -np.log1p(rate / size)
        first = (above / (size + j)).sum() + (cells * (zero + 1) - (counts + cells * size) / both).sum()
        second = -(above / (size + j) ** 2).sum()
        second += (cells / size - 2 * cells / both + (counts + cells * size) / both**2).sum()
        slope = size * first - (np.log(size) - np.log(AMBIENT_SIZE)) / AMBIENT_SPREAD**2
        bend = max(-(size * first + size**2 * second), 0.0) + 1 / AMBIENT_SPREAD**2
        new[b] = np.exp(np.clip(np.log(size) + np.clip(slope / bend, -LONGEST, LONGEST), *AMBIENT_RANGE))
    return new


def _population(log: np.ndarray, variance: np.ndarray, seen: np.ndarray, old: Population) -> Population:
    if not seen.any():
        return old
    n = seen.sum(1)
    overall = log[seen][:, 0].mean()
    weight = n / old.spread[0] ** 2
    mean = (weight * np.where(seen, log[..., 0], 0).sum(1) / np.maximum(n, 1) + overall / BATCHES**2) / (
        weight + 1 / BATCHES**2
    )
    weight = seen.sum() / old.spread[1] ** 2
    size = (weight * log[seen][:, 1].mean() + SIZE_CENTRE / SIZE_SPREAD**2) / (weight + 1 / SIZE_SPREAD**2)
    centre = np.stack([np.broadcast_to(mean[:, None], seen.shape), np.full(seen.shape, size)], -1)
    # MacKay's round: as many features are known as their posteriors are narrower than the prior
    square = ((log - centre) ** 2)[seen].sum(0) + N_PRIOR * START**2
    known = np.clip(1 - variance[seen] / old.spread**2, 0, 1).sum(0) + N_PRIOR
    return Population(mean, float(size), np.maximum(np.sqrt(square / known), SMALLEST))


@jit
def _newton(  # noqa: PLR0917
    log, curvature, gamma, coupling, offset, centre, spread, cells, counts, above, start
) -> None:
    n_features = len(log) // len(offset)
    for h in range(len(log)):
        b = h // n_features
        slope, bend, extra = np.zeros(2), np.zeros((2, 2)), np.zeros(2)
        for step in range(N_STEPS + 1):
            _derivatives(
                log[h], coupling, offset[b], cells[h], counts[h], above[start[h] : start[h + 1]], slope, bend, extra
            )
            for i in range(2):
                slope[i] -= (log[h, i] - centre[h, i]) / spread[i] ** 2
                # where the likelihood bends the other way, only the prior's bend is sure
                bend[i, i] = max(bend[i, i], 0.0) + 1 / spread[i] ** 2
            limit = 0.95 * math.sqrt(bend[0, 0] * bend[1, 1])
            bend[0, 1] = bend[1, 0] = min(max(bend[0, 1], -limit), limit)
            if step == N_STEPS:
                break
            move = np.linalg.solve(bend, slope)
            for i in range(2):
                log[h, i] += min(max(move[i], -LONGEST), LONGEST)
            log[h, 1] = min(max(log[h, 1], SIZE_RANGE[0]), SIZE_RANGE[1])
        curvature[h] = bend
        gamma += extra


@jit
def _derivatives(log, coupling, offset, cells, counts, above, slope, bend, gamma) -> None:  # noqa: PLR0917
    """Slope and negative bend of the log likelihood in log m and log r, and those in gamma."""
    size = math.exp(log[1])
    first, second = 0.0, 0.0  # in r
    for j in range(len(above)):
        first += above[j] / (size + j)
        second -= above[j] / (size + j) ** 2
    slope[:], bend[:], gamma[:] = 0.0, 0.0, 0.0
    mixed = 0.0
    for g in range(len(offset)):
        n, s = cells[g], counts[g]
        if n < 1e-12:
            continue
        mean = math.exp(log[0] + coupling * offset[g])
        both = mean + size
        log_zero = -size * math.log1p(mean / size)
        odds = 1 / math.expm1(-log_zero)  # of zero
        to_mean, to_size = -size / both, mean / both - math.log1p(mean / size)
        to_square = n * odds * (1 + odds)
        # in m, times m: of log m
        d_mean = s / mean - (s + n * size) / both + n * odds * to_mean
        dd_mean = -s / mean**2 + (s + n * size) / both**2 + to_square * to_mean**2 + n * odds * size / both**2
        slope[0] += mean * d_mean
        in_log = mean * d_mean + mean**2 * dd_mean
        bend[0, 0] -= in_log
        gamma[0] += offset[g] * mean * d_mean
        gamma[1] -= offset[g] ** 2 * in_log
        first += n * (1 - math.log1p(mean / size)) - (s + n * size) / both + n * odds * to_size
        second += n / size - n / both - n / both + (s + n * size) / both**2
        second += to_square * to_size**2 + n * odds * mean**2 / (size * both**2)
        cross = -n / both + (s + n * size) / both**2 + to_square * to_mean * to_size - n * odds * mean / both**2
        mixed += mean * size * cross
    slope[1] = size * first
    bend[1, 1] = -(size * first + size**2 * second)
    bend[0, 1] = bend[1, 0] = -mixed
    gamma[1] = max(gamma[1], 0.0)
