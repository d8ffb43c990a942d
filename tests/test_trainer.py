"""The trainer on programs whose posterior is known, its criterion, and what it does with losses that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats

import scbayes as sb
from scbayes.inference import TOLERANCE, WINDOW, as_optimizer, train
from scbayes.inference._trainer import NOISE, _agree

PRIOR_SD, NOISE_SD = 2.0, 1.5


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


# --- a normal mean: everything is known -------------------------------------------------------------------------------

X = np.random.default_rng(0).normal([1.0, -2.0, 0.3], NOISE_SD, (12, 3))
PRECISION = 1 / PRIOR_SD**2 + len(X) / NOISE_SD**2
MEAN, SD = X.sum(0) / NOISE_SD**2 / PRECISION, PRECISION**-0.5


def log_evidence() -> float:
    covariance = NOISE_SD**2 * np.eye(len(X)) + PRIOR_SD**2
    return sum(stats.multivariate_normal(cov=covariance).logpdf(column) for column in X.T)


def program(x) -> jax.Array:
    mu = numpyro.sample("mu", dist.Normal(0, PRIOR_SD).expand([3]).to_event(1))
    numpyro.sample("x", dist.Normal(mu, NOISE_SD).expand(x.shape).to_event(2), obs=x)
    return mu.sum()


def guide(x) -> None:
    """In units that are wrong by half, off by about one standard deviation."""
    loc, log_scale = numpyro.param("loc", jnp.zeros(3)), numpyro.param("log_scale", jnp.zeros(3))
    scale = 1.5 * SD * jnp.exp(log_scale)
    loc = x.mean(0) + 0.4 * SD + 1.5 * SD * loc
    fixed = dist.Normal(*jax.lax.stop_gradient((loc, scale))).to_event(1)
    z = loc + scale * jax.random.normal(numpyro.prng_key(), (3,))
    numpyro.sample("mu", dist.Delta(z, fixed.log_prob(z), event_dim=1))


def start() -> dict:
    return {"loc": jnp.zeros(3), "log_scale": jnp.zeros(3)}


def run(program=program, guide=guide, **settings):
    settings = {"n_steps": 2000, "n_latent": 3, "key": jax.random.key(0)} | settings
    return train(program, guide, jnp.asarray(X), start(), **settings)


def posterior(training) -> tuple[np.ndarray, np.ndarray]:
    params = {name: np.asarray(value) for name, value in training.params.items()}
    return X.mean(0) + 0.4 * SD + 1.5 * SD * params["loc"], 1.5 * SD * np.exp(params["log_scale"])


FALLING = optax.exponential_decay(0.05, 100, 0.7)
OPTIMIZERS = {
    "default": None,
    "optax.adam": optax.adam(FALLING),
    "optax chain": optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(FALLING)),
    "numpyro.Adam": numpyro.optim.Adam(FALLING),
    "numpyro.ClippedAdam": numpyro.optim.ClippedAdam(FALLING, clip_norm=10.0),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_finds_the_posterior(optimizer):
    training = run(optimizer=optimizer)
    assert training.converged
    assert 100 <= len(training.losses) <= 1000
    assert len(training.losses) % WINDOW == 0
    loc, scale = posterior(training)
    np.testing.assert_allclose((loc - MEAN) / SD, 0, atol=0.05)
    np.testing.assert_allclose(scale / SD, 1, atol=0.05)
    assert training.losses[:5].mean() > -log_evidence() + 0.3
    np.testing.assert_allclose(training.losses[-WINDOW:].mean(), -log_evidence(), atol=0.01)
    assert training.n_rejected == 0
    assert not training.interrupted


@pytest.mark.parametrize(
    "loss", [Trace_ELBO(), Trace_ELBO(num_particles=4), TraceMeanField_ELBO()], ids=["1", "4", "field"]
)
def test_training_with_other_losses(loss):
    def analytic(x) -> None:
        loc, log_scale = numpyro.param("loc", jnp.zeros(3)), numpyro.param("log_scale", jnp.zeros(3))
        loc, scale = x.mean(0) + 0.4 * SD + 1.5 * SD * loc, 1.5 * SD * jnp.exp(log_scale)
        numpyro.sample("mu", dist.Normal(loc, scale).to_event(1))

    training = run(guide=analytic, loss=loss, optimizer=optax.adam(FALLING), n_steps=800)
    loc, scale = posterior(training)
    np.testing.assert_allclose((loc - MEAN) / SD, 0, atol=0.15)
    np.testing.assert_allclose(scale / SD, 1, atol=0.15)


def test_losses_are_those_of_numpyro_at_the_keys_of_the_steps():
    training = run(n_steps=1)
    key = jax.random.fold_in(jax.random.key(0), 0)
    np.testing.assert_allclose(training.losses[0], Trace_ELBO().loss(key, start(), program, guide, jnp.asarray(X)))


@pytest.mark.parametrize("cuts", [(1,), (30,), (50,), (70, 71)], ids=str)
def test_cut_runs_take_the_steps_of_an_uncut_one(cuts):
    whole, part = run(n_steps=90), run(n_steps=cuts[0])
    assert len(part.losses) == cuts[0]
    for n_steps in (*cuts[1:], 90):
        part = run(n_steps=n_steps, progress=part.progress, losses=part.losses)
    np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-13)
    for name, value in whole.params.items():
        np.testing.assert_allclose(part.params[name], value, rtol=1e-12, atol=1e-14)


def test_the_key_decides_the_steps():
    assert np.array_equal(run(n_steps=20).losses, run(n_steps=20).losses)
    assert not np.array_equal(run(n_steps=20).losses, run(n_steps=20, key=jax.random.key(1)).losses)


def test_a_bar_is_shown_on_request(capsys):
    run(n_steps=20)
    assert capsys.readouterr().err == ""
    run(n_steps=20, show=True)
    assert "20/20" in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["adam", 0.01, optax.adam, object()], ids=["name", "number", "factory", "object"])
def test_other_optimizers_are_refused(optimizer):
    with pytest.raises(TypeError, match=rf"optax.*numpyro.*{type(optimizer).__name__}"):
        as_optimizer(optimizer)


# --- not finite -------------------------------------------------------------------------------------------------------


def sometimes_nan(x) -> None:
    """Every fifth step or so has a loss of NaN."""
    accident = jnp.where(jax.random.uniform(numpyro.prng_key()) < 0.2, jnp.nan, 0.0)
    numpyro.factor("accident", accident * program(x))


def sometimes_infinite(x) -> None:
    program(x)
    numpyro.factor("accident", jnp.where(jax.random.uniform(numpyro.prng_key()) < 0.2, -jnp.inf, 0.0))


def gradient_nan(x) -> None:
    """A finite loss without a gradient."""
    mu = numpyro.sample("mu", dist.Normal(0, PRIOR_SD).expand([3]).to_event(1))
    numpyro.factor("accident", jnp.sqrt(0 * mu).sum())


def always_nan(x) -> None:
    program(x)
    numpyro.factor("accident", jnp.nan)


@pytest.mark.parametrize("program", [sometimes_nan, sometimes_infinite])
def test_bad_steps_are_not_taken_and_counted(program):
    training = run(program, n_steps=300, optimizer=optax.adam(FALLING))
    bad = ~np.isfinite(training.losses)
    assert 0.1 < bad.mean() < 0.3
    assert training.n_rejected == bad.sum()
    loc, scale = posterior(training)
    np.testing.assert_allclose((loc - MEAN) / SD, 0, atol=0.1)
    np.testing.assert_allclose(scale / SD, 1, atol=0.1)


@pytest.mark.parametrize("program", [always_nan, gradient_nan])
def test_where_no_step_can_be_taken_nothing_moves(program):
    training = run(program, n_steps=120)
    assert training.n_rejected == len(training.losses) > 0
    for name, value in start().items():
        np.testing.assert_array_equal(training.params[name], value)
    assert np.isnan(training.losses).all() == (program is always_nan)


def test_a_loss_of_nan_is_no_convergence():
    training = run(always_nan, n_steps=150)
    assert not training.converged
    assert len(training.losses) == 150
    assert np.isnan(training.drift)


def test_bad_steps_are_taken_where_asked():
    training = run(sometimes_nan, n_steps=100, stable_update=False)
    assert np.isnan(training.params["loc"]).all()
    assert np.isnan(training.losses[-1])
    assert not training.converged
    first = np.flatnonzero(np.isnan(training.losses))[0]
    assert np.isnan(training.losses[first:]).all()
    assert training.n_rejected == np.isnan(training.losses).sum()


# --- the criterion ----------------------------------------------------------------------------------------------------

N_LATENT = 2000
TOLERATED = TOLERANCE * N_LATENT


def losses(*means: float, sd: float = 0.0) -> np.ndarray:
    """Windows of losses with exactly these means and standard deviations."""
    shape = np.tile([-1.0, 1.0], WINDOW // 2)
    return np.concatenate([1e6 + mean + sd * shape for mean in means])


@pytest.mark.parametrize(
    ("values", "converged", "fall"),
    [
        (losses(5.0, 5.0), True, 0.0),
        (losses(90.0, 50.0, 50.0), True, 0.0),
        (losses(50.0, 50.0, 40.0), False, 10.0),
        (losses(TOLERATED * 0.99, 0.0), True, TOLERATED * 0.99),
        (losses(TOLERATED * 1.01, 0.0), False, TOLERATED * 1.01),
        (losses(0.0, TOLERATED * 1.01), False, -TOLERATED * 1.01),
        # two standard errors of a difference: 2 sd (2/50)^(1/2) = 0.4 sd
        (losses(2.9, 0.0, sd=7.5), True, 2.9),
        (losses(3.1, 0.0, sd=7.5), False, 3.1),
        (losses(0.0, 2.9, sd=7.5), True, -2.9),
        (losses(2 * NOISE * TOLERATED, 0.0, sd=1e6), False, 2 * NOISE * TOLERATED),
        (losses(3.0), False, np.nan),
        (np.zeros(0), False, np.nan),
        (losses(5.0, 5.0)[:-1], False, np.nan),
        (losses(7.0, 5.0, 5.0)[:-1], False, 2.0),
        (np.full(100, np.nan), False, np.nan),
        (np.concatenate([losses(5.0), np.full(50, np.nan)]), False, np.nan),
        (np.concatenate([losses(5.0), np.full(50, np.inf)]), False, np.nan),
    ],
    ids=[
        *("equal", "equal after a fall", "falls", "within tolerance", "beyond tolerance", "rises"),
        *("within noise", "beyond noise", "rises within noise", "noise too wide"),
        *("one window", "no step", "a step short", "a step short of three", "all NaN", "last NaN", "last infinite"),
    ],
)
def test_windows_agree_or_not(values, converged, fall):
    found, drift = _agree(values, N_LATENT)
    assert found is converged
    np.testing.assert_allclose(drift, fall, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_few_bad_losses_are_left_out_of_the_means(bad):
    values = losses(9.0, 1.0)
    values[[3, 60]] = bad
    converged, drift = _agree(values, N_LATENT)
    assert not converged
    assert abs(drift - 8) < 0.1
    values = losses(5.0, 5.0)
    values[[3, 60]] = bad
    assert _agree(values, N_LATENT)[0]


def test_training_stops_by_the_criterion():
    training = run()
    whole = training.losses
    for n in range(2 * WINDOW, len(whole), WINDOW):
        assert not _agree(whole[:n], 3)[0]
    assert _agree(whole, 3) == (True, training.drift)


# --- in a fit ---------------------------------------------------------------------------------------------------------


class Flaky(Trace_ELBO):
    """A loss that is not a number in one step of ten."""

    def loss(self, rng_key, *args, **kwargs):
        value = super().loss(rng_key, *args, **kwargs)
        return value * jnp.where(jax.random.uniform(jax.random.fold_in(rng_key, 1)) < 0.1, jnp.nan, 1.0)


@pytest.fixture
def adata():
    return sb.datasets.simulate("nbvcp", n_cells=80, n_genes=24, n_batches=2, log_mean=(2, 1), rng=3)


def test_a_fit_that_runs_away_is_an_error_and_changes_nothing(adata):
    before = adata.X.copy()
    with pytest.raises(FloatingPointError, match=r"not finite: use a smaller step"):
        sb.tl.fit(adata, optimizer=WILD, n_steps=100, stable_update=False, progress=False)
    assert list(adata.uns) == ["truth"]
    assert not list(adata.obsm)
    assert sorted(adata.varm) == ["batch_effect", "gate", "mu", "r"]
    assert (before != adata.X).nnz == 0


def test_a_fit_with_bad_steps_says_how_many(adata, monkeypatch):
    told = []
    monkeypatch.setattr("scanpy.logging.warning", lambda text, **_: told.append(text))
    sb.tl.fit(adata, loss=Flaky(), n_steps=70, progress=False)
    fit = sb.get.fit(adata)
    bad = fit.facts["convergence"]["n_rejected"]
    assert bad == (~np.isfinite(fit.losses)).sum() > 0
    assert f"{bad} of 70 steps were not finite and were not taken" in told
    assert f"70 steps, {bad} steps rejected" in str(fit)
    assert all(np.isfinite(value).all() for value in sb.get.params(adata)["mu"].values())


def test_a_fit_whose_every_loss_is_bad_has_not_converged(adata):
    class Broken(Flaky):
        def loss(self, rng_key, *args, **kwargs):
            return super().loss(rng_key, *args, **kwargs) * jnp.nan

    sb.tl.fit(adata, loss=Broken(), n_steps=100, progress=False)
    fit = sb.get.fit(adata)
    assert not fit.converged
    assert fit.facts["convergence"]["n_rejected"] == 100
    assert np.isnan(fit.losses).all()
    assert "100 steps rejected" in str(fit)


#: A first step so long that the next loss is NaN.
WILD = optax.sgd(1e8)
