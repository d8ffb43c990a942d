"""Are intervals as wide as they say: bands for ECDFs of ranks, simulation-based calibration, and `sb.tl.calibrate`."""

import importlib.util
import itertools
import sys
from pathlib import Path

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.infer import Predictive
from scipy import stats

import scbayes as sb
from scbayes.models import Model, ModelConfig
from scbayes.models._model import Inputs
from scbayes.models._posterior import Posterior
from scbayes.stats._coverage import pooled_share
from scbayes.stats._ecdf_bands import ecdf_bands, judge_ranks
from scbayes.tl import _refits

BENCHMARKS = Path(__file__).parent / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sbc():
    yield load("_sbc")
    del sys.modules["_sbc"]


# --- bands ------------------------------------------------------------------------------------------------------------


def test_probability_of_bands_is_that_of_all_samples():
    """Every way in which four numbers can fall between three points."""
    n, points = 4, np.array([0.2, 0.5, 0.6])
    gaps = np.diff([0, *points, 1])
    for level in (0.5, 0.8, 0.95):
        low, high = ecdf_bands(n, points, level)
        inside = 0.0
        for parts in itertools.product(range(n + 1), repeat=4):
            if sum(parts) == n:
                difference = np.cumsum(parts)[:-1] / n - points
                if np.all((difference >= low - 1e-12) & (difference <= high + 1e-12)):
                    inside += stats.multinomial.pmf(parts, n, gaps)
        assert level <= inside < 1
        assert np.all(low <= 0), level


@pytest.mark.parametrize("level", [0.5, 0.99])
def test_bands_hold_uniform_numbers_as_often_as_they_say(level):
    rng = np.random.default_rng(0)
    points = np.arange(1, 50) / 50
    low, high = ecdf_bands(200, points, level)
    x = np.sort(rng.random((4000, 200)), 1)
    difference = np.stack([(x < point).mean(1) for point in points], 1) - points
    inside = np.mean(np.all((difference >= low - 1e-9) & (difference <= high + 1e-9), 1))
    assert abs(inside - level) < 4 * np.sqrt(level * (1 - level) / 4000) + 0.01


def test_p_values_of_uniform_ranks_and_bands_agree():
    rng = np.random.default_rng(1)
    p, inside = [], []
    low, high = ecdf_bands(60, judge_ranks(np.arange(60), 99).points, 0.9)
    for _ in range(300):
        verdict = judge_ranks(rng.integers(0, 100, 60), 99)
        p.append(verdict.p)
        inside.append(np.all((verdict.difference >= low - 1e-9) & (verdict.difference <= high + 1e-9)))
    assert np.array_equal(np.array(p) >= 0.1, inside)
    for level in (0.1, 0.5):
        assert np.mean(np.array(p) < level) < level + 3 * np.sqrt(level * (1 - level) / 300)
        assert np.mean(np.array(p) < level) > 0.4 * level


@pytest.mark.parametrize("wrong", ["wide", "narrow", "shifted"])
def test_ranks_of_wrong_posteriors_leave_the_bands(wrong):
    rng = np.random.default_rng(2)
    shift, scale = {"wide": (0, 1.5), "narrow": (0, 0.7), "shifted": (0.4, 1)}[wrong]
    truth, draws = rng.standard_normal(200), rng.normal(shift, scale, (200, 199))
    assert judge_ranks((draws < truth[:, None]).sum(1), 199).p < 0.01
    draws = rng.standard_normal((200, 199))
    assert judge_ranks((draws < truth[:, None]).sum(1), 199).p > 0.01


def test_shares_of_independent_data_sets_have_wilsons_interval():
    hits = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1])
    share = pooled_share(hits, np.ones(12))
    expected = stats.binomtest(9, 12).proportion_ci(0.95, method="wilson")
    # the scatter of single trials is the binomial one, but for S / (S - 1)
    assert share.value == 0.75
    assert share[1:] == pytest.approx((expected.low, expected.high), abs=0.015)
    assert pooled_share(np.full(5, 40), np.full(5, 40))[::2] == (1, 1)


def test_shares_of_data_sets_that_share_errors_have_wider_intervals():
    rng = np.random.default_rng(3)
    held, naive = [], []
    for _ in range(500):
        rate = rng.beta(9, 1, 20)
        hits = rng.binomial(100, rate)
        share = pooled_share(hits, np.full(20, 100))
        held.append(share.low <= 0.9 <= share.high)
        ci = stats.binomtest(int(hits.sum()), 2000).proportion_ci(0.95, method="wilson")
        naive.append(ci.low <= 0.9 <= ci.high)
    assert 0.9 < np.mean(held) < 0.98
    assert np.mean(naive) < 0.6


# --- simulation-based calibration -------------------------------------------------------------------------------------

MODELS = [
    (model, coordinates) for model in ("nbdm", "zinb", "nbvcp", "zinbvcp") for coordinates in ("mean_disp", "standard")
]


@pytest.mark.parametrize(("model", "parameterization", "k"), [*[(*m, 1) for m in MODELS], ("nbvcp", "mean_disp", 2)])
def test_formulas_and_program_draw_the_same_counts(sbc, model, parameterization, k):
    """NumPy from the formulas of the documentation, against the NumPyro program that is fitted."""
    design = sbc.Design(model, parameterization, "shallow", k, 12, 10)
    priors = sbc.as_distributions(design.priors())
    config = ModelConfig(model, parameterization, n_components=k)
    shape = (k, 10, 1) if k > 1 else (10, 1)
    start = Posterior(*[jnp.zeros(0)] * len(Posterior._fields))._replace(gene_loc=jnp.zeros(shape))
    inputs = Inputs(None, priors, jnp.asarray(np.log(sbc.TOTAL_MRNA)), jnp.zeros(12, int), start)
    with jax.enable_x64(True):
        theirs = np.asarray(Predictive(Model.of(config).program, num_samples=400)(jax.random.key(0), inputs)["counts"])
    rng = np.random.default_rng(0)
    ours = np.stack([sbc.draw(design, rng)[0] for _ in range(400)])
    for name, of in {
        "total of a cell": lambda x: x[:, 0].sum(-1),
        "zeros of a cell": lambda x: (x[:, 1] == 0).sum(-1),
        "total of a gene": lambda x: x[:, :, 0].sum(-1),
        "zeros of a gene": lambda x: (x[:, :, 1] == 0).sum(-1),
        "variance over mean of a gene": lambda x: x[:, :, 2].var(-1) / (x[:, :, 2].mean(-1) + 0.1),
        "cells that are alike": lambda x: np.abs(x[:, 2] - x[:, 3]).sum(-1),
    }.items():
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3, name


def pooled(records: list[dict], name: str) -> float:
    """Coverage of 90% intervals over all values of all data sets."""
    held = np.sum([np.sum(list(record["held"][name].values()), 0) for record in records], 0)
    return held[2] / held[0]


def smallest_p(records: list[dict], name: str, n_draws: int) -> float:
    strata = records[0]["ranks"][name]
    return min(judge_ranks(np.array([r["ranks"][name][s] for r in records]), n_draws).p for s in strata)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parameterization"), [("nbdm", "standard"), ("nbvcp", "mean_disp"), ("zinb", "mean_disp")]
)
def test_posteriors_are_calibrated(sbc, model, parameterization):
    """Parameters from the priors that the fit is given; and posteriors that are too narrow are found."""
    design = sbc.Design(model, parameterization, "typical", 1, 120, 40)
    simulations = [sbc.simulate(design, seed) for seed in range(40)]
    records = [sbc.judge(simulation) for simulation in simulations]
    assert all(record["converged"] for record in records)
    names = [name for name in records[0]["ranks"] if name not in ("mean total", "sum r")]
    for name in names:
        scalar = list(records[0]["ranks"][name]) == ["all"]
        low, high = (0.7, 1) if scalar else (0.86, 0.94)
        assert low <= pooled(records, name) <= high, name
        assert smallest_p(records, name, sbc.N_DRAWS) > 2e-4, name
        if name in records[0]["intervals"]:
            counted = np.sum([record["intervals"][name] for record in records], 0)
            assert low <= counted[2] / counted[0] <= high, name
    narrow = [sbc.judge(simulation, shrink=0.7) for simulation in simulations]
    for name in ("r", "composition"):
        assert pooled(narrow, name) < 0.82, name


# --- sb.tl.calibrate --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate(
        "nbvcp", n_cells=90, n_genes=24, n_batches=2, parameterization="mean_disp", log_mean=(4, 1), rng=3
    )
    adata.var["chosen"] = np.arange(24) < 20
    sb.tl.fit(adata, batch_key="batch", mask_var="chosen", progress=False)
    sb.tl.calibrate(adata, n_simulations=8, max_genes=15, progress=False)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


def test_table_has_a_row_for_each_parameter_bin_and_level(fitted):
    table = sb.get.calibration(fitted)
    assert list(table) == ["parameter", "bin", "level", "coverage", "low", "high", "n", "mean_count"]
    expected = itertools.product(
        ["r", "relative nu", "composition"], ["all", "low", "middle", "high"], [0.5, 0.9, 0.95]
    )
    assert set(zip(table["parameter"], table["bin"], table["level"], strict=True)) == set(expected)
    size = table[(table["bin"] == "all") & (table["level"] == 0.9)].set_index("parameter")["n"]
    assert size.to_dict() == {"r": 8 * 15, "relative nu": 8 * 90, "composition": 8 * 2 * 15}
    assert (table["low"] <= table["coverage"]).all()
    assert (table["coverage"] <= table["high"]).all()
    wide = table.pivot_table("coverage", ["parameter", "bin"], "level")
    assert (wide[0.5] <= wide[0.9]).all()
    assert (wide[0.9] <= wide[0.95]).all()
    facts = sb.state.read_result(fitted, "calibrate", "sb").facts
    assert facts == {
        "n_simulations": 8,
        "n_converged": 8,
        "n_cells": 90,
        "n_genes": 15,
        "of_cells": 90,
        "of_genes": 20,
    }


def test_simulated_counts_have_the_depth_of_the_data(fitted):
    table = sb.get.calibration(fitted)
    table = table[table["level"] == 0.5].set_index(["parameter", "bin"])["mean_count"]
    total = np.asarray(fitted.X.sum(1)).ravel()
    assert table["relative nu", "all"] == pytest.approx(total.mean(), rel=0.15)
    thirds = [np.mean(part) for part in np.array_split(np.sort(total), 3)]
    assert table["relative nu"][["low", "middle", "high"]].to_numpy() == pytest.approx(thirds, rel=0.25)


def test_intervals_hold_what_they_should(fitted):
    table = sb.get.calibration(fitted)
    for row in table[table["bin"] == "all"].itertuples():
        assert abs(row.coverage - row.level) < 0.13, row
        assert row.high - row.low < 0.35, row


def test_intervals_that_are_too_narrow_are_found(fitted, monkeypatch):
    def narrow(*args):
        fit = refit(*args)
        fit.posterior.gene_tril[...] *= 0.3
        fit.posterior.cell_scale[...] *= 0.3
        return fit

    refit = _refits._fitted
    monkeypatch.setattr(_refits, "_fitted", narrow)
    sb.tl.calibrate(fitted, n_simulations=3, max_genes=15, progress=False)
    table = sb.get.calibration(fitted).query("bin == 'all' and level == 0.9").set_index("parameter")["coverage"]
    assert table["r"] < 0.6
    assert table["relative nu"] < 0.6


def test_refits_have_the_settings_of_the_fit(fitted, monkeypatch):
    seen = []

    def recorded(*args):
        seen.append(refit(*args))
        return seen[-1]

    refit = _refits._fitted
    monkeypatch.setattr(_refits, "_fitted", recorded)
    sb.tl.calibrate(fitted, n_simulations=2, max_cells=80, max_genes=15, progress=False)
    fit = sb.get.fit(fitted)
    for found in seen:
        assert found.config == fit.config
        assert found.facts["total_mrna"] == fit.facts["total_mrna"]
        assert found.facts["learned"] == fit.facts["learned"]
        assert found.facts["n_genes"] == 16, "15, and one for all others"
        assert np.bincount(found.batch) == pytest.approx(np.bincount(fit.batch) * 80 / 90, abs=1.01)
    assert seen[0].facts["data"] != seen[1].facts["data"]
    assert {str(found.priors["r"].loc) for found in seen} != {str(fit.priors["r"].loc)}, "learned anew"


def test_mixtures_match_components_and_count_right_calls():
    adata = sb.datasets.simulate(
        "nbvcp", n_cells=150, n_genes=20, n_components=2, parameterization="mean_disp", component_lfc=(0.5, 1), rng=1
    )
    sb.tl.fit(adata, n_components=2, progress=False)
    sb.tl.calibrate(adata, n_simulations=3, progress=False, key_added="of")
    table = sb.get.calibration(adata, "of")
    calls = table[table["parameter"] == "assignment"]
    assert calls["n"].sum() == 3 * 150
    assert (calls["level"] >= 0.5).all()
    assert np.average(calls["coverage"], weights=calls["n"]) > 0.6
    size = table[table["bin"].eq("all") & table["level"].eq(0.9)].set_index("parameter")["n"]
    assert size["composition"] == 3 * 2 * 20
    assert size["weights"] == 3 * 2
    assert table.query("parameter == 'composition' and level == 0.95 and bin == 'all'")["coverage"].item() > 0.6
    drawn = sb.pl.calibration(adata, "of", show=False)
    assert "assignment" in [text.get_text() for text in drawn.get_legend().get_texts()]
    assert len(drawn.get_xticks()) == 3 + len(calls)


def test_picture_shows_coverage_less_nominal(fitted):
    ax = sb.pl.calibration(fitted, show=False)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    table = sb.get.calibration(fitted).query("bin == 'all'")
    assert names == list(table["parameter"].unique())
    for name, container in zip(names, ax.containers, strict=True):
        part = table[table["parameter"] == name]
        np.testing.assert_allclose(container[0].get_ydata().astype(float), 100 * (part["coverage"] - part["level"]))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["50%", "90%", "95%"]
    assert "middle third" in sb.pl.calibration(fitted, bin="middle", show=False).get_xlabel()
    with pytest.raises(ValueError, match="choose one of all, low"):
        sb.pl.calibration(fitted, bin="lowest")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_simulations": 1}, "n_simulations=1"),
        ({"n_simulations": 2.5}, "n_simulations=2.5"),
        ({"max_cells": 1}, "max_cells=1"),
        ({"max_genes": "all"}, "max_genes='all'"),
        ({"levels": (0.5, 1)}, "probabilities between 0 and 1"),
        ({"levels": ()}, "probabilities between 0 and 1"),
        ({"rng": -1}, "rng"),
    ],
)
def test_what_cannot_be_done_is_said(fitted, settings, message):
    before = dict(fitted.uns)
    with pytest.raises(ValueError, match=message if "rng" not in settings else "non-negative"):
        sb.tl.calibrate(fitted, **settings)
    assert list(fitted.uns) == list(before)


def test_all_genes_must_be_there_and_the_fit_the_same(fitted):
    with pytest.raises(ValueError, match="genes that 'sb' was fitted on are missing"):
        sb.tl.calibrate(fitted[:, :10].copy())
    with pytest.raises(KeyError, match=r"run sb\.tl\.calibrate first"):
        sb.get.calibration(fitted, "other")
    sb.tl.fit(fitted, progress=False)  # which deletes what was computed from the one before
    with pytest.raises(KeyError, match=r"run sb\.tl\.calibrate first"):
        sb.get.calibration(fitted)


def test_seed_repeats_the_table(fitted):
    tables = []
    for seed in (0, 0, 1):
        sb.tl.calibrate(fitted, n_simulations=2, max_genes=15, rng=seed, progress=False)
        tables.append(sb.get.calibration(fitted))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])
