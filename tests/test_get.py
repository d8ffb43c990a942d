"""Results read back: points, distributions of both backends, derived parameters, and the printed fit."""

from itertools import product
from typing import NamedTuple

import anndata as ad
import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import integrate, optimize, stats
from scipy.special import expit, logit, logsumexp

import scbayes as sb
from scbayes.models import Model, ModelConfig
from scbayes.models._config import MODELS, PARAMETERIZATIONS
from scbayes.models._marginals import total_abundance
from scbayes.models._posterior import Posterior
from scbayes.models._priors import default_priors, to_json
from scbayes.state import Fit, write_fit

N_CELLS, N_GENES = 20, 30
LOG_MRNA = np.log(2e5)
N_DRAWS = 40_000


# --- a posterior of any model, without a fit --------------------------------------------------------------------------


class Known(NamedTuple):
    """An AnnData that holds the posterior beside it."""

    adata: ad.AnnData
    config: ModelConfig
    posterior: Posterior
    batch: np.ndarray
    mrna_sd: float


def known(config: ModelConfig, *, mrna_sd: float = 0.0, width: float = 0.15, seed: int = 0) -> Known:
    """A posterior with numbers like those of a fit."""
    rng = np.random.default_rng(seed)
    model = Model.of(config)
    k, q = len(model.columns), model.n_factors
    centre = {"mu": LOG_MRNA - 5 if config.capture else 1.0, "r": 0.0, "gate": -2.0}
    loc = np.stack([rng.normal(centre[site], 1, N_GENES) for site, _ in model.columns], 1)
    tril = np.tril(rng.normal(0, width / 2, (N_GENES, k, k)), -1) + np.eye(k) * rng.uniform(
        width / 2, width, (N_GENES, 1, k)
    )
    factor = rng.normal(0.1, 0.05, (N_GENES, k, q))
    n_global = sum(config.copies(site) for site in config.global_sites)
    n_nu = N_CELLS if config.capture else 0
    glob = {"p": 1.0, "phi": -1.0}.get((*config.global_sites, "")[0], 0)
    if config.parameterization == "standard":
        glob = 4.0  # the log of the expected total
    posterior = Posterior(
        loc,
        tril,
        factor,
        glob + rng.normal(0, 0.3, n_global),
        rng.uniform(width / 2, width, n_global),
        rng.normal(-3, 0.5, n_nu),
        rng.uniform(0.05, 0.2, n_nu),
    )
    batch = np.arange(N_CELLS) % config.n_batches
    priors = default_priors(config)
    adata = ad.AnnData(
        np.zeros((N_CELLS, N_GENES), np.float32),
        obs=pd.DataFrame({"batch": batch.astype(str)}, index=[f"cell{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )
    facts = {
        "layer": None,
        "batch_key": "batch" if config.n_batches > 1 else None,
        "batches": [str(b) for b in range(config.n_batches)] if config.n_batches > 1 else [],
        "n_cells": N_CELLS,
        "n_genes": N_GENES,
        "total_mrna": {"median": np.exp(LOG_MRNA), "log_sd": mrna_sd},
        "priors": {site: to_json(prior) for site, prior in priors.items()},
        "convergence": {"converged": True, "n_steps": 0, "n_rejected": 0, "drift": 0.0, "loss_per_entry": 0.0},
    }
    links = {site: "logit" if site in ("p", "gate") else "log" for site in config.sites}
    names = np.asarray(adata.var_names), np.asarray(adata.obs_names)
    total = total_abundance(config, posterior)
    none = np.zeros((k, 0))
    everything = np.ones(N_GENES, bool)
    write_fit(
        adata, Fit("sb", config, priors, posterior, total, links, *names, everything, none, batch, np.zeros(0), facts)
    )
    return Known(adata, config, posterior, batch, mrna_sd)


def draws(case: Known, seed: int = 1) -> dict[str, np.ndarray]:
    """Joint draws of every parameter on its log or logit scale; the identities between them hold draw by draw."""
    config, posterior, rng = case.config, case.posterior, np.random.default_rng(seed)
    own, shared = (
        rng.normal(size=(N_DRAWS, *posterior.gene_loc.shape)),
        rng.normal(size=(N_DRAWS, posterior.gene_factor.shape[-1])),
    )
    gene = posterior.gene_loc + np.einsum("gkl,ngl->ngk", posterior.gene_tril, own)
    gene += np.einsum("gkq,nq->ngk", posterior.gene_factor, shared)
    glob = rng.normal(posterior.global_loc, posterior.global_scale, (N_DRAWS, len(posterior.global_loc)))
    z: dict[str, np.ndarray] = {}
    at = 0
    for site in config.gene_sites:
        z[site] = np.moveaxis(gene[..., at : at + config.copies(site)], -1, 1)  # (draws, copies, genes)
        at += config.copies(site)
    for site in config.global_sites:
        z[site] = glob[:, : config.copies(site)]
    if config.capture:
        z["nu"] = rng.normal(posterior.cell_loc, posterior.cell_scale, (N_DRAWS, N_CELLS))
    abundance = z[config.gene_sites[0]]
    z["composition"] = abundance - logsumexp(abundance, -1, keepdims=True)
    if config.parameterization == "standard":
        log_r = logsumexp(z["r"], -1)
        if config.capture:
            z["p"] = LOG_MRNA - log_r
        else:
            z["p"] = z["p"] - (log_r if log_r.shape == z["p"].shape else log_r.mean(1, keepdims=True))
        z["mu"] = z["r"] + z["p"][..., None]
    elif config.shared_odds:
        z["p"] = -z["phi"] if "phi" in z else z["p"]
        z["r"] = z["mu"] - z["p"][..., None]
    if config.shared_odds:
        per_cell = z["p"][:, case.batch] if z["p"].shape[1] > 1 else z["p"]
        z["odds"] = z["nu"] + per_cell if config.capture else z["p"]
    if "phi" in z:
        z["phi"] = -z["p"]
    if config.capture:
        scale = rng.normal(0, case.mrna_sd, N_DRAWS)
        z["mu"] = z["mu"] + scale[:, None, None]
        z["nu"] = z["nu"] - scale[:, None]
        if "p" in z:
            z["p"] = z["p"] + scale[:, None]
        if "phi" in z:
            z["phi"] = z["phi"] - scale[:, None]
    return z


COMBOS = [ModelConfig(model, coordinates) for model, coordinates in product(MODELS, PARAMETERIZATIONS)]
OWN = [
    ModelConfig(model, coordinates, n_batches=2, per_batch=own)
    for model, coordinates, own in [
        ("nbdm", "standard", ("r",)),
        ("nbdm", "standard", ("p",)),
        ("nbdm", "standard", ("r", "p")),
        ("nbvcp", "standard", ("r",)),
        ("nbvcp", "mean_disp", ("mu",)),
        ("zinbvcp", "mean_disp", ("mu", "r", "gate")),
        ("nbvcp", "linked", ("mu",)),
        ("nbvcp", "linked", ("p",)),
        ("zinb", "odds_ratio", ("mu", "phi")),
        ("zinbvcp", "odds_ratio", ("phi", "gate")),
    ]
]


def name_of(config: ModelConfig) -> str:
    return "-".join([config.model, config.parameterization, *config.per_batch])


@pytest.mark.parametrize("mrna_sd", [0.0, 0.3])
@pytest.mark.parametrize("config", [*COMBOS, *OWN], ids=name_of)
def test_marginals_are_those_of_joint_draws(config, mrna_sd):
    case = known(config, mrna_sd=mrna_sd if config.capture else 0.0)
    found = sb.get.distributions(case.adata, backend="numpyro")
    expected = draws(case)
    if not config.shared_odds:
        assert "p" not in found
        assert "odds" not in found
    assert set(found) == set(expected)
    for name, distribution in found.items():
        normal = distribution.base_dist
        z = expected[name]
        z = (
            z[:, 0]
            if z.ndim > 1 and name not in ("nu",) and not (name == "odds" and config.capture) and z.shape[1] == 1
            else z
        )
        assert normal.loc.shape == z.shape[1:], name
        sd = z.std(0)
        np.testing.assert_allclose(normal.scale, sd, rtol=0.05, err_msg=f"scale of {name}")
        error = np.abs(normal.loc - z.mean(0)) / sd  # 40,000 draws tell it to 0.005
        assert error.max() < 0.08, f"{name}: off by {error.max():.3f} standard deviations"


@pytest.mark.parametrize("config", [*COMBOS, *OWN], ids=name_of)
def test_means_and_modes_keep_the_identities_of_the_model(config):
    case = known(config, width=0.02)
    for use_mean in (False, True):
        found = sb.get.map(case.adata, use_mean=use_mean)
        total = found["composition"].sum(-1)
        np.testing.assert_allclose(total, 1, atol=0.02)
        mu, r = np.atleast_2d(found["mu"]), np.atleast_2d(found["r"])
        abundance = mu if config.gene_sites[0] == "mu" else r
        np.testing.assert_allclose(
            np.atleast_2d(found["composition"]), abundance / abundance.sum(1, keepdims=True), rtol=0.1
        )
        if not config.shared_odds:
            continue
        p = np.atleast_1d(found["p"])
        odds = p / (1 - p)
        np.testing.assert_allclose(
            r * odds[:, None], np.broadcast_to(mu, (max(len(mu), len(p), len(r)), N_GENES)), rtol=0.12
        )
        if "phi" in found:
            np.testing.assert_allclose(np.atleast_1d(found["phi"]), 1 / odds, rtol=0.06)
        if config.capture:
            own = odds[case.batch] if len(odds) > 1 else odds
            np.testing.assert_allclose(found["odds"], found["nu"] * own, rtol=0.1)
        else:
            np.testing.assert_allclose(np.atleast_1d(found["odds"]), odds, rtol=0.06)


def test_means_of_compositions_sum_to_one():
    """With wide posteriors too: a mean of proportions is a proportion."""
    for config in COMBOS:
        total = sb.get.map(known(config, width=0.3).adata, use_mean=True)["composition"].sum()
        assert abs(total - 1) < 0.01, name_of(config)


@pytest.mark.parametrize("config", [config for config in COMBOS if config.capture], ids=name_of)
def test_spread_of_total_mrna_widens_mu_nu_and_p_only(config):
    with_, without = known(config, mrna_sd=0.4), known(config)
    wide, narrow = sb.get.distributions(with_.adata), sb.get.distributions(without.adata)
    assert set(wide) == set(narrow)
    for name, value in wide.items():
        expected = np.asarray(narrow[name].base_dist.scale)
        np.testing.assert_array_equal(value.base_dist.loc, narrow[name].base_dist.loc)
        if name in ("mu", "nu", "p", "phi"):
            expected = np.sqrt(expected**2 + 0.4**2)
        np.testing.assert_allclose(value.base_dist.scale, expected, rtol=1e-12)
    # and params, which hold what was optimised, stay
    for name, value in sb.get.params(with_.adata).items():
        for part, array in value.items():
            np.testing.assert_array_equal(array, sb.get.params(without.adata)[name][part])


def test_sampled_parameters_only():
    for config in COMBOS:
        case = known(config)
        assert set(sb.get.map(case.adata, canonical=False)) == set(config.sites)
        assert set(sb.get.distributions(case.adata, canonical=False)) == set(config.sites)
        assert set(sb.get.params(case.adata)) == {*config.sites, "gene"}
        whole = sb.get.map(case.adata)
        for name, value in sb.get.map(case.adata, canonical=False).items():
            np.testing.assert_array_equal(value, whole[name])


def test_params_are_the_posterior():
    config = ModelConfig("zinbvcp", "odds_ratio", n_batches=2, per_batch=("mu",))
    case = known(config)
    found, posterior = sb.get.params(case.adata), case.posterior
    np.testing.assert_array_equal(found["mu"]["loc"], posterior.gene_loc[:, :2].T)
    np.testing.assert_array_equal(found["gate"]["loc"], posterior.gene_loc[:, 2])
    covariance = posterior.gene_tril @ np.swapaxes(posterior.gene_tril, 1, 2)
    np.testing.assert_allclose(found["gate"]["scale"], np.sqrt(covariance[:, 2, 2]), rtol=1e-12)
    np.testing.assert_allclose(found["mu"]["scale"], np.sqrt(covariance[:, [0, 1], [0, 1]]).T, rtol=1e-12)
    assert found["phi"]["loc"] == posterior.global_loc[0]
    np.testing.assert_array_equal(found["nu"]["scale"], posterior.cell_scale)
    np.testing.assert_array_equal(found["gene"]["tril"], posterior.gene_tril)


# --- points and distributions -----------------------------------------------------------------------------------------

CASES = {"logs and a gate": ModelConfig("zinbvcp", "linked"), "batches": OWN[4]}


@pytest.fixture(params=[0.1, 0.8], ids=["narrow", "wide"])
def adata(request) -> ad.AnnData:
    return known(CASES["logs and a gate"], width=request.param).adata


def scalars(adata) -> list[tuple[str, int, object, float, float]]:
    """(parameter, element, frozen scalar distribution, mode, mean) of a few elements of each parameter."""
    split = sb.get.distributions(adata, backend="scipy", split=True)
    modes, means = sb.get.map(adata), sb.get.map(adata, use_mean=True)
    chosen = []
    for name, distribution in split.items():
        if not isinstance(distribution, list):
            chosen.append((name, 0, distribution, modes[name], means[name]))
            continue
        for i in (0, 7, len(distribution) - 1):
            chosen.append((name, i, distribution[i], modes[name][i], means[name][i]))
    return chosen


def test_modes_are_where_the_density_is_highest(adata):
    for name, i, distribution, mode, _ in scalars(adata):
        low, high = distribution.ppf([1e-6, 1 - 1e-6])
        grid = np.linspace(low, high, 20_001)
        start = grid[np.argmax(distribution.logpdf(grid))]
        step = grid[1] - grid[0]
        best = optimize.minimize_scalar(
            lambda x, d=distribution: -d.logpdf(x),
            bounds=(max(start - step, low), start + step),
            options={"xatol": 1e-9},
        )
        assert distribution.logpdf(mode) >= -best.fun - 1e-9, (name, i)
        np.testing.assert_allclose(mode, best.x, rtol=2e-3, err_msg=f"{name} {i}")


def test_means_are_integrals(adata):
    for name, i, distribution, _, mean in scalars(adata):
        low, high = distribution.ppf([1e-12, 1 - 1e-12])
        middle = distribution.ppf([0.01, 0.5, 0.99])
        whole = integrate.quad(distribution.pdf, low, high, points=middle, limit=200)[0]
        first = integrate.quad(lambda x, d=distribution: x * d.pdf(x), low, high, points=middle, limit=200)[0]
        second = integrate.quad(lambda x, d=distribution: x * x * d.pdf(x), low, high, points=middle, limit=200)[0]
        np.testing.assert_allclose(whole, 1, rtol=1e-6, err_msg=f"{name} {i}")
        np.testing.assert_allclose(mean, first, rtol=1e-5, err_msg=f"{name} {i}")
        np.testing.assert_allclose(distribution.mean(), first, rtol=1e-5, err_msg=f"{name} {i}")
        np.testing.assert_allclose(distribution.var(), second - first**2, rtol=1e-3, err_msg=f"{name} {i}")


def test_backends_are_the_same_distributions(adata):
    ours, theirs = sb.get.distributions(adata, backend="numpyro"), sb.get.distributions(adata, backend="scipy")
    assert list(ours) == list(theirs)
    with jax.enable_x64(True):
        for name, distribution in ours.items():
            for quantile in (0.02, 0.5, 0.9):
                x = theirs[name].ppf(quantile)
                np.testing.assert_allclose(distribution.log_prob(x), theirs[name].logpdf(x), rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(distribution.cdf(x), quantile, rtol=1e-9)
                np.testing.assert_allclose(theirs[name].cdf(x), quantile, rtol=1e-9)
                np.testing.assert_allclose(distribution.icdf(np.full(np.shape(x), quantile)), x, rtol=1e-9)
            if isinstance(distribution, dist.LogNormal):
                np.testing.assert_allclose(distribution.mean, theirs[name].mean(), rtol=1e-9)
                np.testing.assert_allclose(distribution.variance, theirs[name].var(), rtol=1e-9)


def test_draws_of_both_backends_have_their_moments(adata):
    ours, theirs = sb.get.distributions(adata, backend="numpyro"), sb.get.distributions(adata, backend="scipy")
    for name in ("gate", "p", "r", "nu"):
        shape = np.shape(theirs[name].mean())
        one = theirs[name].rvs(size=(4000, *shape), random_state=3)
        other = np.asarray(ours[name].sample(jax.random.key(0), (4000,)))
        for sample in (one, other):
            assert sample.shape == (4000, *shape)
            error = np.abs(np.log(sample).mean(0) - np.log(one).mean(0)) / np.log(one).std(0)
            assert error.max() < 0.12, name
            assert (np.abs(sample.mean(0) - theirs[name].mean()) < 6 * theirs[name].std() / 4000**0.5 + 1e-6).all(), (
                name
            )


def test_logit_normal_is_a_proper_scipy_distribution():
    gate = sb.get.distributions(known(CASES["logs and a gate"]).adata, backend="scipy", split=True)["gate"][4]
    m, s = (float(value) for value in gate.args)
    x = np.array([1e-9, 0.01, 0.3, 0.999, 1 - 1e-9])
    np.testing.assert_allclose(gate.pdf(x), stats.norm.pdf(logit(x), m, s) / (x * (1 - x)), rtol=1e-10)
    np.testing.assert_allclose(gate.cdf(x) + gate.sf(x), 1)
    np.testing.assert_array_equal(gate.pdf([-0.1, 0.0, 1.0, 1.1]), 0)
    np.testing.assert_array_equal(gate.cdf([-0.1, 0.0, 1.0, 1.1]), [0, 0, 1, 1])
    np.testing.assert_allclose(gate.interval(0.95), expit(m + s * stats.norm.ppf([0.025, 0.975])), rtol=1e-10)
    np.testing.assert_allclose(gate.median(), expit(m))
    assert gate.support() == (0, 1)


def test_split_gives_scalars_in_order():
    for backend in ("numpyro", "scipy"):
        case = known(CASES["batches"])
        whole = sb.get.distributions(case.adata, backend=backend)
        split = sb.get.distributions(case.adata, backend=backend, split=True)
        assert {name: np.shape(value) for name, value in split.items()} == {
            "mu": (2, N_GENES),
            "r": (N_GENES,),
            "nu": (N_CELLS,),
            "composition": (2, N_GENES),
        }
        for name, value in split.items():
            mean = [one.mean if backend == "numpyro" else one.mean() for one in np.ravel(np.array(value, object))]
            expected = whole[name].mean if backend == "numpyro" else whole[name].mean()
            np.testing.assert_allclose(mean, np.ravel(expected), rtol=1e-6)
    case = known(CASES["logs and a gate"])
    assert not isinstance(sb.get.distributions(case.adata, split=True)["p"], list)


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_fit() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=80, n_genes=24, n_batches=2, log_mean=(2, 1), rng=3)
    adata.layers["umi"] = adata.X.copy()
    adata.var["wanted"] = np.arange(24) % 4 != 0
    sb.tl.fit(adata, layer="umi", progress=False)
    sb.tl.fit(
        adata,
        parameterization="standard",
        batch_key="batch",
        mask_var="wanted",
        n_steps=50,
        key_added="own",
        priors={"r": dist.Gamma(2.0, 0.5), "total_mrna": dist.LogNormal(np.log(3e5), 0.25)},
        progress=False,
    )
    return adata


def test_printed_fit_says_what_it_is(real_fit):
    text = str(sb.get.fit(real_fit[:, :10]))
    how = sb.get.fit(real_fit).facts["convergence"]
    for line in (
        "scbayes fit 'sb': nbvcp, mean_disp",
        "layers['umi'], 80 cells x 24 genes",
        "80 cells, 10 genes (10 fitted)",
        f"converged, {how['n_steps']} steps",
        "mu ~ LogNormal(",
        "mu, nu move with the total mRNA per cell, 200000",
        "obsm['sb_cell_id'], obsm['sb_nu'], uns['sb'], varm['sb_gene_id'], varm['sb_loc'], varm['sb_tril']",
    ):
        assert line in text, text
    assert "NOT" not in text
    assert repr(sb.get.fit(real_fit)) == str(sb.get.fit(real_fit))


def test_printed_unfinished_fit_says_so(real_fit):
    text = str(sb.get.fit(real_fit, "own"))
    for line in (
        "scbayes fit 'own': nbvcp, standard; per batch: r",
        "X, 80 cells x 24 genes, 2 batches of obs['batch']",
        "80 cells, 24 genes (18 fitted)",
        "NOT converged: fit(..., resume=True) goes on, 50 steps",
        "r ~ Gamma(2, 0.5)",
        "move with the total mRNA per cell, 300000, log sd 0.25",
        "varm['own_factor']",
    ):
        assert line in text, text


def test_fit_knows_its_parts(real_fit):
    fit = sb.get.fit(real_fit, "own")
    assert fit.key == "own"
    assert not fit.converged
    assert list(fit.genes[fit.fitted]) == list(real_fit.var_names[real_fit.var["wanted"]])
    assert isinstance(fit.priors["r"], dist.Gamma)
    assert fit.posterior.gene_factor.shape == (18, 2, 2)
    assert fit.rest.shape == (2, 5)
    assert len(fit.losses) == 50
    np.testing.assert_array_equal(fit.batch, real_fit.obs["batch"].astype(int))
    assert {name: marginal.identified for name, marginal in fit.canonical.items()} == {
        "r": True,
        "nu": False,
        "composition": True,
        "p": False,
        "mu": False,
        "odds": True,
    }


def test_composition_of_fitted_genes_leaves_room_for_the_pooled_one(real_fit):
    """18 of 24 genes: their composition adds up to their share of all counts, batch by batch."""
    share = sb.get.map(real_fit, "own", use_mean=True)["composition"].sum(1)
    counts = real_fit.to_df("umi")
    for batch in (0, 1):
        rows = counts[(real_fit.obs["batch"] == str(batch)).to_numpy()]
        expected = rows.loc[:, real_fit.var["wanted"].to_numpy()].to_numpy().sum() / rows.to_numpy().sum()
        assert abs(share[batch] - expected) < 0.02
