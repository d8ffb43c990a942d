r"""Latent expression of a gene in a cell, given the counts of the cell.

A count is Poisson with mean :math:`\nu_c \lambda`, and :math:`\lambda \sim \mathrm{Gamma}(r)\, o` with
:math:`o = e^b = \mu / r`. Given the count,

.. math:: \lambda \mid u \sim \mathrm{Gamma}(r + u)\, \frac{o}{1 + \nu_c o}, \qquad
    E[\lambda \mid u] = \mu\, \frac{r + u}{r + \nu_c \mu}.

With zero inflation a zero is an excess zero, which says nothing about :math:`\lambda`, with probability
:math:`e = \pi / (\pi + (1 - \pi)(1 + \nu_c o)^{-r})`. In a mixture all is averaged over the components of the cell.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit, gammainc, gammaincinv, gammaln

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters, grid_over

#: Smallest expression that quantiles of mixtures tell from zero.
FLOOR = 1e-290
#: Singular values below this, relative to the largest, are left out of the background.
RANK_TOLERANCE = 1e-9


class GammaMixture(NamedTuple):
    """Mixtures of Gamma distributions, one per cell: weight, shape and scale ``(n, J)``, weights sum to 1."""

    weight: np.ndarray
    shape: np.ndarray
    scale: np.ndarray

    def mean(self) -> np.ndarray:
        """Mean, ``(n,)``."""
        return np.sum(self.weight * self.shape * self.scale, 1)

    def sd(self) -> np.ndarray:
        """Standard deviation, ``(n,)``."""
        mean = self.shape * self.scale
        spread = self.weight * (mean * self.scale + (mean - self.mean()[:, None]) ** 2)
        return np.sqrt(spread.sum(1))

    def quantile(self, q: float) -> np.ndarray:
        """The q-quantile, ``(n,)``: relative error 1e-8."""
        each = gammaincinv(self.shape, q) * self.scale
        if each.shape[1] == 1:
            return each[:, 0]
        there = self.weight > 0
        low = np.log(np.maximum(np.where(there, each, np.inf).min(1), FLOOR))
        high = np.log(np.maximum(np.where(there, each, 0).max(1), FLOOR))
        x = (low + high) / 2
        for _ in range(100):  # Newton's method in ln lambda, and bisection where that leaves the bracket
            scaled = np.exp(x)[:, None] / self.scale
            excess = np.sum(self.weight * gammainc(self.shape, scaled), 1) - q
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            log_density = self.shape * np.log(scaled) - scaled - gammaln(self.shape)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                new = x - excess / np.sum(self.weight * np.exp(log_density), 1)
            inside = (new > low) & (new < high)
            new = np.where(inside, new, (low + high) / 2)
            change, x = np.abs(new - x), new
            if np.all((change < 1e-9) | (high - low < 1e-9)):
                break
        return np.exp(x)


def expression_of_gene(parameters: Parameters, counts: np.ndarray, batch: np.ndarray, membership, unit) -> GammaMixture:
    r"""Expression of one gene in each cell, in molecules at :math:`\nu = 1` times ``unit``.

    Parameters
    ----------
    parameters
        Of this gene alone.
    counts
        Its counts, ``(n_cells,)``.
    membership
        Probability of each component given the cell, ``(n_cells, K)``.
    unit
        Factor, ``(B, K)``.
    """
    size, odds = parameters.size[batch, :, 0], np.exp(parameters.log_odds[batch, :, 0])
    unit = unit[batch]
    thinned = np.exp(parameters.log_nu)[:, None] * odds
    shape, scale = size + counts[:, None], odds / (1 + thinned)
    if parameters.gate is None:
        return GammaMixture(membership, shape, scale * unit)
    excess = np.where(counts[:, None] == 0, _excess(parameters.gate[batch, :, 0], size, thinned), 0)
    return GammaMixture(
        np.concatenate([membership * (1 - excess), membership * excess], 1),
        np.concatenate([shape, size], 1),
        np.concatenate([scale, odds], 1) * np.tile(unit, 2),
    )


def expression_above_zeros(
    parameters: Parameters, counts: Counts, batch: np.ndarray, membership: np.ndarray, unit: np.ndarray
) -> sparse.csr_matrix:
    """Mean expression given each count minus that given a zero: CSR, float32, with entries where ``counts`` has them.

    Add :func:`expression_of_zeros` for the mean expression. Parameters are those of :func:`expression_of_gene`, of all
    genes in ``counts``; ``unit`` is ``(B, K)``.
    """
    odds, nu, parts = np.exp(parameters.log_odds), np.exp(parameters.log_nu), []
    for first, block in counts.blocks():
        cell = first + np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        gene, group = block.indices, batch[cell]
        value = np.zeros(len(gene))
        for k in range(parameters.n_components):
            o, r = odds[group, k, gene], parameters.size[group, k, gene]
            thinned = nu[cell] * o
            more = block.data * o / (1 + thinned)
            if parameters.gate is not None:  # a zero may be an excess zero, and says less then
                excess = _excess(parameters.gate[group, k, gene], r, thinned)
                more = np.where(block.data > 0, more - excess * r * o * thinned / (1 + thinned), 0)
            value += membership[cell, k] * unit[group, k] * more
        parts.append(sparse.csr_matrix((value.astype(np.float32), gene, block.indptr), shape=block.shape))
    return sparse.vstack(parts, format="csr")


def expression_of_zeros(
    parameters: Parameters, batch: np.ndarray, membership: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean expression given a zero as a product of two matrices, ``(n_cells, Q)`` and ``(n_genes, Q)``.

    Of each gene it is a smooth function of :math:`\nu_c`. Where genes share their odds and have no excess zeros it is
    one function for all genes, and the rank Q is one per component and batch; else, a few.
    """
    grid = grid_over(parameters.log_nu, gate=parameters.gate is not None)
    weights = grid.weights(parameters.log_nu)
    nu = np.exp(grid.nodes)
    of_cells, of_genes = [], []
    for b, k in np.ndindex(unit.shape):
        size, odds = parameters.size[b, k][:, None], np.exp(parameters.log_odds[b, k])[:, None]
        thinned = nu * odds
        share = 1 / (1 + thinned)
        if parameters.gate is not None:
            excess = _excess(parameters.gate[b, k][:, None], size, thinned)
            share = excess + (1 - excess) * share
        left, strength, right = np.linalg.svd(share, full_matrices=False)
        kept = strength > RANK_TOLERANCE * strength[0]
        of_genes.append(left[:, kept] * strength[kept] * size * odds * unit[b, k])
        of_cells.append(weights @ right[kept].T * (membership[:, k] * (batch == b))[:, None])
    return np.concatenate(of_cells, 1), np.concatenate(of_genes, 1)


def _excess(gate: np.ndarray, size: np.ndarray, thinned: np.ndarray) -> np.ndarray:
    """Probability that a zero is an excess zero."""
    with np.errstate(divide="ignore"):
        return expit(np.log(gate) - np.log1p(-gate) + size * np.log1p(thinned))
