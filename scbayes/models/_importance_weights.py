r"""Draws of the latent numbers of a population of cells, weighted as draws from its true posterior.

A draw :math:`v_i` from the mixture of the q of J cells becomes one from the mixture of their posteriors (Boyeau et al.
2022):

.. math::
    w_i \propto \frac{\sum_j p(v_i \mid u_j)}{\sum_j q_j(v_i)}, \qquad
    p(v \mid u_j) = \frac{p(u_j \mid v)\, p_j(v)}{p(u_j)},

with :math:`p(u_j)` by importance sampling. The prior and the decoder are those of cell j: its batch,
its covariates, its library size.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from scipy.special import logsumexp

from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.models._latent_scores import DRAWS, importance_ratios, log_likelihood_at
from scbayes.stats._importance import importance, truncated


class Anchors(NamedTuple):
    """Some cells of the population: inputs and q ``(B, D)`` of B of them, of which the first ``n`` count."""

    inputs: Inputs
    loc: Array
    scale: Array
    n: int


class Weights(NamedTuple):
    """Log weights ``(n_draws,)`` whose exponentials sum to 1; effective number of draws; Pareto k-hat (0.7 is high)."""

    log_weight: np.ndarray
    ess: float
    k_hat: float


def importance_weights(
    model: LatentModel,
    anchors: Iterable[Anchors],
    v: np.ndarray,
    *,
    seed: int = 0,
    n_samples: int = 500,
    truncate: bool = False,
) -> Weights:
    r"""Weights of draws from the mixture of the q of cells.

    Parameters
    ----------
    anchors
        The cells, a few at a time (as many as :data:`~scbayes.models._latent_scores.CELLS` is quick).
    v
        ``(n_draws, D)``, drawn from the equal mixture of their q.
    n_samples
        Draws for the marginal likelihood of each cell.
    truncate
        Weights are at most :math:`\sqrt{n}` times their mean (Ionides 2008): less variance, some bias.
    """
    ratios, pairs = importance_ratios(model), _pairs(model)
    posterior, proposal = [], []
    v = jnp.asarray(v, jnp.float32)
    for i, block in enumerate(anchors):
        of_cells = block.inputs, block.loc, block.scale
        own = ratios(*of_cells, jax.random.fold_in(jax.random.key(seed), i), n_samples)
        evidence = importance(own).log_mean
        log_joint, log_q = (np.asarray(value, float)[:, : block.n] for value in pairs(*of_cells, v))
        posterior.append(logsumexp(log_joint - evidence[: block.n], axis=1))
        proposal.append(logsumexp(log_q, axis=1))
    log_ratio = np.logaddexp.reduce(posterior) - np.logaddexp.reduce(proposal)
    if truncate:
        log_ratio = truncated(log_ratio)
    found = importance(log_ratio[:, None])
    return Weights(log_ratio - logsumexp(log_ratio), float(found.ess[0]), float(found.k_hat[0]))


@lru_cache(maxsize=32)
def _pairs(model: LatentModel):
    """Compiled ``(inputs, loc, scale, v (M, D))`` -> ln p(u_j | v_i) p_j(v_i) and ln q_j(v_i), each ``(M, B)``."""

    @jax.jit
    def pairs(inputs: Inputs, loc: Array, scale: Array, v: Array) -> tuple[Array, Array]:
        groups = -(-len(v) // DRAWS)
        padded = jnp.zeros((groups * DRAWS, v.shape[1])).at[: len(v)].set(v).reshape(groups, DRAWS, 1, -1)
        at = log_likelihood_at(model, inputs, loc)
        found = jax.lax.map(lambda some: at(jnp.broadcast_to(some, (DRAWS, *loc.shape))), padded)
        each = v[:, None]
        log_prior = dist.Normal(*model.prior(inputs)).log_prob(each).sum(-1)
        log_q = dist.Normal(loc, scale).log_prob(each).sum(-1)
        return found.reshape(groups * DRAWS, -1)[: len(v)] + log_prior, log_q

    return pairs
