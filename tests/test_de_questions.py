"""What may be asked of differential expression: which cells, which effects, which probabilities."""

import io
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

import scbayes as sb

_spec = spec_from_file_location("_donors", Path(__file__).parent / "benchmarks" / "_donors.py")
_module = sys.modules["_donors"] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
donors = _module.donors


@pytest.fixture(scope="module")
def _cells():
    """Two conditions, 4 donors each; types and batches that do not matter."""
    adata = donors(4, 120, 60, effect_sd=1.0)
    rng = np.random.default_rng(0)
    adata.obs["type"] = rng.choice(["a", "b"], adata.n_obs)
    adata.obs["batch"] = rng.choice(["x", "y", "z"], adata.n_obs)
    return adata


@pytest.fixture
def cells(_cells):
    return _cells.copy()


@pytest.fixture
def log():
    """What scanpy's log says."""
    before, stream = (sc.settings.verbosity, sc.settings.logfile), io.StringIO()
    sc.settings.verbosity, sc.settings.logfile = "warning", stream
    yield stream.getvalue
    sc.settings.verbosity, sc.settings.logfile = before


def found(adata, *args, group="c1", **settings) -> pd.DataFrame:
    sb.tl.de(adata, *args, **({"progress": False} | settings))
    return sb.get.de(adata, group).set_index("names").loc[adata.var_names]


def by_condition(adata, **settings) -> pd.DataFrame:
    how = {"groupby": "condition", "groups": ["c1"], "reference": "c0", "sample_key": "donor"}
    return found(adata, **(how | settings))


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    np.testing.assert_allclose(one.select_dtypes("number"), other.select_dtypes("number"), rtol=1e-6, atol=1e-8)


# --- which cells ------------------------------------------------------------------------------------------------------

GIVEN = {
    "mask": lambda adata, here: here.to_numpy(),
    "positions": lambda adata, here: np.flatnonzero(here),
    "list of positions": lambda adata, here: np.flatnonzero(here).tolist(),
    "names": lambda adata, here: adata.obs_names[here],
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_two_sets_of_cells_are_two_groups(cells, given):
    one, other = cells.obs["condition"] == "c1", cells.obs["condition"] == "c0"
    expected = by_condition(cells)
    sets = {"idx1": given(cells, one), "idx2": given(cells, other)}
    assert_same(found(cells, **sets, sample_key="donor", group="idx1"), expected)
    assert sb.get.de(cells).attrs["reference"] == "idx2"
    assert_same(found(cells, idx1=sets["idx1"], sample_key="donor", group="idx1"), expected)  # all others
    assert sb.get.de(cells).attrs["reference"] == "rest"


def test_cells_may_be_given_as_queries(cells):
    expected = by_condition(cells[cells.obs["type"] == "a"].copy())
    assert_same(by_condition(cells, subset="type == 'a'"), expected)
    query = {"idx1": "condition == 'c1' and type == 'a'", "idx2": "condition == 'c0' and type == 'a'"}
    assert_same(found(cells, **query, sample_key="donor", group="idx1"), expected)


def test_within_compares_in_each_category(cells):
    both = {level: by_condition(cells[cells.obs["type"] == level].copy(), min_cells=1) for level in ("a", "b")}
    sb.tl.de(cells, "condition", ["c1"], reference="c0", sample_key="donor", within="type", progress=False)
    assert sb.get.de(cells).attrs["groups"] == ["a: c1", "b: c1"]
    for level, expected in both.items():
        assert_same(sb.get.de(cells, f"{level}: c1").set_index("names").loc[cells.var_names], expected)
    assert len(cells.uns["sb_de"]["names"]["a: c1"]) == cells.n_vars


def test_groups_of_components_count_cells_as_much_as_they_belong(cells):
    """With probabilities of 0 and 1 components are the groups of a column."""
    rng = np.random.default_rng(0)
    mixed = sb.datasets.simulate("nbvcp", n_cells=300, n_genes=40, n_components=2, log_mean=(2, 1), rng=1)
    mixed.obs["donor"] = rng.choice(["d0", "d1", "d2"], 300)
    sb.tl.fit(mixed, n_components=2, progress=False)
    sb.tl.assign(mixed)
    p = mixed.obsm["sb_probabilities"]
    sb.tl.de(mixed, key="sb", sample_key="donor", progress=False)
    soft = sb.get.de(mixed)
    assert soft.attrs["groups"] == sb.get.fit(mixed).components
    assert soft.attrs["double_use"]
    mixed.obsm["sb_probabilities"] = np.eye(2)[p.argmax(1)]
    sb.tl.de(mixed, key="sb", sample_key="donor", progress=False)
    hard = sb.get.de(mixed)
    sb.tl.de(mixed, "sb_assignment", sample_key="donor", progress=False)
    assert_same(hard, sb.get.de(mixed))
    assert sb.get.de(mixed).attrs["double_use"]
    top = hard["names"][:10]
    same = [table.query("group == @table.group[0]").set_index("names").loc[top, "lfc_mean"] for table in (soft, hard)]
    assert stats.spearmanr(*same).statistic > 0.95
    assert (same[0].abs() <= same[1].abs() + 0.1).all()  # cells in doubt are in both
    # without sb.tl.assign the probabilities are those of the fit
    del mixed.uns["sb_assign"]
    sb.tl.de(mixed, key="sb", sample_key="donor", progress=False)
    assert_same(sb.get.de(mixed), soft)


def test_batches_are_a_covariate_and_may_be_chosen(cells):
    assert_same(by_condition(cells, batch_key="batch"), by_condition(cells, covariates="batch"))
    own = cells.obs["condition"] == "c1"
    x, y = cells.obs["batch"] == "x", cells.obs["batch"] == "y"
    chosen = cells[(own & x) | (~own & y)].copy()
    assert_same(by_condition(cells, batch_key="batch", batch1="x", batch2=["y"]), by_condition(chosen))
    both = cells[cells.obs["batch"] != "z"].copy()
    found = by_condition(cells, batch_key="batch", batch1=["x", "y"], batch2=["y", "x"])
    assert_same(found, by_condition(both, covariates="batch"))


def test_batches_that_overlap_in_part_are_told(cells, log):
    by_condition(cells, batch_key="batch", batch1=["x", "y"], batch2=["y", "z"])
    assert "overlap in part" in log()
    assert "['y']" in log()


# --- which effects ----------------------------------------------------------------------------------------------------


def test_vanilla_gives_probabilities_of_directions(cells):
    change, vanilla = by_condition(cells), by_condition(cells, mode="vanilla")
    same = ["lfc_mean", "lfc_sd", "ci_low", "ci_high", "mean_1", "donor_sd"]
    assert_same(change[same], vanilla[same])
    np.testing.assert_allclose(vanilla["p_up"] + vanilla["p_down"], 1)
    np.testing.assert_allclose(vanilla["lfsr"], np.minimum(vanilla["p_up"], vanilla["p_down"]))
    expected = np.log(vanilla["p_up"]) - np.log(vanilla["p_down"])
    np.testing.assert_allclose(vanilla["log_bayes_factor"], expected)
    rough = stats.norm.cdf(vanilla["lfc_mean"] / vanilla["lfc_sd"])
    np.testing.assert_allclose(vanilla["p_up"], rough, atol=0.06)
    nothing = cells.var["lfc"] == 0
    assert vanilla["lfsr"][nothing].median() < change["lfsr"][nothing].median()  # no point at zero


def test_an_automatic_threshold_follows_the_effects():
    small, large = (donors(6, 300, 80, effect_sd=sd, changed=0.3) for sd in (0.3, 1.2))
    deltas = []
    for adata in (small, large):
        table = by_condition(adata, delta="auto")
        deltas.append(sb.get.de(adata, "c1").attrs["learned"]["c1"]["delta"])
        assert_same(table, by_condition(adata, delta=deltas[-1]))
    typical = [0.6 * adata.var["lfc"][adata.var["lfc"] != 0].abs().mean() for adata in (small, large)]
    np.testing.assert_allclose(deltas, typical, rtol=0.35)


def test_own_effects_are_those_of_the_means(cells):
    plain = by_condition(cells, delta=0.3)
    drawn = by_condition(cells, delta=0.3, change_fn=lambda a, b: np.log2(a) - np.log2(b), n_samples=20_000)
    np.testing.assert_allclose(drawn["effect_mean"], plain["lfc_mean"], atol=0.05 * plain["lfc_sd"].max())
    np.testing.assert_allclose(drawn["effect_sd"], plain["lfc_sd"], rtol=0.05)
    np.testing.assert_allclose(drawn["effect_low"], plain["ci_low"], atol=0.1 * plain["lfc_sd"].max())
    for name in ("p_de", "p_up", "p_down"):
        np.testing.assert_allclose(drawn[name], plain[name], atol=0.02)
    difference = by_condition(cells, change_fn=lambda a, b: a - b)
    expected = difference["mean_1"] - difference["mean_2"]
    close = np.abs(difference["effect_mean"] - expected) < 0.3 * difference["effect_sd"] + 0.05 * expected.abs()
    assert close.mean() > 0.9


def test_own_regions_decide(cells):
    table = by_condition(cells, in_region_fn=lambda effect: effect > 0.5, delta=0.5, n_samples=20_000)
    np.testing.assert_allclose(table["p_de"], by_condition(cells, delta=0.5)["p_up"], atol=0.02)
    np.testing.assert_allclose(table["p_de"] + table["lfsr"], 1)
    assert (table["p_down"] == 0).all()
    assert (table.loc[table["is_de"], "lfc_mean"] > 0.5).all()


def test_pairs_made_anew_have_the_same_margins(cells):
    """Under the wide prior; draws of both arms are independent of each other where arms share no people."""
    shapes = set()

    def change(a, b):
        shapes.update([a.shape, b.shape])
        return np.log2(a / b)

    together, anew = by_condition(cells, change_fn=change), by_condition(cells, change_fn=change, n_pairs=20_000)
    assert {shape[0] for shape in shapes} == {5000, 20_000}
    np.testing.assert_allclose(anew["effect_mean"], together["effect_mean"], atol=0.05)
    np.testing.assert_allclose(anew["effect_sd"], together["effect_sd"], rtol=0.1)
    assert not np.allclose(anew["effect_mean"], together["effect_mean"], atol=1e-4)


def test_several_intervals(cells):
    table = by_condition(cells, level=[0.9, 0.5])
    assert_same(table[["ci_low", "ci_high"]], by_condition(cells, level=0.9)[["ci_low", "ci_high"]])
    narrow = by_condition(cells, level=0.5)
    np.testing.assert_allclose(table["ci_low_50"], narrow["ci_low"])
    np.testing.assert_allclose(table["ci_high_50"], narrow["ci_high"])


# --- relative to what -------------------------------------------------------------------------------------------------


def test_fold_changes_are_relative_to_what_is_asked():
    adata = donors(4, 200, 80, changed=0, donor_sd=0.05)
    x, up = adata.X.toarray(), (adata.obs["condition"] == "c1").to_numpy()
    strong = adata.X.toarray().sum(0).argsort()[-40:]  # most of all counts
    x[np.ix_(up, strong)] *= 4
    adata.X = x
    rest = np.setdiff1d(np.arange(200), strong)
    adata.var["rest"] = np.isin(np.arange(200), rest)
    lfc = {
        name: by_condition(adata, relative_to=relative)["lfc_mean"].to_numpy()
        for name, relative in (
            ("median", "median"), ("clr", "clr"), ("total", "total"), ("genes", "rest"),
            ("names", list(adata.var_names[rest])), ("strong", adata.var_names[strong]),
        )
    }  # fmt: skip
    assert np.abs(np.median(lfc["median"][rest])) < 0.15
    assert np.abs(np.mean(lfc["genes"][rest])) < 0.05
    np.testing.assert_allclose(lfc["genes"], lfc["names"])
    assert np.abs(np.mean(lfc["strong"][strong])) < 0.05
    assert np.mean(lfc["total"][rest]) < -0.5
    counted = x.sum(0) > 10 * 8  # the genes that the geometric mean is over
    assert np.abs(np.mean(lfc["clr"][counted])) < 0.1
    for value in lfc.values():  # only the level differs
        np.testing.assert_allclose(value - value[strong].mean(), lfc["median"] - lfc["median"][strong].mean(), atol=0.3)


# --- shuffled labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sample_key", "paired"), [("donor", False), ("donor", True), (None, False)])
def test_shuffled_labels_call_nothing(sample_key, paired):
    adata = donors(4, 150, 60, changed=0.2, effect_sd=1.5, paired=paired, donor_sd=0.05)
    table = by_condition(adata, sample_key=sample_key, n_permutations=4)
    facts = sb.get.de(adata, "c1").attrs["permuted"]["c1"]
    assert len(facts["n_called"]) == 4
    assert np.median(facts["n_called"]) < 0.3 * table["is_de"].sum()
    called = table["is_de"] & (adata.var["lfc"].abs() > 1)
    assert table["p_permuted"][called].median() < 0.03
    assert table["p_permuted"].between(0, 1, inclusive="right").all()
    assert table["p_permuted"][adata.var["lfc"] == 0].median() > 0.2
    again = by_condition(adata, sample_key=sample_key, n_permutations=4)
    pd.testing.assert_frame_equal(table, again)
    assert not np.array_equal(
        table["p_permuted"], by_condition(adata, sample_key=sample_key, n_permutations=4, rng=1)["p_permuted"]
    )


# --- what the result says of itself -----------------------------------------------------------------------------------


def test_groups_from_the_counts_are_said_to_be(cells, log):
    cells.obs["leiden"], cells.uns["leiden"] = cells.obs["type"], {"params": {"resolution": 1}}
    sb.tl.de(cells, "leiden", sample_key="donor", progress=False)
    assert sb.get.de(cells).attrs["double_use"]
    assert "made from these counts" in log()
    sb.tl.de(cells, "type", sample_key="donor", progress=False)
    assert not sb.get.de(cells).attrs["double_use"]


def test_the_part_that_was_split_off_is_not_used_twice(cells):
    cells.obs["leiden"], cells.uns["leiden"] = cells.obs["type"], {"params": {"resolution": 1}}
    sb.pp.split_counts(cells, key=None)
    for layer, double_use in (("split_test", False), ("split_train", True)):
        sb.tl.de(cells, "leiden", sample_key="donor", layer=layer, progress=False)
        assert sb.get.de(cells).attrs["double_use"] is double_use


def test_groups_of_a_fit_to_all_counts_are_used_twice_on_a_part_of_them(cells):
    for layer, double_use in ((None, True), ("split_train", False)):
        sb.pp.split_counts(cells, key=None)
        sb.tl.fit(cells, n_components=2, layer=layer, n_steps=20, progress=False)
        sb.tl.assign(cells, progress=False)
        for what in ({"key": "sb"}, {"groupby": "sb_assignment"}):
            sb.tl.de(cells, **what, layer="split_test", min_cells=1, progress=False)
            assert sb.get.de(cells).attrs["double_use"] is double_use


def test_all_of_it_is_stored(cells, tmp_path):
    table = by_condition(
        cells, within="type", group="a: c1", level=(0.95, 0.5), change_fn=lambda a, b: a - b, n_permutations=2
    )
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        getattr(cells, f"write_{suffix}")(tmp_path / f"de.{suffix}")
        again = sb.get.de(read(tmp_path / f"de.{suffix}"), "a: c1")
        pd.testing.assert_frame_equal(again.set_index("names").loc[table.index], table, check_dtype=False)
        assert again.attrs == sb.get.de(cells, "a: c1").attrs


WRONG = {
    "nothing": ({"groupby": None}, ValueError, "one of groupby, key and idx1: none"),
    "two ways": ({"idx1": [0]}, ValueError, "groupby and idx1"),
    "idx2 alone": ({"idx2": [0]}, ValueError, "idx2 needs idx1"),
    "shared": ({"groupby": None, "idx1": [0, 1], "idx2": [1, 2]}, ValueError, "share 1 cells, such as 'cell1'"),
    "other mask": ({"subset": pd.Series([True] * 480, [f"c{i}" for i in range(480)])}, ValueError, "another index"),
    "short mask": ({"subset": [True]}, ValueError, r"subset is a mask of shape \(1,\).*480 cells"),
    "far position": ({"subset": [480]}, ValueError, "subset has position 480: there are 480"),
    "no such cell": ({"subset": ["?"]}, KeyError, "no cell '\\?'"),
    "no query": ({"subset": "type =="}, ValueError, "no query"),
    "no condition": ({"subset": "type"}, ValueError, "must be a condition"),
    "mode": ({"mode": "t"}, ValueError, "unknown mode 't'; choose one of change, vanilla"),
    "vanilla and delta": ({"mode": "vanilla", "delta": 1}, ValueError, "leave delta out"),
    "level": ({"level": (0.5, 1)}, ValueError, "level="),
    "delta": ({"delta": "some"}, ValueError, "'auto'"),
    "pairs": ({"n_pairs": 1000}, ValueError, "n_pairs"),
    "permutations": ({"n_permutations": -1}, ValueError, "n_permutations=-1"),
    "relative": ({"relative_to": "mode"}, ValueError, "relative_to='mode'"),
    "relative gene": ({"relative_to": ["g0", "none"]}, KeyError, "no gene 'none'"),
    "batch": ({"batch_key": "batch", "batch1": "w"}, KeyError, "batch1 must name batches"),
    "within": ({"within": "none"}, KeyError, "no column 'none'"),
    "fit": ({"groupby": None, "key": "sb"}, KeyError, "sb"),
    "effect": ({"change_fn": lambda a, b: a[0]}, ValueError, "change_fn must return"),
    "not finite": ({"change_fn": lambda a, b: a * np.nan}, ValueError, "not finite"),
    "region": ({"in_region_fn": lambda effect: effect}, ValueError, "in_region_fn must return true or false"),
}


@pytest.mark.parametrize(
    "how", [{}, {"n_pairs": 4000}, {"statistic": "dispersion"}], ids=["plain", "pairs", "dispersion"]
)
def test_own_effects_call_nothing_where_nothing_differs(how):
    adata = donors(4, 150, 60, changed=0, donor_sd=0.1, seed=5)
    table = by_condition(adata, change_fn=lambda a, b: np.log2(a / b), **how)
    assert table["is_de"].sum() <= 1
    assert table["p_de"].median() < 0.2


def test_masks_with_an_index_are_put_in_order(cells):
    own = cells.obs["condition"] == "c1"
    mixed = own.sample(frac=1, random_state=0)
    expected = found(cells, idx1=own, sample_key="donor", group="idx1")
    assert_same(found(cells, idx1=mixed, sample_key="donor", group="idx1"), expected)
    assert_same(found(cells, idx1=own.to_numpy(object), sample_key="donor", group="idx1"), expected)


def test_numbers_of_numpy_are_numbers(cells, log):
    cells.obs["arm"] = (cells.obs["condition"] == "c1").astype(int)
    how = {"fdr": np.float32(0.05), "delta": np.float64(0), "min_cells": np.int64(10), "sample_key": "donor"}
    table = found(cells, "arm", [np.int64(1)], reference=np.int64(0), group="1", **how)
    np.testing.assert_allclose(table["lfc_mean"], by_condition(cells)["lfc_mean"])
    np.testing.assert_allclose(table[["mean_1", "mean_2"]].sum(), 1e4)


def test_covariates_that_are_the_groups_are_told(cells, log):
    cells.obs["copy"] = cells.obs["condition"]
    by_condition(cells, covariates="batch")
    assert "are the same" not in log()
    by_condition(cells, covariates="copy")
    assert "are the same as the groups in ['c1']" in log()


def test_a_group_called_rest_is_told(cells, log):
    cells.obs["type"] = cells.obs["type"].replace("a", "rest")
    sb.tl.de(cells, "type", progress=False)
    assert "not all other cells" in log()
    assert sb.pl.lfc_volcano(cells, show=False).get_title().startswith("b over rest")


def test_results_of_other_functions_are_not_overwritten_or_read(cells):
    sb.tl.de(cells, "type", progress=False)
    with pytest.raises(ValueError, match="holds something else"):
        sb.tl.abundance(cells, "type", "condition", sample_key="donor", key_added="sb_de")
    with pytest.raises(KeyError, match="of de, not of abundance"):
        sb.get.abundance(cells, "sb_de")


@pytest.mark.parametrize("names", [["", "x"], [1, "1"]], ids=["empty", "alike"])
def test_names_that_cannot_be_told_apart_are_refused(cells, names):
    values = np.array(names, object)[(cells.obs["type"] == "a").astype(int)]
    cells.obs["q"] = pd.Categorical(values, categories=names)
    with pytest.raises(ValueError, match="rename it"):
        sb.tl.de(cells, "q", progress=False)


@pytest.mark.parametrize(("settings", "error", "match"), WRONG.values(), ids=WRONG)
def test_bad_questions_are_refused(cells, settings, error, match):
    with pytest.raises(error, match=match):
        sb.tl.de(cells, **({"groupby": "condition", "sample_key": "donor", "progress": False} | settings))
    assert "sb_de" not in cells.uns
