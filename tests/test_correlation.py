"""Correlations of genes, against dense forms on the same draws."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.special import gammaln

import scbayes as sb
from scbayes.stats._correlation import Moments, ranked
from scbayes.tl import _correlation
from scbayes.tl._corrected_samples import CorrectedSamples, log_gamma
from scbayes.tl._latent_reading import BLOCK, read_latent_with_counts

N, G = 300, 30
SMALL = {"n_latent": 3, "n_hidden": 16, "max_epochs": 12, "batch_size": 64}
KINDS = {
    "nb": {"max_epochs": 40},
    "zinb": {"likelihood": "zinb", "dispersion": "gene-cell"},
    "poisson": {"likelihood": "poisson", "library": "encoded"},
    "b": {"likelihood": "b"},
    "per_batch": {"dispersion": "gene-batch"},
}


def simulated(n: int = N, seed: int = 0) -> ad.AnnData:
    """Three types in two batches whose genes differ."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    level = np.exp(np.random.default_rng(9).normal(0, 1, (3, G)))
    of_batch = np.exp(np.random.default_rng(8).normal(0, 0.4, (2, G)))
    share = level[kind] * of_batch[batch]
    share /= share.sum(1, keepdims=True)
    x = rng.negative_binomial(4, 4 / (4 + share * rng.uniform(300, 700, (n, 1))))
    adata = ad.AnnData(sparse.csr_matrix(x, dtype=np.float32))
    adata.obs["batch"], adata.layers["share"] = pd.Categorical([f"b{b}" for b in batch]), share
    adata.obs_names, adata.var_names = [f"c{seed}_{i}" for i in range(n)], [f"g{i}" for i in range(G)]
    return adata


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = simulated()
    for key, config in KINDS.items():
        config = SMALL | config
        sb.tl.fit(adata, "vae", config=config, batch_key="batch", key_added=key, progress=False)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


def all_draws(adata, key, n_samples, *, batch=None, noise=True, seed=0, size=1000.0, genes=None, **where) -> np.ndarray:
    """ln w of all cells and genes at once, ``(S, n, G)``."""
    reading = read_latent_with_counts(adata, key, **where)
    samples = CorrectedSamples(reading, size, noise, seed)
    genes = np.arange(G) if genes is None else genes
    return np.stack([samples.of_genes(genes, draw, batch).T for draw in range(n_samples)])


# --- numerics ---------------------------------------------------------------------------------------------------------


def test_ranks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 8, (5, 200)).astype(np.float32)
    values[4] = rng.normal(size=200)
    r = ranked(values)
    np.testing.assert_allclose(r @ r.T, stats.spearmanr(values.T).statistic, atol=2e-6)
    assert r.dtype == np.float32
    assert np.isnan(ranked(np.full((1, 9), 3, np.float32))).all()


def test_moments_by_blocks_are_those_of_all():
    rng = np.random.default_rng(1)
    values = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 1e3).astype(np.float32)
    values[:, 5] = 7.25
    moments = Moments()
    for first in range(0, 500, 130):
        moments.add(values[first : first + 130])
    found = moments.correlation()
    np.testing.assert_allclose(found[:5, :5], np.corrcoef(values[:, :5].T.astype(float)), atol=2e-6)
    assert np.isnan(found[5]).all()


@pytest.mark.parametrize("shape", [0.01, 0.7, 30.0])
def test_logs_of_gamma_draws(shape):
    """A probability integral transform in logs, as draws of small shapes are below the smallest double."""
    drawn = log_gamma(np.random.default_rng(2), np.full(4000, shape, np.float32)).astype(float)
    small = drawn < -300  # where P(G < x) is x**a / Gamma(a + 1)
    p = stats.gamma(shape).cdf(np.exp(drawn))
    p[small] = np.exp(shape * drawn[small] - gammaln(shape + 1))
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("key", KINDS)
def test_draws_have_the_moments_of_their_law(fitted, key):
    """Given z, w has mean s rho and variance mean^2 / theta."""
    reading = read_latent_with_counts(fitted, key)
    block = next(reading.blocks())
    draw = 3
    samples = CorrectedSamples(reading, 500.0, True, 5)
    eps = np.random.default_rng([5, draw, 0, 0]).standard_normal(block.loc.shape, np.float32)
    decoded = reading.model.decode(block.inputs, block.loc + block.scale * eps)
    mean = 500 * np.exp(np.asarray(decoded.log_share))
    plain = CorrectedSamples(reading, 500.0, False, 5).of_block(block, np.arange(G), draw)
    np.testing.assert_allclose(np.exp(plain), mean, rtol=1e-4)
    w = np.exp(samples.of_block(block, np.arange(G), draw))
    if reading.fit.config.likelihood in {"poisson", "b"}:
        np.testing.assert_allclose(w, mean, rtol=1e-4)
        return
    theta = np.broadcast_to(np.exp(np.asarray(decoded.log_theta)), w.shape)
    ratio = (w / mean).astype(float)
    p = stats.gamma(theta, scale=1 / theta).cdf(ratio)
    assert w.shape == (BLOCK, G)
    assert stats.kstest(p.ravel(), "uniform").pvalue > 1e-3
    assert np.abs((ratio - 1) * np.sqrt(theta)).mean() > 0.5


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KINDS)
def test_spearman_is_that_of_all_draws(fitted, key, monkeypatch):
    """Also where ranks of few genes are held at a time; each set of genes has noise of its own."""
    sb.tl.correlation(fitted, key, n_samples=2)
    found = fitted.varp[f"{key}_correlation"]
    expected = np.mean([stats.spearmanr(draw).statistic for draw in all_draws(fitted, key, 2)], 0)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert found.dtype == np.float32
    monkeypatch.setattr(_correlation, "HELD", 11 * N)  # 30 genes: sets of 11, 11 and 8
    sb.tl.correlation(fitted, key, n_samples=2, noise=False)
    expected = np.mean([stats.spearmanr(draw).statistic for draw in all_draws(fitted, key, 2, noise=False)], 0)
    np.testing.assert_allclose(fitted.varp[f"{key}_correlation"], expected, atol=2e-5)
    sb.tl.correlation(fitted, key, n_samples=1)
    parts = [all_draws(fitted, key, 1, genes=np.arange(G)[s])[0] for s in (slice(0, 11), slice(11, 22), slice(22, 30))]
    expected = stats.spearmanr(np.hstack(parts)).statistic
    np.testing.assert_allclose(fitted.varp[f"{key}_correlation"], expected, atol=5e-6)


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("log1p", [False, True])
def test_pearson_is_that_of_all_draws(fitted, key, log1p):
    sb.tl.correlation(fitted, key, n_samples=2, method="pearson", log1p=log1p, rng=4, rna_size_factor=50)
    draws = np.exp(all_draws(fitted, key, 2, seed=4, size=50.0).astype(float))
    expected = np.mean([np.corrcoef((np.log1p(draw) if log1p else draw).T) for draw in draws], 0)
    np.testing.assert_allclose(fitted.varp[f"{key}_correlation"], expected, atol=5e-6)


def test_batches_that_cells_are_taken_to_be_of(fitted):
    each = []
    for code, name in enumerate(("b0", "b1")):
        sb.tl.correlation(fitted, "per_batch", n_samples=1, transform_batch=name)
        each.append(fitted.varp["per_batch_correlation"])
        expected = stats.spearmanr(all_draws(fitted, "per_batch", 1, batch=code)[0]).statistic
        np.testing.assert_allclose(each[-1], expected, atol=5e-6)
    sb.tl.correlation(fitted, "per_batch", n_samples=1, transform_batch=["b0", "b1"])
    np.testing.assert_allclose(fitted.varp["per_batch_correlation"], np.mean(each, 0), atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 0.01
    assert sb.get.correlation(fitted, "per_batch").attrs["batches"] == ["b0", "b1"]


def test_types_of_cells_show(fitted):
    """Genes of the same types go together; noise draws correlations towards 0; sizes of cells cancel."""
    sb.tl.correlation(fitted, "nb", noise=False)
    sharp = sb.get.correlation(fitted, "nb").to_numpy(float)
    truth = stats.spearmanr(simulated().layers["share"]).statistic
    upper = np.triu_indices(G, 1)
    assert np.corrcoef(sharp[upper], truth[upper])[0, 1] > 0.8
    sb.tl.correlation(fitted, "nb")
    assert np.abs(sb.get.correlation(fitted, "nb").to_numpy()[upper]).mean() < 0.9 * np.abs(sharp[upper]).mean()
    sb.tl.correlation(fitted, "nb", n_samples=2, method="pearson", rna_size_factor=10)
    some = fitted.varp["nb_correlation"]
    sb.tl.correlation(fitted, "nb", n_samples=2, method="pearson", rna_size_factor=1e4)
    np.testing.assert_allclose(fitted.varp["nb_correlation"], some, atol=1e-5)


def test_chosen_genes_survive_a_subset_and_a_file(fitted, tmp_path):
    names = ["g7", "g2", "g20", "g11"]
    sb.tl.correlation(fitted, "nb", genes=names, n_samples=2)
    stored = fitted.varp["nb_correlation"]
    assert sparse.issparse(stored)
    assert stored.shape == (G, G)
    assert stored.nnz == 16
    expected = np.mean(
        [stats.spearmanr(draw).statistic for draw in all_draws(fitted, "nb", 2, genes=np.array([7, 2, 20, 11]))], 0
    )
    table = sb.get.correlation(fitted, "nb", genes=names)
    assert list(table.index) == list(table.columns) == names
    np.testing.assert_allclose(table, expected, atol=5e-6)
    assert list(sb.get.correlation(fitted, "nb").index) == ["g2", "g7", "g11", "g20"]
    fitted.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(sb.get.correlation(back, "nb", genes=names), table)
    part = back[:50, ["g1", "g11", "g7"]]
    pd.testing.assert_frame_equal(sb.get.correlation(part, "nb"), table.loc[["g11", "g7"], ["g11", "g7"]])
    with pytest.raises(KeyError, match="'g1' is not in the result"):
        sb.get.correlation(part, "nb", genes=["g1"])
    with pytest.raises(KeyError, match="no gene 'g2'"):
        sb.get.correlation(part, "nb", genes=["g2"])
    sb.tl.correlation(fitted, "nb", n_samples=1)
    assert isinstance(fitted.varp["nb_correlation"], np.ndarray)
    assert sb.get.correlation(fitted[:, ["g3", "g0"]], "nb").shape == (2, 2)
    sb.tl.remove(fitted, "nb")
    assert "nb_correlation" not in fitted.varp


def test_new_cells_with_genes_in_another_order(fitted):
    new = simulated(80, 5)
    order = np.random.default_rng(0).permutation(G)
    more = ad.concat(
        [new[:, order], ad.AnnData(np.ones((80, 1), np.float32), new.obs, pd.DataFrame(index=["x"]))], axis=1
    )
    more.obs = new.obs
    sb.tl.correlation(more, "nb", reference=sb.get.fit(fitted, "nb").to_anndata(), n_samples=2)
    sb.tl.correlation(new, "nb", reference=fitted, n_samples=2)
    names = list(fitted.var_names)
    pd.testing.assert_frame_equal(sb.get.correlation(more, "nb", genes=names), sb.get.correlation(new, "nb"), atol=1e-6)
    assert more.varp["nb_correlation"].nnz == G * G
    expected = np.mean([stats.spearmanr(d).statistic for d in all_draws(new, "nb", 2, reference=fitted)], 0)
    np.testing.assert_allclose(new.varp["nb_correlation"], expected, atol=5e-6)


def test_a_gene_that_does_not_vary_has_none(fitted, monkeypatch):
    original = CorrectedSamples.of_block

    def constant(self, block, genes, draw):
        return np.where(genes == 4, np.float32(1), original(self, block, genes, draw))

    monkeypatch.setattr(CorrectedSamples, "of_block", constant)
    for method in ("spearman", "pearson"):
        sb.tl.correlation(fitted, "poisson", n_samples=1, method=method, genes=["g3", "g4", "g5"])
        table = sb.get.correlation(fitted, "poisson")
        assert table.loc["g4"].isna().all()
        assert table.notna().to_numpy().sum() == 4
        ax = sb.pl.correlation(fitted, key="poisson", show=False)
        assert [label.get_text() for label in ax.get_xticklabels()] in (["g3", "g5"], ["g5", "g3"])


def test_seeds(fitted):
    def at(rng):
        sb.tl.correlation(fitted, "nb", n_samples=1, rng=rng)
        return fitted.varp["nb_correlation"]

    np.testing.assert_array_equal(at(3), at(3))
    assert np.abs(at(3) - at(4)).max() > 1e-3
    np.testing.assert_array_equal(at(np.random.default_rng(1)), at(np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"method": "kendall"}, ValueError, "'spearman', 'pearson'"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"n_samples": 2.0}, ValueError, "n_samples=2.0"),
        ({"rna_size_factor": 0}, ValueError, "positive number"),
        ({"log1p": 1}, TypeError, "log1p=1"),
        ({"noise": "no"}, TypeError, "noise='no'"),
        ({"genes": ["g1", "nothing"]}, KeyError, "'nothing' is not one of the 30 genes"),
        ({"genes": ["g1", "g1"]}, ValueError, "at least 2 genes"),
        ({"transform_batch": "b7"}, ValueError, "does not know"),
        ({"key": "none"}, KeyError, "none"),
        ({"rng": -1}, ValueError, "rng=-1"),
    ],
)
def test_errors_come_before_anything_is_written(fitted, settings, error, match):
    before = set(fitted.uns), set(fitted.varp)
    with pytest.raises(error, match=match):
        sb.tl.correlation(fitted, **({"key": "nb"} | settings))
    assert (set(fitted.uns), set(fitted.varp)) == before


def test_more_errors(fitted):
    with pytest.raises(ValueError, match="one cell"):
        sb.tl.correlation(fitted[:1].copy(), "nb")
    with pytest.raises(KeyError, match=r"run sb\.tl\.correlation first"):
        sb.get.correlation(fitted, "nb")
    other = sb.datasets.simulate("nbdm", n_cells=40, n_genes=10, rng=0)
    sb.tl.fit(other, "nbdm", progress=False)
    with pytest.raises(ValueError, match="latent"):
        sb.tl.correlation(other)


def test_picture(fitted):
    from matplotlib import pyplot as plt

    sb.tl.correlation(fitted, "nb", n_samples=2, noise=False)
    ax = sb.pl.correlation(fitted, key="nb", n_genes=12, show=False)
    names = [label.get_text() for label in ax.get_yticklabels()]
    table = sb.get.correlation(fitted, "nb")
    largest = (table**2).sum().nlargest(12).index
    assert set(names) == set(largest)
    shown = np.asarray(ax.images[0].get_array().filled(np.nan))
    expected = table.loc[names, names].to_numpy()
    off = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(shown[off], expected[off], rtol=1e-6)
    assert np.isnan(np.diag(shown)).all()
    assert np.abs(expected[off]).max() == pytest.approx(ax.images[0].norm.vmax)
    assert np.diag(expected, 1).mean() > 0.5 > table.to_numpy()[off_of(G)].mean(), "alike genes are side by side"
    _, given = plt.subplots()
    assert sb.pl.correlation(fitted, ["g1", "g2", "g3"], "nb", ax=given) is given
    with pytest.raises(ValueError, match="fewer than two"):
        sb.pl.correlation(fitted, ["g1"], "nb", show=False)
    plt.close("all")


def off_of(n: int) -> np.ndarray:
    return ~np.eye(n, dtype=bool)
