"""Draws of the parameters: where they lie, what they are draws of, and how they are read."""

import anndata as ad
import numpy as np
import pytest
from scipy import stats

import scbayes as sb
from scbayes.state import _samples


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    """Two fits: one with genes of their own size, and one where all share odds, with batches and pooled genes."""
    adata = sb.datasets.simulate("nbvcp", n_cells=120, n_genes=20, n_batches=2, log_mean=(3, 1), rng=0)
    adata.var["own"] = np.arange(20) % 4 > 0
    sb.tl.fit(adata, progress=False)
    settings = {"parameterization": "linked", "mask_var": "own", "batch_key": "batch"}
    sb.tl.fit(adata, "zinbvcp", **settings, n_steps=50, key_added="zi", progress=False)
    return adata


@pytest.fixture
def adata(fitted) -> ad.AnnData:
    return fitted.copy()


def test_draws_lie_beside_what_they_are_of(adata):
    sb.tl.posterior_samples(adata, n_samples=30)
    assert adata.varm["sb_samples_mu"].shape == adata.varm["sb_samples_r"].shape == (20, 30)
    assert adata.obsm["sb_samples_nu"].shape == (120, 30)
    found = sb.get.samples(adata)
    assert {name: value.shape for name, value in found.items()} == {"mu": (30, 20), "r": (30, 20), "nu": (30, 120)}
    for name, (field, n) in {"mu": ("varm", 20), "nu": ("obsm", 120)}.items():
        stored = getattr(adata, field)[f"sb_samples_{name}"]
        assert stored.dtype == np.float64
        for i in (0, n - 1):
            np.testing.assert_array_equal(found[name][:, i], stored[i])


def test_draws_are_of_the_posterior(adata):
    """Against the closed-form marginals and the joint normal of a gene, by the Kolmogorov-Smirnov test."""
    found = sb.get.samples(adata, n_samples=2000, sites=["mu", "r", "nu", "composition"])
    marginals = sb.get.distributions(adata, backend="scipy")
    for name, tolerance in (("mu", 1e-5), ("r", 1e-5), ("nu", 1e-5), ("composition", 1e-3)):
        u = marginals[name].cdf(found[name])
        worst = min(stats.kstest(column, "uniform").pvalue for column in u.T)
        assert worst > tolerance, name
    loc, tril = adata.varm["sb_loc"], adata.varm["sb_tril"]
    z = np.stack([np.log(found["mu"]), np.log(found["r"])], -1) - loc
    white = np.linalg.solve(tril, z[..., None])[..., 0]
    cross = np.mean(white[..., 0] * white[..., 1], 0) * np.sqrt(2000)
    assert np.abs(cross).max() < 4.5
    np.testing.assert_allclose(found["composition"], found["mu"] / found["mu"].sum(1, keepdims=True), rtol=1e-10)


def test_identities_hold_draw_by_draw(adata):
    found = sb.get.samples(adata, "zi", n_samples=5, sites=["mu", "r", "p", "nu", "odds", "gate", "composition"])
    assert found["mu"].shape == found["r"].shape == (5, 2, 15)
    assert found["gate"].shape == (5, 15)
    assert found["p"].shape == (5,)
    odds = found["p"] / (1 - found["p"])
    np.testing.assert_allclose(found["r"] * odds[:, None, None], found["mu"], rtol=1e-10)
    np.testing.assert_allclose(found["nu"] * odds[:, None], found["odds"], rtol=1e-10)
    assert ((found["gate"] > 0) & (found["gate"] < 1)).all()
    assert (found["composition"].sum(-1) < 1).all()  # the pooled gene has the rest


def test_batches_and_pooled_genes_are_stored(adata):
    sb.tl.posterior_samples(adata, "zi", n_samples=4)
    own = adata.var["own"].to_numpy()
    assert adata.varm["zi_samples_mu"].shape == (20, 4, 2)
    assert np.isnan(adata.varm["zi_samples_mu"][~own]).all()
    assert adata.uns["zi_posterior_samples"]["p"].shape == (4,)
    stored, made = sb.get.samples(adata, "zi"), sb.get.samples(adata, "zi", n_samples=4)
    assert list(stored) == list(made) == ["mu", "r", "p", "gate", "nu"]
    for name, value in made.items():
        np.testing.assert_array_equal(stored[name], value)


def test_components_of_a_mixture(tmp_path):
    settings = {"n_cells": 100, "n_genes": 15, "log_mean": (3, 1), "component_lfc": (0.5, 1.5)}
    adata = sb.datasets.simulate("nbvcp_mix", n_components=2, **settings, rng=0)
    sb.tl.fit(adata, n_components=2, parameterization="standard", n_steps=50, progress=False)
    sb.tl.posterior_samples(adata, n_samples=6, sites=["r", "mu", "p", "nu", "odds", "weights"])
    assert adata.varm["sb_samples_r"].shape == (15, 6, 2)
    assert adata.obsm["sb_samples_odds"].shape == (100, 6, 2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = sb.get.samples(ad.read_h5ad(tmp_path / "a.h5ad"))
    shapes = {"r": (6, 2, 15), "mu": (6, 2, 15), "p": (6, 2), "nu": (6, 100), "odds": (6, 2, 100), "weights": (6, 2)}
    assert {name: value.shape for name, value in found.items()} == shapes
    odds = found["p"] / (1 - found["p"])
    np.testing.assert_allclose(found["r"] * odds[..., None], found["mu"], rtol=1e-10)
    np.testing.assert_allclose(found["nu"][:, None] * odds[..., None], found["odds"], rtol=1e-10)
    np.testing.assert_allclose(found["weights"].sum(1), 1)
    again = sb.get.samples(adata, n_samples=6)
    np.testing.assert_array_equal(again["r"], found["r"])


def test_seeds(adata):
    one, same, other = (sb.get.samples(adata, n_samples=3, rng=seed) for seed in (1, 1, 2))
    generator = sb.get.samples(adata, n_samples=3, rng=np.random.default_rng(1))
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
        np.testing.assert_array_equal(value, generator[name])
        assert not np.isclose(value, other[name]).any()
        assert not np.isclose(value[0], value[1]).any()


def test_chosen_sites_and_genes_are_the_same_draws(adata):
    whole = sb.get.samples(adata, n_samples=6)
    sb.tl.posterior_samples(adata, n_samples=6, sites="r", genes=["gene7", "gene2"], key_added="few")
    assert not [name for name in (*adata.varm, *adata.obsm) if name.startswith("few")]
    few = sb.get.samples(adata, "few")
    assert list(few) == ["r"]
    np.testing.assert_array_equal(few["r"], whole["r"][:, [7, 2]])
    np.testing.assert_array_equal(sb.get.samples(adata[:, ["gene2", "gene3"]], "few")["r"], whole["r"][:, [2]])
    assert list(sb.get.samples(adata, n_samples=2, sites=("nu", "mu"))) == ["nu", "mu"]


def test_subsets_move_with_anndata(adata):
    sb.tl.posterior_samples(adata, n_samples=3)
    whole = sb.get.samples(adata)
    part = sb.get.samples(adata[[5, 3], ["gene9", "gene1"]].copy())
    np.testing.assert_array_equal(part["mu"], whole["mu"][:, [9, 1]])
    np.testing.assert_array_equal(part["nu"], whole["nu"][:, [5, 3]])


def test_after_reload(adata, tmp_path):
    sb.tl.posterior_samples(adata, "zi", n_samples=3)
    sb.tl.posterior_samples(adata, "zi", n_samples=3, genes="gene1", key_added="few")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for key in ("zi", "few"):
        before, after = sb.get.samples(adata, key), sb.get.samples(again, key)
        assert list(before) == list(after)
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name])


def test_new_cells(adata):
    new = adata[:40, 3:].copy()
    del new.uns["sb"], new.obsm["sb_nu"]
    sb.tl.posterior_samples(new, reference=adata, n_samples=200)
    found, old = sb.get.samples(new), sb.get.samples(adata, n_samples=200)
    assert found["r"].shape == (200, 17)
    ratio = np.log(found["nu"].mean(0) / old["nu"].mean(0)[:40])
    assert np.median(np.abs(ratio)) < 0.1  # three genes fewer
    assert np.abs(ratio).max() < 0.5


def test_copy_and_removal(adata):
    out = sb.tl.posterior_samples(adata, n_samples=2, copy=True)
    assert "sb_posterior_samples" not in adata.uns
    assert sb.get.samples(out)["r"].shape == (2, 20)
    sb.tl.remove(out)
    assert not [name for name in (*out.varm, *out.obsm, *out.uns) if name.startswith("sb_samples")]
    assert "sb_posterior_samples" not in out.uns
    view = adata[:10]
    with pytest.warns(UserWarning, match="view"):
        sb.tl.posterior_samples(view, n_samples=2)
    assert sb.get.samples(view)["nu"].shape == (2, 10)


def test_what_is_refused(adata, monkeypatch):
    with pytest.raises(KeyError, match="posterior_samples first"):
        sb.get.samples(adata)
    with pytest.raises(KeyError, match="no fit"):
        sb.get.samples(adata, "x", n_samples=2)
    with pytest.raises(ValueError, match="n_samples=0"):
        sb.tl.posterior_samples(adata, n_samples=0)
    with pytest.raises(ValueError, match="'gate', which model 'nbvcp'"):
        sb.tl.posterior_samples(adata, sites=["r", "gate"])
    with pytest.raises(ValueError, match="empty"):
        sb.tl.posterior_samples(adata, sites=[])
    with pytest.raises(KeyError, match="gene99"):
        sb.tl.posterior_samples(adata, genes=["gene1", "gene99"])
    sb.tl.posterior_samples(adata, n_samples=2, sites="mu")
    with pytest.raises(ValueError, match="no draws of 'r'"):
        sb.get.samples(adata, sites="r")
    before = list(adata.varm)
    with pytest.raises(ValueError, match=r"nu 9.6\).*genes=.*n_samples="):
        sb.tl.posterior_samples(adata, n_samples=10**7)
    assert list(adata.varm) == before
    monkeypatch.setattr(_samples, "MOST", 8 * (20 + 20 + 120) * 3)
    sb.tl.posterior_samples(adata, n_samples=3)
    with pytest.raises(ValueError, match="GB"):
        sb.tl.posterior_samples(adata, n_samples=4)
