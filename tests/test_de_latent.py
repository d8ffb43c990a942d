"""Differential expression through a decoder: sums against brute force, batches, null calibration, errors, reload."""

import io

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import scbayes as sb
from scbayes.counts._by_unit import Members
from scbayes.models import _decoded_units
from scbayes.models._decoded_units import DecodedUnits
from scbayes.models._effect_grid import Contrast, on_grid
from scbayes.models._translation import UNTOLD, translation_spread
from scbayes.models._units import Units, inverse_sizes, size_factors
from scbayes.tl._de_latent import read_cells
from scbayes.tl._latent_reading import read_latent_with_counts

SETTINGS = {"max_epochs": 40, "n_hidden": 32, "n_latent": 4, "batch_size": 64}
GIVEN = {
    "key": "sb",
    "groupby": "type",
    "idx1": None,
    "statistic": "mean",
    "layer": None,
    "ambient": None,
    "transform_batch": None,
    "batch_correction": True,
    "use_observed_batches": False,
    "weights": "uniform",
    "filter_outlier_cells": False,
    "fitted": None,
}


def two_types(n_cells: int = 600, n_genes: int = 80, seed: int = 0) -> ad.AnnData:
    """Two types of cells, which differ in a fifth of the genes, in two batches, which differ in all."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(2, size=(2, n_cells))
    lfc = np.where(np.arange(n_genes) < n_genes // 5, rng.choice([-1.5, 1.5], n_genes), 0.0)
    log_rho = rng.normal(0, 1, n_genes) + np.outer(kind, lfc * np.log(2)) + np.outer(batch, rng.normal(0, 0.5, n_genes))
    rho = np.exp(log_rho)
    rho /= rho.sum(1, keepdims=True)
    size = np.exp(rng.normal(np.log(1500), 0.3, n_cells))
    x = rng.poisson(rng.gamma(5, 1 / 5, rho.shape) * rho * size[:, None]).astype(np.float32)
    obs = {
        "type": pd.Categorical(np.array(["A", "B"])[1 - kind]),
        "batch": pd.Categorical(np.array(["b0", "b1"])[batch]),
    }
    obs |= {"donor": pd.Categorical([f"d{i}" for i in rng.integers(4, size=n_cells)])}
    obs = pd.DataFrame(obs, index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame({"lfc": lfc}, index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=var)


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = two_types()
    sb.tl.fit(adata, model="vae", batch_key="batch", config=SETTINGS, progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


def table(adata: ad.AnnData, groupby: str | None = "type", **how) -> pd.DataFrame:
    groups = {} if groupby is None else {"groups": ["A"], "reference": "B"}
    sb.tl.de(adata, groupby, **groups, progress=False, **({"key": "sb"} | how))
    return sb.get.de(adata, "idx1" if groupby is None else "A").set_index("names").loc[adata.var_names]


def by_types_in_one_batch(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Cells of A in b0, and of B in b1."""
    kind, batch = adata.obs["type"], adata.obs["batch"]
    return {"idx1": ((kind == "A") & (batch == "b0")).to_numpy(), "idx2": ((kind == "B") & (batch == "b1")).to_numpy()}


# --- sums against brute force -----------------------------------------------------------------------------------------


def certain(adata: ad.AnnData, **given):
    """The decoder with latent numbers that are known."""
    decoder = read_cells(adata, GIVEN | given, 0).decoder
    return decoder._replace(scale=0 * decoder.scale)


def compositions(adata: ad.AnnData, code: int | None) -> np.ndarray:
    """Of all cells at the means of q, as if they were of one batch."""
    reading = read_latent_with_counts(adata, "sb")
    inputs = reading.at(np.arange(adata.n_obs), code)
    return np.exp(np.asarray(reading.model.decode(inputs, jnp.asarray(reading.fit.loc)).log_share, float))


@pytest.mark.parametrize(
    ("given", "codes"),
    [({}, (0, 1)), ({"transform_batch": "b1"}, (1,)), ({"use_observed_batches": True}, (None,))],
    ids=["all", "one", "observed"],
)
def test_exposures_and_compositions_are_those_of_all_cells(adata, monkeypatch, given, codes):
    monkeypatch.setattr(_decoded_units, "N_CELLS", adata.n_obs)
    decoder, rng = certain(adata, **given), np.random.default_rng(0)
    unit, weight = rng.integers(3, size=adata.n_obs), rng.uniform(0.2, 1, adata.n_obs)
    members = Members(np.arange(adata.n_obs + 1), unit, weight, 3)
    strata, of = decoder._replace(wanted=np.ones(3, bool)).strata(members)
    size = np.asarray(adata.X.sum(1)).ravel()
    found = decoder._replace(wanted=np.ones(3, bool)).by_stratum(strata, of, size)
    own, shared = compositions(adata, None), np.mean([compositions(adata, code) for code in codes], 0)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    exposure, under = np.zeros((3, adata.n_vars)), np.zeros((3, 2, adata.n_vars))
    for u in range(3):
        under[u] = [weight[unit == u] @ compositions(adata, code)[unit == u] for code in (0, 1)]
        for b in range(2):
            here = (unit == u) & (batch == b)
            native = (weight * size)[here] @ own[here]  # sums to the size factors of these cells
            exposure[u] += native / (weight[here] @ shared[here] / weight[here].sum())
    joined = np.stack([found.exposure[of == u].sum(0).mean(0) for u in range(3)])
    np.testing.assert_allclose(joined, exposure, rtol=2e-3)
    np.testing.assert_allclose(np.stack([found.under[of == u].sum(0) for u in range(3)]), under, rtol=2e-3)
    assert found.exposure.std(1).max() < 1e-4 * exposure.max()  # nothing is unknown
    by_batch = np.stack([np.bincount(unit, weight * size * (batch == b), 3) for b in range(2)], 1)
    np.testing.assert_allclose(np.stack([found.by_batch[of == u].sum(0) for u in range(3)]), by_batch)


def test_cells_beyond_a_block_are_sampled_and_their_error_is_told(adata, monkeypatch):
    size, members = np.ones(adata.n_obs), Members(np.arange(601), np.zeros(600, int), np.ones(600), 1)
    found = {}
    for n_cells in (16, 600):
        monkeypatch.setattr(_decoded_units, "N_CELLS", n_cells)
        decoder = certain(adata)._replace(wanted=np.ones(1, bool))
        sums = decoder.by_stratum(*decoder.strata(members), size)
        found[n_cells] = sums.each(lambda part: part.sum(0, keepdims=True))
    some, all_ = found[16], found[600]
    error = np.log(some.exposure.mean(1) / all_.exposure.mean(1))[0]
    stated = np.sqrt(some._replace(asked=None).variance()[0])
    assert np.abs(error).max() > 1e-4
    assert np.sqrt(np.mean(error**2)) < 1.5 * np.sqrt(np.mean(stated**2))


def test_random_cells_are_compared_as_all_pairs_are(adata):
    decoder, kind = certain(adata), adata.obs["type"].to_numpy()
    arms = [(np.flatnonzero(kind == name), np.ones((kind == name).sum())) for name in "AB"]
    found = decoder.p_higher(*arms, 20_000)
    p = np.zeros(adata.n_vars)
    for code in (0, 1):
        rho = compositions(adata, code)
        own, other = rho[kind == "A"], rho[kind == "B"]
        p += np.mean(own[:, None] > other[None], (0, 1)) / 2
    np.testing.assert_allclose(found, p, atol=5 * 0.5 / np.sqrt(20_000) + 1e-4)


def test_importance_draws_come_from_the_posterior(adata):
    reading = read_latent_with_counts(adata, "sb")
    ids = np.arange(4)
    wide = reading.fit.scale[ids] * 1.7
    inputs = reading.at(ids)
    draw = _decoded_units._resampled(reading.model)
    loc = jnp.asarray(reading.fit.loc[ids])
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = np.stack([np.asarray(draw(inputs, loc, jnp.asarray(wide), key)) for key in keys])
    rng = np.random.default_rng(0)
    v = reading.fit.loc[ids] + wide * rng.standard_normal((40_000, 4, wide.shape[1])).astype(np.float32)
    likely = jax.jit(lambda v: reading.model.counts(inputs, v).log_prob(inputs.cells.counts))
    log_p = np.concatenate([np.asarray(likely(part)) for part in np.split(v, 40)])
    log_w = log_p - 0.5 * np.sum(v**2, -1) + 0.5 * np.sum(((v - reading.fit.loc[ids]) / wide) ** 2, -1)
    weight = np.exp(log_w - log_w.max(0))
    weight /= weight.sum(0)
    mean = np.einsum("sb,sbd->bd", weight, v)
    sd = np.sqrt(np.einsum("sb,sbd->bd", weight, v**2) - mean**2)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.35 * sd.max())
    assert np.abs(drawn.std(0) / sd - 1).max() < np.abs(wide / sd - 1).max()


def test_exposures_of_genes_are_offsets():
    rng = np.random.default_rng(0)
    y, factor = rng.poisson(50, (6, 4)).astype(float), rng.uniform(0.5, 2, (6, 4))
    design = np.column_stack([np.ones(4), [-0.5, -0.5, 0.5, 0.5]])
    parts = np.full((6, 4), 0.05), design, np.zeros((4, 0)), False
    same, own = (on_grid(Contrast(y, exposure, *parts)) for exposure in (np.full(4, 100.0), np.full((6, 4), 100.0)))
    np.testing.assert_allclose(own.effect, same.effect)
    both = np.where(design[:, 1] > 0, factor[:, :1], 1.0)
    moved = on_grid(Contrast(y, 100.0 * both, *parts))
    shift = np.log(factor[:, :1])
    shrunk = 1 - same.variance / 4  # of the wide prior, standard deviation 2
    np.testing.assert_allclose(same.effect - moved.effect, shrunk * shift, atol=2e-3)


def strata(spread: float, seed: int = 0) -> tuple[Units, np.ndarray]:
    """Three units in two batches, whose translations have errors."""
    rng = np.random.default_rng(seed)
    n_genes, unit = 2000, np.repeat(np.arange(3), 2)
    mean = np.exp(rng.normal(4, 1, (3, n_genes)))[unit]
    total = rng.poisson(mean * np.exp(spread * rng.standard_normal((6, n_genes)))).astype(float)
    exposure = np.full(6, 100.0)
    by_batch = np.tile(np.eye(2) * 100, (3, 1))
    decoded = DecodedUnits(np.full((6, 3, n_genes), 100.0, np.float32), np.ones((6, 2, n_genes)), by_batch, None)
    squares = total + (total / 100) ** 2 * 100  # as of Poisson counts
    return Units(total, squares, total, exposure, exposure, exposure, decoded=decoded), unit


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_errors_of_translations_are_told_by_units_in_several_batches(spread):
    found, told = translation_spread(*strata(spread))
    assert told
    assert found == pytest.approx(spread, rel=0.1, abs=0.03)
    units, _ = strata(spread)
    assert translation_spread(units, np.arange(6)) == (UNTOLD, False)


def test_errors_of_translations_matter_as_far_as_batches_differ_from_those_asked_for():
    by_batch = np.array([[5.0, 5.0], [10.0, 0.0], [9.0, 1.0]])
    one = DecodedUnits(np.ones((3, 2, 1), np.float32), np.ones((3, 2, 1)), by_batch, np.array([0.5, 0.5]), 0.2)
    np.testing.assert_allclose(one.variance()[:, 0], 2 * 0.04 * np.array([0, 0.5, 0.32]))
    assert not one._replace(asked=None).variance().any()
    twice = one.scaled(np.array([2.0, 2.0, 2.0]))
    np.testing.assert_allclose(twice.variance(), one.variance())
    np.testing.assert_allclose(twice.exposure, 2 * one.exposure)


def test_what_batches_do_is_less_sure_where_the_decoder_says_that_it_differs_between_units():
    rng, n_genes, sd = np.random.default_rng(0), 4000, np.array([0.1, 0.4])
    level = np.repeat([-8.0, 0.0], n_genes // 2)
    log = level + rng.normal(0, 0.5, (3, 1, n_genes)) + rng.normal(0, 0.5, (2, n_genes))  # units, batches
    own = np.repeat(sd, n_genes // 2) * rng.standard_normal((3, 2, n_genes))
    exposure, by_batch = np.ones((3, 2, n_genes), np.float32), np.tile([5.0, 0.0], (3, 1))
    found = DecodedUnits(exposure, np.exp(log + own), by_batch, np.array([0.0, 1.0]))
    usual = found.disagreement().reshape(2, -1)
    assert (usual.min(1) > 0.3 * sd**2).all()
    assert (np.median(usual, 1) < 2 * sd**2).all()
    np.testing.assert_allclose(found.variance(), np.tile(4 * found.disagreement(), (3, 1)))
    assert not found._replace(under=found.under[:1]).disagreement().any()


def test_exposures_of_genes_go_into_size_factors_and_moments():
    units, _ = strata(0.0)
    ratio = np.exp(np.random.default_rng(1).normal(0, 0.5, units.total.shape))
    moved = units._replace(
        total=units.total * ratio,
        squares=units.total * ratio + (units.squares - units.total) * ratio**2,
        decoded=units.decoded._replace(exposure=(100 * ratio[:, None]).astype(np.float32)),
    )
    np.testing.assert_allclose(size_factors(moved), size_factors(units), rtol=0.02)
    arm = np.zeros(6, int)
    np.testing.assert_allclose(inverse_sizes(moved, arm), inverse_sizes(units, arm), atol=5e-3)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_effects_are_those_of_the_cells_and_are_covered(adata):
    found, truth = table(adata), adata.var["lfc"]
    counts = table(adata, key=None)
    assert found["is_de"][truth != 0].mean() > 0.9
    assert (found["is_de"] & (truth == 0)).sum() <= 3
    assert ((found["ci_low"] <= truth) & (truth <= found["ci_high"])).mean() > 0.85
    assert np.corrcoef(found["lfc_mean"], counts["lfc_mean"])[0, 1] > 0.99
    np.testing.assert_allclose(found["lfc_sd"].median(), counts["lfc_sd"].median(), rtol=0.3)
    ratio = np.log2(found["decoded_1"] / found["decoded_2"])
    assert np.corrcoef(ratio, truth)[0, 1] > 0.9
    assert found.attrs["under_batches"] == ["b0", "b1"]


def test_batches_are_told_from_types_where_counts_cannot(adata):
    """A is of one batch and B of the other: the other cells of both tell what batches do."""
    cells, truth = by_types_in_one_batch(adata), adata.var["lfc"]
    found, observed, counts = (
        table(adata, None, **cells, **how) for how in ({}, {"batch_correction": False}, {"key": None})
    )
    error = {
        name: np.sqrt(np.mean((one["lfc_mean"] - truth) ** 2))
        for name, one in (("found", found), ("observed", observed), ("counts", counts))
    }
    assert error["found"] < 0.5 * error["counts"]
    assert error["observed"] == pytest.approx(error["counts"], rel=0.05)
    assert (found["is_de"] & (truth == 0)).sum() < 0.2 * (counts["is_de"] & (truth == 0)).sum()
    assert ((found["ci_low"] <= truth) & (truth <= found["ci_high"])).mean() > 0.9
    assert found["lfc_sd"].median() > counts["lfc_sd"].median()  # translations are not known exactly
    assert found.attrs["learned"]["idx1"]["translation_spread"] == UNTOLD


def test_nothing_is_found_between_halves_and_fewer_cells_are_less_sure(adata):
    rng, sds = np.random.default_rng(0), []
    kind = np.flatnonzero(adata.obs["type"] == "A")
    for n in (20, 100):
        cells = rng.permutation(kind)
        found = table(adata, None, idx1=cells[:n], idx2=cells[n : 2 * n])
        assert found["is_de"].sum() <= 1
        assert found["p_de"].median() < 0.05
        assert 0.9 < ((found["ci_low"] < 0) & (found["ci_high"] > 0)).mean() <= 1
        sds.append(found["lfc_sd"].median())
    assert sds[0] > 1.6 * sds[1]


def test_donors_are_replicates(adata):
    cells, donors = table(adata), table(adata, sample_key="donor")
    assert not donors.attrs["descriptive"]
    assert donors["lfc_sd"].median() > cells["lfc_sd"].median()
    assert np.corrcoef(donors["lfc_mean"], cells["lfc_mean"])[0, 1] > 0.99


def test_vanilla_asks_about_means_and_about_random_cells(adata):
    found = table(adata, mode="vanilla", n_samples=1000)
    up = adata.var["lfc"] > 0
    assert found["p_up"][up].min() > 0.9
    assert found["p_cell_up"][up].min() > 0.5
    np.testing.assert_allclose(found["log_odds_cell_up"], np.log(found["p_cell_up"] / (1 - found["p_cell_up"])))
    assert "p_cell_up" not in table(adata)


def test_weights_and_far_cells(adata):
    whole = table(adata)
    half = np.where(np.arange(adata.n_obs) % 2 == 0, 1.0, 0.0)
    weighted, chosen = table(adata, weights=half), table(adata, subset=half == 1)
    np.testing.assert_allclose(weighted["lfc_mean"], chosen["lfc_mean"], atol=1e-6)
    assert np.abs(weighted["lfc_mean"] - whole["lfc_mean"]).max() > 1e-3
    important = table(adata, weights="importance")
    np.testing.assert_allclose(important["lfc_mean"], whole["lfc_mean"], atol=0.1)
    near = table(adata, filter_outlier_cells=True)
    assert near["pct_1"].ne(whole["pct_1"]).any()
    assert near.attrs["filter_outlier_cells"]


def test_same_seed_same_result_and_after_reload(adata, tmp_path):
    first = table(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sb.get.de(again, "A").set_index("names").loc[adata.var_names], first)
    pd.testing.assert_frame_equal(table(again), first)
    assert not table(adata, rng=1).equals(first)


def test_new_cells_and_a_fit_without_cells(adata):
    new = two_types(seed=0)[:300, ::-1].copy()
    new.obs_names = [f"new {name}" for name in new.obs_names]
    alone = sb.get.fit(adata).to_anndata()
    found = table(new, fitted=alone)
    same = table(adata, subset=np.arange(300)).loc[found.index]
    np.testing.assert_allclose(found["lfc_mean"], same["lfc_mean"], atol=0.02)
    assert list(new.obs) == ["type", "batch", "donor"]


def test_gene_sets_and_permutations_go_through_the_decoder(adata):
    sets = {"changed": adata.var_names[adata.var["lfc"] > 0], "others": adata.var_names[40:60]}
    found = table(adata, gene_sets=sets, n_permutations=2)
    sets = sb.get.de_sets(adata, "A").set_index("names")
    assert sets["lfc_mean"]["changed"] > 1 > abs(sets["lfc_mean"]["others"])
    assert max(found.attrs["permuted"]["A"]["n_called"]) <= 2


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"groupby": None}, ValueError, "give groupby or idx1"),
        ({"statistic": "dispersion"}, ValueError, "leave key out"),
        ({"weights": "some"}, ValueError, "unknown weights='some'"),
        ({"weights": np.ones(3)}, ValueError, "for each of the 600 cells"),
        ({"weights": np.full(600, 2.0)}, ValueError, "from 0 to 1"),
        ({"transform_batch": "b7"}, ValueError, "does not know"),
        ({"transform_batch": "b1", "batch_correction": False}, ValueError, "batch_correction=False leaves"),
        ({"transform_batch": "b1", "use_observed_batches": True}, ValueError, "use_observed_batches=True leaves"),
        ({"fitted": 3}, TypeError, "AnnData"),
        ({"key": None, "transform_batch": "b1"}, ValueError, "transform_batch: for a fit with a latent space"),
        ({"key": None, "batch_correction": False}, ValueError, "batch_correction: for a fit"),
    ],
)
def test_errors_say_what_is_wrong_and_nothing_is_written(adata, how, error, said):
    before = list(adata.uns)
    with pytest.raises(error, match=said):
        sb.tl.de(adata, **({"groupby": "type", "key": "sb"} | how), progress=False)
    assert list(adata.uns) == before


def test_groups_that_are_the_batches_are_said(adata):
    sc.settings.logfile, before, level = io.StringIO(), sc.settings.logfile, sc.settings.verbosity
    try:
        sc.settings.verbosity = 1
        table(adata)
        assert "no batch of the fit in common" not in sc.settings.logfile.getvalue()
        sb.tl.de(adata, "batch", key="sb", progress=False)
        assert "['b0', 'b1'] and what they are compared with have no batch" in sc.settings.logfile.getvalue()
    finally:
        sc.settings.logfile, sc.settings.verbosity = before, level
