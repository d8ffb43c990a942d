"""Differential abundance: against quadrature, on counts with known effects, in files, and as a picture."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats
from scipy.special import softmax

import scbayes as sb
from scbayes.models._abundance import Samples, abundances
from scbayes.models._shifted_effects import Likelihood, posterior, quasi_variances
from scbayes.state import write_result
from scbayes.stats._dirichlet_multinomial import Point, Regression, log_likelihood, regress

_spec = spec_from_file_location("_shares", Path(__file__).parent / "benchmarks" / "_shares.py")
_module = sys.modules["_shares"] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
shares, as_cells = _module.shares, _module.as_cells

LOG2 = np.log(2)

# --- the regression ---------------------------------------------------------------------------------------------------


def test_likelihood_is_that_of_scipy():
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(4), 5)
    counts = np.array([rng.multinomial(n, p) for n, p in zip([0, 3, 50, 700, 9], share, strict=True)])
    for a in (0.7, 40.0):
        expected = stats.dirichlet_multinomial.logpmf(counts, a * share, counts.sum(1))
        np.testing.assert_allclose(log_likelihood(counts, share, np.full(5, a)), expected, atol=1e-9)


def two_types(paired: bool) -> Regression:
    counts = np.array([[30, 70], [22, 80], [45, 60], [70, 50]], float)
    people = np.tile(np.eye(2), (2, 1)) if paired else np.zeros((4, 0))
    x = np.repeat([-0.5, 0.5], 2)
    return Regression(counts, np.column_stack([np.ones(4), x]), np.zeros((2, 2)), np.array([1.0, 2.0]), people)


@pytest.mark.parametrize("paired", [False, True], ids=["nested", "paired"])
@pytest.mark.parametrize("concentration", [60.0, 400.0])
def test_regression_is_that_of_importance_sampling(paired, concentration):
    """Mean, covariance and evidence of all linear predictors."""
    problem, rows = two_types(paired), np.array([[1.0, -0.5], [1.0, 0.5]])
    at = Point(np.array([concentration]), np.array([0.5]))
    found = regress(problem, at, rows)
    rng, n = np.random.default_rng(1), 200_000
    # what differs between the two types is all that counts say: draws of it from a wide distribution
    design = np.concatenate([problem.design, problem.people], 1)
    sd = np.sqrt(2) * np.concatenate([problem.prior_sd, np.full(problem.people.shape[1], 0.5)])
    mode = np.concatenate([found.b[0], found.g[0]])
    centre, wide = mode[:, 0] - mode[:, 1], np.minimum(sd, 1.2)
    draw = centre + wide * rng.standard_t(5, (n, len(sd)))
    log_q = (stats.t.logpdf((draw - centre) / wide, 5) - np.log(wide)).sum(1)
    share = np.clip(1 / (1 + np.exp(-draw @ design.T)), 1e-9, 1 - 1e-9)
    likely = stats.betabinom.logpmf(
        problem.counts[:, 0], problem.counts.sum(1), concentration * share, concentration * (1 - share)
    ).sum(1)
    log_w = likely + stats.norm.logpdf(draw, 0, sd).sum(1) - log_q
    weight = softmax(log_w)
    np.testing.assert_allclose(found.evidence[0], np.log(np.mean(np.exp(log_w - log_w.max()))) + log_w.max(), atol=0.1)
    to = np.concatenate([rows, np.full((2, problem.people.shape[1]), 0.5)], 1)
    predictor = draw @ to.T
    loc = found.loc[0, :, 0] - found.loc[0, :, 1]
    of_difference = np.kron(np.eye(2), [1.0, -1.0])
    covariance = of_difference @ found.covariance[0] @ of_difference.T
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((weight @ predictor - loc) / spread, 0, atol=0.25)
    away = predictor - weight @ predictor
    np.testing.assert_allclose((weight[:, None] * away).T @ away, covariance, atol=0.1 * spread.max() ** 2)


def test_quasi_variances_are_exact_where_they_exist():
    """Independent variances and any common shift come back, be types many or two."""
    own, along = np.array([0.1, 0.5, 2.0, 0.01]), np.array([0.3, -0.1, 0.2, 0.4])
    covariance = np.diag(own) + along[:, None] + along
    np.testing.assert_allclose(quasi_variances(covariance[None])[0], own, rtol=1e-9)
    np.testing.assert_allclose(quasi_variances(covariance[None, :2, :2])[0], [0.3, 0.3], rtol=1e-9)


# --- effects up to a shift --------------------------------------------------------------------------------------------


def test_the_shift_is_integrated():
    """Probabilities of a change against the sum over all sets of changed types, each integrated numerically."""
    loc, variance = np.array([[0.1, 0.0, 1.4, -0.1]]), np.array([[0.02, 0.03, 0.04, 0.02]])
    found = posterior(Likelihood(loc, variance, np.zeros(1)), "unchanged")
    widths, share = np.array([0.0, 0.2, 0.4, 0.8, 1.6]), found.share
    shift = np.linspace(-4, 5, 4000)
    likely = stats.norm.pdf(loc[0, :, None, None], shift[:, None], np.sqrt(variance[0, :, None, None] + widths**2))
    total = np.zeros((4, 5))
    for which in np.ndindex(5, 5, 5, 5):
        joint = np.prod([share[s] * likely[k, :, s] for k, s in enumerate(which)], 0).sum()
        for k, s in enumerate(which):
            total[k, s] += joint
    expected = total[:, 0] / total.sum(1)
    np.testing.assert_allclose(found.null, expected, atol=2e-3)
    assert found.null[2] < 0.1 < found.null[0]
    np.testing.assert_allclose(found.above(0) + found.below(0) + found.null, 1, atol=1e-9)


def test_one_type_that_doubles_does_not_make_others_shrink():
    share, beta = np.log([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    others, effects, called = beta == 0, [], {"unchanged": [], "share": [], 2: []}
    for seed in range(8):
        data = shares(8, share=share, beta=beta, concentration=400.0, rng=np.random.default_rng(seed))
        found = {name: abundances(data.samples, name).columns for name in called}
        for name, columns in found.items():
            called[name].append(columns["is_changed"][0])
        effects.append(found["unchanged"]["lfc_mean"][0, 1])
        np.testing.assert_allclose(found["share"]["lfc_mean"], found["unchanged"]["share_lfc_mean"])
        assert found[2]["lfc_mean"][0, 2] == 0
        assert found[2]["lfsr"][0, 2] == 1
    assert np.mean(effects) == pytest.approx(1 / LOG2, abs=0.2)
    assert np.all([np.array(own)[:, 1] for own in called.values()])
    assert np.mean(np.array(called["unchanged"])[:, others]) < 0.1
    assert np.mean(np.array(called[2])[:, others]) < 0.15
    assert np.mean(np.array(called["share"])[:, others]) > 0.5  # their shares did shrink


# --- known effects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True], ids=["nested", "paired"])
def test_intervals_cover_and_calls_are_right(paired):
    covered, of_share, false, calls = [], [], 0, 0
    for seed in range(40):
        data = shares(4, 8, paired=paired, rng=np.random.default_rng(seed))
        columns = {name: value[0] for name, value in abundances(data.samples, "unchanged").columns.items()}
        covered += list((columns["ci_low"] <= data.lfc) & (data.lfc <= columns["ci_high"]))
        low, high = columns["share_lfc_ci_low"], columns["share_lfc_ci_high"]
        of_share += list((low <= data.share_lfc) & (data.share_lfc <= high))
        false += (columns["is_changed"] & (data.lfc == 0)).sum()
        calls += columns["is_changed"].sum()
    assert 0.92 < np.mean(covered) < 0.98
    assert 0.92 < np.mean(of_share) < 0.98
    assert calls >= 8
    assert false / calls < 0.1


def test_nothing_is_called_where_nothing_changes():
    called = 0
    for seed in range(20):
        data = shares(4, 8, changed=0.0, rng=np.random.default_rng(seed))
        called += abundances(data.samples, "unchanged").columns["is_changed"].any()
    assert called <= 2


def test_people_in_both_conditions_tell_more_than_others():
    data = shares(6, 6, paired=True, people_sd=1.0, concentration=500.0, rng=np.random.default_rng(0))
    paired = abundances(data.samples, "unchanged")
    nested = abundances(data.samples._replace(people=np.zeros((12, 0))), "unchanged")
    assert paired.columns["lfc_sd"].mean() < 0.7 * nested.columns["lfc_sd"].mean()
    of_shares = [part.columns["share_lfc_ci_high"] - part.columns["share_lfc_ci_low"] for part in (paired, nested)]
    assert of_shares[0].mean() < 0.7 * of_shares[1].mean()
    assert paired.learned["concentration"] > 2 * nested.learned["concentration"]


def test_the_other_direction_has_the_other_sign():
    samples = shares(4, 5, rng=np.random.default_rng(1)).samples
    one, other = (
        abundances(part, "unchanged").columns for part in (samples, samples._replace(level=1 - samples.level))
    )
    np.testing.assert_allclose(one["lfc_mean"], -other["lfc_mean"], atol=1e-3)
    np.testing.assert_allclose(one["p_up"], other["p_down"], atol=1e-3)
    np.testing.assert_allclose(one["share_1"], other["share_2"], rtol=1e-4)


@pytest.mark.parametrize("relative_to", ["unchanged", "share", 0])
def test_little_data_is_finite_and_says_so(relative_to):
    """One sample an arm; a type that is missing in one arm; a type with one cell."""
    counts = np.array([[50, 30, 0, 1], [40, 35, 20, 0]], float)
    samples = Samples(counts, np.array([0, 1]), np.zeros((2, 0)), np.zeros((2, 0)))
    columns = abundances(samples, relative_to).columns
    assert all(np.isfinite(column).all() for column in columns.values())
    assert not columns["is_changed"].any()
    own = np.arange(4) != relative_to
    assert (columns["ci_high"] - columns["ci_low"])[0, own].min() > 1
    more = Samples(np.repeat(counts, 4, 0), np.repeat([0, 1], 4), np.zeros((8, 0)), np.zeros((8, 0)))
    narrower = abundances(more, relative_to).columns["lfc_sd"] < columns["lfc_sd"]
    assert narrower[0, own].all()


# --- AnnData ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells() -> ad.AnnData:
    return as_cells(shares(4, 5, n_cells=60, rng=np.random.default_rng(3)).samples)


def run(adata, **settings) -> pd.DataFrame:
    sb.tl.abundance(adata, "type", "condition", **({"sample_key": "donor"} | settings))
    return sb.get.abundance(adata)


def test_cells_are_counted(cells):
    table = run(cells)
    samples = sb.get.abundance(cells, what="samples")
    expected = cells.obs.groupby(["condition", "donor", "type"], observed=True).size()
    found = samples[samples["count"] > 0].set_index(["condition", "sample", "label"])["count"]
    assert found.to_dict() == expected.to_dict()
    assert list(table["label"]) == sorted(cells.obs["type"].unique())
    assert table.attrs["n_samples"] == [4, 4]
    assert table["n_samples_1"].tolist() == [4] * 5
    shuffled = cells[np.random.default_rng(0).permutation(cells.n_obs)].copy()
    np.testing.assert_allclose(run(shuffled)["lfc_mean"], table["lfc_mean"], atol=1e-9)


def test_cells_without_a_type_are_left_out_and_unused_types_too(cells):
    cells.obs["type"] = pd.Categorical(cells.obs["type"], [*sorted(cells.obs["type"].unique()), "never"])
    expected = run(cells[5:].copy())
    cells.obs.loc[cells.obs_names[:5], "type"] = np.nan
    pd.testing.assert_frame_equal(run(cells), expected)


def test_conditions_are_compared_with_the_reference(cells):
    cells.obs["condition"] = np.where(cells.obs["donor"].isin(["d10", "d11"]), "c2", cells.obs["condition"])
    table = run(cells, reference="c1")
    assert table["condition"].unique().tolist() == ["c0", "c2"]
    assert table.attrs["reference"] == "c1"
    assert table["n_samples_1"].unique().tolist() == [4, 2]


def test_a_covariate_explains(cells):
    """A batch in which one type is common, in both conditions, widens nothing once it is named."""
    data = shares(6, 4, changed=0.0, concentration=300.0, rng=np.random.default_rng(0))
    batch = np.tile([0, 1], 6)
    counts = data.samples.counts.copy()
    counts[batch == 1, 0] *= 6
    adata = as_cells(data.samples._replace(counts=counts))
    adata.obs["batch"] = np.where(adata.obs["donor"].str[-1].astype(int) % 2, "b1", "b0")
    without, named = run(adata), run(adata, covariates="batch")
    assert named.attrs["learned"]["concentration"] > 3 * without.attrs["learned"]["concentration"]
    assert (named["lfc_sd"] < 0.7 * without["lfc_sd"]).all()


def test_paired_donors_are_found(cells):
    assert not run(cells).attrs["paired"]
    cells.obs["donor"] = "d" + cells.obs["donor"].str[-1]
    assert run(cells).attrs["paired"]


def test_probabilities_are_summed(cells):
    """Probabilities of 0 and 1 are labels; others add up to counts that are not whole."""
    types = sorted(cells.obs["type"].unique())
    p = np.eye(5)[cells.obs["type"].map(types.index)]
    write_result(cells, "assign", "sb", {("obsm", "probabilities"): p}, fit=None, facts={"components": types})
    expected = run(cells)
    sb.tl.abundance(cells, None, "condition", sample_key="donor", key="sb")
    pd.testing.assert_frame_equal(sb.get.abundance(cells), expected, rtol=1e-9)
    cells.obsm["sb_probabilities"] = 0.9 * p + 0.02
    sb.tl.abundance(cells, None, "condition", sample_key="donor", key="sb")
    summed = sb.get.abundance(cells, what="samples").groupby("label")["count"].sum()
    np.testing.assert_allclose(summed[types], (0.9 * p + 0.02).sum(0), rtol=1e-12)
    assert (sb.get.abundance(cells)["lfc_mean"].abs() < expected["lfc_mean"].abs() + 0.05).all()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files(cells, tmp_path, suffix):
    cells.obs["type"] = cells.obs["type"].str.replace("t1", "a/b")
    expected = run(cells)
    getattr(cells, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    again = getattr(ad, f"read_{suffix}")(tmp_path / f"x.{suffix}")
    pd.testing.assert_frame_equal(sb.get.abundance(again), expected)
    samples = sb.get.abundance(cells, what="samples")
    pd.testing.assert_frame_equal(sb.get.abundance(again, what="samples"), samples)
    assert "a/b" in set(samples["label"])
    sb.pl.abundance(again, show=False)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"sample_key": None}, ValueError, "sample_key is missing.*replicates.*column of obs"),
        ({"sample_key": "nobody"}, KeyError, "no column 'nobody'.*donor"),
        ({"reference": "c7"}, KeyError, "'c7'.*c0.*c1"),
        ({"relative_to": "t9"}, KeyError, "'t9'.*'unchanged', 'share'.*t0"),
        ({"covariates": "type"}, ValueError, "covariate 'type' varies.*d00.*one for each sample"),
        ({"covariates": "donor"}, ValueError, "twice"),
        ({"covariates": "size"}, ValueError, "'size'.*fractional"),
        ({"delta": -1}, ValueError, "delta=-1.*at least 0"),
        ({"fdr": 1.5}, ValueError, "fdr=1.5.*between 0 and 1"),
        ({"key": "sb"}, ValueError, "either groupby.*or key"),
    ],
)
def test_bad_input_says_what_to_change(cells, settings, error, words):
    cells.obs["size"] = 0.5
    with pytest.raises(error, match=words):
        run(cells, **settings)
    assert "sb_abundance" not in cells.uns


def test_nothing_to_compare(cells):
    with pytest.raises(ValueError, match=r"\['c0'\].*two conditions at least"):
        run(cells[cells.obs["condition"] == "c0"].copy())
    with pytest.raises(ValueError, match="fewer than two types"):
        run(cells[cells.obs["type"] == "t0"].copy())
    with pytest.raises(TypeError, match="AnnData, not dict"):
        run({})
    with pytest.raises(KeyError, match=r"run sb\.tl\.abundance first"):
        sb.get.abundance(cells)
    run(cells)
    with pytest.raises(ValueError, match="what='all'"):
        sb.get.abundance(cells, what="all")


# --- the picture ------------------------------------------------------------------------------------------------------


def test_picture_draws_shares_and_effects(cells):
    table = run(cells)
    left, right = axes = sb.pl.abundance(cells, show=False)
    assert len(axes) == 2
    samples = sb.get.abundance(cells, what="samples")
    drawn = np.concatenate([line.get_xdata() for line in left.lines if line.get_linestyle() == "None"])
    there = samples["share"] > 0
    np.testing.assert_allclose(np.sort(drawn)[-there.sum() :], np.sort(samples["share"][there]))
    order = [label.get_text() for label in left.get_yticklabels()]
    assert order == list(samples.groupby("label")["share"].mean().sort_values(ascending=False).index)
    drawn = {x: y for line in right.lines for x, y in zip(*line.get_data(), strict=False) if line.get_marker() == "s"}
    for _, row in table.iterrows():
        assert round(drawn[row["lfc_mean"]] - 0.2) == order.index(row["label"])
    segments = np.concatenate([bars.get_segments() for bars in right.collections])
    np.testing.assert_allclose(
        np.sort(segments[:, :, 0].ravel()), np.sort(table[["ci_low", "ci_high"]].to_numpy().ravel())
    )
    assert "c0" in right.get_xlabel()


def test_picture_takes_axes(cells):
    run(cells)
    given = plt.figure().subplots(1, 2)
    assert list(sb.pl.abundance(cells, ax=given)) == list(given)
    with pytest.raises(ValueError, match="3 axes: give two"):
        sb.pl.abundance(cells, ax=plt.figure().subplots(1, 3))


# --- real data --------------------------------------------------------------------------------------------------------


def test_interferon_changes_no_type_much(real):
    adata = real("kang_ifnb")
    sb.tl.abundance(adata, "cell_type_derived", "condition", sample_key="donor", reference="ctrl")
    table = sb.get.abundance(adata)
    assert table.attrs["paired"]
    assert table["lfc_mean"].abs().max() < 0.7
    assert table.loc[table["is_changed"], "label"].tolist() == ["CD14+ Monocytes"]
