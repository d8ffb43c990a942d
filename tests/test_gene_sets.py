"""Gene sets in differential expression: against generalised least squares, on known effects, as tables and files."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scbayes as sb
from scbayes.models._effect_grid import TAU, Contrast, _variance_at_mode, responses
from scbayes.models._gene_sets import set_effects

_spec = spec_from_file_location("_donors", Path(__file__).parent / "benchmarks" / "_donors.py")
_module = sys.modules["_donors"] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
donors, sets_of = _module.donors, _module.sets_of

X = np.repeat([-0.5, 0.5], 4)


def contrast(y, exposure=100.0, noise=0.05) -> Contrast:
    y = np.asarray(y, float)
    design = np.column_stack([np.ones(8), X])
    exposure = np.broadcast_to(exposure, 8).astype(float)
    return Contrast(y, exposure, np.full(y.shape, noise), design, np.zeros((8, 0)), replicated=True)


def compared(adata: ad.AnnData, sets, **settings) -> pd.DataFrame:
    sb.tl.de(adata, "condition", ["c1"], reference="c0", **({"sample_key": "donor"} | settings), gene_sets=sets)
    return sb.get.de_sets(adata, "c1").set_index("names")


# --- units ------------------------------------------------------------------------------------------------------------


def test_responses_of_high_counts_are_their_logs_and_of_low_counts_linear():
    rng = np.random.default_rng(0)
    y = rng.poisson([[20000.0], [3.0]], (2, 8)).astype(float)
    value, variance, _ = responses(contrast(y, noise=1e-4), np.array([0.5, 0.02]))
    np.testing.assert_allclose(value[0], np.log(y[0] / 100), atol=2e-4)
    np.testing.assert_allclose(variance[0], 1 / y[0] + 1e-4, rtol=0.01)
    for arm in np.split(np.arange(8), 2):  # units of an arm have nearly the same mean
        slope = np.ptp(value[1][arm]) / np.ptp(y[1][arm])
        np.testing.assert_allclose(slope, variance[1][arm].mean(), rtol=0.05)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("low", [0.5, 2.0])
def test_responses_are_unbiased_where_one_arm_has_fewer_counts(low, paired):
    """Expected counts of ``low`` and five times that a unit, no effect, over many genes."""
    rng = np.random.default_rng(0)
    exposure = np.where(X > 0, low, 5 * low)
    log_mean = rng.normal(0, 0.3, (4000, 8)) + paired * np.tile(rng.normal(0, 0.3, (4000, 4)), 2)
    y = rng.poisson(exposure * np.exp(log_mean))
    y = y[y.sum(1) > 0]
    given = contrast(y, exposure, 1e-3)._replace(people=np.tile(np.eye(4), (2, 1)) if paired else np.zeros((8, 0)))
    value, variance, _ = responses(given, np.full(len(y), 0.3))
    found = value @ np.where(X > 0, 0.25, -0.25)
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(y)) + 0.02
    assert 0.5 < found.var() / ((variance + 0.3**2) / 16).sum(1).mean() < 1.1  # less where the prior tells, too


@pytest.mark.parametrize("n_people", [0, 4])
def test_variance_at_the_mode_is_that_of_all_effects_together(n_people):
    rng = np.random.default_rng(0)
    given = contrast(rng.poisson(20, (3, 8)))._replace(people=np.tile(np.eye(4), (2, 1))[:, :n_people])
    variance, spread = rng.uniform(0.05, 1, (3, 8)), np.array([[0.01], [0.1], [1.0]])
    found = _variance_at_mode(given, variance, spread)
    whole = np.concatenate([given.design, given.people, np.eye(8)], 1)  # columns, people, replicates
    for gene in range(3):
        prior = [4.0**-2, 2.0**-2, *[1.5**-2] * n_people, *1 / np.repeat(spread[gene], 8)]
        covariance = np.linalg.inv(np.diag(prior) + whole.T / variance[gene] @ whole)
        np.testing.assert_allclose(found[gene], np.diag(whole @ covariance @ whole.T), rtol=1e-9)


def test_a_set_of_high_counts_is_solved_by_generalised_least_squares():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.2, 8)
    eta = rng.normal(3, 1, (20, 1)) + 0.4 * X + shared + rng.normal(0, 0.1, (20, 8))
    y = rng.poisson(1e4 * np.exp(eta))
    given = contrast(y, 1e4, 1e-3)
    weight = sparse.csr_matrix(np.full((1, 20), 1 / 20))
    found = set_effects(given, np.full(20, 0.25), weight, 0.0)
    mean = np.log(y / 1e4).mean(0)
    expected = mean[X > 0].mean() - mean[X < 0].mean()
    assert found.mean()[0] == pytest.approx(expected, abs=0.01)
    pooled = np.sqrt((mean[X > 0].var(ddof=1) + mean[X < 0].var(ddof=1)) / 2)
    assert found.spread()[0] == pytest.approx(pooled, rel=0.4)
    low, high = found.quantile(0.025)[0], found.quantile(0.975)[0]
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 6) * pooled / np.sqrt(2), rel=0.35)


def test_one_gene_is_a_set_with_nearly_its_own_interval():
    rng = np.random.default_rng(0)
    adata = donors(4, 300)
    genes = adata.var_names[rng.permutation(300)[:60]]
    table = compared(adata, {gene: [gene] for gene in genes})
    of_genes = sb.get.de(adata, "c1").set_index("names").loc[table.index]
    near = np.abs(table["lfc_mean"] - of_genes["lfc_mean"]) / of_genes["lfc_sd"]
    assert near.median() < 0.1
    assert near.max() < 0.6
    assert (table["lfc_sd"] / of_genes["lfc_sd"]).median() == pytest.approx(1, abs=0.25)


# --- known effects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0.0, 0.2], ids=["genes vary on their own", "genes vary together"])
def test_intervals_hold_the_mean_of_the_genes_effects(shared):
    covered, alone, called = [], [], 0
    for seed in range(6):
        adata = donors(4, 600, 60, changed=0, set_size=25, together=shared, seed=seed)
        sets = sets_of(adata, 25)
        table = compared(adata, sets)
        covered += list((table["ci_low"] <= 0) & (table["ci_high"] >= 0))
        of_genes = sb.get.de(adata, "c1").set_index("names")
        for genes in sets.values():
            own = of_genes.loc[genes][~of_genes.loc[genes, "data_poor"]]
            alone.append(abs(own["lfc_mean"].mean()) < 1.96 * np.sqrt((own["lfc_sd"] ** 2).sum()) / len(own))
        called += table["is_de"].sum()
    assert 0.88 < np.mean(covered) <= 1
    assert called <= 1
    assert (np.mean(alone) < 0.7) == (shared > 0)


def test_without_samples_errors_are_those_of_independent_genes():
    adata = donors(2, 300, 60, set_size=25)
    sets = sets_of(adata, 25)
    table, own = compared(adata, sets, sample_key=None), sb.get.de(adata, "c1").set_index("names")
    for name, genes in sets.items():
        told = own.loc[genes][~own.loc[genes, "data_poor"]]
        assert table.loc[name, "n_genes"] == len(told)
        assert table.loc[name, "lfc_sd"] == pytest.approx(np.sqrt((told["lfc_sd"] ** 2).sum()) / len(told), rel=0.15)


def test_a_set_with_an_effect_is_found_among_others():
    adata = donors(4, 600, 60, changed=0, set_size=25, together=0.05)
    sets = sets_of(adata, 25)
    x = adata.X.toarray()
    up = adata.var_names.isin(sets["set 3"])
    x[np.ix_(adata.obs["condition"] == "c1", up)] *= 2
    adata.X = x
    table = compared(adata, sets)
    assert list(table.index[table["is_de"]]) == ["set 3"]
    assert table.index[0] == "set 3"
    assert table["lfc_mean"].iloc[0] == pytest.approx(1, abs=0.2)
    assert table["share_up"].iloc[0] > 0.5 > 5 * table["share_up"].iloc[1:].max()
    assert compared(adata, sets, delta=1.2)["is_de"].sum() == 0


@pytest.mark.parametrize("sample_key", ["donor", None])
def test_weights_count_and_the_other_sign_turns_everything(sample_key):
    adata = donors(3, 200, effect_sd=1.5)
    rng = np.random.default_rng(0)
    genes = adata.var_names[:40]
    table = pd.DataFrame({"source": "one", "target": genes, "weight": rng.normal(size=40)})
    one = compared(adata, table, sample_key=sample_key).loc["one"]
    other = compared(adata, table.assign(weight=-7 * table["weight"]), sample_key=sample_key).loc["one"]
    assert other["lfc_mean"] == pytest.approx(-one["lfc_mean"], abs=1e-6)
    assert other["ci_low"] == pytest.approx(-one["ci_high"], abs=1e-5)
    assert other["share_up"] == pytest.approx(
        1 - one["share_up"] - shares_of_none(adata, table), abs=1e-6
    )  # up, down and neither are all
    of_genes = sb.get.de(adata, "c1").set_index("names").loc[genes]
    weight = np.where(of_genes["data_poor"], 0, table["weight"])
    expected = weight @ of_genes["lfc_mean"] / np.abs(weight).sum()
    assert one["lfc_mean"] == pytest.approx(expected, abs=0.3 * one["lfc_sd"] + 0.01)


def shares_of_none(adata: ad.AnnData, table: pd.DataFrame) -> float:
    of_genes = sb.get.de(adata, "c1").set_index("names").loc[table["target"]]
    weight = np.where(of_genes["data_poor"], 0, np.abs(table["weight"]))
    return weight @ (1 - of_genes["p_de"]) / weight.sum()


def test_one_set_is_much_the_same_alone_and_among_many():
    adata = donors(4, 600, 60, set_size=25, together=0.1)
    sets = sets_of(adata, 25)
    among = compared(adata, sets)
    for name in ("set 0", "set 7"):
        alone = compared(adata, {name: sets[name]}).loc[name]
        assert alone["lfc_mean"] == pytest.approx(among.loc[name, "lfc_mean"], abs=0.1 * alone["lfc_sd"])
        assert alone["lfc_sd"] == pytest.approx(among.loc[name, "lfc_sd"], rel=0.2)


@pytest.mark.parametrize("spread", [0.1, 0.9])
def test_the_prior_of_the_spread_lies_between_that_of_genes_apart_and_together(spread):
    """Where units tell nothing."""
    given = contrast(np.zeros((50, 8)))._replace(kind="values", noise=np.full((50, 8), 1e6))
    found = set_effects(given, np.full(50, spread), sparse.csr_matrix(np.full((1, 50), 0.02)), 0.0)
    assert max(spread / np.sqrt(50), TAU[0]) < found.spread()[0] < spread
    assert found.spread()[0] == pytest.approx(spread * 50**-0.25, rel=0.4)


# --- what is given and what is written --------------------------------------------------------------------------------


def test_tables_and_mappings_are_the_same_and_unknown_genes_are_left_out():
    adata = donors(3, 100, 30)
    sets = {"a": ["g1", "g2", "g3", "g3", "nowhere"], "b": list(adata.var_names[10:30])}
    rows = [(name, gene) for name, genes in sets.items() for gene in genes]
    expected = compared(adata, sets)
    assert expected["n_genes"].to_dict() == {"a": 3, "b": 20}
    found = compared(adata, pd.DataFrame(rows, columns=["source", "target"]))
    pd.testing.assert_frame_equal(found, expected)
    found = compared(adata, sets | {"c": ["nowhere"], "d": []})
    pd.testing.assert_frame_equal(found, expected)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_allclose(compared(adata[:, order].copy(), sets)["lfc_mean"], expected["lfc_mean"], atol=1e-8)


def test_the_log_counts_unknown_genes(capsys):
    import scanpy as sc

    adata = donors(2, 60, 20)
    before = sc.settings.verbosity, sc.settings.logfile
    try:
        sc.settings.verbosity, sc.settings.logfile = 3, sys.stdout
        compared(adata, {"a": ["g1", "g2", "no"], "b": ["g3"], "c": ["neither"]})
    finally:
        sc.settings.verbosity, sc.settings.logfile = before
    said = capsys.readouterr().out
    assert "'a': '2 of 3'" in said
    assert "'b'" not in said
    assert "left out: ['c']" in said


def test_results_survive_files(tmp_path):
    adata = donors(3, 60, 40)
    adata.obs["condition"] = adata.obs["condition"].map({"c0": "a/b", "c1": "x \"y' é"}).astype("category")
    sets = {'IFN/α "response"': ["g1", "g2"], "": ["g3", "g4", "g5"], "a, b": ["g6"]}
    sb.tl.de(adata, "condition", sample_key="donor", gene_sets=sets, level=[0.9, 0.5])
    expected = sb.get.de_sets(adata)
    assert set(expected["names"]) == set(sets)
    assert list(expected["group"].unique()) == ["a/b", "x \"y' é"]
    assert (expected["ci_low_50"] >= expected["ci_low"]).all()
    bound = np.maximum(expected["ci_low"], 0) - np.minimum(expected["ci_high"], 0)
    assert all(np.diff(part).max() <= 1e-12 for _, part in bound.groupby(expected["group"]))
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        getattr(adata, f"write_{suffix}")(tmp_path / f"de.{suffix}")
        pd.testing.assert_frame_equal(sb.get.de_sets(read(tmp_path / f"de.{suffix}")), expected, check_dtype=False)


def test_where_there_is_nothing_numbers_are_finite():
    adata = donors(2, 30, 20)
    x = adata.X.toarray()
    x[:, :3] = 0
    adata.X = x
    table = compared(adata, {"nowhere": ["g0", "g1"], "some": ["g2", "g3", "g4"]})
    assert table["n_genes"].to_dict() == {"nowhere": 0, "some": 2}
    assert table.loc["nowhere", "lfsr"] == 1
    assert not table.loc["nowhere", "is_de"]
    x[adata.obs["condition"] == "c1"] = 0
    adata.X = x
    for sample_key in ("donor", None):
        table = compared(adata, {"some": ["g2", "g3", "g4"]}, sample_key=sample_key)
        assert np.isfinite(table.select_dtypes("number")).all(axis=None)
        assert (table["n_genes"] == 0).all()


@pytest.mark.parametrize("settings", [{"mode": "vanilla"}, {"statistic": "dispersion"}, {"n_permutations": 2}], ids=str)
def test_other_questions_have_sets_too(settings):
    adata = donors(3, 100, 40)
    table = compared(adata, {"a": adata.var_names[:50], "b": adata.var_names[50:]}, progress=False, **settings)
    assert np.isfinite(table.select_dtypes("number")).all(axis=None)
    assert (table["ci_low"] < table["ci_high"]).all()


WRONG = {
    "string": ({"a": "g1"}, TypeError, "'a'.*is a string"),
    "list": (["g1", "g2"], TypeError, "gene_sets is list"),
    "columns": (pd.DataFrame({"source": ["a"], "gene": ["g1"]}), KeyError, "no column.*target"),
    "unknown": ({"a": ["x"], "b": ["y"]}, ValueError, "no gene of any set.*'a', 'b'"),
    "empty": ({}, ValueError, "gene_sets is empty"),
    "weight": (pd.DataFrame({"source": "a", "target": ["g1"], "weight": np.nan}), ValueError, "not finite"),
}


@pytest.mark.parametrize(("sets", "error", "match"), WRONG.values(), ids=WRONG)
def test_bad_sets_are_named(sets, error, match):
    adata = donors(2, 30, 20)
    with pytest.raises(error, match=match):
        sb.tl.de(adata, "condition", gene_sets=sets)
    assert "sb_de" not in adata.uns


def test_without_sets_there_are_none_to_read():
    adata = donors(2, 30, 20)
    sb.tl.de(adata, "condition", sample_key="donor")
    with pytest.raises(KeyError, match="no gene sets"):
        sb.get.de_sets(adata)
    sb.tl.de(adata, "condition", sample_key="donor", gene_sets={"a": ["g1"]})
    with pytest.raises(KeyError, match="no group 'x'"):
        sb.get.de_sets(adata, "x")
