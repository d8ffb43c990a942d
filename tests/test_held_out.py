"""The held-out density of the benchmarks: against sums over all that a cell may be, by scipy."""

import itertools
from pathlib import Path

import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import sparse, stats
from scipy.special import logsumexp

import scbayes as sb
from scbayes.models import Model, ModelConfig
from scbayes.models._parameters import Parameters

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent / "benchmarks")
    import _predictive_density as predictive_density
    import _thinning as thinning

GRID = np.linspace(-9, 5, 20_001)


def example(model: str, n_components: int, n_genes: int = 4) -> Parameters:
    rng = np.random.default_rng(3)
    shape = 1, n_components, n_genes
    gate = rng.beta(2, 4, shape) if model.startswith("zi") else None
    weights = rng.dirichlet(np.full(n_components, 5.0))
    return Parameters(rng.gamma(2, 0.5, shape), rng.normal(0.5, 1, shape), gate, weights, np.zeros(0))


def log_one(u, v, r, odds, gate) -> np.ndarray:
    """Log p(u, v) of one gene: the rate of both is one gamma variable, integrated out; a gate shuts both."""
    # Poisson(u; 0.8 x) Poisson(v; 0.2 x) with x ~ Gamma(r), mean r odds / 0.8
    both = stats.nbinom.logpmf(u + v, r, 1 / (1 + odds / thinning.TRAIN))
    log_p = both + stats.binom.logpmf(v, u + v, 1 - thinning.TRAIN)
    return log_p if gate is None else np.log((1 - gate) * np.exp(log_p) + gate * ((u == 0) & (v == 0)))


def by_brute_force(parameters: Parameters, prior, u: np.ndarray, v: np.ndarray) -> float:
    """Log p(v | u) of one cell, on a grid of ln nu."""
    x = np.zeros(1) if prior is None else GRID
    log_prior = np.zeros(1) if prior is None else np.asarray(prior.log_prob(np.exp(x))) + x
    joint, seen = [], []
    for k, weight in enumerate(parameters.weights):
        r, odds = parameters.size[0, k], np.exp(parameters.log_odds[0, k] + x[:, None])
        gate = None if parameters.gate is None else parameters.gate[0, k]
        joint.append(np.log(weight) + log_prior + log_one(u, v, r, odds, gate).sum(1))
        alone = stats.nbinom.logpmf(u, r, 1 / (1 + odds))
        alone = alone if gate is None else np.log((1 - gate) * np.exp(alone) + gate * (u == 0))
        seen.append(np.log(weight) + log_prior + alone.sum(1))
    return logsumexp(joint) - logsumexp(seen)


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("model", ["nbdm", "zinb", "nbvcp", "zinbvcp"])
def test_density_is_that_of_brute_force(model, n_components):
    parameters = example(model, n_components)
    rng = np.random.default_rng(0)
    whole = rng.poisson(rng.gamma(1, 4, (6, 4)))
    whole[0] = 0
    train, test = thinning.thin(sparse.csr_array(whole.astype(np.float32)), np.random.default_rng(1))
    prior = dist.LogNormal(-0.5, 0.7) if model.endswith("vcp") else None
    made = Model.of(ModelConfig(model, "mean_disp", n_components=n_components))
    found = predictive_density.of_model(made, {"nu": prior}, parameters, train, test)
    u, v = train.toarray(), test.toarray()
    expected = [by_brute_force(parameters, prior, *cell) for cell in zip(u, v, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_densities_of_all_test_counts_add_up_to_one():
    parameters = example("zinbvcp", 2, n_genes=2)._replace(log_odds=np.full((1, 2, 2), -0.5))
    u = np.array([2, 0])
    v = np.array(list(itertools.product(range(40), repeat=2)))
    train, test = (sparse.csr_array(part.astype(np.float32)) for part in (np.broadcast_to(u, v.shape), v))
    made = Model.of(ModelConfig("zinbvcp", "mean_disp", n_components=2))
    found = predictive_density.of_model(made, {"nu": dist.LogNormal(0.0, 0.5)}, parameters, train, test)
    assert logsumexp(found) == pytest.approx(0, abs=1e-4)


def test_one_gene_has_the_gamma_updated_by_its_training_count():
    parameters = example("nbdm", 1)
    rng = np.random.default_rng(2)
    u, v = rng.poisson(3, (2, 5, 4))
    train, test = (sparse.csr_array(part.astype(np.float32)) for part in (u, v))
    found = predictive_density.of_model(Model.of(ModelConfig("nbdm", "mean_disp")), {}, parameters, train, test)
    r, odds = parameters.size[0, 0], np.exp(parameters.log_odds[0, 0])
    later = odds / (4 * (1 + odds))
    np.testing.assert_allclose(found, stats.nbinom.logpmf(v, u + r, 1 / (1 + later)).sum(1), rtol=1e-6)


def test_poisson_and_split():
    whole = np.random.default_rng(0).poisson(2, (30, 5))
    train, test = thinning.thin(sparse.csr_array(whole.astype(np.float32)), np.random.default_rng(1))
    u, v = train.toarray(), test.toarray()
    np.testing.assert_array_equal(u + v, whole)
    expected = stats.binom.logpmf(v, u + v, 0.2).sum(1)
    np.testing.assert_allclose(thinning.log_split(train, test), expected, rtol=1e-5)
    mean = np.outer(u.sum(1) + 0.5, (u.sum(0) + 0.5) / (u.sum(0) + 0.5).sum()) / 4
    expected = stats.poisson.logpmf(v, mean).sum(1)
    np.testing.assert_allclose(predictive_density.of_poisson(train, test), expected, rtol=1e-5)


def test_a_fit_is_scored_at_its_means():
    adata = sb.datasets.simulate("zinbvcp_mix", n_components=2, n_cells=200, n_genes=20, rng=0)
    train, test = thinning.thin(adata.X, np.random.default_rng(0))
    adata.X = train
    sb.tl.fit(adata, "zinbvcp", n_components=2, progress=False)
    found = sb.get.distributions(adata, backend="scipy")
    here = predictive_density.point(adata)
    np.testing.assert_allclose(here.mean[0], found["mu"].mean())
    np.testing.assert_allclose(here.size[0], found["r"].median())
    np.testing.assert_allclose(here.gate[0], found["gate"].mean())
    np.testing.assert_allclose(here.weights, found["weights"].mean())
    better = thinning.nats_per_count(predictive_density.of_fit(adata, train, test), test)
    assert better > thinning.nats_per_count(predictive_density.of_poisson(train, test), test)
