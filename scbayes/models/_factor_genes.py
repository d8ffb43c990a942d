r"""Genes of the factor model, given the cells: a Newton step of each, and priors learned from all.

.. math::
    b_{g\beta} \sim N(\bar b_g, \tau^2), \quad \bar b_g \sim N(\bar b, s^2), \quad W_{gk} \sim N(0, \sigma_k^2), \quad
    \ln\theta_g \sim N(\nu, \omega^2)

A factor that explains nothing has a :math:`\sigma_k` near zero (automatic relevance determination).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from scbayes.counts import Summary
from scbayes.models._factor_cells import Found, triangle

#: Longest step of a gene, in log mean for a standard deviation of any factor.
LONGEST = 0.4
#: Standard deviation of the genes' overall levels; they differ by orders of magnitude.
LEVEL_SD = 3.0
#: Bounds of ln theta: beyond, a gene is Poisson, or never seen twice in a cell.
LOG_THETA = (-6.0, 9.0)
#: Smallest variances of the priors.
LEAST = {"offset": 1e-4, "loadings": 1e-6, "log_theta": 0.04}
#: Genes that are solved at a time.
AT_ONCE = 1024


@dataclass
class Priors:
    """Variances (and centres) of the genes' priors: tau^2, sigma_k^2 (K,), nu and omega^2."""

    offset: float
    loadings: np.ndarray
    log_theta: tuple[float, float] = (0.0, 4.0)


class Pairs(NamedTuple):
    """Distinct counts of each gene, all batches together: their gene, the count, the number of cells."""

    gene: np.ndarray
    count: np.ndarray
    cells: np.ndarray

    def sum(self, value: np.ndarray, n_genes: int) -> np.ndarray:
        """Sum over the cells of each gene."""
        return np.bincount(self.gene, value * self.cells, n_genes)


def pairs_of(summary: Summary) -> Pairs:
    """Distinct counts of each gene."""
    key = (summary.row % summary.n_genes) * (summary.count.max(initial=0) + 1) + summary.count
    key, inverse = np.unique(key, return_inverse=True)
    gene, count = np.divmod(key, summary.count.max(initial=0) + 1)
    return Pairs(gene, count, np.bincount(inverse, summary.cells, len(key)))


@dataclass
class Sums:
    """Sums over the cells seen so far in a round, float64; see :class:`Found` for their columns."""

    n_genes: int
    n_batches: int
    n_latent: int
    products: np.ndarray = field(init=False)
    of_batch: np.ndarray = field(init=False)
    loadings: np.ndarray = field(init=False)
    offset: np.ndarray = field(init=False)
    theta: np.ndarray = field(init=False)
    precision: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        g, b, k = self.n_genes, self.n_batches, self.n_latent
        self.products = np.zeros((g, k * (k + 1) // 2))
        self.of_batch = np.zeros((g, b, k + 1))
        self.loadings, self.offset = np.zeros((g, k)), np.zeros((g, b))
        self.theta, self.precision = np.zeros((g, 5)), np.zeros((k, k))

    def add(self, batch: int, found: Found) -> None:
        """Add a block of cells."""
        curvature, gradient = np.asarray(found.curvature), np.asarray(found.gradient)
        n = self.products.shape[1]
        self.products += curvature[:, :n]
        self.of_batch[:, batch] += curvature[:, n:]
        self.loadings += gradient[:, :-1]
        self.offset[:, batch] += gradient[:, -1]
        self.theta += np.asarray(found.sums)
        self.precision += np.asarray(found.precision)


@dataclass
class GeneState:
    """What is believed of the genes: ``offset`` (G, B), ``loadings`` (G, K), ``log_theta`` (G,), and their priors."""

    offset: np.ndarray
    loadings: np.ndarray
    log_theta: np.ndarray
    priors: Priors

    def step(self, sums: Sums, pairs: Pairs) -> None:
        """One Newton step of all genes, then of the priors."""
        n_batches, n_latent = sums.n_batches, sums.n_latent
        variance = np.empty((len(self.offset), n_batches + n_latent))
        centre = self.offset.mean()
        for start in range(0, len(self.offset), AT_ONCE):
            own = slice(start, start + AT_ONCE)
            matrix, right = self._system(sums, own, centre)
            inverse = np.linalg.inv(matrix)
            move = np.einsum("gij,gj->gi", inverse, right)
            move *= np.minimum(1, LONGEST / np.maximum(np.abs(move).max(1), 1e-30))[:, None]
            self.offset[own] += move[:, :n_batches]
            self.loadings[own] += move[:, n_batches:]
            variance[own] = np.diagonal(inverse, axis1=1, axis2=2)
        theta_variance = self._step_theta(sums, pairs) if np.isfinite(self.log_theta).all() else None
        self._learn(variance[:, :n_batches], variance[:, n_batches:], theta_variance)

    def _system(self, sums: Sums, own: slice, centre: float) -> tuple[np.ndarray, np.ndarray]:
        """Negative curvature of the log posterior of some genes' (offset, loadings), and its gradient."""
        n, k = sums.n_batches, sums.n_latent
        matrix = np.zeros((len(sums.offset[own]), n + k, n + k))
        i, j = triangle(k)
        matrix[:, n + i, n + j] = matrix[:, n + j, n + i] = sums.products[own]
        matrix[:, n + np.arange(k), n + np.arange(k)] += 1 / self.priors.loadings
        matrix[:, np.arange(n), np.arange(n)] = sums.of_batch[own, :, k]
        matrix[:, :n, n:] = sums.of_batch[own, :, :k]
        matrix[:, n:, :n] = np.swapaxes(sums.of_batch[own, :, :k], 1, 2)
        prior = self._offset_precision(n)
        matrix[:, :n, :n] += prior
        right = np.concatenate([sums.offset[own], sums.loadings[own]], 1)
        right[:, :n] -= (self.offset[own] - centre) @ prior
        right[:, n:] -= self.loadings[own] / self.priors.loadings
        return matrix, right

    def _offset_precision(self, n: int) -> np.ndarray:
        """Of a gene's offsets in n batches, its overall level integrated out."""
        within = self.priors.offset
        return (np.eye(n) - LEVEL_SD**2 / (within + n * LEVEL_SD**2)) / within

    def _step_theta(self, sums: Sums, pairs: Pairs) -> np.ndarray:
        """Newton's step in ln theta; its posterior variance."""
        theta = np.exp(self.log_theta)
        at = theta[pairs.gene]
        n = len(theta)
        _, lost, residual, spread, excess = sums.theta.T
        rise = pairs.sum(digamma(pairs.count + at) - digamma(at), n)
        bend = pairs.sum(polygamma(1, pairs.count + at) - polygamma(1, at), n)
        gradient = theta * rise - lost - residual
        curvature = -(theta**2 * bend + theta * (spread + excess) + gradient)
        centre, variance = self.priors.log_theta
        known = np.maximum(curvature, 0) + 1 / variance
        move = (gradient - (self.log_theta - centre) / variance) / known
        self.log_theta = np.clip(self.log_theta + np.clip(move, -1, 1), *LOG_THETA)
        return 1 / known

    def _learn(self, offset: np.ndarray, loadings: np.ndarray, log_theta: np.ndarray | None) -> None:
        """Priors from the genes' posterior means and variances."""
        self.priors.loadings = np.maximum(np.mean(self.loadings**2 + loadings, 0), LEAST["loadings"])
        n = offset.shape[1]
        if n > 1:
            away = self.offset - self.offset.mean(1, keepdims=True)
            self.priors.offset = max(np.mean(away**2 + offset * (1 - 1 / n)) * n / (n - 1), LEAST["offset"])
        if log_theta is not None:
            centre = self.log_theta.mean()
            variance = np.mean((self.log_theta - centre) ** 2 + log_theta)
            self.priors.log_theta = centre, max(variance, LEAST["log_theta"])

    def log_likelihood(self, sums: Sums, pairs: Pairs) -> float:
        """Expected log likelihood of all counts at the sums."""
        log_factorial = np.sum(gammaln(pairs.count + 1) * pairs.cells)
        value = sums.theta[:, 0].sum() - log_factorial
        if not np.isfinite(self.log_theta).all():
            return float(value)
        theta = np.exp(self.log_theta)
        at = theta[pairs.gene]
        rise = gammaln(pairs.count + at) - gammaln(at) - pairs.count * self.log_theta[pairs.gene]
        return float(value + np.sum(rise * pairs.cells))
