r"""Many small maximisations at once: Newton's method on blocks.

For each row :math:`g` of ``z`` a function of :math:`K` numbers is maximised, all rows in step. With ``spread`` the
function is averaged over normal draws around the mean, :math:`\bar f(m) = E[f(m + L\varepsilon)]` with
:math:`(L L^T)^{-1} = -E[f'']`: its maximum is the best normal approximation of :math:`e^f` in the sense of variational
inference (Opper & Archambeau 2009). The average is taken over the :math:`2K` points :math:`\pm\sqrt K L e_k`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from scbayes.stats._small_blocks import cholesky, inverse, solve_lower, solve_upper

#: Longest step in any coordinate (log or logit scale).
LONGEST = 2.0
#: Smallest precision that a coordinate is given where the function is not concave.
FLOOR = 0.05


class Maximum(NamedTuple):
    """Where the maximum is: ``loc`` (n, K); ``tril`` (n, K, K), Cholesky factor of the inverse negative curvature."""

    loc: Array
    tril: Array


@partial(jax.jit, static_argnames=("function", "spread"))
def maximise(function: Callable, start: Maximum, args, n_steps: int, *, spread: bool = True) -> Maximum:
    """Maximise ``function(z, args)``, which returns one value per row of ``z``, from ``start``."""
    points = _points(start.tril.shape[-1], spread=spread)

    def averaged(z: Array, tril: Array) -> Array:
        shifted = jax.lax.map(lambda point: function(z + jnp.einsum("nij,j->ni", tril, point), args), points)
        return shifted.mean(0)

    def derivatives(z: Array, tril: Array) -> tuple[Array, Array]:
        found = jax.lax.map(
            lambda point: _derivatives(lambda x: function(x, args), z + jnp.einsum("nij,j->ni", tril, point)), points
        )
        return found[0].mean(0), found[1].mean(0)

    def step(_, state):
        z, tril, value, damping = state
        gradient, curvature = derivatives(z, tril)
        eye = jnp.eye(z.shape[1])
        precision_tril = cholesky(curvature + damping[:, None, None] * eye * jnp.abs(curvature), FLOOR)
        move = solve_upper(precision_tril, solve_lower(precision_tril, gradient))
        longest = jnp.max(jnp.abs(move), 1, keepdims=True)
        proposed = z + move * jnp.minimum(1, LONGEST / jnp.maximum(longest, 1e-30))
        z, value, better = _take(proposed, averaged(proposed, tril), z, value)
        if spread:  # the width that goes with the curvature, if the bound on the evidence agrees
            bound = value + _log_det(tril)
            wider = _covariance_tril(curvature)
            at = averaged(z, wider)
            tril, bound, _ = _take(wider, at + _log_det(wider), tril, bound)
            value = bound - _log_det(tril)
        return z, tril, value, jnp.where(better, damping / 10, damping * 10 + 0.1)

    z, tril = start
    state = (z, tril, averaged(z, tril), jnp.zeros(z.shape[0]))
    z, tril, _, _ = jax.lax.fori_loop(0, n_steps, step, state)
    return Maximum(z, tril if spread else _covariance_tril(derivatives(z, tril)[1]))


def _take(new: Array, new_value: Array, old: Array, old_value: Array) -> tuple[Array, Array, Array]:
    """The better of two proposals, row by row; a value that is not finite loses."""
    better = new_value >= old_value - 1e-9 * jnp.abs(old_value)
    mask = better.reshape(better.shape + (1,) * (new.ndim - 1))
    return jnp.where(mask, new, old), jnp.where(better, new_value, old_value), better


def _log_det(tril: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)


def spread_points(maximum: Maximum) -> Array:
    """The ``2 K`` points over which functions of each row are averaged, shape ``(2 K, n, K)``."""
    return maximum.loc + jnp.einsum("nij,pj->pni", maximum.tril, _points(maximum.loc.shape[1], spread=True))


def _points(size: int, *, spread: bool) -> Array:
    """Where functions are averaged, in units of ``tril``: shape ``(n_points, K)``."""
    if not spread:
        return jnp.zeros((1, size))
    axes = size**0.5 * jnp.eye(size)
    return jnp.concatenate([axes, -axes])


def _derivatives(function: Callable, z: Array) -> tuple[Array, Array]:
    """Gradient (n, K) and negative Hessian (n, K, K) of a function whose rows do not depend on each other."""
    slope = jax.grad(lambda x: function(x).sum())
    gradient, along = jax.linearize(slope, z)
    rows = jax.lax.map(lambda axis: along(jnp.broadcast_to(axis, z.shape)), jnp.eye(z.shape[1]))
    return gradient, -jnp.moveaxis(rows, 0, 1)


def _covariance_tril(precision: Array) -> Array:
    return cholesky(inverse(cholesky(precision, FLOOR)))
