"""Configurations, priors, programs and guides of all models, and the posterior they start from."""

import json
from functools import cache
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer import Trace_ELBO
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import expit, logit

from scbayes.counts import Counts, Summary
from scbayes.datasets import simulate
from scbayes.models import Evidence, Model, ModelConfig
from scbayes.models._at_posterior import evidence_at
from scbayes.models._config import MODELS, PARAMETERIZATIONS
from scbayes.models._model import Inputs
from scbayes.models._posterior import Posterior, moved, no_change
from scbayes.models._priors import FAMILIES, BetaPrime, check_priors, default_priors, from_json, to_json
from scbayes.models._warm_start import Start, warm_start

COMBOS = list(product(MODELS, PARAMETERIZATIONS))
N_CELLS, N_GENES, LOG_MRNA = 12, 5, float(np.log(300))

every_model = pytest.mark.parametrize(("name", "coordinates"), COMBOS)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


# --- configurations ---------------------------------------------------------------------------------------------------


def config_of(name: str, coordinates: str, layout: str = "one", *, unconstrained: bool = False) -> ModelConfig:
    """One batch; three batches that share all; three batches each with its own of everything but nu."""
    sites = [site for site in ModelConfig(name, coordinates).sites if site != "nu"]
    n_batches = 1 if layout == "one" else 3
    return ModelConfig(name, coordinates, unconstrained, n_batches, sites if layout == "own" else ())


@pytest.mark.parametrize("layout", ["one", "shared", "own"])
@every_model
def test_config_through_json(name, coordinates, layout):
    config = config_of(name, coordinates, layout, unconstrained=layout == "own")
    value = json.loads(json.dumps(config.to_json()))
    back = ModelConfig.from_json(value)
    assert back == config
    assert hash(back) == hash(config)
    assert Model.of(back) is Model.of(config)
    assert value["per_batch"] == list(config.per_batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "nb"}, r"unknown model 'nb'; the models are nbdm, zinb, nbvcp, zinbvcp"),
        ({"parameterization": "mean"}, r"unknown parameterization 'mean'; choose one of standard, .*mean_disp"),
        ({"per_batch": ["gate"], "n_batches": 2}, r"per_batch names 'gate', which model 'nbvcp' .* choose from mu, r"),
        ({"per_batch": ["nu"], "n_batches": 2}, r"per_batch names 'nu'"),
        ({"parameterization": "standard", "per_batch": ["p"], "n_batches": 2}, r"per_batch names 'p'"),
        ({"per_batch": ["mu"]}, r"per_batch=\['mu'\] needs a batch_key with at least two batches"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_config_of_the_future_is_refused():
    with pytest.raises(ValueError, match=r"does not know the model settings \['guide'\]"):
        ModelConfig.from_json(ModelConfig().to_json() | {"guide": "flow"})


def test_sites():
    sites = {combo: set(ModelConfig(*combo).sites) for combo in COMBOS}
    own = {"linked": {"p", "mu"}, "odds_ratio": {"phi", "mu"}, "mean_disp": {"mu", "r"}}
    for (name, coordinates), found in sites.items():
        parts = {"gate"} if name.startswith("zi") else set()
        parts |= {"nu"} if name.endswith("vcp") else set()
        if coordinates == "standard":  # with capture only odds are identified
            assert found == parts | ({"r"} if "nu" in parts else {"r", "p"})
        else:
            assert found == parts | own[coordinates]


# --- priors -----------------------------------------------------------------------------------------------------------

EXAMPLES = [
    (dist.LogNormal(0.3, 1.2), stats.lognorm(1.2, scale=np.exp(0.3))),
    (dist.Normal(-0.3, 1.2), stats.norm(-0.3, 1.2)),
    (dist.Beta(2.0, 5.0), stats.beta(2, 5)),
    (dist.Gamma(2.5, 3.0), stats.gamma(2.5, scale=1 / 3)),
    (dist.InverseGamma(2.5, 3.0), stats.invgamma(2.5, scale=3)),
    (dist.HalfNormal(0.7), stats.halfnorm(scale=0.7)),
    (dist.HalfCauchy(0.7), stats.halfcauchy(scale=0.7)),
    (dist.Exponential(1.7), stats.expon(scale=1 / 1.7)),
    (BetaPrime(2.0, 3.5), stats.betaprime(2, 3.5)),
]


def test_every_family_has_an_example():
    assert {type(prior).__name__ for prior, _ in EXAMPLES} == set(FAMILIES)


@pytest.mark.parametrize(("prior", "reference"), EXAMPLES, ids=lambda x: type(x).__name__)
def test_priors_through_json(prior, reference):
    back = from_json(json.loads(json.dumps(to_json(prior))))
    assert type(back) is type(prior)
    x = np.array([0.01, 0.2, 0.5, 0.9])
    np.testing.assert_allclose(back.log_prob(x), reference.logpdf(x), rtol=1e-6)
    many = prior.expand((3,)).to_event(1)
    np.testing.assert_allclose(many.log_prob(x[:3]), reference.logpdf(x[:3]).sum(), rtol=1e-6)


def test_beta_prime():
    x = np.geomspace(1e-4, 1e4, 50)
    for a, b in [(1.0, 1.0), (2.0, 3.5), (0.5, 8.0)]:
        np.testing.assert_allclose(BetaPrime(a, b).log_prob(x), stats.betaprime(a, b).logpdf(x), rtol=1e-9)
    draws = np.asarray(BetaPrime(2.0, 3.5).sample(jax.random.key(0), (5000,)))
    assert stats.kstest(draws, stats.betaprime(2, 3.5).cdf).pvalue > 1e-3
    assert BetaPrime(2.0, 3.5).support is dist.constraints.positive
    inside = jax.jit(lambda prior, x: prior.log_prob(x))(BetaPrime(2.0, 3.5), 0.7)  # as a pytree
    np.testing.assert_allclose(inside, stats.betaprime(2, 3.5).logpdf(0.7), rtol=1e-9)


def test_a_prior_of_the_future_is_refused():
    with pytest.raises(ValueError, match="does not know the prior 'Horseshoe'"):
        from_json({"family": "Horseshoe"})


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({}, {"gate": dist.Beta(1, 9)}, r"priors names 'gate', which model 'nbvcp' .* choose from mu, r, nu"),
        ({}, {"mu": dist.StudentT(3.0)}, r"the prior of 'mu' is .*; give a numpyro distribution, one of LogNormal"),
        ({}, {"mu": 3.0}, r"the prior of 'mu' is 3.0"),
        ({}, {"mu": dist.LogNormal(np.zeros(3), 1.0)}, r"the prior of 'mu' has shape \(3,\)"),
        (
            {},
            {"mu": dist.Gamma(np.nan, 1.0, validate_args=False)},
            r"the prior of 'mu' has parameters \[nan, 1.0\]",
        ),
        ({}, {"mu": dist.Gamma(0.0, 1.0, validate_args=False)}, r"the prior of 'mu' has parameters \[0.0, 1.0\]"),
        ({}, {"mu": dist.Normal(0.0, 1.0)}, r"'mu' is positive: a Normal prior needs unconstrained=True"),
        ({"unconstrained": True}, {"mu": dist.LogNormal(0.0, 1.0)}, r"give a Normal for 'mu', not"),
        ({"parameterization": "linked"}, {"p": dist.Gamma(1.0, 1.0)}, r"'p' is a probability: give a Beta prior"),
    ],
)
def test_priors_that_are_refused(settings, given, message):
    with pytest.raises(ValueError, match=message):
        check_priors(ModelConfig(**settings), given)


def test_priors_that_are_taken():
    given = {"mu": dist.LogNormal(-2.0, 1.0), "nu": dist.Beta(2.0, 20.0), "r": dist.Gamma(2.0, 1.0)}
    assert check_priors(ModelConfig(), given) == given
    assert check_priors(ModelConfig(), None) == {}
    assert check_priors(ModelConfig(unconstrained=True), {"mu": dist.Normal(-2.0, 1.0)})


def test_defaults_are_taken():
    for (name, coordinates), unconstrained in product(COMBOS, [False, True]):
        config = config_of(name, coordinates, unconstrained=unconstrained)
        priors = default_priors(config)
        assert set(check_priors(config, priors)) == set(config.sites)


# --- programs and guides ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    model: Model
    inputs: Inputs
    posterior: Posterior
    u: np.ndarray


@cache
def case(config: ModelConfig) -> Case:
    model = Model.of(config)
    rng = np.random.default_rng(1)
    k, q = len(model.columns), model.n_factors
    n_global = sum(config.copies(site) for site in config.global_sites)
    n_nu = N_CELLS if config.capture else 0
    posterior = Posterior(
        gene_loc=rng.normal(0, 0.5, (N_GENES, k)),
        gene_tril=np.tril(rng.normal(0, 0.1, (N_GENES, k, k)), -1) + 0.3 * np.eye(k),
        gene_factor=rng.normal(0, 0.1, (N_GENES, k, q)),
        global_loc=rng.normal(0, 0.5, n_global),
        global_scale=np.full(n_global, 0.2),
        cell_loc=rng.normal(-2, 0.5, n_nu),
        cell_scale=np.full(n_nu, 0.3),
    )
    posterior = Posterior(*map(jnp.asarray, posterior))
    batch = jnp.asarray(np.arange(N_CELLS) % config.n_batches, jnp.int32)
    inputs = Inputs(None, default_priors(config), jnp.asarray(LOG_MRNA), batch, posterior)
    u = rng.poisson(rng.gamma(0.7, 3.0, (N_CELLS, N_GENES)))
    u[0], u[:, 2] = 0, 0
    return Case(model, inputs, posterior, u)


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    own = 3 if config.per_batch else 1
    return {s: (N_CELLS,) if s == "nu" else (own,) if s in ("p", "phi") else (own, N_GENES) for s in config.sites}


def log_slope(site: str, x: np.ndarray) -> float:
    """ln |dx/dz| of the logit or the logarithm z of x."""
    return np.sum(np.log(x * (1 - x)) if site in ("p", "gate") else np.log(x))


def coordinate(site: str, x: np.ndarray) -> np.ndarray:
    return logit(x) if site in ("p", "gate") else np.log(x)


@pytest.mark.parametrize(
    ("layout", "unconstrained"), [("one", False), ("shared", False), ("own", False), ("one", True), ("own", True)]
)
@every_model
def test_program_and_guide(name, coordinates, layout, unconstrained):
    config = config_of(name, coordinates, layout, unconstrained=unconstrained)
    model, inputs, posterior, u = case(config)

    prior_draw = trace(seed(model.program, 0)).get_trace(inputs)
    sampled = {s: site["value"].shape for s, site in prior_draw.items() if site["type"] == "sample"}
    assert sampled == shapes_of(config) | {"counts": (N_CELLS, N_GENES)}
    drawn = np.asarray(prior_draw["counts"]["value"])
    assert drawn.shape == (N_CELLS, N_GENES)
    assert np.array_equal(drawn, np.floor(drawn))
    assert np.all(drawn >= 0)

    found = trace(seed(model.guide, 1)).get_trace(inputs)
    values = {site: np.asarray(found[site]["value"]) for site in config.sites}
    assert {site: x.shape for site, x in values.items()} == shapes_of(config)

    # its density: normal on log and logit coordinates
    log_q = sum(np.sum(site["fn"].log_prob(site["value"])) for site in found.values() if site["type"] == "sample")
    expected = -sum(log_slope(site, x) for site, x in values.items())
    z = {s: coordinate(s, x) for s, x in values.items()}
    gene = np.stack([z[site][copy] for site, copy in model.columns], -1)
    for g in range(N_GENES if not model.n_factors else 0):
        covariance = posterior.gene_tril[g] @ posterior.gene_tril[g].T
        expected += stats.multivariate_normal(posterior.gene_loc[g], covariance).logpdf(gene[g])
    if model.n_factors:
        expected += dense_normal(posterior).logpdf(gene.ravel())
    if config.global_sites:
        glob = z[config.global_sites[0]]
        if coordinates == "standard":
            glob = glob + np.log(values["r"].sum(1))
        expected += stats.norm(posterior.global_loc, posterior.global_scale).logpdf(glob).sum()
    if config.capture:
        expected += stats.norm(posterior.cell_loc, posterior.cell_scale).logpdf(z["nu"]).sum()
    np.testing.assert_allclose(log_q, expected, rtol=1e-9)

    # the joint density: priors of SciPy, and the likelihood, which has its own tests
    dense = inputs._replace(counts=jnp.asarray(u))
    log_p = log_density(model.program, (dense,), {}, values)[0]
    likelihood = model.likelihood({s: jnp.asarray(x) for s, x in values.items()}, LOG_MRNA, inputs.batch)
    weak = {"p": stats.beta(1, 1), "phi": stats.betaprime(1, 1), "gate": stats.beta(1, 9)}
    if unconstrained:
        weak = {"p": stats.norm(0, 1.8), "phi": stats.norm(0, 1.8), "gate": stats.norm(-2.2, 1.2)}
    log_prior = 0.0
    for site, x in values.items():
        if unconstrained:
            log_prior += weak.get(site, stats.norm(0, 1)).logpdf(z[site]).sum() - log_slope(site, x)
        else:
            log_prior += weak.get(site, stats.lognorm(1)).logpdf(x).sum()
    np.testing.assert_allclose(log_p, log_prior + likelihood.log_prob(jnp.asarray(u)), rtol=1e-9)

    loss = Trace_ELBO().loss(jax.random.key(2), {}, model.program, model.guide, dense)
    assert np.isfinite(loss)


def dense_normal(posterior: Posterior):
    n, k = posterior.gene_loc.shape
    factor = np.asarray(posterior.gene_factor).reshape(n * k, -1)
    covariance = factor @ factor.T
    for g in range(n):
        block = slice(g * k, (g + 1) * k)
        covariance[block, block] += posterior.gene_tril[g] @ posterior.gene_tril[g].T
    return stats.multivariate_normal(np.ravel(posterior.gene_loc), covariance)


def test_the_guide_starts_where_it_is_told():
    posterior = case(config_of("zinbvcp", "standard", "own")).posterior
    same = moved(posterior, no_change(posterior))
    for name in Posterior._fields:
        np.testing.assert_array_equal(getattr(same, name), getattr(posterior, name), err_msg=name)


def test_moves_are_in_standard_deviations():
    posterior = case(config_of("nbdm", "standard", "own")).posterior
    change = no_change(posterior)
    ones = {name: change[name] + 1 for name in ("gene_loc", "global_loc", "gene_factor", "global_scale")}
    there = moved(posterior, change | ones)
    np.testing.assert_allclose(there.gene_loc - posterior.gene_loc, posterior.gene_tril.sum(-1), rtol=1e-12)
    np.testing.assert_allclose(there.global_loc - posterior.global_loc, posterior.global_scale, rtol=1e-12)
    np.testing.assert_allclose(there.gene_factor, posterior.gene_factor * np.e, rtol=1e-12)
    np.testing.assert_allclose(there.global_scale, posterior.global_scale * np.e, rtol=1e-12)
    np.testing.assert_array_equal(there.gene_tril, posterior.gene_tril)
    own = np.random.default_rng(0).normal(size=change["gene_tril"].shape)
    there = moved(posterior, change | {"gene_tril": jnp.asarray(own)})
    inner = np.tril(own, -1) + np.stack([np.diag(np.exp(np.diag(block))) for block in own])
    np.testing.assert_allclose(there.gene_tril, posterior.gene_tril @ inner, rtol=1e-12)


def test_equal_configs_share_a_model():
    assert Model.of(ModelConfig("zinb", "linked")) is Model.of(ModelConfig("zinb", "linked"))
    assert Model.of(ModelConfig("zinb", "linked")) is not Model.of(ModelConfig("zinb", "linked", unconstrained=True))


# --- where a fit starts -----------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    model: Model
    counts: Counts
    summary: Summary
    log_mrna: float
    start: Start
    truth: dict[str, np.ndarray]  # log or logit, as the coordinates of the posterior
    nu: np.ndarray


def simulated(
    name: str, coordinates: str, config: ModelConfig | None = None, given: dict | None = None, **settings
) -> Fit:
    config = config or ModelConfig(name, coordinates)
    shape = {"dispersion": (0.5, 0.7)} if coordinates == "mean_disp" else {"p": 0.95}
    abundance = (3.8, 1.3) if config.capture else (1.5, 1.3)
    adata = simulate(
        name, n_cells=500, n_genes=80, parameterization=coordinates, log_mean=abundance, rng=3, **shape, **settings
    )
    batch = adata.obs["batch"].cat.codes.to_numpy()
    counts = Counts(adata.X, batch, config.n_batches)
    summary, model = counts.summarise(), Model.of(config)
    mu, r, gate = (adata.varm[key][:, 0] if key in adata.varm else None for key in ("mu", "r", "gate"))
    log_mrna = float(np.log(mu.sum()))
    priors = default_priors(config) | (given or {})
    start = warm_start(model, counts, summary, priors, set(given or {}), log_mrna)
    truth = {"mu": np.log(mu), "r": np.log(r)} | ({"gate": logit(gate)} if config.gate else {})
    if "batch_effect" in adata.varm:
        truth["effect"] = adata.varm["batch_effect"].T
    return Fit(model, counts, summary, log_mrna, start, truth, adata.obs["nu"].to_numpy())


def gene_errors(fit: Fit, column: int, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error and standard deviation of one coordinate of each gene."""
    posterior = fit.start.posterior
    variance = (posterior.gene_tril[:, column] ** 2).sum(-1) + (posterior.gene_factor[:, column] ** 2).sum(-1)
    return np.asarray(posterior.gene_loc)[:, column] - truth, np.sqrt(variance)


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@every_model
def test_start_recovers_what_was_simulated(name, coordinates):
    fit = simulated(name, coordinates)
    config, posterior = fit.model.config, fit.start.posterior
    shift = 0.0
    for column, (site, _) in enumerate(fit.model.columns):
        error, sd = gene_errors(fit, column, fit.truth[site])
        if site == fit.model.abundance:  # with capture its scale is a convention, shared with nu
            shift = np.median(error)
            error = error - shift if config.capture else error
        if site == "gate":  # skewed towards zero: outliers on the logit scale say nothing
            assert np.mean(np.abs(error) < 2 * sd) > 0.8
            known = sd < 0.5
            assert known.sum() > 15
            assert rms(expit(posterior.gene_loc[known, column]) - expit(fit.truth["gate"][known])) < 0.05
        else:
            assert 0.6 < rms(error / sd) < 1.4, site
    if config.capture:
        error = posterior.cell_loc - np.log(fit.nu)
        # in `standard` the total mRNA fixes nu; else only its product with mu is known
        assert abs(np.median(error) + (0.0 if coordinates == "standard" else shift)) < 0.02
        assert 0.8 < rms((error - np.median(error)) / posterior.cell_scale) < 1.2
    if config.shared_odds:
        log_total = np.log(np.exp(posterior.gene_loc[:, 0]).sum())
        if coordinates != "standard":  # r = mu (1-p)/p
            log_total += {"linked": -1, "odds_ratio": 1}[coordinates] * posterior.global_loc[0]
        assert abs(log_total - np.log(np.exp(fit.truth["r"]).sum())) < 0.05
        # one dispersion for 40,000 counts: known to about 1 per cent
        if coordinates == "standard":
            weight = np.exp(posterior.gene_loc[:, 0] - log_total)
            width = abs(weight @ posterior.gene_factor[:, 0, 0])
        else:
            width = posterior.global_scale[0]
        assert 0.006 < width < 0.025
    # evidence made again from what is stored is the same to the last bit
    again = evidence_at(fit.model, fit.counts, fit.summary, fit.start.priors, posterior, fit.log_mrna)
    for field in Evidence._fields:
        assert np.array_equal(getattr(again, field), getattr(fit.start.evidence, field)), field
    # the evidence bound is that of the dense counts
    batch = jnp.asarray(fit.summary.batch)
    inputs = Inputs(fit.start.evidence, fit.start.priors, jnp.asarray(fit.log_mrna), batch, posterior)
    dense = inputs._replace(counts=jnp.asarray(fit.counts.x.todense()))
    program, guide = fit.model.program, fit.model.guide
    loss, expected = (Trace_ELBO().loss(jax.random.key(0), {}, program, guide, given) for given in (inputs, dense))
    if config.capture and (config.gate or not config.shared_odds):  # to second order in nu, and on average over draws
        assert abs(loss - expected) < 0.03 * fit.summary.n_cells
    else:
        assert abs(loss / expected - 1) < 1e-10


def test_start_with_a_bounded_prior_of_nu():
    fit = simulated("nbvcp", "mean_disp", given={"nu": dist.Beta(6.0, 54.0)})
    assert type(fit.start.priors["nu"]) is dist.Beta
    loc, scale = np.asarray(fit.start.posterior.cell_loc), np.asarray(fit.start.posterior.cell_scale)  # logit
    np.testing.assert_allclose(fit.start.evidence.anchor, np.log(expit(loc)), rtol=1e-12)
    error = loc - logit(fit.nu)
    shift = np.median(gene_errors(fit, 0, fit.truth["mu"])[0])
    assert abs(np.median(error) + shift) < 0.02
    assert 0.8 < rms((error - np.median(error)) / scale) < 1.2
    # the scale of the logit is that of the logarithm, stretched by 1 / (1 - nu)
    free = simulated("nbvcp", "mean_disp").start.posterior
    np.testing.assert_allclose(scale * (1 - expit(loc)), free.cell_scale, rtol=0.1)


@pytest.mark.parametrize(("name", "coordinates", "site"), [("nbvcp", "linked", "mu"), ("nbvcp", "standard", "r")])
def test_start_with_parameters_of_each_batch(name, coordinates, site):
    config = ModelConfig(name, coordinates, n_batches=3, per_batch=(site,))
    fit = simulated(name, coordinates, config, n_batches=3, batch_sd=0.5)
    for column, (_, copy) in enumerate(fit.model.columns):
        error, sd = gene_errors(fit, column, fit.truth[site] + fit.truth["effect"][copy])
        assert 0.6 < rms((error - np.median(error)) / sd) < 1.4
