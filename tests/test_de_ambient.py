"""Differential expression with ambient counts in the mean: against quadrature, on known effects, what it refuses."""

import io
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import integrate, stats

import scbayes as sb
from scbayes.counts._by_unit import Members
from scbayes.models._ambient_counts import AmbientCells, AmbientCounts, Strata
from scbayes.models._effect_grid import Contrast, on_grid
from scbayes.models._effects import effects
from scbayes.models._units import Units, inverse_sizes
from scbayes.state import write_result
from scbayes.stats._additive_background import LINEAR, Background, log_likelihood, slopes
from scbayes.stats._mixed_model import Problem, solve, start
from scbayes.stats._precision import double


def _benchmark(name: str):
    spec = spec_from_file_location(name, Path(__file__).parent / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_donors, _soups = _benchmark("_donors"), _benchmark("_soup")
donors, sets_of, with_soup, denoised = _donors.donors, _donors.sets_of, _soups.with_soup, _soups.denoised


# --- the likelihood of one count --------------------------------------------------------------------------------------


def one(y, noise, mean, variance=0.0) -> Problem:
    """A row of one unit of exposure 1."""
    zero = np.zeros((1, 1))
    background = Background(np.full((1, 1), mean), np.full((1, 1), variance), zero, zero, zero, zero, np.zeros((2, 1)))
    parts = [
        np.full((1, 1), y),
        np.ones(1),
        np.full((1, 1), noise),
        np.ones((1, 1)),
        zero,
        np.ones(1),
        np.zeros((1, 0)),
    ]
    return jax.tree.map(lambda part: jnp.asarray(part, float), Problem(*parts, 1.0, background))


def likely(problem: Problem, eta: float) -> tuple[float, float, float]:
    """Log likelihood with its first and minus second derivative."""
    with double():
        problem = jax.tree.map(lambda part: jnp.asarray(part, float), problem)
        at = jnp.full((1, 1), eta)
        return (float(log_likelihood(problem, at)[0, 0]), *[float(part[0, 0]) for part in slopes(problem, at)])


@pytest.mark.parametrize("noise", [1e-7, 0.004, 0.25, 3.0])
@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 0.0), (1e-3, 0.0), (1.0, 0.0), (20.0, 0.0), (62.5, 0.0), (20.0, 90.0)]
)
def test_quasi_likelihood_is_the_integral_of_its_slope(noise, mean, variance):
    """Both signs of 1 - 4 phi c, and 62.5 where it is zero."""

    def slope(n: float) -> float:
        return (40 - mean - n) / (n + noise * n**2 + mean + variance)

    for low, high in ((0.1, 3.0), (3.0, 50.0)):
        expected = integrate.quad(slope, low, high, epsabs=1e-10)[0]
        problem = one(40.0, noise, mean, variance)
        found = likely(problem, np.log(high))[0] - likely(problem, np.log(low))[0]
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("noise", "mean"), [(0.25, 0.0), (1e-9, 7.0)])
def test_it_is_the_likelihood_where_that_is_known(noise, mean):
    def exact(n: float) -> float:
        return (
            stats.nbinom.logpmf(12, 1 / noise, 1 / (1 + noise * n)) if mean == 0 else stats.poisson.logpmf(12, n + mean)
        )

    problem = one(12.0, noise, mean)
    for n in (0.5, 5.0, 30.0):
        found = likely(problem, np.log(n))[0] - likely(problem, np.log(4.0))[0]
        assert found == pytest.approx(exact(n) - exact(4.0), abs=1e-5)


@pytest.mark.parametrize("y", [0.0, 15.0, 20.0, 90.0])
def test_slopes_are_derivatives(y):
    problem, step = one(y, 0.1, 20.0, 30.0), 1e-4
    for eta in (-1.0, 1.0, 3.0, 5.0):
        value, first, second = likely(problem, eta)
        up, down = likely(problem, eta + step), likely(problem, eta - step)
        assert first == pytest.approx((up[0] - down[0]) / (2 * step), rel=1e-4, abs=1e-7)
        bend = (down[1] - up[1]) / (2 * step)
        assert second > 0
        assert second == pytest.approx(bend, rel=1e-3) or bend < second  # not concave: a small positive number
        assert np.isfinite(value)


@pytest.mark.parametrize(
    ("y", "mean"), [((120, 300), (60.0, 100.0)), ((40, 500), (25.0, 25.0)), ((400, 900), (0.0, 300.0))]
)
def test_posterior_is_that_of_native_plus_ambient_counts(y, mean):
    """The convolution of a negative binomial and a Poisson, summed up, on a grid of level and effect."""
    noise, x = 0.01, np.array([-0.5, 0.5])
    contrast = one_stratum([y], np.full((1, 2), noise), np.array([0, 1]), np.ones(1), np.array(mean))
    found = on_grid(contrast)
    level = found.level[0, 0] + np.linspace(-6, 6, 61) * np.sqrt(found.level_variance[0, 0])
    effect = found.effect[0, 0] + np.linspace(-6, 6, 61) * np.sqrt(found.variance[0, 0])
    log_p = stats.norm.logpdf(level, contrast.rough()[0], 4)[:, None] + stats.norm.logpdf(effect, 0, 2)
    for i in range(2):
        native = np.arange(y[i] + 1)
        ambient = stats.poisson.pmf(y[i] - native, mean[i])
        n = np.exp(level[:, None] + effect * x[i])
        log_p += np.log(stats.nbinom.pmf(native, 1 / noise, 1 / (1 + noise * n[..., None])) @ ambient + 1e-300)
    p = np.exp(log_p - log_p.max())
    p = p.sum(0) / p.sum()
    loc = p @ effect
    sd = np.sqrt(p @ (effect - loc) ** 2)
    skewed = min(np.subtract(y, mean)) < 20  # the mode is not the mean
    assert found.effect[0, 0] == pytest.approx(loc, abs=(0.4 if skewed else 0.15) * sd)
    assert np.sqrt(found.variance[0, 0]) == pytest.approx(sd, rel=0.2 if skewed else 0.08)


# --- many genes, with known errors of the background ------------------------------------------------------------------


def one_stratum(y, noise, arm, profile, expected, *, level_sd=0.0, sample=None, replicated=False) -> Contrast:
    """Units of exposure 1; ``expected`` ambient counts at a profile of 1, ``sample`` whose level they share."""
    sample = np.zeros(len(arm), int) if sample is None else sample
    n, n_genes = len(arm), len(profile)  # as many samples as units: one compiled program
    load = expected[:, None] * (sample[:, None] == np.arange(n))
    wide = np.repeat(np.asarray(profile, float)[:, None], n, 1)
    strata = Strata(wide, np.zeros((n_genes, n)), np.full(n, level_sd), np.arange(n), np.zeros(n, int))
    ambient = AmbientCounts(load, load * 0, load * 0, load * 0, strata)
    design, nobody = np.column_stack([np.ones(len(arm)), arm - 0.5]), np.zeros((len(arm), 0))
    return Contrast(np.asarray(y, float), np.ones(len(arm)), noise, design, nobody, replicated, "contaminated", ambient)


@pytest.mark.parametrize("shared", ["unit", "arm"])
def test_intervals_hold_the_error_of_the_level(shared):
    """More than half of the counts of most genes are ambient, and the level is off by its standard deviation, 15%."""
    rng = np.random.default_rng(0)
    n_genes, arm, phi = 1000, np.repeat([0, 1], 4), 0.01
    sample = arm if shared == "arm" else np.arange(8)
    profile, expected = np.exp(rng.normal(5.3, 1, n_genes)), np.where(arm == 1, 3.0, 1.0)
    effect = rng.normal(0, 1, n_genes) * (rng.random(n_genes) < 0.5)
    log_mean = rng.normal(5.3, 1, (n_genes, 1)) + effect[:, None] * (arm - 0.5) + 0.15 * rng.normal(size=(n_genes, 8))
    off = 1 + 0.15 * rng.normal(size=(n_genes, sample.max() + 1))[:, sample]
    native = rng.poisson(np.exp(log_mean) * rng.gamma(1 / phi, phi, log_mean.shape))
    y = native + rng.poisson(np.maximum(profile[:, None] * expected * off, 0))
    noise = np.full(y.shape, phi)
    covered = {}
    for stated in (0.15, 1e-4):
        given = one_stratum(y, noise, arm, profile, expected, level_sd=stated, sample=sample, replicated=True)
        found = effects(on_grid(given), told=True)
        covered[stated] = np.mean((found.quantile(0.05) < effect) & (effect < found.quantile(0.95)))
    assert covered[0.15] == pytest.approx(0.9, abs=0.03)
    assert covered[1e-4] < (0.8 if shared == "arm" else 0.885)


def test_errors_that_units_share_do_not_average_out():
    """In closed form where counts are many, and errors small."""
    arm, tau, sd = np.repeat([0, 1], 4), 0.1, 0.05
    y = np.full((1, 8), 2e6)
    variance = {}
    for sample in (np.arange(8), arm, np.zeros(8, int)):
        given = one_stratum(y, np.full((1, 8), 1e-9), arm, [1e6], np.ones(8), level_sd=sd, sample=sample)
        with double():
            load, profile, factor = given.ambient.causes()
            parts = [part.T for part in (given.ambient.mean(), *given.ambient.variance())]
            background = Background(*parts, load, profile, factor, np.array([arm, 1 - arm]))
            prior = np.array([[np.log(1e6), 0]]), np.array([4.0, 2.0])
            problem = Problem(y, given.exposure, given.noise, given.design, *prior, given.people, 1.5, background)
            problem = jax.tree.map(lambda part: jnp.asarray(part, float), problem)
            found = solve(
                problem, jnp.asarray(tau), jnp.asarray(np.inf), start(problem, "contaminated"), 20, "contaminated"
            )
        variance[len(set(sample))] = float(found.variance[0])
    alone = 2 * (tau**2 + sd**2) / 4
    assert variance[8] == pytest.approx(alone, rel=0.02)
    assert variance[2] == pytest.approx(2 * (tau**2 / 4 + sd**2), rel=0.02)
    # what both arms share cancels as far as it is small
    cancels = 1 / (1 + 2 * sd**2 / LINEAR**2)
    assert variance[1] == pytest.approx(2 * (tau**2 / 4 + (1 - cancels) * sd**2), rel=0.02)


def test_no_counts_beyond_the_background_is_no_information():
    """All soup in both arms, in one, and fewer counts than the soup."""
    y = [[1000, 1000], [5000, 1000], [700, 1300], [1000, 0]]
    given = one_stratum(y, np.full((4, 2), 1e-3), np.array([1, 0]), np.full(4, 1000.0), np.ones(2), level_sd=0.1)
    found = effects(on_grid(given), told=False)
    low, mean, high, sd = found.quantile(0.025), found.mean(), found.quantile(0.975), found.std()
    assert np.isfinite([low, mean, high]).all()
    assert sd[0] > 1.3
    assert abs(mean[0]) < 0.1
    assert low[1] > 0.5
    assert high[1] - low[1] > 2
    assert sd[2:].min() > 1
    exact = effects(on_grid(given._replace(y=given.y * 100 - 99 * 1000)), told=False)  # far more counts
    assert exact.std()[1] < sd[1]


# --- units ------------------------------------------------------------------------------------------------------------


def test_sums_over_cells_are_those_of_dense_expectations():
    rng = np.random.default_rng(0)
    n_cells, n_genes = 40, 12
    share = rng.dirichlet([1, 1], n_cells)  # cells belong to both units in part
    members = Members(np.arange(n_cells + 1) * 2, np.tile([0, 1], n_cells), share.ravel(), 2)
    total, fraction, sd = rng.integers(50, 200, n_cells), rng.beta(2, 10, n_cells), rng.uniform(0, 0.05, n_cells)
    stratum, size = rng.integers(0, 3, n_cells), rng.uniform(0.5, 2, n_cells)
    profile, profile_sd = (
        rng.dirichlet(np.ones(n_genes), 2).T[:, [0, 1, 1]],
        rng.uniform(0, 0.01, (n_genes, 2))[:, [0, 1, 1]],
    )
    level_sd, sample, batch = np.array([0.1, 0.2, 0.1]), np.array([0, 1, 0]), np.array([0, 1, 1])
    strata = Strata(profile, profile_sd, level_sd, sample, batch)
    found = AmbientCells(fraction, sd, stratum, strata).by_unit(total, size, members.sum)
    of_cells = (total * fraction)[:, None] * profile.T[stratum]
    np.testing.assert_allclose(found.mean(), share.T @ of_cells)
    native = rng.uniform(0, 1, (2, n_genes))
    second = of_cells**2 + (total * sd)[:, None] ** 2 * profile.T[stratum] ** 2
    pairs = 2 * native * (share.T @ (size[:, None] * of_cells)) + share.T @ second
    np.testing.assert_allclose(found.pairs(native), pairs)
    assert np.allclose(found.scaled(np.array([2.0, 3.0])).pairs(native / [[2.0], [3.0]]), pairs)
    errors = [share.T @ (of_cells * (sample[stratum] == s)[:, None] * level_sd[stratum][:, None]) for s in (0, 1)]
    errors += [
        share.T @ ((total * fraction)[:, None] * profile_sd.T[stratum] * (batch[stratum] == b)[:, None]) for b in (0, 1)
    ]
    for one_found, expected in zip(found.errors(), errors, strict=True):
        np.testing.assert_allclose(one_found, expected)
    own = share.T @ ((total * sd)[:, None] ** 2 * profile.T[stratum] ** 2)
    variance, common = found.variance()
    np.testing.assert_allclose(common, sum(error**2 for error in errors))
    np.testing.assert_allclose(variance, common + own)
    units = Units(*[np.ones((2, n_genes))] * 3, *[np.ones(2)] * 3, ambient=found)
    together = units.join(np.zeros(2, int), 1)
    np.testing.assert_allclose(together.ambient.mean(), found.mean().sum(0, keepdims=True))


def test_overdispersion_is_that_of_native_counts():
    rng = np.random.default_rng(0)
    n, n_genes = 4000, 60
    r, mu, expected = 0.5, rng.uniform(1, 4, n_genes), rng.uniform(0, 2, n)
    profile, size = rng.uniform(0.2, 2, n_genes), rng.uniform(0.5, 1.5, n)
    x = rng.poisson(rng.gamma(r, 1 / r, (n, n_genes)) * size[:, None] * mu) + rng.poisson(expected[:, None] * profile)
    strata = Strata(profile[:, None], np.zeros((n_genes, 1)), np.zeros(1), np.zeros(1, int), np.zeros(1, int))
    parts = [part[None, None] for part in (expected.sum(), (expected**2).sum(), (expected * size).sum(), np.zeros(()))]
    sums = [part.sum(0, keepdims=True).astype(float) for part in (x, x**2, x > 0)]
    sizes = [np.array([value], float) for value in (n, size.sum(), (size**2).sum())]
    units = Units(*sums, *sizes, ambient=AmbientCounts(*parts, strata))
    found = inverse_sizes(units, np.zeros(1, int))[0]
    np.testing.assert_allclose(np.median(found), 1 / r, rtol=0.03)
    assert np.median(inverse_sizes(units._replace(ambient=None), np.zeros(1, int))) < 0.8 / r


# --- known effects ----------------------------------------------------------------------------------------------------


def compared(adata: ad.AnnData, **settings) -> pd.DataFrame:
    sb.tl.de(adata, "condition", ["c1"], reference="c0", progress=False, **settings)
    return sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]


@pytest.fixture(scope="module")
def _soup() -> ad.AnnData:
    adata = with_soup(donors(4, 600, 100, seed=1), (0.05, 0.2), silent=0.25)
    denoised(adata, adata.obs["rho"])
    return adata


@pytest.fixture
def soup(_soup) -> ad.AnnData:
    return _soup.copy()


def test_without_ambient_counts_nothing_changes(soup):
    denoised(soup, np.zeros(soup.n_obs), sd=1e-9, level_sd=0.1)
    found, expected = compared(soup, ambient="sb", sample_key="donor"), compared(soup, sample_key="donor")
    for column in ("lfc_mean", "lfc_sd", "lfsr", "mean_1", "donor_sd"):
        np.testing.assert_allclose(found[column], expected[column], rtol=2e-4, atol=1e-5)
    assert (found["ambient_1"] == 0).all()
    assert "ambient_1" not in expected


def test_false_calls_of_ambient_counts_go(soup):
    """Donors have soups of their own, and cells of one condition have four times as much."""
    truth, silent = soup.var["lfc"], soup.var["silent"]
    raw, native, found = (
        compared(soup, sample_key="donor", **how) for how in ({}, {"layer": "native"}, {"ambient": "sb"})
    )

    def false(table: pd.DataFrame) -> int:
        return int((table["is_de"] & (truth == 0)).sum())

    def covered(table: pd.DataFrame) -> float:
        return ((table["ci_low"] <= truth) & (truth <= table["ci_high"]))[silent].mean()

    assert false(raw) > 0.5 * raw["is_de"].sum()
    assert false(found) <= 2
    assert (found["is_de"] & (truth != 0)).sum() >= 0.75 * (native["is_de"] & (truth != 0)).sum() > 0
    assert covered(raw) < 0.5
    assert covered(found) > 0.93
    own = (soup.obs["condition"] == "c1").to_numpy()
    share = np.asarray((soup.X - soup.layers["native"])[own].sum(0)).ravel()
    share = share / np.maximum(np.asarray(soup.X[own].sum(0)).ravel(), 1)
    rich = found["mean_1"] + raw["mean_1"] > 10
    np.testing.assert_allclose(found["ambient_1"][rich], share[rich], atol=0.1)
    assert found["data_poor"][silent].mean() > 2 * native["data_poor"][silent].mean()


def test_fold_changes_between_cells_are_native(soup):
    """Slope of estimate on truth, in genes that have counts."""
    raw, found = compared(soup), compared(soup, ambient="sb", batch_key=None)
    native = compared(soup, layer="native")
    rich = (native["mean_1"] + native["mean_2"] > 4) & (native["mean_1"] > 1) & (native["mean_2"] > 1)
    slope = [np.polyfit(native["lfc_mean"][rich], table["lfc_mean"][rich], 1)[0] for table in (raw, found)]
    assert slope[1] == pytest.approx(1, abs=0.08)
    assert (
        np.abs(found["lfc_mean"] - native["lfc_mean"])[rich].mean()
        < 0.5 * np.abs(raw["lfc_mean"] - native["lfc_mean"])[rich].mean()
    )


def test_noise_of_the_shares_averages_out_and_errors_of_levels_do_not(soup):
    rng, truth, silent = np.random.default_rng(0), soup.var["lfc"], soup.var["silent"]
    exact = compared(soup, ambient="sb", sample_key="donor")
    denoised(soup, np.clip(soup.obs["rho"] + rng.normal(0, 0.03, soup.n_obs), 0, 0.9), sd=0.03)
    noisy = compared(soup, ambient="sb", sample_key="donor")
    assert noisy["lfc_sd"].mean() == pytest.approx(exact["lfc_sd"].mean(), rel=0.03)
    denoised(soup, soup.obs["rho"] / 1.3, level_sd=0.3, sample_key="condition")
    off = compared(soup, ambient="sb", sample_key="donor")
    assert off["is_de"][truth == 0].sum() <= 2
    denoised(soup, soup.obs["rho"] / 1.3, sample_key="condition")
    unsaid = compared(soup, ambient="sb", sample_key="donor")
    assert off["lfc_sd"][silent].mean() > 1.1 * unsaid["lfc_sd"][silent].mean()
    sure = np.abs(unsaid["lfc_mean"] - truth) > 3 * unsaid["lfc_sd"]
    assert sure[silent].sum() > (np.abs(off["lfc_mean"] - truth) > 3 * off["lfc_sd"])[silent].sum()


# --- what can be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"n_permutations": 2},
        {"sample_key": "donor", "n_permutations": 2},
        {"batch_key": "lane"},
        {"sample_key": "donor", "covariates": "lane"},
        {"subset": "lane == 'a'"},
        {"change_fn": lambda a, b: a - b},
        {"relative_to": "clr", "mode": "vanilla", "within": "lane"},
    ],
    ids=["cells", "donors", "batches", "covariates", "subset", "change", "within"],
)
def test_it_goes_with_other_questions(soup, how):
    soup.obs["lane"] = np.tile(["a", "b"], soup.n_obs // 2)
    sb.tl.de(soup, "condition", ["c1"], reference="c0", ambient="sb", progress=False, **how)
    table = sb.get.de(soup)
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    assert table.attrs["ambient"] == "sb"


def test_components_are_groups_too(soup):
    """Cells count as much as they belong to each; with certainty these are the groups of a column."""
    sb.tl.fit(soup, model="nbdm", n_components=2, n_steps=30, key_added="mix", progress=False)
    p = np.stack([soup.obs["condition"] == "c1", soup.obs["condition"] == "c0"], 1).astype(float)
    fit = sb.get.fit(soup, "mix")
    names = [str(name) for name in fit.components]
    write_result(soup, "assign", "mix", {("obsm", "probabilities"): p}, fit=fit, facts={"components": names})
    sb.tl.de(soup, key="mix", groups=names[:1], reference=names[1], ambient="sb")
    found = sb.get.de(soup, names[0]).set_index("names").loc[soup.var_names]
    pd.testing.assert_frame_equal(found, compared(soup, ambient="sb"), rtol=1e-6)
    p = p * 0.8 + 0.1
    write_result(soup, "assign", "mix", {("obsm", "probabilities"): p}, fit=fit, facts={"components": names})
    sb.tl.de(soup, key="mix", groups=names[:1], reference=names[1], ambient="sb")
    mixed = sb.get.de(soup, names[0]).set_index("names").loc[soup.var_names]
    of_mixed = found["ambient_1"] * 0.9 + found["ambient_2"] * 0.1
    assert np.corrcoef(mixed["ambient_1"], of_mixed)[0, 1] > 0.95


def test_sets_of_genes(soup):
    sets = sets_of(soup, 40)
    tables = {}
    for level_sd in (1e-3, 0.3):
        denoised(soup, soup.obs["rho"], level_sd=level_sd, sample_key="sample")
        compared(soup, ambient="sb", sample_key="donor", gene_sets=sets)
        tables[level_sd] = sb.get.de_sets(soup, "c1").set_index("names")
    truth = pd.Series({name: soup.var.loc[genes, "lfc"].mean() for name, genes in sets.items()})
    exact, off = (table.loc[truth.index] for table in tables.values())
    assert ((exact["ci_low"] <= truth) & (truth <= exact["ci_high"])).mean() > 0.8
    assert (off["lfc_sd"] > exact["lfc_sd"]).mean() > 0.8


def test_profiles_are_those_of_the_batch_of_each_cell(soup):
    """Batches in another order than that of cells, and columns by name."""
    expected = compared(soup, ambient="sb")
    own = (soup.obs["condition"] == "c1").to_numpy()
    of_cells = (
        soup.varm["soup"].T[soup.obs["sample"].cat.codes] * (soup.X.sum(1).A1 * soup.obs["rho"].to_numpy())[:, None]
    )
    share = of_cells[own].sum(0) / np.maximum(soup.X[own].sum(0).A1, 1e-9)
    seen = soup.X[own].sum(0).A1 > 0
    np.testing.assert_allclose(expected["ambient_1"][seen], np.minimum(share, 1)[seen], rtol=1e-6)
    order = np.random.default_rng(0).permutation(soup.n_obs)
    mixed = soup[order].copy()
    mixed.obs["sample"] = mixed.obs["sample"].astype(str)
    pd.testing.assert_frame_equal(compared(mixed, ambient="sb"), expected, rtol=1e-6)
    soup.varm["soup"] = soup.varm["soup"][:, ::-1].copy()
    assert not np.allclose(compared(soup, ambient="sb")["lfc_mean"], expected["lfc_mean"], atol=0.05)


def test_what_does_not_fit_is_refused(soup):
    how = {"groupby": "condition", "ambient": "sb"}
    with pytest.raises(ValueError, match="layer='sb_denoised'"):
        sb.tl.de(soup, **how, statistic="dispersion")
    with pytest.raises(KeyError, match=r"run sb\.tl\.denoise"):
        sb.tl.de(soup, "condition", ambient="other")
    with pytest.raises(ValueError, match="genes were left out"):
        sb.tl.de(soup[:, :400].copy(), **how)
    gone = soup.copy()
    gone.obs.loc[gone.obs_names[3], "sb_contamination"] = np.nan
    with pytest.raises(ValueError, match="1 cells have no"):
        sb.tl.de(gone, **how)
    sb.tl.de(gone, **how, subset=np.arange(10, soup.n_obs))
    renamed = soup.copy()
    renamed.obs["sample"] = renamed.obs["sample"].astype(str).replace("c0 d00", "x")
    renamed.varm["soup"] = renamed.varm["soup"][:, :-1]
    with pytest.raises(ValueError, match="7 columns"):
        sb.tl.de(renamed, **how)
    given = json.loads(renamed.uns["sb_denoise"]["result"])
    given["facts"]["ambient"] = None
    renamed.uns["sb_denoise"]["result"] = json.dumps(given)
    with pytest.raises(KeyError, match=r"profile=\.\.\."):
        sb.tl.de(renamed, **how)
    given["facts"]["ambient"] = "soup"
    renamed.uns["sb_denoise"]["result"] = json.dumps(given)
    del renamed.varm["soup"]
    with pytest.raises(KeyError, match="is missing"):
        sb.tl.de(renamed, **how)
    assert "sb_de" not in soup.uns


def test_levels_that_are_not_identified_are_said(soup):
    record = json.loads(soup.uns["sb_denoise"]["result"])
    record["facts"]["samples"]["all"]["identified"] = False
    soup.uns["sb_denoise"]["result"] = json.dumps(record)
    before, stream = (sc.settings.verbosity, sc.settings.logfile), io.StringIO()
    sc.settings.verbosity, sc.settings.logfile = "warning", stream
    compared(soup, ambient="sb")
    sc.settings.verbosity, sc.settings.logfile = before
    assert "not identified in the samples ['all']" in stream.getvalue()
