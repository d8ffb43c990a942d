"""Mixtures: likelihood, weighted summaries, scores of cells and genes, and fits from counts to posteriors."""

import itertools
import json
import subprocess
import sys
from functools import cache
from typing import NamedTuple

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.handlers import seed, trace
from scipy import integrate, sparse, stats
from scipy.special import digamma, expit, logit, logsumexp

import scbayes as sb
from scbayes.counts import Counts, _counts
from scbayes.models import Evidence, Model, ModelConfig, NegativeBinomialCounts, evidence_of
from scbayes.models._at_posterior import evidence_at
from scbayes.models._components import Labels, marginal_scores, responsibilities
from scbayes.models._config import MODELS, PARAMETERIZATIONS
from scbayes.models._evidence import RISE
from scbayes.models._likelihood import MixtureOfCounts
from scbayes.models._model import Inputs
from scbayes.models._parameters import Parameters, score_cells, score_genes
from scbayes.models._posterior import Posterior
from scbayes.models._priors import check_priors, default_priors
from scbayes.state import read_fit
from scbayes.stats._precision import double

# --- by hand: counts of 40 cells and 6 genes in 2 batches and 3 components --------------------------------------------

N_CELLS, N_GENES, N_BATCHES, K = 40, 6, 2, 3
TOTAL_MRNA = 1500.0
COMBOS = list(itertools.product(MODELS, PARAMETERIZATIONS))
#: Models whose cells are seen through interpolation.
INTERPOLATED = [("nbvcp", "mean_disp"), *(("zinbvcp", coordinates) for coordinates in PARAMETERIZATIONS)]
every_model = pytest.mark.parametrize(("name", "coordinates"), COMBOS)


class Hand(NamedTuple):
    """A mixture at parameters made by hand, and counts with all that is difficult about counts."""

    model: Model
    z: dict[str, np.ndarray]  # log or logit
    counts: Counts
    u: np.ndarray
    membership: np.ndarray

    def likelihood(self, shift: float = 0.0) -> NegativeBinomialCounts:
        values = {name: jnp.asarray(value) for name, value in constrained(self.z, shift).items()}
        return self.model.likelihood(values, np.log(TOTAL_MRNA), jnp.asarray(self.counts.batch))

    def log_p(self, shift: float = 0.0) -> np.ndarray:
        """SciPy's log probability of each count under each component, (n_cells, K, n_genes)."""
        return brute_force(self.model.config, constrained(self.z, shift), self.counts.batch, self.u)

    def inputs(self, counts) -> Inputs:
        priors = default_priors(self.model.config)
        return Inputs(counts, priors, jnp.log(TOTAL_MRNA), jnp.asarray(self.counts.batch), self.posterior(0.1))

    def posterior(self, scale: float = 0.0) -> Posterior:
        """At the parameters; without width of the genes."""
        gene = np.stack([self.z[site][copy] for site, copy in self.model.columns], -1)
        n = gene.shape[-1]
        glob = np.concatenate([self.z[site] for site in self.model.config.global_sites] or [np.zeros(0)])
        cell = self.z.get("nu", np.zeros(0))
        parts = gene, np.zeros((*gene.shape, n)), np.zeros((*gene.shape, self.model.n_factors)), glob
        return Posterior(*parts, scale + 0 * glob, cell, scale + 0 * cell, np.ones(K), self.membership)


def constrained(z: dict, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Parameters at log or logit coordinates; those of genes moved by ``shift``."""
    moved = {site: x if site == "nu" else x + shift for site, x in z.items()}
    return {site: expit(x) if site in ("p", "gate") else np.exp(x) for site, x in moved.items()}


def brute_force(config: ModelConfig, values: dict, batch: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The models of the documentation, cell by cell and component by component."""
    log_p = np.zeros((len(u), config.n_components, u.shape[1]))
    for c, k in itertools.product(range(len(u)), range(config.n_components)):
        own = {}
        for site, value in values.items():
            if site != "nu":
                of_batch = value[batch[c] if len(value) > 1 else 0]
                own[site] = of_batch[k] if site in config.gene_sites else of_batch
        match config.parameterization:
            case "standard":
                r = own["r"]
                odds = own["p"] / (1 - own["p"]) if "p" in own else TOTAL_MRNA / r.sum()
            case "linked":
                odds = own["p"] / (1 - own["p"])
                r = own["mu"] / odds
            case "odds_ratio":
                odds, r = 1 / own["phi"], own["mu"] * own["phi"]
            case "mean_disp":
                odds, r = own["mu"] / own["r"], own["r"]
        odds = odds * (values["nu"][c] if config.capture else 1.0)
        log_p[c, k] = gated(stats.nbinom.logpmf(u[c], r, 1 / (1 + odds)), u[c], own.get("gate"))
    return log_p


def gated(log_p: np.ndarray, u: np.ndarray, gate) -> np.ndarray:
    if gate is None:
        return log_p
    opened = np.log1p(-gate) + log_p
    return np.where(u == 0, np.logaddexp(np.log(gate), opened), opened)


@cache
def by_hand(name: str, coordinates: str) -> Hand:
    rng = np.random.default_rng(COMBOS.index((name, coordinates)))
    config = ModelConfig(
        name, coordinates, n_batches=N_BATCHES, per_batch=("r" if coordinates == "standard" else "mu",)
    )
    model = Model.of(ModelConfig(**config.to_json() | {"n_components": K}))
    shape = (N_BATCHES, K, N_GENES)
    r, mu = rng.normal(0, 1, shape), rng.normal(2, 1, shape)
    r[..., 0], mu[..., 0] = np.log(0.02), np.log(200)
    z = {"r": r, "mu": mu, "gate": logit(rng.beta(1, 5, shape)), "p": logit([0.7, 0.4]), "phi": np.log([0.5, 2.0])}
    z = {site: z[site][: model.config.copies(site)] for site in model.config.sites if site != "nu"}
    if model.config.capture:
        z["nu"] = rng.uniform(np.log(0.05), np.log(0.5), N_CELLS)
    batch = rng.integers(0, N_BATCHES, N_CELLS).astype(np.int32)
    u = rng.negative_binomial(0.5, 0.03, (N_CELLS, N_GENES)) * (rng.random((N_CELLS, N_GENES)) < 0.6)
    u[2:8, 1] = [RISE - 1, RISE, RISE + 1, 63, 64, 65]  # where the code changes its way
    u[2:4, 2], u[0], u[:, 3] = [900, 901], 0, 0  # large counts, an empty cell, an empty gene
    membership = rng.dirichlet(np.ones(K), N_CELLS)
    membership[:10] = np.eye(K)[rng.integers(0, K, 10)]
    return Hand(model, z, Counts(sparse.csr_array(u), batch, N_BATCHES), u, membership)


# --- likelihood -------------------------------------------------------------------------------------------------------


@every_model
def test_dense_likelihood_is_that_of_scipy(name, coordinates):
    this = by_hand(name, coordinates)
    weights = np.array([0.5, 0.3, 0.2])
    expected = this.log_p()
    with double():
        likelihood = this.likelihood()
        mixture = MixtureOfCounts(likelihood, jnp.asarray(weights))
        of_component = [mixture.of_component(k).cell_log_prob(this.u) for k in range(K)]
        found = mixture.log_prob(jnp.asarray(this.u))
        given = mixture.of_component(np.arange(N_CELLS) % K).cell_log_prob(this.u)
    np.testing.assert_allclose(np.stack(of_component, 1), expected.sum(2), rtol=1e-9)
    np.testing.assert_allclose(found, logsumexp(expected.sum(2) + np.log(weights), 1).sum(), rtol=1e-10)
    np.testing.assert_allclose(given, expected.sum(2)[np.arange(N_CELLS), np.arange(N_CELLS) % K], rtol=1e-9)


def test_sampled_counts():
    rng = np.random.default_rng(0)
    r, mean = rng.gamma(2, 1, (4, 3)), rng.gamma(2, 2, (4, 3))  # two batches of two components, three genes
    closed = rng.beta(1, 3, (4, 3))
    nu, first, weights = np.array([1.0, 0.4]), np.array([2, 0]), np.array([0.7, 0.3])
    parts = jnp.log(r), jnp.log(mean / r), jnp.log(nu), jnp.asarray(logit(closed))
    mixture = MixtureOfCounts(NegativeBinomialCounts(*parts, jnp.asarray(first)), jnp.asarray(weights))
    n = 20_000
    u = np.asarray(jax.jit(lambda key: mixture.sample(key, (n,)))(jax.random.key(1)), float)
    assert u.shape == (n, 2, 3)
    for shape in ((), (2, 5)):
        drawn = jax.eval_shape(lambda key, shape=shape: mixture.sample(key, shape), jax.random.key(2))
        assert drawn.shape == (*shape, 2, 3)
    group = first[:, None] + np.arange(2)  # (cell, component)
    m, size, kept = mean[group] * nu[:, None, None], r[group], 1 - closed[group]  # (cell, component, gene)
    product = np.einsum("k,ckg,ckh->cgh", weights, kept * m, kept * m)  # cells belong to one component in all genes
    square = np.einsum("k,ckg->cg", weights, kept * (m + m**2 / size + m**2))
    product[:, np.arange(3), np.arange(3)] = square

    def off(x, expected):
        return np.abs(x.mean(0) - expected) / (x.std(0) / np.sqrt(n))  # in standard errors

    assert off(u, np.einsum("k,ckg->cg", weights, kept * m)).max() < 4.5
    assert off(u[..., :, None] * u[..., None, :], product).max() < 4.5
    assert off(u == 0, np.einsum("k,ckg->cg", weights, 1 - kept + kept * (1 + m / size) ** -size)).max() < 4.5
    between = np.corrcoef(u.reshape(n, 6), rowvar=False)[:3, 3:]
    assert np.abs(between).max() < 5 / np.sqrt(n)  # cells are drawn independently


@pytest.mark.parametrize(
    ("name", "coordinates"),
    [("nbdm", "standard"), ("zinbvcp", "odds_ratio")],
)
def test_program_of_dense_counts(name, coordinates):
    this = by_hand(name, coordinates)
    config = this.model.config
    with double():
        drawn = trace(seed(this.model.program, 0)).get_trace(this.inputs(None))
        seen = trace(seed(this.model.program, 0)).get_trace(this.inputs(jnp.asarray(this.u)))
        guide = trace(seed(this.model.guide, 0)).get_trace(this.inputs(jnp.asarray(this.u)))
        sites = [site for site in seen if seen[site]["type"] == "sample"]
        found = {site: float(seen[site]["fn"].log_prob(seen[site]["value"]).sum()) for site in sites}
    assert set(sites) == {*config.sites, "weights", "counts"}
    assert {site for site in guide if not site.startswith("_") and guide[site]["type"] == "sample"} == {
        *config.sites,
        "weights",
    }
    for site in config.gene_sites:
        assert drawn[site]["value"].shape == (config.copies(site), K, N_GENES)
        assert guide[site]["value"].shape == (config.copies(site), K, N_GENES)
    for site in config.global_sites:
        assert drawn[site]["value"].shape == (config.copies(site),)
    assert drawn["weights"]["value"].shape == guide["weights"]["value"].shape == (K,)
    assert drawn["counts"]["value"].shape == this.u.shape
    assert np.asarray(drawn["counts"]["value"]).min() >= 0
    assert np.isfinite(list(found.values())).all()
    values = {site: np.asarray(seen[site]["value"]) for site in config.sites}
    log_p = brute_force(config, values, this.counts.batch, this.u).sum(2)
    expected = logsumexp(log_p + np.log(seen["weights"]["value"]), 1).sum()
    np.testing.assert_allclose(found["counts"], expected, rtol=1e-8)


# --- weighted summaries -----------------------------------------------------------------------------------------------


def weighted(this: Hand, counts: Counts | None = None) -> Evidence:
    counts = this.counts if counts is None else counts
    return evidence_of(counts.weigh(counts.summarise(), this.membership))


@pytest.mark.parametrize("format", ["csr", "csc", "dense", "float", "blocks"])
def test_weighted_summary(format, monkeypatch):
    this = by_hand("nbvcp", "linked")
    x = {"csc": sparse.csc_array(this.u), "dense": this.u, "float": sparse.csr_array(this.u.astype(np.float32))}
    if format == "blocks":
        monkeypatch.setattr("scbayes.counts._blocks.BLOCK_BYTES", 400)
    counts = Counts(x.get(format, this.u), this.counts.batch, N_BATCHES)
    assert len(list(counts.blocks())) > 3 or format != "blocks"
    summary = counts.summarise()
    found = counts.weigh(summary, this.membership)
    assert (found.n_components, found.n_groups) == (K, N_BATCHES * K)
    expected = {}
    for c, g in np.argwhere(this.u):
        for k in range(K):
            row = (this.counts.batch[c] * K + k) * N_GENES + g
            expected[row, this.u[c, g]] = expected.get((row, this.u[c, g]), 0) + this.membership[c, k]
    pairs = sorted(expected)
    np.testing.assert_array_equal(np.stack([found.row, found.count], 1), pairs)
    np.testing.assert_allclose(found.cells, [expected[pair] for pair in pairs], rtol=1e-12, atol=1e-15)
    group = np.eye(N_BATCHES)[this.counts.batch]
    cells = np.einsum("cb,ck->bk", group, this.membership)
    np.testing.assert_allclose(found.group_cells, cells.ravel(), rtol=1e-12)
    total = np.einsum("cb,ck,cg->bkg", group, this.membership, this.u)
    np.testing.assert_allclose(found.gene_total, total.reshape(-1, N_GENES), rtol=1e-12)
    seen = np.einsum("cb,ck,cg->bkg", group, this.membership, this.u > 0)
    np.testing.assert_allclose(found.gene_detected, seen.reshape(-1, N_GENES), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(summary.membership, np.ones((N_CELLS, 1)))  # what was weighed is as before
    assert summary.cells.dtype == np.int64


def test_survivors_of_weighted_cells():
    this = by_hand("nbvcp", "linked")
    evidence = weighted(this)
    group = np.eye(N_BATCHES)[this.counts.batch]
    above = this.u[..., None] > np.arange(RISE)
    expected = np.einsum("cb,ck,cgj->bkgj", group, this.membership, above).reshape(-1, RISE)
    found = np.zeros_like(expected)
    np.add.at(found, (np.asarray(evidence.rise_row), np.asarray(evidence.rise_j, int)), evidence.rise_cells)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # JAX's own precision
    cells = np.asarray(evidence.tail_cells)
    assert (np.asarray(evidence.tail_count)[cells > 0] > RISE).all()


def anchored(this: Hand) -> Evidence:
    if (this.model.config.model, this.model.config.parameterization) not in INTERPOLATED:
        return weighted(this)
    priors = default_priors(this.model.config)
    return evidence_at(this.model, this.counts, this.counts.summarise(), priors, this.posterior(), np.log(TOTAL_MRNA))


@every_model
def test_likelihood_of_weighted_cells(name, coordinates):
    this = by_hand(name, coordinates)
    tolerance = {"rtol": 0, "atol": 1e-3} if (name, coordinates) in INTERPOLATED else {"rtol": 1e-10}
    with double():
        evidence = anchored(this)
        for shift in (0.0, 0.2):  # also away from the genes' parameters at which cells were anchored
            expected = np.einsum("ck,ckg->", this.membership, this.log_p(shift))
            np.testing.assert_allclose(this.likelihood(shift).log_prob(evidence), expected, **tolerance)


@pytest.mark.parametrize(("name", "coordinates"), [("nbdm", "standard"), ("nbvcp", "linked"), *INTERPOLATED[::2]])
def test_slopes_of_weighted_cells(name, coordinates):
    this = by_hand(name, coordinates)
    h = 1e-5
    with double():
        evidence = anchored(this)

        def total(z):
            values = {s: jax.nn.sigmoid(x) if s in ("p", "gate") else jnp.exp(x) for s, x in z.items()}
            return this.model.likelihood(values, np.log(TOTAL_MRNA), jnp.asarray(this.counts.batch)).log_prob(evidence)

        gradient = jax.jit(jax.grad(total))({site: jnp.asarray(x) for site, x in this.z.items()})

    def differences(site: str, step) -> np.ndarray:
        up, down = (this._replace(z=this.z | {site: this.z[site] + sign * step}).log_p() for sign in (1, -1))
        return np.einsum("ck,ckg->c", this.membership, up - down) / (2 * h)

    for site, slope in gradient.items():
        assert np.isfinite(slope).all(), site
        at = (0, 1, 2)[: np.ndim(slope)]
        if site == "nu":  # each cell's own, at its anchor
            np.testing.assert_allclose(slope, differences(site, h), atol=0.05, rtol=1e-3)
            continue
        step = np.zeros_like(this.z[site])
        step[at] = h
        assert slope[at] == pytest.approx(differences(site, step).sum(), rel=1e-4, abs=5e-3), site


# --- scores of cells and genes ----------------------------------------------------------------------------------------

#: Counts, sizes and odds from one end to the other.
COUNTS = [0, 1, 2, 8, 9, 40, 63, 64, 65, 66, 300, 10_000]


def exact_log_p(u: int, r, odds, gate=None):
    """Sum of logarithms: exact where differences of ln Gamma are not."""
    j = np.arange(u)
    r, odds = np.broadcast_arrays(np.asarray(r, float), odds)
    rise = (np.log(r[..., None] + j) - np.log1p(j)).sum(-1)
    log_p = rise + u * (np.log(odds) - np.log1p(odds)) - r * np.log1p(odds)
    return log_p if gate is None else gated(log_p, u, gate)


def random_parameters(rng, *, gate: bool, shared: bool = False, n_cells: int = 30) -> tuple[Parameters, Counts]:
    shape = (2, 3, 25)
    size, log_odds = np.exp(rng.normal(0, 1.5, shape)), rng.normal(0, 1.5, shape)
    log_odds = np.repeat(log_odds[..., :1], 25, -1) if shared else log_odds
    closed = rng.beta(0.3, 2, shape) if gate else None
    log_nu = rng.normal(-1, 1, n_cells)
    u = rng.choice(COUNTS[:-2], (n_cells, 25), p=[0.55, *[0.05] * 9]) * 1
    u[1], u[3, 4:6] = 0, [300, 10_000]
    batch = rng.integers(0, 2, n_cells).astype(np.int32)
    return Parameters(size, log_odds, closed, rng.dirichlet(np.ones(3)), log_nu), Counts(sparse.csr_array(u), batch, 2)


def each_log_p(parameters: Parameters, counts: Counts) -> np.ndarray:
    """(n_cells, K, n_genes), by SciPy."""
    u = counts.x.toarray()[:, None]
    size, log_odds = parameters.size[counts.batch], parameters.log_odds[counts.batch]
    log_p = stats.nbinom.logpmf(u, size, 1 / (1 + np.exp(log_odds + parameters.log_nu[:, None, None])))
    return log_p if parameters.gate is None else gated(log_p, u, parameters.gate[counts.batch])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_scores_of_cells(gate, shared, weighted):
    rng = np.random.default_rng(4)
    parameters, counts = random_parameters(rng, gate=gate, shared=shared)
    gene_weights = rng.uniform(0, 2, 25) if weighted else None
    weights = np.ones(25) if gene_weights is None else gene_weights
    found = score_cells(parameters, counts, gene_weights)
    # exact but for the zeros, which are interpolated; the error of a derivative grows towards the ends of the cells
    np.testing.assert_allclose(
        found.value, each_log_p(parameters, counts) @ weights, rtol=1e-9, atol=2e-6 if gate else 1e-7
    )
    h = 1e-3
    at = {i: score_cells(parameters._replace(log_nu=parameters.log_nu + i * h), counts, gene_weights) for i in (-1, 1)}
    value = {
        i: each_log_p(parameters._replace(log_nu=parameters.log_nu + i * h), counts) @ weights for i in (-2, -1, 1, 2)
    }
    slope = (8 * (value[1] - value[-1]) - value[2] + value[-2]) / (12 * h)
    np.testing.assert_allclose(found.slope, slope, rtol=1e-5, atol=2e-3 if gate else 1e-4)
    bend = (at[1].slope - at[-1].slope) / (2 * h)
    np.testing.assert_allclose(found.bend, bend, rtol=0.05 if gate else 1e-4, atol=1e-2)


@pytest.mark.parametrize("gate", [False, True])
def test_scores_of_genes(gate):
    rng = np.random.default_rng(5)
    parameters, counts = random_parameters(rng, gate=gate)
    gamma = rng.dirichlet(np.ones(3), 30)
    gamma[:9] = np.eye(3)[rng.integers(0, 3, 9)]
    found = score_genes(parameters, counts, gamma)
    expected = np.einsum("ck,ckg->kg", gamma, each_log_p(parameters, counts))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7)
    of_cells = score_cells(parameters, counts).value
    np.testing.assert_allclose(found.sum(1), np.sum(gamma * of_cells, 0), rtol=1e-10)


@pytest.mark.parametrize("gate", [None, 1e-12, 1e-3, 0.5, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("size", [1e-8, 1e-3, 0.7, 1e4, 1e8])
def test_scores_at_the_ends(size, gate):
    """One gene a cell: no error can hide behind another."""
    odds = np.array([1e-12, 1e-6, 1e-2, 1.0, 30.0, 1e6])
    u = np.diag(COUNTS)
    n = len(COUNTS)
    for odd in odds:
        full = np.full((1, 2, n), size)
        closed = None if gate is None else np.full((1, 2, n), gate)
        parameters = Parameters(full, np.full((1, 2, n), np.log(odd)), closed, np.ones(2) / 2, np.zeros(n))
        zero = exact_log_p(0, size, odd, gate)
        expected = np.array([exact_log_p(count, size, odd, gate) for count in COUNTS]) + (n - 1) * zero
        found = score_cells(parameters, Counts(u))
        # ln Gamma of large sizes has an absolute error
        atol = 1e-9 * max(1, abs(n * zero)) + (2e-16 * size * np.log(size + 10) * 20 if size > 1 else 0)
        np.testing.assert_allclose(found.value, np.stack([expected] * 2, 1), rtol=1e-9, atol=atol)
        of_genes = score_genes(parameters, Counts(u), np.ones((n, 2)))
        np.testing.assert_allclose(of_genes, np.stack([expected] * 2), rtol=1e-9, atol=atol)
        assert np.isfinite(found.slope).all()
        assert np.isfinite(found.bend).all()


@pytest.mark.parametrize(("gate", "off"), [(1e-9, 0.02), (1e-4, 1e-3), (0.02, 1e-4), (0.6, 1e-6)])
def test_zeros_over_a_wide_range_of_cells(gate, off):
    """Probabilities of zeros are interpolated in ln nu."""
    rng = np.random.default_rng(6)
    size = np.exp(rng.uniform(np.log(1e-3), np.log(300), (1, 2, 25)))
    log_nu = np.linspace(-7, 1.5, 300)
    mean = np.exp(rng.normal(2, 1.5, (1, 2, 25)))
    parameters = Parameters(size, np.log(mean / size), np.full((1, 2, 25), gate), np.ones(2) / 2, log_nu)
    counts = Counts(sparse.csr_array((300, 25), dtype=np.int64))
    np.testing.assert_allclose(score_cells(parameters, counts).value, each_log_p(parameters, counts).sum(2), atol=off)


@pytest.mark.parametrize("n_threads", [1, 3, 64])
def test_scores_do_not_depend_on_threads_and_blocks(n_threads, monkeypatch):
    parameters, counts = random_parameters(np.random.default_rng(7), gate=True)
    expected = score_cells(parameters, counts)
    monkeypatch.setattr(_counts, "N_THREADS", n_threads)
    monkeypatch.setattr("scbayes.counts._blocks.BLOCK_BYTES", 500)
    blocks = Counts(counts.x.toarray(), counts.batch, 2)
    assert len(list(blocks.blocks())) > 3
    for found, value in zip(score_cells(parameters, blocks), expected, strict=True):
        np.testing.assert_array_equal(found, value)


# --- responsibilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [dist.LogNormal(-2.0, 1.2), dist.Beta(2.0, 15.0)], ids=["log-normal", "beta"])
@pytest.mark.parametrize("gate", [False, True])
def test_marginal_scores_are_integrals(gate, prior):
    """Components that are far apart in few genes, so that they are not certain; totals differ a little."""
    rng = np.random.default_rng(8)
    n_cells, n_genes = 45, 30
    fold = np.exp(rng.normal(0, 0.4, (3, n_genes))) * np.array([1.0, 1.3, 0.8])[:, None]
    mean = np.exp(rng.normal(1.5, 1, n_genes)) * fold
    size = np.exp(rng.normal(0, 0.5, (3, n_genes)))
    closed = rng.beta(1, 9, (3, n_genes)) if gate else None
    true, of_cell = np.exp(rng.normal(-2, 0.4, n_cells)), np.arange(n_cells) % 3
    u = rng.poisson(rng.gamma(size[of_cell]) * mean[of_cell] / size[of_cell] * true[:, None])
    x = np.linspace(-8, -1e-9, 1501)
    reference = stats.beta(2, 15) if isinstance(prior, dist.Beta) else stats.lognorm(1.2, scale=np.exp(-2))
    joint = np.zeros((n_cells, 3, len(x)))
    for k in range(3):
        fail = 1 / (1 + (mean / size)[k] * np.exp(x)[:, None])
        log_p = stats.nbinom.logpmf(u[:, None], size[k], fail)
        log_p = gated(log_p, u[:, None], None if closed is None else closed[k])
        joint[:, k] = log_p.sum(2) + reference.logpdf(np.exp(x)) + x
    top = joint.max(2)
    exact = np.log(integrate.trapezoid(np.exp(joint - top[..., None]), x)) + top
    weights = np.array([3.0, 5.0, 2.0])
    near = x[joint[np.arange(n_cells), of_cell].argmax(1)]
    gates = None if closed is None else closed[None]
    parameters = Parameters(size[None], np.log(mean / size)[None], gates, weights / 10, near)
    found = marginal_scores(parameters, Counts(u), prior, unconstrained=False) + np.log(2 * np.pi) / 2
    likely = exact > exact.max(1, keepdims=True) - 15
    assert likely.sum(1).mean() > 2
    assert np.abs(found - exact)[likely].max() < 0.3
    assert np.abs(found - exact)[likely].mean() < 0.06
    joint = exact + digamma(weights)
    expected = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    np.testing.assert_allclose(responsibilities(found, weights, None), expected, atol=0.05)


def test_labels_in_responsibilities():
    rng = np.random.default_rng(9)
    scores, weights = rng.normal(-500, 4, (60, 3)), np.array([20.0, 30.0, 13.0])
    code = rng.integers(-1, 3, 60)
    log_weights = digamma(weights) - digamma(63)
    for trust in (0.9, 1.0):
        found = responsibilities(scores, weights, Labels(code, trust))
        for c in range(60):
            factor = np.ones(3) if code[c] < 0 else np.where(np.arange(3) == code[c], trust, (1 - trust) / 2)
            expected = np.exp(scores[c] - scores[c].max() + log_weights) * factor
            np.testing.assert_allclose(found[c], expected / expected.sum(), atol=1e-5)
    np.testing.assert_array_equal(found[code >= 0], np.eye(3)[code[code >= 0]])
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)
    assert ((found == 0) | (found > 9e-7)).all()


# --- fits -------------------------------------------------------------------------------------------------------------

#: Fits of small data whose components are far apart: how the data are drawn, and how they are fitted.
VARIANTS = {
    "capture": ({"parameterization": "mean_disp", "dispersion": (0.5, 0.6)}, {}),
    "shared": ({"p": 0.8, "log_mean": (0.5, 1)}, {"parameterization": "standard"}),
    "batches": ({"n_batches": 2}, {"parameterization": "linked", "batch_key": "batch", "mask_var": "wanted"}),
    "gate": ({"parameterization": "mean_disp", "gate": (2, 8)}, {"unconstrained": True}),
}
MODEL = {"capture": "nbvcp", "shared": "nbdm", "batches": "nbvcp", "gate": "zinbvcp"}
N_FITTED = {"batches": 60}


@cache
def fitted_once(name: str) -> ad.AnnData:
    drawn, settings = VARIANTS[name]
    shape = {"n_cells": 400, "n_genes": 80, "n_components": 3, "component_lfc": (0.5, 1.5), "log_mean": (2, 1)}
    adata = sb.datasets.simulate(MODEL[name], **shape | drawn, rng=0)
    adata.var["wanted"] = np.arange(80) < 60
    fit(adata, model=MODEL[name], **settings)
    return adata


def fit(adata, **settings) -> ad.AnnData | None:
    groups = {"n_components": 3} if settings.keys().isdisjoint({"labels_key", "init"}) else {}
    return sb.tl.fit(adata, **{"progress": False} | groups | settings)


@pytest.fixture(params=VARIANTS)
def any_fit(request) -> ad.AnnData:
    return fitted_once(request.param).copy()


@pytest.fixture
def fitted() -> ad.AnnData:
    return fitted_once("capture").copy()


def assigned(adata, key: str = "sb") -> np.ndarray:
    return adata.obsm[f"{key}_responsibilities"].argmax(1)


def truth(adata) -> np.ndarray:
    return adata.obs["component"].astype(int).to_numpy()


def order(adata) -> np.ndarray:
    """The true component that each fitted one is."""
    return pd.crosstab(assigned(adata), truth(adata)).to_numpy().argmax(1)


def everything(adata, key: str = "sb") -> dict[str, np.ndarray]:
    """All numbers of a fit."""
    found = read_fit(adata, key)
    values = {f"posterior {name}": value for name, value in found.posterior._asdict().items()}
    values |= {f"centre {name}": value for name, value in found.centre().sites.items()}
    for i, draw in enumerate(found.draws(2, np.random.default_rng(3))):
        values |= {f"draw {i} {name}": value for name, value in draw.sites.items()}
        values |= {f"draw {i} size": draw.parameters.size, f"draw {i} weight": draw.parameters.weights}
    return values | {"losses": found.losses}


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_components_are_found(any_fit):
    found = read_fit(any_fit)
    gamma = any_fit.obsm["sb_responsibilities"]
    np.testing.assert_allclose(gamma.sum(1), 1, rtol=1e-12)
    assert np.mean(order(any_fit)[assigned(any_fit)] == truth(any_fit)) > 0.975
    assert sorted(order(any_fit)) == [0, 1, 2]
    assert found.converged
    assert found.components == ["0", "1", "2"]
    assert found.facts["components"]["warnings"] == []
    assert (np.diff(found.posterior.weights) <= 0).all()  # heaviest first
    np.testing.assert_allclose(found.posterior.weights, 1 + gamma.sum(0), rtol=1e-12)
    draws = np.array([draw.parameters.weights for draw in found.draws(300, np.random.default_rng(0))])
    np.testing.assert_allclose(draws.mean(0), found.posterior.weights / 403, atol=0.006)
    np.testing.assert_allclose(draws.sum(1), 1, rtol=1e-12)


def test_parameters_are_found(any_fit):
    found, which = read_fit(any_fit), order(any_fit)
    n_genes = int(found.fitted.sum())
    true = any_fit.varm["mu"].T[which]
    share = found.centre().sites["composition"][..., :n_genes].mean(0)
    enough = true * np.bincount(truth(any_fit))[which][:, None] * 0.1 > 50
    error = np.log(share) - np.log((true / true.sum(1, keepdims=True))[:, :n_genes])
    assert np.sqrt(np.mean(error[enough[:, :n_genes]] ** 2)) < 0.3
    if found.config.gate:
        close = found.centre().sites["gate"][0] - any_fit.varm["gate"].T[which]
        assert np.sqrt(np.mean(close[enough] ** 2)) < 0.16
        assert np.corrcoef(found.centre().sites["gate"][0][enough], any_fit.varm["gate"].T[which][enough])[0, 1] > 0.3


def test_draws_are_those_of_the_marginals(any_fit):
    found = read_fit(any_fit)
    n_genes = int(found.fitted.sum())
    draws = list(found.draws(300, np.random.default_rng(1)))
    for name, marginal in found.canonical.items():
        x = np.stack([draw.sites[name] for draw in draws])
        x = x[..., :n_genes] if marginal.axis == "gene" else x
        z = np.log(x) if marginal.link == "log" else logit(x)
        assert z.shape[1:] == np.shape(marginal.loc), name
        off = (z.mean(0) - marginal.loc) / (z.std(0) / np.sqrt(300))
        assert np.abs(off).max() < 6, name
        assert np.sqrt(np.mean(off**2)) < 1.8, name
        ratio = z.std(0) / marginal.scale
        assert ratio.min() > 0.7, name
        assert ratio.max() < 1.4, name


def test_intervals_hold_the_truth(fitted):
    found, which = read_fit(fitted), order(fitted)
    true = fitted.varm["mu"] / fitted.varm["mu"].sum(0)
    expected = {"r": fitted.varm["r"].T[which], "composition": true.T[which]}
    for name, value in expected.items():
        marginal = found.canonical[name]
        held = np.abs(np.log(value) - marginal.loc[0]) < 1.645 * marginal.scale[0]
        assert 0.84 < held.mean() < 0.95, (name, held.mean())


def test_the_seed_hardly_matters(fitted):
    before = read_fit(fitted)
    fit(fitted, rng=5)
    after = read_fit(fitted)
    assert after.facts["seed"] == 5
    np.testing.assert_allclose(after.posterior.responsibilities, before.posterior.responsibilities, atol=1e-3)
    np.testing.assert_allclose(after.posterior.gene_loc, before.posterior.gene_loc, atol=0.15)


# --- where components start -------------------------------------------------------------------------------------------


def test_groups_and_labels_name_the_components(fitted):
    names = np.array(["c", "a", "b"])[truth(fitted)]
    fitted.obs["group"] = pd.Categorical(names, categories=["b", "c", "unused", "a"])
    fit(fitted, init="group", key_added="group")
    assert read_fit(fitted, "group").components == ["0", "1", "2"]  # only a start: sorted as always
    np.testing.assert_allclose(fitted.obsm["group_responsibilities"], fitted.obsm["sb_responsibilities"], atol=0.02)
    some = np.random.default_rng(0).random(400) < 0.3
    label = pd.Categorical(np.where(some, names, None), categories=["b", "c", "unused", "a"])
    fitted.obs["label"] = label
    fit(fitted, labels_key="label", model="nbvcp_mix", key_added="label")
    assert read_fit(fitted, "label").components == ["b", "c", "a"]
    assert np.mean(np.array(["b", "c", "a"])[assigned(fitted, "label")] == names) > 0.99
    np.testing.assert_array_equal(fitted.obsm["label_responsibilities"][some].max(1), 1)
    fitted.obs["label"] = np.where(some & (names != "b"), names, None)
    fit(fitted, labels_key="label", n_components=3, key_added="more")
    assert read_fit(fitted, "more").components == ["a", "c", "new 0"]
    assert np.mean(np.array(["a", "c", "b"])[assigned(fitted, "more")] == names) > 0.99


def test_wrong_labels_are_corrected(fitted):
    rng = np.random.default_rng(1)
    true, wrong = truth(fitted).copy(), rng.choice(400, 30, replace=False)
    label = true.copy()
    label[wrong] = (label[wrong] + 1) % 3
    fitted.obs["label"] = label  # integers
    fit(fitted, labels_key="label", label_trust=0.9, n_steps=50, key_added="soft")
    assert np.mean(assigned(fitted, "soft")[wrong] == true[wrong]) > 0.9
    assert np.mean(assigned(fitted, "soft") == true) > 0.98


def test_prior_of_the_weights(fitted):
    config = read_fit(fitted).config
    np.testing.assert_array_equal(check_priors(config, {"weights": 7.5})["weights"].concentration, [7.5] * 3)
    fitted.obs["label"] = truth(fitted).astype(str)
    for start in ({"labels_key": "label"}, {}):  # in the order of the components, which here are and are not sorted
        fit(fitted, priors={"weights": dist.Dirichlet(np.array([1.0, 2.0, 50.0]))}, n_steps=50, **start)
        found = read_fit(fitted)
        prior = found.posterior.weights - fitted.obsm["sb_responsibilities"].sum(0)
        np.testing.assert_allclose(prior, found.priors["weights"].concentration, rtol=1e-6)


@pytest.mark.slow
def test_leiden(fitted):
    pytest.importorskip("igraph")
    for n in (None, 3):
        fit(fitted, init="leiden", n_components=n)
        assert np.mean(order(fitted)[assigned(fitted)] == truth(fitted)) > 0.99


def test_empty_cells_genes_and_components(fitted):
    x = fitted.X.toarray()
    x[:3], x[:, :2] = 0, 0
    fitted.X = sparse.csr_matrix(x)
    fitted.obs["label"] = truth(fitted).astype(str)
    fit(fitted, labels_key="label", n_components=4, n_steps=50)
    found = read_fit(fitted)
    assert found.components == ["0", "1", "2", "new 0"]
    assert found.facts["components"]["warnings"] == ["component 'new 0' is empty: a smaller n_components is enough"]
    assert all(np.isfinite(value).all() for value in everything(fitted).values())
    np.testing.assert_array_equal(fitted.obsm["sb_responsibilities"], np.eye(4)[truth(fitted)])  # also cells of zeros


BAD = [
    ({"model": "nbvcp_mix", "n_components": 1}, ValueError, "pass n_components=2 or more"),
    ({"model": "nbvcp_mix", "n_components": None}, ValueError, "pass n_components=2 or more"),
    ({"n_components": 0}, ValueError, "n_components=0: give a whole number of at least 2"),
    ({"n_components": 2.5}, ValueError, "n_components=2.5"),
    ({"init": "kmean"}, KeyError, "init='kmean': give 'kmeans', 'leiden' or a column of adata.obs, which has"),
    ({"init": "component", "n_components": 2}, ValueError, "init='component' has 3 groups, but n_components=2"),
    ({"init": "partly"}, ValueError, r"obs\['partly'\] is missing for 9 cells"),
    ({"labels_key": "nope"}, KeyError, "labels_key='nope': give a column of adata.obs"),
    ({"labels_key": "component", "n_components": 2}, ValueError, "has 3 labels, but n_components=2"),
    ({"labels_key": "component", "init": "component"}, ValueError, "leave init out"),
    ({"labels_key": "component", "label_trust": 0.5}, ValueError, "label_trust=0.5: give a probability"),
    ({"labels_key": "component", "label_trust": 1.01}, ValueError, "label_trust=1.01: give a probability"),
    ({"labels_key": "component", "label_trust": np.nan}, ValueError, "label_trust=nan: give a probability"),
    ({"n_init": 0}, ValueError, "n_init=0: give a whole number"),
    ({"n_components": 401}, ValueError, "401"),
    ({"priors": {"weights": -1.0}}, ValueError, "must be finite and positive"),
    ({"priors": {"weights": np.nan}}, ValueError, "must be finite and positive"),
    ({"priors": {"weights": dist.Dirichlet(np.ones(2))}}, ValueError, "a numpyro Dirichlet of 3 concentrations"),
    ({"priors": {"weights": dist.Gamma(1.0, 1.0)}}, ValueError, "a numpyro Dirichlet of 3 concentrations"),
    ({"n_components": None, "priors": {"weights": 1.0}}, ValueError, "has no n_components"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_settings(fitted, settings, error, message):
    fitted.obs["partly"] = np.where(np.arange(400) < 9, None, fitted.obs["component"].astype(str))
    before = everything(fitted)
    with pytest.raises(error, match=message):
        fit(fitted, **settings)
    assert_same(everything(fitted), before)


# --- state ------------------------------------------------------------------------------------------------------------

READ = """
import sys
import anndata as ad, numpy as np
sys.path.insert(0, {tests!r})
from test_mixtures import everything
np.savez({out!r}, **everything(ad.read_h5ad({file!r})))
"""


def test_through_a_file(any_fit, tmp_path):
    any_fit.write_h5ad(tmp_path / "fit.h5ad")
    assert_same(everything(ad.read_h5ad(tmp_path / "fit.h5ad")), everything(any_fit))


def test_in_another_process(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "fit.h5ad")
    names = {"tests": str(sb.__path__[0]).replace("scbayes", "tests"), "out": str(tmp_path / "out.npz")}
    code = READ.format(**names, file=str(tmp_path / "fit.h5ad"))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert_same(dict(np.load(tmp_path / "out.npz")), everything(fitted))


def test_parts_of_cells_and_genes(any_fit):
    rng = np.random.default_rng(2)
    cells, genes = rng.permutation(400)[:37], rng.permutation(80)[:11]
    whole, part = read_fit(any_fit), read_fit(any_fit[cells, genes])
    kept = genes[whole.fitted[genes]]
    before, after = whole.centre().sites, part.centre().sites
    for name, value in before.items():
        axis = {"weights": None, "p": None, "phi": None}.get(name, "gene")
        axis = "cell" if name == "nu" or (name == "odds" and whole.config.capture) else axis
        axis = None if name == "odds" and not whole.config.capture else axis
        expected = value[..., cells] if axis == "cell" else value[..., kept] if axis == "gene" else value
        np.testing.assert_allclose(after[name], expected, rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(part.posterior.responsibilities, whole.posterior.responsibilities[cells])
    np.testing.assert_array_equal(part.posterior.weights, whole.posterior.weights)
    for name, value in sb.get.map(any_fit).items():
        found = sb.get.map(any_fit[cells, genes])[name]
        if name in whole.canonical and whole.canonical[name].axis == "gene":
            np.testing.assert_allclose(found, value[..., kept], rtol=1e-12, err_msg=name)
    assert sb.get.map(any_fit[:5, []])["composition"].shape[-1] == 0
    both = ad.concat([any_fit[:200], any_fit[200:]], merge="same", uns_merge="same")
    assert_same(everything(both), everything(any_fit))


def test_shapes_of_what_is_read(any_fit):
    found = read_fit(any_fit)
    config, n_genes = found.config, int(found.fitted.sum())
    modes, marginals, raw = sb.get.map(any_fit), sb.get.distributions(any_fit), sb.get.params(any_fit)
    lists = sb.get.distributions(any_fit, backend="scipy", split=True)
    for name in {"mu", "r", "gate", "composition"} & set(modes):
        own = config.n_batches > 1 and not (name == "mu" and found.canonical[name].loc.shape[0] == 1)
        shape = (2, 3, n_genes) if own else (3, n_genes)
        assert modes[name].shape == marginals[name].batch_shape == shape, name
        assert np.shape(lists[name]) == shape, name
    for name in config.sites:
        assert raw[name]["loc"].shape == raw[name]["scale"].shape == modes[name].shape
    if config.capture:
        assert modes["nu"].shape == (400,)
    n = len(found.model.columns)
    assert any_fit.varm["sb_loc"].shape == (80, 3, n)
    assert any_fit.varm["sb_tril"].shape == (80, 3, n, n)
    assert np.isnan(any_fit.varm["sb_loc"]).any() == (n_genes < 80)


def test_a_component_alone(any_fit):
    found = read_fit(any_fit)
    whole = found.centre()
    for k in range(3):
        alone = found.component(k)
        assert not alone.config.mixture
        assert alone.components == []
        centre = alone.centre()
        assert set(centre.sites) == set(whole.sites) - {"weights"}
        np.testing.assert_allclose(centre.parameters.size[:, 0], whole.parameters.size[:, k], rtol=1e-9)
        np.testing.assert_allclose(centre.sites["composition"], whole.sites["composition"][:, k], rtol=1e-9)
        for name, marginal in found.canonical.items():
            own = marginal.loc[:, k] if marginal.axis == "gene" else marginal.loc
            np.testing.assert_allclose(alone.canonical[name].loc, own, rtol=1e-9, err_msg=name)
        assert len(list(alone.draws(2, np.random.default_rng(0)))) == 2
        assert "components" not in str(alone)


def test_resumed_fits_end_where_others_end(fitted, tmp_path):
    expected = everything(fitted)
    unfinished = fitted.copy()
    fit(unfinished, n_steps=50)
    assert not read_fit(unfinished).converged
    unfinished.write_h5ad(tmp_path / "unfinished.h5ad")
    for adata in (unfinished, ad.read_h5ad(tmp_path / "unfinished.h5ad")):
        sb.tl.fit(adata, resume=True, progress=False)
        assert_same(everything(adata), expected)
        assert read_fit(adata).components == ["0", "1", "2"]


def test_removed_or_damaged(fitted):
    sb.tl.remove(fitted)
    left = [*fitted.obsm, *fitted.varm, *fitted.uns]
    assert not [name for name in left if name.startswith("sb")]
    other = fitted_once("capture").copy()
    del other.uns["sb"]
    with pytest.raises(ValueError, match="belongs to no fit"):
        fit(other)
    damaged = fitted_once("capture").copy()
    del damaged.obsm["sb_responsibilities"]
    with pytest.raises(KeyError, match=r"obsm\['sb_responsibilities'\] is missing"):
        read_fit(damaged)


def test_manifest(fitted):
    manifest = json.loads(fitted.uns["sb"]["manifest"])
    assert manifest["model"]["n_components"] == 3
    assert manifest["facts"]["priors"]["weights"] == {"family": "Dirichlet", "concentration": [1.0] * 3}
    assert manifest["facts"]["components"]["names"] == ["0", "1", "2"]
    assert manifest["facts"]["components"]["settled"]
    assert "3 components" in str(read_fit(fitted))
