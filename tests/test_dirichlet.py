"""Dirichlet distributions fitted to many sets of samples at once."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import digamma

from scbayes.stats._dirichlet import (
    LARGEST_PRECISION,
    LOG_FLOOR,
    SMALLEST,
    TOLERANCE,
    _scaled_trigamma,
    fit_dirichlet,
    fit_dirichlet_with_mean,
    mean_log,
)

#: Ranges of concentrations, as powers of 10.
RANGES = [(-1.3, -0.3), (-1, 1), (1, 3), (3, 5), (-1.3, 5)]
SIZES = [2, 3, 10, 50]


def draw(n_rows: int, size: int, powers: tuple[float, float], n_samples: int = 40) -> np.ndarray:
    """Dirichlet samples (n_samples, n_rows, size) of random concentrations, none of them 0."""
    rng = np.random.default_rng([size, int(10 * powers[0]) + 100, int(powers[1]) + 100])
    a = 10 ** rng.uniform(*powers, size=(n_rows, size))
    shape = (n_samples, n_rows, size)
    # gamma(a) = gamma(a + 1) u^(1/a): in logarithms, as for small a the numbers themselves underflow
    log_gamma = np.log(rng.gamma(a + 1, size=shape)) + np.log(rng.uniform(size=shape)) / a
    x = np.exp(np.maximum(log_gamma - log_gamma.max(-1, keepdims=True), -600))
    return x / x.sum(-1, keepdims=True)


def by_bisection(g: np.ndarray) -> np.ndarray:
    """Concentrations with ``psi(a) - psi(sum(a)) = g``, without derivatives."""

    def concentrations(log_total: float) -> np.ndarray:
        low, high = np.full(len(g), -20.0), np.full(len(g), 20.0)  # of ln a
        for _ in range(60):
            middle = (low + high) / 2
            short = digamma(np.exp(middle)) - digamma(np.exp(log_total)) < g
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return np.exp(middle)

    excess = lambda log_total: np.log(concentrations(log_total).sum()) - log_total
    return concentrations(optimize.brentq(excess, -5, 17.5, xtol=1e-12))


def off_the_maximum(log_likelihood: Callable, direction: np.ndarray, step: float = 3e-3) -> float:
    """Newton's step from 0 along a line, with derivatives from five values: 0 if the function is largest at 0."""
    f = [log_likelihood(t * step * direction) for t in (-2, -1, 0, 1, 2)]
    assert f[0] < f[1] < f[2] > f[3] > f[4]
    slope = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * step)
    curvature = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * step**2)
    return slope / curvature


# --- the free fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("powers", RANGES)
def test_solution_of_the_equations(powers, size):
    g = mean_log(draw(3, size, powers))
    found = fit_dirichlet(g)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [by_bisection(row) for row in g], rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("powers", RANGES)
def test_top_of_the_likelihood_of_scipy(powers, size):
    x = draw(2, size, powers)
    for row, a in enumerate(fit_dirichlet(mean_log(x))):
        samples = x[:, row].T
        log_likelihood = lambda t, samples=samples, a=a: np.mean(
            [stats.dirichlet.logpdf(one, a * np.exp(t)) for one in samples.T]
        )
        # all together is the direction in which the likelihood is flattest
        for direction in (np.ones(size), np.eye(size)[0], np.eye(size)[-1], np.cos(np.arange(size))):
            assert abs(off_the_maximum(log_likelihood, direction)) < 1e-6


def test_exact_statistics_give_the_distribution_back():
    rng = np.random.default_rng(0)
    for size in SIZES:
        a = 10 ** rng.uniform(-1.3, 5, size=(4, 25, size))
        found = fit_dirichlet(digamma(a) - digamma(a.sum(-1, keepdims=True)))
        np.testing.assert_allclose(found, a, rtol=1e-6)  # limited by the rounding of the statistics
        a = 10 ** rng.uniform(-1.3, 2, size=(4, 25, size))
        np.testing.assert_allclose(fit_dirichlet(digamma(a) - digamma(a.sum(-1, keepdims=True))), a, rtol=1e-10)


def test_rows_do_not_depend_on_each_other():
    g = np.concatenate([mean_log(draw(2000, 10, powers)) for powers in RANGES])  # many blocks
    together = fit_dirichlet(g)
    picked = [0, 1637, 1638, 4321, 9999]
    np.testing.assert_allclose([fit_dirichlet(g[i]) for i in picked], together[picked], rtol=1e-12)
    np.testing.assert_array_equal(fit_dirichlet(g.reshape(10, 1000, 10)), together.reshape(10, 1000, 10))
    np.testing.assert_array_equal(fit_dirichlet(g[:0]), np.empty((0, 10)))


def test_few_steps_are_enough():
    for size in SIZES:
        for powers in RANGES:
            g = mean_log(draw(50, size, powers))
            np.testing.assert_allclose(fit_dirichlet(g, n_steps=8), fit_dirichlet(g), rtol=20 * TOLERANCE)
    assert np.max(np.abs(fit_dirichlet(g, n_steps=0) / fit_dirichlet(g) - 1)) > 1e-3  # the start is not the answer


def test_input_is_left_alone():
    g, m = np.log([[0.2, 0.5], [0.1, 0.1]]), np.array([[0.4, 0.6], [0.5, 0.5]])
    before = g.copy(), m.copy()
    fit_dirichlet(g, mean=m)
    fit_dirichlet_with_mean(m, g)
    np.testing.assert_array_equal(g, before[0])
    np.testing.assert_array_equal(m, before[1])


def test_scaled_trigamma():
    x = np.geomspace(1e-300, 1e9, 400)
    expected = 1 + np.where(x > 1e-150, x, 0) ** 2 * stats.loggamma.var(np.clip(x, 1e-150, None) + 1)
    np.testing.assert_allclose(_scaled_trigamma(x), expected, rtol=2e-8)


# --- with the mean of the samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("powers", RANGES)
def test_precision_is_the_most_likely_at_that_mean(powers, size):
    x = draw(3, size, powers)
    m = x.mean(0)
    found = fit_dirichlet_with_mean(m, mean_log(x))
    np.testing.assert_allclose(found / found.sum(-1, keepdims=True), m, rtol=1e-13)
    for row, a in enumerate(found):
        log_likelihood = lambda t, row=row, a=a: np.mean(
            [stats.dirichlet.logpdf(one, a * np.exp(t)) for one in x[:, row]]
        )
        assert abs(off_the_maximum(log_likelihood, np.float64(1))) < 1e-6


def test_precision_of_exact_statistics():
    a = 10 ** np.random.default_rng(1).uniform(-1.3, 4, size=(3, 40, 6))
    total = a.sum(-1, keepdims=True)
    np.testing.assert_allclose(fit_dirichlet_with_mean(a / total, digamma(a) - digamma(total)), a, rtol=1e-8)
    # means that sum to something else are brought to 1
    np.testing.assert_allclose(fit_dirichlet_with_mean(a, digamma(a) - digamma(total)), a, rtol=1e-8)


def test_near_0_and_1_only_one_of_the_two_keeps_the_mean():
    # class 0 is certain in most samples, and once in ten class 1 is
    scores = np.random.default_rng(2).normal(loc=[9, 0, -6], scale=2, size=(200, 1, 3))
    scores[::10] += [-20, 0, 0]
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    m, g = p.mean(0), mean_log(p)
    free, held = fit_dirichlet(g)[0], fit_dirichlet_with_mean(m, g)[0]
    assert np.abs(free / free.sum() - m).max() > 0.05
    np.testing.assert_allclose(held / held.sum(), m[0], rtol=1e-13)
    likelihood = [np.mean([stats.dirichlet.logpdf(x, a) for x in p[:, 0]]) for a in (free, held)]
    assert likelihood[0] > likelihood[1]


# --- samples that have no maximum, and zeros --------------------------------------------------------------------------


def test_mean_log():
    x = np.array([[0.25, 0.75, 0.0], [1.0, 1e-300, 1e-310]])
    expected = [np.log(0.25) / 2, (np.log(0.75) + np.log(1e-300)) / 2, np.log(SMALLEST)]
    np.testing.assert_allclose(mean_log(x), expected, rtol=1e-15)
    np.testing.assert_allclose(mean_log(x.T, axis=1), expected, rtol=1e-15)
    np.testing.assert_allclose(mean_log(np.zeros((3, 2), np.float32)), LOG_FLOOR, rtol=1e-15)
    small = mean_log(np.array([[1e-40], [1e-30]], np.float32))  # below float32's smallest normal number, and kept
    np.testing.assert_allclose(small, np.log([[1e-40, 1e-30]]).mean(1), rtol=1e-5)
    np.testing.assert_allclose(LOG_FLOOR, -708.396, atol=1e-3)


def test_equal_samples_get_the_largest_precision():
    m = np.array([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3], [1e-9, 0.5, 0.5 - 1e-9]])
    for found in (fit_dirichlet(np.log(m), mean=m), fit_dirichlet_with_mean(m, np.log(m))):
        np.testing.assert_allclose(found, LARGEST_PRECISION * m, rtol=1e-12)
    free = fit_dirichlet(np.log(m))
    np.testing.assert_allclose(free.sum(1), LARGEST_PRECISION, rtol=1e-12)
    np.testing.assert_allclose(free / LARGEST_PRECISION, m, atol=1e-6)


def test_largest_precision_is_where_it_says():
    below, above = np.array([0.4, 0.6]) * 0.9 * LARGEST_PRECISION, np.array([0.4, 0.6]) * 1.2 * LARGEST_PRECISION
    a = np.array([below, above])
    g = digamma(a) - digamma(a.sum(-1, keepdims=True))
    for found in (fit_dirichlet(g), fit_dirichlet_with_mean(a, g)):
        np.testing.assert_allclose(found[0], below, rtol=1e-4)  # the statistics' rounding is 1e-5 of the precision
        np.testing.assert_allclose(found[1], above / 1.2, rtol=1e-6)


def test_a_class_that_is_certain():
    sure = np.array([[0.0, 1, 0, 0]])
    for g in (mean_log(np.tile(sure, (5, 1)))[None], np.array([[-np.inf, 0, -np.inf, -np.inf]])):
        held = fit_dirichlet_with_mean(sure, g)
        np.testing.assert_array_equal(held > 0, True)
        np.testing.assert_allclose(held, LARGEST_PRECISION * sure, rtol=1e-12, atol=1e-290)
        np.testing.assert_array_equal(fit_dirichlet(g, mean=sure), held)
        free = fit_dirichlet(g)
        assert np.all(free > 0)
        assert free[0, 1] == pytest.approx(LARGEST_PRECISION, rel=1e-6)


def test_a_class_that_never_occurs_leaves_the_others():
    x = draw(1, 3, (1, 3))
    padded = np.concatenate([x, np.zeros_like(x[..., :1])], -1)
    alone, found = fit_dirichlet(mean_log(x))[0], fit_dirichlet(mean_log(padded))[0]
    np.testing.assert_allclose(found[:3], alone, rtol=0.02)
    # ln x of a Dirichlet is -1/a on average where a is small: psi(a) = LOG_FLOOR + psi(A)
    assert found[3] == pytest.approx(-1 / (LOG_FLOOR + digamma(found.sum())), rel=1e-2)
    with_minus_infinity = np.concatenate([mean_log(x), [[-np.inf]]], -1)
    np.testing.assert_array_equal(fit_dirichlet(with_minus_infinity)[0], found)
    m = padded.mean(0)
    held = fit_dirichlet_with_mean(m, mean_log(padded))[0]
    np.testing.assert_allclose(held / held.sum(), m[0], rtol=1e-13, atol=1e-300)
    assert held[3] > 0


def test_classes_in_turn():
    # each sample is certain, of one class or another: ln x is 0 or the floor
    share = np.array([0.5, 0.3, 0.2])
    g = (1 - share) * LOG_FLOOR
    held = fit_dirichlet_with_mean(share, g)
    np.testing.assert_allclose(held / held.sum(), share, rtol=1e-13)
    # small concentrations: the score is (K - 1)/s - q, up to order s
    assert held.sum() == pytest.approx(2 / np.sum(share * (np.log(share) - g)), rel=1e-2)
    free = fit_dirichlet(g)
    np.testing.assert_allclose(digamma(free) - digamma(free.sum()), g, rtol=1e-12)
    # with a class that never occurs, whose concentration is below the smallest normal number
    fourth = fit_dirichlet_with_mean([*share, 0], [*g, LOG_FLOOR])
    np.testing.assert_allclose(fourth / held.sum(), [*(1.5 * share), 0], rtol=1e-2, atol=1e-300)
    assert fourth[3] == SMALLEST


@pytest.mark.parametrize("size", [2, 10])
def test_anything_gives_positive_numbers(size):
    rng = np.random.default_rng(size)
    scores = rng.normal(size=(4, 3000, size)) * 10 ** rng.uniform(-6, 3, size=(3000, 1))
    scores += rng.normal(size=(3000, size)) * 10 ** rng.uniform(-2, 3, size=(3000, 1))
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    m, g = p.mean(0), mean_log(p)
    for found in (fit_dirichlet(g), fit_dirichlet(g, mean=m), fit_dirichlet_with_mean(m, g)):
        assert np.all((found > 0) & (found < 1.0001 * LARGEST_PRECISION))
    np.testing.assert_allclose(found / found.sum(-1, keepdims=True), m, rtol=1e-12, atol=1e-300)
    free = fit_dirichlet(g)
    inside = free.sum(-1) < 0.999 * LARGEST_PRECISION
    assert 0.2 < inside.mean() < 0.8
    left = digamma(free) - digamma(free.sum(-1, keepdims=True)) - np.maximum(g, LOG_FLOOR)
    np.testing.assert_allclose(left[inside], 0, atol=1e-11)


@pytest.mark.parametrize(
    ("g", "message"),
    [
        (np.log([0.5, 0.6]), "sum to over 1"),
        ([-1.0, np.nan], "NaN"),
        ([0.5, 0.2], "sum to over 1"),
        ([np.inf, -1.0], "sum to over 1"),
        ([-1.0], "two components"),
        (-1.0, "two components"),
    ],
)
def test_statistics_of_no_probabilities(g, message):
    with pytest.raises(ValueError, match=message):
        fit_dirichlet(g)
    with pytest.raises(ValueError, match=message):
        fit_dirichlet_with_mean(g, g)


@pytest.mark.parametrize(
    ("m", "message"),
    [
        ([0.5, 0.2, 0.3], "shape"),
        ([-0.1, 1.1], "negative"),
        ([np.nan, 1], "NaN"),
        ([0, 0], "zeros"),
        ([np.inf, 1], "NaN"),
    ],
)
def test_means_of_no_probabilities(m, message):
    g = np.log([0.3, 0.4])
    with pytest.raises(ValueError, match=message):
        fit_dirichlet_with_mean(m, g)
    with pytest.raises(ValueError, match=message):
        fit_dirichlet(g, mean=m)


@pytest.mark.benchmark
def test_a_hundred_thousand_rows_take_less_than_two_seconds():
    g = np.concatenate([mean_log(draw(20_000, 10, powers, n_samples=10)) for powers in RANGES])
    start = time.perf_counter()
    fit_dirichlet(g)
    assert time.perf_counter() - start < 2
