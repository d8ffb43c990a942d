r"""Counts that are partly foreign: negative binomial ones with a log mean, and a background that adds to them.

With a native mean :math:`n = E e^\eta`, of size 1 / :math:`\phi`, and a background of mean B, known with variance
:math:`s^2`, counts have

.. math:: E[y] = n + B, \qquad V(n) = n + \phi n^2 + B + s^2

and :math:`\eta` the quasi-likelihood (Wedderburn 1974)

.. math:: Q(\eta) = \int^{n} \frac{y - B - n'}{V(n')}\, dn'

It is the likelihood itself where there is no background (negative binomial), and where :math:`\phi = s = 0` (Poisson of
mean n + B). Where B is about as large as y it says that n is small, and no more: nothing is subtracted.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from scbayes.stats._mixed_model import Problem

#: Where the series of artanh(x) / x in x squared is used.
NEAR_ZERO = 1e-4
#: Errors of a log fold change up to this are in proportion to those of the background.
LINEAR = 0.25


class Background(NamedTuple):
    r"""Counts besides the native ones.

    Attributes
    ----------
    mean, variance
        Of the background in each unit, ``(n_rows, n_units)``; the variance is that of its error.
    common
        The part of the variance that comes from errors which units have in common, ``(n_rows, n_units)``.
    load, profile, factor
        These errors: :math:`\sum_k` ``load[u, k] profile[g, k] factor[k, j]`` is the error of row g and unit u for one
        standard deviation of cause j.
    arm
        Which units are in each of two arms, ``(2, n_units)``.
    """

    mean: Array
    variance: Array
    common: Array
    load: Array
    profile: Array
    factor: Array
    arm: Array


def slopes(problem: "Problem", eta: Array) -> tuple[Array, Array]:
    """First and minus second derivative of Q in the log native mean.

    Q is not concave below its mode where the background is large. There the second derivative is replaced by a small
    share of what is expected of it, which is never above that of a negative binomial.
    """
    native, variance = _moments(problem, eta)
    off = problem.y - native - problem.background.mean
    bend = native + off * (problem.noise * native**2 - (variance - native - problem.noise * native**2)) / variance
    return native * off / variance, native / variance * jnp.maximum(bend, 0.5 * native**2 / variance)


def log_likelihood(problem: "Problem", eta: Array) -> Array:
    r"""Q up to what does not depend on the log mean.

    With :math:`R = \phi n^2 + n + c`, :math:`d = 1 + 2\phi n` and :math:`w = (1 - 4\phi c) / d^2`,

    .. math:: Q = \Big(y - B + \frac{1}{2\phi}\Big) I - \frac{\ln R}{2\phi}, \qquad
        I = \int \frac{dn}{R} = -\frac{2}{d}\,\frac{\operatorname{artanh}\sqrt w}{\sqrt w}
    """
    native, variance = _moments(problem, eta)
    noise, background = problem.noise, problem.background
    slope = 1 + 2 * noise * native
    w = (1 - 4 * noise * (background.mean + background.variance)) / slope**2
    integral = -2 / slope * _artanh_ratio(w, 4 * noise * variance / slope**2)
    return (problem.y - background.mean) * integral + (integral - jnp.log(variance)) / (2 * noise)


def common_errors(problem: "Problem", eta: Array, curvature: Array, of_effect: Array, of_level: Array):
    """What errors that units have in common add to the variances of effect and level, and to their covariance.

    ``of_effect``, ``of_level``: what these change by with the working response of each unit, ``(n_rows, n_units)``.
    Errors of both arms cancel as far as they are small: large ones do not change logs in proportion.
    """
    _, variance = _moments(problem, eta)
    background, scale = problem.background, 1 / jnp.sqrt(variance * curvature)

    def by_cause(weight: Array) -> Array:
        moved = ((weight * scale)[:, None] * background.arm) @ background.load
        return (moved * background.profile[:, None]) @ background.factor

    effect, level = by_cause(of_effect), by_cause(of_level)
    cancels = 1 / (1 + jnp.sum(effect**2, 1) / LINEAR**2)

    def added(one: tuple[Array, Array], two: tuple[Array, Array]) -> Array:
        (weight, a), (other, b) = one, two
        across = cancels * (a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0])
        alone = jnp.sum(weight * other * scale**2 * background.common, 1)
        return jnp.sum(a * b, (1, 2)) + jnp.sum(across, 1) - alone

    effect, level = (of_effect, effect), (of_level, level)
    return added(effect, effect), added(level, level), added(level, effect)


def _moments(problem: "Problem", eta: Array) -> tuple[Array, Array]:
    native = problem.exposure * jnp.exp(eta)
    known = problem.background.mean + problem.background.variance
    return native, native * (1 + problem.noise * native) + known


def _artanh_ratio(w: Array, rest: Array) -> Array:
    """artanh(x) / x for x squared ``w``, arctan where that is negative; ``rest`` is 1 - w, without rounding."""
    root = jnp.sqrt(jnp.maximum(jnp.abs(w), NEAR_ZERO))
    real = (jnp.log1p(root) - 0.5 * jnp.log(rest)) / root
    near = 1 + w / 3 + w**2 / 5
    return jnp.where(jnp.abs(w) < NEAR_ZERO, near, jnp.where(w > 0, real, jnp.arctan(root) / root))
