r"""Coordinates in which a posterior is nearly a standard normal: where MCMC walks.

With :math:`D` the Cholesky blocks of the genes and the scales of the rest, and :math:`W` what ties coordinates to each
other, :math:`y = m + D (I + V V^T)^{1/2} \varepsilon` with :math:`V = D^{-1} W`. There are two such ties: the
genes' answers to the odds they share, and the scale of nu and mu, of which only priors say anything.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.models._evidence import Evidence
from scbayes.models._model import Model
from scbayes.models._moving_cells import MovingCells, log_prob
from scbayes.models._posterior import Posterior
from scbayes.stats._small_blocks import solve_lower


class Whitening(NamedTuple):
    """A posterior's own spread, and the directions ``(n, Q)`` in which it is ``stretch`` (Q,) times as wide."""

    posterior: Posterior
    directions: Array
    stretch: Array


class Target(NamedTuple):
    """What the energy is made of: counts, priors, and the coordinates."""

    counts: Evidence | MovingCells
    priors: dict
    log_mrna: Array
    whitening: Whitening


def whiten(model: Model, posterior: Posterior, priors: dict, batch: np.ndarray) -> Whitening:
    """Coordinates around a posterior without components."""
    n_factors = posterior.gene_factor.shape[-1]
    factor = solve_lower(posterior.gene_tril, jnp.moveaxis(posterior.gene_factor, -1, 0))
    rest = np.zeros((len(posterior.global_loc) + len(posterior.cell_loc), n_factors))
    ties = [np.concatenate([np.asarray(factor).transpose(1, 2, 0).reshape(posterior.gene_loc.size, n_factors), rest])]
    scales = range(model.config.copies("mu") if model.config.free_scale else 0)
    ties += [_scale(model, posterior, priors, batch, copy)[:, None] for copy in scales]
    directions, widths, _ = np.linalg.svd(np.concatenate(ties, 1), full_matrices=False)
    return Whitening(posterior, jnp.asarray(directions), jnp.sqrt(1 + jnp.asarray(widths) ** 2))


def coordinates(whitening: Whitening, position: Array) -> tuple[Array, Array, Array]:
    """Coordinates of genes ``(n_genes, K)``, globals and cells at ``position`` (n,)."""
    posterior, directions, stretch = whitening
    noise = position + directions @ ((stretch - 1) * (directions.T @ position))
    n_genes = posterior.gene_loc.size
    ends = n_genes, n_genes + posterior.global_loc.size
    gene = noise[: ends[0]].reshape(posterior.gene_loc.shape)
    gene = posterior.gene_loc + jnp.einsum("gkl,gl->gk", posterior.gene_tril, gene)
    glob = posterior.global_loc + posterior.global_scale * noise[ends[0] : ends[1]]
    return gene, glob, posterior.cell_loc + posterior.cell_scale * noise[ends[1] :]


def n_coordinates(posterior: Posterior) -> int:
    """Length of a position."""
    return posterior.gene_loc.size + posterior.global_loc.size + posterior.cell_loc.size


@dataclass(frozen=True)
class Energy:
    """Minus the log of the joint density at a position, up to a constant."""

    model: Model

    def __call__(self, position: Array, target: Target) -> Array:
        """A scalar, nats."""
        model, counts = self.model, target.counts
        z = model.untie(model.split(*coordinates(target.whitening, position)))
        values = {site: model.transform(site, target.priors)(value) for site, value in z.items()}
        moving = isinstance(counts, MovingCells)
        batch = counts.evidence.batch if moving else counts.batch
        likelihood = model.likelihood(values, target.log_mrna, batch)
        log_p = log_prob(likelihood, counts) if moving else likelihood.log_prob(counts)
        return -log_p - sum(value.sum() for value in model.log_prior(z, target.priors).values())


def _scale(model: Model, posterior: Posterior, priors: dict, batch: np.ndarray, copy: int) -> np.ndarray:
    """Whitened direction in which mu rises, nu falls and the counts stay, as long as the priors let it."""
    config = model.config
    gene = np.zeros(posterior.gene_loc.shape)
    gene[:, copy] = 1  # mu has the first columns
    glob = np.zeros(len(posterior.global_loc))
    if len(glob):  # r = mu (1-p)/p = mu phi stays
        glob[copy] = 1 if config.global_sites == ("p",) else -1
    own = np.ones(len(batch), bool) if config.copies("mu") == 1 else batch == copy
    cell = -own.astype(float)

    def log_prior(step: Array) -> Array:
        at = posterior.gene_loc + step * gene, posterior.global_loc + step * glob, posterior.cell_loc + step * cell
        return sum(value.sum() for value in model.log_prior(model.split(*at), priors).values())

    bend = -float(jax.grad(jax.grad(log_prior))(0.0))
    white = [
        solve_lower(posterior.gene_tril, jnp.asarray(gene)),
        glob / np.asarray(posterior.global_scale),
        cell / np.asarray(posterior.cell_scale),
    ]
    return np.concatenate([np.ravel(part) for part in white]) / np.sqrt(max(bend, 1e-2))
