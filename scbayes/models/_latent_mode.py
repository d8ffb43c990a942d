r"""Where the posterior of the latent numbers of each cell is, and how wide: its mode and its curvature there.

In units of the prior, :math:`v = m + s e`, Newton's method finds the maximum of
:math:`f(e) = \ln p(u \mid m + s e) - \tfrac12 |e|^2` from the mean of q. The curvature of the prior is 1, so
that of f is taken as at least 1: where the likelihood bends the other way, the width is that of the prior.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

#: Longest step in any coordinate, in standard deviations of the prior.
LONGEST = 1.0


class Peak(NamedTuple):
    """A maximum of each row and its width.

    Attributes
    ----------
    mode
        ``(B, D)``.
    root
        ``(B, D, D)``, with ``root @ root.T`` the inverse of the negative curvature there.
    log_det
        Log of the absolute determinant of the root, ``(B,)``.
    """

    mode: Array
    root: Array
    log_det: Array


class _State(NamedTuple):
    e: Array
    value: Array
    gradient: Array
    curvature: Array
    step: Array


def find_peak(function, start: Array, n_steps: int) -> Peak:
    """Maximum of ``function``, ``(..., B, D)`` to ``(..., B)``, whose rows do not depend on each other."""

    def derivatives(e: Array) -> tuple[Array, Array, Array]:
        def slope(e: Array) -> tuple[Array, Array]:
            value, back = jax.vjp(function, e)
            return back(jnp.ones_like(value))[0], value

        gradient, along, value = jax.linearize(slope, e, has_aux=True)
        axes = jnp.broadcast_to(jnp.eye(e.shape[1])[:, None], (e.shape[1], *e.shape))
        return value, gradient, -jnp.moveaxis(jax.vmap(along)(axes), 0, 1)

    def step(_, now: _State) -> _State:
        root, _ = _root(now.curvature)
        move = jnp.einsum("bij,bkj,bk->bi", root, root, now.gradient)
        longest = jnp.abs(move).max(1)
        e = now.e + move * (now.step * jnp.minimum(1, LONGEST / jnp.maximum(longest, 1e-30)))[:, None]
        value, gradient, curvature = derivatives(e)
        better = value > now.value
        new = _State(e, value, gradient, curvature, jnp.ones_like(value))
        old = now._replace(step=now.step / 4)
        return jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)

    value, gradient, curvature = derivatives(start)
    state = _State(start, value, gradient, curvature, jnp.ones_like(value))
    state = jax.lax.fori_loop(0, n_steps, step, state)
    return Peak(state.e, *_root(state.curvature))


def _root(curvature: Array) -> tuple[Array, Array]:
    """Root of the inverse of the curvature, at least 1 in all directions, and the log of its determinant."""
    size, axes = jnp.linalg.eigh(curvature)
    size = jnp.maximum(jnp.nan_to_num(size, nan=1.0), 1.0)
    return axes / jnp.sqrt(size)[:, None], -0.5 * jnp.log(size).sum(-1)
