"""Entropy of the probabilities of components, by cell and by gene."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import scbayes as sb

N_CELLS, N_GENES, K = 150, 25, 3


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, n_components=K, log_mean=(2.5, 1.2), rng=6)
    adata.obs["truth"] = np.array(["ape", "bee", "cat"])[adata.obs["component"].cat.codes]
    adata.var["mask"] = np.arange(N_GENES) != 4
    sb.tl.fit(adata, labels_key="truth", mask_var="mask", progress=False)
    sb.tl.fit(adata, "nbdm", n_steps=50, key_added="plain", progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


def by_hand(p: np.ndarray) -> np.ndarray:
    return special.entr(p).sum(1)


def test_entropy_of_cells(adata):
    assert sb.tl.entropy(adata) is None
    sb.tl.assign(adata)
    h = adata.obs["sb_entropy"].to_numpy()
    np.testing.assert_allclose(h, by_hand(adata.obsm["sb_probabilities"]), atol=1e-12)
    assert h.dtype == np.float64
    assert h.min() >= 0
    assert 0.3 < h.max() <= np.log(K)
    table = sb.get.entropy(adata)
    assert list(table.columns) == ["entropy"]
    assert table.attrs["largest"] == pytest.approx(np.log(3))
    np.testing.assert_array_equal(table["entropy"], h)


def test_temperature_and_size(adata):
    sb.tl.assign(adata, temperature=5.0, key_added="warm")
    sb.tl.entropy(adata, temperature=5.0)
    np.testing.assert_allclose(adata.obs["sb_entropy"], by_hand(adata.obsm["warm_probabilities"]), atol=1e-12)
    sb.tl.assign(adata)
    weights = sb.get.fit(adata).posterior.weights
    log_w = np.log(weights / weights.sum())
    log_p = np.log(np.maximum(adata.obsm["sb_probabilities"], 1e-300)) - log_w  # log likelihoods, up to a constant
    sb.tl.entropy(adata, normalize=True, key_added="norm")
    expected = by_hand(special.softmax(log_w + log_p / N_GENES, 1))  # 24 genes, and the pooled one
    np.testing.assert_allclose(adata.obs["norm_entropy"], expected, atol=1e-9)
    sb.tl.entropy(adata, temperature=1e9, key_added="hot")
    np.testing.assert_allclose(adata.obs["hot_entropy"], np.log(K), rtol=1e-9)
    assert adata.obs["hot_entropy"].max() <= np.log(K)


def test_entropy_of_draws(adata):
    sb.tl.entropy(adata, n_samples=6, keep_draws=True, rng=2, progress=False)
    sb.tl.assign(adata, n_samples=6, keep_draws=True, rng=2, progress=False)
    p = sb.get.assignments(adata, what="draws")
    h = sb.get.entropy(adata, what="draws")
    assert h.shape == (6, N_CELLS)
    np.testing.assert_allclose(h, special.entr(p).sum(-1), atol=1e-12)
    table = sb.get.entropy(adata)
    np.testing.assert_allclose(table["entropy"], h.mean(0), rtol=1e-12)
    np.testing.assert_allclose(table["entropy_of_mean"], by_hand(p.mean(0)), atol=1e-12)
    assert np.all(table["entropy_of_mean"] >= table["entropy"] - 1e-12)  # Jensen
    assert np.any(table["entropy_of_mean"] > table["entropy"] + 1e-3)


def test_entropy_of_what_was_assigned(adata):
    adata.obs["label"] = adata.obs["truth"].where(np.arange(N_CELLS) % 2 == 0)
    sb.tl.assign(adata, calibrate="label", key_added="cal")
    sb.tl.entropy(adata, assigned="cal")
    np.testing.assert_allclose(adata.obs["sb_entropy"], by_hand(adata.obsm["cal_probabilities"]), atol=1e-12)
    with pytest.raises(KeyError, match=r"sb\.tl\.assign"):
        sb.tl.entropy(adata, assigned="none")


def gene_log_likelihoods(adata: ad.AnnData) -> np.ndarray:
    """Of each gene's counts if all cells were of a component, at equal expected totals: scipy, dense."""
    fit = sb.get.fit(adata)
    par = fit.centre().parameters
    mean = par.mean[0]  # (K, genes), the pooled gene last
    log_total = par.log_nu + np.log(mean.sum(1)) @ par.weights
    out = np.zeros((N_GENES, K))
    for j, g in enumerate(np.flatnonzero(fit.fitted)):
        u = adata.X[:, [g]].toarray().ravel()
        for k in range(K):
            m = np.exp(log_total) * mean[k, j] / mean[k].sum()
            r = par.size[0, k, j]
            out[g, k] = stats.nbinom.logpmf(u, r, r / (r + m)).sum()
    out[~fit.fitted] = np.nan
    return out


def test_entropy_of_genes(adata):
    log_p = gene_log_likelihoods(adata)
    for key, scale, temperature in (("sb", 1, 1.0), ("norm", N_CELLS, 1.0), ("warm", 1, 20.0)):
        sb.tl.entropy(adata, by="gene", normalize=scale > 1, temperature=temperature, key_added=key)
        expected = by_hand(special.softmax(log_p / scale / temperature, 1))
        np.testing.assert_allclose(adata.var[f"{key}_entropy"], expected, atol=1e-6)
    found = adata.var["norm_entropy"]
    assert np.isnan(found.iloc[4])  # it was pooled
    assert found.max() <= np.log(K)
    table = sb.get.entropy(adata, "norm", by="gene")
    assert len(table) == N_GENES - 1
    assert "sb_entropy" not in adata.obs


def test_genes_that_differ_have_less(adata):
    sb.tl.entropy(adata, by="gene", normalize=True)
    mean = np.stack([np.asarray(adata[adata.obs["truth"] == x].X.mean(0)).ravel() for x in ("ape", "bee", "cat")])
    mean *= 40 / mean.sum(1, keepdims=True)
    distance = np.sum((np.sqrt(mean) - np.sqrt(mean.mean(0))) ** 2, 0)
    kept = adata.var["mask"].to_numpy()
    assert stats.spearmanr(distance[kept], adata.var["sb_entropy"][kept]).statistic < -0.8


def test_draws_by_gene(adata):
    sb.tl.entropy(adata, by="gene", n_samples=3, keep_draws=True, progress=False)
    draws = sb.get.entropy(adata, by="gene", what="draws")
    assert draws.shape == (3, N_GENES)
    assert adata.varm["sb_entropy_draws"].shape == (N_GENES, 3)
    np.testing.assert_array_equal(np.isnan(draws).all(0), np.arange(N_GENES) == 4)
    table = sb.get.entropy(adata, by="gene")
    np.testing.assert_allclose(table["entropy"], np.delete(draws.mean(0), 4), rtol=1e-12)


def test_cells_and_genes_side_by_side(adata, tmp_path):
    sb.tl.entropy(adata)
    sb.tl.entropy(adata, by="gene")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for by in ("cell", "gene"):
        pd.testing.assert_frame_equal(sb.get.entropy(again, by=by), sb.get.entropy(adata, by=by))
    sb.tl.remove(again)
    assert "sb_entropy" not in again.obs
    assert "sb_entropy" not in again.var
    assert not [name for name in again.uns if name.startswith("sb")]


def test_new_cells(adata):
    new = ad.AnnData(adata.X[::3].copy(), obs=adata.obs[[]][::3], var=adata.var[[]])
    copy = sb.tl.entropy(new, reference=adata, copy=True)
    assert "sb_entropy" not in new.obs
    sb.tl.entropy(adata)
    # the pooled gene is missing
    assert np.corrcoef(copy.obs["sb_entropy"], adata.obs["sb_entropy"][::3])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "plain"}, "n_components"),
        ({"by": "cells"}, "by="),
        ({"temperature": -1.0}, "temperature"),
        ({"n_samples": 1.5}, "n_samples"),
        ({"keep_draws": True}, "n_samples"),
        ({"assigned": "sb", "by": "gene"}, "assigned"),
        ({"assigned": "sb", "temperature": 2.0}, "assigned"),
        ({"assigned": "sb", "n_samples": 2}, "assigned"),
        ({"assigned": "sb", "normalize": True}, "assigned"),
    ],
)
def test_what_is_wrong_is_said(adata, arguments, message):
    with pytest.raises(ValueError, match=message):
        sb.tl.entropy(adata, progress=False, **arguments)
    assert "sb_entropy" not in adata.uns


def test_get_says_what_is_wrong(adata):
    with pytest.raises(KeyError, match=r"sb\.tl\.entropy\(adata, by='gene'\)"):
        sb.get.entropy(adata, by="gene")
    with pytest.raises(ValueError, match="by="):
        sb.get.entropy(adata, by="cells")
    sb.tl.entropy(adata)
    with pytest.raises(KeyError, match="keep_draws"):
        sb.get.entropy(adata, what="draws")


def test_picture(adata):
    sb.tl.entropy(adata)
    ax = sb.pl.entropy(adata, show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all cells"]
    ax = sb.pl.entropy(adata, groupby="truth", show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ape", "bee", "cat"]
    rings = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    medians = adata.obs.groupby("truth", observed=True)["sb_entropy"].median()
    np.testing.assert_allclose(rings, medians, rtol=1e-12)
    points = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "."]
    np.testing.assert_array_equal(np.sort(np.concatenate(points)), np.sort(adata.obs["sb_entropy"]))
    assert "nats" in ax.get_xlabel()
    ax.figure.canvas.draw()
    sb.tl.assign(adata)
    ax = sb.pl.entropy(adata, show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ape", "bee", "cat"]
    with pytest.raises(KeyError, match="none"):
        sb.pl.entropy(adata, groupby="none", show=False)


def test_scanpy_draws_them_on_a_umap(adata, tmp_path):
    import scanpy as sc

    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(N_CELLS, 2))
    sb.tl.entropy(adata)
    sb.tl.assign(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for each in (adata, ad.read_h5ad(tmp_path / "a.h5ad")):
        axes = sc.pl.umap(each, color=["sb_entropy", "sb_assignment"], show=False)
        assert [ax.get_title() for ax in axes] == ["sb_entropy", "sb_assignment"]
        values = [part.get_array() for part in axes[0].collections]
        np.testing.assert_allclose(np.sort(values[0]), np.sort(adata.obs["sb_entropy"]), rtol=1e-6)
