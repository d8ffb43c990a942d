"""Cells to components: probabilities, their calibration, and cells that belong to none."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import integrate, optimize, sparse, special, stats

import scbayes as sb
from scbayes.counts import Counts
from scbayes.models._assignment import averaged, cell_probabilities, expected_log_total, expecting
from scbayes.models._labelled import N_FOLDS, SHAPES, _folds, _shrunk, _sums, cross_scores, estimate, evaluate, totals
from scbayes.models._parameters import Parameters
from scbayes.models._typical import Typicality, expectations, surprise, typicality

N_CELLS = 240


@pytest.fixture(scope="module")
def _fitted() -> ad.AnnData:
    adata = sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=30, n_components=3, log_mean=(2.5, 1.2), rng=6)
    names = np.array(["ape", "bee", "cat"])[adata.obs["component"].cat.codes]
    known = np.random.default_rng(0).random(N_CELLS) < 0.5
    adata.obs["truth"] = names
    adata.obs["label"] = pd.Series(names, adata.obs_names).where(known)
    sb.tl.fit(adata, labels_key="label", progress=False)
    sb.tl.fit(adata, "nbdm", n_steps=50, key_added="plain", progress=False)
    return adata


@pytest.fixture
def adata(_fitted) -> ad.AnnData:
    return _fitted.copy()


# --- probabilities ----------------------------------------------------------------------------------------------------


def brute_force(adata: ad.AnnData, cells, genes=slice(None), temperature: float = 1.0) -> np.ndarray:
    """Responsibilities by quadrature over ln nu of scipy's densities."""
    fit = sb.get.fit(adata)
    centre = fit.centre()
    par, nu = centre.parameters, centre.sites["nu"]
    prior = fit.priors["nu"]
    out = []
    for c in cells:
        u = adata.X[[c]].toarray().ravel()[genes]
        x = np.log(nu[c]) + np.linspace(-4, 4, 3001)
        row = []
        for k in range(3):
            r, b = par.size[0, k, genes], par.log_odds[0, k, genes]
            log_p = stats.nbinom.logpmf(u, r, 1 / (1 + np.exp(x[:, None] + b))).sum(1)
            log_p += stats.norm.logpdf(x, float(prior.loc), float(prior.scale))
            row.append(
                np.log(par.weights[k]) + log_p.max() + np.log(integrate.simpson(np.exp(log_p - log_p.max()), x=x))
            )
        out.append(special.softmax(np.array(row) / temperature))
    return np.array(out)


def test_probabilities_are_those_of_quadrature(adata):
    sb.tl.assign(adata)
    cells = np.argsort(adata.obs["sb_confidence"].to_numpy())[:25]  # the undecided ones
    expected = brute_force(adata, cells)
    assert expected.max(1).min() < 0.8
    np.testing.assert_allclose(adata.obsm["sb_probabilities"][cells], expected, atol=0.02)


def test_what_is_written(adata):
    assert sb.tl.assign(adata) is None
    p = adata.obsm["sb_probabilities"]
    assert p.shape == (N_CELLS, 3)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    assert list(adata.obs["sb_assignment"].cat.categories) == ["ape", "bee", "cat"]
    np.testing.assert_array_equal(adata.obs["sb_assignment"].cat.codes, p.argmax(1))
    np.testing.assert_array_equal(adata.obs["sb_confidence"], p.max(1))
    assert "sb_surprise" not in adata.obs
    assert np.mean(adata.obs["sb_assignment"] == adata.obs["truth"]) > 0.8


def test_labels_are_left_out(adata):
    """A cell that was labelled wrongly goes where its counts belong."""
    sb.tl.assign(adata)
    fit = sb.get.fit(adata)
    known = adata.obs["label"].notna().to_numpy()
    assert np.all(fit.posterior.responsibilities[known].max(1) == 1)
    assert np.any(adata.obsm["sb_probabilities"][known].max(1) < 0.99)
    free = ~known  # the others are where the fit has them
    np.testing.assert_allclose(adata.obsm["sb_probabilities"][free], fit.posterior.responsibilities[free], atol=0.05)


def test_temperature(adata):
    sb.tl.assign(adata)
    sb.tl.assign(adata, temperature=3.0, key_added="warm")
    p = adata.obsm["sb_probabilities"]
    expected = special.softmax(np.log(np.maximum(p, 1e-300)) / 3, 1)
    np.testing.assert_allclose(adata.obsm["warm_probabilities"], expected, atol=1e-9)


def test_gene_weights(adata):
    weight = np.random.default_rng(1).gamma(0.5, size=30)
    weight[5:20] = 0
    adata.var["weight"] = weight
    sb.tl.assign(adata, weights="weight")
    par = sb.get.fit(adata).centre().parameters
    mean = par.mean[0]
    total = np.exp(par.log_nu + np.log(mean.sum(1)) @ par.weights)  # expected, the same for all components
    x, log_p = adata.X.toarray(), np.zeros((N_CELLS, 3))
    for k in range(3):
        m = total[:, None] * mean[k] / mean[k].sum()
        r = par.size[0, k]
        log_p[:, k] = np.log(par.weights[k]) + stats.nbinom.logpmf(x, r, r / (r + m)) @ weight
    np.testing.assert_allclose(adata.obsm["sb_probabilities"], special.softmax(log_p, 1), atol=1e-6)
    assert adata.obs["sb_confidence"].median() < 0.95

    sb.tl.assign(adata, key_added="all")
    sb.tl.assign(adata, weights=weight, weight_type="additive", key_added="same")
    np.testing.assert_allclose(adata.obsm["same_probabilities"], adata.obsm["all_probabilities"], atol=1e-12)
    shift = np.zeros((30, 3))
    shift[:, 1] = 0.1
    sb.tl.assign(adata, weights=shift, weight_type="additive", key_added="bee")
    expected = adata.obsm["all_probabilities"] * np.exp([0, 3, 0])
    np.testing.assert_allclose(adata.obsm["bee_probabilities"], expected / expected.sum(1, keepdims=True), atol=1e-9)


def test_draws(adata):
    sb.tl.assign(adata, n_samples=12, fit_dirichlet=True, keep_draws=True, rng=3, progress=False)
    draws, p = sb.get.assignments(adata, what="draws"), adata.obsm["sb_probabilities"]
    assert draws.shape == (12, N_CELLS, 3)
    assert adata.obsm["sb_probability_draws"].shape == (N_CELLS, 12, 3)
    np.testing.assert_allclose(draws.mean(0), p, rtol=1e-12)
    assert np.abs(draws - draws[0]).max() > 0.05
    a = sb.get.assignments(adata, what="concentrations")
    assert list(a.columns) == ["ape", "bee", "cat"]
    a = a.to_numpy()
    np.testing.assert_allclose(a / a.sum(1, keepdims=True), p, atol=1e-9)
    for c in np.argsort(p.max(1))[:5]:
        own = draws[:, c] / draws[:, c].sum(1, keepdims=True)
        loss = lambda s, own=own, c=c: -sum(stats.dirichlet.logpdf(x, np.exp(s) * p[c]) for x in own)
        best = optimize.minimize_scalar(loss, bounds=(-3, 14), method="bounded", options={"xatol": 1e-7}).x
        assert np.log(a[c].sum()) == pytest.approx(best, abs=1e-3)
    sb.tl.assign(adata, n_samples=12, rng=3, key_added="again", progress=False)
    np.testing.assert_array_equal(adata.obsm["again_probabilities"], p)
    assert "again_probability_draws" not in adata.obsm
    one = next(sb.get.fit(adata).draws(1, np.random.default_rng(3))).parameters
    fit = sb.get.fit(adata)
    state = expecting(one, expected_log_total(fit.centre().parameters, fit.batch), fit.batch)
    first = cell_probabilities(state, Counts(adata.X), fit.priors["nu"], unconstrained=False)
    np.testing.assert_allclose(first, draws[0], rtol=1e-9)


def test_averages_are_streamed():
    p = np.random.default_rng(0).dirichlet([1, 2, 3], (7, 4))
    found = averaged(iter(p), "entropy")
    np.testing.assert_allclose(found.mean, p.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.mean_log, np.log(p).mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.draws, stats.entropy(p, axis=-1).T, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, stats.entropy(p, axis=-1).mean(0), rtol=1e-12)


def test_new_cells(adata):
    new = ad.AnnData(adata.X[::2, ::-1].copy(), obs=adata.obs[["truth"]][::2], var=adata.var[[]][::-1])
    new = ad.concat([new, ad.AnnData(np.ones((len(new), 1)), obs=new.obs, var=pd.DataFrame(index=["other"]))], axis=1)
    new.obs["truth"] = adata.obs["truth"][::2]
    new.X = sparse.csr_matrix(new.X)
    sb.tl.assign(new, reference=adata, unknown=0.05)
    sb.tl.assign(adata)
    np.testing.assert_allclose(new.obsm["sb_probabilities"], adata.obsm["sb_probabilities"][::2], atol=0.02)
    sb.tl.assign(new, reference=adata, calibrate="label", key_added="cal")
    assert np.mean(new.obs["cal_assignment"].astype(str) == new.obs["truth"]) > 0.8
    table = sb.get.assignments(new, "cal")
    assert table.attrs["calibration"]["n_labels"] == adata.obs["label"].notna().sum()


# --- estimates from labelled cells ------------------------------------------------------------------------------------


def labelled(n: int = 300, n_genes: int = 40, seed: int = 0, n_batches: int = 1):
    """Counts of three components whose parameters are known."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.normal(0, 1, n_genes)) * np.exp(rng.normal(0, 0.8, (3, n_genes)))
    mean *= 60 / mean.sum(1, keepdims=True)
    code, nu = rng.integers(0, 3, n), np.exp(rng.normal(0, 0.3, n))
    batch = rng.integers(0, n_batches, n)
    factor = np.exp(rng.normal(0, 0.7, (n_batches, n_genes))) if n_batches > 1 else np.ones((1, n_genes))
    m = nu[:, None] * (mean * 1.0)[code] * factor[batch]
    return rng.poisson(rng.gamma(2.0, m / 2)), code, batch, mean


def test_means_are_posterior_means():
    """Of Poisson rates under the mixture of gamma priors that was learned."""
    rng = np.random.default_rng(1)
    overall, exposure = np.exp(rng.normal(0, 1, 50)), np.array([3.0, 8.0])
    seen = rng.poisson(overall[:, None] * exposure * rng.gamma(2, 0.5, (50, 2))).astype(float)
    found = _shrunk(seen, exposure, overall)

    def log_evidence(weight):
        """Of all genes, by scipy's negative binomial: a gamma mixture of Poisson counts."""
        p = [
            stats.nbinom.logpmf(seen, a, (a / overall[:, None]) / (a / overall[:, None] + exposure)).sum(1)
            for a in SHAPES
        ]
        return special.logsumexp(np.array(p) + np.log(weight)[:, None], axis=0).sum(), np.array(p)

    weight = np.full(len(SHAPES), 1 / len(SHAPES))
    for _ in range(30):
        q = special.softmax(log_evidence(weight)[1] + np.log(weight)[:, None], 0)
        weight = q.mean(1)
    for g in (0, 7, 23):
        expected = np.zeros(2)
        for a, share in zip(SHAPES, q[:, g], strict=True):
            post = stats.gamma(a + seen[g], scale=1 / (a / overall[g] + exposure))
            expected += share * post.mean()
        np.testing.assert_allclose(found[g], expected, rtol=1e-9)


def test_estimates_find_the_truth():
    x, code, _, mean = labelled(6000)
    counts = Counts(sparse.csr_matrix(x))
    total = x.sum(1).astype(float)
    found = estimate(_sums(counts, np.eye(3)[code], total, total.mean()), total.mean())
    own = found.components.mean[0] / found.components.mean[0].sum(1, keepdims=True)
    assert np.sqrt(np.mean((np.log(own) - np.log(mean / 60)) ** 2)) < 0.06
    assert np.median(found.components.size) == pytest.approx(2.0, rel=0.25)
    np.testing.assert_allclose(found.components.size[0, 0], found.components.size[0, 2], rtol=1e-12)
    np.testing.assert_allclose(found.components.mean.sum(-1), found.background.mean.sum(), rtol=1e-9)


def test_estimates_per_batch():
    x, code, batch, _ = labelled(6000, n_batches=2, seed=3)
    counts = Counts(sparse.csr_matrix(x), batch, 2)
    scored, _ = cross_scores(counts, code, 3, np.random.default_rng(0), judge=False)
    blind, _ = cross_scores(Counts(sparse.csr_matrix(x)), code, 3, np.random.default_rng(0), judge=False)
    chosen = np.arange(len(code)), code
    assert scored.scores[chosen].mean() > blind.scores[chosen].mean() + 1
    assert np.mean(scored.scores.argmax(1) == code) > np.mean(blind.scores.argmax(1) == code)


def test_no_cell_is_scored_by_itself():
    x, code, _, _ = labelled(120)
    counts = Counts(sparse.csr_matrix(x))
    scored, estimates = cross_scores(counts, code, 3, np.random.default_rng(4), judge=True)
    fold = _folds(code, np.random.default_rng(4))
    assert sorted(set(fold)) == list(range(N_FOLDS))
    level = x.sum(1).mean()
    for f in range(N_FOLDS):
        own, others = fold == f, fold != f
        rest = Counts(sparse.csr_matrix(x[others]))
        by_hand = estimate(_sums(rest, np.eye(3)[code[others]], x[others].sum(1).astype(float), level), level)
        again = evaluate(by_hand, Counts(sparse.csr_matrix(x[own])), judge=True)
        np.testing.assert_allclose(scored.scores[own], again.scores, rtol=1e-9)
        for a, b in zip(scored.typical, again.typical, strict=True):
            np.testing.assert_allclose(a[own], b, rtol=1e-5, atol=1e-7)
    everything = estimate(_sums(counts, np.eye(3)[code], totals(counts), level), level)
    np.testing.assert_allclose(estimates.components.log_odds, everything.components.log_odds, rtol=1e-9)


def test_folds_are_even():
    code = np.repeat([0, 1, 2], [50, 7, 2])
    fold = _folds(code, np.random.default_rng(0))
    for k in range(3):
        n = np.bincount(fold[code == k], minlength=N_FOLDS)
        assert n.max() - n.min() <= 1


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibrated_probabilities_hold(adata):
    sb.tl.assign(adata)
    sb.tl.assign(adata, calibrate="label", key_added="cal")
    p = adata.obsm["cal_probabilities"]
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    free = adata.obs["label"].isna().to_numpy()
    code = pd.Categorical(adata.obs["truth"]).codes.astype(int)
    assert np.mean(p[free].argmax(1) == code[free]) > 0.85
    assert sb.metrics.calibration_error(p[free], code[free], n_bins=5) < 0.1
    learned = sb.get.assignments(adata, "cal").attrs["calibration"]
    assert learned["labels"] == "label"
    assert learned["n_labels"] == (~free).sum()
    assert learned["temperature"] > 0
    assert len(learned["bias"]) == 3


def test_calibration_mends_what_is_too_sure():
    """Cells that vary more than a negative binomial with independent genes."""
    rng = np.random.default_rng(8)
    adata = sb.datasets.simulate("nbvcp", n_cells=600, n_genes=60, n_components=3, log_mean=(3.0, 1.0), rng=1)
    code = adata.obs["component"].cat.codes.to_numpy()
    programme = np.exp(rng.normal(0, 1.0, (600, 4)) @ rng.normal(0, 0.6, (4, 60)))
    adata.X = sparse.csr_matrix(rng.poisson(adata.X.toarray() * programme).astype(np.float32))
    known = rng.random(600) < 0.5
    names = np.array(["a", "b", "unknown"])[code]
    adata.obs["label"] = pd.Series(names, adata.obs_names).where(known)
    sb.tl.fit(adata, labels_key="label", n_steps=50, progress=False)
    with pytest.raises(ValueError, match="'unknown'"):
        sb.tl.assign(adata, unknown=0.1)
    sb.tl.assign(adata)
    sb.tl.assign(adata, calibrate="label", key_added="cal")
    error = {
        key: sb.metrics.calibration_error(adata.obsm[f"{key}_probabilities"][~known], code[~known])
        for key in ("sb", "cal")
    }
    assert error["cal"] < min(0.1, error["sb"] - 0.03)


# --- unknown cells ----------------------------------------------------------------------------------------------------


def test_expectations_are_sums_over_all_counts():
    size, odds = np.array([[[0.5, 3.0], [2.0, 8.0]]]), np.log([[[2.0, 0.4], [0.3, 5.0]]])
    own = Parameters(size, odds, None, np.ones(2) / 2, np.zeros(0))
    back = Parameters(size[:, :1], odds[:, 1:], None, np.ones(1), np.zeros(0))
    nu = np.array([0.2, 1.0, 4.0])
    found = expectations(own, back, nu)
    u = np.arange(4000)
    for k in range(2):
        for m, v in enumerate(nu):
            p = [stats.nbinom.pmf(u, size[0, k, g], 1 / (1 + v * np.exp(odds[0, k, g]))) for g in range(2)]
            a = [stats.nbinom.logpmf(u, size[0, k, g], 1 / (1 + v * np.exp(odds[0, k, g]))) for g in range(2)]
            b = [stats.nbinom.logpmf(u, size[0, 0, g], 1 / (1 + v * np.exp(odds[0, 1, g]))) for g in range(2)]
            mean = sum(np.sum(np.where(w > 0, w * x, 0)) for w, x in zip(p, a, strict=True))
            ratio = sum(np.sum(np.where(w > 0, w * (x - y), 0)) for w, x, y in zip(p, a, b, strict=True))
            np.testing.assert_allclose(found[:, 0, k, m], [mean, ratio], rtol=1e-6)


def test_cells_of_the_model_are_typical():
    x, code, _, mean = labelled(3000, seed=2)
    size = np.full((1, 3, 40), 2.0)
    log_nu = np.log(x.sum(1) / 60)
    own = Parameters(size, np.log(mean / 2)[None], None, np.ones(3) / 3, log_nu)
    back = Parameters(size[:, :1], np.log(mean.mean(0) / 2)[None, None], None, np.ones(1), log_nu)
    scores = np.stack(
        [stats.nbinom.logpmf(x, 2.0, 1 / (1 + np.exp(log_nu[:, None]) * m / 2)).sum(1) for m in mean], axis=1
    )
    found = typicality(own, back, scores, Counts(sparse.csr_matrix(x)), x.sum(1))
    assert np.mean(found.best == code) > 0.9
    assert abs(found.excess.mean()) < 0.02
    assert found.gain.mean() == pytest.approx(1, abs=0.1)


def test_surprise_is_a_rank():
    rng = np.random.default_rng(0)
    known = Typicality(np.zeros(9, int), np.arange(1.0, 10), np.arange(1.0, 10))
    new = Typicality(np.array([0, 0, 0, 1]), np.array([0.0, 5.5, 20, 0]), np.array([0.0, 20, 20, 0]))
    # ranks among nine: below all 1/10; five are lower: 6/10; above all 1; a component without known cells: 1
    np.testing.assert_allclose(surprise(new, known), [0.1, 0.6, 1, 1])
    np.testing.assert_allclose(surprise(known, known, same=True), np.arange(1, 10) / 9)
    draw = lambda n: Typicality(rng.integers(0, 2, n), rng.normal(size=n), rng.normal(size=n))
    p = surprise(draw(4000), draw(4000))
    assert stats.kstest(p, "uniform").statistic < 0.05


def test_a_type_that_was_left_out_is_unknown():
    adata = sb.datasets.simulate("nbvcp", n_cells=900, n_genes=80, n_components=4, log_mean=(3, 1.2), rng=2)
    code = adata.obs["component"].cat.codes.to_numpy()
    old = (code < 3) & (np.arange(900) % 2 == 0)
    train = adata[old].copy()
    train.obs["label"] = code[old].astype(str)
    sb.tl.fit(train, labels_key="label", n_steps=50, progress=False)
    new = adata[~old].copy()
    sb.tl.assign(new, reference=train, unknown=0.05)
    left_out = code[~old] == 3
    called = (new.obs["sb_assignment"] == "unknown").to_numpy()
    np.testing.assert_array_equal(called, new.obs["sb_surprise"].to_numpy() < 0.05)
    assert called[left_out].mean() > 0.9
    assert called[~left_out].mean() < 0.12
    table = sb.get.assignments(new)
    assert list(table.columns) == ["assignment", "confidence", "surprise", "0", "1", "2"]
    np.testing.assert_array_equal(table["confidence"], new.obsm["sb_probabilities"].max(1))
    sb.tl.assign(train, unknown=0.05)
    assert 0.01 < np.mean(train.obs["sb_assignment"] == "unknown") < 0.06


# --- reading back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_a_file(adata, tmp_path, suffix):
    sb.tl.assign(adata, n_samples=3, fit_dirichlet=True, keep_draws=True, unknown=0.1, progress=False)
    path = tmp_path / f"a.{suffix}"
    (adata.write_h5ad if suffix == "h5ad" else adata.write_zarr)(path)
    again = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path)
    for what in ("cells", "concentrations"):
        pd.testing.assert_frame_equal(sb.get.assignments(again, what=what), sb.get.assignments(adata, what=what))
    draws = sb.get.assignments(again, what="draws")
    np.testing.assert_array_equal(draws, sb.get.assignments(adata, what="draws"))
    part = again[again.obs["sb_assignment"] == "ape", :4].copy()
    table = sb.get.assignments(part)
    assert list(table["assignment"].cat.categories) == ["ape", "bee", "cat", "unknown"]
    assert set(table["assignment"]) == {"ape"}


def test_results_go_with_their_fit(adata):
    sb.tl.assign(adata)
    changed = sb.tl.assign(adata, key_added="two", copy=True)
    assert "two_assignment" in changed.obs
    assert "two_assignment" not in adata.obs
    sb.tl.remove(adata)
    assert "sb_assignment" not in adata.obs
    assert "sb_probabilities" not in adata.obsm
    with pytest.raises(KeyError, match=r"sb\.tl\.assign"):
        sb.get.assignments(adata)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "plain"}, ValueError, "n_components"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"n_samples": 0}, ValueError, "n_samples"),
        ({"fit_dirichlet": True}, ValueError, "n_samples"),
        ({"keep_draws": True}, ValueError, "n_samples"),
        ({"unknown": 1.5}, ValueError, "unknown"),
        ({"weights": "none"}, KeyError, "none"),
        ({"weights": np.ones(3)}, ValueError, "shape"),
        ({"weights": -np.ones(30)}, ValueError, "negative"),
        ({"weights": np.ones((30, 3))}, ValueError, "shape"),
        ({"weights": np.ones(30), "weight_type": "other"}, ValueError, "weight_type"),
        ({"calibrate": "label", "temperature": 2.0}, ValueError, "leave"),
        ({"calibrate": "label", "n_samples": 3}, ValueError, "leave"),
        ({"calibrate": "none"}, KeyError, "none"),
        ({"calibrate": "wrong"}, ValueError, "dog"),
        ({"calibrate": "few"}, ValueError, "cat"),
    ],
)
def test_what_is_wrong_is_said(adata, arguments, error, message):
    adata.obs["wrong"] = adata.obs["label"].replace("ape", "dog")
    adata.obs["few"] = adata.obs["label"].where(adata.obs["label"] != "cat")
    before = set(adata.obs), set(adata.obsm), set(adata.uns)
    with pytest.raises(error, match=message):
        sb.tl.assign(adata, progress=False, **arguments)
    assert (set(adata.obs), set(adata.obsm), set(adata.uns)) == before


def test_get_says_what_is_wrong(adata):
    sb.tl.assign(adata)
    with pytest.raises(ValueError, match="what"):
        sb.get.assignments(adata, what="all")
    for what, argument in (("draws", "keep_draws"), ("concentrations", "fit_dirichlet")):
        with pytest.raises(KeyError, match=argument):
            sb.get.assignments(adata, what=what)


def test_one_component(adata):
    bee = sb.get.component(adata, "bee")
    whole = sb.get.fit(adata)
    assert not bee.config.mixture
    np.testing.assert_array_equal(bee.centre().sites["mu"], whole.centre().sites["mu"][:, 1])
    np.testing.assert_array_equal(sb.get.component(adata, 1).centre().sites["r"], bee.centre().sites["r"])
    for k in ("dog", 3, -1, 1.0, True):
        with pytest.raises(KeyError, match="no component"):
            sb.get.component(adata, k)
    with pytest.raises(ValueError, match="n_components"):
        sb.get.component(adata, 0, "plain")


def test_masked_genes_and_batches():
    adata = sb.datasets.simulate("nbvcp", n_cells=200, n_genes=30, n_components=2, n_batches=2, log_mean=(3, 1), rng=4)
    adata.var["mask"] = np.arange(30) % 3 > 0
    sb.tl.fit(
        adata,
        parameterization="standard",
        n_components=2,
        mask_var="mask",
        batch_key="batch",
        n_steps=50,
        progress=False,
    )
    sb.tl.assign(adata, unknown=0.05)
    fitted = sb.get.fit(adata).posterior.responsibilities
    np.testing.assert_allclose(adata.obsm["sb_probabilities"], fitted, atol=0.15)  # cells that still moved
    sb.tl.assign(adata, weights=np.ones(30), key_added="one")
    assert np.mean(adata.obsm["one_probabilities"].argmax(1) == fitted.argmax(1)) > 0.95
    new = adata[50:].copy()
    sb.tl.remove(new)
    sb.tl.assign(new, reference=adata, unknown=0.05)
    assert np.mean(new.obsm["sb_probabilities"].argmax(1) == adata.obsm["sb_probabilities"][50:].argmax(1)) > 0.95


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures(adata):
    sb.tl.assign(adata, unknown=0.1)
    ax = sb.pl.assignments(adata, show=False)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["ape", "bee", "cat", "unknown"]
    table = sb.get.assignments(adata)
    rings = [line for line in ax.get_lines() if line.get_marker() == "o"]
    medians = table.groupby("assignment", observed=True)["confidence"].median()
    np.testing.assert_allclose([line.get_xdata()[0] for line in rings], medians, rtol=1e-12)
    n = table["assignment"].value_counts()[labels]
    assert [text.get_text() for text in ax.texts] == [f"n = {value:,}" for value in n]
    ax.figure.canvas.draw()

    ax = sb.pl.assignments(adata, groupby="truth", show=False)
    share = 100 * pd.crosstab(adata.obs["truth"], table["assignment"], normalize="index")
    np.testing.assert_allclose(ax.get_images()[0].get_array(), share.to_numpy(), rtol=1e-12)
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts}
    assert written == {(i, j): f"{share.iloc[i, j]:.0f}" for i, j in np.argwhere(share.to_numpy() >= 1)}
    ax.figure.canvas.draw()
    _, right = plt.subplots()
    assert sb.pl.assignments(adata, ax=right) is right
    with pytest.raises(KeyError, match="none"):
        sb.pl.assignments(adata, groupby="none", show=False)
