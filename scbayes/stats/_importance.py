r"""Exact moments of many small densities at once, by importance sampling from normals that come near them.

Row g has a density :math:`p_g` on :math:`R^K`, known up to a constant, and a normal :math:`m_g + L_g\varepsilon` near
it. Points :math:`\varepsilon_s` are drawn once for all rows, half of them from the standard normal :math:`\phi`, half
from a wider Student's t, :math:`\tau`; their weights are
:math:`w_{gs} \propto p_g(m_g + L_g\varepsilon_s) / (\tfrac12\phi(\varepsilon_s) + \tfrac12\tau(\varepsilon_s))`
(Veach & Guibas 1995). How well the normal alone would do is told by the tail of :math:`p_g/\phi`: the shape
:math:`\hat k` of a generalised Pareto distribution (Vehtari, Simpson, Gelman, Yao, Gabry 2024; Yao et al. 2018).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.stats._newton import Maximum
from scbayes.stats._small_blocks import cholesky

#: Degrees of freedom of the wide half of the points, and its width.
FREEDOM, WIDTH = 5, 1.6
#: Rows in which fewer points count than this keep the normal that they had.
FEWEST = 12


class Moments(NamedTuple):
    """Of each row: ``normal`` with its mean and covariance, and ``k_hat`` (n,) of the normal that was sampled from."""

    normal: Maximum
    k_hat: np.ndarray


def moments(function: Callable, normal: Maximum, args, n_points: int) -> Moments:
    """Means and covariances of ``exp(function(z, args))``, which returns one value per row of ``z``.

    Parameters
    ----------
    normal
        Where to sample: ``loc`` (n, K) and ``tril`` (n, K, K).
    n_points
        Even; a power of two is best.
    """
    points, log_normal, log_both = _points(normal.loc.shape[1], n_points)
    log_p = np.asarray(_evaluate(function, normal, args, jnp.asarray(points)))  # (n_points, n)
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    half = n_points // 2
    weight = log_p - log_both[:, None]
    weight = np.exp(weight - weight.max(0))
    weight /= weight.sum(0)
    mean = weight.T @ points
    square = np.einsum("sk,sl->skl", points, points).reshape(n_points, -1)
    covariance = (weight.T @ square).reshape(*mean.shape, -1) - mean[:, :, None] * mean[:, None, :]
    few = 1 / np.sum(weight**2, 0) < FEWEST
    mean[few], covariance[few] = 0, np.eye(points.shape[1])
    loc = normal.loc + jnp.einsum("nij,nj->ni", normal.tril, mean)
    tril = jnp.einsum("nij,njk->nik", normal.tril, cholesky(jnp.asarray(covariance), 1e-3))
    return Moments(Maximum(loc, tril), pareto_shape(log_p[:half] - log_normal[:half, None]))


class Importance(NamedTuple):
    """Of each column of importance ratios: log of their mean, effective number of draws, Pareto k-hat; float64."""

    log_mean: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray


def importance(log_ratio: np.ndarray) -> Importance:
    r"""Mean of importance ratios ``(n_points, n)`` on a log scale, and how far it can be trusted.

    The effective number of draws is :math:`(\sum_s w_s)^2 / \sum_s w_s^2` (Kong 1992).
    """
    log_ratio = np.asarray(log_ratio, float)
    largest = log_ratio.max(0)
    weight = np.exp(log_ratio - largest)
    total = weight.sum(0)
    return Importance(largest + np.log(total / len(weight)), total**2 / np.sum(weight**2, 0), pareto_shape(log_ratio))


def truncated(log_ratio: np.ndarray) -> np.ndarray:
    r"""Importance ratios of n draws, each at most :math:`\sqrt n` times their mean (Ionides 2008), on a log scale."""
    n = len(log_ratio)
    mean = np.logaddexp.reduce(log_ratio) - np.log(n)
    return np.minimum(log_ratio, mean + 0.5 * np.log(n))


@partial(jax.jit, static_argnames="function")
def _evaluate(function: Callable, normal: Maximum, args, points: Array) -> Array:
    def at(point: Array) -> Array:
        return function(normal.loc + jnp.einsum("nij,j->ni", normal.tril, point), args)

    return jax.lax.map(at, points)


@lru_cache(maxsize=16)
def _points(size: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, size), half normal and half wide, with their log densities: normal, and of both halves together."""
    from scipy import stats

    uniform = stats.qmc.Sobol(size + 1, rng=0).random(n // 2)
    normal = stats.norm.ppf(uniform[:, :size])
    stretch = WIDTH / np.sqrt(stats.chi2(FREEDOM).ppf(uniform[:, size:]) / FREEDOM)
    points = np.concatenate([normal, normal * stretch])
    log_normal = stats.norm.logpdf(points).sum(1)
    wide = stats.multivariate_t(np.zeros(size), WIDTH**2 * np.eye(size), FREEDOM).logpdf(points)
    return points, log_normal, np.logaddexp(log_normal, wide) - np.log(2)


def pareto_shape(log_ratio: np.ndarray) -> np.ndarray:
    r"""Shape :math:`\hat k` of the tail of each column of importance ratios ``(n_points, n)``, on a log scale.

    The largest :math:`\min(0.2\,S, 3\sqrt S)` of S ratios are taken as generalised Pareto, whose shape is found by the
    profile method of Zhang & Stephens (2009), drawn towards 0.5 as if by ten more points.
    """
    n = len(log_ratio)
    tail = int(min(np.ceil(0.2 * n), np.ceil(3 * np.sqrt(n))))
    largest = np.sort(np.partition(log_ratio, n - tail - 1, 0)[n - tail - 1 :], 0)
    with np.errstate(invalid="ignore"):  # columns of -inf
        excess = np.exp(largest[1:] - largest[-1]) - np.exp(largest[0] - largest[-1])
    excess = np.maximum(np.nan_to_num(excess), 1e-300)
    n_grid = 30 + int(np.sqrt(tail))
    quartile, top = excess[int(tail / 4 + 0.5) - 1], excess[-1]
    grid = np.arange(1, n_grid + 1) - 0.5
    theta = 1 / top + (1 - np.sqrt(n_grid / grid))[:, None] / (3 * quartile)
    shape = np.stack([np.log1p(-one * excess).mean(0) for one in theta])  # (n_grid, n)
    profile = tail * (np.log(-theta / shape) - shape - 1)
    weight = np.exp(profile - profile.max(0))
    best = np.sum(theta * weight, 0) / weight.sum(0)
    found = np.log1p(-best * excess).mean(0)
    return (found * tail + 5) / (tail + 10)
