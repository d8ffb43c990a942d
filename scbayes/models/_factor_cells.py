r"""Cells of the factor model: their posterior given the genes, and what they say about the genes.

In cell c of batch :math:`\beta`, with :math:`\alpha_g = 1/\theta_g` and :math:`J_c` the loadings less their mean under
:math:`\rho_c`,

.. math::
    \mu_{cg} = N_c \rho_{cg}, \quad \rho_c = \mathrm{softmax}(b_\beta + W z_c), \quad
    r_{cg} = \frac{x_{cg} - \mu_{cg}}{1 + \alpha_g \mu_{cg}}, \quad
    v_{cg} = \mu_{cg} \frac{1 + \alpha_g x_{cg}}{(1 + \alpha_g \mu_{cg})^2},

where r and -v are the first two derivatives of the log likelihood in :math:`\ln\mu_{cg}`. The log posterior of
:math:`z_c` has the gradient :math:`J_c^T r_c - z_c` and the precision :math:`J_c^T \mathrm{diag}(u_c) J_c + I` with
:math:`u_{cg} = v_{cg} + \rho_{cg} \sum_h r_{ch}`. Its normal approximation has the mode m as its mean, and as variances
:math:`V_{ck}` the inverse of the precision's diagonal. To second order in :math:`z - m`,

.. math:: E \ln p(x_c | z) = \ln p(x_c | m) - \tfrac12 \sum_g u_{cg} q_{cg}, \quad q_{cg} = \sum_k V_{ck} J_{cgk}^2 .
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

#: Longest step in any factor (a priori standard deviations).
LONGEST = 3.0
#: Cells whose steps are below this are left where they are during a fit.
NEAR = 0.2
#: Smallest precision that a factor is given (the prior's is 1) where the posterior is not concave.
LEAST = 0.1
#: Relative error of a sum over genes in single precision.
ROUNDING = 1e-6


class Genes(NamedTuple):
    """Genes as one batch sees them, float32: ``offset`` (G,), ``loadings`` (G, K), ``inverse`` 1/theta (G,)."""

    offset: Array
    loadings: Array
    inverse: Array


class Slopes(NamedTuple):
    """The likelihood and its slopes at one point, ``(R, G)`` each: see the head of this file."""

    log_rho: Array
    mu: Array
    r: Array
    v: Array
    u: Array


class Place(NamedTuple):
    """Where cells are: z and ``mean`` (the loadings' under rho) ``(R, K)``, and the log posterior there.

    ``value`` (R,) is without the parts of x and theta alone, ``gradient`` is ``(R, K)``, ``precision`` ``(R, K, K)``.
    """

    z: Array
    value: Array
    mean: Array
    gradient: Array
    precision: Array


class Found(NamedTuple):
    """What one block of cells gives.

    Attributes
    ----------
    loc, scale
        Posterior of the cells, ``(R, K)``.
    constant
        Per cell, log prior and entropy of its posterior: minus the divergence from the prior, ``(R,)``.
    precision
        Sum over cells of the likelihood's part of the precision, ``(K, K)``.
    curvature
        Sums of v times ``products`` (upper triangle of the mean of z z'), z, 1: ``(G, K (K + 1) / 2 + K + 1)``.
    gradient
        In loadings and offset, ``(G, K + 1)``.
    sums
        ``(G, 5)``: log likelihood without the part of x alone; derivatives for theta, see :func:`_theta_sums`.
    """

    loc: Array
    scale: Array
    constant: Array
    precision: Array
    curvature: Array
    gradient: Array
    sums: Array


def triangle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the upper triangle, row by row."""
    return np.triu_indices(n)


def _products(z: Array) -> Array:
    """Products of all pairs of columns, the upper triangle of each row's z z'."""
    i, j = triangle(z.shape[1])
    return z[:, i] * z[:, j]


def _square(packed: Array, n: int) -> Array:
    """The symmetric matrices of packed upper triangles."""
    place = np.zeros((n, n), int)
    place[triangle(n)] = np.arange(n * (n + 1) // 2)
    place = np.maximum(place, place.T)
    return packed[..., place]


def _outer(z: Array) -> Array:
    return z[:, :, None] * z[:, None, :]


def failures(genes: Genes, mu: Array) -> Array:
    r""":math:`\theta \ln(1 + \mu / \theta)`, or :math:`\mu` where theta is infinite."""
    safe = jnp.where(genes.inverse > 0, genes.inverse, 1)
    return jnp.where(genes.inverse > 0, jnp.log1p(genes.inverse * mu) / safe, mu)


def _slopes(x: Array, size: Array, genes: Genes, z: Array) -> Slopes:
    log_rho = jax.nn.log_softmax(genes.offset + z @ genes.loadings.T, 1)
    rho = jnp.exp(log_rho)
    mu = size[:, None] * rho
    over = 1 / (1 + genes.inverse * mu)
    r = (x - mu) * over
    v = mu * over**2 * (1 + genes.inverse * x)
    return Slopes(log_rho, mu, r, v, v + rho * jnp.sum(r, 1, keepdims=True))


def _place(x: Array, size: Array, genes: Genes, z: Array) -> Place:
    at, w, n = _slopes(x, size, genes, z), genes.loadings, z.shape[1]
    lost = failures(genes, at.mu)
    value = jnp.sum(x * (at.log_rho - genes.inverse * lost) - lost, 1) - 0.5 * jnp.sum(z**2, 1)
    mean = jnp.exp(at.log_rho) @ w
    gradient = at.r @ w - jnp.sum(at.r, 1, keepdims=True) * mean - z
    table = jnp.concatenate([_products(w), w, jnp.ones((len(w), 1))], 1)
    packed, along, total = jnp.split(at.u @ table, [n * (n + 1) // 2, table.shape[1] - 1], 1)
    cross = mean[:, :, None] * along[:, None, :]
    centred = _square(packed, n) - cross - jnp.swapaxes(cross, 1, 2) + total[:, :, None] * _outer(mean)
    return Place(z, value, mean, gradient, centred + jnp.eye(n))


@jax.jit
def climb(x: Array, size: Array, genes: Genes, z: Array, n_steps, tolerance) -> Place:
    """Where each cell's posterior is highest: damped Newton steps from ``z``, until none is above ``tolerance``."""

    def step(now):
        i, at, damping, _ = now
        ridge = damping[:, None, None] * jnp.eye(z.shape[1]) * (1 + jnp.abs(at.precision))  # not concave far away
        tril = jnp.linalg.cholesky(at.precision + ridge)
        move = jax.scipy.linalg.cho_solve((tril, True), at.gradient[..., None])[..., 0]
        longest = jnp.max(jnp.abs(move), 1)
        new = _place(x, size, genes, at.z + move * jnp.minimum(1, LONGEST / jnp.maximum(longest, 1e-30))[:, None])
        better = new.value >= at.value - ROUNDING * jnp.abs(at.value)
        at = Place(*(jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, at, strict=True)))
        return (
            i + 1,
            at,
            jnp.where(better, damping / 10, 10 * damping + 1),
            jnp.max(jnp.where(better, longest, jnp.inf)),
        )

    start = 0, _place(x, size, genes, z), jnp.zeros(len(z)), jnp.inf
    return jax.lax.while_loop(lambda now: (now[0] < n_steps) & (now[3] > tolerance), step, start)[1]


def deviation(place: Place) -> Array:
    """Standard deviations of the cells' posteriors, ``(R, K)``."""
    return 1 / jnp.sqrt(jnp.maximum(jnp.diagonal(place.precision, axis1=1, axis2=2), LEAST))


def visit(x: Array, size: Array, genes: Genes, z: Array, n_steps) -> Found:
    """Move the cells of a block on by ``n_steps`` at most, and take what they say about the genes there."""
    # Three programs: the compiler would compute what passes from one to the next anew for each sum over it.
    place = climb(x, size, genes, z, n_steps, NEAR)
    return _tell(x, size, genes, place, _expected(x, size, genes, place))


@jax.jit
def _expected(x: Array, size: Array, genes: Genes, place: Place) -> tuple[Slopes, Array, Array]:
    """Slopes, those of the expected log likelihood in b + W z, and q; ``(R, G)`` each."""
    at, w = _slopes(x, size, genes, place.z), genes.loadings
    variance = deviation(place) ** 2
    shifted = variance * place.mean
    q = jnp.concatenate([variance, -2 * shifted], 1) @ jnp.concatenate([w**2, w], 1).T
    q = q + jnp.sum(shifted * place.mean, 1, keepdims=True)
    spread = genes.inverse * at.mu
    return at, at.r - 0.5 * at.v * q * (1 - spread) / (1 + spread), q  # half of d(v q)/d(ln mu)


@jax.jit
def _tell(x: Array, size: Array, genes: Genes, place: Place, expected) -> Found:
    at, slope, q = expected
    z, scale = place.z, deviation(place)
    n, w, one, variance = z.shape[1], genes.loadings, jnp.ones((len(z), 1)), scale**2
    i, j = triangle(n)
    products = _products(z) + jnp.where(i == j, variance[:, i], 0)
    sums = at.v.T @ jnp.concatenate([products, z, one, variance, variance * place.mean], 1)
    curvature, damp, shift = jnp.split(sums, [sums.shape[1] - 2 * n, sums.shape[1] - n], 1)
    both = jnp.concatenate([z, one], 1)
    share = (slope @ jnp.ones(len(w)))[:, None] / jnp.maximum(size, 1e-30)[:, None]  # through the softmax
    gradient = slope.T @ both - at.mu.T @ (share * both)
    gradient = gradient.at[:, :n].add(shift - damp * w)
    constant = 0.5 * jnp.sum(1 - z**2 - variance + jnp.log(variance), 1)
    precision = jnp.sum(place.precision, 0) - len(z) * jnp.eye(n)
    return Found(z, scale, constant, precision, curvature, gradient, _theta_sums(x, size, genes, at, q))


def _theta_sums(x: Array, size: Array, genes: Genes, at: Slopes, q: Array) -> Array:
    r"""Sums over the cells, ``(G, 5)``.

    First the expected log likelihood but for the part of x and theta alone; then, with :math:`a = \alpha\mu`,
    :math:`\theta\sum\ln(1 + a)`, :math:`\sum r` and :math:`\sum a / (1 + a)`, with the variance of z in mind, and
    :math:`\sum (\alpha x - a)/(1 + a)^2`.
    """
    log_mu = at.log_rho + jnp.log(jnp.maximum(size, 1e-30))[:, None]
    blur, lost, spread = 0.5 * q, failures(genes, at.mu), genes.inverse * at.mu
    over = 1 / (1 + spread)
    value = x * (log_mu - genes.inverse * lost) - lost - at.u * blur
    parts = [value, lost, at.r + at.v * spread * over * blur, spread * over, (genes.inverse * x - spread) * over**2]
    return jnp.stack([jnp.ones(len(part)) @ part for part in parts], 1)
