"""Expression, predicted counts and parameters of counts from a latent space, beside their dense definitions."""

import json
import subprocess
import sys

import anndata as ad
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scbayes as sb
from scbayes.models._latent_numbers import draw_counts
from scbayes.tl import _latent_numbers
from scbayes.tl._latent_reading import read_latent_with_counts

N, G, GENES = 300, 30, ["g3", "g11", "g7"]
AT = [3, 11, 7]
#: What is fitted for each likelihood.
CONFIGS = {
    "nb": {"dispersion": "gene-batch"},
    "zinb": {"dispersion": "gene-cell", "library": "encoded"},
    "poisson": {"scale_activation": "softplus_sp", "sparsity": 0.2},
    "b": {"latent_distribution": "ln"},
}


def simulated(n: int = N, seed: int = 0) -> ad.AnnData:
    """Three types in two batches."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=n), rng.integers(2, size=n)
    share = np.exp(np.random.default_rng(9).normal(0, 1, (3, G)))[kind]
    share *= np.exp(np.random.default_rng(8).normal(0, 0.4, (2, G)))[batch]
    share /= share.sum(1, keepdims=True)
    x = rng.negative_binomial(4, 4 / (4 + share * rng.uniform(200, 600, (n, 1))))
    adata = ad.AnnData(sparse.csr_matrix(x.astype(np.float32)))
    adata.obs["kind"], adata.obs["batch"] = kind.astype(str), pd.Categorical([f"b{b}" for b in batch])
    adata.obs_names, adata.var_names = [f"c{seed}_{i}" for i in range(n)], [f"g{i}" for i in range(G)]
    return adata


@pytest.fixture(scope="module")
def _fits() -> dict[str, ad.AnnData]:
    return {}


@pytest.fixture
def fitted(_fits):
    """Function of a likelihood: simulated cells with a fit of it."""

    def of(likelihood: str = "nb") -> ad.AnnData:
        if likelihood not in _fits:
            adata = simulated()
            config = {"n_latent": 3, "n_hidden": 16, "max_epochs": 12, "batch_size": 64, "likelihood": likelihood}
            settings = {"batch_key": "batch", "progress": False}
            sb.tl.fit(adata, "vae", config=config | CONFIGS[likelihood], **settings)
            _fits[likelihood] = adata
        return _fits[likelihood].copy()

    return of


def decoded(adata: ad.AnnData, v: np.ndarray, batch: str | None = None, **reading) -> dict[str, np.ndarray]:
    """Dense float64 numbers (..., n_cells, n_genes) for latent numbers (..., n_cells, D)."""
    of = read_latent_with_counts(adata, "sb", **reading)
    code = None if batch is None else of.fit.batches.index(batch)
    raw = of.model.decode(of.at(np.arange(adata.n_obs), code), jnp.asarray(v, jnp.float32))
    share = np.exp(np.asarray(raw.log_share, float))
    found = {"share": share, "mean": np.exp(np.asarray(raw.log_size, float))[..., None] * share}
    if raw.log_theta is not None:
        found["size"] = np.broadcast_to(np.exp(np.asarray(raw.log_theta, float)), share.shape)
    if raw.gate_logit is not None:
        found["gate"] = 1 / (1 + np.exp(-np.asarray(raw.gate_logit, float)))
    if of.fit.config.likelihood == "b":
        found["probability"] = share
    return found


def latent_draws(adata: ad.AnnData, n_samples: int, seed: int = 0) -> np.ndarray:
    """The draws of z of all cells, (n_samples, n_cells, D)."""
    fit = sb.get.fit(adata)
    noise = np.random.default_rng(seed).standard_normal((adata.n_obs, n_samples, fit.loc.shape[1]), np.float32)
    return fit.loc + fit.scale * noise.transpose(1, 0, 2)


def assert_close(found, expected, rtol=2e-4):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=rtol, atol=1e-7)


# --- expression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", CONFIGS)
def test_expression_is_the_mean_of_decoded_draws(fitted, likelihood):
    adata = fitted(likelihood)
    raw = decoded(adata, latent_draws(adata, 6))
    assert raw["share"].std(0).max() > 1e-3
    sb.tl.normalize_counts(adata, expression=GENES, n_samples=6, scale=100)
    layer = adata.layers["sb_normalized"]
    assert (layer.format, layer.dtype, layer.nnz) == ("csc", np.float32, N * len(GENES))
    table = sb.get.expression(adata)
    assert list(table.columns) == GENES
    assert_close(table, 100 * raw["share"].mean(0)[:, AT])
    sb.tl.normalize_counts(adata, expression=True, n_samples=6, scale="library", key_added="all")
    assert_close(sb.get.expression(adata, "all"), raw["mean"].mean(0))
    assert list(sb.get.expression(adata, "all", genes="g7").columns) == ["g7"]


def test_draws_and_intervals(fitted, monkeypatch):
    """Of blocks of any size."""
    adata = fitted()
    share = 1e4 * decoded(adata, latent_draws(adata, 40))["share"][..., AT]
    monkeypatch.setattr(_latent_numbers, "ENTRIES", 77 * 40 * 3)
    sb.tl.normalize_counts(adata, expression=GENES, n_samples=40, store_samples=True, expression_interval=True)
    assert adata.obsm["sb_normalized_samples"].shape == (N, 3, 40)
    assert_close(sb.get.expression(adata, what="samples"), share)
    assert_close(sb.get.expression(adata, what="samples", genes=["g7", "g3"]), share[..., [2, 0]])
    assert_close(sb.get.expression(adata, what="sd"), share.std(0), rtol=2e-3)
    for what, level in (("lower", 0.05), ("upper", 0.95)):
        assert_close(sb.get.expression(adata, what=what), np.quantile(share, level, axis=0))
    few = adata[10:40, ["g7", "g0", "g3"]].copy()
    assert_close(sb.get.expression(few, what="samples"), share[:, 10:40][..., [0, 2]])


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_of_several_batches_the_mean_is_taken(fitted, likelihood):
    adata = fitted(likelihood)
    batches = sb.get.fit(adata).batches
    found = {}
    for name, chosen in {"own": None, **{b: b for b in batches}, "both": batches}.items():
        sb.tl.normalize_counts(adata, expression=GENES, n_samples=3, transform_batch=chosen, scale=1, key_added=name)
        found[name] = sb.get.expression(adata, name).to_numpy()
    v = latent_draws(adata, 3)
    for name in batches:
        assert_close(found[name], decoded(adata, v, name)["share"].mean(0)[:, AT])
        own = (adata.obs["batch"] == name).to_numpy()
        assert_close(found["own"][own], found[name][own])
    assert_close(found["both"], (found["b0"] + found["b1"]) / 2, rtol=1e-5)
    assert np.abs(found["b0"] / found["b1"] - 1).max() > 0.05


def test_draws_from_a_population(fitted):
    """Cells come as their weights say, and each with a draw of its own."""
    adata = fitted()
    share = decoded(adata, sb.get.fit(adata).loc)["share"][:, AT]
    weights = np.where(adata.obs["kind"] == "1", 3.0, 0.0) + (adata.obs["kind"] == "2")
    settings = {"expression": GENES, "n_samples_overall": 6000, "scale": 1}
    sb.tl.normalize_counts(adata, weights=weights, **settings)
    draws = sb.get.expression(adata, what="population")
    assert draws.shape == (6000, 3)
    assert list(draws.columns) == GENES
    assert "sb_normalized" not in adata.layers
    sb.tl.normalize_counts(adata, expression=GENES, n_samples=200, scale=1, key_added="mean")
    cells = sb.get.expression(adata, "mean").to_numpy()
    expected = np.average(cells, axis=0, weights=weights)
    error = draws.std().to_numpy() / np.sqrt(6000)
    assert (np.abs(draws.mean().to_numpy() - expected) < 4 * error).all()
    assert (np.abs(cells.mean(0) - expected) > 8 * error).any()  # weights matter
    one = np.arange(N) == 5
    sb.tl.normalize_counts(adata, weights=one, **settings)
    draws = sb.get.expression(adata, what="population").to_numpy()
    assert draws.std(0).min() > 0
    assert_close(draws.mean(0), share[5], rtol=0.2)
    again = adata.copy()
    sb.tl.normalize_counts(again, weights=one, transform_batch=["b0", "b1"], **settings)
    assert np.abs(sb.get.expression(again, what="population") - draws).to_numpy().max() > 1e-4


def test_importance_weights_of_a_population(fitted):
    """Weighted draws have the mean of draws from each cell's true posterior, found on a grid of many draws from q."""
    adata = fitted()[:60].copy()
    settings = {"expression": GENES, "n_samples_overall": 4000, "scale": 1}
    sb.tl.normalize_counts(adata, weights="importance", **settings)
    draws = sb.get.expression(adata, what="population")
    facts = json.loads(adata.uns["sb_normalize_counts"]["result"])["facts"]
    assert 1 < facts["ess"] <= 4000
    reading = read_latent_with_counts(adata, "sb")
    inputs, fit = reading.at(np.arange(60)), reading.fit
    rng, log_weight, share = np.random.default_rng(0), [], []
    for _ in range(1500):
        z = fit.loc + 1.5 * fit.scale * rng.standard_normal(fit.loc.shape)
        log_q = stats.norm.logpdf(z, fit.loc, 1.5 * fit.scale).sum(1)
        log_joint = np.asarray(reading.model.counts(inputs, z.astype(np.float32)).log_prob(inputs.cells.counts))
        log_weight.append(log_joint + stats.norm.logpdf(z).sum(1) - log_q)
        share.append(np.exp(np.asarray(reading.model.decode(inputs, z.astype(np.float32)).log_share))[:, AT])
    weight = np.exp(np.array(log_weight) - np.max(log_weight, 0))
    expected = ((weight / weight.sum(0))[..., None] * np.array(share)).sum(0).mean(0)
    error = draws.std().to_numpy() / np.sqrt(facts["ess"])
    assert (np.abs(draws.mean().to_numpy() - expected) < 4 * error + 0.01 * expected).all()
    with pytest.raises(ValueError, match="'uniform', 'importance'"):
        sb.tl.normalize_counts(adata, weights="other", **settings)


# --- parameters, library sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", CONFIGS)
def test_parameters_of_counts(fitted, likelihood):
    adata = fitted(likelihood)
    raw = decoded(adata, latent_draws(adata, 5))
    sb.tl.likelihood_parameters(adata, genes=GENES, n_samples=5, store_samples=True)
    expected = {"nb": {"mean", "size"}, "zinb": {"mean", "size", "gate"}, "poisson": {"mean"}}
    found, draws = sb.get.likelihood_parameters(adata), sb.get.likelihood_parameters(adata, samples=True)
    assert set(found) == expected.get(likelihood, {"mean", "probability"})
    for name, table in found.items():
        assert list(table.columns) == GENES
        assert_close(table, raw[name].mean(0)[:, AT], rtol=1e-3)
        assert_close(draws[name], raw[name][..., AT], rtol=1e-3)
    sb.tl.likelihood_parameters(adata, n_samples=2, transform_batch="b1", key_added="b1")
    other = decoded(adata, latent_draws(adata, 2), "b1")
    assert_close(sb.get.likelihood_parameters(adata, "b1")["mean"], other["mean"].mean(0), rtol=1e-3)
    if likelihood == "nb":  # has sizes of its own in each batch
        assert_close(sb.get.likelihood_parameters(adata, "b1", genes="g3")["size"], other["size"].mean(0)[:, [3]])


def test_library_sizes_by_batch(fitted):
    adata = fitted("nb")
    sb.tl.latent(adata)
    table, total = sb.get.library_size(adata), np.asarray(adata.X.sum(1)).ravel()
    assert list(table.index) == ["b0", "b1"]
    for name, row in table.iterrows():
        cells = total[adata.obs["batch"] == name]
        assert_close(row, [len(cells), cells.mean(), np.median(cells), cells.std(ddof=1), 0], rtol=1e-5)
    adata = fitted("zinb")
    sb.tl.latent(adata)
    table = sb.get.library_size(adata)
    for name, row in table.iterrows():
        log = np.log(total[adata.obs["batch"] == name])
        law = stats.lognorm(log.std(), scale=np.exp(log.mean()))
        assert_close(row[["prior_mean", "prior_sd"]], [law.mean(), law.std()], rtol=0.02)
        here = adata.obs[adata.obs["batch"] == name]
        assert_close(row[["mean", "uncertainty"]], [here["sb_library"].mean(), here["sb_library_sd"].mean()])
        assert row["uncertainty"] > 0
    new = simulated(40, seed=3)
    sb.tl.latent(new, reference=sb.get.fit(adata).to_anndata())
    assert sb.get.library_size(new)["n_cells"].sum() == 40
    assert_close(sb.get.library_size(new)["prior_mean"], table["prior_mean"])


# --- predicted counts -------------------------------------------------------------------------------------------------


def moments(numbers: dict, likelihood: str, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and probability of a zero of each count, from SciPy."""
    gate = numbers.get("gate", 0.0)
    if likelihood == "b":
        law = stats.binom(total[:, None].astype(int), numbers["probability"])
    elif likelihood == "poisson":
        law = stats.poisson(numbers["mean"])
    else:
        law = stats.nbinom(numbers["size"], numbers["size"] / (numbers["size"] + numbers["mean"]))
    mean = (1 - gate) * law.mean()
    return mean, (1 - gate) * (law.var() + law.mean() ** 2) - mean**2, gate + (1 - gate) * law.pmf(0)


@pytest.mark.parametrize("likelihood", CONFIGS)
@pytest.mark.parametrize("batch", [None, "b1"])
def test_predicted_counts_have_the_moments_of_the_likelihood(fitted, likelihood, batch):
    adata, n = fitted(likelihood), 150
    settings = {"use": "centre", "store_counts": True, "genes": GENES, "progress": False}
    sb.tl.predict(adata, n_samples=n, transform_batch=batch, **settings)
    total = np.asarray(adata.X.sum(1)).ravel()
    numbers = decoded(adata, sb.get.fit(adata).loc, batch)
    mean, variance, zero = moments(numbers, likelihood, total)
    counts = np.stack([x.toarray() for x in sb.get.predictive(adata, what="counts").values()], 2)  # S, n, genes
    assert counts.dtype == np.int32
    for found, expected, sd in (
        (counts.mean(0), mean[:, AT], np.sqrt(variance[:, AT])),
        ((counts == 0).mean(0), zero[:, AT], np.sqrt(zero * (1 - zero))[:, AT]),
    ):
        z = ((found - expected).sum(0)) / np.sqrt((sd**2).sum(0) / n)
        assert np.abs(z).max() < 4
    pooled = ((counts - counts.mean(0)) ** 2).sum((0, 1)) / (n - 1) / variance[:, AT].sum(0)
    np.testing.assert_allclose(pooled, 1, atol=0.08)
    table = sb.get.predictive(adata)
    of_genes = table[table["statistic"] == "mean"].set_index("gene")["mean"]
    error = np.sqrt(variance.sum(0) / n) / N
    assert (np.abs(of_genes - mean.mean(0)) < 4.5 * error + 1e-6).all()
    of_cells = sb.get.predictive(adata, what="cells")
    detected = of_cells[of_cells["statistic"] == "detected"]["mean"].to_numpy()
    assert np.abs(detected - (1 - zero).sum(1)).max() < 6 * np.sqrt((zero * (1 - zero)).sum(1).max() / n)
    assert ("observed" in table) == (batch is None)


def test_counts_are_summed_up_as_they_are(fitted):
    """All genes kept: what is summed up while drawing is what the stored counts say."""
    adata = fitted()
    sb.tl.predict(adata, n_samples=4, store_counts=True, genes=list(adata.var_names), progress=False)
    counts = np.stack([x.toarray() for x in sb.get.predictive(adata, what="counts").values()], 2)
    tables = adata.varm, adata.obsm
    for of, name, value in (
        (0, "mean", counts.mean(1)),
        (0, "variance", counts.var(1, ddof=1)),
        (0, "zeros", (counts == 0).mean(1)),
        (1, "total", counts.sum(2)),
        (1, "detected", (counts > 0).sum(2)),
    ):
        table = tables[of][f"sb_predicted_{name}"]
        assert_close(table["mean"], value.mean(0), rtol=1e-9)
        assert_close(table["q0.5"], np.median(value, 0), rtol=1e-9)
    x = adata.X.toarray()
    assert_close(adata.varm["sb_predicted_variance"]["observed"], x.var(0, ddof=1), rtol=1e-5)
    histogram = sb.get.predictive(adata, what="histogram")
    zeros = histogram[(histogram["gene"] == "g3") & (histogram["low"] == 0)].iloc[0]
    width = zeros["high"] + 1
    assert_close(zeros["mean"], (counts[:, :, 3] < width).sum(1).mean())
    sb.pl.ppc(adata, show=False)
    sb.pl.ppc(adata, genes=GENES, show=False)


def test_draws_of_latent_numbers_widen_the_counts(fitted):
    adata = fitted()
    spread = {}
    for use in ("draws", "centre"):
        sb.tl.predict(adata, n_samples=300, use=use, store_counts=True, genes=GENES, progress=False)
        counts = np.stack([x.toarray() for x in sb.get.predictive(adata, what="counts").values()], 2)
        spread[use] = counts.var(0).sum()
    _, variance, _ = moments(decoded(adata, sb.get.fit(adata).loc), "nb", None)
    law = [moments(decoded(adata, v), "nb", None)[:2] for v in latent_draws(adata, 200)]
    mean, within = (np.stack(part)[..., AT] for part in zip(*law, strict=True))
    expected = (within.mean(0) + mean.var(0)).sum()
    assert expected / variance[:, AT].sum() > 1.02
    np.testing.assert_allclose(spread["draws"] / expected, 1, atol=0.05)
    np.testing.assert_allclose(spread["centre"] / variance[:, AT].sum(), 1, atol=0.05)


def test_under_several_batches_counts_stay_whole(fitted):
    adata = fitted()
    settings = {"use": "centre", "store_counts": True, "genes": GENES, "progress": False}
    sb.tl.predict(adata, n_samples=400, transform_batch=["b0", "b1"], **settings)
    counts = np.stack([x.toarray() for x in sb.get.predictive(adata, what="counts").values()], 2)
    assert counts.dtype == np.int32
    two = [moments(decoded(adata, sb.get.fit(adata).loc, b), "nb", None) for b in ("b0", "b1")]
    mean = (two[0][0] + two[1][0])[:, AT] / 2
    variance = (two[0][1] + two[1][1])[:, AT] / 2 + ((two[0][0] - two[1][0])[:, AT] / 2) ** 2
    assert np.abs((counts.mean(0) - mean).sum(0) / np.sqrt(variance.sum(0) / 400)).max() < 4
    np.testing.assert_allclose(counts.var(0).sum(0) / variance.sum(0), 1, atol=0.06)


def test_without_measurement_there_are_no_excess_zeros(fitted):
    adata = fitted("zinb")
    sb.tl.predict(adata, n_samples=100, use="centre", biological=True, progress=False)
    numbers = decoded(adata, sb.get.fit(adata).loc)
    expected, error = numbers["mean"].mean(0), np.sqrt(moments(numbers, "nb", None)[1].sum(0) / 100) / N
    assert (np.abs(adata.varm["sb_predicted_mean"]["mean"] - expected) < 4.5 * error).all()
    assert ((numbers["gate"] * numbers["mean"]).mean(0) > 9 * error).any()  # with excess zeros means were lower
    assert "observed" not in adata.varm["sb_predicted_mean"]
    with pytest.raises(ValueError, match="not observed"):
        sb.pl.ppc(adata, show=False)


@pytest.mark.parametrize("likelihood", CONFIGS)
def test_denoised_draws_are_gamma(fitted, likelihood):
    """Mean R rho, variance (R rho)^2 / theta; without dispersion, the mean itself."""
    adata, n, size = fitted(likelihood), 400, 1000.0
    settings = {"use": "centre", "store_counts": True, "genes": GENES, "progress": False}
    sb.tl.predict(adata, n_samples=n, rna_size_factor=size, **settings)
    numbers = decoded(adata, sb.get.fit(adata).loc)
    mean = size * numbers["share"][:, AT]
    drawn = np.stack([x.toarray() for x in sb.get.predictive(adata, what="counts").values()], 2)
    assert drawn.dtype == np.float32
    if "size" not in numbers:
        assert_close(drawn, np.broadcast_to(mean, drawn.shape))
        return
    theta = numbers["size"][:, AT]
    variance = mean**2 / theta
    assert np.abs((drawn.mean(0) - mean).sum(0) / np.sqrt(variance.sum(0) / n)).max() < 4
    np.testing.assert_allclose(drawn.var(0).sum(0) / variance.sum(0), 1, atol=0.1)
    p = stats.gamma(theta, scale=mean / theta).cdf(drawn)  # uniform, cell by cell
    assert stats.kstest(p.ravel()[:20000], "uniform").pvalue > 1e-4
    assert_close(adata.obsm["sb_predicted_total"]["mean"].mean(), size, rtol=0.02)
    with pytest.raises(KeyError, match="histogram"):
        sb.get.predictive(adata, what="histogram")


def test_counts_that_are_too_large_are_cut():
    rng = np.random.default_rng(0)
    drawn = draw_counts({"mean": np.full((1, 2), 1e30)}, np.ones(1), rng)
    assert (drawn < 2**31).all()
    np.testing.assert_allclose(drawn, 2**31, rtol=1e-3)


# --- files, new cells -------------------------------------------------------------------------------------------------


def results(adata: ad.AnnData, **reference) -> dict[str, float]:
    """Numbers of everything, computed anew."""
    settings = {"genes": GENES, "n_samples": 3, **reference}
    sb.tl.normalize_counts(adata, expression=GENES, n_samples=3, transform_batch=["b0", "b1"], **reference)
    sb.tl.likelihood_parameters(adata, **settings)
    sb.tl.predict(adata, progress=False, store_counts=True, **settings)
    sb.tl.latent(adata, **reference)
    parts = {"expression": sb.get.expression(adata), "library": sb.get.library_size(adata)}
    parts |= sb.get.likelihood_parameters(adata) | sb.get.predictive(adata, what="counts")
    parts["predicted"] = sb.get.predictive(adata)[["mean", "observed"]]
    weight = np.cos(np.arange(10_000))  # the order counts
    return {
        name: float(np.ravel(x.toarray() if sparse.issparse(x) else x) @ weight[: np.prod(x.shape)])
        for name, x in parts.items()
    }


def test_after_reload_in_a_fresh_process(fitted, tmp_path):
    adata = fitted("zinb")
    adata.write_h5ad(tmp_path / "x.h5ad")
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path / "x.h5ad")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(results(adata), rel=1e-5)
    done = sb.get.expression(adata), sb.get.likelihood_parameters(adata)["gate"]
    adata.write_h5ad(tmp_path / "y.h5ad")  # what was computed is read back, too
    again = ad.read_h5ad(tmp_path / "y.h5ad")
    pd.testing.assert_frame_equal(sb.get.expression(again), done[0])
    pd.testing.assert_frame_equal(sb.get.likelihood_parameters(again)["gate"], done[1])


@pytest.mark.parametrize("likelihood", CONFIGS)
def test_new_cells(fitted, likelihood):
    """With the fit of other cells, or one without cells; genes in another order and more of them."""
    adata, new = fitted(likelihood), simulated(50, seed=4)
    exported = sb.get.fit(adata).to_anndata()
    found = [results(new.copy(), reference=reference) for reference in (adata, exported)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    more = ad.AnnData(sparse.csr_matrix((50, 1), dtype=np.float32), new.obs, pd.DataFrame(index=["extra"]))
    other = ad.concat([more, new[:, ::-1]], axis=1, merge="first")
    sb.tl.normalize_counts(other, expression=True, reference=exported, n_samples=3, scale=1)
    reading = read_latent_with_counts(new, "sb", reference=exported)
    noise = np.random.default_rng(0).standard_normal((50, 3, reading.fit.loc.shape[1]), np.float32)
    v = reading.fit.loc + reading.fit.scale * noise.transpose(1, 0, 2)
    expected = decoded(new, v, reference=exported)["share"].mean(0)
    assert_close(other.layers["sb_normalized"][:, 1:].toarray()[:, ::-1], expected)
    assert other.layers["sb_normalized"][:, :1].nnz == 0
    sb.tl.predict(other, reference=exported, n_samples=2, progress=False)
    assert np.isnan(other.varm["sb_predicted_mean"].loc["extra", "mean"])
    assert_close(other.varm["sb_predicted_mean"].loc["g5", "observed"], new[:, "g5"].X.mean())


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ("normalize_counts", {}, "expression is None"),
    ("normalize_counts", {"expression": GENES, "fit_dirichlet": True}, "fit_dirichlet: not for the fit 'sb'"),
    ("normalize_counts", {"expression": GENES, "scale": "latent"}, "scale='latent'"),
    ("normalize_counts", {"expression": GENES, "transform_batch": ["b0", "b7"]}, r"does not know \['b7'\]"),
    ("normalize_counts", {"expression": GENES, "weights": np.ones(N)}, "n_samples_overall"),
    ("normalize_counts", {"expression": GENES, "n_samples_overall": 0}, "n_samples_overall=0"),
    ("normalize_counts", {"expression": GENES, "n_samples_overall": 5, "weights": np.ones(7)}, r"shape \(7,\)"),
    ("normalize_counts", {"expression": GENES, "n_samples_overall": 5, "weights": -np.ones(N)}, "cell 'c0_0' is -1"),
    ("normalize_counts", {"expression": GENES, "n_samples_overall": 5, "weights": np.zeros(N)}, "all weights are 0"),
    ("normalize_counts", {"expression": "nowhere"}, "'nowhere'"),
    ("normalize_counts", {"expression": GENES, "n_samples": 10**7, "store_samples": True}, "lower n_samples="),
    ("normalize_counts", {"expression": GENES, "n_samples_overall": 10**9}, "more than 2 GB"),
    ("predict", {"rna_size_factor": 0.0}, "rna_size_factor=0.0"),
    ("predict", {"transform_batch": "b7"}, "b7"),
    ("predict", {"genes": GENES, "store_counts": True, "n_samples": 10**7}, "2 GB are not stored"),
    ("predict", {"genes": "nowhere"}, "nowhere"),
    ("likelihood_parameters", {"genes": []}, "names no gene"),
    ("likelihood_parameters", {"genes": "nowhere"}, "'nowhere'"),
    ("likelihood_parameters", {"n_samples": 0}, "n_samples=0"),
]


@pytest.mark.parametrize(("verb", "settings", "message"), REFUSED)
def test_what_cannot_be_done_is_refused(fitted, verb, settings, message):
    adata = fitted()
    before = set(adata.layers), set(adata.obsm), set(adata.varm), set(adata.uns)
    with pytest.raises((ValueError, KeyError), match=message):
        getattr(sb.tl, verb)(adata, **settings)
    assert (set(adata.layers), set(adata.obsm), set(adata.varm), set(adata.uns)) == before


def test_layers_that_are_too_large_are_refused(fitted, monkeypatch):
    adata = fitted()
    monkeypatch.setattr(_latent_numbers, "MOST", 8 * N * G)
    sb.tl.normalize_counts(adata, expression=True, n_samples=1)
    for settings in ({"expression_interval": True}, {"store_samples": True, "n_samples": 3}):
        with pytest.raises(ValueError, match="fewer genes in expression="):
            sb.tl.normalize_counts(adata, expression=list(adata.var_names), **settings)
    with pytest.raises(ValueError, match="fewer genes in genes="):
        sb.tl.likelihood_parameters(adata)


def test_genes_outside_of_the_model_are_refused_by_name(fitted):
    adata = fitted()
    more = ad.AnnData(sparse.csr_matrix((N, 1), dtype=np.float32), adata.obs, pd.DataFrame(index=["extra"]))
    more = ad.concat([adata, more], axis=1, merge="first")
    with pytest.raises(ValueError, match="'extra'"):
        sb.tl.normalize_counts(more, reference=adata, expression="extra")
    with pytest.raises(ValueError, match="'extra'"):
        sb.tl.likelihood_parameters(more, reference=adata, genes="extra")


def test_the_other_family_refuses_what_it_does_not_know():
    adata = simulated(60)
    sb.tl.fit(adata, method="laplace", progress=False)
    for verb, settings in (
        ("normalize_counts", {"expression": GENES, "transform_batch": "b0"}),
        ("normalize_counts", {"expression": GENES, "n_samples_overall": 4, "weights": np.ones(60)}),
        ("predict", {"transform_batch": "b0"}),
        ("predict", {"rna_size_factor": 1000.0}),
    ):
        with pytest.raises(ValueError, match="for a fit with a latent space"):
            getattr(sb.tl, verb)(adata, **settings)
    with pytest.raises(ValueError, match="latent space"):
        sb.tl.normalize_counts(adata, expression=GENES, scale="library")
    with pytest.raises(ValueError, match="no latent space"):
        sb.tl.likelihood_parameters(adata)
    sb.tl.normalize_counts(adata, expression=GENES)
    with pytest.raises(KeyError, match="store_samples=True"):
        sb.get.expression(adata, what="samples")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(results(ad.read_h5ad(sys.argv[1]))))
