r"""What the genes that a group hardly expresses say about its level of ambient counts.

.. math:: Y_g \sim \mathrm{NB}\bigl(N a_g\,[\bar\rho + (1 - \bar\rho)\,n_g],\ s\bigr), \qquad
          n_g \sim \pi_0 \delta_0 + \sum_j \pi_j\, \mathrm{LogNormal}(\mu_j, \tfrac12)

Y are the counts of the whole group, n native expression relative to the profile. Too high a level expects counts that
are not there. Too low a level needs genes that are expressed all at the same low ratio to the profile, which the wide
components cannot be: silent genes lie at one value, that of the level. (Two narrow components about n = 1 are for a
profile that these cells themselves make: then no gene is silent.) The size s = 100 allows 10% error of the profile.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator

#: Size of the negative binomial: error of the profile.
SIZE = np.float32(100)
#: Levels that are asked about, and numbers of them: over all, and around the best.
LEVELS, N_COARSE, N_FINE = (0.003, 0.65), 13, 9
#: Genes with fewer expected counts (as if all were ambient), or far more of their own, say nothing.
LEAST_COUNTS, LARGEST_RATIO = 2.0, 5.0
#: Genes share errors of the profile: their joint log likelihood counts for this share.
WEIGHT = 0.25
LOG_RATIO = np.unique(np.round(np.r_[np.linspace(-6, 3, 28), np.linspace(-0.6, 0.6, 13)], 6))
CENTRES = np.arange(-5, 2.6, 0.5)
#: Standard deviations of n about 1 where the profile is that of these cells, which then says nothing of the level.
ALIKE = np.array([0.05, 0.12, 0.25])
N_ROUNDS = 80


def level_from_genes(sums: np.ndarray, exposure: float, profile: np.ndarray) -> PchipInterpolator | None:
    """Log likelihood as a function of the log level, with the distribution of n learned at each; weighted.

    None where too few counts are expected of all genes.
    """
    expected = exposure * profile
    use = (expected > LEAST_COUNTS) & (sums < LARGEST_RATIO * expected)
    if not use.any():
        return None
    counts, expected = (values[use][:, None].astype(np.float32) for values in (sums, expected))
    log_level = np.linspace(*np.log(LEVELS), N_COARSE)
    found = _log_likelihood(counts, expected, log_level)
    best, step = log_level[found.argmax()], log_level[1] - log_level[0]
    fine = best + step * np.linspace(-1, 1, N_FINE + 2)[1:-1]
    fine = fine[(fine > log_level[0]) & (fine < log_level[-1]) & (np.abs(fine - best) > 1e-9)]
    at, value = np.r_[log_level, fine], np.r_[found, _log_likelihood(counts, expected, fine)]
    order = np.argsort(at)
    return PchipInterpolator(at[order], WEIGHT * (value[order] - value.max()))


def _log_likelihood(counts: np.ndarray, expected: np.ndarray, log_level: np.ndarray) -> np.ndarray:
    shape = np.exp(-0.5 * ((LOG_RATIO - CENTRES[:, None]) / 0.5) ** 2)
    alike = np.exp(-0.5 * (LOG_RATIO / ALIKE[:, None]) ** 2)
    shape = np.vstack([shape, alike]) * np.gradient(LOG_RATIO)
    shape = np.block([[np.ones((1, 1)), np.zeros((1, len(LOG_RATIO)))], [np.zeros((len(shape), 1)), shape]])
    shape = (shape / shape.sum(1, keepdims=True)).astype(np.float32)
    ratio = np.r_[0.0, np.exp(LOG_RATIO)].astype(np.float32)
    weight = np.full(len(shape), 1 / len(shape), np.float32)
    found = np.empty(len(log_level))
    for i, level in enumerate(np.exp(log_level).astype(np.float32)):
        mean = expected * (level + (1 - level) * ratio)
        value = counts * np.log(mean) - (counts + SIZE) * np.log(SIZE + mean)
        largest = value.max(1, keepdims=True)
        each = np.exp(value - largest) @ shape.T
        for _ in range(N_ROUNDS):
            weight = np.maximum(weight * ((1 / (each @ weight)) @ each) / len(each), 1e-8)
        found[i] = np.sum(np.log(each @ weight), dtype=np.float64) + largest.sum(dtype=np.float64)
    return found
