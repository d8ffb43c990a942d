"""Differential expression: against quadrature, on counts with known effects, and in scanpy's layout."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.counts._by_unit import Members, sum_by_unit
from scbayes.models._contrast import expected_share
from scbayes.models._effect_grid import Contrast, on_grid
from scbayes.stats._mixed_model import Problem, solve, start
from scbayes.stats._mixture_quantile import mixture_quantile
from scbayes.stats._precision import double

_spec = spec_from_file_location("_donors", Path(__file__).parent / "benchmarks" / "_donors.py")
_module = sys.modules["_donors"] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
donors = _module.donors

# --- the mixed model of one gene --------------------------------------------------------------------------------------


def problem(y, exposure, inverse_size, design, people=None, people_sd=1.0) -> Problem:
    y = np.atleast_2d(np.asarray(y, float))
    n = y.shape[1]
    prior_mean = np.zeros((1, design.shape[1]))
    prior_mean[:, 0] = np.log(y.sum() / np.sum(exposure))
    people = np.zeros((n, 0)) if people is None else people
    prior_sd = np.array([4.0, *[1.0] * (design.shape[1] - 2), 2.0])
    parts = y, exposure, np.broadcast_to(inverse_size, y.shape), design, prior_mean, prior_sd, people, people_sd
    return Problem(*[jnp.asarray(part, float) for part in parts])


def log_marginal(b, given: Problem, tau: float) -> float:
    """Log likelihood of b with each unit's u integrated by Gauss-Hermite quadrature."""
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    size, exposure = 1 / given.noise[0][:, None], given.exposure[:, None]
    mean = exposure * np.exp((given.design @ np.asarray(b))[:, None] + tau * at)
    likely = stats.nbinom.pmf(given.y[0][:, None], size, size / (size + mean)) @ (weight / weight.sum())
    return float(np.log(likely).sum())


@pytest.mark.parametrize("tau", [0.05, 0.3])
def test_mixed_model_is_that_of_quadrature(tau):
    design = np.column_stack([np.ones(6), [-0.5] * 3 + [0.5] * 3])
    with double():
        given = problem([30, 45, 22, 80, 61, 99], np.full(6, 10.0), 0.02, design)
        found = solve(given, jnp.asarray(tau), jnp.asarray(np.inf), start(given), 30)
    loc = np.array([found.level[0], found.effect[0]])
    sd = np.sqrt([found.level_variance[0], found.variance[0]])
    given = Problem(*map(np.asarray, given))
    level = np.linspace(loc[0] - 5 * sd[0], loc[0] + 5 * sd[0], 41)
    effect = np.linspace(loc[1] - 5 * sd[1], loc[1] + 5 * sd[1], 41)
    log_p = np.array([[log_marginal([a, b], given, tau) for b in effect] for a in level])
    log_p += stats.norm.logpdf(level, given.prior_mean[0, 0], 4.0)[:, None] + stats.norm.logpdf(effect, 0, 2.0)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = np.array([p.sum(1) @ level, p.sum(0) @ effect])
    np.testing.assert_allclose(mean, loc, atol=0.06 * sd.min())
    spread = np.sqrt([p.sum(1) @ (level - mean[0]) ** 2, p.sum(0) @ (effect - mean[1]) ** 2])
    np.testing.assert_allclose(spread, sd, rtol=0.03)
    together = (level - mean[0]) @ p @ (effect - mean[1])
    assert together == pytest.approx(float(found.covariance[0]), abs=0.03 * sd.prod())


def test_people_are_columns_of_the_design():
    """Eliminating people gives what a design with a column for each gives."""
    people = np.tile(np.eye(3), (2, 1))
    x = np.repeat([-0.5, 0.5], 3)
    y, exposure = [30, 45, 22, 80, 61, 99], np.full(6, 10.0)
    with double():
        apart = problem(y, exposure, 0.05, np.column_stack([np.ones(6), x]), people, 1.0)
        together = problem(y, exposure, 0.05, np.column_stack([np.ones(6), people, x]))
        at = jnp.asarray(0.2), jnp.asarray(4.0)
        found, expected = (solve(given, *at, start(given), 40) for given in (apart, together))
    np.testing.assert_allclose(found.effect, expected.effect, atol=1e-8)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-8)
    np.testing.assert_allclose(found.evidence, expected.evidence, rtol=1e-8)


def test_values_with_errors_are_solved_by_generalised_least_squares():
    rng = np.random.default_rng(0)
    person, x, tau = np.tile(np.eye(3), (2, 1)), np.repeat([-0.5, 0.5], 3), 0.3
    y, variance = rng.normal(1, 0.5, 6), rng.uniform(0.01, 0.2, 6)
    whole = np.column_stack([np.ones(6), x, person])  # level, effect, people
    with double():
        parts = [y[None], np.ones(6), variance[None], whole[:, :2], np.zeros((1, 2)), np.array([4.0, 2.0]), person, 1.5]
        given = Problem(*[jnp.asarray(part, float) for part in parts])
        found = solve(given, jnp.asarray(tau), jnp.asarray(np.inf), start(given, "values"), 3, "values")
    precision = np.diag(np.array([4.0, 2.0, 1.5, 1.5, 1.5]) ** -2.0) + whole.T / (variance + tau**2) @ whole
    covariance = np.linalg.inv(precision)
    mean = covariance @ (whole.T / (variance + tau**2) @ y)
    level = np.array([1, 0, 1 / 3, 1 / 3, 1 / 3])  # that of the mean person
    effect = np.eye(5)[1]
    expected = [effect @ mean, effect @ covariance @ effect, level @ mean, level @ covariance @ level]
    np.testing.assert_allclose([float(part[0]) for part in found[:4]], expected, rtol=1e-9)
    np.testing.assert_allclose(found.covariance[0], level @ covariance @ effect, rtol=1e-9)


def test_units_that_fill_up_change_nothing():
    """What is compiled for more genes, units and people than there are gives the same numbers."""
    rng = np.random.default_rng(1)
    people, x = np.tile(np.eye(3), (2, 1)), np.repeat([-0.5, 0.5], 3)
    y = rng.poisson(20, (5, 6)).astype(float)
    design = np.column_stack([np.ones(6), x])
    given = Contrast(y, np.full(6, 10.0), np.full((5, 6), 0.1), design, people, replicated=True)
    found = on_grid(given)
    with double():
        prior_mean = np.column_stack([np.log((y.sum(1) + 0.5) / 60), np.zeros(5)])
        parts = [*given[:4], prior_mean, np.array([4.0, 2.0]), people, 1.5]
        alone = Problem(*[jnp.asarray(part, float) for part in parts])
        expected = solve(alone, jnp.asarray(found.tau[3]), jnp.asarray(np.inf), start(alone), 40)
    np.testing.assert_allclose(found.effect[:, 3], expected.effect, atol=1e-6)
    np.testing.assert_allclose(found.level[:, 3], expected.level, atol=1e-6)
    np.testing.assert_allclose(found.variance[:, 3], expected.variance, rtol=1e-6)


def test_quantiles_of_mixtures_are_those_of_the_distribution():
    rng = np.random.default_rng(0)
    weight, loc, sd = rng.dirichlet(np.full(4, 0.5), 7), rng.normal(0, 3, (7, 4)), rng.uniform(0.01, 2, (7, 4))
    for q in (0.001, 0.25, 0.5, 0.975):
        found = mixture_quantile(q, weight, loc, sd)
        below = np.sum(weight * stats.norm.cdf(found[:, None], loc, sd), 1)
        np.testing.assert_allclose(below, q, atol=1e-6)


def members(unit: np.ndarray, n_units: int) -> Members:
    """Of cells with one unit, or none (negative)."""
    own = unit >= 0
    return Members(np.concatenate([[0], np.cumsum(own)]), unit[own], np.ones(own.sum()), n_units)


def test_sums_are_those_of_dense_counts():
    adata = donors(2, 50, 30)
    unit = np.arange(adata.n_obs) % 5 - 1  # some cells are of no unit
    (total, squares, detected), size = sum_by_unit(Counts(adata.X), members(unit, 4))
    x = adata.X.toarray()
    for i in range(4):
        own = x[unit == i]
        np.testing.assert_array_equal(total[i], own.sum(0))
        np.testing.assert_array_equal(squares[i], (own**2).sum(0))
        np.testing.assert_array_equal(detected[i], (own > 0).sum(0))
    np.testing.assert_array_equal(size, np.where(unit >= 0, x.sum(1), 0))


def test_cells_may_belong_to_units_in_part():
    adata = donors(2, 50, 30)
    share = np.random.default_rng(0).dirichlet([1, 1], adata.n_obs)
    both = Members(np.arange(adata.n_obs + 1) * 2, np.tile([0, 1], adata.n_obs), share.ravel(), 2)
    (total, squares, detected), _ = sum_by_unit(Counts(adata.X), both)
    x = adata.X.toarray()
    for found, values in ((total, x), (squares, x**2), (detected, x > 0)):
        np.testing.assert_allclose(found, share.T @ values)


def test_expected_share_is_the_mean_error_above():
    error = np.array([0.5, 0.01, 0.2, 0.01])
    np.testing.assert_allclose(expected_share(error), [0.18, 0.01, 0.22 / 3, 0.01])


# --- known effects ----------------------------------------------------------------------------------------------------


def compared(adata: ad.AnnData, **settings) -> pd.DataFrame:
    sb.tl.de(adata, "condition", ["c1"], reference="c0", sample_key="donor", **settings)
    return sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]


@pytest.mark.parametrize("paired", [False, True], ids=["nested", "paired"])
def test_effects_are_covered_and_calls_are_right(paired):
    false, calls, power, covered = 0, 0, [], []
    for seed in range(3):
        adata = donors(4, paired=paired, seed=seed)
        table, truth = compared(adata), adata.var["lfc"]
        false += (table["is_de"] & (truth == 0)).sum()
        calls += table["is_de"].sum()
        power.append(table["is_de"][truth != 0].mean())
        covered.append(((table["ci_low"] <= truth) & (truth <= table["ci_high"])).mean())
    assert false / calls < 0.1
    assert np.mean(power) > 0.25
    assert 0.93 < np.mean(covered) < 0.97


def test_cells_as_replicates_are_overconfident_and_say_so(caplog):
    adata = donors(3, 400)
    sb.tl.de(adata, "condition", ["c1"], reference="c0")
    table = sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]
    assert table.attrs["descriptive"]
    assert (table["is_de"] & (adata.var["lfc"] == 0)).sum() > 0.2 * table["is_de"].sum()
    assert not compared(adata).attrs["descriptive"]


def test_the_other_direction_has_the_other_sign():
    adata = donors(3, 200)
    sb.tl.de(adata, "condition", sample_key="donor")
    one, other = (sb.get.de(adata, group).set_index("names").loc[adata.var_names] for group in ("c1", "c0"))
    np.testing.assert_allclose(one["lfc_mean"], -other["lfc_mean"], atol=1e-3)
    np.testing.assert_allclose(one["p_up"], other["p_down"], atol=1e-3)
    np.testing.assert_allclose(one["mean_1"], other["mean_2"], rtol=1e-9)


def test_order_of_cells_and_genes_does_not_matter():
    adata = donors(3, 200)
    expected = compared(adata)
    rng = np.random.default_rng(0)
    mixed = adata[rng.permutation(adata.n_obs), rng.permutation(200)].copy()
    np.testing.assert_allclose(compared(mixed).loc[adata.var_names, "lfc_mean"], expected["lfc_mean"], atol=1e-8)


def test_a_batch_that_differs_is_taken_out():
    adata = donors(4, 300, changed=0, donor_sd=0.05)
    x = adata.X.toarray()
    late = (adata.obs["donor"].isin(["d00", "d10", "d11", "d12"])).to_numpy()  # one of four, and three of four
    x[late, :60] *= 3
    adata.X, adata.obs["day"] = x, np.where(late, "late", "early")
    adata.obs = adata.obs.rename(columns={"day": "sample"})  # a name that units have, too
    blind, sighted = compared(adata)["lfc_mean"][:60], compared(adata, covariates=["sample"])["lfc_mean"][:60]
    assert blind.mean() > 0.4
    assert abs(sighted.mean()) < 0.1


def test_delta_asks_for_more():
    adata = donors(8, 400, effect_sd=1.0)
    small, large = compared(adata), compared(adata, delta=0.5)
    truth = adata.var["lfc"].abs()
    assert large["is_de"].sum() < small["is_de"].sum()
    assert (truth[large["is_de"]] > 0.4).mean() > 0.9
    np.testing.assert_allclose(small["p_up"] + small["p_down"], small["p_de"])


def test_one_donor_in_each_arm_is_left_to_the_prior():
    adata = donors(1, 200, 200)
    table = compared(adata)
    assert table["is_de"].sum() == 0
    assert table["donor_sd"].median() > 0.15
    sb.tl.de(adata, "condition", ["c1"], reference="c0", key_added="cells")
    assert (
        table["lfc_sd"] > sb.get.de(adata, "c1", "cells").set_index("names").loc[adata.var_names, "lfc_sd"]
    ).mean() > 0.9


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:.*observed=False", "ignore:No data for colormapping")
def test_scanpy_reads_the_result(tmp_path):
    adata = donors(3, 60, 40)
    adata.obs["condition"] = adata.obs["condition"].map({"c0": "a/b", "c1": "x \"y' é"}).astype("category")
    sb.tl.de(adata, "condition", sample_key="donor")
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        getattr(adata, f"write_{suffix}")(tmp_path / f"de.{suffix}")
        again = read(tmp_path / f"de.{suffix}")
        pd.testing.assert_frame_equal(sb.get.de(again), sb.get.de(adata), check_dtype=False)
        found = sc.get.rank_genes_groups_df(again, "a/b", key="sb_de")
        table = sb.get.de(adata, "a/b")
        assert list(found["names"]) == list(table["names"])
        np.testing.assert_allclose(found["logfoldchanges"], table["lfc_mean"], rtol=1e-6)
        np.testing.assert_allclose(found["pvals"], table["lfsr"])
        bound = np.where(table["ci_low"] > 0, table["ci_low"], np.where(table["ci_high"] < 0, table["ci_high"], 0))
        np.testing.assert_allclose(found["scores"], bound, rtol=1e-5, atol=1e-6)
        assert (np.diff(np.abs(bound)) <= 1e-12).all()
    sc.tl.filter_rank_genes_groups(adata, key="sb_de", key_added="filtered")
    sc.pl.rank_genes_groups(adata, key="sb_de", show=False)
    sc.pl.rank_genes_groups_dotplot(adata, key="sb_de", n_genes=3, dendrogram=False, show=False)


def test_volcano_draws_the_table():
    adata = donors(4, 300, effect_sd=1.5)
    table = compared(adata)
    ax = sb.pl.lfc_volcano(adata, show=False)
    drawn = [points.get_offsets() for points in ax.collections if len(points.get_offsets()) > 0]
    assert sum(map(len, drawn[:3])) == 300
    assert [len(part) for part in drawn[1:3]] == [
        (table["is_de"] & (table["lfc_mean"] > 0)).sum(),
        (table["is_de"] & (table["lfc_mean"] < 0)).sum(),
    ]
    assert ax.get_title() == "c1 over c0"
    sb.tl.de(adata, "condition", key_added="cells")
    assert "descriptive" in sb.pl.lfc_volcano(adata, key="cells", show=False).get_title()


EMPTY = {
    "a group without counts": lambda x: x.__setitem__(slice(0, 40), 0),
    "a gene without counts": lambda x: x.__setitem__((slice(None), 3), 0),
    "cells without counts": lambda x: x.__setitem__(slice(0, 5), 0),
    "no counts at all": lambda x: x.__setitem__(slice(None), 0),
}


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("sample_key", ["donor", None])
@pytest.mark.parametrize("statistic", ["mean", "dispersion"])
def test_where_there_is_nothing_numbers_are_finite(empty, sample_key, statistic):
    adata = donors(2, 30, 20)
    x = adata.X.toarray()
    empty(x)
    adata.X = x
    sb.tl.de(adata, "condition", sample_key=sample_key, statistic=statistic, gene_sets={"some": adata.var_names[:5]})
    assert np.isfinite(sb.get.de_sets(adata).select_dtypes("number")).all(axis=None)
    table = sb.get.de(adata)
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    nothing = table["mean_1"] + table["mean_2"] == 0
    assert table["data_poor"][nothing].all()
    assert not table["is_de"][nothing].any()


def test_small_groups_and_empty_categories_are_left_out():
    adata = donors(2, 30, 20)
    names = np.array(["a", "b"], object)[np.arange(adata.n_obs) % 2]
    names[:3] = "few"
    adata.obs["kind"] = pd.Categorical(names, categories=["a", "b", "few", "none"])
    sb.tl.de(adata, "kind")
    assert list(sb.get.de(adata)["group"].unique()) == ["a", "b"]
    assert sb.get.de(adata).attrs["skipped"] == ["few", "none"]


WRONG = {
    "group": ({"groups": ["x"]}, KeyError, "no group 'x'.*'c0', 'c1'"),
    "reference": ({"reference": "x"}, KeyError, "no group 'x'"),
    "sample": ({"sample_key": "x"}, KeyError, "no column 'x' in adata.obs"),
    "twice": ({"covariates": ("condition",)}, ValueError, "twice"),
    "delta": ({"delta": -1}, ValueError, "delta=-1"),
    "fdr": ({"fdr": 0}, ValueError, "fdr=0"),
    "cells": ({"min_cells": 10**6}, ValueError, "nothing to compare"),
    "fractions": ({"sample_key": "depth"}, ValueError, "fractional"),
}


@pytest.mark.parametrize(("settings", "error", "match"), WRONG.values(), ids=WRONG)
def test_bad_arguments_are_named(settings, error, match):
    adata = donors(2, 30, 20)
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)
    with pytest.raises(error, match=match):
        sb.tl.de(adata, "condition", **settings)
    assert "sb_de" not in adata.uns
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="counts"):
        sb.tl.de(adata, "condition")
