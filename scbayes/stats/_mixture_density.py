"""Density of an equal mixture of many products of normals or Student's t at many points, a block of pairs at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

#: Points and components that meet at a time.
BLOCK = 256


def log_mixture_density(
    points: np.ndarray, loc: np.ndarray, scale: np.ndarray, *, dof: float | None = None, own: np.ndarray | None = None
) -> np.ndarray:
    r"""``ln (1/m) sum_j prod_k p(points_k | loc_jk, scale_jk)``, float64 ``(n,)``, computed in single precision.

    Parameters
    ----------
    points
        ``(n, D)``.
    loc, scale
        ``(m, D)``.
    dof
        Degrees of freedom of Student's t; None: normals.
    own
        Component that is left out at each point, ``(n,)``; -1: none. One that has no other has -inf.
    """
    n, m = len(points), len(loc)
    own = np.full(n, -1) if own is None else np.asarray(own)
    rows = np.minimum(np.arange(-(-n // BLOCK) * BLOCK), n - 1).reshape(-1, BLOCK)  # of a whole number of blocks
    at = jnp.asarray(points[rows], jnp.float32), jnp.asarray(own[rows])
    total = jnp.full(rows.shape, -jnp.inf)
    for first in range(0, m, BLOCK):
        columns = np.minimum(np.arange(first, first + BLOCK), m - 1)
        some = [jnp.asarray(value[columns], jnp.float32) for value in (loc, scale)]
        total = _add(total, at, *some, first, m, 1.0 if dof is None else float(dof), normal=dof is None)
    return np.asarray(total, float).ravel()[:n] - np.log(np.maximum(m - (own >= 0), 1))


@partial(jax.jit, static_argnames="normal")
def _add(total: Array, at, loc: Array, scale: Array, first, m, dof, *, normal: bool) -> Array:
    """Log of the sum so far and of a block of components; those from ``m`` on are no more."""
    component = first + jnp.arange(BLOCK)
    size = loc.shape[1]
    log_constant = -0.5 * jnp.log(2 * jnp.pi)
    if not normal:
        log_constant = gammaln((dof + 1) / 2) - gammaln(dof / 2) - 0.5 * jnp.log(dof * jnp.pi)
    constant = size * log_constant - jnp.log(scale).sum(1)

    def block(given):
        total, points, own = given
        log_p = jnp.broadcast_to(constant, (BLOCK, BLOCK))
        for k in range(size):  # axes of points and components stay the longest
            square = ((points[:, k, None] - loc[:, k]) / scale[:, k]) ** 2
            log_p -= square / 2 if normal else (dof + 1) / 2 * jnp.log1p(square / dof)
        out = (component == own[:, None]) | (component >= m)
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(out, -jnp.inf, log_p), axis=1))

    return jax.lax.map(block, (total, *at))
