"""Comparison of fits: densities with nu and component integrated out, LOO, WAIC, stacking, genes, the picture."""

import sys

import anndata as ad
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import sparse, stats
from scipy.special import expit, logsumexp

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models import Model, ModelConfig
from scbayes.models._gene_predictive import Genes
from scbayes.models._marginal_likelihood import NEGLIGIBLE, marginalise, population_of_nu
from scbayes.models._parameters import Parameters

N_CELLS, N_GENES, N_BATCHES = 30, 12, 2
GRID = np.linspace(-14, 7, 6001)


# --- small data and what integration by brute force makes of them -----------------------------------------------------


def example(model: str, n_components: int, seed: int = 0) -> tuple[Parameters, np.ndarray, np.ndarray]:
    """Parameters, counts drawn from them, and batches."""
    rng = np.random.default_rng(seed)
    shape = N_BATCHES, n_components, N_GENES
    size, log_odds = rng.gamma(2, 0.5, shape), rng.normal(1, 1, shape)
    gate = rng.beta(1, 4, shape) if model.startswith("zi") else None
    weights = rng.dirichlet(np.full(n_components, 5.0))
    batch = np.arange(N_CELLS) % N_BATCHES
    component = rng.choice(n_components, N_CELLS, p=weights)
    nu = np.exp(rng.normal(-1.5, 0.8, N_CELLS)) if model.endswith("vcp") else np.ones(N_CELLS)
    odds = nu[:, None] * np.exp(log_odds[batch, component])
    counts = rng.poisson(rng.gamma(size[batch, component]) * odds)
    if gate is not None:
        counts[rng.uniform(size=counts.shape) < gate[batch, component]] = 0
    counts[0] = 0
    return Parameters(size, log_odds, gate, weights, np.zeros(N_CELLS)), counts, batch


def moved(parameters: Parameters, by: float, seed: int = 1) -> Parameters:
    rng = np.random.default_rng(seed)
    return parameters._replace(
        size=parameters.size * np.exp(by * rng.normal(size=parameters.size.shape)),
        log_odds=parameters.log_odds + by * rng.normal(size=parameters.size.shape),
        weights=rng.dirichlet(parameters.weights * 30),
    )


def log_pmf(parameters: Parameters, counts: np.ndarray, batch: int, k: int, log_nu: np.ndarray) -> np.ndarray:
    """Of the counts of one cell: ``(len(log_nu), n_genes)``, by scipy."""
    odds = np.exp(parameters.log_odds[batch, k] + np.asarray(log_nu)[:, None])
    value = stats.nbinom.logpmf(counts, parameters.size[batch, k], 1 / (1 + odds))
    if parameters.gate is None:
        return value
    gate = parameters.gate[batch, k]
    return np.where(counts == 0, np.log(gate + (1 - gate) * np.exp(value)), np.log1p(-gate) + value)


def brute(parameters: Parameters, counts: np.ndarray, batch: np.ndarray, log_prior, x=GRID) -> np.ndarray:
    """Log densities of cells by Simpson's rule; ``log_prior`` of ln nu, None without capture."""
    found = np.empty((len(counts), len(parameters.weights)))
    for c, k in np.ndindex(found.shape):
        if log_prior is None:
            found[c, k] = log_pmf(parameters, counts[c], batch[c], k, [0.0]).sum()
            continue
        joint = log_pmf(parameters, counts[c], batch[c], k, x).sum(1) + log_prior(x)
        weight = np.full(len(x), 2.0)
        weight[1::2], weight[[0, -1]] = 4, 1
        found[c, k] = logsumexp(joint, b=weight * (x[1] - x[0]) / 3)
    return logsumexp(found, axis=1, b=parameters.weights)


def normal(x):
    return stats.norm.logpdf(x, -1.5, 1)


CASES = [
    ("nbdm", 1, False, None, None),
    ("zinb", 2, False, None, None),
    ("nbvcp", 1, False, dist.LogNormal(-1.5, 1.0), normal),
    ("nbvcp", 2, True, dist.Normal(-1.5, 1.0), normal),
    ("zinbvcp", 2, False, dist.LogNormal(-1.5, 1.0), normal),
    ("zinbvcp", 1, False, dist.Gamma(2.0, 8.0), lambda x: stats.gamma.logpdf(np.exp(x), 2, scale=1 / 8) + x),
]


@pytest.mark.parametrize(("model", "n_components", "unconstrained", "prior", "log_prior"), CASES)
def test_density_of_cells(model, n_components, unconstrained, prior, log_prior):
    parameters, counts, batch = example(model, n_components)
    of = Model.of(ModelConfig(model, unconstrained=unconstrained, n_batches=N_BATCHES))
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    marginal = marginalise(of, {"nu": prior}, parameters, data, counts.sum(1).astype(float))
    expected = brute(parameters, counts, batch, log_prior)
    np.testing.assert_allclose(marginal.log_density(parameters), expected, atol=1e-4)
    # elsewhere: second order in ln nu of a ratio
    for by, atol in ((0.03, 4e-3), (0.1, 2e-2)):
        there = moved(parameters, by)
        change = brute(there, counts, batch, log_prior) - expected
        assert np.abs(change).max() > 10 * atol
        np.testing.assert_allclose(marginal.log_density(there) - marginal.log_density(parameters), change, atol=atol)


def test_density_where_nu_is_bounded():
    """A Beta prior: the integral is over logit nu, and cells may press against nu = 1."""
    parameters, counts, batch = example("nbvcp", 2)
    of = Model.of(ModelConfig("nbvcp", n_batches=N_BATCHES))
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    marginal = marginalise(of, {"nu": dist.Beta(1.0, 3.0)}, parameters, data, counts.sum(1).astype(float))
    z = np.linspace(-14, 16, 6001)
    jacobian = lambda z: np.log(expit(-z))

    def over_logit(parameters: Parameters) -> np.ndarray:
        x = -np.logaddexp(0, -z)
        found = np.empty((N_CELLS, 2))
        for c, k in np.ndindex(found.shape):
            prior = stats.beta.logpdf(expit(z), 1, 3) + x + jacobian(z)
            found[c, k] = logsumexp(log_pmf(parameters, counts[c], batch[c], k, x).sum(1) + prior) + np.log(z[1] - z[0])
        return logsumexp(found, axis=1, b=parameters.weights)

    np.testing.assert_allclose(marginal.log_density(parameters), over_logit(parameters), atol=5e-4)
    there = moved(parameters, 0.05)
    np.testing.assert_allclose(marginal.log_density(there), over_logit(there), atol=5e-3)


def test_hopeless_components_cost_nothing_and_change_nothing():
    parameters, counts, batch = example("nbvcp", 2)
    far = parameters.log_odds.copy()
    far[:, 1, : N_GENES // 2] -= 60
    parameters = parameters._replace(log_odds=far)
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    of, priors = Model.of(ModelConfig("nbvcp", n_batches=N_BATCHES)), {"nu": dist.LogNormal(-1.5, 1.0)}
    marginal = marginalise(of, priors, parameters, data, counts.sum(1).astype(float))
    assert len(marginal.parts[0].cells) == N_CELLS
    assert len(marginal.parts[1].cells) < N_CELLS / 2
    assert NEGLIGIBLE > 50
    np.testing.assert_allclose(marginal.log_density(parameters), brute(parameters, counts, batch, normal), atol=1e-5)


def test_population_of_nu():
    rng = np.random.default_rng(2)
    width = rng.uniform(0.02, 0.5, 5000)
    truth = rng.normal(-6.0, 0.3, 5000)
    seen = rng.normal(truth, width)
    wide = dist.LogNormal(-5.5, 1.0)
    scale = 1 / np.sqrt(1 / width**2 + 1)
    loc = scale**2 * (seen / width**2 - 5.5)
    found = population_of_nu({"nu": wide, "mu": 1}, loc, scale)
    assert found["mu"] == 1
    assert type(found["nu"]) is dist.LogNormal
    assert float(found["nu"].loc) == pytest.approx(-6.0, abs=0.02)
    assert float(found["nu"].scale) == pytest.approx(0.3, abs=0.02)


# --- genes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize(("model", "n_components"), [("nbdm", 1), ("zinbvcp", 1), ("nbvcp", 2), ("zinb", 2)])
def test_density_of_a_count_given_the_others(model, n_components, corrected, monkeypatch):
    parameters, counts, batch = example(model, n_components, seed=3)
    counts = np.tile(counts, (6, 1))  # many cells share a count: tables are used, and single values too
    batch = np.tile(batch, 6)
    monkeypatch.setattr("scbayes.models._gene_predictive.BLOCK", 50 * N_GENES)
    of = Model.of(ModelConfig(model, n_batches=N_BATCHES))
    priors = {"nu": dist.LogNormal(-1.5, 0.5)}
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    summary = data.summarise()
    marginal = marginalise(of, priors, parameters, data, counts.sum(1).astype(float))
    draws = [moved(parameters, 0.1, seed) for seed in range(20)]
    genes = Genes(marginal, parameters, draws, data, summary, corrected=corrected)
    assert (genes.slot < 0).any()
    found = np.full(counts.shape, np.nan)
    for cells, values in genes.blocks():
        found[cells] = values
    np.testing.assert_allclose(logsumexp(marginal.log_responsibilities, 1), 0, atol=1e-12)
    for c in range(0, N_CELLS, 3):
        inverse = []
        for k, part in enumerate(marginal.parts):
            at = np.flatnonzero(part.cells == c)
            if not len(at):
                continue
            mean, variance = (value[at] for value in part.log_nu)
            logs = np.stack([log_pmf(each, counts[c], batch[c], k, mean)[0] for each in draws])
            value = logsumexp(logs, 0) - np.log(20) - (logs.var(0, ddof=1) if corrected else 0)
            step = 1e-4
            low, mid, high = (log_pmf(parameters, counts[c], batch[c], k, mean + d)[0] for d in (-step, 0, step))
            slope, bend = (high - low) / (2 * step), (high - 2 * mid + low) / step**2
            value += variance * (bend - slope**2) / 2
            inverse.append(marginal.log_responsibilities[c, k] - value)
        np.testing.assert_allclose(found[c], -logsumexp(inverse, axis=0), atol=2e-5)


def test_second_order_in_nu_is_enough():
    """Against the exact density of a count given the others, by integration with and without it."""
    parameters, counts, batch = example("nbvcp", 1, seed=4)
    data = Counts(sparse.csr_array(counts.astype(float)), batch, N_BATCHES)
    marginal = marginalise(
        Model.of(ModelConfig("nbvcp", n_batches=N_BATCHES)),
        {"nu": dist.LogNormal(-1.5, 0.3)},
        parameters,
        data,
        counts.sum(1).astype(float),
    )
    genes = Genes(marginal, parameters, [parameters] * 2, data, data.summarise(), corrected=False)
    ((_, found),) = genes.blocks()
    prior = lambda x: stats.norm.logpdf(x, -1.5, 0.3)
    whole = brute(parameters, counts, batch, prior)
    for g in range(N_GENES):
        others = np.arange(N_GENES) != g
        without = brute(parameters.genes(others), counts[:, others], batch, prior)
        np.testing.assert_allclose(found[:, g], whole - without, rtol=0.04, atol=0.01)
        assert np.abs(found[:, g] - (whole - without)).mean() < 0.03


# --- of fits ----------------------------------------------------------------------------------------------------------

KEYS = ["plain", "gates", "still"]


def simulated(model: str, seed: int, n_cells: int = 300) -> ad.AnnData:
    return sb.datasets.simulate(
        model, n_cells=n_cells, n_genes=24, log_mean=(4, 0.7), p=0.97, gate=(6, 14), rng=seed, capture=(20, 80)
    )


def fitted(model: str, seed: int) -> ad.AnnData:
    adata = simulated(model, seed)
    for key, name in zip(KEYS, ("nbvcp", "zinbvcp", "zinb"), strict=True):
        sb.tl.fit(adata, name, parameterization="linked", key_added=key, progress=False)
    return adata


@pytest.fixture(scope="module")
def _gated() -> ad.AnnData:
    adata = fitted("zinbvcp", 1)
    sb.tl.compare(adata, KEYS, progress=False)
    return adata


@pytest.fixture
def gated(_gated) -> ad.AnnData:
    return _gated.copy()


def test_table(gated):
    table = sb.get.comparison(gated)
    assert list(table.index) == ["gates", *sorted(table.index[1:], key=lambda key: -table.loc[key, "elpd"])]
    assert table.index.name == "key"
    cells = sb.get.comparison(gated, by="cell")
    elpd = cells.pivot_table(index="cell", columns="key", values="elpd")
    np.testing.assert_allclose(elpd.sum()[table.index], table["elpd"], rtol=1e-12)
    np.testing.assert_allclose(elpd.std()[table.index] * np.sqrt(300), table["se"], rtol=1e-12)
    difference = elpd.sub(elpd["gates"], axis=0)
    np.testing.assert_allclose(difference.sum()[table.index], table["elpd_diff"], rtol=1e-9)
    np.testing.assert_allclose(difference.std()[table.index] * np.sqrt(300), table["diff_se"], rtol=1e-9)
    assert table["weight"].sum() == pytest.approx(1)
    assert table["weight"].idxmax() == "gates"
    assert (table["elpd_diff"] < -3 * table["diff_se"])[1:].all()
    # numbers of parameters: 25 and 49, of which some are hardly identified
    assert table["p_waic"].between(15, 60).all()
    np.testing.assert_allclose(table["p_loo"], table["p_waic"], rtol=0.1)
    np.testing.assert_allclose(table["elpd_waic"], table["elpd"], atol=5)
    limit = 1 - 1 / np.log10(100)
    high = (cells.assign(high=cells["pareto_k"] > limit)).groupby("key")["high"].sum()
    np.testing.assert_array_equal(high[table.index], table["n_high_k"])
    assert set(gated.uns) > {"sb_compare"}


def test_scores_by_hand(monkeypatch):
    from scbayes.tl._compare import _leave_one_out, _scores, _table

    rng = np.random.default_rng(0)
    log_density = rng.normal(-50, [[0.1]] * 30 + [[0.6]] * 30, (60, 400))
    found = _scores(log_density, _leave_one_out())
    lppd = np.log(np.mean(np.exp(log_density), 1))
    np.testing.assert_allclose(found["p_waic"], np.var(log_density, axis=1, ddof=1))
    np.testing.assert_allclose(found["elpd_waic"], lppd - found["p_waic"])
    raw = -np.log(np.mean(np.exp(-log_density), 1))  # importance sampling without smoothing
    np.testing.assert_allclose(found["elpd"][:30], raw[:30], atol=2e-3)
    np.testing.assert_allclose(found["elpd"], raw, atol=0.1)
    assert list(_scores(log_density, None)) == ["elpd"]
    np.testing.assert_allclose(_scores(log_density, None)["elpd"], lppd)
    other = dict(found, elpd=found["elpd"] - rng.normal(1, 1, 60))
    table = _table(["b", "a"], [other, found], 400)
    assert list(table.index) == ["a", "b"]
    difference = other["elpd"] - found["elpd"]
    assert table.loc["b", "diff_se"] == pytest.approx(np.std(difference, ddof=1) * np.sqrt(60))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(ImportError, match=r"scbayes\[compare\]"):
        _leave_one_out()


@pytest.mark.slow
def test_without_gates_nothing_is_gained():
    adata = fitted("nbvcp", 2)
    sb.tl.compare(adata, KEYS[:2], progress=False)
    table = sb.get.comparison(adata)
    worse = table.iloc[1]
    assert table.index[0] == "plain" or abs(worse["elpd_diff"]) < 2 * worse["diff_se"]
    assert abs(worse["elpd_diff"]) < 15
    z = sb.get.comparison(adata, by="gene")["z"]
    assert (np.abs(z) > 4).mean() < 0.1


def test_genes_with_gates_are_found(gated):
    genes = sb.get.comparison(gated, by="gene")
    assert list(genes.columns) == ["key", "gene", "elpd_diff", "se", "z"]
    assert len(genes) == 2 * 24
    plain = genes[genes["key"] == "plain"]
    assert list(plain["gene"]) == list(gated.var_names)
    assert (plain["z"] < -2).mean() > 0.6
    assert plain["elpd_diff"].sum() < -100
    np.testing.assert_allclose(genes["z"], genes["elpd_diff"] / genes["se"])


def test_new_cells(gated):
    """Held out: the standard error of the paired difference is that over repetitions."""
    runs = []
    truth = simulated("zinbvcp", 1, n_cells=1800)
    genes = ("mu", "r", "gate")
    assert all(np.allclose(truth.varm[name], gated.varm[name]) for name in genes)
    for first in range(300, 1800, 150):
        new = truth[first : first + 150].copy()
        new.obs_names = [f"new{i}" for i in range(150)]
        new.uns = {}
        sb.tl.compare(new, KEYS[:2], reference=gated, n_samples=25, by_gene=first == 300, progress=False)
        runs.append(sb.get.comparison(new).loc[KEYS[:2]])
        assert "sb_pareto_k" not in new.obsm
    difference = np.array([run.loc["plain", "elpd"] - run.loc["gates", "elpd"] for run in runs])
    error = np.array([run["diff_se"].max() for run in runs])
    assert (difference < 0).all()
    assert 0.5 < difference.std(ddof=1) / error.mean() < 1.7
    assert runs[0]["p_loo"].isna().all()
    per_cell = difference.mean() / 150
    home = sb.get.comparison(gated).loc["plain"]
    assert per_cell == pytest.approx(home["elpd_diff"] / 300, abs=3 * home["diff_se"] / 300)


def test_part_of_the_cells_copy_file_and_seed(gated, tmp_path):
    arguments = {"n_samples": 25, "n_cells": 100, "key_added": "part", "progress": False}
    copy = sb.tl.compare(gated, KEYS[:2], copy=True, **arguments)
    assert "part_compare" not in gated.uns
    sb.tl.compare(gated, KEYS[:2], **arguments)
    table = sb.get.comparison(gated, "part")
    pd.testing.assert_frame_equal(table, sb.get.comparison(copy, "part"))
    cells = sb.get.comparison(gated, "part", by="cell")
    assert len(cells) == 200
    assert np.isnan(gated.obsm["part_elpd"]).sum() == 2 * 200
    gated.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(table, sb.get.comparison(again, "part"), check_names=False)
    pd.testing.assert_frame_equal(cells, sb.get.comparison(again, "part", by="cell"), check_dtype=False)


def test_refused(gated):
    with pytest.raises(ValueError, match="two or more different fits"):
        sb.tl.compare(gated, ["plain"])
    with pytest.raises(ValueError, match="two or more different fits"):
        sb.tl.compare(gated, "plain")
    with pytest.raises(ValueError, match="at least 25"):
        sb.tl.compare(gated, KEYS, n_samples=3)
    with pytest.raises(ValueError, match="at least 2"):
        sb.tl.compare(gated, KEYS, n_cells=1)
    with pytest.raises(KeyError, match="no fit 'none'"):
        sb.tl.compare(gated, ["plain", "none"])
    with pytest.raises(ValueError, match="'model', 'gene' or 'cell'"):
        sb.get.comparison(gated, by="sample")
    with pytest.raises(KeyError, match="run sb"):
        sb.get.comparison(gated, "none")
    other = gated.X.copy()
    other.data[:50] += 1
    gated.layers["other"] = other
    sb.tl.fit(gated, "nbdm", layer="other", key_added="other", n_steps=1, progress=False)
    with pytest.raises(ValueError, match="same data"):
        sb.tl.compare(gated, ["plain", "other"], progress=False)
    gated.var["use"] = np.arange(24) < 20
    sb.tl.fit(gated, "nbdm", mask_var="use", key_added="gates", n_steps=1, progress=False)
    with pytest.raises(ValueError, match="is another than the one that was compared"):
        sb.get.comparison(gated)
    with pytest.raises(ValueError, match="same data"):
        sb.tl.compare(gated, ["plain", "gates"], progress=False)


@pytest.mark.slow
def test_mixtures_and_plain_fits():
    adata = sb.datasets.simulate("nbvcp_mix", n_components=2, n_cells=200, n_genes=30, log_mean=(4, 1), rng=4)
    for key, k in (("one", None), ("two", 2)):
        sb.tl.fit(adata, n_components=k, parameterization="linked", key_added=key, progress=False)
    sb.tl.compare(adata, ["one", "two"], progress=False, n_samples=50)
    table = sb.get.comparison(adata)
    assert table.index[0] == "two"
    assert table.loc["one", "elpd_diff"] < -4 * table.loc["one", "diff_se"]
    genes = sb.get.comparison(adata, by="gene")
    assert np.isfinite(genes[["elpd_diff", "se", "z"]]).all(axis=None)
    assert genes["elpd_diff"].sum() < 0


# --- the picture ------------------------------------------------------------------------------------------------------


def test_picture_of_models(gated):
    table = sb.get.comparison(gated)
    ax = sb.pl.compare(gated, show=False)
    points = ax.lines[1].get_xydata()
    np.testing.assert_allclose(points, np.stack([table["elpd_diff"], np.arange(3)], 1))
    (segments,) = (each for each in ax.collections if hasattr(each, "get_segments"))
    ends = np.array([[segment[0][0], segment[1][0]] for segment in segments.get_segments()])
    expected = table["elpd_diff"].to_numpy()[:, None] + 2 * table["diff_se"].to_numpy()[:, None] * [-1, 1]
    np.testing.assert_allclose(ends, expected)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table.index)
    assert [text.get_text() for text in ax.texts][:3] == [f"{weight:.2f}" for weight in table["weight"]]
    ax.figure.canvas.draw()


def test_picture_of_genes(gated):
    genes = sb.get.comparison(gated, by="gene")
    figure, axes = plt.subplots()
    assert sb.pl.compare(gated, by="gene", n_names=2, ax=axes) is axes
    drawn = np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections])
    assert sorted(map(tuple, drawn)) == sorted(zip(genes["elpd_diff"], genes["se"], strict=True))
    beyond = genes[genes["z"].abs() > 3]
    assert len(axes.texts) == 2
    assert {text.get_text() for text in axes.texts} <= set(beyond["gene"])
    figure.canvas.draw()
    with pytest.raises(ValueError, match="'model' or 'gene'"):
        sb.pl.compare(gated, by="cell")
