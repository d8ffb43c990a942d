"""Compositions of components and of cells, and the expression of cells given their counts."""

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import integrate, special, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models._compositions import draw_log_compositions, expected_log_composition
from scbayes.models._expression import expression_above_zeros, expression_of_gene, expression_of_zeros
from scbayes.models._parameters import Parameters

MASKED = [3, 17, 40]


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=400, n_genes=60, log_mean=(2, 1), rng=0)
    sb.tl.fit(adata, parameterization="standard", progress=False)
    sb.tl.fit(adata, key_added="md", progress=False)
    adata.var["mask"] = ~np.isin(np.arange(60), MASKED)
    sb.tl.fit(adata, parameterization="standard", mask_var="mask", key_added="masked", progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


@pytest.fixture(scope="module")
def _mixture() -> ad.AnnData:
    settings = {"n_cells": 400, "n_genes": 50, "n_components": 2, "n_batches": 2, "log_mean": (2, 1)}
    adata = sb.datasets.simulate("zinbvcp", **settings, component_lfc=(0.8, 1.5), rng=2)
    sb.tl.fit(adata, model="zinbvcp", n_components=2, batch_key="batch", n_steps=50, progress=False)
    return adata


@pytest.fixture
def mixture(_mixture) -> ad.AnnData:
    return _mixture.copy()


def medians(adata: ad.AnnData, key: str) -> dict:
    return {name: law.median() for name, law in sb.get.distributions(adata, key, backend="scipy").items()}


def hand_made(*, gate: bool, n_batches: int = 2, n_cells: int = 60, n_genes: int = 9) -> Parameters:
    """Two components that differ in everything, and genes with sizes from small to large."""
    rng = np.random.default_rng(1)
    shape = (n_batches, 2, n_genes)
    return Parameters(
        size=np.exp(rng.normal(0, 1.5, shape)),
        log_odds=rng.normal(2, 1, shape),
        gate=rng.beta(1, 3, shape) if gate else None,
        weights=np.array([0.7, 0.3]),
        log_nu=rng.normal(-1.5, 0.7, n_cells),
    )


# --- compositions of cells --------------------------------------------------------------------------------------------


def test_expected_log_against_integration():
    size, mean = np.array([2.5, 0.8]), np.array([3.0, 5.0])
    z = np.arange(-45, 6, 0.03)  # the trapezoid rule in the logs of both genes, where all is smooth
    x = np.exp(z)
    one, two = (stats.gamma(r, scale=m / r).pdf(x) * x for r, m in zip(size, mean, strict=True))
    total = np.logaddexp(z[:, None], z).dot(two).dot(one) * 0.03**2
    expected = special.digamma(size) + np.log(mean / size) - total
    np.testing.assert_allclose(expected_log_composition(size, mean), expected, atol=1e-9)


@pytest.mark.parametrize("total", [0.2, 3, 4000])
def test_expected_log_of_a_dirichlet(total):
    size = np.random.default_rng(0).dirichlet(np.full(30, 0.3)) * total + 1e-5
    expected = special.digamma(size) - special.digamma(size.sum())
    np.testing.assert_allclose(expected_log_composition(size, 7 * size), expected, rtol=1e-12)
    nearly = size * np.exp(np.random.default_rng(1).normal(0, 1e-8, 30))  # goes through the integral
    np.testing.assert_allclose(expected_log_composition(size, nearly), expected, rtol=1e-7, atol=2e-7)


def test_draws_of_compositions():
    rng = np.random.default_rng(4)
    size = np.array([[1e-3, 0.5, 3, 40.0], [20, 1, 1, 1e-2]])
    for mean in (2 * size, size * [5, 1, 0.3, 1]):
        log_x = draw_log_compositions(size, mean, 40_000, rng)
        assert log_x.shape == (2, 4, 40_000)
        np.testing.assert_allclose(np.exp(log_x).sum(1), 1, rtol=1e-12)
        error = log_x.std(-1) / np.sqrt(log_x.shape[-1])
        assert np.abs((log_x.mean(-1) - expected_log_composition(size, mean)) / error).max() < 4.5
    x = np.exp(draw_log_compositions(size, size, 40_000, rng))
    for i, law in enumerate(stats.dirichlet(r) for r in size):
        np.testing.assert_allclose(x[i].mean(-1), law.mean(), atol=4.5 * np.sqrt(law.var() / 40_000).max())
        np.testing.assert_allclose(x[i].var(-1), law.var(), rtol=0.05, atol=1e-5)
    # genes with free dispersion: Gamma(r) mu/r, normalised
    mean = size * [5, 1, 0.3, 1]
    y = rng.standard_gamma(size[0], (40_000, 4)) * mean[0] / size[0]
    y /= y.sum(1, keepdims=True)
    x = np.exp(draw_log_compositions(size, mean, 40_000, rng))[0]
    for g in (1, 2, 3):
        assert stats.ks_2samp(y[:, g], x[g]).pvalue > 1e-4


# --- expression of cells: brute force ---------------------------------------------------------------------------------


def posterior(count: int, size, odds, gate, nu):
    """Moments of latent expression given a count, and its distribution function, by integration over its log."""
    prior = stats.gamma(size, scale=odds)

    def integral(f, high):
        z = np.linspace(np.log(prior.ppf(1e-12)) - 10 / size, np.log(high), 4001)
        x = np.exp(z)  # the excess zero, and the count that was made
        joint = prior.pdf(x) * x * ((1 - gate) * stats.poisson.pmf(count, nu * x) + gate * (count == 0))
        return integrate.simpson(f(x) * joint, x=z)

    top = prior.isf(1e-13) + stats.gamma(size + count, scale=odds).isf(1e-13)
    evidence = integral(np.ones_like, top)
    moments = [integral(lambda x: x, top) / evidence, integral(np.square, top) / evidence]
    return moments, lambda x: integral(np.ones_like, x) / evidence


@pytest.mark.parametrize("gate", [False, True])
def test_expression_against_integration(gate):
    parameters = hand_made(gate=gate, n_cells=6)
    counts, batch = np.array([0, 1, 9, 0, 2, 0]), np.array([0, 1, 0, 1, 1, 0])
    membership = np.array([[1, 0], [0.3, 0.7], [0.5, 0.5], [0, 1], [0.2, 0.8], [0.6, 0.4]])
    unit = np.array([[2.0, 0.5], [1.0, 4.0]])
    for g in (0, 4):
        law = expression_of_gene(parameters.genes([g]), counts, batch, membership, unit)
        low, high = law.quantile(0.05), law.quantile(0.95)
        for c, (b, u) in enumerate(zip(batch, counts, strict=True)):
            mean = square = below = above = 0
            for k, share in enumerate(membership[c]):
                own = parameters.size[b, k, g], np.exp(parameters.log_odds[b, k, g])
                pi = parameters.gate[b, k, g] if gate else 0
                moments, cdf = posterior(u, *own, pi, np.exp(parameters.log_nu[c]))
                mean += share * moments[0] * unit[b, k]
                square += share * moments[1] * unit[b, k] ** 2
                below += share * cdf(low[c] / unit[b, k])
                above += share * cdf(high[c] / unit[b, k])
            np.testing.assert_allclose(law.mean()[c], mean, rtol=1e-5)
            np.testing.assert_allclose(law.sd()[c], np.sqrt(square - mean**2), rtol=1e-4)
            np.testing.assert_allclose([below, above], [0.05, 0.95], atol=1e-5)


def test_quantile_of_what_is_almost_surely_nothing():
    parameters = hand_made(gate=True, n_batches=1, n_cells=3, n_genes=1)._replace(size=np.full((1, 2, 1), 1e-3))
    law = expression_of_gene(parameters, np.zeros(3), np.zeros(3, int), np.full((3, 2), 0.5), np.ones((1, 2)))
    assert np.all(law.quantile(0.05) < 1e-200)
    assert np.all(np.isfinite(law.quantile(0.999)))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_expression_is_sparse_plus_low_rank(gate, shared):
    parameters = hand_made(gate=gate, n_cells=80)
    if shared:
        parameters = parameters._replace(log_odds=np.broadcast_to(parameters.log_odds[..., :1], parameters.size.shape))
    rng = np.random.default_rng(3)
    batch, membership = rng.integers(0, 2, 80), rng.dirichlet([0.5, 0.5], 80)
    unit = np.array([[2.0, 0.5], [1.0, 4.0]])
    counts = rng.poisson(0.7, (80, 9))
    above = expression_above_zeros(parameters, Counts(_sparse(counts), batch, 2), batch, membership, unit)
    cells, genes = expression_of_zeros(parameters, batch, membership, unit)
    assert cells.shape[1] == genes.shape[1]
    assert cells.shape[1] == 4 if shared and not gate else cells.shape[1] <= 4 * 9
    assert above.nnz == np.count_nonzero(counts)
    for g in range(9):
        expected = expression_of_gene(parameters.genes([g]), counts[:, g], batch, membership, unit).mean()
        found = above[:, [g]].toarray()[:, 0] + cells @ genes[g]
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def _sparse(x):
    from scipy.sparse import csr_matrix

    return csr_matrix(x)


def test_intervals_cover_what_was_drawn():
    rng = np.random.default_rng(5)
    parameters = hand_made(gate=True, n_batches=1, n_cells=4000)
    nu, component, batch = np.exp(parameters.log_nu), rng.choice(2, 4000, p=[0.7, 0.3]), np.zeros(4000, int)
    membership = np.tile(parameters.weights, (4000, 1))  # nothing is known of the component
    for g in range(9):
        odds, gate = np.exp(parameters.log_odds[0, component, g]), parameters.gate[0, component, g]
        latent = rng.standard_gamma(parameters.size[0, component, g]) * odds
        counts = np.where(rng.uniform(size=4000) < gate, 0, rng.poisson(nu * latent))
        # the component is not independent of the count: weigh it by the count's probability
        own = [
            stats.nbinom(parameters.size[0, k, g], 1 / (1 + nu * np.exp(parameters.log_odds[0, k, g]))) for k in (0, 1)
        ]
        pi = parameters.gate[0, :, g]
        likelihood = np.stack([(1 - pi[k]) * own[k].pmf(counts) + pi[k] * (counts == 0) for k in (0, 1)], 1)
        share = membership * likelihood / np.sum(membership * likelihood, 1, keepdims=True)
        law = expression_of_gene(parameters.genes([g]), counts, batch, share, np.ones((1, 2)))
        covered = (law.quantile(0.1) < latent) & (latent < law.quantile(0.9))
        assert covered.mean() == pytest.approx(0.8, abs=0.03)
        assert np.mean(latent - law.mean()) / (np.std(latent - law.mean()) / np.sqrt(4000)) == pytest.approx(0, abs=4)


# --- the verb: mean composition ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sb", "md"])
def test_mean_composition(adata, key):
    assert sb.tl.normalize_counts(adata, key, interval=0.8) is None
    table = sb.get.composition(adata, key)
    law = sb.get.distributions(adata, key, backend="scipy")["composition"]
    assert list(table.columns) == ["gene", "mean", "lower", "upper"]
    assert list(table["gene"]) == list(adata.var_names)
    np.testing.assert_allclose(table["mean"], law.mean(), rtol=1e-12)
    np.testing.assert_allclose(table["lower"], law.ppf(0.1), rtol=1e-10)
    np.testing.assert_allclose(table["upper"], law.ppf(0.9), rtol=1e-10)
    np.testing.assert_allclose(table["mean"].sum(), 1, atol=0.01)
    assert adata.varm[f"{key}_composition_mean"].shape == (60, 1)
    truth = adata.varm["mu"][:, 0] / adata.varm["mu"].sum()
    covered = (table["lower"] < truth) & (truth < table["upper"])
    assert stats.binom(60, 0.8).cdf(covered.sum()) > 0.005
    # an interval, not everything
    assert np.median(table["upper"] / table["lower"]) < 1.3


def test_a_subset_of_genes_keeps_its_shares(adata):
    sb.tl.normalize_counts(adata, fit_dirichlet=True, store_samples=True, n_samples=3)
    genes = list(adata.var_names[[40, 3, 11]])
    part = adata[:, genes].copy()
    before = sb.get.composition(adata, genes=genes)
    concentrations, samples = (sb.get.composition(part, what=what) for what in ("concentrations", "samples"))
    pd.testing.assert_frame_equal(sb.get.composition(part), before)
    np.testing.assert_array_equal(samples, sb.get.composition(adata, what="samples", genes=genes))
    whole = sb.get.composition(adata, what="distributions", backend="scipy")
    some = sb.get.composition(part, what="distributions", backend="scipy")
    assert some.alpha.shape == (4,)
    np.testing.assert_allclose(some.alpha[:3], concentrations)
    np.testing.assert_allclose(some.mean()[:3], whole.mean()[[40, 3, 11]], rtol=1e-9)
    np.testing.assert_allclose(some.var()[:3], whole.var()[[40, 3, 11]], rtol=1e-9)
    sb.tl.normalize_counts(part)  # anew, from the genes that are left
    pd.testing.assert_frame_equal(sb.get.composition(part), before)
    for asked in ({"store_samples": True}, {"store_sizes": True}, {"fit_dirichlet": True}):
        with pytest.raises(ValueError, match="3 of the 60 genes that 'sb' was fitted to are here"):
            sb.tl.normalize_counts(part, **asked)
    pd.testing.assert_frame_equal(sb.get.composition(part), before)  # the error left it as it was


def test_pooled_genes_have_no_rows_and_keep_their_share(adata):
    genes = list(adata.var_names[adata.var["mask"]])
    ask = {"fit_dirichlet": True, "store_samples": True, "n_samples": 3, "expression": True}
    sb.tl.normalize_counts(adata, "masked", **ask)
    for what in ("mean", "lower", "samples", "concentration"):
        value = adata.varm[f"masked_composition_{what}"]
        assert np.isnan(value[MASKED]).all()
        assert np.isfinite(np.delete(value, MASKED, 0)).all()
    table = sb.get.composition(adata, "masked")
    assert list(table["gene"]) == genes
    truth = np.delete(adata.varm["mu"][:, 0], MASKED).sum() / adata.varm["mu"].sum()
    assert table["mean"].sum() == pytest.approx(truth, rel=0.03)
    law = sb.get.composition(adata, "masked", what="distributions", backend="scipy")
    assert law.alpha.shape == (58,)
    assert law.mean()[-1] == pytest.approx(1 - truth, rel=0.3)
    with pytest.raises(ValueError, match="'gene17' was not fitted on its own"):
        sb.get.composition(adata, "masked", genes=["gene2", "gene17"])
    with pytest.raises(KeyError, match="'gene17' was not fitted on its own"):
        sb.get.expression(adata, "masked", genes=["gene2", "gene17"])
    with pytest.raises(ValueError, match="expression names 2 genes that were not fitted on their own, first 'gene17'"):
        sb.tl.normalize_counts(adata, "masked", expression=["gene17", "gene3", "gene5"])
    everything = sb.get.expression(adata, "masked", genes=["gene59", "gene2"])
    sb.tl.normalize_counts(adata, "masked", expression=["gene59", "gene2"])
    pd.testing.assert_frame_equal(sb.get.expression(adata, "masked"), everything, rtol=1e-5)


# --- the verb: compositions of cells ----------------------------------------------------------------------------------


def test_samples_are_those_of_a_dirichlet(adata):
    sb.tl.normalize_counts(adata, n_samples=30, n_samples_dirichlet=400, store_samples=True, store_sizes=True)
    x, r = (sb.get.composition(adata, what=what) for what in ("samples", "sizes"))
    assert x.shape == (30, 60, 400)
    assert r.shape == (30, 60)
    np.testing.assert_allclose(x.sum(1), 1, rtol=1e-12)
    marginal = sb.get.distributions(adata, backend="scipy")["r"]
    assert np.abs(stats.norm.ppf(marginal.cdf(r))).max() < 4.5
    total = r.sum(1, keepdims=True)
    mean, variance = r / total, r * (total - r) / total**2 / (total + 1)
    z = (x.mean(-1) - mean) / np.sqrt(variance / 400)
    assert z.std() == pytest.approx(1, abs=0.06)
    assert np.abs(z).max() < 5.5
    assert np.mean(x.var(-1) / variance) == pytest.approx(1, abs=0.02)


def test_samples_where_genes_have_dispersions_of_their_own(adata):
    sb.tl.normalize_counts(adata, "md", n_samples=40, n_samples_dirichlet=50, store_samples=True, store_sizes=True)
    x, r = (sb.get.composition(adata, "md", what=what) for what in ("samples", "sizes"))
    mean = sb.get.composition(adata, "md")["mean"].to_numpy()
    # a gene with a small share varies like its Gamma distribution: squared coefficient of variation 1/r
    small = mean < 0.01
    spread = x.var((0, 2))[small] / x.mean((0, 2))[small] ** 2 * r.mean(0)[small]
    assert np.median(spread) == pytest.approx(1, abs=0.15)
    assert np.median(x.mean((0, 2)) / mean) == pytest.approx(1, abs=0.05)


def test_concentrations(adata):
    sb.tl.normalize_counts(adata, n_samples=50, fit_dirichlet=True, store_sizes=True, rng=3)
    a, r = (sb.get.composition(adata, what=what) for what in ("concentrations", "sizes"))
    assert a.shape == (60,)
    likelihood = (special.digamma(r) - special.digamma(r.sum(1, keepdims=True))).mean(0)
    np.testing.assert_allclose(special.digamma(a) - special.digamma(a.sum()), likelihood, rtol=1e-6)
    law = sb.get.composition(adata, what="distributions")
    np.testing.assert_allclose(law.concentration, a, rtol=1e-6)
    table = sb.get.composition(adata)
    np.testing.assert_allclose(a / a.sum(), table["mean"], rtol=0.2, atol=1e-4)
    sb.tl.normalize_counts(adata, "md", n_samples=50, fit_dirichlet="mean")
    kept = sb.get.composition(adata, "md", what="distributions", backend="scipy")
    np.testing.assert_allclose(kept.mean(), sb.get.composition(adata, "md")["mean"], rtol=0.1)


def test_seed(adata):
    ask = {"n_samples": 2, "store_samples": True, "copy": True}
    first, again, other, generator = (
        sb.get.composition(sb.tl.normalize_counts(adata, rng=rng, **ask), what="samples")
        for rng in (1, 1, 2, np.random.default_rng(1))
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, generator)
    assert np.all(first != other)
    assert "sb_normalize_counts" not in adata.uns


# --- the verb: expression of cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sb", "md"])
def test_expression_of_chosen_genes(adata, key):
    genes = ["gene30", "gene4"]
    sb.tl.normalize_counts(adata, key, expression=genes, expression_interval=True)
    u = adata[:, genes].X.toarray()
    found = medians(adata, key)
    i = adata.var_names.get_indexer(genes)
    r, mu, share, nu = found["r"][i], found["mu"][i], found["composition"][i], found["nu"][:, None]
    expected = 1e4 * share * (r + u) / (r + nu * mu)
    law = stats.gamma(r + u, scale=1e4 * share / (r + nu * mu))
    table = sb.get.expression(adata, key)
    assert list(table.columns) == genes
    assert list(table.index) == list(adata.obs_names)
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    for what, value in (("sd", law.std()), ("lower", law.ppf(0.05)), ("upper", law.ppf(0.95))):
        np.testing.assert_allclose(sb.get.expression(adata, key, what=what), value, rtol=1e-6)
    layer = adata.layers[f"{key}_normalized"]
    assert layer.nnz == 2 * 400
    np.testing.assert_array_equal(layer[:, i].toarray(), table)
    latent = 1e4 * adata.varm["mu"][i, 0] / adata.varm["mu"].sum()  # and it is the share of the gene, on average
    np.testing.assert_allclose(table.mean(), latent, rtol=0.15)


@pytest.mark.parametrize("key", ["sb", "md"])
def test_expression_of_all_genes(adata, key):
    sb.tl.normalize_counts(adata, key, expression=True, scale=1)
    table = sb.get.expression(adata, key, genes=adata.var_names)
    rank = adata.obsm[f"{key}_normalized_cells"].shape[1]
    assert rank == 1 if key == "sb" else 1 < rank <= 12
    assert adata.layers[f"{key}_normalized_above_zero"].nnz == adata.X.nnz
    np.testing.assert_allclose(np.median(np.asarray(table).sum(1)), 1, atol=0.02)
    sb.tl.normalize_counts(adata, key, expression=adata.var_names, scale=1, key_added="each")
    pd.testing.assert_frame_equal(sb.get.expression(adata, "each"), table, rtol=1e-5)
    # cells and genes that are left keep theirs
    part = adata[::7, ["gene9", "gene2"]].copy()
    pd.testing.assert_frame_equal(sb.get.expression(part, key, genes=["gene2"]), table.iloc[::7][["gene2"]])
    sb.tl.normalize_counts(part, key, expression=["gene2"], scale=1)
    pd.testing.assert_frame_equal(sb.get.expression(part, key), table.iloc[::7][["gene2"]], rtol=1e-5)


def test_new_cells(adata):
    genes = ["gene8", "gene1"]
    sb.tl.normalize_counts(adata, expression=genes)
    new = ad.AnnData(adata.X[:150], adata.obs[:150].copy(), adata.var[[]].copy())[:, ::-1].copy()
    new.obs_names = [f"new{i}" for i in range(150)]
    sb.tl.normalize_counts(new, reference=adata, expression=genes)
    np.testing.assert_allclose(sb.get.expression(new), sb.get.expression(adata).iloc[:150], rtol=0.01)
    old, found = (sb.get.composition(x, genes=genes) for x in (adata, new))
    pd.testing.assert_frame_equal(old, found)


def test_mixture_with_gate_and_batches(mixture):
    ask = {"store_samples": True, "store_sizes": True, "fit_dirichlet": True, "n_samples": 4, "n_samples_dirichlet": 3}
    sb.tl.normalize_counts(mixture, expression=["gene7"], expression_interval=True, **ask)
    names = sb.get.fit(mixture).components
    table = sb.get.composition(mixture)
    assert list(table.columns) == ["gene", "batch", "component", "mean", "lower", "upper"]
    assert len(table) == 50 * 4
    law = sb.get.distributions(mixture, backend="scipy")["composition"].mean()  # batches, components, genes
    for b, k in np.ndindex(2, 2):
        rows = table[(table["batch"] == str(b)) & (table["component"] == names[k])]
        np.testing.assert_allclose(rows["mean"], law[b, k])
    assert sb.get.composition(mixture, what="samples").shape == (4, 2, 2, 50, 3)
    assert sb.get.composition(mixture, what="sizes", genes="gene7").shape == (4, 2, 2, 1)
    concentrations = sb.get.composition(mixture, what="concentrations")
    laws = sb.get.composition(mixture, what="distributions", backend="scipy")
    np.testing.assert_allclose(laws[1][0].alpha, concentrations[1, 0])
    chosen = {what: sb.get.expression(mixture, what=what) for what in ("mean", "lower", "upper")}
    assert (chosen["lower"] <= chosen["mean"]).all(axis=None)
    # a cell of the other component, or batch, has another expression: the parts go where they belong
    found = medians(mixture, "sb")
    code, batch = mixture.obsm["sb_responsibilities"].argmax(1), mixture.obs["batch"].astype(int).to_numpy()
    r, mu, share = found["r"][code, 7], found["mu"][..., 7], found["composition"][..., 7]
    u = mixture[:, "gene7"].X.toarray()[:, 0]
    expected = 1e4 * share[batch, code] * (r + u) / (r + found["nu"] * mu[batch, code])
    sure = (mixture.obsm["sb_responsibilities"].max(1) > 1 - 1e-6) & (u > 0)
    assert sure.sum() > 100
    np.testing.assert_allclose(chosen["mean"]["gene7"][sure], expected[sure], rtol=1e-4)
    sb.tl.normalize_counts(mixture, expression=True)
    every = sb.get.expression(mixture, genes="gene7")
    pd.testing.assert_frame_equal(every, chosen["mean"], rtol=1e-5)


# --- state, and what is refused ---------------------------------------------------------------------------------------


def test_written_and_read_back(adata, tmp_path):
    sb.tl.normalize_counts(adata, expression=["gene1"], fit_dirichlet=True, store_samples=True, n_samples=2)
    sb.tl.normalize_counts(adata, "md", expression=True, key_added="all")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sb.get.composition(again), sb.get.composition(adata))
    pd.testing.assert_frame_equal(sb.get.expression(again), sb.get.expression(adata))
    pd.testing.assert_frame_equal(*(sb.get.expression(x, "all", genes=["gene5"]) for x in (again, adata)))
    for what in ("samples", "concentrations"):
        np.testing.assert_array_equal(*(sb.get.composition(x, what=what) for x in (again, adata)))
    sb.tl.remove(again, "md")
    with pytest.raises(KeyError, match=r"run sb\.tl\.normalize_counts first"):
        sb.get.expression(again, "all")
    assert [name for name in again.varm if name.startswith("all")] == []


def test_a_second_run_takes_the_place_of_the_first(adata):
    sb.tl.normalize_counts(adata, store_samples=True, n_samples=2, expression=["gene1"])
    sb.tl.normalize_counts(adata)
    assert "sb_composition_samples" not in adata.varm
    assert "sb_normalized" not in adata.layers
    with pytest.raises(KeyError, match=r"holds no samples.*store_samples=True"):
        sb.get.composition(adata, what="samples")
    with pytest.raises(KeyError, match=r"holds no distributions.*fit_dirichlet=True"):
        sb.get.composition(adata, what="distributions")
    with pytest.raises(KeyError, match="holds no expression"):
        sb.get.expression(adata)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        ({"interval": 1}, ValueError, "interval=1"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"n_samples_dirichlet": 1.5}, ValueError, "n_samples_dirichlet=1.5"),
        ({"scale": 0}, ValueError, "scale=0"),
        ({"fit_dirichlet": "free"}, ValueError, "fit_dirichlet='free'"),
        ({"expression": []}, ValueError, "names no gene"),
        ({"expression": ["gene1", "XIST"]}, KeyError, "first 'XIST'"),
        ({"expression": True, "expression_interval": True}, ValueError, "needs chosen genes"),
        ({"key": "none"}, KeyError, "no fit 'none'"),
        ({"layer": "none", "expression": "gene1"}, KeyError, "no layer 'none'"),
    ],
)
def test_what_is_refused(adata, ask, error, message):
    with pytest.raises(error, match=message):
        sb.tl.normalize_counts(adata, **ask)
    assert [name for name in adata.uns if name.endswith("normalize_counts")] == []


def test_what_get_refuses(adata):
    with pytest.raises(KeyError, match=r"run sb\.tl\.normalize_counts first"):
        sb.get.composition(adata)
    sb.tl.normalize_counts(adata, expression="gene1")
    for ask, error, message in (
        ({"what": "none"}, ValueError, "unknown what 'none'"),
        ({"backend": "none"}, ValueError, "unknown backend 'none'"),
        ({"genes": ["XIST"]}, KeyError, "no gene 'XIST'"),
    ):
        with pytest.raises(error, match=message):
            sb.get.composition(adata, **ask)
    for ask, error, message in (
        ({"what": "none"}, ValueError, "unknown what 'none'"),
        ({"what": "sd"}, KeyError, "expression_interval=True"),
        ({"genes": ["gene2"]}, KeyError, "of 'gene2' was not computed"),
    ):
        with pytest.raises(error, match=message):
            sb.get.expression(adata, **ask)
    sb.tl.normalize_counts(adata, expression=True)
    with pytest.raises(ValueError, match="say which"):
        sb.get.expression(adata)


# --- the picture ------------------------------------------------------------------------------------------------------


def markers(ax) -> list:
    """The line of markers of each profile."""
    return [line for line in ax.get_lines() if line.get_marker() != "None"]


def drawn(ax) -> list[np.ndarray]:
    """Of each profile, what is drawn: genes x (mean, lower, upper)."""
    found = []
    for line, bars in zip(markers(ax), ax.collections, strict=True):
        segments = np.array(bars.get_segments())
        np.testing.assert_array_equal(segments[:, :, 1].T, [line.get_ydata()] * 2)
        found.append(np.column_stack([line.get_xdata(), segments[:, :, 0]]))
    return found


def test_picture(adata):
    sb.tl.normalize_counts(adata, interval=0.5)
    table = sb.get.composition(adata).sort_values("mean", ascending=False)[:7]
    ax = sb.pl.composition(adata, n_genes=7, show=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table["gene"])
    np.testing.assert_allclose(drawn(ax)[0], table[["mean", "lower", "upper"]], rtol=1e-9)
    assert ax.get_xscale() == "log"
    assert "50% interval" in ax.get_xlabel()
    assert ax.get_ylim() == (6.5, -0.5)  # the largest on top
    given = plt.figure().subplots()
    assert sb.pl.composition(adata, genes=["gene9", "gene2"], ax=given) is given
    assert [label.get_text() for label in given.get_yticklabels()] == ["gene9", "gene2"]
    with pytest.raises(ValueError, match="n_genes=0"):
        sb.pl.composition(adata, n_genes=0, show=False)


def test_picture_of_profiles(mixture, monkeypatch):
    sb.tl.normalize_counts(mixture)
    ax = sb.pl.composition(mixture, genes=["gene9", "gene2"], show=False)
    table = sb.get.composition(mixture, genes=["gene9", "gene2"])
    assert len(drawn(ax)) == 4
    for (_, group), bars in zip(table.groupby(["batch", "component"], observed=True), drawn(ax), strict=True):
        np.testing.assert_allclose(bars, group[["mean", "lower", "upper"]], rtol=1e-9)
    points = markers(ax)
    assert len({point.get_marker() for point in points}) == 4
    luminance = [np.dot(mpl.colors.to_rgb(point.get_color()), [0.299, 0.587, 0.114]) for point in points]
    assert np.all(np.diff(luminance) > 0.08)
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "batch, component"
    names = sb.get.fit(mixture).components
    assert [text.get_text() for text in legend.get_texts()] == [f"{b}, {k}" for b in "01" for k in names]
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert sb.pl.composition(mixture, show=True) is None
    assert shown == [1]
