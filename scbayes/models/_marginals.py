r"""Posterior of each parameter on its own, sampled or derived: normal on a log or logit scale.

Derived parameters are sums of normal coordinates, so they need no draws:

* composition :math:`\ln\rho_g = \ln a_g - \ln\sum a`, with a the abundance (r in ``standard``, else mu). The log of the
  sum is normal by the delta method: mean :math:`\ln\sum E[a] - v/2`, variance
  :math:`v = \sum_g \rho_g^2 v_g + |\sum_g \rho_g w_g|^2` for own variances :math:`v_g` and loadings :math:`w_g`.
* shared log odds b: logit p, or :math:`\ln M - \ln\sum r` in ``standard`` with capture (M: total mRNA per cell).
* odds of a cell :math:`\nu_c e^b`; r and mu, one from the other through b.

The uncertainty of M, where it is given, enters mu, nu and p, which move with it, and nothing else.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betainc, logit, ndtr

from scbayes.models._config import ModelConfig
from scbayes.models._posterior import Posterior
from scbayes.stats._logit_beta import concentrations


class Marginal(NamedTuple):
    """Normal ``(loc, scale)`` of ``log x`` (``link="log"``) or ``logit x``; ``axis`` is gene, cell or global.

    With ``link="beta"``, x has the Beta distribution whose logit has this mean and standard deviation.

    Arrays have shape ``(copies, n_genes)``, ``(n_cells,)`` or ``(copies,)``; one copy per batch that has its own.
    ``identified`` says whether the data can tell: parameters that are not move with the prior on the total mRNA.
    """

    loc: np.ndarray
    scale: np.ndarray
    link: str
    axis: str
    identified: bool

    @property
    def concentrations(self) -> tuple[np.ndarray, np.ndarray]:
        """The a and b of a Beta distribution."""
        return concentrations(self.loc, self.scale)


class Total(NamedTuple):
    """Log of the sum over genes of the abundance: ``loc``, ``variance``, ``loading`` on the factors, each per copy."""

    loc: np.ndarray
    variance: np.ndarray
    loading: np.ndarray

    @property
    def log_mean(self) -> np.ndarray:
        """Log of the expected sum."""
        return self.loc + self.variance / 2


def total_abundance(config: ModelConfig, posterior: Posterior) -> Total:
    """Total of the abundance over all genes that were fitted; in a mixture one per component, on a first axis."""
    if config.mixture:
        each = [total_abundance(config.plain, posterior.component(k)) for k in range(config.n_components)]
        return Total(*[np.stack(parts) for parts in zip(*each, strict=True)])
    n = config.copies(config.gene_sites[0])  # the abundance has the first columns
    loc = np.asarray(posterior.gene_loc)[:, :n]
    own = np.sum(np.asarray(posterior.gene_tril)[:, :n] ** 2, -1)
    loading = np.asarray(posterior.gene_factor)[:, :n]
    mean = np.exp(loc + (own + np.sum(loading**2, -1)) / 2)
    share = mean / mean.sum(0)
    shared = np.sum(share[:, :, None] * loading, 0)
    variance = np.sum(share**2 * own, 0) + np.sum(shared**2, -1)
    return Total(np.log(mean.sum(0)) - variance / 2, variance, shared)


def sampled_marginals(config: ModelConfig, posterior: Posterior, links: dict[str, str]) -> dict[str, Marginal]:
    """Posterior of the parameters that are sampled; ``links`` are their coordinates.

    In a mixture, gene-wise arrays are ``(copies, n_components, n_genes)``.
    """
    if config.mixture:
        parts = [sampled_marginals(config.plain, posterior.component(k), links) for k in range(config.n_components)]
        return _stacked(config, parts)
    own = np.sum(np.asarray(posterior.gene_tril) ** 2, -1) + np.sum(np.asarray(posterior.gene_factor) ** 2, -1)
    found, at = {}, 0
    for site in config.gene_sites:
        columns = slice(at, at + config.copies(site))
        at = columns.stop
        loc, scale = np.asarray(posterior.gene_loc)[:, columns].T, np.sqrt(own[:, columns]).T
        found[site] = Marginal(loc, scale, links[site], "gene", site != "mu" or not config.capture)
    at = 0
    for site in config.global_sites:
        columns = slice(at, at + config.copies(site))
        at = columns.stop
        loc, scale = np.asarray(posterior.global_loc)[columns], np.asarray(posterior.global_scale)[columns]
        found[site] = Marginal(loc, scale, links[site], "global", not config.capture)
    if config.capture:
        loc, scale = np.asarray(posterior.cell_loc), np.asarray(posterior.cell_scale)
        found["nu"] = Marginal(loc, scale, links["nu"], "cell", identified=False)
    return found


def canonical_marginals(
    config: ModelConfig,
    posterior: Posterior,
    total: Total,
    links: dict[str, str],
    log_mrna: float,
    mrna_scale: float,
    batch,
) -> dict[str, Marginal]:
    """Posterior of p, r, mu, gate, nu, odds and composition, whichever of them the model has.

    Parameters
    ----------
    total
        Of all genes that were fitted, also where ``posterior`` is of some of them.
    log_mrna, mrna_scale
        Normal of the log of the total mRNA per cell.
    batch
        Batch of each cell, integers, shape ``(n_cells,)``.
    """
    if config.mixture:
        given = links, log_mrna, mrna_scale, batch
        alone = [component_alone(config, posterior, total, k) for k in range(config.n_components)]
        return _stacked(config, [canonical_marginals(config.plain, *parts, *given) for parts in alone])
    found = sampled_marginals(config, posterior, links)
    standard = config.parameterization == "standard"
    if standard and "p" in found:  # its coordinate is the expected total, see Model.untie
        mean_total = _averaged(total) if len(found["p"].loc) < len(total.loc) else total
        level = found["p"].loc - mean_total.loc
        variance = found["p"].scale ** 2 + mean_total.variance
    elif standard:
        level, variance = log_mrna - total.loc, total.variance
    elif config.shared_odds:
        site = config.global_sites[0]
        level, variance = found[site].loc * (-1 if site == "phi" else 1), found[site].scale ** 2
    composition = _composition(config, posterior, total)
    found["composition"] = composition
    if config.shared_odds:
        column = level[:, None]
        if standard:  # mu is the composition's share of the expected total
            expected, spread = log_mrna, mrna_scale**2
            if not config.capture:
                expected = (total.loc + level)[:, None]
                spread = (np.asarray(posterior.global_scale) ** 2 + _beyond_average(total, level))[:, None]
            mu = Marginal(
                composition.loc + expected, np.sqrt(composition.scale**2 + spread), "log", "gene", not config.capture
            )
            found["mu"] = mu
        else:
            mu = found["mu"]
            found["r"] = Marginal(
                mu.loc - column, np.sqrt(mu.scale**2 + variance[:, None]), "log", "gene", identified=True
            )
        found["p"] = Marginal(level, np.sqrt(variance + mrna_scale**2), "logit", "global", not config.capture)
        if "phi" in found:
            found["phi"] = found["p"]._replace(loc=-level, link="log")
        if not config.capture:
            found["odds"] = Marginal(level, np.sqrt(variance), "log", "global", identified=True)
    if config.capture:
        nu = found["nu"]
        if config.shared_odds and nu.link == "log":
            of_cell = batch if len(level) > 1 else np.zeros(len(batch), int)
            loc, scale = nu.loc + level[of_cell], np.sqrt(nu.scale**2 + variance[of_cell])
            found["odds"] = Marginal(loc, scale, "log", "cell", identified=True)
        found["nu"] = nu._replace(scale=np.sqrt(nu.scale**2 + mrna_scale**2))
        if not standard:
            found["mu"] = found["mu"]._replace(scale=np.sqrt(found["mu"].scale ** 2 + mrna_scale**2))
    return found


def component_alone(config: ModelConfig, posterior: Posterior, total: Total, k: int) -> tuple[Posterior, Total]:
    """Posterior and total of one component of a mixture, as those of a model of its own."""
    alone, own = posterior.component(k), Total(*[part[k] for part in total])
    if config.parameterization == "standard" and config.global_sites:  # p's coordinate has the total, see Model.untie
        beyond = own.loc - total.loc.mean(0)
        beyond = beyond if len(beyond) == len(alone.global_loc) else beyond.mean(keepdims=True)
        alone = alone._replace(global_loc=alone.global_loc + beyond)
    return alone, own


def _stacked(config: ModelConfig, parts: list[dict[str, Marginal]]) -> dict[str, Marginal]:
    """Marginals of a mixture from those of its components: an axis of components where these differ."""
    result = {}
    for name, first in parts[0].items():
        own = first.axis == "gene" or (name in ("p", "odds") and not config.global_sites)
        if not own:
            result[name] = first
            continue
        axis = 0 if first.axis == "cell" else 1
        loc, scale = (np.stack([getattr(part[name], what) for part in parts], axis) for what in ("loc", "scale"))
        result[name] = first._replace(loc=loc, scale=scale)
    return result


def _composition(config: ModelConfig, posterior: Posterior, total: Total) -> Marginal:
    n = len(total.loc)
    loc = np.asarray(posterior.gene_loc)[:, :n]
    own = np.sum(np.asarray(posterior.gene_tril)[:, :n] ** 2, -1)
    loading = np.asarray(posterior.gene_factor)[:, :n]
    share = np.exp(loc + own / 2 - total.loc)
    with_total = share * own + np.sum(loading * total.loading, -1)
    variance = own + np.sum(loading**2, -1) - 2 * with_total + total.variance
    floor = 1e-6 * own  # a gene that is nearly all of the total
    return Marginal((loc - total.loc).T, np.sqrt(np.maximum(variance, floor)).T, "log", "gene", identified=True)


def _averaged(total: Total) -> Total:
    """Mean over batches of the log totals, where p is shared and totals are not."""
    n, loading = len(total.loc), total.loading.mean(0, keepdims=True)
    own = np.mean(total.variance - np.sum(total.loading**2, -1), keepdims=True) / n
    return Total(total.loc.mean(keepdims=True), own + np.sum(loading**2, -1), loading)


def _beyond_average(total: Total, level: np.ndarray) -> np.ndarray:
    """Variance of each batch's log total minus the mean over batches; zero where each batch has its own level."""
    n = len(total.loc)
    if len(level) == n:
        return np.zeros(n)
    own = total.variance - np.sum(total.loading**2, -1)
    return own * (1 - 2 / n) + own.mean() / n + np.sum((total.loading - total.loading.mean(0)) ** 2, -1)


def place(marginal: Marginal, value: np.ndarray) -> np.ndarray:
    """Probability that the parameter is below ``value``."""
    if marginal.link == "beta":
        return betainc(*marginal.concentrations, value)
    z = np.log(value) if marginal.link == "log" else logit(value)
    return ndtr((z - marginal.loc) / marginal.scale)


def point(marginal: Marginal, *, mean: bool) -> np.ndarray:
    """Mode or mean of a marginal, on the scale of the parameter."""
    if marginal.link == "beta":
        a, b = marginal.concentrations
        if mean:
            return a / (a + b)
        inside = np.maximum(a - 1, 0), np.maximum(b - 1, 0)  # at an end where a or b is below 1
        return np.where(sum(inside) > 0, inside[0] / np.maximum(sum(inside), 1e-300), np.where(a < b, 0.0, 1.0))
    loc, variance = np.asarray(marginal.loc, float), np.asarray(marginal.scale, float) ** 2
    if marginal.link == "log":
        return np.exp(loc + variance / 2) if mean else np.exp(loc - variance)
    if mean:  # Gauss-Hermite: a smooth bounded function, 1e-8 with 32 points at scales up to 3
        x, weight = np.polynomial.hermite_e.hermegauss(32)
        z = loc[..., None] + np.sqrt(variance)[..., None] * x
        return (weight / weight.sum() / (1 + np.exp(-z))).sum(-1)
    # the mode solves z = loc + variance (2 sigmoid(z) - 1); from far out on the side of loc, this settles on the higher
    z = loc + variance * np.sign(loc)
    for _ in range(200):
        z = loc + variance * np.tanh(z / 2)
    return 1 / (1 + np.exp(-z))
