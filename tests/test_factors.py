"""The linear factor model of counts: its likelihood against SciPy's, what it recovers, its gauge, its edge cases."""

import jax
import numpy as np
import pytest
from scipy import optimize, sparse, stats
from scipy.special import digamma, log_softmax

from scbayes.counts import Counts, _blocks
from scbayes.counts._dense_blocks import dense_blocks
from scbayes.models import _factor_cells, _factors
from scbayes.models._factor_cells import visit
from scbayes.models._factor_genes import GeneState, Priors, Sums, pairs_of
from scbayes.models._factors import FactorParams, fit_factors, modes


def simulate(seed=0, *, n_cells=1500, n_genes=300, n_latent=3, depth=2000.0, n_batches=2):
    """Counts of the model, its parameters, and the cells' factors."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0, 0.5, (n_genes, n_latent)) * np.linspace(1.2, 0.8, n_latent)
    offset = rng.normal(0, 1, (n_genes, 1)) + rng.normal(0, 0.3, (n_genes, n_batches))
    params = FactorParams(loadings, offset, rng.normal(0.7, 0.5, n_genes))
    z, batch = rng.standard_normal((n_cells, n_latent)), rng.integers(n_batches, size=n_cells)
    mean = depth * rng.lognormal(0, 0.3, n_cells)[:, None] * np.exp(log_share(params, z, batch))
    theta = np.exp(params.log_theta)
    x = rng.negative_binomial(theta, theta / (theta + mean))
    counts = Counts(sparse.csr_array(x.astype(np.float32)), batch, n_batches)
    counts.expected = mean.sum(1)
    return counts, params, z


def dense(counts: Counts) -> np.ndarray:
    return counts.x.toarray().astype(float)


def log_share(params: FactorParams, z, batch) -> np.ndarray:
    return log_softmax(params.offset.T[batch] + z @ params.loadings.T, -1)


def log_likelihood(params: FactorParams, x, size, z, batch) -> np.ndarray:
    """Log likelihood of every count, by SciPy."""
    mean = np.expand_dims(size, -1) * np.exp(log_share(params, z, batch))
    if np.isinf(params.log_theta).all():
        return stats.poisson.logpmf(x, mean)
    theta = np.exp(params.log_theta)
    return stats.nbinom.logpmf(x, theta, theta / (theta + mean))


def curvature(function, at: np.ndarray, step=1e-3) -> np.ndarray:
    """Negative second derivatives by finite differences."""
    eye = step * np.eye(len(at))
    return -np.array(
        [
            [(function(at + a + b) - function(at + a - b) - function(at - a + b) + function(at - a - b)) for b in eye]
            for a in eye
        ]
    ) / (4 * step**2)


@pytest.fixture(scope="module")
def fitted():
    counts, params, z = simulate()
    return counts, params, z, fit_factors(counts, n_latent=3)


def encode(params: FactorParams, counts: Counts, size: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    size = counts.totals().astype(float) if size is None else size
    return modes(params, counts, size, np.zeros((counts.n_cells, params.loadings.shape[1])))


# --- the cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["nb", "poisson"])
def test_cells_are_at_the_mode_of_the_posterior(likelihood):
    counts, params, _ = simulate(1, n_cells=40, n_genes=60, depth=300)
    if likelihood == "poisson":
        params = params._replace(log_theta=np.full(60, np.inf))
    x = dense(counts)
    size = 1.3 * x.sum(1)  # a size factor that is not the total
    loc, scale = encode(params, counts, size)
    for c in range(0, 40, 4):

        def log_posterior(z, c=c):
            return log_likelihood(params, x[c], size[c], z, counts.batch[c]).sum() - 0.5 * z @ z

        best = optimize.minimize(lambda z, f=log_posterior: -f(z), np.zeros(3), tol=1e-8)
        np.testing.assert_allclose(loc[c], best.x, atol=2e-3)
        precision = np.diag(curvature(log_posterior, best.x))
        np.testing.assert_allclose(scale[c], precision**-0.5, rtol=5e-3)


def elbo(fit) -> np.ndarray:
    return fit.history[:, 0] - fit.history[:, 1]


def test_cells_far_from_the_start_get_there():
    counts, params, _ = simulate(2, n_cells=30, n_genes=80, depth=5000)
    params = params._replace(loadings=4 * params.loadings)  # Newton's method without damping overshoots here
    x = dense(counts)
    loc, _ = encode(params, counts)
    slope = [
        optimize.approx_fprime(
            loc[c], lambda z, c=c: log_likelihood(params, x[c], x[c].sum(), z, counts.batch[c]).sum() - 0.5 * z @ z
        )
        for c in range(30)
    ]
    _, scale = encode(params, counts)
    assert np.abs(np.array(slope) * scale**2).max() < 0.01  # what is left of Newton's step


# --- the genes --------------------------------------------------------------------------------------------------------


def visited(counts: Counts, params: FactorParams, z: np.ndarray) -> Sums:
    """Sums over cells that stay at z."""
    sums = Sums(counts.n_genes, counts.n_batches, z.shape[1])
    genes, size = _factors._genes(params), dense(counts).sum(1)
    for block in dense_blocks(counts):
        rows = len(block.x)
        start = _factors.padded(z[block.cells], rows)
        sums.add(block.batch, visit(block.x, _factors.padded(size[block.cells], rows), genes[block.batch], start, 0))
    return sums


@pytest.mark.parametrize("likelihood", ["nb", "poisson"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_genes_see_the_slope_of_the_expected_log_likelihood(likelihood, spread, monkeypatch):
    counts, params, z = simulate(4, n_cells=50, n_genes=12, n_latent=2, depth=400)
    if likelihood == "poisson":
        params = params._replace(log_theta=np.full(12, np.inf))
    x, place = dense(counts), _factor_cells.deviation
    size = x.sum(1)
    fixed = spread * np.array([0.05, 0.15])
    monkeypatch.setattr(_factor_cells, "deviation", lambda at: 0 * place(at) + fixed + 1e-6)
    for program in (_factor_cells._expected, _factor_cells._tell):
        program.clear_cache()
    sums = visited(counts, params, z)
    for program in (_factor_cells._expected, _factor_cells._tell):
        program.clear_cache()

    def expected(offset, loadings, log_theta) -> float:
        """Gauss-Hermite average over the cells' factors."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        weights = weights / weights.sum()
        own = FactorParams(loadings, offset, log_theta)
        return sum(
            a * b * log_likelihood(own, x, size, z + np.array([s, t]) * fixed, counts.batch).sum()
            for s, a in zip(nodes, weights, strict=True)
            for t, b in zip(nodes, weights, strict=True)
        )

    state = GeneState(params.offset, params.loadings, params.log_theta, Priors(1.0, np.ones(2)))
    pairs = pairs_of(counts.summarise())
    close = 1e-5 if spread == 0 else 2e-4
    assert state.log_likelihood(sums, pairs) == pytest.approx(expected(*params[1::-1], params.log_theta), rel=close)

    def slope(which: int) -> np.ndarray:
        def moved(step):
            parts = [params.offset, params.loadings, params.log_theta]
            parts[which] = parts[which] + step.reshape(parts[which].shape)
            return expected(*parts)

        size = [params.offset, params.loadings, params.log_theta][which].size
        steps = 1e-4 * np.eye(size)
        return np.array([(moved(step) - moved(-step)) / 2e-4 for step in steps])

    scale = np.sqrt(sums.of_batch[:, :, -1].sum(1))[:, None]  # standard errors of the slopes
    error = 5e-3 if spread == 0 else 0.15
    assert np.abs((sums.offset - slope(0).reshape(12, 2)) / scale).max() < (0.03 if likelihood == "nb" else 0.002)
    assert np.abs((sums.loadings - slope(1).reshape(12, 2)) / scale).max() < error
    if likelihood == "nb":
        theta = np.exp(params.log_theta)
        at = theta[pairs.gene]
        rise = pairs.sum(digamma(pairs.count + at) - digamma(at), 12)
        found = theta * rise - sums.theta[:, 1] - sums.theta[:, 2]
        np.testing.assert_allclose(found, slope(2), atol=0.02 if spread == 0 else 1.0)


def test_theta_steps_to_its_maximum():
    counts, params, z = simulate(5, n_cells=400, n_genes=20, n_latent=2)
    state = GeneState(params.offset, params.loadings, params.log_theta + 1.0, Priors(1.0, np.ones(2), (0.0, 1e6)))
    pairs = pairs_of(counts.summarise())
    for _ in range(12):
        own = FactorParams(state.loadings, state.offset, state.log_theta)
        sums = visited(counts, own._replace(loadings=1e-9 * own.loadings), 0 * z)
        state.priors.log_theta = (0.0, 1e6)
        state._step_theta(sums, pairs)
    x = dense(counts)
    flat = params._replace(loadings=0 * params.loadings)
    for g in range(0, 20, 5):

        def loss(log_theta, g=g):
            own = flat._replace(log_theta=np.where(np.arange(20) == g, log_theta, 0.0))
            return -log_likelihood(own, x, x.sum(1), 0 * z, counts.batch)[:, g].sum()

        best = optimize.minimize_scalar(loss, bounds=(-4, 6), method="bounded")
        assert state.log_theta[g] == pytest.approx(best.x, abs=0.01)


# --- what is recovered ------------------------------------------------------------------------------------------------


def aligned(params: FactorParams, truth: FactorParams) -> tuple[np.ndarray, np.ndarray]:
    """Sine of the largest angle between the subspaces of loadings, and the map from true to fitted factors."""
    fit, true = (p.loadings - p.loadings.mean(0) for p in (params, truth))
    angles = np.linalg.svd(np.linalg.qr(fit)[0].T @ np.linalg.qr(true)[0])[1]
    return np.sqrt(1 - angles.min() ** 2), np.linalg.lstsq(fit, true, rcond=None)[0]


def test_parameters_are_recovered(fitted):
    counts, truth, z, fit = fitted
    sine, _ = aligned(fit.params, truth)
    assert sine < 0.1
    error = fit.params.log_theta - truth.log_theta
    seen = dense(counts).mean(0) > 2
    assert abs(np.median(error[seen])) < 0.05
    assert error[seen].std() < 0.2
    step, true_step = (np.diff(p.offset, axis=1)[:, 0] for p in (fit.params, truth))
    means = [z[counts.batch == b].mean(0) for b in range(2)]  # their batch means are part of the offset
    true_step = true_step + truth.loadings @ (means[1] - means[0])
    assert np.corrcoef(step, true_step)[0, 1] > 0.97
    assert (step - step.mean()).std() == pytest.approx(true_step.std(), rel=0.1)
    assert fit.params.loadings.shape == (300, 3)
    assert fit.params.offset.shape == (300, 2)


def test_intervals_of_the_cells_cover(fitted):
    counts, truth, z, fit = fitted
    loc, scale = encode(truth, counts, counts.expected)
    size = counts.expected
    precision = precisions(counts, truth, loc, size)
    np.testing.assert_allclose(scale, np.diagonal(precision, axis1=1, axis2=2) ** -0.5, rtol=0.01)
    distance = np.einsum("ck,ckl,cl->c", loc - z, precision, loc - z)
    for level in (0.5, 0.9):
        assert np.mean(distance < stats.chi2(3).ppf(level)) == pytest.approx(level, abs=0.035)
    # with fitted loadings, whose own error is not in the intervals
    _, onto = aligned(fit.params, truth)
    centred = z - np.stack([z[counts.batch == b].mean(0) for b in range(2)])[counts.batch]
    away = (fit.loc - centred @ onto.T) / fit.scale
    assert 0.84 < np.mean(np.abs(away) < stats.norm.ppf(0.95)) < 0.92


def precisions(counts: Counts, params: FactorParams, loc: np.ndarray, size=None) -> np.ndarray:
    """Precision of each cell's posterior, computed densely."""
    x = dense(counts)
    rho = np.exp(log_share(params, loc, counts.batch))
    mu, alpha = (x.sum(1) if size is None else size)[:, None] * rho, np.exp(-params.log_theta)
    share = ((x - mu) / (1 + alpha * mu)).sum(1, keepdims=True)
    u = mu * (1 + alpha * x) / (1 + alpha * mu) ** 2 + rho * share
    j = params.loadings - (rho @ params.loadings)[:, None]
    return np.einsum("cg,cgk,cgl->ckl", u, j, j) + np.eye(params.loadings.shape[1])


def test_gauge(fitted):
    counts, _, _, fit = fitted
    precision = precisions(counts, fit.params, fit.loc)
    np.testing.assert_allclose(fit.scale, np.diagonal(precision, axis1=1, axis2=2) ** -0.5, rtol=0.01)
    average = precision.mean(0)
    size = np.sqrt(np.diag(average))
    assert np.abs(average / np.outer(size, size) - np.eye(3)).max() < 0.01
    np.testing.assert_allclose(fit.information, np.diag(average) - 1, rtol=0.02)
    assert (np.diff(fit.information) < 0).all()
    largest = np.abs(fit.params.loadings).argmax(0)
    assert (fit.params.loadings[largest, np.arange(3)] > 0).all()
    second = fit.loc.T @ fit.loc / len(fit.loc) + np.diag((fit.scale**2).mean(0))
    np.testing.assert_allclose(second, np.eye(3), atol=0.1)
    for b in range(2):
        assert np.abs(fit.loc[counts.batch == b].mean(0)).max() < 0.02


def test_history_is_a_lower_bound_of_the_marginal_likelihood():
    counts, _, _ = simulate(6, n_cells=300, n_genes=40, n_latent=1, depth=200)
    fit = fit_factors(counts, n_latent=1, tolerance=1e-6)
    nodes = np.linspace(-6, 6, 401)
    x = dense(counts)
    on_nodes = np.stack(
        [log_likelihood(fit.params, x, x.sum(1), np.full((300, 1), s), counts.batch).sum(1) for s in nodes], 1
    )
    weight = stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
    marginal = np.log(np.exp(on_nodes - on_nodes.max(1, keepdims=True)) @ weight) + on_nodes.max(1)
    assert elbo(fit)[-1] == pytest.approx(marginal.mean(), abs=0.02)
    assert elbo(fit)[-1] > elbo(fit)[0] + 1


def test_new_cells_are_encoded_as_those_of_the_fit(fitted):
    counts, _, _, fit = fitted
    loc, scale = encode(fit.params, counts)
    np.testing.assert_allclose(loc, fit.loc, atol=2e-3)
    np.testing.assert_allclose(scale, fit.scale, rtol=2e-3)


# --- edges ------------------------------------------------------------------------------------------------------------


def test_seed(fitted):
    counts, _, _, fit = fitted
    again, other = (fit_factors(counts, n_latent=3, seed=seed) for seed in (0, 1))
    assert np.array_equal(again.loc, fit.loc)
    assert np.array_equal(again.params.loadings, fit.params.loadings)
    assert not np.array_equal(other.loc, fit.loc)
    np.testing.assert_allclose(elbo(other)[-1], elbo(fit)[-1], rtol=1e-3)


def test_double_precision_elsewhere_changes_nothing(fitted):
    counts, _, _, fit = fitted
    with jax.enable_x64(True):
        again = fit_factors(counts, n_latent=3)
    assert np.array_equal(again.loc, fit.loc)


def test_factors_that_explain_nothing_are_inactive():
    counts, truth, _ = simulate(7, n_batches=1)
    fit = fit_factors(counts, n_latent=8)
    assert fit.params.offset.shape == (300, 1)
    assert fit.information[2] > 10
    assert fit.information[3:].max() < 2
    assert fit.scale[:, 3:].mean() > 0.7
    top = fit.params._replace(loadings=fit.params.loadings[:, :3])
    assert aligned(top, truth)[0] < 0.1


@pytest.mark.parametrize("likelihood", ["nb", "poisson"])
def test_empty_cells_and_genes(likelihood):
    counts, _, _ = simulate(8, n_cells=200, n_genes=50)
    x = dense(counts)
    x[::50], x[:, ::10] = 0, 0
    x[counts.batch == 1, 3] = 0  # a gene that one batch has not
    fit = fit_factors(Counts(sparse.csr_array(x), counts.batch, 2), n_latent=2, likelihood=likelihood)
    assert all(np.isfinite(part).all() for part in (*fit.params[:2], fit.loc, fit.scale, fit.history))
    np.testing.assert_allclose(fit.loc[::50], 0, atol=1e-6)
    np.testing.assert_allclose(fit.scale[::50], 1, atol=1e-6)
    assert np.isinf(fit.params.log_theta).all() == (likelihood == "poisson")
    share = np.exp(log_share(fit.params, np.zeros((2, 2)), np.arange(2)))
    assert share[:, ::10].max() < 1e-4


def test_more_factors_than_genes_or_cells():
    counts, _, _ = simulate(9, n_cells=30, n_genes=6)
    fit = fit_factors(counts, n_latent=9)
    assert np.isfinite(fit.loc).all()
    assert fit.information[-1] < 0.1


def test_first_rounds_on_few_cells(fitted, monkeypatch):
    counts, _, _, fit = fitted
    monkeypatch.setattr(_factors, "FEW", 400)
    quick = fit_factors(counts, n_latent=3)
    assert 0 < quick.n_few < len(quick.history)
    assert elbo(quick)[-1] == pytest.approx(elbo(fit)[-1], rel=1e-3)
    assert aligned(quick.params, fit.params)[0] < 0.08
    loc, _ = encode(quick.params, counts)
    np.testing.assert_allclose(quick.loc, loc, atol=2e-3)


def test_rounds_can_be_watched_and_stopped():
    counts, _, _ = simulate(10, n_cells=100, n_genes=40)
    seen = []
    fit = fit_factors(counts, n_latent=2, on_round=lambda i, value: seen.append((i, value)) or i == 2)
    assert [i for i, _ in seen] == [0, 1, 2]
    np.testing.assert_array_equal(elbo(fit), [value for _, value in seen])
    assert np.isfinite(fit.loc).all()
    assert fit.loc.std() > 0.3


@pytest.mark.parametrize(
    ("argument", "match"),
    [({"n_latent": 0}, "n_latent"), ({"n_rounds": 0}, "n_rounds"), ({"likelihood": "zinb"}, "'zinb'")],
)
def test_refused(argument, match):
    counts, _, _ = simulate(11, n_cells=20, n_genes=10)
    with pytest.raises(ValueError, match=match):
        fit_factors(counts, **argument)


def test_dense_blocks_hold_every_cell_once(monkeypatch):
    counts, _, _ = simulate(12, n_cells=500, n_genes=40, n_batches=3)
    whole = dense(counts)
    for n_bytes in (_blocks.BLOCK_BYTES, 20_000):  # at once, and a few cells at a time
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", n_bytes)
        read = Counts(whole, counts.batch, 3)
        found = list(dense_blocks(read))
        cells = np.concatenate([block.cells for block in found])
        assert np.array_equal(np.sort(cells), np.arange(500))
        assert len({block.x.shape for block in found}) == 1
        assert len(found) <= 500 // found[0].x.shape[0] + 3  # one block that is not full for each batch
        for batch, own, x in found:
            assert x.dtype == np.float32
            assert (counts.batch[own] == batch).all()
            np.testing.assert_array_equal(x[: len(own)], whole[own])
            assert not x[len(own) :].any()
