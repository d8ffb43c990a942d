"""Randomised quantile residuals: those of dense computations, and calibrated where the model holds."""

import anndata as ad
import numba
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import sparse, special, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models import _residuals as numerics
from scbayes.models._parameters import Parameters
from scbayes.stats._randomised import keys, negative_binomial_tails, normal_quantile, place, uniform
from scbayes.tl._residuals import (
    FITS,
    GROUP,
    MIN_EFFECT,
    VERDICTS,
    ZEROS,
    ZEROS_GROUP,
    _Found,
    _numbers,
    _verdicts,
)

# --- pieces -----------------------------------------------------------------------------------------------------------


def test_normal_quantile_is_that_of_scipy():
    p = np.concatenate(
        [np.linspace(1e-5, 1 - 1e-5, 4001), 10.0 ** -np.linspace(1, 300, 200), 1 - np.geomspace(1e-15, 1)]
    )
    p = p[(p > 0) & (p < 1)]
    np.testing.assert_allclose([normal_quantile(x) for x in p], special.ndtri(p), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("r", [1e-3, 0.4, 1.0, 7.3, 2000.0])
@pytest.mark.parametrize("o", [1e-4, 0.3, 8.0, 500.0])
def test_tails_of_the_negative_binomial(r, o):
    """Also far out, where 1 - F has no digits left, and where the probability of a zero underflows."""
    law = stats.nbinom(r, 1 / (1 + o))
    centre = r * o
    for u in {0, 1, 2, 5, int(centre / 2), int(centre), int(centre + 3 * law.std()), int(2 * centre + 40 * law.std())}:
        if u > 50_000:
            continue
        below = special.betainc(r, u, 1 / (1 + o)) if u else 0.0
        expected = np.array([below, law.pmf(u), special.betainc(u + 1, r, o / (1 + o))])
        seen = expected > 1e-280
        np.testing.assert_allclose(np.array(negative_binomial_tails(u, r, o))[seen], expected[seen], rtol=1e-4)


def test_residuals_are_finite_wherever_a_count_falls():
    assert negative_binomial_tails(10**7, 2.0, 0.1) == (pytest.approx(1), 0.0, 0.0)
    assert negative_binomial_tails(0, 1e5, 1e3) == (0.0, 0.0, pytest.approx(1))
    for tails, sign in (((1.0, 0.0, 0.0), 1), ((0.0, 0.0, 1.0), -1)):
        z, flat = place(*tails, 0.3)
        assert z == pytest.approx(-sign * special.ndtri(1e-300))
        assert 0 <= flat <= 1


def test_uniform_numbers_belong_to_names():
    @numba.njit
    def table(a, b):
        out = np.empty((len(a), len(b)))
        for i in range(len(a)):
            for j in range(len(b)):
                out[i, j] = uniform(a[i], b[j])
        return out

    cells, genes = (keys([f"{i}" for i in range(400)], 3, what) for what in ("cell", "gene"))
    v = table(cells, genes)
    assert stats.kstest(v.ravel(), "uniform").pvalue > 0.001
    assert 0 < v.min() < v.max() < 1
    # rows and columns are independent of each other: no singular value beyond the edge for 400 x 400
    assert np.linalg.svd(special.ndtri(v), compute_uv=False)[0] < 2 * np.sqrt(400) * 1.05
    assert (keys(["x"], 3, "cell") != keys(["x"], 3, "gene")).all()
    assert (keys(["x"], 3, "cell") != keys(["x"], 4, "cell")).all()


# --- against dense computations ---------------------------------------------------------------------------------------


def known(*, k=1, n_batches=1, gate=False, n_cells=120, n_genes=40, seed=0):
    """Parameters, counts drawn from them, batches, and responsibilities."""
    rng = np.random.default_rng(seed)
    shape = (n_batches, k, n_genes)
    size, mean = np.exp(rng.normal(0.3, 1, shape)), np.exp(rng.normal(0, 1.5, shape))
    pi = rng.uniform(0.05, 0.5, shape) if gate else None
    weights = rng.dirichlet(np.full(k, 5.0))
    par = Parameters(size, np.log(mean / size), pi, weights, rng.normal(0, 0.5, n_cells))
    batch, label = rng.integers(n_batches, size=n_cells), rng.choice(k, n_cells, p=weights)
    at = (batch, label)
    rate = rng.gamma(size[at]) * np.exp(par.log_odds[at] + par.log_nu[:, None])
    x = rng.poisson(rate)
    if gate:
        x *= rng.random(x.shape) > pi[at]
    shares = rng.dirichlet(np.ones(k), n_cells) if k > 1 else np.ones((n_cells, 1))
    return par, x, batch, shares


CASES = {
    "plain": {},
    "gate": {"gate": True},
    "batches": {"n_batches": 3},
    "mixture": {"k": 3, "n_batches": 2, "gate": True},
}


def names(x) -> tuple[list[str], list[str]]:
    return [f"c{i}" for i in range(x.shape[0])], [f"g{i}" for i in range(x.shape[1])]


def table_of(par, x, batch, shares, seed=5):
    counts = Counts(sparse.csr_array(x), batch, par.size.shape[0])
    return numerics.tables(par, counts.batch, shares, names(x), seed), counts


def dense(par, x, batch, shares, seed=5) -> dict:
    """Everything with SciPy on full arrays."""
    cell, gene = (keys(part, seed, what) for part, what in zip(names(x), ("cell", "gene"), strict=True))
    v = np.array([[uniform(a, b) for b in gene] for a in cell])
    lower, upper, mean, second = (np.zeros(x.shape) for _ in range(4))
    zero = np.zeros(x.shape)
    for k in range(par.n_components):
        r, o = par.size[batch, k], np.exp(par.log_odds[batch, k] + par.log_nu[:, None])
        gate = np.zeros_like(r) if par.gate is None else par.gate[batch, k]
        law, w = stats.nbinom(r, 1 / (1 + o)), shares[:, k : k + 1]
        lower += w * np.where(x > 0, gate + (1 - gate) * law.cdf(x - 1), 0)
        upper += w * (gate + (1 - gate) * law.cdf(x))
        zero += w * (gate + (1 - gate) * law.pmf(0))
        mean += w * (1 - gate) * law.mean()
        second += w * (1 - gate) * (law.var() + law.mean() ** 2)
    flat = lower + v * (upper - lower)
    return {"flat": flat, "z": special.ndtri(flat), "zero": zero, "mean": mean, "variance": second - mean**2}


@pytest.mark.parametrize("case", CASES)
def test_residuals_and_sums_are_those_of_full_arrays(case, monkeypatch):
    monkeypatch.setattr(numerics, "N_ROWS", 17)
    monkeypatch.setattr(numerics, "N_FACTORS", 3)
    problem = known(**CASES[case])
    x = problem[1]
    expected = dense(*problem)
    table, counts = table_of(*problem)
    every = np.concatenate([part for _, part in numerics.residual_columns(table, counts, np.arange(x.shape[1]))])
    np.testing.assert_allclose(every, expected["z"], rtol=1e-7, atol=1e-9)
    moments = numerics.gene_moments(table, counts)
    np.testing.assert_allclose(moments.detected, (x > 0).sum(0))
    np.testing.assert_allclose(moments.amount, x.sum(0))
    np.testing.assert_allclose(moments.expected, expected["mean"].sum(0), rtol=1e-10)
    np.testing.assert_allclose(moments.distance, ((x - expected["mean"]) ** 2).sum(0), rtol=1e-9)
    np.testing.assert_allclose(moments.variance, expected["variance"].sum(0), rtol=1e-9)
    excess = ((x - expected["mean"]) ** 2 - expected["mean"]).sum(0) / (expected["mean"] ** 2).sum(0)
    excess = np.maximum(excess, 1e-6)
    size = 1 / (excess * (1 + 3 * np.sqrt((2 + 6 * excess) / len(x))))
    matched = stats.nbinom.pmf(0, size, size / (size + expected["mean"])).mean(0)
    np.testing.assert_allclose(moments.matched_zeros, matched, rtol=1e-5)
    factors = numerics.shared_factors(table, counts, moments)
    sums = numerics.residual_sums(table, counts, factors)
    zero = expected["zero"]
    found = np.stack([every.sum(0), (every**2).sum(0), zero.sum(0), (zero * (1 - zero)).sum(0)], 1)
    np.testing.assert_allclose(sums.gene, found, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(sums.cell, np.stack([every.sum(1), (every**2).sum(1)], 1), rtol=1e-8, atol=1e-9)
    edges = np.linspace(0, 1, numerics.N_BINS + 1)
    histogram = [np.histogram(column, edges)[0] for column in expected["flat"].T]
    np.testing.assert_array_equal(sums.histogram, histogram)
    np.testing.assert_allclose(
        sums.shared, [factors.score[side] @ z for side, z in zip(factors.which, every.T, strict=True)], atol=1e-8
    )


def test_factors_are_principal_components_of_other_genes():
    problem = known(n_genes=60)
    table, counts = table_of(*problem)
    moments = numerics.gene_moments(table, counts)
    score, which = numerics.shared_factors(table, counts, moments)
    n = counts.n_cells
    assert score.shape == (2, numerics.N_FACTORS, n)
    np.testing.assert_allclose(score @ score.swapaxes(1, 2) / n, np.broadcast_to(np.eye(8), (2, 8, 8)), atol=1e-9)
    np.testing.assert_allclose(score.sum(2), 0, atol=1e-8)
    # set 1 is what genes of set 0 are compared with, and the other way round
    order = np.argsort(-moments.distance / moments.expected, kind="stable")
    order = order[moments.detected[order] >= numerics.MIN_DETECTED]
    z = dense(*problem)["z"]
    for side, genes in enumerate((order[::2], order[1::2])):
        assert (which[genes] == 1 - side).all()
        left = np.linalg.svd(z[:, genes] - z[:, genes].mean(0))[0][:, : numerics.N_FACTORS]
        np.testing.assert_allclose(np.abs(np.sum(left.T * score[side], 1)), np.sqrt(n), rtol=1e-6)


def test_a_subset_in_another_order_has_the_same_residuals():
    par, x, batch, shares = known()
    table, counts = table_of(par, x, batch, shares)
    every = next(numerics.residual_columns(table, counts, np.arange(x.shape[1])))[1]
    cells, genes = np.array([50, 3, 7]), np.array([11, 2])
    part = par.genes(genes)._replace(log_nu=par.log_nu[cells])
    few = [[group[i] for i in index] for group, index in zip(names(x), (cells, genes), strict=True)]
    counts = Counts(sparse.csr_array(x[np.ix_(cells, genes)]), batch[cells], 1)
    table = numerics.tables(part, counts.batch, shares[cells], few, 5)
    np.testing.assert_array_equal(
        next(numerics.residual_columns(table, counts, np.arange(2)))[1], every[np.ix_(cells, genes)]
    )


def judged(*problem) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of genes and their verdicts, from parameters that are given and not fitted."""
    table, counts = table_of(*problem)
    moments = numerics.gene_moments(table, counts)
    sums = numerics.residual_sums(table, counts, numerics.shared_factors(table, counts, moments))
    numbers = _numbers(_Found(sums, moments, None), counts.n_cells)
    return numbers, np.array(VERDICTS)[_verdicts(numbers, 0.01, MIN_EFFECT)]


def test_true_parameters_give_uniform_p_values():
    """Nothing is fitted here, so that each of the four tests must be exact, not only conservative."""
    numbers, verdict = judged(*known(n_cells=800, n_genes=800, gate=True, seed=2))
    for name in ("p_variance", "p_zeros", "p_shared", "p_ks"):
        common = numbers["zeros_expected"].between(0.02, 0.98)  # a count of few zeros is far from normal
        assert stats.kstest(numbers[name][common], "uniform").pvalue > 0.001, name
    assert stats.kstest(numbers["mean"] * np.sqrt(800), "norm").pvalue > 0.001
    assert abs(numbers["variance_ratio"].median() - 1) < 0.02
    assert (verdict == FITS).mean() > 0.995


# --- fits -------------------------------------------------------------------------------------------------------------

SHAPE = {"n_cells": 600, "n_genes": 300, "parameterization": "mean_disp"}
FIT = {"progress": False, "parameterization": "mean_disp"}


def fitted(adata, model="nbvcp", **settings) -> ad.AnnData:
    sb.tl.fit(adata, model, **FIT, **settings)
    return adata


@pytest.fixture(scope="module")
def _right() -> ad.AnnData:
    adata = fitted(sb.datasets.simulate("nbvcp", **SHAPE, rng=0))
    sb.tl.residuals(adata, genes=["gene7", "gene3"], rng=1)
    return adata


@pytest.fixture
def right(_right) -> ad.AnnData:
    """A fit of the model that the counts come from, with residuals."""
    return _right.copy()


@pytest.fixture(scope="module")
def grouped() -> ad.AnnData:
    """Two groups that the fit does not know; not to be changed."""
    adata = sb.datasets.simulate("nbvcp", **SHAPE, n_components=2, component_lfc=(0.2, 2), log_mean=(2, 1.3), rng=1)
    sb.tl.residuals(fitted(adata))
    return adata


def assert_calibrated(adata: ad.AnnData) -> None:
    table, cells = sb.get.residuals(adata), sb.get.residuals(adata, by="cell")
    n = adata.n_obs * adata.n_vars
    assert abs(table["mean"].mean()) < 0.02
    assert abs(cells["variance"].mean() + cells["mean"].var() - 1) < 0.02
    histogram = sb.get.residuals(adata, by="uniform")
    assert histogram["n"].sum() == n
    assert np.abs(np.cumsum(histogram["n"] - histogram["expected"])).max() / n < 0.005
    for name in ("p_variance", "p_zeros", "p_ks", "p_shared"):  # uniform, or larger since parameters are fitted
        assert (table[name] < 0.05).mean() < 0.09, name
        assert stats.kstest(table[name], "uniform", alternative="greater").pvalue > 0.001, name
    assert (table["verdict"] == FITS).mean() > 0.99


def test_the_right_model_fits(right):
    assert_calibrated(right)


SLOW = [pytest.param(model, marks=pytest.mark.slow) for model in ("zinb", "zinbvcp")]


@pytest.mark.parametrize("model", ["nbdm", *SLOW])
def test_other_right_models_fit(model):
    adata = fitted(sb.datasets.simulate(model, **SHAPE, rng=2), model)
    sb.tl.residuals(adata)
    assert_calibrated(adata)


def test_missing_groups_are_found(grouped):
    table = sb.get.residuals(grouped)
    change = np.abs(np.diff(np.log(grouped.varm["mu"]), axis=1)[:, 0])
    missing = table["verdict"].isin([GROUP, ZEROS_GROUP])
    assert missing[(change > 1) & (table["mean_counts"] > 0.3)].mean() > 0.9
    assert (table["verdict"][change == 0] == FITS).mean() > 0.97
    assert table["shared"][change > 1.5].median() > 10 * max(table["shared"][change == 0].median(), 0.002)


@pytest.mark.slow
def test_a_mixture_has_them(grouped):
    adata = grouped.copy()
    fitted(adata, n_components=2, key_added="mix")
    sb.tl.residuals(adata, "mix")
    table = sb.get.residuals(adata, "mix")
    assert (table["verdict"] == FITS).mean() > 0.97
    assert abs(table["mean"].mean()) < 0.02
    assert abs(table["variance"].mean() - 1) < 0.02
    assert table["shared"].max() < 0.2 * sb.get.residuals(adata)["shared"].max()
    few = adata[:40, :200].copy()
    sb.tl.residuals(few, "mix", genes="gene3")
    sb.tl.residuals(adata, "mix", genes="gene3")
    pd.testing.assert_frame_equal(few.obsm["mix_residual"], adata.obsm["mix_residual"][:40])
    new = ad.AnnData(adata.X[:40], adata.obs[[]][:40], adata.var[[]])
    sb.tl.residuals(new, "mix", genes="gene3", reference=adata)
    apart = new.obsm["mix_residual"] - adata.obsm["mix_residual"][:40]
    assert np.abs(apart.to_numpy()).max() < 0.1


def test_zero_inflation_is_told_from_a_missing_group():
    adata = sb.datasets.simulate("zinbvcp", **SHAPE, gate=(8, 12), dispersion=(1.5, 0.3), log_mean=(4.5, 0.7), rng=3)
    sb.tl.residuals(fitted(adata))
    verdict = sb.get.residuals(adata)["verdict"]
    assert (verdict == ZEROS).mean() > 0.5
    assert not verdict.isin([GROUP, ZEROS_GROUP]).any()


def test_wrong_dispersion_is_named():
    """The model has one size for all genes, half of which have a larger and half a smaller one."""
    par, x, batch, shares = known(n_cells=1000, n_genes=100, seed=4)
    wrong = par._replace(size=np.ones_like(par.size), log_odds=np.log(par.mean))
    numbers, verdict = judged(wrong, x, batch, shares)
    large = (par.size[0, 0] > 3) & (numbers["mean_counts"] > 3)
    small = (par.size[0, 0] < 0.5) & (numbers["mean_counts"] > 1)
    assert min(large.sum(), small.sum()) >= 3
    assert set(verdict[large]) == {"underdispersed"}
    assert (verdict[small] == "overdispersed").mean() > 0.85
    assert (numbers["variance_ratio"][large] < 0.8).all()
    assert (numbers["variance_ratio"][small] > 1.2).all()


# --- what is written, read and refused --------------------------------------------------------------------------------


def test_slots(right, tmp_path):
    table = right.varm["sb_residuals"]
    assert table.shape == (300, 16)
    assert (table.dtypes == np.float64).all()
    assert list(right.obsm["sb_residual"]) == ["gene7", "gene3"]
    values = right.obsm["sb_residual"]
    np.testing.assert_allclose(values.mean(), table.loc[["gene7", "gene3"], "mean"], atol=1e-12)
    np.testing.assert_allclose(values.var(ddof=0), table.loc[["gene7", "gene3"], "variance"], atol=1e-12)
    assert list(right.var["sb_residual_verdict"].cat.categories) == VERDICTS
    x = right.X
    np.testing.assert_allclose(table["mean_counts"], np.asarray(x.sum(0, dtype=float)).ravel() / 600)
    np.testing.assert_allclose(table["zeros"], 1 - x.getnnz(0) / x.shape[0], rtol=1e-12)
    each = table[["p_variance", "p_zeros", "p_shared", "p_ks"]]
    np.testing.assert_allclose(table["p_value"], np.minimum(4 * each.min(axis=1), 1))
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))
    right.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for by in ("gene", "cell", "uniform", "value"):
        pd.testing.assert_frame_equal(
            sb.get.residuals(again, by=by), sb.get.residuals(right, by=by), check_dtype=False, check_categorical=False
        )


def test_copy_seed_and_key(right):
    before = right.varm["sb_residuals"].copy()
    other = sb.tl.residuals(right, rng=1, key_added="more", copy=True)
    assert "more_residuals" not in right.uns
    pd.testing.assert_frame_equal(other.varm["more_residuals"], before)
    assert "more_residual" not in other.obsm
    sb.tl.residuals(right, rng=np.random.default_rng(0))
    assert not np.allclose(right.varm["sb_residuals"]["mean"], before["mean"])
    assert "sb_residual" not in right.obsm
    sb.tl.remove(right)
    assert not [name for name in (*right.varm, *right.obs, *right.var, *right.obsm, *right.uns) if "residual" in name]


def test_subset_and_new_cells(right):
    values = right.obsm["sb_residual"]
    part = right[100:150, ["gene3", "gene9", "gene7"]]
    with pytest.warns(UserWarning, match="view"):
        sb.tl.residuals(part, genes=["gene7", "gene3"], rng=1)
    pd.testing.assert_frame_equal(part.obsm["sb_residual"], values[100:150])
    new = ad.AnnData(right.X, right.obs[[]], right.var[[]])[:100, ::-1].copy()
    sb.tl.residuals(new, reference=right, genes=["gene7", "gene3"], rng=1)
    assert np.abs(new.obsm["sb_residual"] - values[:100]).to_numpy().max() < 0.05  # nu is inferred anew
    assert sb.get.residuals(new).index[0] == "gene299"


def test_masked_genes_have_no_verdict(right):
    right.var["some"] = np.arange(300) % 3 != 1
    fitted(right, mask_var="some", key_added="masked", n_steps=50)
    sb.tl.residuals(right, "masked", genes="gene3")
    table = right.varm["masked_residuals"]
    kept = right.var["some"].to_numpy()
    assert table[~kept].isna().all(axis=None)
    assert table[kept].notna().all(axis=None)
    np.testing.assert_array_equal(right.var["masked_residual_verdict"].isna(), ~kept)
    assert len(sb.get.residuals(right, "masked")) == kept.sum()
    np.testing.assert_allclose(table["zeros"][kept], 1 - right.X.getnnz(0)[kept] / right.n_obs)
    with pytest.raises(KeyError, match=r"gene1.*not fitted"):
        sb.tl.residuals(right, "masked", genes=["gene3", "gene1"])


def test_thresholds(right, grouped):
    adata = grouped.copy()
    sb.tl.residuals(adata, min_effect={"shared": 0.9, "zeros": 0.9, "variance": 9, "ks": 0.9})
    assert (sb.get.residuals(adata)["verdict"] == FITS).all()
    sb.tl.residuals(adata, min_effect={"shared": 0.2})
    table = sb.get.residuals(adata)
    chosen = table["verdict"].isin([GROUP, ZEROS_GROUP])
    np.testing.assert_array_equal(chosen, (table["shared"] >= 0.2) & (table["q_value"] <= 0.01))
    for wrong, match in ((({"fdr": 0}), "fdr=0"), ({"min_effect": {"size": 1}}, "size")):
        with pytest.raises(ValueError, match=match):
            sb.tl.residuals(right, **wrong)


def test_errors(right):
    for genes, error in (("nix", KeyError), (["gene3", "gene3"], ValueError)):
        with pytest.raises(error, match=r"nix|twice"):
            sb.tl.residuals(right, genes=genes)
    with pytest.raises(ValueError, match="by='row'"):
        sb.get.residuals(right, by="row")
    sb.tl.residuals(right)
    with pytest.raises(KeyError, match="genes="):
        sb.get.residuals(right, by="value")
    with pytest.raises(KeyError, match=r"sb\.tl\.residuals"):
        sb.get.residuals(right, "other")


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["variance", "shared", "zeros_excess", "mean", "variance_ratio", "ks"])
def test_picture_of_genes(grouped, kind):
    ax = sb.pl.residuals(grouped, kind=kind, genes="gene5", show=False)
    table = (
        sb.get.residuals(grouped)
        .query("mean_counts > 0")
        .assign(zeros_excess=lambda t: t["zeros"] - t["zeros_expected"])
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(labels) == sorted(f"{v} ({n})" for v, n in table["verdict"].value_counts().items() if n)
    for points, label in zip(ax.collections, labels, strict=True):
        part = table[table["verdict"] == label.rpartition(" (")[0]]
        np.testing.assert_allclose(points.get_offsets(), part[["mean_counts", kind]], rtol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["gene5"]
    ax.figure.canvas.draw()


def test_picture_of_uniform_residuals(right):
    ax = sb.pl.residuals(right, kind="uniform", show=False)
    n = sb.get.residuals(right, by="uniform")["n"].to_numpy().reshape(64, 8).sum(1)
    np.testing.assert_allclose(ax.patches[0].get_data().values, n / n.mean())
    low, high = ax.patches[1].get_extents().transformed(ax.transData.inverted()).intervaly
    np.testing.assert_allclose([low, high], [1 - 2 / np.sqrt(n.mean()), 1 + 2 / np.sqrt(n.mean())])
    figure, (_, axis) = plt.subplots(1, 2)
    assert sb.pl.residuals(right, kind="uniform", genes=["gene3", "gene7"], ax=axis) is axis
    assert [patch.get_label() for patch in axis.patches[:2]] == ["gene3", "gene7"]
    flat = special.ndtr(sb.get.residuals(right, by="value")["gene7"])
    np.testing.assert_allclose(axis.patches[1].get_data().values, np.histogram(flat, 20, (0, 1))[0] / 30)
    assert len({patch.get_linestyle() for patch in axis.patches[:2]}) == 2
    figure.canvas.draw()


def test_pictures_refuse(right):
    with pytest.raises(ValueError, match="kind='nix'"):
        sb.pl.residuals(right, kind="nix")
    with pytest.raises(KeyError, match="gene1"):
        sb.pl.residuals(right, kind="uniform", genes=["gene1"])
