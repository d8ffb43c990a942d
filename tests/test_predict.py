"""Predictive data sets: their distribution, their sums, the bands, and the pictures."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import sparse, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models import _predictive
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells
from scbayes.models._predictive import bins_of, draw_components, observed, replicate


def parameters(*, n_batches=1, k=1, gate=False, capture=True, n_cells=300, seed=0) -> Parameters:
    """Six genes: rare, skewed, common, near-Poisson, large means, and one in between."""
    rng = np.random.default_rng(seed)
    shape = (n_batches, k, 6)
    size = np.array([0.5, 0.01, 1.5, 400.0, 5.0, 0.8]) * np.exp(rng.normal(0, 0.2, shape))
    mean = np.array([0.02, 0.6, 2.0, 3.0, 60.0, 0.3]) * np.exp(rng.normal(0, 0.5, shape))
    log_nu = rng.normal(0, 0.6, n_cells) if capture else np.zeros(n_cells)
    weights = np.ones(1) if k == 1 else np.array([0.3, 0.7])
    return Parameters(size, np.log(mean / size), rng.uniform(0.1, 0.5, shape) if gate else None, weights, log_nu)


CASES = {
    "nbvcp": {},
    "zinbvcp": {"gate": True},
    "nbdm": {"capture": False},
    "zinb": {"gate": True, "capture": False},
    "batches": {"n_batches": 2},
    "mixture": {"k": 2, "gate": True, "n_batches": 2},
}


def labels(par: Parameters, seed=1) -> tuple[np.ndarray, np.ndarray]:
    """Batch and component of each cell."""
    rng, n = np.random.default_rng(seed), len(par.log_nu)
    return rng.integers(par.size.shape[0], size=n), rng.integers(par.n_components, size=n)


def moments(par: Parameters, batch, component) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and probability of a zero of every count, (n_cells, n_genes), from SciPy."""
    size, odds = par.size[batch, component], np.exp(par.log_odds[batch, component] + par.log_nu[:, None])
    gate = np.zeros_like(size) if par.gate is None else par.gate[batch, component]
    law = stats.nbinom(size, 1 / (1 + odds))
    mean = (1 - gate) * law.mean()
    square = (1 - gate) * (law.var() + law.mean() ** 2)
    return mean, square - mean**2, gate + (1 - gate) * law.pmf(0)


def many(par, batch, component, n, seed=2, keep=None):
    rng = np.random.default_rng(seed)
    return [replicate(par, batch, component, rng, keep) for _ in range(n)]


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_the_model(case):
    par = parameters(**CASES[case])
    batch, component = labels(par)
    mean, variance, zero = moments(par, batch, component)
    n = 600
    drawn = many(par, batch, component, n)
    total = np.stack([one.total for one in drawn])
    z = (total.mean(0) - mean.sum(0)) / np.sqrt(variance.sum(0) / n)
    assert np.abs(z).max() < 4, z
    square = np.stack([one.square for one in drawn])
    z = (square.mean(0) - (variance + mean**2).sum(0)) / (square.std(0) / np.sqrt(n))
    assert np.abs(z).max() < 4.5, z
    positive = np.stack([one.positive for one in drawn])
    z = (positive.mean(0) - (1 - zero).sum(0)) / np.sqrt((zero * (1 - zero)).sum(0) / n)
    assert np.abs(z).max() < 4, z
    cell_total, detected = (np.stack([getattr(one, f"cell_{name}") for one in drawn]) for name in ("total", "detected"))
    assert np.abs((cell_total.mean(0) - mean.sum(1)) / np.sqrt(variance.sum(1) / n)).max() < 5
    assert np.abs((detected.mean(0) - (1 - zero).sum(1)) / np.sqrt((zero * (1 - zero)).sum(1) / n)).max() < 5
    # spread over replicates, not only their mean
    np.testing.assert_allclose(total.var(0)[[2, 3, 4, 5]], variance.sum(0)[[2, 3, 4, 5]], rtol=0.25)


@pytest.mark.parametrize("case", ["nbvcp", "zinb", "mixture"])
def test_every_count_has_its_distribution(case):
    """Uniform randomised quantiles, count by count, against SciPy's cumulative probabilities."""
    par = parameters(**CASES[case])
    batch, component = labels(par)
    drawn = np.stack([one.kept.toarray() for one in many(par, batch, component, 200, keep=np.arange(6))])  # (S, G, C)
    size, odds = par.size[batch, component], np.exp(par.log_odds[batch, component] + par.log_nu[:, None])
    gate = np.zeros_like(size) if par.gate is None else par.gate[batch, component]
    law = stats.nbinom(size.T, 1 / (1 + odds.T))
    below = np.where(drawn > 0, gate.T + (1 - gate.T) * law.cdf(drawn - 1), 0)
    above = gate.T + (1 - gate.T) * law.cdf(drawn)
    u = below + np.random.default_rng(0).random(drawn.shape) * (above - below)
    for g in range(6):
        assert stats.kstest(u[:, g].ravel(), "uniform").pvalue > 1e-4, g
        # and of cells with little and with much capture alone
        for cells in np.array_split(np.argsort(par.log_nu), 3):
            assert stats.kstest(u[:, g, cells].ravel(), "uniform").pvalue > 1e-4, g


def test_tail_beyond_the_tables(monkeypatch):
    """Tables are a shortcut: with tables of one entry, or bins of one cell, the same distribution."""
    par = parameters(n_cells=400)
    batch, component = labels(par)
    odds = np.exp(par.log_odds[0, 0] + par.log_nu[:, None])
    above_one = stats.nbinom.sf(1, par.size[0, 0], 1 / (1 + odds))
    monkeypatch.setattr(_predictive, "FEWEST", 1)
    monkeypatch.setattr(_predictive, "WIDTH", 1.0)
    drawn = many(par, batch, component, 150, keep=np.arange(6))
    seen = sum((one.kept > 1).sum(1) for one in drawn)
    expected = 150 * above_one.sum(0)
    assert np.abs((seen - expected) / np.sqrt(150 * (above_one * (1 - above_one)).sum(0) + 1e-9)).max() < 4


def test_sums_are_of_the_counts():
    par = parameters(gate=True)
    batch, component = labels(par)
    one = replicate(par, batch, component, np.random.default_rng(3), np.arange(6))
    dense = one.kept.toarray()
    np.testing.assert_array_equal(one.total, dense.sum(1))
    np.testing.assert_array_equal(one.square, (dense.astype(float) ** 2).sum(1))
    np.testing.assert_array_equal(one.positive, (dense > 0).sum(1))
    np.testing.assert_array_equal(one.cell_total, dense.sum(0))
    np.testing.assert_array_equal(one.cell_detected, (dense > 0).sum(0))
    np.testing.assert_allclose(one.of_genes, [dense.mean(1), dense.var(1, ddof=1), (dense == 0).mean(1)], rtol=1e-12)


def test_what_is_kept_does_not_change_what_is_drawn(monkeypatch):
    par = parameters()
    batch, component = labels(par)
    plain, some, other = (many(par, batch, component, 1, keep=keep)[0] for keep in (None, [1, 4], [0, 1, 2, 3, 4, 5]))
    monkeypatch.setattr(_predictive, "BLOCK", 1)  # a gene at a time
    blocks = many(par, batch, component, 1, keep=[1, 4])[0]
    for one in (some, other, blocks):
        np.testing.assert_array_equal(one.total, plain.total)
        np.testing.assert_array_equal(one.cell_total, plain.cell_total)
    assert plain.kept.shape == (0, 300)
    np.testing.assert_array_equal(some.kept.toarray(), other.kept.toarray()[[1, 4]])
    np.testing.assert_array_equal(some.kept.toarray(), blocks.kept.toarray())


def test_extreme_parameters():
    """Genes without counts, certain gates, sizes and odds at the ends of the range."""
    size = np.array([1e-8, 1e8, 1e-3, 1.0, 1.0, 1.0])[None, None]
    log_odds = np.array([0.0, np.log(1e-8), 8.0, -800.0, 3.0, 30.0])[None, None]
    gate = np.array([0.0, 0, 0, 0, 1, 0])[None, None]
    par = Parameters(size, log_odds, gate, np.ones(1), np.random.default_rng(0).normal(-1, 1, 2000))
    zeros = np.zeros(2000, int)
    one = replicate(par, zeros, zeros, np.random.default_rng(1), np.arange(6))
    assert one.positive[[3, 4]].tolist() == [0, 0]
    assert one.positive[0] <= 1
    assert abs(one.total[1] - np.exp(par.log_nu).sum()) < 5 * np.sqrt(np.exp(par.log_nu).sum())
    assert one.kept.data.min() > 0
    assert one.total[5] > 1e12  # counts that are kept end at the largest int32
    assert one.kept.data.max() == 2**31 - 1
    assert np.isfinite(one.of_genes).all()


def test_bins_cover_each_cell_once():
    rng = np.random.default_rng(0)
    group, nu = rng.integers(3, size=5000), np.exp(rng.normal(0, 1, 5000))
    bins = bins_of(group, nu)
    assert sorted(bins.order) == list(range(5000))
    np.testing.assert_array_equal(nu[bins.order], bins.nu)
    for b, (start, stop) in enumerate(zip(bins.first[:-1], bins.first[1:], strict=True)):
        assert stop > start
        assert set(group[bins.order[start:stop]]) == {bins.group[b]}
        assert (np.diff(bins.nu[start:stop]) >= 0).all()
        if stop - start > _predictive.FEWEST:
            assert bins.nu[stop - 1] <= _predictive.WIDTH * max(bins.nu[start], bins.nu[start + _predictive.FEWEST - 1])


def test_components_follow_their_probabilities():
    log_p = np.log([[0.2, 0.5, 0.3], [1.0, 1e-300, 1e-300]])
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_components(log_p, rng) for _ in range(4000)])
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=3), 4000 * np.exp(log_p[0])).pvalue > 1e-3
    assert set(drawn[:, 1]) == {0}


def test_observed_sums():
    rng = np.random.default_rng(0)
    x = rng.poisson(0.4, (40, 7)).astype(np.float32)
    found = observed(Counts(sparse.csr_matrix(x)), 6, np.array([1, 5]))  # the last one is pooled
    own = x[:, :6]
    np.testing.assert_allclose(found.of_genes, [own.mean(0), own.var(0, ddof=1), (own == 0).mean(0)], rtol=1e-6)
    np.testing.assert_array_equal(found.of_cells, [own.sum(1), (own > 0).sum(1)])
    np.testing.assert_array_equal(found.kept.toarray(), own[:, [1, 5]].T)


# --- the verb ---------------------------------------------------------------------------------------------------------


def simulated(seed: int, **kwargs) -> ad.AnnData:
    settings = {"n_cells": 300, "n_genes": 60, "log_mean": (3, 1.3), "parameterization": "mean_disp"} | kwargs
    return sb.datasets.simulate("nbvcp", **settings, rng=seed)


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    adata = simulated(0)
    sb.tl.fit(adata, progress=False)
    return adata


@pytest.fixture
def adata(fitted) -> ad.AnnData:
    return fitted.copy()


@pytest.fixture(scope="module")
def predicted(fitted) -> ad.AnnData:
    adata = fitted.copy()
    sb.tl.predict(adata, n_samples=200, genes=["gene7", "gene3"], store_counts=True, progress=False)
    return adata


def test_observed_statistics_are_those_of_the_counts(predicted):
    dense = predicted.X.toarray().astype(float)
    expected = {"mean": dense.mean(0), "variance": dense.var(0, ddof=1), "zeros": (dense == 0).mean(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(predicted.varm[f"sb_predicted_{name}"]["observed"], value, rtol=1e-10)
    np.testing.assert_array_equal(predicted.obsm["sb_predicted_total"]["observed"], dense.sum(1))
    np.testing.assert_array_equal(predicted.obsm["sb_predicted_detected"]["observed"], (dense > 0).sum(1))


def test_predictions_are_those_of_the_draws(predicted):
    """Means over replicates against the exact expectation under each draw of the parameters."""
    fit = sb.get.fit(predicted)
    zeros = np.zeros(predicted.n_obs, int)
    exact = [moments(draw.parameters, zeros, zeros) for draw in fit.draws(60, np.random.default_rng(5))]
    mean, zero = (np.stack([one[i] for one in exact]) for i in (0, 2))
    table = predicted.varm["sb_predicted_mean"]
    spread = np.sqrt(sum(one[1].sum(0) for one in exact)) / len(zeros) / 60 + mean.mean(1).std(0) * np.sqrt(2 / 60)
    assert (np.abs(table["mean"] - mean.mean((0, 1))) < 5 * spread).all()
    share = predicted.varm["sb_predicted_zeros"]
    assert np.abs(share["mean"] - zero.mean((0, 1))).max() < 0.02
    total = predicted.obsm["sb_predicted_total"]["mean"]
    assert np.abs(total / mean.mean(0).sum(1) - 1).mean() < 0.03


def test_bands_are_quantiles_of_the_stored_counts(predicted):
    counts = sb.get.predictive(predicted, what="counts")
    assert list(counts) == ["gene7", "gene3"]
    seen = predicted[:, "gene7"].X.toarray()[:, 0]
    drawn = counts["gene7"].toarray()
    assert drawn.shape == (200, 300)
    for name, value, truth in [
        ("mean", drawn.mean(1), seen.mean()),
        ("variance", drawn.var(1, ddof=1), seen.var(ddof=1)),
        ("zeros", (drawn == 0).mean(1), (seen == 0).mean()),
    ]:
        row = predicted.varm[f"sb_predicted_{name}"].loc["gene7"]
        np.testing.assert_allclose(row["mean"], value.mean(), rtol=1e-9)
        np.testing.assert_allclose(row[["q0.05", "q0.5", "q0.95"]], np.quantile(value, [0.05, 0.5, 0.95]), rtol=1e-9)
        np.testing.assert_allclose(row["observed"], truth, rtol=1e-5)
        value, truth = np.round(value, 9), np.round(row["observed"], 9)
        assert row["rank"] == pytest.approx(np.mean(value < truth) + 0.5 * np.mean(value == truth))
    bars = sb.get.predictive(predicted, what="histogram")
    bars = bars[bars["gene"] == "gene7"]
    for u, row in zip(range(3), bars.itertuples(), strict=False):
        assert (row.low, row.high) == (u, u)
        assert row.observed == (seen == u).sum()
        assert row.mean == pytest.approx((drawn == u).sum(1).mean())
    assert bars["observed"].sum() == 300
    assert bars["mean"].sum() == pytest.approx(300)
    last = bars.iloc[-1]
    assert last["mean"] == pytest.approx((drawn >= last["low"]).sum(1).mean())


def test_wide_counts_share_bars(adata, monkeypatch):
    monkeypatch.setattr("scbayes.tl._predicted_tables.BARS", 4)
    name = adata.var_names[np.argmax(adata.X.max(0).toarray())]
    sb.tl.predict(adata, n_samples=20, genes=name, progress=False)
    bars, seen = sb.get.predictive(adata, what="histogram"), adata[:, name].X.toarray()[:, 0]
    assert 3 <= len(bars) <= 5
    assert bars["high"][0] > 1
    assert bars["observed"].sum() == 300
    assert (bars["low"].iloc[1:].to_numpy() == bars["high"].iloc[:-1].to_numpy() + 1).all()
    for row in bars.itertuples():
        assert row.observed == ((seen >= row.low) & (seen <= row.high)).sum()


def test_tidy_tables(predicted):
    genes = sb.get.predictive(predicted)
    assert list(genes) == ["gene", "statistic", "observed", "mean", "q0.05", "q0.5", "q0.95", "rank"]
    assert len(genes) == 3 * 60
    row = genes[(genes["gene"] == "gene9") & (genes["statistic"] == "zeros")].iloc[0]
    assert row["q0.5"] == predicted.varm["sb_predicted_zeros"].loc["gene9", "q0.5"]
    cells = sb.get.predictive(predicted, what="cells")
    assert len(cells) == 2 * 300
    assert set(cells["statistic"]) == {"total", "detected"}
    part = predicted[:, ["gene3", "gene9"]].copy()
    assert set(sb.get.predictive(part)["gene"]) == {"gene3", "gene9"}
    assert set(sb.get.predictive(part, what="histogram")["gene"]) == {"gene3"}
    assert sb.get.predictive(predicted[:50].copy(), what="counts")["gene3"].shape == (200, 50)


def test_seeds_and_copies(adata):
    def table(**kwargs) -> pd.DataFrame:
        return sb.get.predictive(sb.tl.predict(adata, n_samples=5, progress=False, copy=True, **kwargs))

    one = table()
    assert "sb_predict" not in adata.uns
    pd.testing.assert_frame_equal(one, table())
    pd.testing.assert_frame_equal(one, table(rng=np.random.default_rng(0), genes=["gene3"]))
    assert not one["mean"].equals(table(rng=1)["mean"])
    sb.tl.predict(adata, n_samples=2, quantiles=(0.1, 0.9), key_added="other", progress=False)
    assert list(sb.get.predictive(adata, "other"))[-3:] == ["q0.1", "q0.9", "rank"]
    assert "other_predicted_mean" in adata.varm
    sb.tl.remove(adata)
    assert not [name for name in adata.varm if "predicted" in name]


def test_after_reload(predicted, tmp_path):
    predicted.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for what in ("genes", "cells", "histogram"):
        pd.testing.assert_frame_equal(sb.get.predictive(again, what=what), sb.get.predictive(predicted, what=what))
    one, other = (sb.get.predictive(data, what="counts")["gene3"] for data in (again, predicted))
    assert (one != other).nnz == 0


@pytest.fixture(scope="module")
def everything() -> ad.AnnData:
    """Excess zeros, capture, two batches, and genes that are pooled."""
    settings = {"n_cells": 200, "n_genes": 30, "log_mean": (3, 1), "gate": (20, 30), "n_batches": 2}
    adata = sb.datasets.simulate("zinbvcp", **settings, rng=1)
    adata.var["own"] = np.arange(30) % 3 > 0
    sb.tl.fit(adata, model="zinbvcp", mask_var="own", batch_key="batch", progress=False)
    return adata


def expected(adata: ad.AnnData, *, biological: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fit = sb.get.fit(adata)
    par = fit.centre().parameters.genes(slice(0, int(fit.fitted.sum())))
    par = par._replace(gate=None, log_nu=np.zeros(adata.n_obs)) if biological else par
    return moments(par, fit.batch, np.zeros(adata.n_obs, int))


@pytest.mark.parametrize("biological", [False, True])
def test_gates_batches_and_pooled_genes(everything, biological):
    adata = everything.copy()
    sb.tl.predict(adata, n_samples=80, use="centre", biological=biological, progress=False)
    own = adata.var["own"].to_numpy()
    table = adata.varm["sb_predicted_mean"]
    assert table.loc[~own].isna().to_numpy().all()
    assert set(sb.get.predictive(adata)["gene"]) == set(adata.var_names[own])
    mean, variance, zero = expected(adata, biological=biological)
    assert (np.abs(table["mean"][own] - mean.mean(0)) < 5 * np.sqrt(variance.mean(0) / 200 / 80)).all()
    assert np.abs(adata.varm["sb_predicted_zeros"]["mean"][own] - zero.mean(0)).max() < 0.02
    total = adata.obsm["sb_predicted_total"]
    assert np.abs((total["mean"] - mean.sum(1)) / np.sqrt(variance.sum(1) / 80)).max() < 5
    if biological:
        assert list(table) == ["mean", "q0.05", "q0.5", "q0.95"]
        with pytest.raises(ValueError, match="biological=True"):
            sb.pl.ppc(adata)
    else:
        np.testing.assert_array_equal(total["observed"], adata.X.toarray()[:, own].sum(1))


def test_new_cells(fitted):
    adata, new = fitted.copy(), simulated(0, n_cells=600)[300:, 5:].copy()
    sb.tl.predict(new, reference=adata, n_samples=20, progress=False)
    table = new.obsm["sb_predicted_total"]
    assert stats.spearmanr(table["mean"], table["observed"]).statistic > 0.8
    np.testing.assert_allclose(table["mean"].sum(), table["observed"].sum(), rtol=0.1)
    assert set(sb.get.predictive(new)["gene"]) == set(new.var_names)
    assert "sb" not in new.uns


def test_cells_of_a_mixture_stay_in_their_components():
    settings = {"n_cells": 200, "n_genes": 40, "log_mean": (3, 1), "component_lfc": (0.5, 1.5)}
    adata = sb.datasets.simulate("nbvcp_mix", n_components=2, **settings, rng=0)
    sb.tl.fit(adata, n_components=2, progress=False)
    sb.tl.predict(adata, n_samples=100, use="centre", genes="gene3", progress=False)
    par = sb.get.fit(adata).centre().parameters
    assert par.n_components == 2
    zeros = np.zeros(200, int)
    share = np.exp(log_responsibilities(score_cells(par, Counts(adata.X)).value, par.weights))
    by_component = [moments(par, zeros, zeros + k) for k in range(2)]
    mean = sum(share[:, [k]] * by_component[k][0] for k in range(2))
    square = sum(share[:, [k]] * (by_component[k][1] + by_component[k][0] ** 2) for k in range(2))
    zero = sum(share[:, [k]] * by_component[k][2] for k in range(2))
    error = np.sqrt((square - mean**2).mean(0) / 200 / 100)
    assert (np.abs(adata.varm["sb_predicted_mean"]["mean"] - mean.mean(0)) < 5 * error).all()
    assert np.abs(adata.varm["sb_predicted_zeros"]["mean"] - zero.mean(0)).max() < 0.02
    total = adata.obsm["sb_predicted_total"]["mean"]
    assert np.abs(np.log(total / mean.sum(1))).max() < 0.3
    sb.tl.predict(new := adata[:50, 2:].copy(), reference=adata, n_samples=3, progress=False)
    assert len(sb.get.predictive(new)) == 3 * 38


def test_components_of_cells_follow_their_responsibilities():
    """A mixture by hand: cells whose counts say what they are get replicates of that component."""
    par = parameters(k=2, n_cells=60)
    par = par._replace(log_odds=par.log_odds + np.array([0, 3.0])[:, None])
    truth = np.arange(60) % 2
    one = replicate(par, np.zeros(60, int), truth, np.random.default_rng(0), np.arange(6))
    counts = Counts(sparse.csr_matrix(one.kept.T))
    log_probability = log_responsibilities(score_cells(par, counts).value, par.weights)
    rng = np.random.default_rng(1)
    drawn = np.mean([draw_components(log_probability, rng) for _ in range(500)], 0)
    np.testing.assert_allclose(drawn, np.exp(log_probability[:, 1]), atol=0.1)


def test_what_is_refused(adata):
    for message, kwargs in {
        "n_samples": {"n_samples": 0},
        "use": {"use": "mean"},
        "quantiles": {"quantiles": (0.9, 0.1)},
        "store_counts": {"store_counts": True},
    }.items():
        with pytest.raises(ValueError, match=message):
            sb.tl.predict(adata, progress=False, **kwargs)
    with pytest.raises(KeyError, match="nothing"):
        sb.tl.predict(adata, genes=["gene1", "nothing"], progress=False)
    with pytest.raises(ValueError, match="GB"):
        sb.tl.predict(adata, genes=["gene7"], n_samples=10**8, store_counts=True, progress=False)
    with pytest.raises(KeyError, match="predict"):
        sb.get.predictive(adata)
    sb.tl.predict(adata, n_samples=2, progress=False)
    with pytest.raises(KeyError, match="genes="):
        sb.get.predictive(adata, what="histogram")
    with pytest.raises(ValueError, match="what="):
        sb.get.predictive(adata, what="gene")


def test_bands_hold_new_data_and_more_of_the_data_fitted():
    """Counts drawn twice from one truth: fitted to the first, the bands are right for the second."""
    adata = simulated(7, n_cells=500, n_genes=300)
    rate = np.random.default_rng(8).standard_gamma(np.broadcast_to(adata.varm["r"].T, adata.shape))
    scale = adata.obs["nu"].to_numpy()[:, None] * (adata.varm["mu"] / adata.varm["r"]).T
    second = np.random.default_rng(9).poisson(rate * scale)
    sb.tl.fit(adata, progress=False)
    sb.tl.predict(adata, n_samples=200, progress=False)
    new = {"mean": second.mean(0), "variance": second.var(0, ddof=1), "zeros": (second == 0).mean(0)}
    for name, value in new.items():
        table = adata.varm[f"sb_predicted_{name}"]
        table = table[(second.sum(0) >= 50) & (table["observed"] * 500 >= 50)]
        value = value[adata.var_names.get_indexer(table.index)]
        fresh = ((value >= table["q0.05"]) & (value <= table["q0.95"])).mean()
        own = ((table["observed"] >= table["q0.05"]) & (table["observed"] <= table["q0.95"])).mean()
        assert 0.84 <= fresh <= 0.96, (name, fresh)
        assert own >= fresh, (name, own)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_picture_of_all_genes(predicted):
    ax = sb.pl.ppc(predicted, kind="variance", show=False)
    table = sb.get.predictive(predicted)
    table = table[table["statistic"] == "variance"].set_index("gene")
    inside, outside = (line.get_xydata() for line in ax.get_lines())
    out = (table["observed"] < table["q0.05"]) | (table["observed"] > table["q0.95"])
    mean = predicted.X.toarray().mean(0)
    for points, rows in ((inside, table[~out]), (outside, table[out])):
        np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(rows["observed"]))
        x = mean[predicted.var_names.get_indexer(rows.index)]
        np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(x), rtol=1e-6)
    (bands,) = ax.collections
    ends = np.stack(bands.get_segments())
    assert ends.shape == (60, 2, 2)
    np.testing.assert_allclose(np.sort(ends[:, 1, 1]), np.sort(table["q0.95"]))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "90% predicted"
    assert f"{out.sum()} of 60 genes" in labels[2]
    assert "mean" in ax.get_xlabel()
    assert ax.get_ylabel() == "variance"


def test_picture_of_one_gene(predicted):
    ax = sb.pl.ppc(predicted, genes="gene7", show=False)
    bars = sb.get.predictive(predicted, what="histogram")
    bars = bars[bars["gene"] == "gene7"]
    values = ax.patches[0].get_data()[0]
    np.testing.assert_array_equal(values, bars["observed"][: len(values)])
    assert values.sum() == 300
    ends = np.stack(ax.collections[0].get_segments())
    np.testing.assert_allclose(ends[:, 0, 1], bars["q0.05"][: len(ends)])
    np.testing.assert_allclose(ends[:, 1, 1], bars["q0.95"][: len(ends)])
    assert ax.get_title() == "gene7"


def test_panels_and_axes(predicted):
    axes = sb.pl.ppc(predicted, show=False)
    assert [ax.get_ylabel() for ax in axes] == ["variance", "share of zeros"]
    assert len(sb.pl.ppc(predicted, kind=["mean", "total", "detected"], show=False)) == 3
    assert [ax.get_title() for ax in sb.pl.ppc(predicted, genes=["gene3", "gene7"], show=False)] == ["gene3", "gene7"]
    figure, given = plt.subplots(1, 2)
    assert list(sb.pl.ppc(predicted, ax=given)) == list(given)
    assert sb.pl.ppc(predicted, kind="zeros", ax=given[0]) is given[0]
    figure.canvas.draw()
    for error, kwargs in [
        (ValueError, {"kind": "skewness"}),
        (ValueError, {"kind": []}),
        (KeyError, {"genes": "gene1"}),
        (ValueError, {"ax": given[0]}),
    ]:
        with pytest.raises(error):
            sb.pl.ppc(predicted, **kwargs)
