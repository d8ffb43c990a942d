"""Models with a latent space and an ambient part: the likelihood of the sum, the profiles, native counts."""

from types import SimpleNamespace

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scbayes as sb
from scbayes.models._latent_config import VAEConfig
from scbayes.models._latent_counts import Decoded, LatentCounts
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_model import Cells, Inputs, Sizes
from scbayes.models._latent_native import Rates, rounded
from scbayes.models._latent_start import Moments, first_params, hidden_shares, native_moments
from scbayes.state import read_latent_fit, read_result
from scbayes.tl._latent_reading import read_latent_with_counts

pytest.importorskip("equinox")

#: Settings by likelihood: each activation is among them.
KINDS = {
    "b": {"scale_activation": "softplus_sp", "sparsity": 0.5},
    "nb": {"scale_activation": "softmax"},
    "zinb": {"scale_activation": "softplus"},
    "poisson": {"scale_activation": "softmax", "library": "encoded"},
}
SMALL = {"max_epochs": 40, "batch_size": 32, "n_hidden": 32, "n_latent": 4}


def fit(adata, likelihood="nb", **more):
    settings = {"ambient": "soup", "batch_key": "batch", "progress": False} | more
    config = SMALL | {"likelihood": likelihood} | KINDS[likelihood]
    if adata.n_obs < 100:
        config["max_epochs"] = 2  # of what does not depend on how good it is
    sb.tl.fit(adata, model="vae", config=config, **settings)
    return adata


def denoised(adata, **settings):
    return sb.tl.denoise(adata, key="sb", **({"progress": False, "copy": True} | settings))


@pytest.fixture(scope="module")
def _fitted(soupy):
    made = {}

    def of(likelihood):
        if likelihood not in made:
            made[likelihood] = fit(soupy(n_cells=300), likelihood)
        return made[likelihood]

    return of


@pytest.fixture
def fitted(_fitted):
    return lambda likelihood="nb": _fitted(likelihood).copy()


def decoded_of(rng, *, theta=True, gate=False, b=3, g=7) -> Decoded:
    """Some cells with an ambient part."""
    log = jax.nn.log_softmax
    log_share = log(jnp.asarray(rng.normal(size=(b, g)), jnp.float32))
    return Decoded(
        log_share,
        jnp.exp(log_share),
        jnp.asarray(np.log(rng.uniform(20, 60, b)), jnp.float32),
        jnp.asarray(rng.normal(size=g), jnp.float32) if theta else None,
        jnp.asarray(rng.normal(size=(b, g)), jnp.float32) if gate else None,
        jnp.asarray(rng.normal(-1, 0.5, b), jnp.float32),
        log(jnp.asarray(rng.normal(size=(b, g)), jnp.float32)),
    )


def parts_of(decoded) -> tuple[np.ndarray, np.ndarray]:
    """Means of native and ambient counts, from the definition."""
    rho = 1 / (1 + np.exp(-np.asarray(decoded.contamination_logit, float)))
    size = np.exp(np.asarray(decoded.log_size, float))
    native = ((1 - rho) * size)[:, None] * np.exp(np.asarray(decoded.log_share, float))
    return native, (rho * size)[:, None] * np.exp(np.asarray(decoded.log_ambient, float))


# --- the likelihood of the sum ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", list(KINDS))
def test_likelihood_of_the_sum_agrees_with_scipy(likelihood):
    rng = np.random.default_rng(0)
    decoded = decoded_of(rng, theta=likelihood in {"nb", "zinb"}, gate=likelihood == "zinb")
    x = rng.poisson(3, (3, 7))
    total = x.sum(1) + 40
    native, ambient = parts_of(decoded)
    mean = native + ambient
    if likelihood == "poisson":
        expected = stats.poisson.logpmf(x, mean)
    elif likelihood == "b":
        expected = stats.binom.logpmf(x, total[:, None], mean / total[:, None])
    else:
        size = np.exp(np.asarray(decoded.log_theta, float)) * (mean / native) ** 2
        expected = stats.nbinom.logpmf(x, size, size / (size + mean))
    if likelihood == "zinb":
        gate = 1 / (1 + np.exp(-np.asarray(decoded.gate_logit, float)))
        expected = np.where(x > 0, np.log1p(-gate) + expected, np.log(gate + (1 - gate) * np.exp(expected)))
    counts = LatentCounts(likelihood, decoded, jnp.asarray(total, jnp.float32))
    np.testing.assert_allclose(counts.by_gene(jnp.asarray(x, jnp.float32)), expected, rtol=2e-5, atol=2e-5)


def test_sum_has_the_moments_of_negative_binomial_and_poisson():
    decoded = decoded_of(np.random.default_rng(1))
    native, ambient = parts_of(decoded)
    size = np.exp(np.asarray(decoded.log_theta_of_sum, float))
    mean = native + ambient
    variance = native + native**2 / np.exp(np.asarray(decoded.log_theta, float)) + ambient
    np.testing.assert_allclose(mean + mean**2 / size, variance, rtol=1e-5)
    draws = LatentCounts("nb", decoded, jnp.ones(3)).sample(jax.random.key(0), (20_000,))
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(variance.max() / 20_000))


# --- what is hidden of the profile ------------------------------------------------------------------------------------


def model_inputs(hidden=None) -> tuple:
    model = latent_model(VAEConfig(ambient=True, n_latent=2, n_hidden=8), Sizes(9))
    rng = np.random.default_rng(2)
    log_share = np.log(rng.dirichlet(np.ones(9), 1)).astype(np.float32)
    found = Moments(log_share, np.zeros(9, np.float32), np.array([-2.0, 0.0]))
    fixed = {"log_ambient": np.log(rng.dirichlet(np.ones(9), 2)).astype(np.float32)}
    fixed |= {} if hidden is None else {"hidden": np.array(hidden, np.float32)}
    code = jnp.zeros(4, jnp.int32)
    cells = Cells(None, jnp.full(4, 50.0), jnp.full(4, 4.0), code, code - 1, jnp.array([0, 1, 0, 1]), jnp.zeros((4, 0)))
    v = jnp.asarray(rng.normal([0, 0, -1.5], [1, 1, 0.2], (4, 3)), jnp.float32)
    return model, Inputs(first_params(model, found, 0), fixed, cells), v


def test_hidden_share_moves_counts_from_ambient_to_native_and_leaves_their_sum():
    hidden = [0.03, 0.08]
    plain, moved = (model.decode(inputs, v) for model, inputs, v in (model_inputs(), model_inputs(hidden)))
    np.testing.assert_allclose(moved.log_mean, plain.log_mean, atol=1e-5)
    np.testing.assert_allclose(moved.log_theta_of_sum, plain.log_theta_of_sum, atol=1e-4)
    np.testing.assert_allclose(np.exp(moved.log_share).sum(1), 1, atol=1e-5)
    share, h = 1 / (1 + np.exp(-np.asarray(plain.contamination_logit, float))), np.array(hidden)[[0, 1, 0, 1]]
    rho = 1 / (1 + np.exp(-np.asarray(moved.contamination_logit, float)))
    np.testing.assert_allclose(rho, (share - h) / (1 - h), rtol=1e-4)


def test_hidden_shares_give_each_profile_its_level():
    rng = np.random.default_rng(0)
    logit, soup = rng.normal(-1.5, 0.5, 500), rng.integers(2, size=500)
    level = np.array([0.1, 0.3])  # below and above what was learned
    hidden = hidden_shares(logit, soup, level)
    assert hidden[0] > 0 > hidden[1]
    share = 1 / (1 + np.exp(-logit))
    rho = np.maximum((share - hidden[soup]) / (1 - hidden[soup]), 0)
    np.testing.assert_allclose([rho[soup == k].mean() for k in range(2)], level, rtol=1e-5)


def test_training_starts_from_native_composition():
    rng = np.random.default_rng(0)
    native, profile = rng.dirichlet(np.ones(20), 2), rng.dirichlet(np.ones(20), 2)
    mixed = 0.9 * native + 0.1 * profile
    cells = SimpleNamespace(batch=np.array([0, 1, 1]), soup=np.array([0, 1, 1]), total=np.array([10.0, 20.0, 5.0]))
    fixed = {"log_ambient": np.log(profile), "contamination": np.array([[0.1, 0.7], [0.1, 0.7]])}
    found = native_moments(Moments(np.log(mixed), np.zeros(20)), cells, fixed)
    kept = native > 0.05 * mixed / 0.9
    np.testing.assert_allclose(np.exp(found.log_share)[kept], native[kept], rtol=0.05)
    np.testing.assert_allclose(found.contamination, [np.log(0.1 / 0.9), np.log(0.7)], rtol=1e-5)


# --- native counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poisson", [False, True])
def test_native_part_is_that_of_all_divisions(poisson):
    rng = np.random.default_rng(0)
    x = np.repeat(np.arange(1.0, 13), 4)
    native, ambient, size = rng.uniform(0.1, 5, len(x)), rng.uniform(0.1, 5, len(x)), rng.uniform(0.3, 4, len(x))
    rates = Rates(native, ambient, None if poisson else size)
    law = stats.poisson(native) if poisson else stats.nbinom(size, size / (size + native))
    expected, spread = np.zeros(len(x)), np.zeros(len(x))
    k = np.arange(13)[:, None]
    weight = law.pmf(k) * stats.poisson.pmf(x - k, ambient)
    weight /= weight.sum(0)
    expected = (k * weight).sum(0)
    spread = ((k - expected) ** 2 * weight).sum(0)
    np.testing.assert_allclose(rates.expected(x), expected, rtol=1e-9)
    drawn = np.stack([rates.drawn(x, rng) for _ in range(4000)])
    assert (drawn == np.round(drawn)).all()
    assert (drawn >= 0).all()
    assert (drawn <= x).all()
    np.testing.assert_allclose(drawn.mean(0), expected, atol=5 * np.sqrt(spread.max() / 4000))
    np.testing.assert_allclose(drawn.var(0), spread, atol=0.12 * spread.max())


def test_rounded_counts_keep_the_sums_and_are_the_nearest():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 6, 400).astype(float)
    native, gene, kind = x * rng.random(400), rng.integers(5, size=400), rng.integers(2, size=400)
    whole = rounded(x, native, gene, kind, rng)
    assert (whole == np.round(whole)).all()
    assert (np.abs(whole - native) < 1).all()
    for g in range(5):
        for k in range(2):
            own = (gene == g) & (kind == k)
            assert abs((whole - native)[own].sum()) < 1
            rest = (x - native) % 1
            up, down = own & (whole < native), own & (whole > native)
            assert rest[up].min() >= rest[down].max()


# --- the whole way, under each likelihood -----------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", list(KINDS))
def test_everything_runs_under_every_likelihood_and_after_reload(fitted, likelihood, tmp_path):
    adata = fitted(likelihood)
    sb.tl.latent(adata, key_added="lat")
    one = list(adata.var_names[:3])
    sb.tl.normalize_counts(adata, expression=one, n_samples=3)
    assert np.isfinite(sb.get.expression(adata).to_numpy()).all()
    sb.tl.predict(adata, n_samples=2, progress=False)
    sb.tl.predict(adata, n_samples=2, biological=True, progress=False, key_added="bio")
    sb.tl.predict(adata, n_samples=2, rna_size_factor=1000, progress=False, key_added="den")
    total, native = (sb.get.predictive(adata, key)["mean"].sum() for key in ("sb", "bio"))
    assert native < total
    sb.tl.likelihood_parameters(adata, genes=one)
    for kind in ("marginal", "elbo", "reconstruction"):
        sb.tl.log_likelihood(adata, kind=kind, n_samples=40)
        assert np.isfinite(adata.obs["sb_log_likelihood"]).all()
    sb.tl.correlation(adata, genes=one, n_samples=2)
    sb.tl.impute(adata, n_samples=1)
    sb.tl.cell_abundance(adata, "batch")
    sb.tl.outliers(adata)
    sb.tl.de(adata, "kind", key="sb")
    assert np.isfinite(sb.get.de(adata)["lfc_mean"]).all()
    sb.get.aggregated_posterior(adata)
    sb.metrics.knn_purity(adata.obsm["X_lat"], adata.obs["kind"])
    result = denoised(adata, n_samples=3)
    x, whole = adata.X, result.layers["sb_denoised"]
    assert (whole > x).nnz == 0
    assert (whole.data == np.round(whole.data)).all()
    assert whole.data.min() > 0
    assert whole.dtype == x.dtype
    probability = result.layers["sb_native_probability"]
    assert 0 <= probability.data.min() <= probability.data.max() <= 1
    table = sb.get.contamination(result)
    assert ((table["low"] <= table["contamination"]) & (table["contamination"] <= table["high"])).all()
    assert table["low"].min() >= 0
    assert table["high"].max() <= 1
    np.testing.assert_allclose(table["contamination"], result.obs["sb_contamination"], rtol=1e-5)
    native = adata.layers["native"].toarray()
    error = [np.sqrt(np.mean((m - native) ** 2)) for m in (x.toarray(), x.multiply(probability).toarray())]
    assert error[1] < error[0]
    groups = sb.get.contamination(result, by="group")
    assert groups["n_cells"].sum() == adata.n_obs
    level = read_latent_fit(adata).fixed["contamination"][:, 0]
    assert table["contamination"].mean() == pytest.approx(level.mean(), abs=0.03)
    # counts vary more than Poisson ones, and without a dispersion this is taken for soup
    least = 0.5 if likelihood in {"nb", "zinb"} else 0.3
    assert np.corrcoef(table["contamination"], adata.obs["rho"])[0, 1] > least
    adata.write_h5ad(tmp_path / "fit.h5ad")
    again = denoised(ad.read_h5ad(tmp_path / "fit.h5ad"), n_samples=3)
    np.testing.assert_array_equal(again.layers["sb_denoised"].toarray(), whole.toarray())


@pytest.mark.parametrize("rounding", ["ranked", "stochastic", "draw"])
def test_whole_counts_have_the_expected_sum(fitted, rounding):
    adata = fitted()
    result = denoised(adata, rounding=rounding, groupby="kind")
    expected = result.X.multiply(result.layers["sb_native_probability"])
    assert result.layers["sb_denoised"].sum() == pytest.approx(expected.sum(), rel=0.01)
    assert list(result.obs["sb_denoise_group"].cat.categories) == ["k0", "k1", "k2"]
    assert read_result(result, "denoise", "sb").facts["kinds"] == "obs['kind']"


def test_pictures_read_it(fitted):
    from matplotlib import pyplot as plt

    adata = denoised(fitted(), groupby="kind")
    sb.pl.contamination(adata, show=False)
    sb.pl.denoised(adata, ["g1", "g2"], show=False)
    plt.close("all")


def test_a_resumed_fit_is_the_uncut_one(fitted, soupy, monkeypatch):
    from scbayes.inference import _epochs

    class Interrupting(_epochs.tqdm):
        done = 0

        def update(self, n: int = 1) -> None:
            self.done += n
            if self.done == 3:
                raise KeyboardInterrupt

    whole, part = fitted(), soupy(n_cells=300)
    with monkeypatch.context() as patch:
        patch.setattr(_epochs, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            fit(part)
    assert "hidden" in read_latent_fit(part).fixed
    sb.tl.fit(part, resume=True, progress=False)
    np.testing.assert_array_equal(part.obsm["sb_latent"], whole.obsm["sb_latent"])
    ours, theirs = read_latent_fit(part).fixed, read_latent_fit(whole).fixed
    assert set(ours) == {"log_ambient", "contamination", "library", "hidden"}
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_profile_is_that_of_the_genes_and_the_batch(soupy):
    adata = soupy(n_cells=60)
    adata.var["used"] = np.arange(adata.n_vars) % 3 > 0
    adata.varm["soup"][1] = 0
    fit(adata, mask_var="used")
    found = read_latent_fit(adata)
    share = adata.varm["soup"][adata.var["used"]].T
    share = np.maximum(share / share.sum(1, keepdims=True), 1e-10)
    np.testing.assert_allclose(found.fixed["log_ambient"], np.log(share), rtol=1e-5)
    assert found.facts["ambient"]["name"] == "soup"
    assert "varm['soup']" in str(found)
    cells = read_latent_with_counts(adata, "sb").cells
    np.testing.assert_array_equal(cells.soup, adata.obs["batch"] == "b1")
    result = denoised(adata)
    left_out = result[:, ~adata.var["used"].to_numpy()]
    np.testing.assert_array_equal(left_out.layers["sb_denoised"].toarray(), left_out.X.toarray())
    assert left_out.var["sb_removed"].isna().all()
    seen = np.asarray(adata.X.sum(0)).ravel() > 0
    np.testing.assert_array_equal(result.var["sb_removed"].notna(), adata.var["used"] & seen)


def test_one_profile_for_all_batches(soupy):
    adata = soupy(n_cells=60)
    adata.varm["one"] = adata.varm["soup"][:, :1]
    fit(adata, ambient="one")
    assert read_latent_fit(adata).fixed["log_ambient"].shape == (1, 300)
    assert denoised(adata).obs["sb_contamination"].between(0, 1).all()


def test_new_cells_find_their_profile(fitted):
    adata = fitted()
    new = ad.AnnData(adata.X[40:90][:, ::-1], adata.obs[["batch"]][40:90], adata.var[[]][::-1])
    reference = sb.get.fit(adata).to_anndata()
    ours, theirs = denoised(adata), denoised(new, reference=reference)
    np.testing.assert_allclose(theirs.obs["sb_contamination"], ours.obs["sb_contamination"][40:90], rtol=1e-4)
    probability = theirs.layers["sb_native_probability"][:, ::-1].toarray()
    np.testing.assert_allclose(probability, ours.layers["sb_native_probability"][40:90].toarray(), atol=1e-4)
    assert read_result(theirs, "denoise", "sb").facts["layer"] is None


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda obs: obs.assign(batch="b7"), ValueError, "b7"),
        (lambda obs: obs.drop(columns="batch"), KeyError, "batch"),
    ],
)
def test_new_cells_of_unknown_batches_are_refused(soupy, change, error, match):
    adata = soupy(n_cells=60)
    adata.obs["lane"] = adata.obs["batch"]
    profile = pd.DataFrame(adata.varm["soup"], adata.var_names, ["b0", "b1"])
    adata.varm["soup"] = profile.to_numpy()
    fit(adata)
    new = ad.AnnData(adata.X[:9], change(adata.obs[["batch"]][:9]), adata.var[[]])
    with pytest.raises(error, match=match):
        denoised(new, reference=adata)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"ambient": "nothing"}, KeyError, "no profile 'nothing'"),
        ({"ambient": 3}, TypeError, "name of a profile"),
        ({"ambient": "zero", "mask_var": "used"}, ValueError, "zero in all genes"),
        ({"batch_key": None}, ValueError, "2 columns"),
        ({"model": "factors", "config": None}, ValueError, "no ambient part"),
        ({"config": {"ambient": True}}, ValueError, "ambient"),
    ],
)
def test_bad_profiles_are_refused_and_nothing_written(soupy, settings, error, match):
    adata = soupy(n_cells=60)
    adata.var["used"] = np.arange(adata.n_vars) > 4
    adata.varm["zero"] = np.eye(adata.n_vars)[:, :1]
    before = list(adata.uns), list(adata.obsm)
    given = {"model": "vae", "ambient": "soup", "batch_key": "batch", "config": SMALL, "progress": False}
    with pytest.raises(error, match=match):
        sb.tl.fit(adata, **given | settings)
    assert (list(adata.uns), list(adata.obsm)) == before


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"ambient": "soup"}, "ambient"),
        ({"ambient": np.ones(300)}, "ambient"),
        ({"prior": (0.2, 0.5)}, "prior"),
        ({"sample_key": "batch"}, "sample_key"),
        ({"batch_key": "batch"}, "batch_key"),
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": True}, "n_samples"),
    ],
)
def test_arguments_that_the_fit_has_are_refused(fitted, settings, match):
    with pytest.raises(ValueError, match=match):
        denoised(fitted(), **settings)


def test_fits_without_an_ambient_part_and_other_models_are_told_apart(fitted, soupy):
    adata = soupy(n_cells=60)
    fit(adata, ambient=None)
    with pytest.raises(ValueError, match="no ambient part"):
        denoised(adata)
    with pytest.raises(ValueError, match="n_samples"):
        sb.tl.denoise(adata, ambient="soup", batch_key="batch", groupby="kind", n_samples=3)
    assert sparse.issparse(adata.X)
