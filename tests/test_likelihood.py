"""The likelihood of a summary is that of the dense counts, in value and gradient, and that of SciPy."""

from functools import cache, partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import sparse, stats
from scipy.special import expit, gammaln, logit

from scbayes.counts import Counts, Summary
from scbayes.models import Evidence, Model, ModelConfig, NegativeBinomialCounts, evidence_of
from scbayes.models._at_posterior import evidence_at
from scbayes.models._config import MODELS, PARAMETERIZATIONS
from scbayes.models._evidence import RISE, _padded
from scbayes.models._model import Inputs
from scbayes.models._posterior import Posterior
from scbayes.models._priors import default_priors

N_CELLS, N_GENES = 60, 24
TOTAL_MRNA = 2e3
COMBOS = list(product(MODELS, PARAMETERIZATIONS))
#: One batch; three batches that share all parameters; three batches that share none but nu, priors on log and logit.
LAYOUTS = ("one", "shared", "own")
#: Those whose cells are seen through interpolation.
INTERPOLATED = [
    (model, coordinates)
    for model, coordinates in COMBOS
    if model == "zinbvcp" or (model, coordinates) == ("nbvcp", "mean_disp")
]
EMPTY_CELL, EMPTY_GENE = 7, 1


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


# --- the reference: formulas written a second time, in NumPy and SciPy ------------------------------------------------


def size_odds_gate(config: ModelConfig, values: dict, batch, total_mrna: float = TOTAL_MRNA):
    """r, odds and gate of every cell and gene from the sampled parameters."""
    own = {}
    for site, value in values.items():
        copies = np.broadcast_to(value, (config.n_batches, *value.shape[1:])) if site != "nu" else None
        own[site] = value if site == "nu" else copies[batch] if value.ndim == 2 else copies[batch][:, None]
    match config.parameterization:
        case "standard":
            r = own["r"]
            odds = own["p"] / (1 - own["p"]) if "p" in own else total_mrna / r.sum(1, keepdims=True)
        case "linked":
            odds = own["p"] / (1 - own["p"])
            r = own["mu"] * (1 - own["p"]) / own["p"]
        case "odds_ratio":
            odds = 1 / own["phi"]
            r = own["mu"] * own["phi"]
        case "mean_disp":
            r = own["r"]
            odds = own["mu"] / r
    nu = own["nu"][:, None] if config.capture else 1.0
    return r, odds * nu * np.ones_like(r), own.get("gate")


def scipy_log_p(u, r, odds, gate) -> np.ndarray:
    log_p = stats.nbinom.logpmf(u, r, 1 / (1 + odds))
    if gate is None:
        return log_p
    opened = np.log1p(-gate) + log_p
    return np.where(u == 0, np.logaddexp(np.log(gate), opened), opened)


# --- small data with every difficulty ---------------------------------------------------------------------------------


class Case(NamedTuple):
    config: ModelConfig
    model: Model
    z: dict[str, np.ndarray]  # log or logit of the parameters
    counts: Counts
    u: np.ndarray
    summary: Summary
    priors: dict
    evidence: Evidence  # anchored at z where it has to be

    @property
    def values(self) -> dict[str, np.ndarray]:
        return constrained(self.z, np.exp, expit)

    def inputs(self, counts) -> Inputs:
        like = posterior(self.model, self.z)
        return Inputs(counts, self.priors, jnp.log(TOTAL_MRNA), jnp.asarray(self.counts.batch), like)

    def likelihood(self, z=None) -> NegativeBinomialCounts:
        values = constrained(self.z if z is None else z, jnp.exp, jax.nn.sigmoid)
        return self.model.likelihood(values, np.log(TOTAL_MRNA), jnp.asarray(self.counts.batch))


def constrained(z: dict, exp, sigmoid) -> dict:
    return {site: sigmoid(x) if site in ("p", "gate") else exp(x) for site, x in z.items()}


def draw_parameters(config: ModelConfig, rng) -> dict[str, np.ndarray]:
    """Log or logit of parameters, with sizes of 1e-3 and 1e5, means of thousands, and gates of 1e-6 and 0.9."""
    shape = (3, N_GENES)
    r, mu, gate = rng.normal(0, 1.2, shape), rng.normal(2, 1.5, shape), logit(rng.beta(1, 9, shape))
    r[:, 2] = np.log(1e-3)
    if config.n_batches == 1 or config.parameterization == "mean_disp":  # else this gene would take all counts
        r[:, 3] = np.log(1e5)
    mu[:, 2:5] = np.log([30, 50, 5000])
    gate[:, 5], gate[:, 6] = logit(1e-6), logit(0.9)
    nu = rng.uniform(np.log(0.02), np.log(0.5), N_CELLS)
    nu[:2] = np.log([0.02, 0.5])  # the same interval, so as many nodes, each time
    z = {"r": r, "mu": mu, "gate": gate, "p": logit([0.6, 0.4, 0.8]), "phi": np.log([0.5, 1.5, 0.2]), "nu": nu}
    return {site: z[site] if site == "nu" else z[site][: config.copies(site)] for site in config.sites}


def draw_counts(config: ModelConfig, z: dict, batch, rng) -> np.ndarray:
    r, odds, gate = size_odds_gate(config, constrained(z, np.exp, expit), batch)
    u = rng.poisson(rng.gamma(r) * odds)
    if gate is not None:
        u *= rng.random(u.shape) >= gate
    u[20:26, 10] = [RISE - 1, RISE, RISE + 1, 63, 64, 65]  # where the code changes its way
    u[20:23, 11] = [2500, 7000, 7000]
    u[EMPTY_CELL] = 0
    u[:, EMPTY_GENE] = 0
    return u


def posterior(model: Model, z: dict, scale: float = 0.0) -> Posterior:
    """Posterior of no width at ``z``; ``scale`` is that of the cells."""
    gene = np.stack([z[site][copy] for site, copy in model.columns], -1)
    glob = [z[site] for site in model.config.global_sites]
    if glob and model.config.parameterization == "standard":  # the coordinate is ln(p/(1-p)) + ln sum r
        log_r = np.log(np.exp(z["r"]).sum(1))
        glob = [glob[0] + (log_r if log_r.shape == glob[0].shape else log_r.mean())]
    glob = np.concatenate(glob) if glob else np.zeros(0)
    cell = z.get("nu", np.zeros(0))
    n, k = gene.shape
    parts = (
        gene,
        np.zeros((n, k, k)),
        np.zeros((n, k, model.n_factors)),
        glob,
        0 * glob,
        cell,
        np.full(cell.shape, scale),
    )
    return Posterior(*map(jnp.asarray, parts))


@cache
def case(name: str, coordinates: str, layout: str) -> Case:
    seed = COMBOS.index((name, coordinates)) * len(LAYOUTS) + LAYOUTS.index(layout)
    rng = np.random.default_rng(seed)
    n_batches = 1 if layout == "one" else 3
    sites = [site for site in ModelConfig(name, coordinates).sites if site != "nu"]
    config = ModelConfig(name, coordinates, layout == "own", n_batches, sites if layout == "own" else ())
    model = Model.of(config)
    batch = rng.integers(0, n_batches, N_CELLS).astype(np.int32)
    z = draw_parameters(config, rng)
    u = draw_counts(config, z, batch, rng)
    counts = Counts(sparse.csr_array(u), batch, n_batches)
    summary, priors = counts.summarise(), default_priors(config)
    if (name, coordinates) in INTERPOLATED:
        evidence = evidence_at(model, counts, summary, priors, posterior(model, z), np.log(TOTAL_MRNA))
    else:
        evidence = evidence_of(summary)
    return Case(config, model, z, counts, u, summary, priors, padded(evidence))


def padded(evidence: Evidence) -> Evidence:
    """Evidence with entries of no cells added, which say nothing: data of equal shape, compiled once."""
    n_rows = evidence.n_batches * N_GENES

    def pad(name: str, size: int, fill: float):
        value = np.asarray(getattr(evidence, name))
        return jnp.asarray(np.pad(value, (0, max(size - len(value), 0)), constant_values=fill))

    rise = [("rise_row", n_rows - 1), ("rise_j", 0), ("rise_cells", 0)]
    tail = [("tail_row", n_rows - 1), ("tail_count", RISE + 1), ("tail_cells", 0)]
    return evidence._replace(
        **{name: pad(name, n_rows * RISE, fill) for name, fill in rise},
        **{name: pad(name, N_CELLS * N_GENES, fill) for name, fill in tail},
    )


def gene_log_p(likelihood: NegativeBinomialCounts, evidence: Evidence, u, odds) -> np.ndarray:
    """Log density of each gene from a summary: what `row_log_prob` leaves out is added."""
    log_p = np.asarray(likelihood.row_log_prob(evidence).sum(0)) - gammaln(u + 1.0).sum(0)
    return log_p + (u * np.log(odds / (1 + odds))).sum(0) if likelihood.cells_are_exact else log_p


def value_and_gradient(this: Case, counts, z=None):
    inputs = this.inputs(counts)

    def log_joint(z):
        return log_density(this.model.program, (inputs,), {}, constrained(z, jnp.exp, jax.nn.sigmoid))[0]

    return jax.value_and_grad(log_joint)(jax.tree.map(jnp.asarray, this.z if z is None else z))


def nats_off(this: Case, z=None) -> np.ndarray:
    """By how many nats the log density of each gene misses SciPy's."""
    values = constrained(this.z if z is None else z, np.exp, expit)
    r, odds, gate = size_odds_gate(this.config, values, this.counts.batch)
    expected = scipy_log_p(this.u, r, odds, gate).sum(0)
    return np.abs(gene_log_p(this.likelihood(z), this.evidence, this.u, odds) - expected)


# --- value and gradient -----------------------------------------------------------------------------------------------


def test_the_data_are_difficult():
    for combo in product(MODELS, PARAMETERIZATIONS, LAYOUTS):
        u = case(*combo).u
        assert u.max() >= 7000
        assert not u[EMPTY_CELL].any()
        assert not u[:, EMPTY_GENE].any()
        assert {RISE - 1, RISE, RISE + 1, 63, 64, 65} <= set(u[:, 10])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "coordinates"), COMBOS)
def test_equals_scipy(name, coordinates, layout):
    this = case(name, coordinates, layout)
    r, odds, gate = size_odds_gate(this.config, this.values, this.counts.batch)
    expected = scipy_log_p(this.u, r, odds, gate)
    likelihood = this.likelihood()
    np.testing.assert_allclose(likelihood._dense_log_prob(jnp.asarray(this.u)), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(likelihood.log_prob(jnp.asarray(this.u)), expected.sum(), rtol=1e-9)
    found = gene_log_p(likelihood, this.evidence, this.u, odds)
    if (name, coordinates) in INTERPOLATED:
        np.testing.assert_allclose(found, expected.sum(0), rtol=0, atol=1e-3)
        np.testing.assert_allclose(likelihood.log_prob(this.evidence), expected.sum(), rtol=0, atol=1e-3)
    else:
        np.testing.assert_allclose(found, expected.sum(0), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(likelihood.log_prob(this.evidence), expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "coordinates"), COMBOS)
def test_program_of_summary_is_that_of_dense_counts(name, coordinates, layout):
    this = case(name, coordinates, layout)
    interpolated = (name, coordinates) in INTERPOLATED
    value, gradient = value_and_gradient(this, this.evidence)
    dense_value, dense_gradient = value_and_gradient(this, jnp.asarray(this.u))
    np.testing.assert_allclose(value, dense_value, rtol=0 if interpolated else 1e-9, atol=1e-3 if interpolated else 0)
    assert set(gradient) == set(this.config.sites)
    for site, expected in dense_gradient.items():
        assert np.all(np.isfinite(expected))
        atol = 1e-6
        if interpolated:  # in nu: a small part of the slope one standard deviation from the mode
            atol = 1e-2 * np.sqrt(this.summary.cell_total + 1) if site == "nu" else 2e-3
        error = np.abs(gradient[site] - expected)
        assert np.all(error <= atol + 1e-6 * np.abs(expected)), site


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_type_of_dense_counts_does_not_matter(dtype):
    this = case("zinb", "mean_disp", "own")
    expected = this.likelihood().log_prob(jnp.asarray(this.u, np.float64))
    np.testing.assert_allclose(this.likelihood().log_prob(jnp.asarray(this.u, dtype)), expected, rtol=1e-13)


def test_entries_of_no_cells_say_nothing():
    this = case("zinb", "mean_disp", "own")
    assert this.likelihood().log_prob(evidence_of(this.summary)) == pytest.approx(
        this.likelihood().log_prob(this.evidence)
    )


def test_evidence_counts_survivors():
    this = case("nbdm", "standard", "own")
    evidence = evidence_of(this.summary)
    survivors = np.stack([[(this.u[this.counts.batch == b] > j).sum(0) for j in range(RISE)] for b in range(3)])
    found = np.zeros((3 * N_GENES, RISE))
    np.add.at(found, (np.asarray(evidence.rise_row), np.asarray(evidence.rise_j, int)), evidence.rise_cells)
    np.testing.assert_array_equal(found.reshape(3, N_GENES, RISE), survivors.transpose(0, 2, 1))
    large = [(this.counts.batch[c] * N_GENES + g, this.u[c, g]) for c, g in np.argwhere(this.u > RISE)]
    pairs, cells = np.unique(large, axis=0, return_counts=True)
    used = slice(len(cells))
    np.testing.assert_array_equal(np.stack([evidence.tail_row[used], evidence.tail_count[used]], 1), pairs)
    np.testing.assert_array_equal(evidence.tail_cells[used], cells)


def test_lengths_of_evidence_are_few():
    """Data of the same size have evidence of the same shapes, so that compiled code serves them all."""
    lengths = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        summary = Counts(sparse.csr_array(rng.negative_binomial(2, 0.1, (300, 40)))).summarise()
        evidence = evidence_of(summary)
        lengths.add((len(evidence.rise_row), len(evidence.tail_row)))
        for name in ("rise", "tail"):  # sums by row rely on the order
            assert np.all(np.diff(getattr(evidence, f"{name}_row")) >= 0)
    assert len(lengths) == 1


@pytest.mark.parametrize(("n", "length"), [(0, 1024), (1024, 1024), (1025, 2048), (20_000, 20_480), (32_769, 36_864)])
def test_lengths_of_evidence(n, length):
    cells, rows = _padded(np.ones(n), (np.arange(n), 7))
    assert len(cells) == len(rows) == length
    assert cells.sum() == n
    assert np.all(rows[n:] == 7)


# --- around the anchor ------------------------------------------------------------------------------------------------

around_the_anchor = pytest.mark.parametrize(("name", "coordinates"), INTERPOLATED)


@around_the_anchor
def test_genes_may_leave_the_anchor(name, coordinates):
    this = case(name, coordinates, "shared")
    rng = np.random.default_rng(5)
    moved = {site: x if site == "nu" else x + rng.normal(0, 0.3, x.shape) for site, x in this.z.items()}
    assert nats_off(this, moved).max() < 1e-3
    value, gradient = value_and_gradient(this, this.evidence, moved)
    dense_value, dense_gradient = value_and_gradient(this, jnp.asarray(this.u), moved)
    assert abs(value - dense_value) < 1e-3
    for site in set(this.config.sites) - {"nu"}:
        np.testing.assert_allclose(gradient[site], dense_gradient[site], rtol=1e-6, atol=2e-3, err_msg=site)


@around_the_anchor
def test_cells_may_leave_the_anchor(name, coordinates):
    this = case(name, coordinates, "shared")
    anchored = this.likelihood()
    u = jnp.asarray(this.u)
    before = anchored._dense_log_prob(u).sum(1)
    for sign in (-1, 1):
        move = sign / np.sqrt(1 + np.asarray(this.evidence.curvature))  # one posterior standard deviation
        dense = (
            this.likelihood(this.z | {"nu": this.z["nu"] + move})._dense_log_prob(jnp.asarray(this.u)).sum(1) - before
        )
        alone = one_cell_each(anchored, this.z["nu"] + np.diag(move), this.evidence)
        error = np.abs(alone - anchored.log_prob(this.evidence) - dense)
        assert np.ptp(dense) > 10
        assert np.delete(error, EMPTY_CELL).max() < 0.1
        # Genes of thousands make an empty cell all but impossible: its likelihood is far from that of a count.
        assert error[EMPTY_CELL] < 2


@around_the_anchor
def test_expectation_over_the_cells(name, coordinates):
    this = case(name, coordinates, "shared")
    scale = 0.15
    uncertain = posterior(this.model, this.z, scale)
    evidence = evidence_at(this.model, this.counts, this.summary, this.priors, uncertain, np.log(TOTAL_MRNA))
    assert np.sum(evidence.curvature) * np.expm1(scale**2 / 2) > 3  # nats that `constant` takes back
    found = expected = 0.0
    for at, weight in [(0, 2 / 3), (3**0.5, 1 / 6), (-(3**0.5), 1 / 6)]:  # normal moments up to the fifth
        likelihood = this.likelihood(this.z | {"nu": this.z["nu"] + at * scale})
        found += weight * likelihood.log_prob(evidence)
        expected += weight * likelihood.log_prob(jnp.asarray(this.u))
    assert abs(found - expected) < 0.01


@pytest.mark.parametrize(("name", "coordinates"), [("zinbvcp", "linked"), ("nbvcp", "mean_disp")])
def test_slope_of_cells_is_averaged_over_the_genes(name, coordinates):
    this = case(name, coordinates, "shared")
    k = len(this.model.columns)
    root = np.tril(np.random.default_rng(3).normal(0, 0.3, (N_GENES, k, k)))
    uncertain = posterior(this.model, this.z)._replace(gene_tril=jnp.asarray(root))
    evidence = evidence_at(this.model, this.counts, this.summary, this.priors, uncertain, np.log(TOTAL_MRNA))
    slopes = []
    for shift in np.sqrt(k) * np.concatenate([root, -root], -1).transpose(2, 0, 1):
        moved = this.z | {site: this.z[site] + shift[:, n] for n, (site, _) in enumerate(this.model.columns)}
        slopes.append(slope_of_cells(this.likelihood(moved), this.z["nu"], this.u))
    found = slope_of_cells(this.likelihood(), this.z["nu"], evidence)
    np.testing.assert_allclose(found, np.mean(slopes, 0), rtol=1e-6, atol=1e-3)
    assert np.abs(found - slope_of_cells(this.likelihood(), this.z["nu"], this.u)).max() > 1


def at_cells(likelihood: NegativeBinomialCounts, log_nu) -> NegativeBinomialCounts:
    genes = likelihood.log_size, likelihood.gene_log_odds
    return NegativeBinomialCounts(*genes, log_nu, likelihood.gate_logit, likelihood.batch)


@jax.jit
def slope_of_cells(likelihood, log_nu, counts):
    return jax.grad(lambda x: at_cells(likelihood, x).log_prob(counts))(log_nu)


@jax.jit
def one_cell_each(likelihood, log_nus, evidence):
    return jax.lax.map(lambda x: at_cells(likelihood, x).log_prob(evidence), log_nus)


# --- real data --------------------------------------------------------------------------------------------------------

TOTAL_MRNA_KANG = 2e5


def plausible(u: sparse.csr_array, total) -> dict[str, np.ndarray]:
    """Log or logit of parameters by moments: r from the variance, the gate from zeros beyond those expected."""
    nu, share = total / TOTAL_MRNA_KANG, (u.sum(0) + 0.5) / total.sum()
    mu = share * TOTAL_MRNA_KANG
    square = np.sum(nu**2) * mu**2
    excess = u.power(2).sum(0) - 2 * (u.T @ nu) * mu + square - u.sum(0)
    r = np.clip(square / np.maximum(excess, 1e-9), 1e-2, 1e4)
    zeros = 1 - (u > 0).sum(0) / u.shape[0]
    expected = np.mean([np.exp(-r * np.log1p(x * mu / r)) for x in np.quantile(nu, (np.arange(50) + 0.5) / 50)], 0)
    gate = np.clip(zeros - expected, 1 / u.shape[0], 0.9)
    z = {"r": np.log(r), "mu": np.log(mu), "gate": logit(gate)}
    return {site: x[None] for site, x in z.items()} | {"p": logit([0.995]), "nu": np.log(nu)}


@pytest.mark.slow
def test_real_data(real):
    x = sparse.csr_array(real("kang_ifnb").X).astype(float)
    order = np.argsort(-x.sum(0), kind="stable")
    genes = np.concatenate([order[:300], np.random.default_rng(0).choice(order[300:], 1700, replace=False)])
    u = x[:, np.sort(genes)]
    assert (u.sum(0) == 0).any()
    moments = plausible(u, x.sum(1))
    counts = Counts(u)
    summary, log_mrna = counts.summarise(), np.log(TOTAL_MRNA_KANG)
    factorials = np.bincount(summary.row, summary.cells * gammaln(summary.count + 1.0), u.shape[1])
    combos = [("nbvcp", "standard"), ("nbvcp", "mean_disp"), ("zinbvcp", "linked"), ("zinbvcp", "mean_disp")]
    for name, coordinates in combos:
        model = Model.of(ModelConfig(name, coordinates))
        z = {site: moments[site] for site in model.config.sites}
        if coordinates == "standard":
            z["r"] = moments["mu"] - np.log(200)  # a sum of 1,000: one dispersion for all
        expected, dense = dense_in_blocks(model, z, log_mrna, u)
        evidence = evidence_at(model, counts, summary, default_priors(model.config), posterior(model, z), log_mrna)
        value, gradient = summary_and_gradient(model, z, log_mrna, counts.batch, evidence)
        exact = (name, coordinates) not in INTERPOLATED
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-10)
        likelihood = model.likelihood(constrained(z, jnp.exp, jax.nn.sigmoid), log_mrna, counts.batch)
        found = np.asarray(likelihood.row_log_prob(evidence)[0]) - factorials
        if exact:
            odds = likelihood.cell_log_odds + likelihood.gene_log_odds[0, 0]
            found = found + u.T @ np.asarray(jax.nn.log_sigmoid(odds))
        np.testing.assert_allclose(found, expected, rtol=1e-9 if exact else 0, atol=1e-9 if exact else 1e-3)
        for site, slope in dense.items():
            error = np.abs(gradient[site] - slope)
            scale = np.sqrt(x.sum(1)) if site == "nu" else 1 + np.abs(slope)
            assert np.max(error / scale) < (1e-8 if exact else 1e-4), (name, coordinates, site)


def dense_in_blocks(model: Model, z: dict, log_mrna, u: sparse.csr_array) -> tuple[np.ndarray, dict]:
    """Log density of each gene, and its gradient, of dense counts: 500 cells at a time."""
    value, gradient = np.zeros(u.shape[1]), {site: np.zeros_like(x) for site, x in z.items()}
    for first in range(0, u.shape[0], 500):
        cells = slice(first, first + 500)
        block = u[cells].todense()
        batch = np.zeros(len(block), np.int32)
        (_, genes), part = dense_and_gradient(model, z | {"nu": z["nu"][cells]}, log_mrna, batch, block)
        value += genes
        for site, slope in part.items():
            gradient[site][cells if site == "nu" else slice(None)] += slope
    return value, gradient


@partial(jax.jit, static_argnums=0)
def dense_and_gradient(model: Model, z: dict, log_mrna, batch, u):
    def total(z):
        likelihood = model.likelihood(constrained(z, jnp.exp, jax.nn.sigmoid), log_mrna, batch)
        per_gene = likelihood._dense_log_prob(u).sum(0)
        return per_gene.sum(), per_gene

    return jax.value_and_grad(total, has_aux=True)(z)


@partial(jax.jit, static_argnums=0)
def summary_and_gradient(model: Model, z: dict, log_mrna, batch, evidence):
    def total(z):
        return model.likelihood(constrained(z, jnp.exp, jax.nn.sigmoid), log_mrna, batch).log_prob(evidence)

    return jax.value_and_grad(total)(z)


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [None, [[0.05, 0.3, 0.6], [0.9, 0.1, 0.2]]], ids=["no gate", "gate"])
def test_draws(gate):
    r, mean = np.array([[0.4, 2.0, 20.0], [1.0, 0.7, 5.0]]), np.array([[0.3, 4.0, 60.0], [20.0, 1.0, 0.1]])
    batch, nu = np.array([0, 1, 1, 0]), np.array([1.0, 0.5, 2.0, 0.2])
    logits = None if gate is None else jnp.asarray(logit(gate))
    likelihood = NegativeBinomialCounts(jnp.log(r), jnp.log(mean / r), jnp.log(nu), logits, jnp.asarray(batch))
    n = 20_000
    u = np.asarray(jax.jit(lambda key: likelihood.sample(key, (n,)))(jax.random.key(0)))
    assert u.shape == (n, 4, 3)
    r, m, kept = r[batch], mean[batch] * nu[:, None], 1 - (np.zeros((4, 3)) if gate is None else np.array(gate)[batch])
    variance = kept * (m + m**2 / r + m**2) - (kept * m) ** 2
    zero = 1 - kept + kept * (1 + m / r) ** -r

    def off(x, expected):
        return np.abs(x.mean(0) - expected) / (x.std(0) / np.sqrt(n) + 1e-9)  # in standard errors

    assert off(u, kept * m).max() < 4
    assert off((u - kept * m) ** 2, variance).max() < 4
    assert off(u == 0, zero).max() < 4
    correlation = np.corrcoef(u.reshape(n, -1), rowvar=False) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)  # cells and genes are drawn independently
