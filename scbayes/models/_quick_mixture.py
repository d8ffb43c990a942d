r"""A plain mixture fitted in seconds: to judge where to start a better one, and to bring it near its end.

Counts are :math:`\mathrm{NB}(r_g, \text{mean } \nu_c \mu_{kg})` with :math:`\nu_c` the cell's total over the mean.
Means are weighted averages, drawn a little towards the gene's mean over all cells; sizes come from second moments.
"""

import numpy as np
from scipy.special import logsumexp

from scbayes.counts import Counts
from scbayes.models._components import NEGLIGIBLE, Labels
from scbayes.models._parameters import Parameters, score_cells

#: Cells' worth of the gene's overall mean that every component is given.
PSEUDO_CELLS = 0.3
#: Dispersions 1/r are kept within these; the weight of their median in each, in cells' worth of information.
DISPERSION = (0.02, 20.0)
SHRINKAGE = 10.0


def quick_mixture(
    counts: Counts, membership: np.ndarray, n_rounds: int, labels: Labels | None = None
) -> tuple[np.ndarray, float]:
    """Memberships ``(n_cells, n_components)`` after ``n_rounds``, and the log likelihood at the last but one."""
    total, square = _moments(counts)
    nu = np.maximum(total, 0.5) / max(total.mean(), 0.5)
    prior = 0.0 if labels is None else labels.log_prior(membership.shape[1])
    level = -np.inf
    for _ in range(n_rounds):
        parameters = _estimate(counts, membership, nu, square)
        with np.errstate(divide="ignore"):
            joint = score_cells(parameters, counts).value + np.log(parameters.weights) + prior
        norm = logsumexp(joint, 1, keepdims=True)
        level = float(norm.sum())
        membership = np.exp(joint - norm)
        membership[membership < NEGLIGIBLE] = 0.0
        membership /= membership.sum(1, keepdims=True)
    return membership, level


def _estimate(counts: Counts, membership: np.ndarray, nu: np.ndarray, square: np.ndarray) -> Parameters:
    """Means, sizes and weights given the memberships; ``square`` is the sum of squared counts per gene."""
    n = membership.shape[1]
    found, _ = counts.gather(np.concatenate([membership, membership * nu[:, None]], 1), detected=False)
    seen, with_nu = np.split(found.sum(0), 2, axis=1)  # (n_genes, K): sums of u, of nu u
    exposure, twice = nu @ membership, nu**2 @ membership
    overall = (seen.sum(1) + 0.5) / exposure.sum()
    mean = (seen + PSEUDO_CELLS * overall[:, None]) / (exposure + PSEUDO_CELLS)
    mean *= overall.sum() / mean.sum(0)  # totals do not tell components apart
    excess = square + np.sum(mean**2 * twice - 2 * mean * with_nu - mean * exposure, 1)
    information = np.sum(mean**2 * twice, 1)
    raw = excess / np.maximum(information, 1e-12)
    centre = np.median(raw[information > np.median(information)])
    dispersion = (excess + SHRINKAGE * max(centre, 0.05)) / (information + SHRINKAGE)
    size = 1 / np.clip(dispersion, *DISPERSION)
    size = np.broadcast_to(size, (counts.n_batches, n, len(size)))
    weights = (membership.sum(0) + 1) / (len(membership) + n)
    return Parameters(size, np.log(mean.T) - np.log(size), None, weights, np.log(nu))


def _moments(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Total of each cell, and sum of squared counts of each gene."""
    total, square = np.zeros(counts.n_cells), np.zeros(counts.n_genes)
    for first, block in counts.blocks():
        total[first : first + block.shape[0]] = block.sum(1)
        square += np.bincount(block.indices, block.data.astype(float) ** 2, counts.n_genes)
    return total, square
