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


def maximise(function: Callable, start: Maximum, args, n_steps: int, *, spread: bool = True) -> Maximum:
    """Maximise ``function(z, args)``, which returns one value per row of ``z``, from ``start``."""
    return _maximise(function, start, args, n_steps, 2 * start.loc.shape[1] if spread else 1)


class _State(NamedTuple):
    """Where each row is, and what the function is like there (averaged over its points)."""

    z: Array
    precision: Array
    bound: Array
    gradient: Array
    curvature: Array
    damping: Array


@partial(jax.jit, static_argnames="function")
def _maximise(function: Callable, start: Maximum, args, n_steps, n_points) -> Maximum:
    """As :func:`maximise`, over ``n_points`` points: one program for both ways, with the function in it once."""
    spread = n_points > 1
    points = _points(start.loc.shape[1]) * spread

    def averaged(z: Array, tril: Array) -> tuple[Array, Array, Array]:
        """Value (n,), gradient (n, K) and negative Hessian (n, K, K)."""

        def add(i, sums):
            at = z + jnp.einsum("nij,j->ni", tril, points[i])
            return jax.tree.map(jnp.add, sums, _derivatives(lambda x: function(x, args), at))

        zero = (jnp.zeros(z.shape[0]), jnp.zeros_like(z), jnp.zeros_like(tril))
        return jax.tree.map(lambda total: total / n_points, jax.lax.fori_loop(0, n_points, add, zero))

    def step(_, now: _State) -> _State:
        # a step of damped Newton, and a width on the way to the one that goes with the curvature
        damping = now.damping[:, None, None]
        eye = jnp.eye(now.z.shape[1])
        uphill = cholesky(now.curvature + damping * eye * jnp.abs(now.curvature), FLOOR)
        move = solve_upper(uphill, solve_lower(uphill, now.gradient))
        longest = jnp.max(jnp.abs(move), 1, keepdims=True)
        z = now.z + move * jnp.minimum(1, LONGEST / jnp.maximum(longest, 1e-30))
        positive = cholesky(now.curvature, FLOOR)
        precision = (positive @ jnp.swapaxes(positive, 1, 2) + damping * now.precision) / (1 + damping)
        tril = _covariance_tril(precision)
        value, gradient, curvature = averaged(z, tril)
        bound = value + jnp.where(spread, _log_det(tril), 0.0)  # the evidence's lower bound, up to a constant
        better = bound >= now.bound - 1e-9 * jnp.abs(now.bound)
        damping = jnp.where(better, now.damping / 10, now.damping * 10 + 0.1)
        new = _State(z, precision, bound, gradient, curvature, damping)
        taken = [
            jnp.where(better.reshape(better.shape + (1,) * (a.ndim - 1)), a, b) for a, b in zip(new, now, strict=True)
        ]
        return _State(*taken)._replace(damping=damping)

    covariance = start.tril @ jnp.swapaxes(start.tril, 1, 2)
    precision = inverse(cholesky(covariance))
    nowhere = jnp.full(start.loc.shape[0], -jnp.inf)  # the first step stays where it is, and is taken
    state = _State(start.loc, precision, nowhere, jnp.zeros_like(start.loc), precision, jnp.zeros_like(nowhere))
    state = jax.lax.fori_loop(0, n_steps + 1, step, state)
    return Maximum(state.z, _covariance_tril(jnp.where(spread, state.precision, state.curvature)))


def _log_det(tril: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)), -1)


def spread_points(maximum: Maximum) -> Array:
    """The ``2 K`` points over which functions of each row are averaged, shape ``(2 K, n, K)``."""
    return maximum.loc + jnp.einsum("nij,pj->pni", maximum.tril, _points(maximum.loc.shape[1]))


def _points(size: int) -> Array:
    """Where functions are averaged, in units of ``tril``: shape ``(2 K, K)``."""
    axes = size**0.5 * jnp.eye(size)
    return jnp.concatenate([axes, -axes])


def _derivatives(function: Callable, z: Array) -> tuple[Array, Array, Array]:
    """Value, gradient and negative Hessian of a function whose rows do not depend on each other."""

    def slope(x: Array) -> tuple[Array, Array]:
        value, back = jax.vjp(function, x)
        return back(jnp.ones_like(value))[0], value

    gradient, along, value = jax.linearize(slope, z, has_aux=True)
    rows = jax.lax.map(lambda axis: along(jnp.broadcast_to(axis, z.shape)), jnp.eye(z.shape[1]))
    return value, gradient, -jnp.moveaxis(rows, 0, 1)


def _covariance_tril(precision: Array) -> Array:
    return cholesky(inverse(cholesky(precision, FLOOR)))
