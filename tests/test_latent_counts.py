"""Counts given latent numbers: against scipy, and against what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import digamma, expit, gammaln, polygamma

from scbayes.models._latent_counts import Decoded, LatentCounts, log_factorial, log_rising

B, G = 4, 6


def decoded(*, ambient: bool = False, gate: bool = False, seed: int = 0) -> tuple[Decoded, dict]:
    """What a decoder might say, and its pieces."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(G), B)
    size = rng.uniform(20, 200, B)
    theta = rng.uniform(0.2, 8, G)
    gate_logit = rng.normal(-1, 1, (B, G)) if gate else None
    rho, soup = (rng.uniform(0.05, 0.5, B), rng.dirichlet(np.ones(G), B)) if ambient else (np.zeros(B), share)
    mean = size[:, None] * ((1 - rho)[:, None] * share + rho[:, None] * soup)
    f32 = lambda value: None if value is None else jnp.asarray(value, jnp.float32)
    value = Decoded(
        f32(np.log(share)),
        f32(share),
        f32(np.log(size)),
        f32(np.log(theta)),
        f32(gate_logit),
        f32(np.log(rho / (1 - rho))) if ambient else None,
        f32(np.log(soup)) if ambient else None,
    )
    # a sum of negative binomial and Poisson counts, by one negative binomial of its variance
    theta = theta * (mean / (size * (1 - rho))[:, None] / share) ** 2
    return value, {"mean": mean, "theta": theta, "gate": None if gate_logit is None else expit(gate_logit)}


@pytest.mark.parametrize("ambient", [False, True])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "b"])
def test_log_probability_is_that_of_scipy(likelihood, ambient):
    found, of = decoded(ambient=ambient, gate=likelihood == "zinb")
    x = np.random.default_rng(0).poisson(of["mean"])
    x[:, 0] = 0
    total = np.ceil(of["mean"].sum(1)) + 300  # probabilities of the binomial are below 1
    p = of["theta"] / (of["theta"] + of["mean"])
    expected = {
        "poisson": lambda: st.poisson.logpmf(x, of["mean"]),
        "b": lambda: st.binom.logpmf(x, total[:, None], of["mean"] / total[:, None]),
        "nb": lambda: st.nbinom.logpmf(x, of["theta"], p),
        "zinb": lambda: np.log((1 - of["gate"]) * st.nbinom.pmf(x, of["theta"], p) + of["gate"] * (x == 0)),
    }[likelihood]()
    counts = LatentCounts(likelihood, found, jnp.asarray(total, jnp.float32))
    np.testing.assert_allclose(counts.by_gene(jnp.asarray(x, jnp.float32)), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(counts.log_prob(jnp.asarray(x, jnp.float32)), expected.sum(1), rtol=2e-5)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "b"])
def test_draws_have_the_moments_of_the_distribution(likelihood):
    found, of = decoded(gate=likelihood == "zinb", seed=1)
    total = of["mean"].sum(1) * 1.5
    counts = LatentCounts(likelihood, found, jnp.asarray(total, jnp.float32))
    n = 20_000
    drawn = np.asarray(counts.sample(jax.random.key(0), (n,)), float)
    gate = 0 if of["gate"] is None else of["gate"]
    variance = {
        "poisson": of["mean"],
        "b": of["mean"] * (1 - of["mean"] / np.floor(total)[:, None]),
    }.get(likelihood, of["mean"] + of["mean"] ** 2 / of["theta"])
    mean = (1 - gate) * of["mean"]
    variance = (1 - gate) * (variance + gate * of["mean"] ** 2)
    assert (np.abs(drawn.mean(0) - mean) < 5 * np.sqrt(variance / n) + (0.02 * mean if likelihood == "b" else 0)).all()
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.12)


def test_log_rising_and_factorial_in_single_precision():
    a = np.geomspace(0.01, 1e5, 40)[:, None]
    x = np.r_[0, 1, 2, 3, 10, 100, 1000, 60_000][None]
    expected = gammaln(x + a) - gammaln(a)
    found = log_rising(jnp.asarray(x, jnp.float32), jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)
    assert np.abs(np.asarray(found)[:, 0]).max() < 1e-6
    np.testing.assert_allclose(log_factorial(jnp.asarray(x, jnp.float32)), gammaln(x + 1.0), rtol=3e-6, atol=1e-6)


def test_derivatives_of_log_rising():
    x, a = np.meshgrid(np.r_[0, 1, 2, 3, 10, 100, 1000, 60_000], np.geomspace(0.001, 1e6, 40))
    single = [jnp.asarray(value.ravel(), jnp.float32) for value in (x, a)]
    x, a = x.ravel(), a.ravel()
    slope = jax.vmap(jax.grad(log_rising, 1))(*single)
    np.testing.assert_allclose(slope, digamma(a + x) - digamma(a), rtol=1e-5)
    bend = jax.vmap(jax.grad(jax.grad(log_rising, 1), 1))(*single)
    np.testing.assert_allclose(bend, polygamma(1, a + x) - polygamma(1, a), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_rising, 0))(*single), digamma(a + x), rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_where_a_share_vanishes():
    def value(log_share):
        found, _ = decoded(gate=True)
        x = jnp.zeros((B, G)).at[0, 0].set(3)
        found = found._replace(log_share=log_share, share=jnp.exp(log_share))
        return LatentCounts("zinb", found, jnp.ones(B)).log_prob(x).sum()

    gradient = jax.grad(value)(jnp.full((B, G), -60.0))
    assert np.isfinite(gradient).all()
