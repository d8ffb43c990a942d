"""The pure numerics: interpolation, small linear algebra, Newton, normal means, and the coupled normal."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import chebyshev as polynomials
from scipy import optimize, stats
from scipy.special import digamma, logit, polygamma

from scbayes.models._coupled_normal import CoupledNormal
from scbayes.stats._chebyshev import Chebyshev, chebyshev
from scbayes.stats._logit_beta import concentrations, logit_quantile
from scbayes.stats._newton import FLOOR, Maximum, maximise, spread_points
from scbayes.stats._normal_means import normal_means
from scbayes.stats._precision import double
from scbayes.stats._small_blocks import cholesky, inverse, solve_lower, solve_upper


@pytest.fixture(autouse=True)
def double_precision():
    with double():
        yield


# --- precision --------------------------------------------------------------------------------------------------------


def test_double_is_only_inside():
    assert jnp.asarray(0.5).dtype == jnp.float64
    with jax.enable_x64(False):
        assert jnp.asarray(0.5).dtype == jnp.float32
        with double():
            assert jnp.asarray(1 / 3).dtype == jnp.float64
        assert jnp.asarray(0.5).dtype == jnp.float32


# --- interpolation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [-6.0, -0.2, 3.0])
@pytest.mark.parametrize("width", [0.5, 4.0, 9.0])
def test_interpolation_of_the_functions_it_is_for(low, width):
    grid = chebyshev(low, low + width)
    x = np.linspace(low, low + width, 301)
    for shift in (-8, -3, 0, 3):
        f = lambda x, shift=shift: np.log1p(np.exp(x + shift))
        np.testing.assert_allclose(grid.weights(x) @ f(grid.nodes), f(x), rtol=0, atol=1e-6 * f(x).max())


def test_pole_asks_for_nodes():
    sizes = [len(chebyshev(-3, 3, pole=pole).nodes) for pole in (np.pi, 1.0, 0.5)]
    assert sizes == sorted(set(sizes))
    f = lambda x: 1 / (1 + x**2 / 0.25)  # poles 0.5 off the axis
    x = np.linspace(-3, 3, 500)
    error = [np.abs(g.weights(x) @ f(g.nodes) - f(x)).max() for g in (chebyshev(-3, 3), chebyshev(-3, 3, pole=0.5))]
    assert error[0] > 1e-2
    assert error[1] < 1e-6
    assert len(chebyshev(-3, 3, tolerance=1e-3).nodes) < len(chebyshev(-3, 3, tolerance=1e-12).nodes)


def test_a_polynomial_is_interpolated_exactly():
    grid = chebyshev(-1.0, 5.0)
    coefficients = np.random.default_rng(0).normal(size=len(grid.nodes))
    series = polynomials.Chebyshev(coefficients, domain=[-1, 5])
    x = np.linspace(-1, 5, 77)
    np.testing.assert_allclose(grid.weights(x) @ series(grid.nodes), series(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.transform @ series(grid.nodes), coefficients, rtol=0, atol=1e-13)
    np.testing.assert_allclose(grid.basis(x) @ coefficients, series(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.basis(x) @ grid.derivative @ coefficients, series.deriv()(x), rtol=0, atol=1e-10)
    second = grid.derivative @ grid.derivative @ coefficients
    np.testing.assert_allclose(grid.basis(x) @ second, series.deriv(2)(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_derivative_for_any_number_of_nodes(n):
    grid = Chebyshev(0.0, 4.0, 2 + 2 * np.cos((np.arange(n) + 0.5) * np.pi / n))
    values = grid.nodes ** (n - 1)
    found = grid.basis(np.array([0.5, 3.0])) @ grid.derivative @ grid.transform @ values
    np.testing.assert_allclose(found, (n - 1) * np.array([0.5, 3.0]) ** max(n - 2, 0), rtol=1e-10)


def test_weights_sum_to_one_and_stay_inside():
    grid = chebyshev(-2.0, 1.0)
    weights = grid.weights(np.array([-2.0, -1.3, 1.0, 1.5, -7.0]))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(weights[2:], weights[[2, 2, 0]])  # beyond the ends: as at the ends
    np.testing.assert_allclose(grid.weights(grid.nodes), np.eye(len(grid.nodes)), atol=1e-12)


def test_an_interval_of_one_point():
    grid = chebyshev(0.7, 0.7)
    assert grid.low < 0.7 < grid.high
    np.testing.assert_allclose(grid.weights(np.array([0.7])) @ np.exp(grid.nodes), np.exp(0.7), rtol=1e-12)


# --- small blocks -----------------------------------------------------------------------------------------------------


def random_covariance(n: int, k: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(n, k, k))
    return root @ root.transpose(0, 2, 1) + 0.1 * np.eye(k)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_small_blocks_are_those_of_lapack(k):
    matrix = random_covariance(7, k, k)
    tril = np.linalg.cholesky(matrix)
    value = np.random.default_rng(1).normal(size=(7, k))
    np.testing.assert_allclose(cholesky(jnp.asarray(matrix)), tril, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solve_lower(tril, value), np.linalg.solve(tril, value[..., None])[..., 0], rtol=1e-9)
    transposed = np.linalg.solve(tril.transpose(0, 2, 1), value[..., None])[..., 0]
    np.testing.assert_allclose(solve_upper(tril, value), transposed, rtol=1e-9)
    np.testing.assert_allclose(inverse(jnp.asarray(tril)), np.linalg.inv(matrix), rtol=1e-8, atol=1e-10)


def test_solve_lower_takes_leading_axes():
    tril = np.linalg.cholesky(random_covariance(4, 3, 0))
    value = np.random.default_rng(2).normal(size=(6, 5, 4, 3))
    expected = np.linalg.solve(tril, value[..., None])[..., 0]
    np.testing.assert_allclose(solve_lower(tril, value), expected, rtol=1e-9)


def test_cholesky_of_what_is_not_positive():
    matrix = jnp.asarray([[[-4.0, 2.0], [2.0, 3.0]], [[1e-8, 0.0], [0.0, 9.0]], [[4.0, 0.0], [0.0, -9.0]]])
    tril = np.asarray(cholesky(matrix, 0.25))
    # pivots: |-4|, then 3 - 1; 0.25 for 1e-8; 4 and |-9|
    expected = [[[2, 0], [1, 2**0.5]], [[0.5, 0], [0, 3]], [[2, 0], [0, 3]]]
    np.testing.assert_allclose(tril, expected, rtol=1e-12)


# --- Newton -----------------------------------------------------------------------------------------------------------


class Quadratic(NamedTuple):
    centre: jnp.ndarray
    precision: jnp.ndarray


def quadratic(z, args: Quadratic):
    return -0.5 * jnp.einsum("ni,nij,nj->n", z - args.centre, args.precision, z - args.centre)


def counts_in_logs(z, args):
    """Log posterior of ln mean and ln size of negative binomial counts: skew, correlated, not concave everywhere."""
    u, prior = args
    mean, size = jnp.exp(z[:, :1]), jnp.exp(z[:, 1:])
    gammaln = jax.scipy.special.gammaln
    log_p = gammaln(u + size) - gammaln(size) + u * jnp.log(mean) - (u + size) * jnp.log(mean + size)
    return (log_p + size * jnp.log(size)).sum(1) - 0.5 * ((z / prior) ** 2).sum(1)


def few_counts() -> np.ndarray:
    rng = np.random.default_rng(4)
    u = rng.poisson(rng.gamma(1.5, rng.lognormal(0, 1.5, (9, 1)), (9, 25))).astype(float)
    u[0] = 0
    return u


def start_at(loc, width: float = 0.3) -> Maximum:
    n, k = loc.shape
    return Maximum(jnp.asarray(loc), jnp.tile(width * jnp.eye(k), (n, 1, 1)))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_newton_of_a_quadratic_is_the_normal_itself(k, spread):
    precision = random_covariance(6, k, 3)
    centre = np.random.default_rng(3).normal(size=(6, k))
    args = Quadratic(jnp.asarray(centre), jnp.asarray(precision))
    found = maximise(quadratic, start_at(np.zeros((6, k))), args, 12, spread=spread)
    np.testing.assert_allclose(found.loc, centre, atol=1e-8)
    np.testing.assert_allclose(found.tril, np.linalg.cholesky(np.linalg.inv(precision)), rtol=1e-6, atol=1e-8)


def test_newton_finds_the_mode_that_scipy_finds():
    u = few_counts()
    args = (jnp.asarray(u), jnp.asarray([3.0, 1.5]))
    found = maximise(counts_in_logs, start_at(np.zeros((9, 2))), args, 25, spread=False)
    one = jax.jit(lambda z, row: counts_in_logs(z[None], (row[None], args[1]))[0])
    for g in range(9):
        loss = jax.value_and_grad(lambda z, g=g: -one(z, u[g]))
        mode = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-7}).x
        np.testing.assert_allclose(found.loc[g], mode, atol=1e-5)
        hessian = jax.hessian(one)(jnp.asarray(mode), u[g])
        covariance = np.asarray(found.tril[g] @ found.tril[g].T)
        np.testing.assert_allclose(covariance, np.linalg.inv(-hessian), rtol=1e-3, atol=1e-6)


def log_of_poisson(z, args):
    """Log posterior of the log mean of Poisson counts; its averages over a normal are known exactly."""
    total, n, width = args
    return (total * z - n * jnp.exp(z) - 0.5 * (z / width) ** 2)[:, 0]


@pytest.mark.parametrize("total", [0.0, 1.0, 3.0, 50.0, 4000.0])
def test_spread_newton_is_gaussian_variational_inference(total):
    n, width = 10.0, 2.0

    def bound(x):  # exact up to a constant: E f + log sd
        m, s = x[0], np.exp(x[1])
        value = total * m - n * np.exp(m + s**2 / 2) - 0.5 * (m**2 + s**2) / width**2 + x[1]
        return -value

    best = optimize.minimize(
        bound, [np.log((total + 0.5) / n), -1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    ).x
    args = (jnp.asarray([[total]]), n, width)
    found = maximise(log_of_poisson, start_at(np.zeros((1, 1))), args, 25)
    mode = maximise(log_of_poisson, start_at(np.zeros((1, 1))), args, 25, spread=False)
    loc, sd, mode = found.loc[0, 0], found.tril[0, 0, 0], mode.loc[0, 0]
    assert abs(loc - best[0]) < 0.05 * sd
    assert abs(loc - best[0]) < abs(mode - best[0]) / 4
    assert abs(sd / np.exp(best[1]) - 1) < 0.01


def test_spread_points_have_the_moments_of_the_normal():
    tril = np.linalg.cholesky(random_covariance(5, 3, 9))
    loc = np.random.default_rng(9).normal(size=(5, 3))
    points = np.asarray(spread_points(Maximum(jnp.asarray(loc), jnp.asarray(tril))))
    assert points.shape == (6, 5, 3)
    np.testing.assert_allclose(points.mean(0), loc, atol=1e-12)
    centred = points - loc
    np.testing.assert_allclose(
        np.einsum("pni,pnj->nij", centred, centred) / 6, tril @ tril.transpose(0, 2, 1), rtol=1e-9, atol=1e-12
    )


def test_newton_climbs_from_where_the_function_is_not_concave():
    function = lambda z, args: -jnp.log1p((z[:, 0] - args) ** 2)  # convex beyond one from its peak
    found = maximise(
        function, start_at(np.array([[-6.0], [0.0], [9.0]])), jnp.asarray([0.5, 2.5, -1.0]), 40, spread=False
    )
    np.testing.assert_allclose(found.loc[:, 0], [0.5, 2.5, -1.0], atol=1e-5)
    np.testing.assert_allclose(found.tril[:, 0, 0], 0.5**0.5, rtol=1e-5)


def test_newton_does_not_jump_to_and_fro():
    function = lambda z, args: -jnp.log(jnp.cosh(3 * (z[:, 0] - args)))  # plain Newton diverges 0.36 from the peak
    args = jnp.asarray([0.9, -0.8, 1.2])
    found = maximise(function, start_at(np.zeros((3, 1))), args, 40, spread=False)
    np.testing.assert_allclose(found.loc[:, 0], args, atol=1e-6)


def test_newton_never_takes_what_is_not_finite():
    function = lambda z, args: jnp.where(z[:, 0] > args, jnp.nan, 3 * z[:, 0] - z[:, 0] ** 2)  # peak at 1.5
    found = maximise(function, start_at(np.array([[0.0], [0.0]]), 0.01), jnp.asarray([1.2, 3.0]), 20, spread=False)
    assert np.all(np.isfinite(found.loc))
    assert found.loc[0, 0] <= 1.2
    assert found.loc[1, 0] == pytest.approx(1.5)


def test_flat_directions_get_the_smallest_precision():
    found = maximise(
        lambda z, args: 0 * z[:, 0] - 0.5 * args * z[:, 1] ** 2, start_at(np.ones((1, 2))), 4.0, 5, spread=False
    )
    np.testing.assert_allclose(found.tril[0], np.diag([FLOOR**-0.5, 0.5]), rtol=1e-6)
    assert found.loc[0, 0] == 1


# --- normal means -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("centre", "width"), [(0.0, 1.0), (-5.0, 0.4), (2.0, 3.0)])
def test_normal_means_are_those_of_maximum_likelihood(centre, width):
    rng = np.random.default_rng(1)
    variance = rng.gamma(1, 1, 4000)
    x = rng.normal(centre, width, 4000) + rng.normal(0, np.sqrt(variance))
    found = normal_means(x, variance)
    assert found == pytest.approx((centre, width), abs=0.12)

    def loss(at):
        return -stats.norm.logpdf(x, at[0], np.sqrt(np.exp(2 * at[1]) + variance)).sum()

    best = optimize.minimize(
        loss, [centre, np.log(width)], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-8}
    ).x
    assert found == pytest.approx((best[0], np.exp(best[1])), abs=1e-4)


def test_normal_means_have_a_smallest_width():
    rng = np.random.default_rng(2)
    assert normal_means(rng.normal(3, 0.5, 500), np.full(500, 1.0)) == (pytest.approx(3, abs=0.1), 0.1)
    assert normal_means(np.full(20, 1.5), np.full(20, 0.01), smallest=0.3) == (pytest.approx(1.5), 0.3)


# --- the coupled normal -----------------------------------------------------------------------------------------------


def coupled(n: int, k: int, q: int, seed: int, **settings) -> tuple[CoupledNormal, np.ndarray]:
    """A coupled normal, and its covariance written out."""
    rng = np.random.default_rng(seed)
    tril = np.linalg.cholesky(random_covariance(n, k, seed))
    factor = rng.normal(size=(n, k, q))
    loc = rng.normal(size=(n, k))
    dense = np.zeros((n * k, n * k))
    for g in range(n):
        block = slice(g * k, (g + 1) * k)
        dense[block, block] = tril[g] @ tril[g].T
    dense += factor.reshape(n * k, q) @ factor.reshape(n * k, q).T
    return CoupledNormal(*map(jnp.asarray, (loc, tril, factor)), **settings), dense


@pytest.mark.parametrize(("n", "k", "q"), [(6, 1, 1), (5, 3, 2), (4, 2, 0), (1, 2, 3)])
def test_density_of_the_coupled_normal_is_the_dense_one(n, k, q):
    normal, covariance = coupled(n, k, q, seed=n)
    value = np.random.default_rng(0).normal(size=(7, n, k))
    dense = stats.multivariate_normal(np.asarray(normal.loc).ravel(), covariance)
    np.testing.assert_allclose(normal.log_prob(value), dense.logpdf(value.reshape(7, -1)), rtol=1e-9)
    np.testing.assert_allclose(normal.log_prob(value[0]), dense.logpdf(value[0].ravel()), rtol=1e-9)
    np.testing.assert_allclose(normal.mean, normal.loc)
    np.testing.assert_allclose(np.ravel(normal.variance), np.diag(covariance), rtol=1e-9)


def test_draws_of_the_coupled_normal_have_its_moments():
    normal, covariance = coupled(3, 2, 2, seed=1)
    draws = np.asarray(normal.sample(jax.random.key(0), (200, 250)))
    assert draws.shape == (200, 250, 3, 2)
    flat = draws.reshape(-1, 6)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((flat.mean(0) - np.ravel(normal.loc)) / sd).max() < 4 / np.sqrt(len(flat))
    error = (np.cov(flat, rowvar=False) - covariance) / np.outer(sd, sd)
    assert np.abs(error).max() < 4 * np.sqrt(2 / len(flat))
    assert normal.sample(jax.random.key(1)).shape == (3, 2)


def test_detached_density_has_the_same_value_and_no_gradient_in_its_parameters():
    normal, _ = coupled(5, 2, 1, seed=2)
    detached, _ = coupled(5, 2, 1, seed=2, detached=True)
    value = np.random.default_rng(3).normal(size=(5, 2))
    assert detached.log_prob(value) == normal.log_prob(value)
    by_value = jax.jit(jax.grad(lambda x, d: d.log_prob(x)))
    np.testing.assert_allclose(by_value(value, detached), by_value(value, normal), rtol=1e-12)
    of_parameters = jax.jit(jax.grad(lambda d: d.log_prob(value)))
    assert np.all([np.all(leaf == 0) for leaf in jax.tree.leaves(of_parameters(detached))])
    assert np.all([np.any(leaf != 0) for leaf in jax.tree.leaves(of_parameters(normal))])


def test_detached_elbo_has_no_noise_at_the_optimum():
    normal, _ = coupled(4, 2, 1, seed=5)

    @partial(jax.jit, static_argnums=1)
    def elbo(parameters, detached):
        guide = CoupledNormal(*parameters, detached=detached)
        x = guide.sample(jax.random.key(3))
        return normal.log_prob(x) - guide.log_prob(x)

    parameters = (normal.loc, normal.tril, normal.factor)
    slope = partial(jax.grad(elbo), parameters)
    assert max(np.abs(leaf).max() for leaf in slope(True)) < 1e-10
    assert max(np.abs(leaf).max() for leaf in slope(False)) > 0.1


@pytest.mark.parametrize(("a", "b"), [(1, 9), (0.05, 3), (2, 2), (40, 700), (1e5, 3e6), (9, 1)])
def test_beta_by_the_moments_of_its_logit(a, b):
    loc, scale = digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))
    np.testing.assert_allclose(concentrations([loc], [scale]), [[a], [b]], rtol=1e-6)


def test_quantiles_of_the_logit_of_a_beta():
    z = np.linspace(-5, 3, 9)
    for a, b in ((1, 9), (0.3, 2), (50, 400)):
        expected = logit(stats.beta(a, b).ppf(stats.norm.cdf(z)))
        np.testing.assert_allclose(logit_quantile(np.full(9, a), np.full(9, b), z), expected, rtol=1e-6)
    assert np.isfinite(logit_quantile(np.array([1e-3]), np.array([1.0]), np.array([-30.0]))).all()


def test_logit_moments_far_out_have_a_beta():
    loc, scale = np.meshgrid([-15, -6, -2, 0, 3, 8], [0.01, 0.3, 1.5, 6])
    a, b = concentrations(loc, scale)
    np.testing.assert_allclose(digamma(a) - digamma(b), loc, atol=1e-6)
    np.testing.assert_allclose(polygamma(1, a) + polygamma(1, b), scale**2, rtol=1e-6)
