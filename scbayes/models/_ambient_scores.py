r"""How likely each share of ambient counts is for a cell, from weighted sums of its counts.

The quasi-score of :math:`\delta` is linear in the counts,

.. math:: s_c(\delta) = w(\delta)^\top \bigl[x_c / N_c - m - \delta\,(a - m)\bigr], \qquad
          w(\delta) = V(\delta)^{-1} (a - m),

with V the covariance of :math:`x_c / N_c`: diagonal plus the native programmes, inverted by Woodbury's identity. Genes
that vary between cells of the group for other reasons weigh little; genes that the group does not express have Poisson
noise, and weigh much. For independent Poisson or negative binomial counts s is the score of the likelihood; its
integral over :math:`\delta` is the log quasi-likelihood (Wedderburn 1974).
"""

import numpy as np
from scipy.interpolate import CubicSpline

from scbayes.counts._leave_out import leave_out_sums
from scbayes.models._ambient_group import FLOOR, AmbientGroup

#: Values of delta at which scores are computed; between them a cubic spline.
NODES = np.array(
    [
        -1.5,
        -1.1,
        -0.8,
        -0.55,
        -0.4,
        -0.3,
        -0.22,
        -0.15,
        -0.1,
        -0.05,
        0,
        0.05,
        0.1,
        0.15,
        0.22,
        0.3,
        0.4,
        0.5,
        0.62,
        0.75,
        0.9,
    ]
)
#: Values at which the likelihood is tabulated.
FINE = np.unique(
    np.round(np.r_[np.linspace(-1.5, -0.3, 41), np.linspace(-0.3, 0.4, 176), np.linspace(0.4, 0.9, 26)], 6)
)
#: Cells are weighed in classes of like totals.
N_CLASSES = 6


def gene_weights(group: AmbientGroup, delta: float, total: float) -> tuple[np.ndarray, np.ndarray]:
    """w for cells of that total, and its change as one count is taken from each gene, both ``(n_genes,)``."""
    core = None
    found = []
    for less in (0.0, 1.0):
        mean = group.expected(less)
        direction = group.profile - mean
        mu = np.maximum(mean + delta * direction, FLOOR * np.maximum(mean, group.profile))
        variance = mu / total + (1 - delta) ** 2 * group.noise * group.native_variance(mean)
        weight = direction / variance
        if group.programmes.shape[1]:
            loads = np.sqrt(group.noise) * group.programmes
            scaled = loads / variance[:, None]
            if core is None:
                inner = np.eye(loads.shape[1]) / (1 - delta) ** 2 + loads.T @ scaled
                core = np.linalg.solve(inner, loads.T @ weight)
            weight = weight - scaled @ core
        found.append(weight)
    return found[0], np.where(group.sums >= 1, found[1] - found[0], 0.0)


def anchored(group: AmbientGroup, weights: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What weighted sums are on average where delta is 0, and how they rise with it, each ``(n_weights,)``.

    The average is of sums whose weights do not know the cell, so that both are without the bias of fitted weights.
    """
    observed = group.sums / group.exposure
    average = weights.T @ observed + change.T @ (group.squares - observed * group.by_total) / group.exposure
    ambient = weights.T @ group.profile
    average = average + group.shift * (ambient - average)
    return average, ambient - average


def log_likelihood(group: AmbientGroup, *, roughly: bool = False) -> np.ndarray:
    """Log quasi-likelihood of each cell at `FINE`, ``(n_cells, n_fine)``, its largest value 0.

    ``roughly``: on half of the nodes, with weights for one class of totals.
    """
    nodes = NODES[::2] if roughly else NODES
    score = np.empty((len(group.cells), len(nodes)))
    observed = group.sums / group.exposure
    n_classes = 1 if roughly else min(N_CLASSES, 1 + len(group.cells) // 20)
    for part in np.array_split(np.argsort(group.total, kind="stable"), n_classes):
        typical = 1 / np.mean(1 / group.total[part])
        pairs = [gene_weights(group, delta, typical) for delta in nodes]
        weights, change = (np.column_stack(both) for both in zip(*pairs, strict=True))
        average, rise = anchored(group, weights, change)
        total = group.total[part]
        found = leave_out_sums(group.x[part], total, weights, change, observed) / total[:, None]
        score[part] = found - average - nodes * rise
    value = CubicSpline(nodes, score, axis=1).antiderivative()(FINE)
    return value - value.max(1, keepdims=True)
