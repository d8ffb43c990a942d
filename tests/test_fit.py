"""Fits find what was simulated, say how well they know it, and make sense of real counts."""

import anndata as ad
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import sparse, stats

import scbayes as sb

N_CELLS, N_GENES = 400, 150


def fit(adata, model="nbvcp", parameterization="mean_disp", **settings) -> ad.AnnData:
    sb.tl.fit(adata, model, **({"parameterization": parameterization, "progress": False} | settings))
    return adata


def scores(adata, name: str, truth, key: str = "sb") -> np.ndarray:
    """Truth minus posterior mean in posterior standard deviations, on the log or logit scale."""
    result = sb.get.fit(adata, key)
    marginal = result.canonical[name]
    truth = np.asarray(truth, float)
    z = np.log(truth) if marginal.link == "log" else np.log(truth / (1 - truth))
    return (z - result.squeeze(name, marginal.loc)) / result.squeeze(name, marginal.scale)


def covers(z, *, level: float = 0.95, n_sigma: float = 2.5) -> bool:
    """Whether intervals hold the truth as often as they say, within 0.02 and the error of counting."""
    inside = np.mean(np.abs(z) < stats.norm.ppf((1 + level) / 2))
    error = n_sigma * np.sqrt(level * (1 - level) / np.size(z))
    return level - 0.02 - error <= inside <= level + 0.02 + error


def distance(adata, other) -> dict[str, float]:
    """Largest difference of two fits in each parameter, in posterior standard deviations."""
    one, two = sb.get.fit(adata).canonical, sb.get.fit(other).canonical
    assert set(one) == set(two)
    return {name: float(np.max(np.abs(one[name].loc - two[name].loc) / two[name].scale)) for name in one}


# --- recovery ---------------------------------------------------------------------------------------------------------

MODELS = {
    "nbdm": ("linked", (1.0, 1.2)),
    "zinb": ("mean_disp", (1.0, 1.2)),
    "nbvcp": ("standard", (2.5, 1.2)),
    "zinbvcp": ("odds_ratio", (2.5, 1.2)),
}


@pytest.fixture(scope="module", params=MODELS)
def simulated(request) -> tuple[str, ad.AnnData]:
    model = request.param
    parameterization, log_mean = MODELS[model]
    adata = sb.datasets.simulate(
        model,
        n_cells=N_CELLS,
        n_genes=N_GENES,
        parameterization="mean_disp" if parameterization == "mean_disp" else "standard",
        log_mean=log_mean,
        rng=1,
    )
    return model, fit(adata, model, parameterization)


@pytest.mark.slow
def test_values_are_found(simulated):
    model, adata = simulated
    assert sb.get.fit(adata).converged
    found = sb.get.map(adata)
    mu, r, gate = (adata.varm[name][:, 0] for name in ("mu", "r", "gate"))
    zero_inflated = model.startswith("zi")
    close = 0.15 if zero_inflated else 0.08
    assert np.median(np.abs(np.log(found["composition"] / (mu / mu.sum())))) < close
    assert np.corrcoef(np.log(found["composition"]), np.log(mu))[0, 1] > 0.985
    assert np.corrcoef(np.log(found["r"]), np.log(r))[0, 1] > (0.95 if model == "zinb" else 0.98)
    assert abs(scores(adata, "composition", mu / mu.sum()).mean()) < 0.3
    if "nu" in found:
        nu = adata.obs["nu"].to_numpy()
        assert np.corrcoef(np.log(found["nu"]), np.log(nu))[0, 1] > 0.95
        scale = np.median(nu / found["nu"])  # the data do not tell it
        np.testing.assert_allclose(np.median(mu * scale / found["mu"]), 1, atol=0.08)
        np.testing.assert_allclose(found["p"] / (1 - found["p"]) / scale, 9, rtol=0.15)
    else:
        np.testing.assert_allclose(np.median(found["mu"] / mu), 1, atol=0.05)
    if model == "nbdm":
        np.testing.assert_allclose(found["odds"], 9, rtol=0.05)
    if zero_inflated:
        means = sb.get.map(adata, use_mean=True)["gate"]  # the mode of a wide posterior lies far below
        assert np.corrcoef(means, gate)[0, 1] > 0.4
        assert abs(means.mean() - gate.mean()) < 0.03


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """On shared odds, all of r, composition and odds; on gene-wise dispersion, r and composition."""
    for coordinates in ("standard", "mean_disp"):
        adata = sb.datasets.simulate(
            "nbvcp", n_cells=N_CELLS, n_genes=2 * N_GENES, parameterization=coordinates, log_mean=(2.5, 1.2), rng=5
        )
        fit(adata, parameterization=coordinates)
        mu = adata.varm["mu"][:, 0]
        z = {"composition": scores(adata, "composition", mu / mu.sum()), "r": scores(adata, "r", adata.varm["r"][:, 0])}
        if coordinates == "standard":
            z["odds"] = scores(adata, "odds", adata.obs["odds"])
        for name, value in z.items():
            assert covers(value), f"{coordinates} {name}: {np.mean(np.abs(value) < 1.96):.3f}"
            assert covers(value, level=0.5), f"{coordinates} {name}: {np.mean(np.abs(value) < 0.674):.3f} of 0.5"


def test_covers_can_fail():
    z = np.random.default_rng(0).normal(size=300)
    assert covers(z)
    assert not covers(1.4 * z)
    assert not covers(0.7 * z, level=0.5)


# --- one data set, several ways ---------------------------------------------------------------------------------------


def plain_data() -> ad.AnnData:
    return sb.datasets.simulate("nbvcp", n_cells=N_CELLS, n_genes=N_GENES, log_mean=(2.5, 1.2), rng=2)


@pytest.fixture(scope="module")
def plain() -> ad.AnnData:
    return fit(plain_data())


@pytest.mark.slow
def test_unconstrained_priors_give_nearly_the_same(plain):
    adata = fit(plain_data(), unconstrained=True)
    assert max(distance(adata, plain).values()) < 0.3
    assert {prior["family"] for prior in sb.get.fit(adata).facts["priors"].values()} == {"Normal"}


@pytest.mark.slow
def test_coordinates_of_the_same_model_agree():
    """standard, linked and odds_ratio are one model, up to their priors."""
    fits = [
        fit(plain_data(), parameterization=name, unconstrained=name == "linked")
        for name in ("standard", "linked", "odds_ratio")
    ]
    for one in fits:
        for name in ("composition", "odds", "nu"):
            a, b = sb.get.map(one)[name], sb.get.map(fits[0])[name]
            np.testing.assert_allclose(np.log(a / b), 0, atol=0.05, err_msg=name)
            spread = [sb.get.fit(f).canonical[name].scale for f in (one, fits[0])]
            np.testing.assert_allclose(spread[0], spread[1], rtol=0.1)


@pytest.mark.slow
def test_pooling_genes_keeps_the_composition_of_the_others(plain):
    adata = plain_data()
    adata.var["wanted"] = np.arange(N_GENES) % 3 == 0
    fit(adata, mask_var="wanted")
    chosen = adata.var["wanted"].to_numpy()
    whole, part = sb.get.fit(plain).canonical, sb.get.fit(adata).canonical
    for name in ("composition", "mu", "r"):
        here = whole[name].loc[0, chosen], whole[name].scale[0, chosen]
        assert np.abs((part[name].loc[0] - here[0]) / here[1]).max() < 0.5, name
        np.testing.assert_allclose(part[name].scale[0], here[1], rtol=0.15)
    total = np.asarray(adata.X.sum(0)).ravel()
    share = sb.get.map(adata, use_mean=True)["composition"].sum()
    np.testing.assert_allclose(share, total[chosen].sum() / total.sum(), atol=0.02)
    assert np.isnan(adata.varm["sb_loc"][~chosen]).all()


@pytest.mark.slow
def test_priors_that_are_given_matter(plain):
    adata = plain_data()
    fit(adata, priors={"r": dist.LogNormal(np.log(0.05), 0.005)}, key_added="tight")
    result = sb.get.fit(adata, "tight")
    np.testing.assert_allclose(np.log(sb.get.map(adata, "tight")["r"] / 0.05), 0, atol=0.05)
    assert result.facts["priors"]["r"] == {"family": "LogNormal", "loc": np.log(0.05), "scale": 0.005}
    assert result.facts["learned"] == ["mu", "nu"]
    assert sb.get.fit(plain).facts["learned"] == ["mu", "r", "nu"]
    assert np.std(np.log(sb.get.map(plain)["r"])) > 0.5


@pytest.mark.slow
def test_total_mrna_sets_the_scale_of_mu_and_nu_and_nothing_else(plain):
    adata = plain_data()
    fit(adata, priors={"total_mrna": 1e6}, key_added="more")
    fit(adata, priors={"total_mrna": dist.LogNormal(np.log(1e6), 0.5)}, key_added="unsure")
    one, five, unsure = sb.get.map(plain), sb.get.map(adata, "more"), sb.get.map(adata, "unsure", use_mean=True)
    np.testing.assert_allclose(five["mu"] / one["mu"], 5, rtol=1e-2)
    np.testing.assert_allclose(five["nu"] / one["nu"], 0.2, rtol=1e-2)
    for name in ("r", "composition"):
        np.testing.assert_allclose(five[name] / one[name], 1, rtol=1e-2)
    np.testing.assert_allclose(
        unsure["mu"] / sb.get.map(adata, "more", use_mean=True)["mu"], np.exp(0.5**2 / 2), rtol=1e-3
    )
    spread = {key: sb.get.fit(adata, key).canonical for key in ("more", "unsure")}
    for name in ("mu", "nu"):
        expected = np.sqrt(spread["more"][name].scale ** 2 + 0.25)
        np.testing.assert_allclose(spread["unsure"][name].scale, expected, rtol=1e-6)
    for name in ("r", "composition"):
        np.testing.assert_allclose(spread["unsure"][name].scale, spread["more"][name].scale, rtol=1e-6)


@pytest.mark.slow
def test_empty_cells_and_genes_are_kept_and_get_the_prior(plain):
    small = plain_data()
    x = sparse.block_diag([small.X, sparse.csr_matrix((3, 4), dtype=np.float32)], format="csr")
    adata = fit(ad.AnnData(x))
    assert sb.get.fit(adata).converged
    found, prior = sb.get.fit(adata).canonical, sb.get.fit(adata).facts["priors"]
    for name in ("mu", "r", "composition"):
        z = (found[name].loc[0, :N_GENES] - sb.get.fit(plain).canonical[name].loc[0]) / found[name].scale[0, :N_GENES]
        assert np.abs(z).max() < 0.5, name
    # nothing was seen: r is as before, abundance below that of any gene with a count, both as wide as can be
    np.testing.assert_allclose(found["r"].loc[0, N_GENES:], prior["r"]["loc"], atol=0.3 * prior["r"]["scale"])
    np.testing.assert_allclose(found["r"].scale[0, N_GENES:], prior["r"]["scale"], rtol=0.2)
    expected_counts = sb.get.map(adata)["composition"][N_GENES:] * x.sum()
    assert (expected_counts < 2).all()
    assert found["mu"].scale[0, N_GENES:].min() > found["mu"].scale[0, :N_GENES].max()
    empty, seen = slice(N_CELLS, None), slice(None, N_CELLS)
    assert found["nu"].loc[empty].max() < found["nu"].loc[seen].min()
    assert found["nu"].scale[empty].min() > 0.4 * prior["nu"]["scale"]
    assert np.ptp(found["nu"].loc[empty]) < 0.1


# --- batches ----------------------------------------------------------------------------------------------------------


def batched_data(model: str) -> ad.AnnData:
    """Two batches with their own abundances and depths: the second captures less, or expresses more of these genes."""
    log_mean = (1.5, 1.0) if model == "nbdm" else (3.0, 1.0)
    adata = sb.datasets.simulate(
        model, n_cells=N_CELLS, n_genes=200, n_batches=2, batch_sd=0.5, log_mean=log_mean, rng=4
    )
    effect = np.diff(adata.varm["batch_effect"]).ravel()
    adata = adata[:, np.argsort(effect)[-N_GENES:]].copy()
    if model == "nbvcp":
        x = np.asarray(adata.X.todense()).astype(int)
        second = (adata.obs["batch"] == "1").to_numpy()
        x[second] = np.random.default_rng(0).binomial(x[second], 0.4)
        adata.X = sparse.csr_matrix(x.astype(np.float32))
    return adata


def shares(adata) -> np.ndarray:
    """Composition of the truth, batch by batch."""
    abundance = adata.varm["mu"] * np.exp(adata.varm["batch_effect"])
    return (abundance / abundance.sum(0)).T


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parameterization", "per_batch"),
    [
        ("nbvcp", "mean_disp", None),
        ("nbvcp", "standard", None),
        ("nbdm", "standard", None),
        ("nbdm", "linked", ("mu", "p")),
    ],
)
def test_batches_have_their_own_abundances(model, parameterization, per_batch):
    adata = fit(batched_data(model), model, parameterization, batch_key="batch", per_batch=per_batch)
    result, found = sb.get.fit(adata), sb.get.map(adata)
    assert result.config.per_batch == (per_batch or (("r",) if parameterization == "standard" else ("mu",)))
    assert found["composition"].shape == (2, N_GENES)
    z = scores(adata, "composition", shares(adata))
    assert covers(z), np.mean(np.abs(z) < 1.96)
    effect = np.diff(adata.varm["batch_effect"]).ravel()
    assert np.corrcoef(np.diff(np.log(found["composition"]), axis=0)[0], effect)[0, 1] > 0.9
    assert found["r"].shape == ((N_GENES,) if parameterization == "mean_disp" else (2, N_GENES))
    means = np.stack([adata[adata.obs["batch"] == b].X.mean(0).A1 for b in ("0", "1")])
    if model == "nbdm":  # mu is the mean of the counts
        assert abs(np.log(means.sum(1)[1] / means.sum(1)[0])) > 0.2
        well = means.min(0) > 0.5
        np.testing.assert_allclose(np.log(found["mu"] / means)[:, well], 0, atol=0.4)
        assert abs(np.log(found["mu"] / means)[:, well].mean(1)).max() < 0.02


# --- real counts ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_counts():
    adata = sb.datasets.pancreas()
    adata = adata[adata.obs["cell_type"] == "beta"][:400].copy()
    sb.pp.prepare_counts(adata, min_gene_counts=5, coverage=0.8)
    fit(adata)
    result, found = sb.get.fit(adata), sb.get.map(adata, use_mean=True)
    assert result.converged
    assert result.facts["mask_var"] == "sb_mask"
    x = np.asarray(adata.layers["counts"].todense())
    chosen, total = adata.var["sb_mask"].to_numpy(), x.sum(1)
    assert 200 < chosen.sum() < adata.n_vars
    assert np.corrcoef(np.log(found["nu"]), np.log(total))[0, 1] > 0.97
    assert np.corrcoef(np.log(found["composition"]), np.log(x.sum(0)[chosen]))[0, 1] > 0.98
    assert found["composition"].sum() < 1
    np.testing.assert_allclose(found["composition"].sum(), 0.8, atol=0.03)
    top = adata.var_names[chosen][np.argmax(found["composition"])]
    assert top == "INS"
    # the share of zeros of each gene, which nothing was fitted to, is that of the counts
    nu, mu, r = found["nu"], found["mu"], sb.get.map(adata)["r"]
    zeros = np.mean((1 + nu[:, None] * mu / r) ** -r, 0)
    poisson = np.mean(np.exp(-nu[:, None] * mu), 0)
    observed = np.mean(x[:, chosen] == 0, 0)
    assert np.abs(zeros - observed).max() < 0.12
    assert np.abs(zeros - observed).mean() < 0.5 * np.abs(poisson - observed).mean()
