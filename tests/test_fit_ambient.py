"""Fits of native expression: against the truth of a simulation, the pooling and the draws by themselves, state."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models._ambient_counts import AmbientCells, Strata
from scbayes.models._imputation import pooled
from scbayes.models._native_draws import native_draws
from scbayes.models._posterior import Posterior

N_CELLS, N_GENES = 900, 120
Z90 = stats.norm.ppf(0.95)


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Cells of two types in a soup, a third of whose RNA is of genes that both types hardly express.

    `layers["native"]` and `varm["share"]` (of each type) are the truth.
    """
    rng = np.random.default_rng(3)
    share = np.exp(rng.normal(0, 1, (2, N_GENES)) * 0.7 + rng.normal(0, 1.2, N_GENES))
    quiet = rng.random(N_GENES) < 0.2
    share[:, quiet] *= 0.05
    share /= share.sum(1, keepdims=True)
    code = (rng.random(N_CELLS) < 0.4).astype(int)
    depth = np.exp(rng.normal(np.log(900), 0.3, N_CELLS))
    native = rng.poisson(rng.gamma(4.0, 1 / 4.0, (N_CELLS, N_GENES)) * share[code] * depth[:, None])
    soup = share.mean(0) + quiet * 0.015
    soup /= soup.sum()
    fraction = rng.beta(4, 24, N_CELLS)
    ambient = rng.poisson((native.sum(1) * fraction / (1 - fraction))[:, None] * soup)
    adata = ad.AnnData(
        sparse.csr_matrix((native + ambient).astype(np.float32)),
        obs=pd.DataFrame({"type": pd.Categorical(np.array(["a", "b"])[code])}, index=[f"c{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame({"quiet": quiet}, index=[f"g{i}" for i in range(N_GENES)]),
    )
    adata.layers["native"] = sparse.csr_matrix(native.astype(np.float32))
    adata.varm["share"], adata.varm["soup"] = share.T.copy(), soup[:, None]
    sb.tl.denoise(adata, ambient="soup", groupby="type", progress=False)
    return adata


@pytest.fixture(scope="module")
def fits(cells) -> ad.AnnData:
    """Cells of type a, with fits by Laplace's approximation to all kinds of counts."""
    own = cells[cells.obs["type"] == "a"].copy()
    how = {"native": {"layer": "native"}, "raw": {}, "plain": {"layer": "sb_denoised"}, "fit": {"ambient": "sb"}}
    for key, more in how.items():
        sb.tl.fit(own, method="laplace", progress=False, key_added=key, **more)
    return own


def composition(adata, key: str):
    found = sb.get.fit(adata, key).canonical["composition"]
    return found.loc[0], found.scale[0]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_native_composition(fits):
    """Nominal coverage and no bias where the fit of raw counts has neither, and that of denoised ones is too sure."""
    truth = np.log(fits.varm["share"][:, 0])
    ambient = 1 - np.asarray(fits.layers["native"].sum(0) / fits.X.sum(0)).ravel()
    much = ambient > 0.2
    often = np.asarray(fits.layers["native"].sum(0)).ravel() > 200  # the others may be all ambient
    assert np.sum(much & often) > 15
    error, cover = {}, {}
    for key in ("native", "raw", "plain", "fit"):
        loc, scale = composition(fits, key)
        error[key] = np.mean((loc - truth)[much & often])
        cover[key] = np.mean((np.abs(loc - truth) < Z90 * scale)[much])
    assert cover["raw"] < 0.4
    assert error["raw"] > 0.3
    assert cover["plain"] < cover["fit"] - 0.1
    assert cover["fit"] > 0.8
    assert abs(error["fit"]) < 0.2 * error["raw"]
    loc, scale = composition(fits, "fit")
    z = (loc - truth) / scale
    assert 0.75 < np.sqrt(np.mean(z**2)) < 1.25
    assert np.all(scale[much] > composition(fits, "native")[1][much] * 0.9)
    other = ~much & (fits.varm["share"][:, 0] > 1e-3)  # where little is ambient, little is lost
    assert np.median((scale / composition(fits, "native")[1])[other]) < 1.35


def test_sizes(fits):
    """r is that of native counts: without half of the bias that denoised ones have."""
    n = np.asarray(fits.layers["native"].sum(0)).ravel()
    often = n > 500
    log_r = {key: sb.get.fit(fits, key).canonical["r"].loc[0][often] for key in ("native", "plain", "fit")}
    off = {key: np.median(np.abs(log_r[key] - log_r["native"])) for key in ("plain", "fit")}
    assert off["fit"] < 0.15
    assert off["fit"] < off["plain"]


@pytest.mark.parametrize(
    "how", [{"labels_key": "type"}, {"model": "nbdm", "parameterization": "standard"}], ids=["mixture", "standard"]
)
def test_other_models(cells, how):
    """Components and other parameters need nothing of their own."""
    scale, off = {}, {}
    kinds = {"native": {"layer": "native"}, "raw": {}, "fit": {"ambient": "sb"}}
    for key, more in kinds.items():
        sb.tl.fit(cells, method="laplace", progress=False, key_added=key, **more, **how)
        found = sb.get.fit(cells, key).canonical["composition"]
        scale[key], off[key] = np.reshape(found.scale, (-1, N_GENES))[0], np.reshape(found.loc, (-1, N_GENES))[0]
    quiet = cells.var["quiet"].to_numpy() & (np.asarray(cells.layers["native"].sum(0)).ravel() > 200)
    error = {key: np.mean((off[key] - off["native"])[quiet]) for key in ("raw", "fit")}
    assert error["raw"] > 0.3
    assert abs(error["fit"]) < 0.3 * error["raw"]
    assert np.median((scale["fit"] / scale["native"])[quiet]) > 1.2


def test_default_method(cells):
    """Stochastic variational inference, moved and widened as the draws say; without ambient=, nothing changes."""
    for key, more in {"raw": {"layer": "sb_denoised"}, "fit": {"ambient": "sb"}}.items():
        sb.tl.fit(cells, progress=False, key_added=key, n_steps=100, **more)
    plain, fit = sb.get.fit(cells, "raw"), sb.get.fit(cells, "fit")
    assert "ambient" not in plain.facts
    assert plain.facts["data"] == fit.facts["data"]
    np.testing.assert_array_equal(plain.losses, fit.losses)
    quiet = cells.var["quiet"].to_numpy()
    assert np.median((composition(cells, "fit")[1] / composition(cells, "raw")[1])[quiet]) > 1.2


# --- the parts --------------------------------------------------------------------------------------------------------


def posterior(loc, tril, cell=0.0, scale=1.0) -> Posterior:
    nothing = np.zeros(0)
    factor = np.zeros((*np.shape(loc), 0))
    return Posterior(np.array(loc), np.array(tril), factor, nothing, nothing, np.full(1, cell), np.full(1, scale))


def test_rubin():
    """Means, and variance within plus (1 + 1/M) between, by hand; a method that differs from the quick one is kept."""
    rng = np.random.default_rng(0)
    locs, trils = rng.normal(size=(4, 3, 2)), np.tril(rng.uniform(0.5, 1, (4, 3, 2, 2)))
    draws = [posterior(loc, tril, cell, 0.5 + cell**2) for loc, tril, cell in zip(locs, trils, range(4), strict=True)]
    same = draws[0]
    got = pooled(same, same, draws)
    np.testing.assert_allclose(got.gene_loc, locs.mean(0))
    for g in range(3):
        within = np.mean([tril[g] @ tril[g].T for tril in trils], 0)
        expected = within + 1.25 * np.cov(locs[:, g].T)
        np.testing.assert_allclose(got.gene_tril[g] @ got.gene_tril[g].T, expected)
    np.testing.assert_allclose(got.cell_loc, 1.5)
    sd = 0.5 + np.arange(4) ** 2
    np.testing.assert_allclose(got.cell_scale**2, np.mean(sd**2) + 1.25 * np.var(range(4), ddof=1))
    wanted = same._replace(gene_loc=same.gene_loc + 0.3, gene_tril=2 * same.gene_tril, cell_scale=3 * same.cell_scale)
    more = pooled(wanted, same, [same] * 3)
    np.testing.assert_allclose(more.gene_loc, same.gene_loc + 0.3)
    np.testing.assert_allclose(more.gene_tril, 2 * same.gene_tril)
    np.testing.assert_allclose(more.cell_scale, 3 * same.cell_scale)


def test_draws():
    """Totals of draws have the variance of what is unknown: ambient counts of each gene, and the level in common."""
    rng = np.random.default_rng(1)
    n, genes, total = 200, 300, 3000.0
    profile = np.full(genes, 1 / genes)
    rho = np.full(n, 0.3)
    x = sparse.csr_array(rng.poisson(total / genes, (n, genes)).astype(float))
    one = np.zeros(1, int)
    for level_sd in (0.0, 0.1):
        strata = Strata(profile[:, None], np.zeros((genes, 1)), np.full(1, level_sd), one, one)
        ambient = AmbientCells(rho, np.zeros(n), np.zeros(n, int), strata)
        counts = Counts(x, np.zeros(n, int), 1)
        drawn = list(native_draws(counts, np.zeros(n, int), ambient, 20, np.random.default_rng(2)))
        sums = np.array([part.sum(0) for part in drawn])
        observed = np.asarray(x.sum(0))
        assert all((part.toarray() <= x.toarray()).all() for part in drawn[:2])
        assert all((part.data == np.rint(part.data)).all() and (part.data > 0).all() for part in drawn[:2])
        lost = observed - sums.mean(0)
        assert abs(lost.sum() / (0.3 * x.sum()) - 1) < 0.02
        # what the level moves is common to all genes, and taken out by the mean over them
        own = np.mean((sums - sums.mean(1, keepdims=True) + sums.mean() - sums.mean(0)).var(0, ddof=1))
        assert 0.8 < own / np.mean(lost) < 1.5
        common = (observed.sum() - sums.sum(1)).std(ddof=1) / lost.sum()
        assert abs(common - level_sd) < 0.015


# --- state ------------------------------------------------------------------------------------------------------------


def test_round_trip_and_readers(fits, tmp_path):
    fits.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    fit = sb.get.fit(again, "fit")
    assert fit.facts["ambient"] == {"key": "sb", "n_draws": 10}
    assert fit.facts["layer"] == "sb_denoised"
    assert "ambient" in str(fit)
    np.testing.assert_array_equal(composition(again, "fit")[1], composition(fits, "fit")[1])
    sb.tl.log_likelihood(again, "fit")  # of native counts
    sb.tl.log_likelihood(again, "fit", layer="sb_denoised", key_added="named")
    a, b = (again.obs[f"{key}_log_likelihood"] for key in ("fit", "named"))
    np.testing.assert_array_equal(a, b)
    part = again[::2].copy()
    sb.tl.normalize_counts(part, "fit")
    del again.layers["sb_denoised"]
    sb.get.fit(again, "fit")
    with pytest.raises(KeyError, match=r"is of native counts, and adata.layers\['sb_denoised'\] is missing"):
        sb.tl.log_likelihood(again, "fit")


def test_new_cells(fits, cells):
    """Cells of another AnnData are read without ambient counts, too, and refused where these are not known."""
    other = cells[cells.obs["type"] == "b"].copy()
    sb.tl.log_likelihood(other, "fit", reference=fits)
    got = other.obs["fit_log_likelihood"].to_numpy()
    sb.tl.log_likelihood(other, "fit", reference=fits, layer="sb_denoised")
    np.testing.assert_array_equal(got, other.obs["fit_log_likelihood"])
    del other.layers["sb_denoised"]
    with pytest.raises(KeyError, match=r"run sb\.tl\.denoise"):
        sb.tl.log_likelihood(other, "fit", reference=fits)
    sb.tl.log_likelihood(other, "fit", reference=fits, layer="native")


def test_refused(fits):
    def fit(**how):
        sb.tl.fit(fits, progress=False, **{"key_added": "fit", "method": "laplace"} | how)

    for name in ("resume", "update"):
        with pytest.raises(ValueError, match=f"{name}=True does not go with ambient="):
            fit(**{name: True, "method": "svi"})
        with pytest.raises(ValueError, match=f"{name}=True does not go with ambient="):
            fit(**{name: True, "method": "svi"}, key_added="raw", ambient="sb")
    with pytest.raises(ValueError, match="says which counts are meant"):
        fit(ambient="sb", layer="native")
    with pytest.raises(ValueError, match="'nuts' has draws for one data set"):
        fit(ambient="sb", method="nuts")
    with pytest.raises(KeyError, match="no result 'none_denoise'"):
        fit(ambient="none")
    before = sb.get.fit(fits, "fit").id
    gone = fits.copy()
    del gone.varm["soup"]
    with pytest.raises(KeyError, match="profile of ambient RNA of 'sb', is missing"):
        sb.tl.fit(gone, ambient="sb", method="laplace", progress=False, key_added="fit")
    assert sb.get.fit(gone, "fit").id == before


def test_same_seed_same_fit(fits):
    again = sb.tl.fit(fits, ambient="sb", method="laplace", progress=False, key_added="fit", copy=True)
    np.testing.assert_array_equal(composition(again, "fit")[0], composition(fits, "fit")[0])
