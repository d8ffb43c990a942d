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
        """Values of shape ``(n_rows,)`` for ``z`` of shape ``(n_rows, K)``: a row is a gene of a component."""
        evidence, log_odds, priors, log_mrna = args
        likelihood = self.model.likelihood(self.model.gene_values(z, priors), log_mrna, evidence.batch, log_odds)
        log_prior = self.model.log_prior(self.model.split_genes(z), priors)
        of_groups = likelihood.row_log_prob(evidence).reshape(self.model.config.n_batches, -1)
        return of_groups.sum(0) + sum(value.sum(0) for value in log_prior.values())


@partial(jax.jit, static_argnames="model")
def _level_slope(model: Model, points: Array, log_odds: Array, evidence: Evidence, priors, log_mrna) -> Array:
    """Derivative of the log likelihood in the shared log odds of each group, averaged over ``points`` of the genes."""

    def at(z: Array) -> Array:
        likelihood = model.likelihood(model.gene_values(z, priors), log_mrna, evidence.batch, log_odds)

        def total(b: Array) -> Array:  # sizes and gates are held
            moved = NegativeBinomialCounts(likelihood.log_size, b, None, likelihood.gate_logit, likelihood.batch)
            return moved.row_log_prob(evidence).sum()

        return jax.grad(total)(log_odds)[:, 0]

    return jax.lax.map(at, points).mean(0)


class Genes:
    """Solves for the genes of one data set, and for the shared log odds where there are any.

    Functions of the genes are averaged over their posterior, or without ``spread`` taken at its mode.
    """

    def __init__(self, model: Model, summary: Summary, log_mrna: float, *, spread: bool = True) -> None:
        self.model, self.summary, self.log_mrna, self.spread = model, summary, log_mrna, spread
        config = model.config
        names = [name for name, _ in model.columns]
        self.columns = {site: [k for k, name in enumerate(names) if name == site] for site in config.gene_sites}
        total = summary.gene_total.reshape(config.n_batches, config.n_components, -1)
        self.total = (
            total if config.copies(model.abundance) > 1 else total.sum(0, keepdims=True)
        )  # (copies, K, n_genes)

    def first(self) -> tuple[Maximum, np.ndarray]:
        """Coordinates by moments, and shared log odds by the excess of pairs of equal molecules over chance."""
        config = self.model.config
        share = (self.total + 0.5) / np.sum(self.total + 0.5, -1, keepdims=True)
        pairs = float(np.sum(self.summary.cells * self.summary.count * (self.summary.count - 1.0)))
        cell_total, stands_for = self.summary.totals
        together = pairs / max(float(np.sum(stands_for * cell_total * (cell_total - 1.0))), 1.0)
        in_group = self.summary.gene_total / np.maximum(self.summary.gene_total.sum(1, keepdims=True), 1.0)
        weight = self.summary.group_cells / stands_for.sum()
        chance = float(np.sum(weight[:, None] * in_group**2))
        log_r = float(np.log(np.clip((1 - together) / max(together - chance, 1e-6), 1.0, 1e8)))
        level = np.full(self.model.n_levels, self._log_mean_total(1).mean() - log_r)
        z = np.zeros((share[0].size, len(self.model.columns)))
        scale = np.full(share.shape[:2], log_r)
        if config.parameterization != "standard":
            scale = self._log_mean_total(len(self.total))
        z[:, self.columns[self.model.abundance]] = (np.log(share) + scale[..., None]).reshape(len(self.total), -1).T
        if config.gate:
            z[:, self.columns["gate"]] = -2.2
        return Maximum(jnp.asarray(z), jnp.tile(0.1 * jnp.eye(z.shape[1]), (len(z), 1, 1))), level

    def solve(
        self,
        evidence: Evidence,
        genes: Maximum,
        level: np.ndarray,
        priors,
        n_steps: int,
        *,
        spread: bool,
        n_search: int = 30,
    ) -> tuple[Maximum, np.ndarray]:
        """Genes given the cells, at the shared log odds where the likelihood, maximised over genes, is highest.

        These are sought in ``n_search`` steps at most.
        """
        genes = self._maximise(evidence, genes, level, priors, n_steps, spread=spread)
        if not len(level):
            return genes, level
        slope = self.slope(evidence, genes, level, priors, spread=spread)
        low, high = np.full(level.shape, -np.inf), np.full(level.shape, np.inf)  # the slope changes sign in between
        step = 0.2 * np.sign(slope)
        for _ in range(n_search):
            low, high = np.where(slope > 0, level, low), np.where(slope > 0, high, level)
            new = level + np.clip(step, -STRIDE, STRIDE)
            outside = (new <= low) | (new >= high)
            new = np.where(outside & np.isfinite(low + high), (low + high) / 2, new)
            steps = min(n_steps, 4)
            genes = self._maximise(evidence, self._follow(genes, new - level), new, priors, steps, spread=spread)
            before, slope = slope, self.slope(evidence, genes, new, priors, spread=spread)
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
        slope = self.slope(evidence, here, level, priors)
        own = self._levels_of_component()
        response, variance = np.zeros((*here.loc.shape, len(level))), np.zeros(len(level))
        for levels in own if own.ndim > 1 else own[:, None]:  # components do not feel each other's: all at once
            nudge = NUDGE * np.isin(np.arange(len(level)), levels)
            there = self._maximise(evidence, here, level + nudge, priors, 6)
            moved = (np.asarray(there.loc) - np.asarray(here.loc)) / NUDGE
            rows = moved.reshape(len(levels), -1, moved.shape[-1])
            found = response.reshape(len(levels), -1, *response.shape[1:])
            for k, q in enumerate(levels):
                found[k, ..., q] = rows[k]
            bend = (self.slope(evidence, there, level + nudge, priors) - slope) / NUDGE
            variance[levels] = 1 / np.maximum(-bend[levels], 1.0)
        return Coupling(response, variance)

    def log_odds(self, level: np.ndarray) -> Array | None:
        """Shared log odds of each group, shape ``(n_groups, 1)``."""
        if not len(level):
            return None
        config, own = self.model.config, self._levels_of_component()
        by_copy = jnp.asarray(level)[own].reshape(len(own), -1)
        return jnp.broadcast_to(by_copy, (config.n_batches, config.n_components)).reshape(-1, 1)

    def points(self, genes: Maximum, *, spread: bool = True) -> Array:
        """Where functions of the genes are evaluated and averaged, shape ``(n_points, n_genes, K)``."""
        return spread_points(genes) if spread and self.spread else genes.loc[None]

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

    def _levels_of_component(self) -> np.ndarray:
        """Index of the shared log odds: ``(copies,)``, or ``(copies, n_components)`` if components have their own."""
        index = np.arange(self.model.n_levels)
        config = self.model.config
        return index.reshape(-1, config.n_components) if config.mixture and not config.global_sites else index

    def _log_mean_total(self, copies: int) -> np.ndarray:
        """ln of the expected total of a cell at nu = 1, ``(copies, n_components)``.

        The total mRNA with capture, else the mean count.
        """
        config, summary = self.model.config, self.summary
        if config.capture:
            return np.full((copies, config.n_components), self.log_mrna)
        total = summary.gene_total.sum(1).reshape(config.n_batches, -1)
        cells = summary.group_cells.reshape(total.shape)
        if copies == 1:
            total, cells = total.sum(0, keepdims=True), cells.sum(0, keepdims=True)
        mean = summary.gene_total.sum() / summary.group_cells.sum()
        return np.log((total + 0.5) / (cells + 0.5 / max(mean, 1 / summary.group_cells.sum())))

    def slope(
        self, evidence: Evidence, genes: Maximum, level: np.ndarray, priors, *, spread: bool = True
    ) -> np.ndarray:
        """Derivative of the log likelihood in each shared log odds."""
        points = self.points(genes, spread=spread)
        config, own = self.model.config, self._levels_of_component()
        slope = np.asarray(_level_slope(self.model, points, self.log_odds(level), evidence, priors, self.log_mrna))
        slope = slope.reshape(config.n_batches, config.n_components)
        slope = slope if len(own) > 1 else slope.sum(0, keepdims=True)
        return (slope if own.ndim > 1 else slope.sum(1)).ravel()

    def _follow(self, genes: Maximum, move: np.ndarray) -> Maximum:
        """Genes moved with the shared log odds so that their means stay: in ``standard``, r falls as odds rise."""
        if self.model.config.parameterization != "standard":
            return genes
        columns, config = self.columns["r"], self.model.config
        move = move[self._levels_of_component()].reshape(-1, move.size // max(len(self._levels_of_component()), 1))
        move = np.broadcast_to(move, (len(columns), config.n_components))
        of_rows = np.repeat(move.T, len(genes.loc) // config.n_components, 0)
        return genes._replace(loc=genes.loc.at[:, np.asarray(columns)].add(-of_rows))

    def _maximise(self, evidence, genes, level, priors, n_steps, *, spread: bool = True) -> Maximum:
        args = (evidence, self.log_odds(level), priors, jnp.asarray(self.log_mrna))
        spread = spread and self.spread and len(self.model.columns) <= AVERAGED
        return maximise(GeneObjective(self.model), genes, args, n_steps, spread=spread)
