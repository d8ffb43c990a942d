"""The genes' posterior given the cells: one to three numbers a gene, and one scalar for all."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from scbayes.counts import Summary
from scbayes.models._evidence import Evidence
from scbayes.models._likelihood import NegativeBinomialCounts
from scbayes.models._model import Model
from scbayes.stats._newton import Maximum, maximise, spread_points
from scbayes.stats._normal_means import normal_means

#: Genes' blocks up to this size are averaged over their posterior; larger ones (many batches) sit at their mode.
AVERAGED = 3
#: Step in the shared log odds for the response of the genes to them.
NUDGE = 0.05
#: Shared log odds are found to this accuracy.
CLOSE = 1e-4
#: Longest step in them.
STRIDE = 0.7


class Coupling(NamedTuple):
    """What ties the genes where all of a cell's genes share its odds.

    Attributes
    ----------
    response
        Change of each gene's coordinates with the shared log odds, shape ``(n_genes, K, n_levels)``.
    variance
        Posterior variance of the shared log odds, shape ``(n_levels,)``.
    """

    response: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class GeneObjective:
    """Log posterior density of each gene's coordinates, given the cells."""

    model: Model

    def __call__(self, z: Array, args) -> Array:
        """Values of shape ``(n_genes,)`` for ``z`` of shape ``(n_genes, K)``."""
        evidence, log_odds, priors, log_mrna = args
        likelihood = self.model.likelihood(self.model.gene_values(z, priors), log_mrna, evidence.batch, log_odds)
        log_prior = self.model.log_prior(self.model.split_genes(z), priors)
        return likelihood.row_log_prob(evidence).sum(0) + sum(value.sum(0) for value in log_prior.values())


@partial(jax.jit, static_argnames="model")
def _level_slope(model: Model, points: Array, log_odds: Array, evidence: Evidence, priors, log_mrna) -> Array:
    """Derivative of the log likelihood in the shared log odds of each batch, averaged over ``points`` of the genes."""

    def at(z: Array) -> Array:
        likelihood = model.likelihood(model.gene_values(z, priors), log_mrna, evidence.batch, log_odds)

        def total(b: Array) -> Array:  # sizes and gates are held
            moved = NegativeBinomialCounts(likelihood.log_size, b, None, likelihood.gate_logit, likelihood.batch)
            return moved.row_log_prob(evidence).sum()

        return jax.grad(total)(log_odds)[:, 0]

    return jax.lax.map(at, points).mean(0)


class Genes:
    """Solves for the genes of one data set, and for the shared log odds where there are any."""

    def __init__(self, model: Model, summary: Summary, log_mrna: float) -> None:
        self.model, self.summary, self.log_mrna = model, summary, log_mrna
        config = model.config
        names = [name for name, _ in model.columns]
        self.columns = {site: [k for k, name in enumerate(names) if name == site] for site in config.gene_sites}
        total = summary.gene_total
        self.total = total if config.copies(model.abundance) > 1 else total.sum(0, keepdims=True)  # (copies, n_genes)

    def first(self) -> tuple[Maximum, np.ndarray]:
        """Coordinates by moments, and shared log odds by the excess of pairs of equal molecules over chance."""
        config = self.model.config
        share = (self.total + 0.5) / np.sum(self.total + 0.5, 1, keepdims=True)
        pairs = float(np.sum(self.summary.cells * self.summary.count * (self.summary.count - 1.0)))
        cell_total = self.summary.cell_total.astype(float)
        together = pairs / max(float(np.sum(cell_total * (cell_total - 1))), 1.0)
        chance = float(np.sum((self.total.sum(0) / max(self.total.sum(), 1.0)) ** 2))
        log_r = float(np.log(np.clip((1 - together) / max(together - chance, 1e-6), 1.0, 1e8)))
        level = self._log_mean_total(self.model.n_levels) - log_r
        z = np.zeros((share.shape[1], len(self.model.columns)))
        copies = len(self.total)
        scale = np.full(copies, log_r) if config.parameterization == "standard" else self._log_mean_total(copies)
        z[:, self.columns[self.model.abundance]] = (np.log(share) + scale[:, None]).T
        if config.gate:
            z[:, self.columns["gate"]] = -2.2
        return Maximum(jnp.asarray(z), jnp.tile(0.1 * jnp.eye(z.shape[1]), (len(z), 1, 1))), level

    def solve(
        self, evidence: Evidence, genes: Maximum, level: np.ndarray, priors, n_steps: int, *, spread: bool
    ) -> tuple[Maximum, np.ndarray]:
        """Genes given the cells, at the shared log odds where the likelihood, maximised over genes, is highest."""
        genes = self._maximise(evidence, genes, level, priors, n_steps, spread=spread)
        if not len(level):
            return genes, level
        slope = self._slope(evidence, genes, level, priors, spread=spread)
        low, high = np.full(level.shape, -np.inf), np.full(level.shape, np.inf)  # the slope changes sign in between
        step = 0.2 * np.sign(slope)
        for _ in range(30):
            low, high = np.where(slope > 0, level, low), np.where(slope > 0, high, level)
            new = level + np.clip(step, -STRIDE, STRIDE)
            outside = (new <= low) | (new >= high)
            new = np.where(outside & np.isfinite(low + high), (low + high) / 2, new)
            genes = self._maximise(evidence, self._follow(genes, new - level), new, priors, 4, spread=spread)
            before, slope = slope, self._slope(evidence, genes, new, priors, spread=spread)
            moved = new - level
            level = new
            if np.max(np.abs(moved)) < CLOSE:
                break
            bend = (slope - before) / np.where(moved == 0, 1, moved)
            step = np.where(bend < 0, -slope / np.where(bend < 0, bend, -1), STRIDE * np.sign(slope))
        return genes, level

    def coupling(self, evidence: Evidence, genes: Maximum, level: np.ndarray, priors) -> Coupling:
        """How genes answer to each shared log odds, and how well these are known."""
        here = self._maximise(evidence, genes, level, priors, 3)
        slope = self._slope(evidence, here, level, priors)
        response, variance = [], []
        for q in range(len(level)):
            nudge = NUDGE * (np.arange(len(level)) == q)
            there = self._maximise(evidence, here, level + nudge, priors, 6)
            response.append((np.asarray(there.loc) - np.asarray(here.loc)) / NUDGE)
            bend = (self._slope(evidence, there, level + nudge, priors)[q] - slope[q]) / NUDGE
            variance.append(1 / max(-bend, 1.0))
        return Coupling(np.stack(response, -1), np.asarray(variance))

    def log_odds(self, level: np.ndarray) -> Array | None:
        """Shared log odds of each batch, shape ``(n_batches, 1)``."""
        return jnp.broadcast_to(jnp.asarray(level)[:, None], (self.summary.n_batches, 1)) if len(level) else None

    def points(self, genes: Maximum, *, spread: bool = True) -> Array:
        """Where functions of the genes are evaluated and averaged, shape ``(n_points, n_genes, K)``."""
        return spread_points(genes) if spread else genes.loc[None]

    def learn(self, genes: Maximum, priors, learned: list[str]) -> dict[str, dist.Distribution]:
        """Centre and width of the population of genes, for priors that are learned from the data."""
        family = dist.Normal if self.model.config.unconstrained else dist.LogNormal
        result = {}
        for site in learned:
            loc = np.asarray(genes.loc)[:, self.columns[site]].ravel()
            variance = np.sum(np.asarray(genes.tril)[:, self.columns[site]] ** 2, -1).ravel()
            if site == self.model.abundance:  # every gene tells: the mean and variance of the posteriors (one EM step)
                centre = loc.mean()
                width = np.sqrt(np.mean(variance + (loc - centre) ** 2))
            else:  # few genes tell, and EM would crawl: take the prior out of their posteriors and solve for it
                m, s = float(priors[site].loc), float(priors[site].scale)
                precision = 1 / variance - 1 / s**2
                tells = precision > 0.05 / s**2
                if tells.sum() < 10:
                    continue
                estimate = (loc / variance - m / s**2)[tells] / precision[tells]
                centre, width = normal_means(estimate, 1 / precision[tells])
            result[site] = family(float(centre), float(max(width, 0.1)))
        return result

    def _log_mean_total(self, copies: int) -> np.ndarray:
        """ln of the expected total of a cell at nu = 1: the total mRNA with capture, else the mean count."""
        if self.model.config.capture:
            return np.full(copies, self.log_mrna)
        total = self.summary.gene_total.sum(1)
        if copies > 1:
            return np.log(np.maximum(total, 0.5) / self.summary.group_cells)
        return np.full(copies, np.log(max(total.sum(), 0.5) / self.summary.n_cells))

    def _slope(
        self, evidence: Evidence, genes: Maximum, level: np.ndarray, priors, *, spread: bool = True
    ) -> np.ndarray:
        """Derivative of the log likelihood in each shared log odds."""
        points = self.points(genes, spread=spread)
        per_batch = _level_slope(self.model, points, self.log_odds(level), evidence, priors, self.log_mrna)
        return np.asarray(per_batch) if len(level) > 1 else np.asarray(per_batch).sum(keepdims=True)

    def _follow(self, genes: Maximum, move: np.ndarray) -> Maximum:
        """Genes moved with the shared log odds so that their means stay: in ``standard``, r falls as odds rise."""
        if self.model.config.parameterization != "standard":
            return genes
        columns = self.columns["r"]
        move = np.broadcast_to(move, (len(columns),))
        return genes._replace(loc=genes.loc.at[:, np.asarray(columns)].add(-move))

    def _maximise(self, evidence, genes, level, priors, n_steps, *, spread: bool = True) -> Maximum:
        args = (evidence, self.log_odds(level), priors, jnp.asarray(self.log_mrna))
        spread = spread and len(self.model.columns) <= AVERAGED
        return maximise(GeneObjective(self.model), genes, args, n_steps, spread=spread)
