r"""How probable the counts of cells are under a model with a latent space, by draws of the latent numbers v.

.. math::
    \ln p(u) = \ln E_r \frac{p(u \mid v)\, p(v)}{r(v)} \ \ge\
    E_q \ln p(u \mid v) - \mathrm{KL}(q \,\|\, p) = \mathrm{ELBO}

The marginal is by importance sampling from a Student's t around the mode of each cell's posterior, with the inverse of
the curvature there as its shape. Draws from q of an encoder would do as well in the limit, but of a thousand of them
only a few count: q is too narrow, has no correlations and lies beside the posterior of most cells.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from scbayes.models._latent_mode import find_peak
from scbayes.models._latent_model import Inputs, LatentModel

#: Cells, and draws of each, that are decoded at a time: their counts stay in the cache of a core.
CELLS, DRAWS = 16, 8
#: Degrees of freedom of Student's t, its width in units of the curvature's, and steps to the mode.
FREEDOM, WIDTH, STEPS = 5, 1.2, 5


@lru_cache(maxsize=32)
def reconstruction(model: LatentModel):
    """Compiled ``(inputs, loc, scale, key, n) -> ln p(u | v)`` of n draws for each cell from q: ``(n, B)``."""

    @partial(jax.jit, static_argnames="n")
    def score(inputs: Inputs, loc: Array, scale: Array, key: Array, n: int) -> Array:
        v = loc + scale * jax.random.normal(key, (_whole(n), *loc.shape))
        return _in_groups(log_likelihood_at(model, inputs, loc), v)[:n]

    return score


@lru_cache(maxsize=32)
def divergence(model: LatentModel):
    """Compiled ``(inputs, loc, scale) -> KL(q || p)`` of each cell, nats ``(B,)``."""

    @jax.jit
    def exact(inputs: Inputs, loc: Array, scale: Array) -> Array:
        q, p = dist.Normal(loc, scale).to_event(1), dist.Normal(*model.prior(inputs)).to_event(1)
        return dist.kl_divergence(q, p)

    return exact


@lru_cache(maxsize=32)
def importance_ratios(model: LatentModel):
    """Compiled ``(inputs, loc, scale, key, n) -> ln p(u | v) p(v) / r(v)`` of n draws for each cell from r: ``(n, B)``.

    The mode is looked for from ``loc``, the mean of q.
    """

    @partial(jax.jit, static_argnames="n")
    def ratios(inputs: Inputs, loc: Array, scale: Array, key: Array, n: int) -> Array:
        del scale
        at = log_likelihood_at(model, inputs, loc)
        centre, unit = model.prior(inputs)  # e: latent numbers in units of their prior
        size = loc.shape[1]
        peak = find_peak(lambda e: at(centre + unit * e) + _log_normal(e), (loc - centre) / unit, STEPS)
        of_normal, of_width = jax.random.split(key)
        t = jax.random.normal(of_normal, (_whole(n), *loc.shape))
        squares = jax.random.normal(of_width, (*t.shape[:2], FREEDOM)) ** 2  # faster than a draw of their sum
        t /= jnp.sqrt(squares.mean(-1))[..., None]
        constant = gammaln((FREEDOM + size) / 2) - gammaln(FREEDOM / 2) - size / 2 * jnp.log(FREEDOM * jnp.pi)
        log_t = constant - (FREEDOM + size) / 2 * jnp.log1p((t**2).sum(-1) / FREEDOM)
        log_r = log_t - peak.log_det - size * jnp.log(WIDTH)
        e = peak.mode + WIDTH * jnp.einsum("bij,nbj->nbi", peak.root, t)
        return (_in_groups(at, centre + unit * e) + _log_normal(e) - log_r)[:n]

    return ratios


def log_likelihood_at(model: LatentModel, inputs: Inputs, anywhere: Array):
    """``v (..., B, D) -> ln p(u | v)``; what does not depend on v is found once, at ``anywhere (B, D)``."""
    x = inputs.cells.counts
    if model.config.dispersion == "gene-cell":
        return lambda v: model.counts(inputs, v).log_prob(x)
    same = model.counts(inputs, anywhere).constant(x).sum(-1)
    return lambda v: model.counts(inputs, v).by_mean(x).sum(-1) + same


def _log_normal(e: Array) -> Array:
    return -0.5 * ((e**2).sum(-1) + e.shape[-1] * jnp.log(2 * jnp.pi))


def _whole(n: int) -> int:
    """Draws in whole groups."""
    return -(-n // DRAWS) * DRAWS


def _in_groups(function, v: Array) -> Array:
    """``function`` of draws ``(n, B, D)``, some at a time: ``(n, B)``."""
    return jax.lax.map(function, v.reshape(-1, DRAWS, *v.shape[1:])).reshape(v.shape[:2])
