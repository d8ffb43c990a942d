"""Moments by importance sampling are those of the density, and k-hat is arviz's."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scbayes.stats._importance import moments, pareto_shape
from scbayes.stats._newton import Maximum
from scbayes.stats._precision import double


def log_gammas(z, shape):
    """Log density of ln x for x ~ Gamma(shape), one row per shape: skewed to the left."""
    return (shape[:, None] * z - jnp.exp(z)).sum(1)


@pytest.mark.parametrize("size", [1, 2])
def test_moments_of_skewed_densities(size):
    shape = np.array([0.8, 1.5, 5.0, 50.0])
    with double():  # the normal at the mode, with its curvature
        tril = np.eye(size) / np.sqrt(shape)[:, None, None]
        start = Maximum(jnp.asarray(np.tile(np.log(shape)[:, None], (1, size))), jnp.asarray(tril))
        found = moments(log_gammas, start, jnp.asarray(shape), 256).normal
    exact = stats.loggamma(shape)
    sd = np.sqrt(np.einsum("nij,nij->ni", found.tril, found.tril))
    np.testing.assert_allclose((np.asarray(found.loc) - exact.mean()[:, None]) / exact.std()[:, None], 0, atol=0.06)
    np.testing.assert_allclose(sd / exact.std()[:, None], 1, atol=0.07)


def correlated(z, args):
    """A normal with correlation 0.9, away from where it is sought."""
    mean, precision = args
    return -0.5 * jnp.einsum("ni,ij,nj->n", z - mean, precision, z - mean)


def test_moments_have_correlations():
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    with double():
        start = Maximum(jnp.zeros((1, 2)), jnp.eye(2)[None])
        args = jnp.array([0.5, 0.2]), jnp.asarray(np.linalg.inv(covariance))
        found = Maximum(*map(np.asarray, moments(correlated, start, args, 1024).normal))
    np.testing.assert_allclose(found.loc[0], [0.5, 0.2], atol=0.03)
    np.testing.assert_allclose(found.tril[0] @ found.tril[0].T, covariance, atol=0.05)


def test_rows_that_cannot_be_sampled_stay_as_they_are():
    with double():
        start = Maximum(jnp.zeros((2, 1)), jnp.ones((2, 1, 1)))
        start = start._replace(loc=jnp.array([[0.0], [400.0]]))
        found = Maximum(*map(np.asarray, moments(log_gammas, start, jnp.array([1.0, 1.0]), 128).normal))
    assert found.loc[1, 0] == 400
    assert found.tril[1, 0, 0] == 1
    assert found.loc[0, 0] != 0


def test_pareto_shape_is_that_of_arviz():
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    rng = np.random.default_rng(0)
    ratio = np.stack([rng.exponential(size=400), 2 * rng.exponential(size=400), rng.normal(size=400)], 1)
    # it takes log likelihoods, whose negatives are the ratios
    expected = [float(array_stats.psislw(-column)[1]) for column in ratio.T]
    np.testing.assert_allclose(pareto_shape(ratio), expected, atol=0.02)


def test_pareto_shape_tells_heavy_tails():
    """Ratios exp(x / 2) and exp(2 x) of exponential x have Pareto tails of shape 0.5 and 2."""
    x = np.random.default_rng(1).exponential(size=4000)
    light, heavy = pareto_shape(np.stack([x / 2, 2 * x], 1))
    assert abs(light - 0.5) < 0.2
    assert abs(heavy - 2) < 0.4
