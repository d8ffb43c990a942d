"""`model="factors"` as a fit in AnnData."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scbayes as sb
from scbayes.tl._latent_reading import read_latent_with_counts

N, G, K = 260, 50, 2


@pytest.fixture(scope="module")
def simulated() -> ad.AnnData:
    """Two factors, the first of more weight, and two batches; the truth in obsm and varm."""
    rng = np.random.default_rng(0)
    z, loadings = rng.normal(size=(N, K)), rng.normal(size=(G, K)) * [0.7, 0.35]
    batch = rng.integers(2, size=N)
    activation = rng.normal(0, 1, G) + z @ loadings.T + batch[:, None] * rng.normal(0, 0.3, G)
    share = np.exp(activation) / np.exp(activation).sum(1, keepdims=True)
    mean = share * rng.uniform(400, 1200, (N, 1))
    adata = ad.AnnData(rng.poisson(rng.gamma(5, 1 / 5, mean.shape) * mean).astype(np.float32))
    adata.obs["batch"] = pd.Categorical([f"b{b}" for b in batch])
    adata.obsm["truth"] = z * np.linalg.norm(loadings, axis=0)
    return adata


@pytest.fixture(scope="module")
def _fitted(simulated) -> ad.AnnData:
    adata = simulated.copy()
    sb.tl.fit(adata, "factors", batch_key="batch", config={"n_latent": 3}, progress=False)
    return adata


@pytest.fixture
def fitted(_fitted) -> ad.AnnData:
    return _fitted.copy()


def test_factors_are_found_with_their_weights(fitted):
    sb.tl.latent(fitted)
    z, truth = fitted.obsm["X_sb"], fitted.obsm["truth"]
    for k in range(K):
        fitted_to = np.linalg.lstsq(np.c_[z, np.ones(N)], truth[:, k], rcond=None)[0]
        assert np.corrcoef(np.c_[z, np.ones(N)] @ fitted_to, truth[:, k])[0, 1] > 0.9
    assert z[:, 0].std() > 1.4 * z[:, 1].std() > 1.4 * z[:, 2].std()
    np.testing.assert_allclose(z[:, 0].std(), truth[:, 0].std(), rtol=0.15)
    assert sb.get.fit(fitted).facts["active_units"] == K


def test_the_decoder_is_the_linear_one_and_counts_are_those_of_scipy(fitted):
    found = sb.get.fit(fitted)
    decoder, spread = found.params["decoder"], found.params["spread"]
    np.testing.assert_allclose(np.linalg.norm(decoder.loadings, axis=0), 1, rtol=1e-5)
    batch = fitted.obs["batch"].cat.codes.to_numpy()
    activation = found.loc @ decoder.loadings.T + decoder.offset[batch]
    share = np.exp(activation) / np.exp(activation).sum(1, keepdims=True)
    mean, theta = share * fitted.X.sum(1, keepdims=True), np.exp(found.params["log_theta"][0])
    expected = stats.nbinom.logpmf(fitted.X, theta, theta / (theta + mean)).sum(1)
    reading = read_latent_with_counts(fitted, "sb")
    inputs = reading.at(np.arange(N))
    np.testing.assert_allclose(reading.model.counts(inputs, found.loc).log_prob(fitted.X), expected, rtol=1e-4)
    # the mode is where the gradient of the log posterior vanishes: no step away is better
    prior = -0.5 * (found.loc / spread) ** 2
    for step in np.random.default_rng(0).normal(0, 0.2, (6, *found.loc.shape)).astype(np.float32):
        there = np.asarray(reading.model.counts(inputs, found.loc + step).log_prob(fitted.X))
        there = there - 0.5 * (((found.loc + step) / spread) ** 2).sum(1)
        assert (there < expected + prior.sum(1) + 0.05).all()


def test_new_cells_lie_where_the_same_cells_lay(fitted, tmp_path):
    alone = sb.get.fit(fitted).to_anndata()
    alone.write_h5ad(tmp_path / "alone.h5ad")
    query = fitted[:70, ::-1].copy()
    sb.tl.latent(query, reference=ad.read_h5ad(tmp_path / "alone.h5ad"), key_added="new")
    sb.tl.latent(fitted)
    np.testing.assert_allclose(query.obsm["X_new"], fitted.obsm["X_sb"][:70], atol=1e-3)
    np.testing.assert_allclose(query.obsm["new_z_sd"], fitted.obsm["sb_z_sd"][:70], rtol=1e-3)


def test_poisson_has_no_dispersion(simulated):
    adata = simulated.copy()
    sb.tl.fit(adata, "factors", config={"n_latent": 2, "likelihood": "poisson"}, progress=False)
    found = sb.get.fit(adata)
    assert "log_theta" not in found.params
    assert "log_theta" not in adata.uns["sb"]["params"]
    assert found.table["train_elbo"].iloc[-1] > found.table["train_elbo"].iloc[0]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"config": {"n_hidden": 3}}, "n_hidden"),
        ({"config": {"likelihood": "zinb"}}, "'nb', 'poisson'"),
        ({"labels_key": "batch"}, "labels_key"),
        ({"covariates": "batch"}, "covariates"),
    ],
)
def test_settings_of_networks_are_refused(simulated, settings, match):
    adata = simulated.copy()
    with pytest.raises(ValueError, match=match):
        sb.tl.fit(adata, "factors", progress=False, **settings)
    assert "sb" not in adata.uns


def test_a_fit_that_needs_more_rounds_says_so(simulated):
    adata = simulated.copy()
    sb.tl.fit(adata, "factors", config={"max_epochs": 1}, progress=False)
    assert not sb.get.fit(adata).converged
