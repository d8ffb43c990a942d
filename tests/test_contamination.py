"""The parts of `tl.denoise`, each against an independent form: SciPy, dense matrices, simulations."""

import numpy as np
import pytest
from scipy import sparse, stats

from scbayes.counts import Counts
from scbayes.counts._leave_out import leave_out_sums
from scbayes.models._ambient_group import make_groups
from scbayes.models._ambient_scores import FINE, anchored, gene_weights, log_likelihood
from scbayes.models._native_counts import _limits, divide_counts, native_profile, native_size
from scbayes.models._native_noise import dispersion, find_noise, find_programmes
from scbayes.stats._delaporte import ambient_part, divide


def group_of(x, profile, *, level=0.1):
    """All rows of ``x`` as one group."""
    x = sparse.csr_array(np.asarray(x, np.float64))
    zeros = np.zeros(x.shape[0], int)
    return make_groups(Counts(x), zeros, zeros, np.asarray(profile)[:, None], level=level)[0]


def line(rng, n_cells, n_genes=150, total=3000, spread=0.03, least=0.02):
    """A composition, a soup, places of cells on the line between them (mean 0), and totals."""
    m, a = rng.dirichlet(np.full(n_genes, 0.8), 2) * (1 - least) + least / n_genes
    delta = rng.normal(0, spread, n_cells)
    n = rng.lognormal(np.log(total), 0.3, n_cells)
    return m, a, delta - delta.mean(), n


# --- one count --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "ambient", "native", "size"),
    [(1, 0.2, 0.5, 0.3), (7, 2.0, 3.0, 1.7), (40, 30.0, 0.4, 0.05), (3, 1e-9, 2.0, 5.0), (900, 100.0, 600.0, 1e4)],
)
def test_division_is_the_posterior(x, ambient, native, size):
    j = np.arange(x + 1)
    log = stats.poisson.logpmf(j, ambient) + stats.nbinom.logpmf(x - j, size, size / (size + native))
    p = np.exp(log - log.max())
    p /= p.sum()
    tail = np.full(x + 2, -1.0)
    assert divide(x, ambient, native, size, tail) == pytest.approx(p @ j, rel=1e-9)
    np.testing.assert_allclose(tail[:x], 1 - np.cumsum(p)[:-1], atol=1e-10)
    assert (tail[x:] == -1).all()
    values = [np.array([float(value)]) for value in (x, ambient, native, size)]
    assert ambient_part(*values)[0] == pytest.approx(p @ j, rel=1e-9)


def test_division_at_the_ends():
    tail = np.empty(100_000)
    assert divide(5, 0.0, 2.0, 1.0, tail) == 0
    assert (tail[:5] == 0).all()
    assert divide(5, 0.3, 0.0, 1.0, tail) == 5
    assert (tail[:5] == 1).all()
    assert divide(0, 0.3, 0.2, 1.0, tail) == 0
    # far beyond what a double holds without care: two Poisson parts are binomial
    assert divide(100_000, 30_000.0, 60_000.0, 1e12, tail) == pytest.approx(100_000 / 3, rel=1e-5)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_sums_without_the_cell_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    x, total, mean = rng.poisson(1.0, (40, 30)).astype(float), rng.uniform(20, 40, 40), rng.dirichlet(np.ones(30))
    w, change = rng.normal(size=(2, 30, 3))
    expected = x @ w + (x * (x - total[:, None] * mean)) @ change
    np.testing.assert_allclose(leave_out_sums(sparse.csr_array(x), total, w, change, mean), expected, rtol=1e-12)


@pytest.mark.parametrize("delta", [-0.1, 0.0, 0.3])
def test_weights_are_those_of_the_whole_covariance(delta):
    rng = np.random.default_rng(1)
    m, a, _, n = line(rng, 50, 40)
    group = group_of(rng.poisson(n[:, None] * m), a)
    group.noise, group.dispersion = 1.7, rng.uniform(0.05, 0.6, 40)
    mean = group.expected()
    plain = gene_weights(group, delta, 2000.0)[0]
    mu = np.maximum(mean + delta * (a - mean), 0.01 * np.maximum(mean, a))
    v = np.diag(mu / 2000 + 1.7 * (1 - delta) ** 2 * group.native_variance(mean))
    np.testing.assert_allclose(plain, np.linalg.solve(v, a - mean), rtol=1e-9)
    group.programmes = rng.normal(0, 0.01, (40, 2))
    found, change = gene_weights(group, delta, 2000.0)
    v += 1.7 * (1 - delta) ** 2 * group.programmes @ group.programmes.T
    np.testing.assert_allclose(found, np.linalg.solve(v, a - mean), rtol=1e-8)
    assert np.abs(found / plain - 1).max() > 0.1
    assert (change[group.sums < 1] == 0).all()


def test_log_likelihood_is_that_of_poisson_counts():
    """Without native variance the quasi-likelihood is the likelihood; m is of so many cells that it is known."""
    rng = np.random.default_rng(2)
    m, a, delta, n = line(rng, 2000, least=0.7)
    n[:] = 3000
    x = rng.poisson(n[:, None] * (m + delta[:, None] * (a - m)))
    group = group_of(x, a)
    group.dispersion = np.zeros(150)
    curve, mean = log_likelihood(group), group.expected()
    inside = (FINE > -0.15) & (FINE < 0.2)
    for c in range(3):
        mu = group.total[c] * (mean + FINE[inside, None] * (a - mean))
        exact = stats.poisson.logpmf(x[c], np.maximum(mu, 1e-12)).sum(1)
        near = exact > exact.max() - 6
        found = curve[c, inside]
        np.testing.assert_allclose(found[near] - found.max(), exact[near] - exact.max(), atol=0.25)


def test_score_is_that_of_negative_binomial_counts():
    """At the truth: (a - m) (x - N m) / (m (1 + N m phi)) for each gene."""
    rng = np.random.default_rng(3)
    m, a, _, n = line(rng, 400, least=0.3)
    x = rng.poisson(rng.gamma(4, 1 / 4, (400, 150)) * n[:, None] * m)
    group = group_of(x, a, level=0.0)
    group.dispersion = np.full(150, 0.25)
    group.total, group.sums = 1e6 * group.total, 1e6 * group.sums  # m is known
    mean, total = group.expected(), 2500.0
    weight, _ = gene_weights(group, 0.0, total)
    at = [stats.nbinom.logpmf(x[0], 4, 4 / (4 + total * (mean + d * (a - mean)))).sum() for d in (-1e-5, 1e-5)]
    assert weight @ (x[0] / total - mean) == pytest.approx((at[1] - at[0]) / 2e-5, rel=1e-3)


def test_what_is_subtracted_is_without_bias():
    """Weights that were fitted to few cells: their sums, and what they are on average, over many repetitions."""
    off, naive = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        m, a, _, n = line(np.random.default_rng(7), 25, 60, 300)
        group = group_of(rng.poisson(n[:, None] * m), a, level=0.05)
        weight, change = (one[:, None] for one in gene_weights(group, 0.0, 300.0))
        average, rise = anchored(group, weight, change)
        observed = group.sums / group.exposure
        sums = leave_out_sums(group.x, group.total, weight, change, observed)[:, 0]
        off.append((sums.sum() / group.exposure - average[0]) / rise[0])
        fresh = rng.poisson(n[:, None] * m) @ weight[:, 0]  # cells that the weights do not know
        naive.append((fresh.sum() / n.sum() - average[0]) / rise[0])
    for found in (off, naive):
        assert abs(np.mean(found)) < 3.5 * np.std(found) / np.sqrt(150) + 1e-12


# --- noise ------------------------------------------------------------------------------------------------------------


def test_dispersion_is_recovered():
    rng = np.random.default_rng(4)
    m, a, delta, n = line(rng, 1500, 80, 8000)
    phi = rng.uniform(0.1, 0.6, 80)
    native = rng.gamma(1 / phi, phi, (1500, 80)) * m * (n * (1 - delta))[:, None]
    x = rng.poisson(np.maximum(native + a * (n * delta)[:, None], 0))
    group = group_of(x, a, level=0.0)
    found = dispersion([group], [delta])
    clear = (m > 0.005) & (a < m)
    assert clear.sum() > 10
    np.testing.assert_allclose(found[clear], phi[clear], rtol=0.3)
    assert np.corrcoef(found[clear], phi[clear])[0, 1] > 0.9


def test_programmes_and_noise_are_recovered():
    rng = np.random.default_rng(5)
    m, a, _, n = line(rng, 1200, 150, 5000)
    load = rng.normal(0, 0.2, 150)
    factor = rng.normal(size=1200)
    x = rng.poisson(rng.gamma(10, 0.1, (1200, 150)) * m * np.exp(np.outer(factor, load)) * n[:, None])
    group = group_of(x, a, level=0.02)
    group.dispersion = np.full(150, 0.1)
    find_programmes([group], rng)
    assert 1 <= group.programmes.shape[1] <= 2
    truth = m * (load - m @ load)
    found = group.programmes[:, 0] * np.sign(group.programmes[:, 0] @ truth)
    assert stats.pearsonr(found, truth).statistic > 0.95
    assert found @ truth / (truth @ truth) == pytest.approx(1, abs=0.2)
    find_noise([group])
    assert group.unexplained < 2.5
    group.dispersion = np.full(150, 0.1 / 20)
    group.programmes = group.programmes[:, :0]
    find_noise([group])
    assert group.unexplained > 8
    assert group.noise == pytest.approx(min(group.unexplained, 1 + len(group.cells) / 60))
    plain = group_of(rng.poisson(n[:, None] * m), a)
    find_programmes([plain], rng)
    assert plain.programmes.shape[1] == 0


# --- whole counts -----------------------------------------------------------------------------------------------------


def divided(rounding, *, seed=0, rng=0):
    r = np.random.default_rng(seed)
    m, a, _, n = line(r, 60, 40, 400)
    share = np.clip(r.normal(0.2, 0.05, 60), 0.02, 0.5)
    x = sparse.csr_array(r.poisson(n[:, None] * ((1 - share[:, None]) * m + share[:, None] * a)).astype(np.float64))
    group = group_of(x.toarray(), a, level=0.2)
    return x, a, group, share, *divide_counts(x, [group], share, rounding=rounding, rng=np.random.default_rng(rng))


def test_ranked_takes_the_expected_total_of_the_likeliest():
    x, a, group, share, native, whole = divided("ranked")
    p, size = native_profile(group), native_size(group)
    rate = np.repeat(group.total * share, np.diff(x.indptr))
    own = np.repeat(group.total * (1 - share), np.diff(x.indptr))
    g = x.indices
    expected = ambient_part(x.data, rate * a[g], own * p[g], size[g])
    np.testing.assert_allclose(native, x.data - expected)
    taken, total = np.bincount(g, x.data - whole, 40), np.bincount(g, expected, 40)
    assert (whole == np.round(whole)).all()
    assert (np.abs(taken - total) < 1).all()
    assert np.sum(taken - total) == pytest.approx(0, abs=10)
    tail = np.empty(1000)
    for gene in np.flatnonzero(taken > 3):
        left, gone = [], []
        for i in np.flatnonzero(g == gene):
            n, away = int(x.data[i]), int(x.data[i] - whole[i])
            divide(n, rate[i] * a[gene], own[i] * p[gene], size[gene], tail)
            gone += list(tail[:away])
            left += list(tail[away:n])
        assert min(gone) >= max([*left, 0]) - 1 / 256


def test_limits_by_hand():
    seen = np.zeros((4, 256), np.int64)
    seen[:, 255], seen[:, 200], seen[:, 3] = 2, 3, 5
    least, left = _limits(seen, np.array([0.0, 1.0, 4.0, 10.0]))
    taken = [min(n, 10) for n in (0, 1, 4, 10)]
    for gene in range(4):
        above = seen[gene, least[gene] + 1 :].sum()
        assert above + left[gene] == taken[gene]
        assert left[gene] <= (seen[gene, least[gene]] if least[gene] >= 0 else 0)


@pytest.mark.parametrize("rounding", ["stochastic", "draw"])
def test_random_rounding_is_without_bias(rounding):
    total, n = 0.0, 60
    for seed in range(n):
        x, *_, native, whole = divided(rounding, rng=seed)
        assert (whole == np.round(whole)).all()
        assert (whole >= 0).all()
        assert (whole <= x.data).all()
        if rounding == "stochastic":
            assert (np.abs(whole - native) < 1).all()
        total += whole
    variance = np.maximum(np.minimum(native, x.data - native), 0.02)
    z = (total / n - native) / np.sqrt(variance / n)
    assert abs(z.mean()) < 0.15
    assert np.sum(total / n) == pytest.approx(native.sum(), rel=0.01)
