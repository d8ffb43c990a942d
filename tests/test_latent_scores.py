"""Log likelihoods with the latent numbers integrated out, and importance weights, beside quadrature and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from scbayes.models._importance_weights import Anchors, importance_weights
from scbayes.models._latent_config import VAEConfig
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_mode import find_peak
from scbayes.models._latent_model import Cells, Inputs, Sizes
from scbayes.models._latent_scores import divergence, importance_ratios, reconstruction
from scbayes.models._latent_start import Moments, first_params
from scbayes.stats._importance import importance, truncated

N_CELLS, N_GENES = 5, 12
#: Every likelihood, and what makes a difference to how it is computed.
MODELS = [
    {"likelihood": "nb"},
    {"likelihood": "zinb"},
    {"likelihood": "poisson"},
    {"likelihood": "b"},
    {"likelihood": "nb", "dispersion": "gene-cell"},
    {"likelihood": "zinb", "dispersion": "gene-batch"},
    {"likelihood": "nb", "library": "encoded"},
    {"likelihood": "b", "scale_activation": "softplus"},
    {"likelihood": "nb", "ambient": True},
    {"likelihood": "poisson", "ambient": True},
]


def named(settings: dict) -> str:
    return " ".join(str(value) for value in settings.values())


def untrained(settings: dict, seed: int = 0):
    """A model of one latent dimension with random networks, and cells whose counts are drawn from it."""
    config = VAEConfig(n_latent=1, n_hidden=8, **settings)
    model = latent_model(config, Sizes(N_GENES, 2))
    rng = np.random.default_rng(seed)
    blank = Moments(jnp.asarray(rng.normal(0, 1, (2, N_GENES)), jnp.float32), jnp.zeros(N_GENES))
    params = first_params(model, blank, seed)
    if config.ambient:
        params["contamination"] = jnp.asarray([-2.0, -0.3])
    profile = rng.dirichlet(np.ones(N_GENES), 2)
    fixed = {
        "library": jnp.asarray([[5.0, 0.3], [5.2, 0.4]]),
        "log_ambient": jnp.log(jnp.asarray(profile, jnp.float32)),
    }
    batch = jnp.arange(N_CELLS) % 2
    total = jnp.full(N_CELLS, 150.0)
    bare = Cells(None, total, jnp.log(total), batch, jnp.full(N_CELLS, -1), batch, jnp.zeros((N_CELLS, 0)))
    inputs = Inputs(params, fixed, bare)
    loc, scale = model.prior(inputs)
    counts = model.counts(inputs, loc + scale * 0.7).sample(jax.random.key(seed))
    if config.likelihood != "b":
        total = counts.sum(-1)
    cells = bare._replace(counts=counts, total=total, log_size=jnp.log(total))
    return model, Inputs(params, fixed, cells)


def log_density(model, inputs, v) -> np.ndarray:
    """ln p(u | v) by scipy, of ``v (S, B, D)``: ``(S, B)``."""
    decoded, x = model.decode(inputs, v), np.asarray(inputs.cells.counts)
    mean = np.exp(np.asarray(decoded.log_mean, float))
    match model.config.likelihood:
        case "poisson":
            log_p = stats.poisson.logpmf(x, mean)
        case "b":
            total = np.asarray(inputs.cells.total)[:, None]
            log_p = stats.binom.logpmf(x, total, np.minimum(mean / total, 1 - 1e-6))
        case _:
            native = np.exp(np.asarray(decoded.log_native, float))
            theta = (
                np.exp(np.asarray(decoded.log_theta, float)) * (mean / native) ** 2
            )  # variance: mean + native^2/theta
            log_p = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    if decoded.gate_logit is not None:
        gate = 1 / (1 + np.exp(-np.asarray(decoded.gate_logit, float)))
        log_p = np.log(gate * (x == 0) + (1 - gate) * np.exp(log_p))
    return log_p.sum(-1)


def integrated(model, inputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln p(u) of each cell by quadrature over a grid, with mean and sd of the posterior of the latent numbers."""
    loc, scale = (np.asarray(value, float) for value in model.prior(inputs))
    size = loc.shape[1]
    axis = np.linspace(-6, 6, 2001 if size == 1 else 161)
    grid = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), -1).reshape(-1, 1, size)
    v = loc + scale * grid
    log_joint = log_density(model, inputs, jnp.asarray(v, jnp.float32)) + stats.norm.logpdf(grid).sum(-1)
    log_joint = log_joint + size * np.log(axis[1] - axis[0])
    weight = np.exp(log_joint - logsumexp(log_joint, axis=0))[..., None]
    mean = (weight * v).sum(0)
    return logsumexp(log_joint, axis=0), mean, np.sqrt((weight * (v - mean) ** 2).sum(0))


@pytest.mark.parametrize("settings", MODELS, ids=named)
def test_marginal_is_the_integral_and_above_the_elbo(settings):
    model, inputs = untrained(settings)
    expected, mean, sd = integrated(model, inputs)
    loc, scale = jnp.asarray(mean + 2 * sd, jnp.float32), jnp.asarray(0.5 * sd, jnp.float32)  # a q that is off
    n = 3001  # no whole number of groups
    ratios = importance_ratios(model)(inputs, loc, scale, jax.random.key(3), n)
    assert ratios.shape == (n, N_CELLS)
    found = importance(ratios)
    error = np.sqrt(1 / found.ess - 1 / n)
    assert (found.ess > n / 3).all(), "draws come from near the posterior, wherever q is"
    assert (found.k_hat < 0.7).all()
    np.testing.assert_array_less(np.abs(found.log_mean - expected), 4.5 * error + 2e-3)
    drawn = reconstruction(model)(inputs, loc, scale, jax.random.key(4), n)
    assert drawn.shape == (n, N_CELLS)
    prior_loc, prior_scale = (np.asarray(value, float) for value in model.prior(inputs))
    variance, far = (np.asarray(scale) / prior_scale) ** 2, (np.asarray(loc) - prior_loc) / prior_scale
    kl = (variance + far**2 - 1 - np.log(variance)).sum(1) / 2
    np.testing.assert_allclose(divergence(model)(inputs, loc, scale), kl, rtol=1e-4)
    axis = np.linspace(-5, 5, 41)
    grid = np.stack(np.meshgrid(*[axis] * loc.shape[1], indexing="ij"), -1).reshape(-1, 1, loc.shape[1])
    weight = np.exp(stats.norm.logpdf(grid).sum(-1)) * (axis[1] - axis[0]) ** loc.shape[1]
    whole = (weight * log_density(model, inputs, jnp.asarray(loc + scale * grid, jnp.float32))).sum(0)
    drawn = np.asarray(drawn, float)
    np.testing.assert_array_less(np.abs(drawn.mean(0) - whole), 5 * drawn.std(0) / np.sqrt(n) + 2e-3)
    assert (whole - kl < expected).all()


def test_mode_and_curvature_of_a_normal():
    """Rows with normals of their own, one of them convex in a direction, where the curvature is taken as 1."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 4, 4))
    precision = root @ np.swapaxes(root, 1, 2) + 2 * np.eye(4)
    centre = rng.normal(size=(3, 4))
    precision[2] = np.diag([3.0, 2.0, 0.5, 4.0])

    def function(e):
        far = e - centre
        return -0.5 * jnp.einsum("...bi,bij,...bj->...b", far, precision, far)

    peak = find_peak(function, jnp.zeros((3, 4)), 12)
    np.testing.assert_allclose(peak.mode, centre, atol=1e-2)
    np.testing.assert_allclose(peak.mode[:2], centre[:2], atol=1e-4)
    inverse = np.linalg.inv(precision)
    inverse[2, 2, 2] = 1
    np.testing.assert_allclose(peak.root @ np.swapaxes(peak.root, 1, 2), inverse, atol=1e-4)
    np.testing.assert_allclose(peak.log_det, 0.5 * np.linalg.slogdet(inverse)[1], atol=1e-4)


@pytest.mark.parametrize("settings", MODELS, ids=named)
def test_parts_of_a_log_probability_add_up(settings):
    model, inputs = untrained(settings, seed=1)
    v = jax.random.normal(jax.random.key(0), (3, N_CELLS, len(model.names))) * 0.3 + model.prior(inputs)[0]
    law, x = model.counts(inputs, v), inputs.cells.counts
    np.testing.assert_allclose(law.log_prob(x), log_density(model, inputs, v), rtol=2e-5, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(jnp.broadcast_to(law.constant(x), (3, *x.shape)))[:, x == 0], 0)
    if settings.get("dispersion") != "gene-cell":
        np.testing.assert_array_equal(law.constant(x), model.counts(inputs, v[0] + 1).constant(x))


@pytest.mark.parametrize("settings", [MODELS[0], MODELS[6], MODELS[8]], ids=named)
def test_importance_weights_are_those_of_the_posterior(settings):
    """Against the ratio of the mixture of posteriors, by quadrature, to the mixture of q."""
    model, inputs = untrained(settings)
    evidence, mean, sd = integrated(model, inputs)
    loc, scale = mean + 0.5 * sd, 1.2 * sd  # a q that is off
    rng = np.random.default_rng(0)
    v = (loc[:, None] + scale[:, None] * rng.normal(size=(N_CELLS, 40, loc.shape[1]))).reshape(-1, loc.shape[1])
    each = np.broadcast_to(v[:, None], (len(v), *loc.shape))
    prior = [np.asarray(value, float) for value in model.prior(inputs)]
    log_joint = log_density(model, inputs, jnp.asarray(each, jnp.float32)) + stats.norm.logpdf(each, *prior).sum(-1)
    log_q = stats.norm.logpdf(each, loc, scale).sum(-1)
    expected = logsumexp(log_joint - evidence, axis=1) - logsumexp(log_q, axis=1)
    expected -= logsumexp(expected)

    def anchors():  # in two blocks, the second of which is filled up
        for ids, n in (([0, 1, 2], 3), ([3, 4, 4], 2)):
            part = inputs._replace(cells=Cells(*[value[np.array(ids)] for value in inputs.cells]))
            yield Anchors(part, jnp.asarray(loc[ids], jnp.float32), jnp.asarray(scale[ids], jnp.float32), n)

    found = importance_weights(model, anchors(), v, n_samples=4000)
    assert logsumexp(found.log_weight) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.log_weight, expected, atol=0.1)
    assert found.ess == pytest.approx(1 / np.exp(2 * expected).sum(), rel=0.05)
    assert 20 < found.ess < 195
    v_mean = np.exp(found.log_weight) @ v
    np.testing.assert_allclose(v_mean, mean.mean(0), atol=0.2 * sd.mean() + 0.05)
    assert np.abs(v.mean(0) - mean.mean(0)).max() > np.abs(v_mean - mean.mean(0)).max()
    same = importance_weights(model, anchors(), v, n_samples=500, seed=1)
    assert not np.array_equal(same.log_weight, found.log_weight)


def test_truncation_bounds_large_weights_and_leaves_small_ones():
    log_ratio = np.log(np.array([1e-9, 1.0, 1.0, 1000.0])) + 7
    found = truncated(log_ratio)
    np.testing.assert_array_equal(found[:3], log_ratio[:3])
    assert found[3] == pytest.approx(np.log(2 * 1002 / 4) + 7, abs=1e-9)  # sqrt(4) times the mean
    np.testing.assert_array_equal(truncated(np.zeros(5)), np.zeros(5))


def test_truncated_weights_have_more_effective_draws():
    model, inputs = untrained(MODELS[0])
    _, mean, sd = integrated(model, inputs)
    loc, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(0.3 * sd, jnp.float32)  # much too narrow
    noise = np.random.default_rng(2).normal(size=(500, N_CELLS, 1))
    v = (mean + 0.3 * sd * noise).reshape(-1, 1)
    anchors = [Anchors(inputs, loc, scale, N_CELLS)]
    whole, cut = (importance_weights(model, anchors, v, truncate=choice) for choice in (False, True))
    assert whole.k_hat > 0.7
    assert cut.ess > whole.ess
    assert cut.log_weight.max() < whole.log_weight.max()


def test_importance_of_known_ratios():
    log_ratio = np.log([[1.0, 4.0], [1.0, 0.0001], [1.0, 0.0001]] * 20) + 800
    found = importance(log_ratio)
    np.testing.assert_allclose(found.log_mean, 800 + np.log([1, 4.0002 / 3]))
    np.testing.assert_allclose(found.ess, [60, 20.002], rtol=1e-4)
