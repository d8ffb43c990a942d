"""New cells in a fit: the fit of all cells together where the summary says it all, and close to it elsewhere."""

import anndata as ad
import numpy as np
import numpyro.distributions as dist
import pytest

import scbayes as sb

N_CELLS, N_GENES = 300, 40


@pytest.fixture(scope="module")
def everything() -> ad.AnnData:
    """Three batches, genes to pool, and the last third of the cells in the last batch."""
    adata = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, log_mean=(1.5, 1), rng=4)
    adata.obs["lane"] = np.repeat(["a", "b", "c"], N_CELLS // 3)
    adata.var["wanted"] = np.arange(N_GENES) % 5 != 0
    return adata


def fitted(adata: ad.AnnData, **settings) -> ad.AnnData:
    adata = adata.copy()
    sb.tl.fit(adata, progress=False, **settings)
    return adata


def carry(fit: ad.AnnData, to: ad.AnnData) -> ad.AnnData:
    """Cells that know of a fit what `uns` holds, and no more."""
    to = to.copy()
    to.uns["sb"] = fit.uns["sb"]
    return to


def updated(fit: ad.AnnData, cells: ad.AnnData, **settings) -> ad.AnnData:
    cells = carry(fit, cells)
    sb.tl.fit(cells, update=True, progress=False, **settings)
    return cells


def assert_same(found: ad.AnnData, expected: ad.AnnData, tolerance: float) -> None:
    """Means of genes and scalars within so many standard deviations, widths within as much."""
    found, expected = sb.get.params(found), sb.get.params(expected)
    assert set(found) == set(expected)
    for name, parts in expected.items():
        for part, value in parts.items():
            np.testing.assert_allclose(found[name][part], value, rtol=tolerance, atol=tolerance, err_msg=name)


# --- where the summary says it all ------------------------------------------------------------------------------------

EXACT = {
    "shared odds": {"parameterization": "standard"},
    "shared odds, a new batch": {"parameterization": "standard", "batch_key": "lane"},
    "no capture, pooled genes": {"model": "zinb", "mask_var": "wanted"},
    "Laplace": {"model": "nbdm", "parameterization": "linked", "method": "laplace"},
}


@pytest.mark.parametrize("settings", EXACT.values(), ids=EXACT)
def test_cells_added_are_cells_fitted_together(everything, settings):
    old, new = everything[: 2 * N_CELLS // 3], everything[2 * N_CELLS // 3 :]
    fit = fitted(old, **settings)
    alone = updated(fit, new, method=settings.get("method", "svi"))
    both = updated(fit, everything, method=settings.get("method", "svi"))
    together = fitted(everything, **settings)
    assert_same(both, together, 1e-9)
    assert_same(alone[:, together.var_names], together[2 * N_CELLS // 3 :], 1e-9)
    facts = sb.get.fit(alone).facts
    assert (facts["n_cells"], facts["added"], alone.n_obs) == (N_CELLS, [N_CELLS // 3], N_CELLS // 3)
    assert facts["n_counts"] == sb.get.fit(together).facts["n_counts"]
    assert facts["batches"] == sb.get.fit(together).facts["batches"]


def test_genes_may_come_in_another_order_and_cells_in_parts(everything):
    third = N_CELLS // 3
    rng = np.random.default_rng(0)
    fit = fitted(everything[:third], parameterization="standard", mask_var="wanted")
    for part in (slice(third, 2 * third), slice(2 * third, N_CELLS)):
        fit = updated(fit, everything[part, rng.permutation(N_GENES)])
    together = fitted(everything[:, fit.var_names], parameterization="standard", mask_var="wanted")
    assert_same(fit, together[2 * third :], 1e-6)
    assert sb.get.fit(fit).facts["added"] == [third, third]


# --- where old cells are sums -----------------------------------------------------------------------------------------

SUMS = {
    "own odds": {},
    "own odds, a new batch": {"batch_key": "lane"},
    "shared odds and gates": {"model": "zinbvcp", "parameterization": "standard", "mask_var": "wanted"},
}


@pytest.mark.parametrize("settings", SUMS.values(), ids=SUMS)
def test_old_cells_follow_as_sums(everything, settings):
    n = 2 * N_CELLS // 3
    fit = fitted(everything[:n], **settings)
    both = updated(fit, everything)
    together = fitted(everything, **settings)
    found, expected = sb.get.fit(both), sb.get.fit(together)
    before = sb.get.fit(fit)
    for name in ("mu", "r", "composition"):
        sd = expected.canonical[name].scale
        if np.shape(found.canonical[name].loc) != np.shape(before.canonical[name].loc):
            continue  # its own in each batch
        moved = np.abs(before.canonical[name].loc - expected.canonical[name].loc) / sd
        missed = np.abs(found.canonical[name].loc - expected.canonical[name].loc) / sd
        assert np.quantile(missed, 0.9) < 0.15 < np.quantile(moved, 0.5), name
        ratio = found.canonical[name].scale / sd
        assert np.abs(np.quantile(ratio, [0.05, 0.95]) - 1).max() < 0.03, name
    nu, all_nu = found.canonical["nu"], expected.canonical["nu"]
    missed = (nu.loc - all_nu.loc) / all_nu.scale
    assert np.abs(missed.mean()) < 0.1
    assert np.quantile(np.abs(missed[n:]), 0.9) < 0.3
    assert np.corrcoef(nu.loc[:n], all_nu.loc[:n])[0, 1] > 0.99


def test_sums_of_all_cells_are_those_of_the_data(everything):
    """What is kept after an update is what a fit of all cells at these nu would keep."""
    n = N_CELLS // 2
    fit = updated(fitted(everything[:n]), everything)
    seen = fit.uns["sb"]["seen"]
    np.testing.assert_allclose(seen["node_counts"].sum(-1)[0], np.asarray(everything.X.sum(0)).ravel())
    np.testing.assert_allclose(seen["node_cells"].sum(), N_CELLS)
    x = sb.get.fit(fit).canonical["nu"].loc
    np.testing.assert_allclose(np.sum(seen["node_cells"] * seen["nodes"]), x.sum(), rtol=1e-3)
    weighted = np.asarray(everything.X.T @ x)
    np.testing.assert_allclose(np.sum(seen["node_counts"][0] * seen["nodes"], -1), weighted, rtol=0.01)


def test_an_updated_fit_survives_a_file_and_is_read_on(everything, tmp_path):
    fit = updated(fitted(everything[:200]), everything)
    fit.write_h5ad(tmp_path / "fit.h5ad")
    again = ad.read_h5ad(tmp_path / "fit.h5ad")
    assert_same(again, fit, 1e-15)
    assert "100 cells later" in str(sb.get.fit(again))
    sb.tl.normalize_counts(again)
    sb.tl.posterior_samples(again, n_samples=20)
    more = sb.datasets.simulate("nbvcp", n_cells=50, n_genes=N_GENES, log_mean=(1.5, 1), rng=5)
    more.obs_names, more.var_names = [f"more{i}" for i in range(50)], fit.var_names
    assert sb.get.fit(updated(again, more)).facts["added"] == [100, 50]


def test_copy_leaves_the_fit_as_it_was(everything):
    adata = carry(fitted(everything[:200], model="nbdm"), everything)
    before = adata.uns["sb"]["manifest"]
    out = sb.tl.fit(adata, update=True, copy=True, progress=False)
    assert adata.uns["sb"]["manifest"] == before
    assert "sb_loc" not in adata.varm
    assert sb.get.fit(out).facts["n_cells"] == N_CELLS


def test_total_mrna_stays_until_new_cells_exceed_it(everything):
    fit = fitted(everything[:200], parameterization="standard", priors={"total_mrna": 5000.0})
    assert sb.get.fit(updated(fit, everything)).facts["total_mrna"]["median"] == 5000.0
    large = everything[200:].copy()
    large.X = large.X * 100
    assert sb.get.fit(updated(fit, large)).facts["total_mrna"]["median"] == 2 * large.X.sum(1).max()


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(fit: ad.AnnData, cells: ad.AnnData, error: type, match: str, **settings) -> None:
    cells = carry(fit, cells)
    before = list(cells.varm), list(cells.obsm)
    with pytest.raises(error, match=match):
        sb.tl.fit(cells, update=True, progress=False, **settings)
    assert (list(cells.varm), list(cells.obsm)) == before


def test_what_cannot_be_updated_says_so(everything):
    fit = fitted(everything[:200])
    refused(fit, everything[:150], ValueError, "none of the 150 cells of adata is new to the fit 'sb'")
    refused(fit, everything[200:, 1:], ValueError, "40 genes, and adata has 39; 1 of the fit's")
    renamed = everything[200:].copy()
    renamed.var_names = [f"other{i}" for i in range(N_GENES)]
    refused(fit, renamed, ValueError, "40 of the fit's are missing")
    refused(fit, everything, ValueError, "leave one of them out", resume=True)
    refused(fit, everything, ValueError, "method='nuts' draws the nu of all cells", method="nuts")
    refused(fit, everything, ValueError, "leave model, parameterization, batch_key out", **OTHER)
    refused(fitted(everything, n_components=2), everything, ValueError, "mixtures")
    fit.uns["sb"]["seen"] = {"count": np.arange(3)}
    refused(fit, everything, ValueError, "damaged")
    with pytest.raises(KeyError, match="no fit"):
        sb.tl.fit(everything.copy(), update=True)


OTHER = {"model": "zinb", "parameterization": "linked", "batch_key": "lane"}


def test_pooled_genes_must_be_the_same_too(everything):
    fit = fitted(everything[:200], model="nbdm", mask_var="wanted")
    other = everything[200:].copy()
    other.var_names = [
        name if wanted else f"no{name}" for name, wanted in zip(fit.var_names, fit.var["wanted"], strict=True)
    ]
    refused(fit, other, ValueError, "8 of the fit's are missing")


def test_another_cell_of_the_same_name_is_refused(everything):
    other = everything[100:].copy()
    other.obs_names = [*other.obs_names[1:], other.obs_names[0]]
    refused(fitted(everything[:200]), other, ValueError, r"counts, and had \d+ when 'sb' was fitted: give it a name")


@pytest.mark.parametrize("settings", [{"parameterization": "standard"}, {}], ids=["summary", "sums"])
def test_what_does_not_converge_leaves_the_fit_as_it_was(everything, settings):
    cells = carry(fitted(everything[:200], **settings), everything)
    before = cells.uns["sb"]["manifest"]
    with pytest.raises(RuntimeError, match="raise n_steps"):
        sb.tl.fit(cells, update=True, n_steps=50, progress=False)
    assert cells.uns["sb"]["manifest"] == before
    sb.tl.fit(cells, update=True, progress=False)
    assert sb.get.fit(cells).facts["added"] == [100]


def test_prior_of_nu_only_where_old_cells_are_not_sums(everything):
    prior = {"nu": dist.LogNormal(np.log(0.1), 0.4)}
    refused(fitted(everything[:200], priors=prior), everything, ValueError, "'sb' has its own prior of nu")
    prior |= {"r": dist.LogNormal(0.0, 1.0)}
    fit = fitted(everything[:200], parameterization="standard", priors=prior)
    assert_same(updated(fit, everything), fitted(everything, parameterization="standard", priors=prior), 1e-9)


def test_batches_keep_their_names_whatever_their_type(everything):
    adata = everything.copy()
    adata.obs["lane"] = np.tile([1, 2, 3], 100)
    fit = fitted(adata[:200], model="nbdm", method="laplace", batch_key="lane")
    new = adata[200:].copy()
    new.obs["lane"] = new.obs["lane"].astype(float)
    assert sb.get.fit(updated(fit, new, method="laplace")).facts["batches"] == ["1", "2", "3"]


def test_cells_of_one_batch_are_read_on(everything):
    fit = fitted(everything[:200], model="nbdm", method="laplace", batch_key="lane")
    alone = updated(fit, everything[200:], method="laplace")
    sb.tl.residuals(alone)
    sb.tl.predict(alone, n_samples=5, progress=False)
    with pytest.raises(ValueError, match="some batches that 'sb' was fitted on have no cell here"):
        sb.tl.calibrate(alone, n_simulations=2, progress=False)
