"""Differential variability: the likelihood of overdispersion against SciPy, and counts with known changes."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.counts._by_unit import Members, detail_by_unit, sum_by_unit
from scbayes.models._overdispersion import fit_trend, linearised, overdispersion, residuals
from scbayes.models._units import Units
from scbayes.stats._dispersion_information import information, integrated

_spec = spec_from_file_location("_variable_donors", Path(__file__).parent / "benchmarks" / "_variable_donors.py")
_module = sys.modules["_variable_donors"] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
variable_donors = _module.variable_donors

# --- the likelihood ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.05, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("alpha", [0.05, 0.5, 3.0, 20.0])
def test_information_is_the_expected_curvature(mean, alpha):
    r = 1 / alpha
    above = np.arange(400_000)
    expected = np.sum(stats.nbinom.sf(above, r, r / (r + mean)) / (r + above) ** 2) - mean / (r * (r + mean))
    at = np.log([mean]), np.log([alpha])
    np.testing.assert_allclose(integrated(*at), r**2 * expected, rtol=1e-8)
    np.testing.assert_allclose(information(*at), r**2 * expected, rtol=2e-5)


def test_information_is_that_of_pairs_beyond_the_table():
    found = information(np.array([-12.0, -10.0]), np.log(0.5))
    np.testing.assert_allclose(found, np.exp([-24.0, -20.0]) * 0.25 / 2 / 1.5, rtol=1e-3)


class Data:
    """Counts of 600 cells in three units, 400 genes; the last cell is empty."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        mu = np.exp(rng.normal(-0.5, 1.5, 400))
        mu[0] = 60
        size = np.exp(rng.normal(0, 0.4, 600))
        r = np.exp(-rng.normal(np.log(0.5), 0.6, 400))
        self.x = rng.poisson(rng.gamma(r, 1 / r, (600, 400)) * size[:, None] * mu)
        self.x[-1] = 0
        self.order = np.argsort(mu)
        self.unit = np.arange(600) % 3
        members = Members(np.arange(601), self.unit, np.ones(600), 3)
        counts = Counts(sparse.csr_matrix(self.x))
        (total, squares, detected), size = sum_by_unit(counts, members)
        self.size = size / size.mean()
        sums = (members.sum(power) for power in (np.ones(600), self.size, self.size**2))
        self.units = Units(total, squares, detected, *sums)
        self.found = overdispersion(counts, members, self.size, self.units)
        log_mean = np.log(np.maximum(total, 0.5) / self.units.exposure[:, None])
        self.trend = fit_trend(self.units, log_mean)(log_mean)

    def profile(self, log_alpha: float, unit: int, gene: int) -> float:
        """Log likelihood at the best mean, with the adjustment for it."""
        own = (self.unit == unit) & (self.size > 0)
        u, s, r = self.x[own, gene], self.size[own], np.exp(-log_alpha)

        def loss(log_mean: float) -> float:
            return -stats.nbinom.logpmf(u, r, 1 / (1 + s * np.exp(log_mean) / r)).sum()

        log_mean = optimize.minimize_scalar(loss, bounds=(-12, 8), method="bounded", options={"xatol": 1e-10}).x
        mean = s * np.exp(log_mean)
        return -loss(log_mean) - 0.5 * np.log(np.sum(mean / (1 + mean / r)))


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def test_slopes_are_those_of_the_adjusted_profile_likelihood(data):
    nodes, terms = residuals().nodes, residuals().basis(residuals().nodes)
    for gene in data.order[[150, 250, 350, 399]]:
        for k in (2, 6, 10, 14):
            at = data.trend[1, gene] + nodes[k]
            expected = (data.profile(at + 1e-3, 1, gene) - data.profile(at - 1e-3, 1, gene)) / 2e-3
            assert terms[k] @ data.found.slope[1, gene] == pytest.approx(expected, rel=2e-3, abs=5e-3)
            log_mean = np.log(data.units.total[1, gene] / data.units.exposure[1])
            log_s = np.log(data.size[data.unit == 1])
            expected = integrated(log_mean + log_s, np.full(len(log_s), at)).sum()
            assert terms[k] @ data.found.information[1, gene] == pytest.approx(expected, rel=2e-3)


def test_values_are_maximum_likelihood_where_data_tell(data):
    value, variance = linearised(data.found, np.zeros(3, int))
    rich = data.order[-25:]
    for gene in rich:
        best = optimize.minimize_scalar(
            lambda a, gene=gene: -data.profile(a, 1, gene), bounds=(-6, 3), method="bounded"
        )
        assert abs(value[1, gene] + data.trend[1, gene] - best.x) < 0.4 * np.sqrt(variance[1, gene])
    assert (variance[:, rich] < 0.1).all()
    assert (variance[:, data.order[:20]] > 2).all()  # rare genes say little


def test_cells_count_as_much_as_they_belong(data):
    """Cells of two units with half their weight each make twice the same, with half the information."""
    both = Members(np.arange(601) * 2, np.tile([0, 1], 600), np.full(1200, 0.5), 2)
    one = Members(np.arange(601), np.zeros(600, int), np.ones(600), 1)
    counts, nodes = Counts(sparse.csr_matrix(data.x)), np.random.default_rng(0).random((600, 3))
    row, count, cells, node_counts, node_cells = detail_by_unit(counts, both, nodes)
    whole = detail_by_unit(counts, one, nodes)
    dense = np.zeros((800, data.x.max() + 1))
    np.add.at(dense, (row, count), cells)
    expected = np.stack([np.bincount(column, minlength=dense.shape[1]) for column in data.x.T])
    np.testing.assert_allclose(dense[:, 1:], 0.5 * np.tile(expected, (2, 1))[:, 1:])
    np.testing.assert_allclose(node_counts, 0.5 * np.stack([data.x.T @ nodes] * 2))
    np.testing.assert_allclose(node_cells, 0.5 * np.stack([nodes.sum(0)] * 2))
    np.testing.assert_allclose(whole[3][0], data.x.T @ nodes)
    assert (np.diff(row) >= 0).all()
    assert (np.diff(count)[np.diff(row) == 0] >= 0).all()


def test_units_put_together_are_weighed_by_precision(data):
    units = data.units._replace(overdispersion=data.found)
    rich = data.order[-40:]
    joined = units.join(np.array([0, 0, 1]), 2).overdispersion
    value, variance = linearised(joined, np.zeros(2, int))
    apart, errors = linearised(data.found, np.zeros(3, int))
    expected = np.sum(apart[:2, rich] / errors[:2, rich], 0) / np.sum(1 / errors[:2, rich], 0)
    sd = np.sqrt(variance[0, rich])
    np.testing.assert_allclose((value[0, rich] - expected) / sd, 0, atol=0.6)
    assert abs(np.mean((value[0, rich] - expected) / sd)) < 0.1
    np.testing.assert_allclose(1 / variance[0, rich], np.sum(1 / errors[:2, rich], 0), rtol=0.3)


# --- known changes ----------------------------------------------------------------------------------------------------


def compared(adata: ad.AnnData, **settings) -> pd.DataFrame:
    settings = {"sample_key": "donor", "reference": "c0"} | settings
    sb.tl.de(adata, "condition", ["c1"], statistic="dispersion", **settings)
    return sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]


@pytest.mark.parametrize("paired", [False, True], ids=["nested", "paired"])
def test_changes_are_covered_and_calls_are_right(paired):
    false, of_mean, calls, power, covered, rich = 0, 0, 0, [], [], []
    for seed in range(3):
        adata = variable_donors(6, paired=paired, seed=seed)
        table, truth = compared(adata), adata.var["ratio"]
        false += (table["is_de"] & (truth == 0)).sum()
        of_mean += (table["is_de"] & (adata.var["mean_ratio"] != 0)).sum()
        calls += table["is_de"].sum()
        power.append(table["is_de"][(truth != 0) & (adata.var["mu"] > 1)].mean())
        inside = (table["ci_low"] <= truth) & (truth <= table["ci_high"])
        covered.append(inside.mean())
        rich.append(inside[adata.var["mu"] > 1].mean())
    assert false / calls < 0.1
    assert of_mean <= 0.05 * calls
    assert np.mean(power) > 0.5
    assert 0.93 < np.mean(covered) < 0.98
    assert 0.93 < np.mean(rich) < 0.975


def test_ratios_and_dispersions_are_the_true_ones():
    adata = variable_donors(6, seed=5)
    table, own = compared(adata), adata.var["mu"] > 2
    for sign in (-1, 1):
        changed = own & (np.sign(adata.var["ratio"]) == sign)
        assert table["lfc_mean"][changed].mean() == pytest.approx(sign, abs=0.2)
    same_mean = own & (adata.var["mean_ratio"] == 0)
    found = np.log2(table["dispersion_1"] / table["dispersion_2"])
    np.testing.assert_allclose(found[same_mean], table["lfc_mean"][same_mean], atol=0.15)
    assert found[own & (adata.var["mean_ratio"] == 1)].mean() == pytest.approx(-0.15, abs=0.15)  # the trend
    assert np.log(table["dispersion_2"][own]).std() == pytest.approx(0.5, abs=0.12)


def test_groups_of_different_means_together_are_no_dispersion():
    """The reference is a mix of kinds whose means differ, but not their overdispersion."""
    adata = variable_donors(4, 800, (60, 60), changed=0, kinds=(0.0, 1.0, 1.0))
    sb.tl.de(adata, "kind", ["k0"], sample_key="donor", statistic="dispersion")
    table = sb.get.de(adata, "k0").set_index("names").loc[adata.var_names]
    assert table["is_de"].sum() <= 2
    assert abs(table["lfc_mean"][adata.var["mu"] > 2].mean()) < 0.1
    assert (table["ci_low"] * table["ci_high"] < 0).mean() > 0.92


def test_cells_as_replicates_are_right_where_donors_do_not_differ():
    adata = variable_donors(1, 800, (500, 300), donor_sd=0, seed=3)
    table, truth = compared(adata, sample_key=None), adata.var["ratio"]
    assert table.attrs["descriptive"]
    assert 0.93 < ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).mean() < 0.98
    assert (table["is_de"] & (truth == 0)).sum() <= max(0.1 * table["is_de"].sum(), 1)
    adata = variable_donors(3, 400, changed=0, donor_sd=0.4)
    assert compared(adata)["is_de"].sum() <= compared(adata, sample_key=None)["is_de"].sum()


# --- with all else that can be asked ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> ad.AnnData:
    return variable_donors(3, 150, (60, 60), seed=1)


def test_the_other_direction_has_the_other_sign(small):
    one = compared(small)
    sb.tl.de(small, "condition", ["c0"], reference="c1", sample_key="donor", statistic="dispersion")
    other = sb.get.de(small, "c0").set_index("names").loc[small.var_names]
    np.testing.assert_allclose(one["lfc_mean"], -other["lfc_mean"], atol=1e-3)
    np.testing.assert_allclose(one["dispersion_1"], other["dispersion_2"], rtol=1e-3)


def test_effects_of_ones_own_get_dispersions(small):
    seen = []

    def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        seen.append((np.median(first, 0), np.median(second, 0)))
        return first - second

    table = compared(small, change_fn=difference, n_samples=2000)
    rich = (small.var["mu"] > 3).to_numpy()
    first, second = (np.concatenate(parts)[: len(table)][rich] for parts in zip(*seen[:1], strict=True))
    np.testing.assert_allclose(first, table["dispersion_1"][rich], rtol=0.1)
    np.testing.assert_allclose(second, table["dispersion_2"][rich], rtol=0.1)
    expected = (table["dispersion_1"] - table["dispersion_2"])[rich]
    np.testing.assert_allclose(table["effect_median"][rich], expected, atol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "vanilla"},
        {"delta": "auto", "level": (0.9, 0.5)},
        {"n_permutations": 1},
        {"n_permutations": 1, "sample_key": None},
        {"relative_to": "total", "covariates": ["kind"]},
    ],
    ids=["vanilla", "delta", "samples", "cells", "covariate"],
)
def test_other_questions_are_answered_too(small, settings):
    adata = small.copy()
    adata.obs["kind"] = np.array(["x", "y"])[np.arange(adata.n_obs) % 2]
    table = compared(adata, **settings)
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    assert (table[["dispersion_1", "dispersion_2"]] > 0).all(axis=None)


def test_results_are_written_and_read(small, tmp_path):
    table = compared(small)
    small.write_h5ad(tmp_path / "de.h5ad")
    again = sb.get.de(ad.read_h5ad(tmp_path / "de.h5ad"), "c1").set_index("names").loc[small.var_names]
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert again.attrs["statistic"] == "dispersion"


EMPTY = {
    "a group": lambda x: x.__setitem__(slice(0, 180), 0),
    "a gene": lambda x: x.__setitem__((slice(None), 3), 0),
    "cells": lambda x: x.__setitem__(slice(0, 5), 0),
    "all but one gene": lambda x: x.__setitem__((slice(None), slice(1, None)), 0),
}


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("sample_key", ["donor", None])
def test_where_there_is_nothing_numbers_are_finite(small, empty, sample_key):
    adata = small.copy()
    x = adata.X.toarray()
    empty(x)
    adata.X = x
    table = compared(adata, sample_key=sample_key)
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    nothing = (table["mean_1"] == 0) | (table["mean_2"] == 0)
    assert not table["is_de"][nothing].any()
    assert table["data_poor"][nothing].all()


def test_unknown_statistics_are_named(small):
    with pytest.raises(ValueError, match="unknown statistic 'variance'; choose one of mean, dispersion"):
        sb.tl.de(small, "condition", statistic="variance")
