"""Ways to a posterior: Markov chains walk on the density of the counts, and all ways agree."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import scbayes as sb
from scbayes.counts import Counts
from scbayes.inference import run_chains
from scbayes.models import Model, ModelConfig
from scbayes.models._at_posterior import exact, view
from scbayes.models._config import MODELS, PARAMETERIZATIONS
from scbayes.models._model import Inputs
from scbayes.models._moving_cells import moving_cells
from scbayes.models._priors import default_priors
from scbayes.models._warm_start import warm_start
from scbayes.models._whitened import Energy, Target, coordinates, n_coordinates, whiten
from scbayes.stats._precision import double

LOG_MRNA = np.log(2e5)


def target_of(model: str, parameterization: str, n_batches: int):
    """Energy, its target, dense counts and inputs of the program, at the start of a small fit."""
    per_batch = () if n_batches == 1 else ("r" if parameterization == "standard" else "mu",)
    of = Model.of(ModelConfig(model, parameterization, n_batches=n_batches, per_batch=per_batch))
    adata = sb.datasets.simulate(model, n_cells=60, n_genes=15, rng=3)
    batch = np.arange(60, dtype=np.int32) % n_batches
    counts = Counts(adata.X.tocsr(), batch, n_batches)
    summary = counts.summarise()
    start = warm_start(of, counts, summary, default_priors(of.config), set(), LOG_MRNA)
    evidence = start.evidence
    if not exact(of):
        at = view(of, counts, summary, start.priors, start.posterior, LOG_MRNA)
        evidence = moving_cells(at.evidence, counts, at.cells, gate=of.config.gate)
    whitening = whiten(of, start.posterior, start.priors, batch)
    target = Target(evidence, start.priors, jnp.asarray(LOG_MRNA), whitening)
    dense = jnp.asarray(adata.X.toarray(), float)
    return of, target, Inputs(dense, start.priors, jnp.asarray(LOG_MRNA), jnp.asarray(batch), start.posterior)


def dense_energy(model: Model, inputs: Inputs, target: Target, position) -> float:
    """The same from NumPyro's log density of the dense counts, with the Jacobians of log and logit coordinates."""
    z = model.untie(model.split(*coordinates(target.whitening, position)))
    values, jacobian = {}, 0.0
    for site, coordinate in z.items():
        transform = model.transform(site, inputs.priors)
        values[site] = transform(coordinate)
        jacobian += transform.log_abs_det_jacobian(coordinate, values[site]).sum()
    return -float(log_density(model.program, (inputs,), {}, values)[0] + jacobian)


@pytest.mark.parametrize("n_batches", [1, 2])
@pytest.mark.parametrize(("model", "parameterization"), list(product(MODELS, PARAMETERIZATIONS)))
def test_energy_is_that_of_the_dense_counts(model, parameterization, n_batches):
    """Genes, shared odds and cells all moved at once, by one and by three posterior standard deviations."""
    with double():
        of, target, inputs = target_of(model, parameterization, n_batches)
        energy = jax.jit(Energy(of))
        rng = np.random.default_rng(0)
        size = n_coordinates(inputs.start)
        positions = [np.zeros(size), rng.normal(size=size), 3 * rng.normal(size=size).clip(-1, 1)]
        found = np.array([float(energy(jnp.asarray(position), target)) for position in positions])
        expected = np.array([dense_energy(of, inputs, target, jnp.asarray(position)) for position in positions])
    np.testing.assert_allclose(np.diff(found), np.diff(expected), atol=2e-3)


def test_positions_have_the_posterior_s_covariance():
    with double():
        _, target, inputs = target_of("nbvcp", "standard", 1)
        size = n_coordinates(inputs.start)
        noise = jax.random.normal(jax.random.key(0), (20_000, size))
        gene = np.asarray(jax.vmap(lambda e: coordinates(target.whitening, e)[0])(noise))[..., 0]
        posterior = inputs.start
        factor = np.asarray(posterior.gene_factor)[:, 0]
        expected = np.diag(np.asarray(posterior.gene_tril)[:, 0, 0] ** 2) + factor @ factor.T
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(np.cov(gene.T) / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.05)


def stretched(position, scale):
    """A normal whose standard deviations are ``scale``."""
    return 0.5 * jnp.sum((position / scale) ** 2)


def test_chains_find_a_normal():
    with double():
        scale = jnp.linspace(0.5, 2, 40)
        chains = run_chains(stretched, scale, 40, n_draws=800, n_warmup=200, n_chains=2, seed=1)
    assert chains.draws.shape == (2, 800, 40)
    assert chains.n_divergent == 0
    assert not chains.interrupted
    np.testing.assert_allclose(chains.draws.std((0, 1)) / np.linspace(0.5, 2, 40), 1, atol=0.12)
    np.testing.assert_allclose(chains.draws.mean((0, 1)) / np.linspace(0.5, 2, 40), 0, atol=0.15)
    assert chains.n_steps < 40  # not round and round
    assert not np.array_equal(chains.draws[0], chains.draws[1])


@pytest.fixture(scope="module")
def fitted():
    adata = sb.datasets.simulate("nbvcp", n_cells=250, n_genes=40, log_mean=(1.0, 1.0), rng=0)
    for method in ("svi", "laplace", "nuts"):
        how = {"parameterization": "standard", "method": method, "n_samples": 600}
        sb.tl.fit(adata, "nbvcp", key_added=method, progress=False, **how)
    return adata


@pytest.mark.parametrize("method", ["svi", "laplace"])
def test_methods_agree_with_chains(fitted, method):
    chains, other = sb.get.fit(fitted, "nuts").canonical, sb.get.fit(fitted, method).canonical
    for name in ("r", "composition", "odds"):
        shift = (other[name].loc - chains[name].loc) / chains[name].scale
        assert np.abs(shift).mean() < 0.12, name
        np.testing.assert_allclose(np.median(other[name].scale / chains[name].scale), 1, atol=0.06, err_msg=name)
    seen = fitted.X.sum(0).A1 if hasattr(fitted.X.sum(0), "A1") else np.asarray(fitted.X.sum(0)).ravel()
    close = np.abs(other["r"].scale / chains["r"].scale - 1)[0, seen > 50]
    assert close.max() < 0.15


def test_chains_are_recorded_and_their_draws_kept(fitted):
    facts = sb.get.fit(fitted, "nuts").facts
    assert facts["method"] == "nuts"
    assert facts["mcmc"]["n_divergent"] == 0
    assert facts["mcmc"]["agreement"]["log_total"]["r_hat"] < 1.02
    draws = sb.get.samples(fitted, "nuts")
    assert draws["r"].shape == (600, 40)
    assert draws["nu"].shape == (600, 250)
    marginal = sb.get.fit(fitted, "nuts").canonical["r"]
    np.testing.assert_allclose(np.log(draws["r"]).mean(0), marginal.loc[0], atol=1e-3)
    np.testing.assert_allclose(np.log(draws["r"]).std(0, ddof=1), marginal.scale[0], rtol=0.03)


def test_laplace_has_no_loss(fitted):
    fit = sb.get.fit(fitted, "laplace")
    assert fit.facts["convergence"]["n_steps"] == 0
    assert "Laplace" in str(fit)
    with pytest.raises(ValueError, match="no loss to draw"):
        sb.pl.loss(fitted, "laplace", show=False)


def test_k_hat_is_recorded(fitted):
    k_hat = sb.get.fit(fitted, "svi").facts["k_hat"]
    assert k_hat["n"] == 40
    assert -0.5 < k_hat["median"] < 0.6
    assert "k-hat" in sb.pl.loss(fitted, "svi", show=False).get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": "mcmc"}, "unknown method 'mcmc'"),
        ({"method": "nuts", "n_components": 2}, "does not mix over the components"),
        ({"method": "nuts", "n_samples": 3}, "n_samples=3"),
        ({"method": "laplace", "resume": True}, "goes on with an optimisation"),
        ({"method": "nuts", "n_samples": 10_000_000}, "lower n_samples"),
    ],
)
def test_bad_methods(fitted, arguments, match):
    before = set(fitted.uns)
    with pytest.raises(ValueError, match=match):
        sb.tl.fit(fitted, key_added="svi" if "resume" in arguments else "bad", progress=False, **arguments)
    assert set(fitted.uns) == before


@pytest.mark.parametrize("parameterization", ["mean_disp", "linked", "odds_ratio", "standard"])
def test_the_sum_of_mu_is_the_total_mrna(parameterization):
    """In the mean of the fit, and in each of the chains' draws; and nu makes the cells' totals of it."""
    adata = sb.datasets.simulate("nbvcp", n_cells=80, n_genes=25, rng=2)
    for method in ("svi", "nuts"):
        how = {"parameterization": parameterization, "method": method, "n_samples": 40, "progress": False}
        sb.tl.fit(adata, "nbvcp", key_added=method, priors={"total_mrna": 5e4}, **how)
        draws = sb.get.samples(adata, method, n_samples=40 if method == "svi" else None)
        total = draws["mu"].sum(-1)
        np.testing.assert_allclose(
            total.mean() if method == "svi" else total, 5e4, rtol=0.05 if method == "svi" else 1e-4
        )
        np.testing.assert_allclose(draws["nu"].mean(0).sum() * 5e4 / adata.X.sum(), 1, atol=0.1)
        fit = sb.get.fit(adata, method)
        mean = np.exp(fit.canonical["mu"].loc + fit.canonical["mu"].scale ** 2 / 2).sum()
        np.testing.assert_allclose(mean, 5e4, rtol=0.01)
