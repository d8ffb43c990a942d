r"""The profile of the liquid around cells, and how sure it is: Dirichlet distributions, one in another.

A molecule in the empty droplets is of gene g with probability :math:`t_g`, and comes from batch b with
:math:`q_{gb}`, given its gene:

.. math::
    t \sim \mathrm{Dir}(s, \dots, s), \qquad q_g \sim \mathrm{Dir}(\kappa\,\pi), \qquad
    a_{bg} = t_g q_{gb} \Big/ \sum_h t_h q_{hb},

where :math:`\pi_b` is the share of batch b in all molecules. The posterior is the same with counts added:
:math:`\mathrm{Dir}(s + n_g)` and :math:`\mathrm{Dir}(\kappa\pi + n_{gb})`. So batches are drawn to what they have in
common, each gene by as much as its counts leave open. Batches differ by factors, which are as large for abundant genes
as for others; with :math:`a_b \sim \mathrm{Dir}(c\,a_0)` they would be smaller. s and :math:`\kappa` are those of the
largest marginal likelihood. No share is ever zero.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

#: Ranges of s and kappa, and the number of abundant genes that say how alike batches are.
FLAT, ALIKE, N_GENES = (1e-6, 10.0), (0.1, 1e7), 2000


class Profile(NamedTuple):
    """Posterior of the profiles of B batches.

    Attributes
    ----------
    mean, sd
        ``(n_genes, B)``; means sum to 1.
    concentration
        Of the Dirichlet distribution with this mean and, over genes, this variance: ``(B,)``.
    alike
        kappa; None for one batch.
    """

    mean: np.ndarray
    sd: np.ndarray
    concentration: np.ndarray
    alike: float | None


def posterior(counts: np.ndarray, inflation: np.ndarray | None = None) -> Profile:
    """Posterior of the profiles.

    Parameters
    ----------
    counts
        Counts of genes in empty droplets, ``(B, n_genes)``.
    inflation
        Variance of them over that of a multinomial, ``(B,)``: they are worth as many counts less.
    """
    worth = counts / (1.0 if inflation is None else np.maximum(inflation, 1)[:, None])
    genes = worth.sum(0)
    s = flat_prior(genes)
    t = smoothed(genes)
    spread = (1 - t) / (t * (genes.sum() + s * genes.size + 1))  # relative variances
    if len(counts) == 1:
        mean, alike = t[None], None
        relative = spread[None]
    else:
        pi = worth.sum(1) / worth.sum()
        alike = _alike(worth, pi)
        alpha = alike * pi[:, None] + worth
        q = alpha / alpha.sum(0)
        mean = t * q
        relative = spread + (1 - q) / (q * (alpha.sum(0) + 1))
        mean /= mean.sum(1, keepdims=True)
    sd = mean * np.sqrt(relative)
    varied = (sd**2).sum(1)  # one gene has all, for sure
    concentration = np.divide((mean * (1 - mean)).sum(1), varied, out=np.full(len(mean), np.inf), where=varied > 0) - 1
    return Profile(mean.T.copy(), sd.T.copy(), concentration, alike)


def dirichlet_sd(mean: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    """Standard deviations of Dirichlet distributions, ``(n_genes, B)``."""
    return np.sqrt(mean * (1 - mean) / (concentration + 1))


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Posterior mean of the shares of genes, ``(n_genes,)``, none of them zero."""
    s = flat_prior(counts)
    return (counts + s) / (counts.sum() + s * counts.size)


def flat_prior(counts: np.ndarray) -> float:
    """s of the largest marginal likelihood: what each gene gets beside its counts."""
    value, genes = np.unique(counts, return_counts=True)
    total, n_genes = counts.sum(), counts.size

    def level(s: float) -> float:
        whole = gammaln(s * n_genes) - gammaln(s * n_genes + total)
        return whole + genes @ (gammaln(s + value) - gammaln(s))

    return _best(level, FLAT)


def _alike(counts: np.ndarray, pi: np.ndarray) -> float:
    """kappa of the largest marginal likelihood."""
    genes = counts.sum(0)
    some = counts[:, np.argsort(-genes, kind="stable")[:N_GENES]]

    def level(kappa: float) -> float:
        alpha = kappa * pi[:, None]
        whole = gammaln(kappa) - gammaln(kappa + some.sum(0))
        return float(np.sum(whole) + np.sum(gammaln(alpha + some) - gammaln(alpha)))

    return _best(level, ALIKE)


def _best(level, bounds: tuple[float, float]) -> float:
    low, high = np.log(bounds)
    options = {"xatol": 0.01}
    found = minimize_scalar(lambda x: -level(np.exp(x)), bounds=(low, high), method="bounded", options=options)
    return float(np.exp(found.x))
