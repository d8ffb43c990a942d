"""tl.log_likelihood, tl.cell_abundance, tl.outliers and get.aggregated_posterior of a fit with a latent space."""

import io

import anndata as ad
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.covariance import EllipticEnvelope

import scbayes as sb
from scbayes.tl._latent_reading import read_latent_with_counts
from scbayes.tl._log_likelihood_latent import latent_log_likelihood
from scbayes.tl._weighted_draws import weighted_draws

N_CELLS, N_GENES = 150, 30
CONFIG = {"max_epochs": 8, "n_hidden": 16, "n_latent": 2}


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate("nbdm", n_cells=N_CELLS, n_genes=N_GENES, n_batches=2, log_mean=(2, 1), rng=3)
    adata.obs["sample"] = np.arange(N_CELLS) % 3
    adata.obs["type"] = np.where(np.arange(N_CELLS) < 5, "rare", "common")
    sb.tl.fit(adata, model="vae", batch_key="batch", config=CONFIG, progress=False)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


@pytest.fixture
def new(_fitted) -> tuple[ad.AnnData, ad.AnnData]:
    """Cells without a fit, their genes in another order; and the fit without cells."""
    cells = _fitted[::2, ::-1].copy()
    for name in list(cells.obsm):
        del cells.obsm[name]
    cells.uns.clear()
    cells.obs_names = [f"new{i}" for i in range(cells.n_obs)]
    return cells, sb.get.fit(_fitted).to_anndata()


def reread(adata: ad.AnnData, tmp_path) -> ad.AnnData:
    adata.write_h5ad(tmp_path / "x.h5ad")
    return ad.read_h5ad(tmp_path / "x.h5ad")


# --- log likelihood ---------------------------------------------------------------------------------------------------


def test_marginal_is_the_integral_over_z(fitted, tmp_path):
    sb.tl.log_likelihood(fitted, n_samples=2000)
    reading = read_latent_with_counts(fitted, "sb")
    some = np.arange(0, N_CELLS, 10)
    axis = np.linspace(-5, 5, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    law = reading.model.counts(reading.at(some), np.broadcast_to(grid, (len(grid), len(some), 2)).astype(np.float32))
    log_joint = np.asarray(law.log_prob(reading.at(some).cells.counts), float) + stats.norm.logpdf(grid).sum(-1)
    expected = logsumexp(log_joint, axis=0) + 2 * np.log(axis[1] - axis[0])
    table = sb.get.log_likelihood(reread(fitted, tmp_path))
    assert list(table.columns) == ["log_likelihood", "ess", "k_hat"]
    assert set(table.dtypes) == {np.dtype(float)}
    error = np.sqrt(1 / table["ess"] - 1 / 2000).to_numpy()[some]
    assert error.max() < 0.1
    np.testing.assert_array_less(np.abs(table["log_likelihood"].to_numpy()[some] - expected), 5 * error + 5e-3)
    assert table.attrs["mean"] == pytest.approx(table["log_likelihood"].mean())
    assert table.attrs["kind"] == "marginal"
    assert table.attrs["share_unsure"] == pytest.approx((table["k_hat"] > 0.7).mean())


def test_reconstruction_elbo_and_marginal(fitted):
    kinds = {}
    for kind in ("reconstruction", "elbo", "marginal"):
        sb.tl.log_likelihood(fitted, kind=kind, n_samples=400)
        kinds[kind] = sb.get.log_likelihood(fitted)["log_likelihood"]
        assert ("sb_log_likelihood_ess" in fitted.obs) == (kind == "marginal")
    fit = sb.get.fit(fitted)
    kl = (fit.scale**2 + fit.loc**2 - 1 - 2 * np.log(fit.scale)).sum(1) / 2
    np.testing.assert_allclose(kinds["reconstruction"] - kinds["elbo"], kl, rtol=1e-3, atol=1e-3)
    assert (kinds["elbo"] < kinds["marginal"] + 0.2).all()
    assert kinds["elbo"].mean() < kinds["marginal"].mean()
    levels = fit.facts["convergence"]["elbo"]  # of training: one draw for each cell
    share = (fitted.obs["sb_split"] == "train").to_numpy()
    assert kinds["elbo"][share].mean() == pytest.approx(levels["train"], abs=2)


def test_factors_have_the_same_scores(fitted):
    sb.tl.fit(fitted, model="factors", config={"n_latent": 2}, key_added="linear", progress=False)
    values = {}
    for kind in ("reconstruction", "elbo", "marginal"):
        sb.tl.log_likelihood(fitted, "linear", kind=kind, n_samples=200)
        values[kind] = fitted.obs["linear_log_likelihood"]
    assert (values["elbo"] < values["marginal"] + 0.5).all()
    assert values["elbo"].mean() < values["marginal"].mean() < values["reconstruction"].mean()
    assert (fitted.obs["linear_log_likelihood_k_hat"] < 0.7).mean() > 0.9


def test_seed_and_number_of_draws(fitted):
    values = []
    for settings in ({}, {}, {"rng": 1}, {"n_samples": 50}):
        sb.tl.log_likelihood(fitted, **settings)
        values.append(fitted.obs["sb_log_likelihood"].to_numpy())
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    np.testing.assert_allclose(values[0], values[2], atol=0.3)
    assert (fitted.obs["sb_log_likelihood_ess"] <= 50).all()


def test_mean_of_all_cells_whatever_their_number(fitted):
    """Blocks are filled up with the last cell, which counts once."""
    reading = read_latent_with_counts(fitted, "sb")
    whole = latent_log_likelihood(reading, "elbo", 200, 0)["log_likelihood"]
    assert whole.shape == (N_CELLS,)
    part = latent_log_likelihood(reading.select(np.arange(17)), "elbo", 200, 0)["log_likelihood"]
    np.testing.assert_allclose(part[:16], whole[:16], rtol=1e-6)
    np.testing.assert_allclose(part, whole[:17], atol=1.5)


def test_log_likelihood_of_new_cells(fitted, new):
    cells, reference = new
    sb.tl.log_likelihood(cells, reference=reference, key_added="new", kind="elbo")
    sb.tl.log_likelihood(fitted, kind="elbo")
    found, expected = cells.obs["new_log_likelihood"].to_numpy(), fitted.obs["sb_log_likelihood"].to_numpy()[::2]
    np.testing.assert_allclose(found, expected, atol=1.5)
    assert sb.get.log_likelihood(cells, "new").attrs["kind"] == "elbo"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "iwae"}, "kind='iwae'.*marginal, elbo, reconstruction"),
        ({"by": "gene"}, "by: not for the fit 'sb', which has a latent space"),
        ({"components": True}, "components: not for the fit"),
        ({"temperature": 2.0, "weights": np.ones(30)}, "weights, temperature"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"n_samples": 5}, "at least 25"),
        ({"rng": "a"}, "rng='a'"),
    ],
)
def test_refused_by_log_likelihood(fitted, settings, message):
    before = set(fitted.obs), set(fitted.uns)
    with pytest.raises(ValueError, match=message):
        sb.tl.log_likelihood(fitted, **settings)
    assert (set(fitted.obs), set(fitted.uns)) == before


def test_kind_is_for_a_latent_space_only(fitted):
    sb.tl.fit(fitted, key_added="flat", n_steps=50, progress=False)
    with pytest.raises(ValueError, match="kind: for a fit with a latent space, named by key; 'flat' has none"):
        sb.tl.log_likelihood(fitted, "flat", kind="elbo")
    sb.tl.log_likelihood(fitted)
    with pytest.raises(ValueError, match="only its sum over draws"):
        sb.get.log_likelihood(fitted, draws=True)


def test_log_tells_the_mean(fitted):
    import scanpy as sc

    before, stream = (sc.settings.verbosity, sc.settings.logfile), io.StringIO()
    sc.settings.verbosity, sc.settings.logfile = "hint", stream
    try:
        sb.tl.log_likelihood(fitted)
    finally:
        sc.settings.verbosity, sc.settings.logfile = before
    text = stream.getvalue()
    assert f"mean {fitted.obs['sb_log_likelihood'].mean():.3f} nats per cell" in text
    assert "Pareto k-hat above 0.7 in" in text
    assert "obs['sb_log_likelihood_k_hat']" in text


# --- weighted draws ---------------------------------------------------------------------------------------------------


def test_weighted_draws_of_some_cells(fitted):
    reading = read_latent_with_counts(fitted, "sb")
    mask = (fitted.obs["sample"] == 1).to_numpy()
    settings = {"n_samples": 100, "max_cells": 20}
    found = weighted_draws(reading, mask, 70, rng=np.random.default_rng(0), **settings)
    assert found.v.shape == (70, 2)
    assert mask[found.cells].all()
    _, times = np.unique(found.cells, return_counts=True)
    assert len(times) == 20
    assert set(times) == {3, 4}
    far = np.abs(found.v - reading.fit.loc[found.cells]) / reading.fit.scale[found.cells]
    assert far.max() < 5
    assert found.weights.log_weight.shape == (70,)
    assert 1 < found.weights.ess <= 70
    again = weighted_draws(reading, np.flatnonzero(mask), 70, rng=np.random.default_rng(0), **settings)
    np.testing.assert_array_equal(found.weights.log_weight, again.weights.log_weight)


# --- aggregated posterior ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dof", [3.0, None])
def test_aggregated_posterior_is_the_mixture(fitted, tmp_path, dof):
    mask = np.arange(N_CELLS) % 4 == 1
    law = sb.get.aggregated_posterior(reread(fitted, tmp_path), cells=mask, dof=dof)
    fit = sb.get.fit(fitted)
    z = np.array([[0.3, -0.2], [2.0, 1.0]])
    each = stats.norm if dof is None else stats.t(dof)
    kernel = [(each.pdf((point - fit.loc[mask]) / fit.scale[mask]) / fit.scale[mask]).prod(1).mean() for point in z]
    np.testing.assert_allclose(law.log_prob(z), np.log(kernel), rtol=1e-4)
    assert law.event_shape == (2,)
    for same in (np.flatnonzero(mask), fitted.obs_names[mask], list(fitted.obs_names[mask])):
        again = sb.get.aggregated_posterior(fitted, cells=same, dof=dof)
        np.testing.assert_allclose(again.log_prob(z), law.log_prob(z), rtol=1e-6)


def test_aggregated_posterior_of_new_cells(fitted, new):
    cells, reference = new
    with pytest.raises(KeyError, match=r"no fit 'sb', and no result of sb.tl.latent"):
        sb.get.aggregated_posterior(cells)
    sb.tl.latent(cells, reference=reference)
    z = np.zeros((1, 2))
    expected = sb.get.aggregated_posterior(fitted, cells=np.arange(0, N_CELLS, 2)).log_prob(z)
    np.testing.assert_allclose(sb.get.aggregated_posterior(cells).log_prob(z), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dof": 0}, ValueError, "dof=0"),
        ({"cells": np.zeros(N_CELLS, bool)}, ValueError, "chooses no cell"),
        ({"cells": []}, ValueError, "chooses no cell"),
        ({"cells": np.ones(3, bool)}, ValueError, "mask of shape"),
        ({"cells": [N_CELLS]}, ValueError, "positions that are not there"),
        ({"cells": ["nobody"]}, KeyError, "'nobody'"),
    ],
)
def test_refused_by_aggregated_posterior(fitted, settings, error, message):
    with pytest.raises(error, match=message):
        sb.get.aggregated_posterior(fitted, **settings)


# --- abundance around cells -------------------------------------------------------------------------------------------


def dense(fit, sample, dof, *, leave_one_out: bool) -> np.ndarray:
    """Log densities of all samples at all cells at once."""
    each = stats.norm if dof is None else stats.t(dof)
    far = (fit.loc[:, None].astype(float) - fit.loc) / fit.scale
    log_p = (each.logpdf(far) - np.log(fit.scale)).sum(-1)
    if leave_one_out:
        np.fill_diagonal(log_p, -np.inf)
    columns = []
    for s in np.unique(sample):
        some = log_p[:, sample == s]
        columns.append(logsumexp(some, axis=1) - np.log(np.isfinite(some).sum(1)))
    return np.stack(columns, 1)


@pytest.mark.parametrize(("dof", "leave_one_out"), [(None, True), (3.0, True), (None, False), (1, False)])
def test_cell_abundance_is_the_dense_computation(fitted, tmp_path, dof, leave_one_out):
    sb.tl.cell_abundance(fitted, "sample", dof=dof, leave_one_out=leave_one_out)
    expected = dense(sb.get.fit(fitted), fitted.obs["sample"].to_numpy(), dof, leave_one_out=leave_one_out)
    np.testing.assert_allclose(fitted.obsm["sb_abundance"], expected, rtol=1e-4, atol=1e-4)
    table = sb.get.cell_abundance(reread(fitted, tmp_path))
    assert list(table.columns) == ["0", "1", "2"]
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-4)
    ratio = sb.get.cell_abundance(fitted, samples=["0", "2"])
    by_hand = logsumexp(expected[:, [0, 2]], axis=1) - np.log(2) - expected[:, 1]
    np.testing.assert_allclose(ratio, by_hand, rtol=1e-4, atol=1e-4)
    other = sb.get.cell_abundance(fitted, samples="1", against=[0, 2])
    np.testing.assert_allclose(other, -by_hand, rtol=1e-4, atol=1e-4)


def test_cells_beyond_a_block():
    """More points and components than meet at a time, in numbers that are no whole blocks."""
    from scbayes.stats._mixture_density import log_mixture_density

    rng = np.random.default_rng(0)
    points, loc, scale = rng.normal(size=(600, 3)), rng.normal(size=(520, 3)), rng.uniform(0.1, 1, (520, 3))
    own = np.where(np.arange(600) < 520, np.arange(600), -1)
    far = (points[:, None] - loc) / scale
    log_p = (stats.t(4).logpdf(far) - np.log(scale)).sum(-1)
    log_p[np.arange(520), np.arange(520)] = -np.inf
    expected = logsumexp(log_p, axis=1) - np.log(520 - (own >= 0))
    np.testing.assert_allclose(log_mixture_density(points, loc, scale, dof=4, own=own), expected, atol=2e-5, rtol=1e-5)
    alone = log_mixture_density(points[:1], loc[:1], scale[:1], own=np.zeros(1))
    np.testing.assert_array_equal(alone, [-np.inf])


def test_a_cell_is_not_common_because_of_itself(fitted):
    """Cells of two samples that lie in the same places: left out, no sample is favoured."""
    sb.tl.cell_abundance(fitted, "sample")
    own = sb.get.cell_abundance(fitted).to_numpy()[np.arange(N_CELLS), fitted.obs["sample"]]
    sb.tl.cell_abundance(fitted, "sample", leave_one_out=False)
    with_it = sb.get.cell_abundance(fitted).to_numpy()[np.arange(N_CELLS), fitted.obs["sample"]]
    assert (with_it > own).mean() > 0.95


def test_max_cells_stand_for_their_sample(fitted):
    sb.tl.cell_abundance(fitted, "sample", dof=3.0)
    whole = sb.get.cell_abundance(fitted)
    sb.tl.cell_abundance(fitted, "sample", dof=3.0, max_cells=50)
    np.testing.assert_allclose(sb.get.cell_abundance(fitted), whole, rtol=1e-6)
    sb.tl.cell_abundance(fitted, "sample", dof=3.0, max_cells=25, rng=1)
    part = sb.get.cell_abundance(fitted)
    assert part.attrs["max_cells"] == 25
    assert 0.02 < np.abs(part - whole).to_numpy().mean() < 1


def test_cell_abundance_and_outliers_of_new_cells(fitted, new):
    cells, reference = new
    sb.tl.cell_abundance(cells, "sample", reference=reference)
    fit = sb.get.fit(fitted)
    fit = fit.__class__(**{**fit.__dict__, "loc": fit.loc[::2], "scale": fit.scale[::2]})
    expected = dense(fit, cells.obs["sample"].to_numpy(), None, leave_one_out=True)
    np.testing.assert_allclose(cells.obsm["sb_abundance"], expected, rtol=1e-3, atol=1e-3)
    sb.tl.outliers(cells, reference=reference, key_added="new")
    assert cells.obs["new_outlier"].sum() == pytest.approx(0.1 * cells.n_obs, abs=1)


def test_refused_by_cell_abundance(fitted):
    before = set(fitted.obsm), set(fitted.uns)
    with pytest.raises(KeyError, match="no column 'donor'"):
        sb.tl.cell_abundance(fitted, "donor")
    for settings, message in (
        ({"dof": -1}, "dof=-1"),
        ({"max_cells": 1}, "max_cells=1"),
        ({"layer": "counts"}, "layer='counts' is for new cells"),
    ):
        with pytest.raises(ValueError, match=message):
            sb.tl.cell_abundance(fitted, "sample", **settings)
    fitted.obs["one"] = np.where(np.arange(N_CELLS) == 7, "alone", "rest")
    with pytest.raises(ValueError, match=r"sample 'alone'.*leave_one_out=False"):
        sb.tl.cell_abundance(fitted, "one")
    fitted.obs["gone"] = np.where(np.arange(N_CELLS) == 7, np.nan, 1.0)
    with pytest.raises(ValueError, match="missing for 1 cells"):
        sb.tl.cell_abundance(fitted, "gone")
    assert (set(fitted.obsm), set(fitted.uns)) == before
    sb.tl.cell_abundance(fitted, "sample")
    with pytest.raises(KeyError, match="no sample '9'"):
        sb.get.cell_abundance(fitted, samples=["9"])
    with pytest.raises(ValueError, match="give samples"):
        sb.get.cell_abundance(fitted, against=["1"])
    with pytest.raises(ValueError, match="at least one of each"):
        sb.get.cell_abundance(fitted, samples=["0", "1", "2"])


# --- outliers ---------------------------------------------------------------------------------------------------------


def test_outliers_are_those_of_scikit_learn(fitted, tmp_path):
    sb.tl.outliers(fitted, "type", contamination=0.2)
    z = sb.get.fit(fitted).loc.astype(float)
    common = (fitted.obs["type"] == "common").to_numpy()
    expected = np.zeros(N_CELLS, bool)
    expected[common] = EllipticEnvelope(contamination=0.2, random_state=0).fit_predict(z[common]) < 0
    found = reread(fitted, tmp_path).obs["sb_outlier"]
    assert found.dtype == bool
    assert (found.to_numpy() == expected).mean() > 0.98  # units differ
    assert found.sum() == 29
    assert "rare" in fitted.uns["sb_outliers"]["result"]
    again = fitted.obs["sb_outlier"].copy()
    sb.tl.outliers(fitted, "type", contamination=0.2)
    np.testing.assert_array_equal(fitted.obs["sb_outlier"], again)


def test_a_displaced_cell_is_an_outlier():
    from scbayes.stats._outliers import outliers

    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(60, 3)), rng.normal(10, 1, (60, 3)), np.zeros((5, 3))])
    z[:, 2] = 1e-9 * z[:, 2]  # a dimension that is hardly used
    group = np.repeat([0, 1, 2], [60, 60, 5])
    z[3, :2] = 10  # in the place of the other group
    found = outliers(z, group, contamination=0.02)
    assert found[3]
    assert found[group == 0].sum() == 2
    assert not found[group == 2].any()
    z[:, 2] = 1  # one that is not used at all; and cells without a group
    assert not outliers(z, np.where(group == 2, -1, group), contamination=0.02)[group == 2].any()


def test_refused_by_outliers(fitted):
    for contamination in (0, 0.6, "auto"):
        with pytest.raises(ValueError, match="contamination="):
            sb.tl.outliers(fitted, contamination=contamination)
    with pytest.raises(KeyError, match="no column 'nothing'"):
        sb.tl.outliers(fitted, "nothing")
    sb.tl.fit(fitted, key_added="flat", n_steps=50, progress=False)
    with pytest.raises(ValueError, match="no latent space"):
        sb.tl.outliers(fitted, key="flat")
    assert "sb_outlier" not in fitted.obs
