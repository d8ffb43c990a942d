r"""How much ambient RNA there is in the cells of a sample, and in each cell.

.. math:: \ln \bar\rho_j \sim N(\ln M, \sigma^2), \qquad
          \rho_c \sim \mathrm{Beta}(\mu_c \kappa, (1 - \mu_c) \kappa), \qquad
          \mu_c = \bar\rho_{j(c)}\, h_c

for the groups j of a sample with common level M. Cells of fewer counts may hold a larger share: h follows from a slope on
the logarithm of the total. The likelihood of a cell depends on :math:`\delta = (\rho - \bar\rho) / (1 - \bar\rho)` only.
A level is known because no share is below 0 and their distribution is a beta distribution (with :math:`\mu\kappa \ge 1`),
and from genes that the group does not express. All is integrated on a grid.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse, special

from scbayes.models._ambient_scores import FINE

LEVELS = np.geomspace(0.003, 0.6, 64)
CONCENTRATIONS = np.geomspace(3, 300, 25)
SPREADS = np.array([0.05, 0.1, 0.2, 0.4])
#: Mean of the spread of levels between groups of a sample.
TYPICAL_SPREAD = 0.15
#: Steps of the share in which posteriors of cells are added up.
SHARES = np.linspace(0, 0.96, 481)
#: Classes of cells by h, in steps of its logarithm.
STEP, N_STEPS = 0.25, 3
#: Shares need not follow a beta distribution exactly: log likelihoods of levels count for this share.
TRUST = 0.3
#: Cells of a group that are asked about the level.
N_CELLS = 2000
#: Levels less likely than this in a group are left out of the posteriors of its cells.
LEAST = 2e-3


class Evidence(NamedTuple):
    """What the data of one group say.

    Attributes
    ----------
    likelihood
        Of each cell at `FINE`, ``(n_cells, n_fine)``, largest 1.
    step
        Class of each cell by h, integers from ``-N_STEPS`` to ``N_STEPS``.
    genes
        Log likelihood of `LEVELS` from genes, ``(n_levels,)``.
    misfit
        Standard deviation of the error of the log level that comes from what the model leaves out.
    """

    likelihood: np.ndarray
    step: np.ndarray
    genes: np.ndarray
    misfit: float


class Level(NamedTuple):
    """Posterior of the level of a sample and of its groups.

    Attributes
    ----------
    mean, sd
        Of M; the latter with what the model leaves out.
    log_sd
        Of the logarithm of the levels of groups as far as the model goes, averaged over cells.
    groups
        Probability of levels and concentrations in each group, ``(n_groups, n_levels, n_concentrations)``.
    """

    mean: float
    sd: float
    log_sd: float
    groups: np.ndarray


def steps_of(total: np.ndarray, slope: float) -> np.ndarray:
    """Class of each cell of a group: ``ln h`` in steps."""
    log_h = -slope * (np.log(total) - np.log(total).mean())
    return np.clip(np.round(log_h / STEP), -N_STEPS, N_STEPS).astype(int)


def find_level(evidence: list[Evidence], prior: tuple[float, float]) -> Level:
    """Posterior of one sample.

    Parameters
    ----------
    prior
        Median of M, and standard deviation of its logarithm.
    """
    log_level = np.log(LEVELS)
    own = TRUST * np.stack([_log_evidence(one) + one.genes[:, None] for one in evidence])
    apart = log_level[:, None] - log_level  # level of the group x M
    kernel = np.exp(-0.5 * (apart[..., None] / SPREADS) ** 2)
    kernel /= kernel.sum(0)
    largest = own.max(1, keepdims=True)
    terms = np.einsum("jlk,lms->jkms", np.exp(own - largest), kernel)
    terms = np.log(np.maximum(terms, 1e-300)) + largest.transpose(0, 2, 1)[..., None]
    common = -0.5 * ((log_level - np.log(prior[0])) / prior[1]) ** 2
    common = common[None, :, None] - SPREADS / TYPICAL_SPREAD
    total = common + terms.sum(0)
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    of_level = weight.sum((0, 2))
    mean = of_level @ LEVELS
    groups, spread = [], []
    for j, one in enumerate(evidence):
        others = total - terms[j]
        outer = np.einsum("kms,lms->lk", np.exp(others - others.max()), kernel)
        log_joint = own[j] + np.log(np.maximum(outer, 1e-300))
        joint = np.exp(log_joint - log_joint.max())
        joint /= joint.sum()
        marginal = joint.sum(1)
        spread.append(np.sqrt(max(marginal @ log_level**2 - (marginal @ log_level) ** 2, 0)))
        blur = np.exp(-0.5 * (apart / one.misfit) ** 2)
        groups.append((blur / blur.sum(0)) @ joint)
    n = np.array([len(one.step) for one in evidence]) / sum(len(one.step) for one in evidence)
    variance = max(of_level @ LEVELS**2 - mean**2, 0) + mean**2 * (n @ [one.misfit**2 for one in evidence])
    return Level(mean, float(np.sqrt(variance)), float(n @ spread), np.stack(groups))


def shares_of_cells(one: Evidence, group: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior mean and ends of the equal-tailed interval of the shares of the cells of a group."""
    edges = _edges()
    cumulative = np.zeros((len(one.step), len(SHARES)))
    mean = np.zeros(len(one.step))
    marginal = group.sum(1)
    kept = np.flatnonzero(marginal > LEAST * marginal.max())
    for i in kept:
        share = LEVELS[i] + (1 - LEVELS[i]) * edges
        middle = np.clip((share[1:] + share[:-1]) / 2, 0, 1)
        between = _interpolation(np.clip(share, 0, 1))
        for step in np.unique(one.step):
            cells = one.step == step
            mass = _mass(step)[:, i] @ (group[i] / marginal[i])
            each = one.likelihood[cells] * mass
            if len(lost := np.flatnonzero(~each.any(1))):
                # likelihood and prior are so far apart that their product underflows: where the prior is nearest
                inside = np.flatnonzero(mass)
                nearest = np.clip(one.likelihood[cells][lost].argmax(1), inside[0], inside[-1])
                each[lost, nearest] = 1
            each /= each.sum(1, keepdims=True)
            mean[cells] += marginal[i] * (each @ middle)
            summed = np.hstack([np.zeros((len(each), 1)), np.cumsum(each, axis=1)])
            cumulative[cells] += marginal[i] * (between @ summed.T).T
    mean, cumulative = mean / marginal[kept].sum(), cumulative / marginal[kept].sum()
    low, high = (_quantile(cumulative, q) for q in ((1 - width) / 2, (1 + width) / 2))
    return mean, low, high


def _log_evidence(one: Evidence) -> np.ndarray:
    """Of levels and concentrations, ``(n_levels, n_concentrations)``."""
    found = np.zeros((len(LEVELS), len(CONCENTRATIONS)))
    every = -(-len(one.step) // N_CELLS)
    steps, likelihood = one.step[::every], one.likelihood[::every]
    for step in np.unique(steps):
        each = likelihood[steps == step] @ _mass(step).reshape(len(FINE), -1)
        found += np.log(np.maximum(each, 1e-30)).sum(0, dtype=np.float64).reshape(found.shape)
    return found


_MASSES: dict[int, np.ndarray] = {}


def _mass(step: int) -> np.ndarray:
    """Prior probability of the interval around each of `FINE`, ``(n_fine, n_levels, n_concentrations)``."""
    if step not in _MASSES:
        edges = _edges()
        share = np.clip(LEVELS + (1 - LEVELS) * edges[:, None], 0, 1)[..., None]
        mean = np.clip(LEVELS * np.exp(step * STEP), 1e-4, 0.9)[:, None]
        alpha = np.maximum(mean * CONCENTRATIONS, 1.0)
        _MASSES[step] = np.diff(special.betainc(alpha, alpha * (1 - mean) / mean, share), axis=0).astype(np.float32)
    return _MASSES[step]


def _edges() -> np.ndarray:
    return np.r_[2 * FINE[0] - FINE[1], (FINE[1:] + FINE[:-1]) / 2, 2 * FINE[-1] - FINE[-2]]


def _interpolation(share: np.ndarray) -> sparse.csr_array:
    """Matrix that takes a function from ``share`` to `SHARES`, linearly."""
    right = np.clip(np.searchsorted(share, SHARES, side="right"), 1, len(share) - 1)
    gap = np.maximum(share[right] - share[right - 1], 1e-12)
    part = np.clip((SHARES - share[right - 1]) / gap, 0, 1)
    row = np.arange(len(SHARES))
    return sparse.csr_array(
        (np.r_[1 - part, part], (np.r_[row, row], np.r_[right - 1, right])), shape=(len(SHARES), len(share))
    )


def _quantile(cumulative: np.ndarray, q: float) -> np.ndarray:
    right = np.clip((cumulative < q).sum(1), 1, len(SHARES) - 1)
    row = np.arange(len(cumulative))
    below, above = cumulative[row, right - 1], cumulative[row, right]
    part = np.clip((q - below) / np.maximum(above - below, 1e-12), 0, 1)
    return np.where(cumulative[:, 0] >= q, 0.0, SHARES[right - 1] + part * (SHARES[right] - SHARES[right - 1]))
