r"""How probable the counts of cells are under a model with a latent space, by draws from q.

.. math::
    \ln p(u) = \ln E_q \frac{p(u \mid v)\, p(v)}{q(v)} \ \ge\
    E_q \ln p(u \mid v) - \mathrm{KL}(q \,\|\, p) = \mathrm{ELBO}
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpyro.distributions as dist
from jax import Array

from scbayes.models._latent_model import Inputs, LatentModel

#: Cells, and draws of each, that are decoded at a time: their counts stay in the cache of a core.
CELLS, DRAWS = 16, 8


class Scores(NamedTuple):
    """Of S draws ``(S, B)``: ln p(u | v), and ln p(v) - ln q(v)."""

    log_likelihood: Array
    log_ratio: Array


@lru_cache(maxsize=32)
def scorer(model: LatentModel):
    """Compiled ``(inputs, loc, scale, key, n) -> Scores`` of n draws for each cell from the normals q ``(B, D)``."""

    @partial(jax.jit, static_argnames="n")
    def score(inputs: Inputs, loc: Array, scale: Array, key: Array, n: int) -> Scores:
        q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(*model.prior(inputs)).to_event(1)
        groups = -(-n // DRAWS)
        v = q.sample(key, (groups, DRAWS))
        found = Scores(jax.lax.map(log_likelihood_at(model, inputs, loc), v), p.log_prob(v) - q.log_prob(v))
        return Scores(*[value.reshape(groups * DRAWS, -1)[:n] for value in found])

    return score


@lru_cache(maxsize=32)
def divergence(model: LatentModel):
    """Compiled ``(inputs, loc, scale) -> KL(q || p)`` of each cell, nats ``(B,)``."""

    @jax.jit
    def exact(inputs: Inputs, loc: Array, scale: Array) -> Array:
        q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(*model.prior(inputs)).to_event(1)
        return dist.kl_divergence(q, p)

    return exact


def log_likelihood_at(model: LatentModel, inputs: Inputs, anywhere: Array):
    """``v (..., B, D) -> ln p(u | v)``; what does not depend on v is found once, at ``anywhere (B, D)``."""
    x = inputs.cells.counts
    if model.config.dispersion == "gene-cell":
        return lambda v: model.counts(inputs, v).log_prob(x)
    same = model.counts(inputs, anywhere).constant(x).sum(-1)
    return lambda v: model.counts(inputs, v).by_mean(x).sum(-1) + same
