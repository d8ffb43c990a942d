r"""What cells say about the overdispersion of genes in units, beyond what is usual at their means.

In a cell of size factor s, a gene's count in unit i is negative binomial with mean :math:`s \mu_{gi}` and size
:math:`1 / \alpha_{gi}`, and

.. math:: \ln \alpha_{gi} = f(\ln \mu_{gi}) + \rho_{gi}

where the trend f is common to all units. The likelihood of the residual :math:`\rho`, maximised over the mean, is
kept as its slope and the expected information, Chebyshev series in :math:`\rho`: so those of several units that are put
together add up. With :math:`x_c = s_c \mu \alpha` and :math:`r = 1/\alpha` the slope is

.. math::
    -r \Big[\sum_c \psi(u_c + r) - \psi(r) - \ln(1 + x_c)\Big]
    + \frac12 \frac{\sum_c s_c \mu\, x_c (1 + x_c)^{-2}}{\sum_c s_c \mu\, (1 + x_c)^{-1}},

the second part for the mean that was estimated (Cox & Reid 1987). Cells are seen through nodes in :math:`\ln s`, so the
cost is that of the distinct counts, not of cells x genes.
"""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebvander

from scbayes.counts import Counts
from scbayes.counts._by_unit import Members, detail_by_unit
from scbayes.models._units import TINY, Overdispersion, Units
from scbayes.stats._chebyshev import Chebyshev, chebyshev
from scbayes.stats._dispersion_information import information
from scbayes.stats._jit import jit

#: Residuals that are told apart; log overdispersion of the typical gene before data are seen.
RESIDUAL, USUAL = 3.5, np.log(0.5)
#: Accuracy of interpolation over size factors and over residuals.
TOLERANCE = 1e-3
#: Units tell about a gene if chance makes so many pairs of its molecules; about the trend, so many.
PAIRS, TREND_PAIRS = 0.1, 1.0
#: Degree of the trend, and the spread of genes around it; residuals beyond so many times that are cut.
DEGREE, SPREAD, HUBER = 3, 0.7, 2.0
#: Spreads of arms around the trend, and of the units of an arm, where their likelihoods are taken as normal.
ARM_SPREAD, UNIT_SPREAD = 0.7, 0.3
#: Points in log means for the information.
N_POINTS = 96
#: Smallest information.
NOTHING = 1e-6


class Trend(NamedTuple):
    """Log overdispersion over log mean: Chebyshev series on an interval, constant beyond."""

    low: float
    high: float
    series: np.ndarray

    def __call__(self, log_mean: np.ndarray) -> np.ndarray:
        """At each log mean."""
        return _terms(log_mean, self.low, self.high) @ self.series


def residuals() -> Chebyshev:
    """Interpolation over residuals."""
    return chebyshev(-RESIDUAL, RESIDUAL, tolerance=TOLERANCE)


def overdispersion(counts: Counts, members: Members, size: np.ndarray, units: Units) -> Overdispersion:
    """Likelihood of the residuals of all units, given the cells' size factors."""
    seen = size > 0
    grid = (
        chebyshev(*np.log([size[seen].min(), size[seen].max()]), tolerance=TOLERANCE) if seen.any() else chebyshev(0, 1)
    )
    weights = grid.weights(np.log(np.maximum(size, TINY))) * seen[:, None]
    row, count, cells, node_counts, node_cells = detail_by_unit(counts, members, weights)
    exposure = np.maximum(units.exposure, TINY)[:, None]
    log_mean = np.log(np.maximum(units.total, 0.5) / exposure)
    trend = fit_trend(units, log_mean)
    chance = units.exposure2[:, None] * (units.total / exposure) ** 2
    tells = np.flatnonzero((chance > PAIRS) & (units.total > 1))
    first = np.searchsorted(row, np.arange(units.total.size + 1))
    over = residuals()
    nodes = over.nodes
    n_units, n_genes = units.total.shape
    slope, known = np.zeros((2, n_units * n_genes, len(nodes)), np.float32)
    at = trend(log_mean).reshape(-1)
    on_nodes = np.exp(grid.nodes), node_counts.reshape(-1, len(grid.nodes)), node_cells
    _slopes(tells, log_mean.reshape(-1), at, nodes, on_nodes, (first, count, cells), slope)
    for i, part in enumerate(np.split(tells, np.searchsorted(tells, np.arange(1, n_units) * n_genes))):
        if len(part):
            known[part] = _information(log_mean[i][part - i * n_genes], trend, nodes, grid.nodes, node_cells[i])
    shape = (n_units, n_genes, len(nodes))
    slope, known = ((part @ over.transform.T.astype(np.float32)).reshape(shape) for part in (slope, known))
    return Overdispersion(slope, known, at.reshape(n_units, -1) * units.cells[:, None])


def fit_trend(units: Units, log_mean: np.ndarray) -> Trend:
    r"""Trend of the overdispersion over the mean, by moments: :math:`E[u(u-1)] = s^2\mu^2(1 + \alpha)`.

    Weighted least squares on the log scale around the trend itself, with what is far from it cut (Huber).
    """
    exposure = np.maximum(units.exposure, TINY)[:, None]
    mean2 = (units.total / exposure) ** 2 - units.total / exposure**2  # the mean's own error makes its square too large
    chance = units.exposure2[:, None] * mean2
    here = chance > TREND_PAIRS
    chance, x = chance[here], log_mean[here]
    estimate = (units.squares - units.total)[here] / chance - 1
    low, high = np.quantile(x, [0.005, 0.995]) if len(x) else (0.0, 1.0)
    terms, series = _terms(x, low, high), USUAL * (np.arange(DEGREE + 1) == 0)
    for _ in range(20):
        alpha = np.exp(terms @ series)
        variance = 2 * (1 + alpha) / chance / alpha**2 + SPREAD**2
        away = (estimate - alpha) / alpha
        weight = np.minimum(1, HUBER * np.sqrt(variance) / np.maximum(np.abs(away), TINY)) / variance
        matrix = (terms.T * weight) @ terms + np.eye(DEGREE + 1)
        right = (terms.T * weight) @ away - (series - USUAL * (np.arange(DEGREE + 1) == 0))
        series = series + np.clip(np.linalg.solve(matrix, right), -0.5, 0.5)
    return Trend(float(low), float(high), series)


def linearised(likelihood: Overdispersion, arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Each unit's likelihood as that of a value with a normal error: values and variances, ``(n_units, n_genes)``.

    It is replaced by :math:`N(\rho + S/I,\ 1/I)` with its slope S and information I where it meets the other units of
    its arm: at the joint mode of units :math:`\rho_i \sim N(\rho_a, t^2)` and arms :math:`\rho_a \sim N(0, s^2)`.
    """
    told = likelihood.information.any((0, 2))
    value, variance = np.zeros(likelihood.trend.shape), np.full(likelihood.trend.shape, 1 / NOTHING)
    series = [part[:, told] for part in (likelihood.slope, likelihood.information)]
    at = value[:, told]
    of_arm = (arm == np.arange(arm.max() + 1)[:, None]).astype(float)
    for _ in range(12):
        slope, known = _interpolated(series, at)
        weight = 1 / (1 / known + UNIT_SPREAD**2)
        centre = of_arm @ (weight * (at + slope / known)) / (of_arm @ weight + ARM_SPREAD**-2)
        prior = UNIT_SPREAD**-2
        new = (known * at + slope + prior * centre[arm]) / (known + prior)
        at = np.clip(at + np.clip(new - at, -0.7, 0.7), -RESIDUAL, RESIDUAL)
    slope, known = _interpolated(series, at)
    value[:, told], variance[:, told] = at + slope / known, 1 / known
    return value, variance


def _terms(log_mean: np.ndarray, low: float, high: float) -> np.ndarray:
    return chebvander(np.clip((2 * log_mean - low - high) / max(high - low, TINY), -1, 1), DEGREE)


def _interpolated(series: list[np.ndarray], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and information at residuals."""
    terms = residuals().basis(at.ravel()).reshape(series[0].shape)
    slope, known = (np.einsum("ugm,ugm->ug", terms, part) for part in series)
    return slope, np.maximum(known, NOTHING)


def _information(log_mean: np.ndarray, trend: Trend, nodes: np.ndarray, log_size: np.ndarray, cells: np.ndarray):
    """Expected information of all cells of a unit at the nodes, ``(n, n_nodes)``; interpolated over log means."""
    x = np.linspace(log_mean.min(), log_mean.max() + TINY, N_POINTS)
    log_alpha = trend(x)[:, None] + nodes
    of_cells = information(x[:, None, None] + log_size, log_alpha[..., None]) @ cells
    log_known = np.log(np.maximum(of_cells, TINY))
    return np.exp(np.stack([np.interp(log_mean, x, part) for part in log_known.T], 1))


@jit
def _slopes(rows, log_mean, trend, nodes, on_nodes, pairs, out):
    """Slope of each row (a unit's gene) at the nodes of the residual.

    ``on_nodes``: the nodes in size factors, and on them each row's counts and each unit's cells; ``pairs``: the first
    of each row, and the counts and cells of all.
    """
    size, node_counts, node_cells = on_nodes
    first, count, cells = pairs
    n_genes = len(node_counts) // len(node_cells)
    for g in rows:
        own, of_cells = node_counts[g], node_cells[g // n_genes]
        eta = log_mean[g]
        for k in range(len(nodes)):
            alpha = np.exp(trend[g] + nodes[k])
            for _ in range(30):  # the mean: sum (u - s mu) / (1 + s mu alpha) = 0
                mu, seen, expected, bend, down = np.exp(eta), 0.0, 0.0, 0.0, 0.0
                for m in range(len(size)):
                    over = 1 / (1 + size[m] * mu * alpha)
                    seen += own[m] * over
                    down += own[m] * over * (1 - over)
                    expected += of_cells[m] * size[m] * mu * over
                    bend += of_cells[m] * size[m] * mu * over * over
                step = np.log(max(seen, 1e-12) / expected) / (down / max(seen, 1e-12) + bend / expected)
                eta += min(max(step, -2.0), 2.0)
                if abs(step) < 1e-7:
                    break
            mu, log_fail, curvature, lost = np.exp(eta), 0.0, 0.0, 0.0
            for m in range(len(size)):
                mean = size[m] * mu
                x = mean * alpha
                log_fail += of_cells[m] * np.log1p(x)
                curvature += of_cells[m] * mean / (1 + x)
                lost += of_cells[m] * mean * x / (1 + x) ** 2
            rise = _rise(1 / alpha, count[first[g] : first[g + 1]], cells[first[g] : first[g + 1]])
            out[g, k] = (log_fail - rise) / alpha + 0.5 * lost / curvature


@jit
def _rise(r, count, cells):
    """Sum of psi(u + r) - psi(r) over cells; ``count`` ascends."""
    total, here, last = 0.0, 0.0, 0
    for k in range(len(count)):
        if count[k] - last < 24:
            for j in range(last, count[k]):
                here += 1 / (r + j)
        else:
            here += _digamma(r + count[k]) - _digamma(r + last)
        last = count[k]
        total += cells[k] * here
    return total


@jit
def _digamma(x):
    below = 0.0
    while x < 8:
        below -= 1 / x
        x += 1
    y = 1 / (x * x)
    return below + np.log(x) - 0.5 / x - y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y / 240)))
