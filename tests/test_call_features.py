"""Feature barcodes: laws and sums against scipy and enumeration, calls on known truth, storage, bad input."""

from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, stats
from scipy.special import expit, logsumexp

import scbayes as sb
from scbayes.models._feature_calls import Given, call, learn, smoothed
from scbayes.models._feature_cells import judge, likeliest_sets, prior_odds, tables, tilts
from scbayes.models._feature_counts import (
    NORMAL,
    POINTS,
    Features,
    Sums,
    distinct,
    expected,
    log_ratios,
    log_zeros,
    nodes,
)
from scbayes.models._feature_natives import (
    AMBIENT_SIZE,
    AMBIENT_SPREAD,
    Population,
    _derivatives,
    renew_ambient_size,
    renew_natives,
)
from scbayes.stats._presence import add_up, of_each, of_numbers, split_up

_spec = spec_from_file_location("_feature_barcodes", Path(__file__).parent / "benchmarks" / "_feature_barcodes.py")
barcodes = module_from_spec(_spec)
_spec.loader.exec_module(barcodes)


def adata_of(simulated) -> ad.AnnData:
    n_cells, n_features = simulated.x.shape
    obs = pd.DataFrame({"lane": [f"l{b}" for b in simulated.batch]}, index=[f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"tag{i}" for i in range(n_features)])
    return ad.AnnData(sparse.csr_matrix(simulated.x, dtype=np.float32), obs=obs, var=var)


def scores_of(simulated, adata, key: str = "sb") -> dict:
    return barcodes.scores(simulated, np.asarray(adata.layers[f"{key}_feature_probability"].data, float))


@pytest.fixture(scope="module")
def hashed():
    return barcodes.simulate(4000, 8, seed=1)


@pytest.fixture(scope="module")
def _called(hashed):
    adata = adata_of(hashed)
    sb.tl.call_features(adata)
    return adata


@pytest.fixture
def called(_called):
    return _called.copy()


@pytest.fixture(scope="module")
def features() -> Features:
    """Two batches, three features, 0, 1 or at least 2 of them."""
    rng = np.random.default_rng(0)
    return Features(
        rng.dirichlet(np.ones(3), 2),
        rng.uniform(3, 12, (2, 3)),
        rng.uniform(1, 5, (2, 3)),
        rng.uniform(0.1, 0.6, (2, 3)),
        np.log([2.0, 4.0]),
        np.array([0.5, 0.3]),
        rng.dirichlet(np.full(31, 5.0), 2),
        np.array([6.0, 30.0]),
        rng.dirichlet(np.ones(3), 2),
        0.6,
    )


@pytest.fixture(scope="module")
def small():
    """Counts of 12 cells in two batches."""
    rng = np.random.default_rng(1)
    x = sparse.csr_array(rng.poisson(rng.choice([0.5, 6.0], (12, 3))))
    return x, np.arange(12) % 2


def law(features, at, b, f, g):
    """Ambient law, and probabilities of native counts without zero."""
    rate = np.exp(at.amount[b, g]) * features.profile[b, f]
    phi, r = features.ambient_size[b], features.size[b, f]
    mean = features.mean[b, f] * np.exp(features.coupling * (at.amount[b, g] - features.amount[b]))
    native = stats.nbinom(r, r / (r + mean))
    return stats.nbinom(phi, phi / (phi + rate)), lambda n: native.pmf(n) / (1 - native.pmf(0))


# --- sums and laws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "last"), [(5, 3), (5, 5), (4, 7), (1, 1), (6, 2)])
def test_sums_over_subsets_are_those_of_enumeration(n, last):
    rng = np.random.default_rng(n)
    absent, present, factor = rng.random(n), rng.random(n), rng.random(last + 1)
    sums, inside, outside = np.zeros((n + 1, last + 1)), np.zeros(n), np.zeros(n)
    add_up(absent, present, n, sums)
    total = split_up(absent, present, n, factor, sums, inside, outside)
    subsets = np.array(list(product([0, 1], repeat=n)))
    weight = factor[np.minimum(subsets.sum(1), last)] * np.where(subsets, present, absent).prod(1)
    assert total == pytest.approx(weight.sum())
    np.testing.assert_allclose(inside, weight @ subsets)
    np.testing.assert_allclose(outside, weight @ (1 - subsets))


def test_independent_things():
    p = np.array([0.2, 0.5, 0.9])
    np.testing.assert_allclose(of_each(p, np.ones(3)), p)
    np.testing.assert_allclose(of_numbers(p, 2), [0.04, 0.41, 0.55])
    np.testing.assert_allclose(of_each(p, np.array([0.0, 1.0, 0.0])), np.array([0.01, 0.04, 0.36]) / 0.41)


def test_ratios_are_those_of_the_convolution(features, small):
    x, batch = small
    pairs, at = distinct(x, batch, 2), nodes(features)
    present, absent = log_ratios(pairs, features, at)
    for i in range(0, len(pairs.count), 3):
        b, f = divmod(int(pairs.group[i]), 3)
        for g in (0, 7, 14):
            ambient, native = law(features, at, b, f, g)
            n = np.arange(1, pairs.count[i] + 1)
            both = (native(n) * ambient.pmf(pairs.count[i] - n)).sum()
            assert present[i, g] == pytest.approx(np.log(both) - ambient.logpmf(pairs.count[i]))
            assert absent[i, g] == pytest.approx(ambient.logpmf(pairs.count[i]) - ambient.logpmf(0))
    zero = sum(law(features, at, 1, f, 3)[0].logpmf(0) for f in range(3))
    assert log_zeros(features, at)[1, 3] == pytest.approx(zero)


def test_ratios_hold_far_from_both_laws(features):
    """3,000 counts, where neither 9 native nor 2 ambient ones were expected: log sums do not underflow."""
    x = sparse.csr_array(np.array([[3000, 1, 0]]))
    features = Features(*(part[:1] for part in features[:-1]), features.coupling)
    pairs, at = distinct(x, np.zeros(1, int), 1), nodes(features)
    found = log_ratios(pairs, features, at)[0][pairs.of[0]]
    ambient, native = law(features, at, 0, 0, 7)
    count = pairs.count[pairs.of[0]]
    assert count == pytest.approx(3000, rel=0.02)
    k = np.arange(200)
    size, mean = features.size[0, 0], features.mean[0, 0]
    log = stats.nbinom.logpmf(count - k, size, size / (size + mean)) - np.log1p(-native(0))
    scale = stats.nbinom(size, size / (size + mean)).pmf(0)
    log = stats.nbinom.logpmf(count - k, size, size / (size + mean)) - np.log1p(-scale)
    assert found[7] == pytest.approx(logsumexp(log + ambient.logpmf(k)) - ambient.logpmf(count), rel=1e-6)
    assert np.isfinite(found).all()


def test_counts_are_exact_to_a_hundred_and_near_beyond():
    count = np.arange(1, 5000)
    pairs = distinct(sparse.csr_array(count[:, None]), np.zeros(len(count), int), 1)
    near = pairs.count[pairs.of]
    np.testing.assert_array_equal(near[:100], count[:100])
    assert np.abs(near / count - 1).max() <= 0.011
    assert len(pairs.count) < 400


def enumerated(x, batch, features, at):
    """Posterior of every cell by enumeration of subsets at each node, with scipy's laws."""
    n_features, last = x.shape[1], features.number.shape[1] - 1
    probability, number, evidence, best = np.zeros(x.shape), np.zeros((x.shape[0], last + 1)), [], []
    subsets = list(product([0, 1], repeat=n_features))
    alone = [of_numbers(own, last) for own in features.prevalence]
    for c, row in enumerate(np.asarray(x.todense())):
        b = batch[c]
        joint = np.zeros((len(subsets), at.amount.shape[1]))
        for g in range(joint.shape[1]):
            laws = [law(features, at, b, f, g) for f in range(n_features)]
            for s, subset in enumerate(subsets):
                k = min(sum(subset), last)
                value = np.exp(at.weight[b, g]) * features.number[b, k] / alone[b][k]
                for f, z in enumerate(subset):
                    ambient, native = laws[f]
                    n = np.arange(1, row[f] + 1)
                    p = features.prevalence[b, f]
                    value *= p * (native(n) * ambient.pmf(row[f] - n)).sum() if z else (1 - p) * ambient.pmf(row[f])
                joint[s, g] = value
        posterior = joint.sum(1) / joint.sum()
        evidence.append(np.log(joint.sum()))
        probability[c] = posterior @ np.array(subsets)
        np.add.at(number[c], np.minimum(np.sum(subsets, 1), last), posterior)
        best.append(dict(zip(subsets, posterior, strict=True)))
    return probability, number, evidence, best


def test_cells_are_judged_as_by_enumeration(features, small):
    x, batch = small
    pairs, at = distinct(x, batch, 2), nodes(features)
    looked_up = tables(pairs, features, at)
    cells = judge(x, batch, pairs, features, looked_up)
    probability, number, evidence, posterior = enumerated(x, batch, features, at)
    row = np.repeat(np.arange(12), np.diff(x.indptr))
    np.testing.assert_allclose(expit(cells.log_odds), probability[row, x.indices], atol=1e-6)
    np.testing.assert_allclose(cells.number, number, atol=1e-6)
    np.testing.assert_allclose(cells.evidence, evidence, rtol=1e-9)
    np.testing.assert_allclose(cells.node.sum(1), 1)
    assert cells.present.sum() == pytest.approx(probability.sum())
    sets = likeliest_sets(x, batch, pairs, features, looked_up, cells)
    for c in range(12):
        own = x.indices[sets.order[x.indptr[c] : x.indptr[c + 1]]]
        chosen = tuple(int(f in own[: sets.size[c]]) for f in range(3))
        assert sets.probability[c] == pytest.approx(posterior[c][chosen], rel=1e-6)
        assert sets.probability[c] == pytest.approx(max(posterior[c].values()), rel=1e-6)
        if len(own):
            alone = tuple(int(f == own[0]) for f in range(3))
            assert sets.single[c] == pytest.approx(posterior[c][alone], rel=1e-6)


def test_prior_odds_are_those_of_enumeration(features):
    for b in range(2):
        weight, factor = {}, np.exp(tilts(features)[b])
        for subset in product([0, 1], repeat=3):
            p = np.where(subset, features.prevalence[b], 1 - features.prevalence[b]).prod()
            weight[subset] = p * factor[min(sum(subset), 2)]
        total = sum(weight.values())
        assert total == pytest.approx(1)
        found = sum(w * np.array(subset) for subset, w in weight.items()) / total
        np.testing.assert_allclose(expit(prior_odds(features)[b]), found)


def test_expected_sums_are_those_of_the_laws(features, small):
    x, batch = small
    pairs, at = distinct(x, batch, 2), nodes(features)
    rng = np.random.default_rng(2)
    weight = rng.random((len(pairs.count), at.amount.shape[1]))
    present = weight * rng.random(weight.shape)
    sums = expected(pairs, features, at, weight, present)
    h = int(pairs.group[-1])
    native, ambient, above, floating = 0.0, 0.0, np.zeros(60), np.zeros(60)
    for i in np.flatnonzero(pairs.group == h):
        for g in range(weight.shape[1]):
            floats, own = law(features, at, *divmod(h, 3), g)
            n = np.arange(1, pairs.count[i] + 1)
            share = own(n) * floats.pmf(pairs.count[i] - n)
            share *= present[i, g] / share.sum()
            native += (share * n).sum()
            rest = weight[i, g] - present[i, g]
            ambient += (share * (pairs.count[i] - n)).sum() + rest * pairs.count[i]
            for j in range(60):
                above[j] += share[n > j].sum()
                floating[j] += share[pairs.count[i] - n > j].sum() + rest * (pairs.count[i] > j)
    assert sums.native[h].sum() == pytest.approx(native)
    assert sums.ambient[h].sum() == pytest.approx(ambient)
    assert sums.cells[h].sum() == pytest.approx(present[pairs.group == h].sum())
    own = slice(sums.start[h], sums.start[h + 1])
    np.testing.assert_allclose(sums.native_above[own], above[: sums.start[h + 1] - sums.start[h]], atol=1e-9)
    np.testing.assert_allclose(sums.ambient_above[own], floating[: sums.start[h + 1] - sums.start[h]], atol=1e-9)


def test_means_and_sizes_are_the_most_probable():
    rng = np.random.default_rng(3)
    offset = np.array([[-0.4, 0.3]])
    counts = [rng.negative_binomial(3, 3 / (3 + 8 * np.exp(0.5 * o)), 60) for o in offset[0]]
    counts = [own[own > 0] for own in counts]
    every = np.concatenate(counts)
    above = (every[:, None] > np.arange(every.max())).sum(0).astype(float)
    cells, sums = (np.array([[function(own) for own in counts]], float) for function in (len, np.sum))
    start = np.array([0, len(above)])
    given = Sums(cells, sums, np.zeros((1, 2)), above, np.zeros_like(above), start)
    population = Population(np.array([1.5]), 0.7, np.array([0.6, 0.8]))

    def loss(log):
        value = -((log - [1.5, 0.7]) ** 2 / (2 * np.array([0.6, 0.8]) ** 2)).sum()
        for own, o in zip(counts, offset[0], strict=True):
            r, mean = np.exp(log[1]), np.exp(log[0] + 0.5 * o)
            zero = stats.nbinom.pmf(0, r, r / (r + mean))
            value += (stats.nbinom.logpmf(own, r, r / (r + mean)) - np.log1p(-zero)).sum()
        return -value

    best = np.exp(optimize.minimize(loss, [2.0, 1.0], tol=1e-10).x)
    mean, size = np.full((1, 1), 5.0), np.full((1, 1), 2.0)
    for _ in range(8):
        mean, size, *_ = renew_natives(mean, size, population, 0.5, offset, given)
    np.testing.assert_allclose([mean[0, 0], size[0, 0]], best, rtol=1e-4)


def test_ambient_amounts_are_normal_but_for_what_many_cells_show():
    at = np.linspace(-4.5, 4.5, 15)
    cells = np.where((at < -1) & (at > -2.5) | (at > 0.5) & (at < 1.5), 1.0, 0.0)
    many, few = smoothed(1000 * cells, 2 + 0.5 * at, 2.0, 0.5), smoothed(0.01 * cells, 2 + 0.5 * at, 2.0, 0.5)
    np.testing.assert_allclose([many.sum(), few.sum()], 1)
    np.testing.assert_allclose(few, NORMAL, atol=1e-3)
    middle = np.abs(POINTS + 0.3) < 0.2
    assert many[middle].max() < 0.2 * min(many[POINTS < -1].max(), many[POINTS > 0.5].max())


def test_slopes_and_bends_of_native_counts():
    """Against differences of scipy's log likelihood."""
    counts, offset = [np.array([1, 2, 9]), np.array([4, 4, 1, 20, 7])], np.array([-0.3, 0.4])
    every = np.concatenate(counts)
    above = (every[:, None] > np.arange(every.max())).sum(0).astype(float)

    def value(at):
        total = 0.0
        for own, o in zip(counts, offset, strict=True):
            mean, r = np.exp(at[0] + at[2] * o), np.exp(at[1])
            law = stats.nbinom(r, r / (r + mean))
            total += (law.logpmf(own) - np.log1p(-law.pmf(0))).sum()
        return total

    at, step = np.array([1.2, 0.8, 0.6]), 1e-4 * np.eye(3)
    slope, bend, gamma = np.zeros(2), np.zeros((2, 2)), np.zeros(2)
    sums = np.array([3.0, 5.0]), np.array([own.sum() for own in counts], float)
    _derivatives(at[:2], at[2], offset, *sums, above, slope, bend, gamma)
    first = [(value(at + s) - value(at - s)) / 2e-4 for s in step]
    second = [
        [(value(at + s + t) - value(at + s - t) - value(at - s + t) + value(at - s - t)) / 4e-8 for s in step]
        for t in step
    ]
    np.testing.assert_allclose([*slope, gamma[0]], first, rtol=1e-5)
    np.testing.assert_allclose(bend, -np.array(second)[:2, :2], rtol=1e-4)
    assert gamma[1] == pytest.approx(-second[2][2], rel=1e-4)


def test_the_size_of_ambient_counts_is_the_most_probable():
    rng = np.random.default_rng(4)
    profile, amount = np.array([[0.3, 0.7]]), np.array([[1.5, 2.5]])
    rate = np.exp(amount[0])[:, None, None] * profile[0][:, None]
    counts = rng.negative_binomial(4, 4 / (4 + np.broadcast_to(rate, (2, 2, 300))))  # node, feature, cell
    top = counts.max((0, 2))
    above = np.concatenate([(counts[:, f].ravel()[:, None] > np.arange(top[f])).sum(0) for f in range(2)]).astype(float)
    sums = Sums(*np.zeros((2, 2, 2)), counts.sum(2).T.astype(float), above, above, np.append(0, np.cumsum(top)))
    part = np.zeros((1, 2))
    normal = np.full((1, 31), 1 / 31)
    features = Features(profile, part, part, part, np.zeros(1), np.ones(1), normal, np.array([50.0]), part, 0.0)
    at = nodes(features)._replace(amount=amount)
    size = features.ambient_size
    for _ in range(20):
        size = renew_ambient_size(features._replace(ambient_size=size), at, np.full((1, 2), 300.0), sums)

    def loss(log):
        phi = np.exp(log)
        prior = (log - np.log(AMBIENT_SIZE)) ** 2 / (2 * AMBIENT_SPREAD**2)
        return prior - stats.nbinom.logpmf(counts, phi, phi / (phi + rate)).sum()

    assert size[0] == pytest.approx(np.exp(optimize.minimize_scalar(loss, bounds=(-1, 6)).x), rel=1e-3)


# --- known truth ------------------------------------------------------------------------------------------------------


def test_hashtags_of_twenty_counts(hashed, called):
    found = scores_of(hashed, called)
    assert found["balanced accuracy"] > 0.978
    assert found["at the share"] > 0.985
    assert found["balanced accuracy"] > barcodes.scores(hashed, barcodes.oracle(hashed))["balanced accuracy"] - 0.006
    assert found["ECE"] < 0.005
    assert found["ECE, undecided"] < 0.03
    label, detected = called.obs["sb_feature"].astype(str).to_numpy(), np.diff(hashed.native.indptr)
    first = hashed.native.indices[np.minimum(hashed.native.indptr[:-1], hashed.native.nnz - 1)]
    assert (label[detected == 1] == np.char.add("tag", first[detected == 1].astype(str))).mean() > 0.965
    assert (label[detected > 1] == "doublet").mean() > 0.77
    assert (label[detected == 0] == "negative").mean() > 0.75
    assert called.obs["sb_doublet_probability"].mean() == pytest.approx((detected > 1).mean(), abs=0.01)
    assert called.obs["sb_negative_probability"].mean() == pytest.approx((detected == 0).mean(), abs=0.01)
    right = np.select([detected == 0, detected == 1], ["negative", np.char.add("tag", first.astype(str))], "doublet")
    probability = called.obs["sb_call_probability"].to_numpy()
    assert barcodes.calibration_error(probability, label == right) < 0.015
    assert called.obs["sb_n_features"].mean() == pytest.approx(detected.mean(), rel=0.02)


def test_parameters_are_learned(hashed, called):
    table = sb.get.features(called)
    assert np.abs(table["ambient"] - hashed.profile[0]).sum() < 0.03
    own = [hashed.mean[(hashed.x.indices == f) & barcodes.truth(hashed)].mean() for f in range(8)]
    np.testing.assert_allclose(table["native_mean"], own, rtol=0.15)
    assert table["native_size"].median() == pytest.approx(4, rel=0.2)
    cells = np.bincount(hashed.native.indices, minlength=8)
    np.testing.assert_allclose(table["cells"], cells, rtol=0.05)
    np.testing.assert_allclose(table["prevalence"], cells / 4000, rtol=0.08)
    truth = np.bincount(np.diff(hashed.native.indptr), minlength=9) / 4000
    np.testing.assert_allclose(table.attrs["number"][0], truth, atol=0.01)
    assert table.attrs["amount"][0] == pytest.approx(4.5, rel=0.1)
    assert table.attrs["converged"]


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"n_features": 100, "moi": 2.0, "total": 40}, 0.98),
        ({"n_features": 100, "doublets": 0.03, "ambient": 0.4}, 0.98),
        ({"n_features": 8, "n_batches": 2}, 0.975),
        ({"n_features": 8, "low": 0.3}, 0.965),
        ({"n_features": 8, "ambient_size": 5.0}, 0.975),
    ],
    ids=["guides, Poisson(2)", "guides, one", "two batches", "low totals", "overdispersed ambient counts"],
)
def test_other_settings(settings, least):
    simulated = barcodes.simulate(3000, seed=5, **settings)
    adata = adata_of(simulated)
    several = "n_batches" in settings
    sb.tl.call_features(adata, doublets="moi" not in settings, batch_key="lane" if several else None)
    found = scores_of(simulated, adata)
    assert found["balanced accuracy"] > least
    assert found["ECE"] < 0.008
    assert found["ECE, undecided"] < 0.045  # chance alone: about 0.02
    table = sb.get.features(adata)
    if several:
        for b, (_, own) in enumerate(table.groupby("batch", sort=False)):
            assert np.abs(own["ambient"] - simulated.profile[b]).sum() < 0.08
            assert own["cells"].sum() == pytest.approx(simulated.native[simulated.batch == b].nnz, rel=0.03)
    if "ambient_size" in settings:
        assert table.attrs["ambient_size"][0] == pytest.approx(5, rel=0.4)


def test_several_features_are_named(hashed, called):
    sb.tl.call_features(called, doublets=False, key_added="all")
    detected, label = np.diff(hashed.native.indptr), called.obs["all_feature"].astype(str).to_numpy()
    two = np.flatnonzero(detected == 2)
    pair = [hashed.native.indices[begin : begin + 2] for begin in hashed.native.indptr[two]]
    expected_names = [f"tag{min(own)}+tag{max(own)}" for own in pair]
    assert (label[two] == expected_names).mean() > 0.7
    assert "doublet" not in label
    assert "all_doublet_probability" not in called.obs
    np.testing.assert_array_equal(called.obs["all_negative_probability"], called.obs["sb_negative_probability"])


def test_hormones_tell_types_of_islet_cells():
    """Real counts: each type of cell floods the liquid with its hormone."""
    adata = sb.datasets.pancreas()
    hormones = {"alpha": "GCG", "beta": "INS", "delta": "SST", "gamma": "PPY", "acinar": "REG1A"}
    adata.var["feature_types"] = np.where(adata.var_names.isin(hormones.values()), "marker", "gene")
    sb.tl.call_features(adata, feature_types="marker")
    called = adata.obs["sb_feature"].astype(str).where(adata.obs["sb_doublet_probability"] < 0.5)
    for cell_type, hormone in hormones.items():
        own = called[adata.obs["cell_type"] == cell_type].dropna()
        assert (own == hormone).mean() > 0.9, cell_type
    assert sb.get.features(adata).attrs["ambient_size"][0] < 3  # far from Poisson


def test_a_known_profile_helps_where_cells_are_few(hashed):
    """Given exactly it stays as it is; known from counts, cells correct it by as much as these leave open."""
    simulated = barcodes.simulate(150, 8, seed=7)
    x, batch = simulated.x, simulated.batch
    rng = np.random.default_rng(0)
    exact = call(x, batch, 1, 8, Given(simulated.profile, np.array([np.inf])), rng).features.profile
    np.testing.assert_array_equal(exact, simulated.profile)
    wrong = np.full((1, 8), 1 / 8)
    far, near = (learn(x, batch, 1, 8, Given(wrong, np.array([n])))[0].profile for n in (1e5, 10.0))
    assert np.abs(far - wrong).sum() < 0.02
    assert np.abs(near - simulated.profile).sum() < 0.15


# --- AnnData ----------------------------------------------------------------------------------------------------------


def test_slots_and_their_types(hashed, called):
    layer = called.layers["sb_feature_probability"]
    assert sparse.issparse(layer)
    assert layer.format == "csr"
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.indices, hashed.x.indices)
    assert ((layer.data >= 0) & (layer.data <= 1)).all()
    odds = called.layers["sb_log_bayes_factor"].data + prior_of(called)[hashed.x.indices]
    np.testing.assert_allclose(expit(odds.astype(float)), layer.data, atol=1e-5)
    assert isinstance(called.obs["sb_feature"].dtype, pd.CategoricalDtype)
    for name in ("call_probability", "n_features", "negative_probability", "doublet_probability", "ambient_counts"):
        assert called.obs[f"sb_{name}"].dtype == np.float64


def prior_of(adata) -> np.ndarray:
    p = sb.get.features(adata)["prevalence"].to_numpy()
    return np.log(p / (1 - p))


@pytest.mark.parametrize("kind", ["csc", "dense", "backed", "layer", "among genes"])
def test_formats_give_the_same_calls(called, kind, tmp_path):
    other, settings = ad.AnnData(called.X.copy(), called.obs[["lane"]], called.var), {}
    if kind == "csc":
        other.X = sparse.csc_matrix(other.X)
    elif kind == "dense":
        other.X = np.asarray(other.X.todense())
    elif kind == "layer":
        other.layers["umi"] = other.X.copy()
        other.X = other.X.log1p()
        settings["layer"] = "umi"
    elif kind == "among genes":
        genes = sparse.random_array((4000, 5), density=0.5, rng=0).tocsr()
        x = sparse.csr_matrix(sparse.hstack([genes[:, :2], called.X, genes[:, 2:]]))
        names = ["a", "b", *called.var_names, "c", "d", "e"]
        other = ad.AnnData(x, called.obs[["lane"]], pd.DataFrame(index=names))
        other.var["feature_types"] = pd.Categorical(["Gene"] * 2 + ["Tag"] * 8 + ["Gene"] * 3)
        settings["feature_types"] = "Tag"
    else:
        other.write_h5ad(tmp_path / "x.h5ad")
        other = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    sb.tl.call_features(other, **settings)
    for name in ("call_probability", "ambient_counts", "doublet_probability"):
        np.testing.assert_allclose(other.obs[f"sb_{name}"], called.obs[f"sb_{name}"], rtol=1e-9)
    assert (other.obs["sb_feature"].astype(str) == called.obs["sb_feature"].astype(str)).all()
    pd.testing.assert_frame_equal(sb.get.features(other), sb.get.features(called))
    if kind == "among genes":
        layer = other.layers["sb_feature_probability"]
        assert layer[:, [0, 1, 10, 11, 12]].nnz == 0
        assert np.isnan(other.varm["sb_native_mean"][[0, 12]]).all()
    if kind == "backed":
        other.file.close()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_calls_survive_a_file(called, suffix, tmp_path):
    getattr(called, f"write_{suffix}")(tmp_path / f"x.{suffix}")
    again = (ad.read_zarr if suffix == "zarr" else ad.read_h5ad)(tmp_path / f"x.{suffix}")
    pd.testing.assert_frame_equal(sb.get.features(again), sb.get.features(called))
    assert (again.obs["sb_feature"] == called.obs["sb_feature"]).all()


def test_profiles_from_all_places_are_read(hashed):
    adata = adata_of(barcodes.simulate(800, 6, n_batches=2, seed=2))
    profile = np.random.default_rng(0).dirichlet(np.full(6, 5.0), 2).T
    table = pd.DataFrame(profile[::-1], adata.var_names[::-1], ["l0", "l1"])[["l1", "l0"]]
    adata.varm["plain"] = profile
    found = []
    for ambient in (profile, table, "plain"):
        sb.tl.call_features(adata, batch_key="lane", ambient=ambient)
        found.append(adata.varm["sb_feature_ambient"])
        np.testing.assert_allclose(found[-1], profile)
    counts = pd.DataFrame(np.round(profile * 1e6), adata.var_names, ["l0", "l1"])
    sb.pp.ambient_profile(adata, profile=counts, batch_key="lane")
    sb.tl.call_features(adata, batch_key="lane", ambient="sb_ambient")
    np.testing.assert_allclose(adata.varm["sb_feature_ambient"], profile, atol=0.01)
    assert np.abs(adata.varm["sb_feature_ambient"] - profile).max() > 1e-6
    sb.tl.call_features(adata, ambient=pd.Series(profile[:, 0], adata.var_names))
    np.testing.assert_allclose(adata.varm["sb_feature_ambient"][:, 0], profile[:, 0])


def test_cells_without_counts_and_with_many_features():
    simulated = barcodes.simulate(600, 30, moi=4.0, total=60, seed=3)
    x = simulated.x.copy()
    x.data[x.indptr[5] : x.indptr[6]] = 0
    adata = adata_of(simulated._replace(x=x))
    sb.tl.call_features(adata, doublets=False, max_features=3)
    empty = adata.obs.iloc[5]
    assert empty["sb_feature"] == "negative"
    assert empty["sb_call_probability"] == pytest.approx(1)
    assert empty["sb_n_features"] == 0
    named = adata.obs["sb_feature"].astype(str).str.count(r"\+") + 1
    assert named.max() > 6
    assert len(sb.get.features(adata).attrs["number"][0]) == 4
    row = np.repeat(np.arange(600), np.diff(adata.layers["sb_feature_probability"].indptr))
    sums = np.bincount(row, adata.layers["sb_feature_probability"].data, 600)
    np.testing.assert_allclose(adata.obs["sb_n_features"], sums, rtol=1e-5)


def test_order_of_cells_and_features_does_not_matter(called):
    rng = np.random.default_rng(0)
    other = called[rng.permutation(4000)][:, rng.permutation(8)].copy()
    sb.tl.call_features(other)
    np.testing.assert_allclose(
        other.obs["sb_call_probability"], called.obs["sb_call_probability"][other.obs_names], rtol=1e-5
    )


def test_of_many_cells_some_are_learned_from(hashed, monkeypatch):
    monkeypatch.setattr("scbayes.models._feature_calls.MANY", 2500)
    adata = adata_of(hashed)
    sb.tl.call_features(adata, rng=1)
    assert 500 <= sb.get.features(adata).attrs["n_learned"] < 2500
    assert scores_of(hashed, adata)["balanced accuracy"] > 0.978
    sb.tl.call_features(adata, rng=1, key_added="again")
    np.testing.assert_array_equal(adata.obs["sb_call_probability"], adata.obs["again_call_probability"])


def test_picture(called):
    ax = sb.pl.features(called, show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(called.var_names)
    groups = [text.get_text() for text in ax.get_xticklabels()]
    assert groups[:2] == ["tag0", "tag1"]
    assert groups[-1] in ("several", "negative")
    few = sb.pl.features(called, n_features=3, show=False)
    assert len(few.get_yticklabels()) == 3
    assert few.images[0].get_array().shape[1] < 2000
    likely = [name for name in called.var_names if (called.obs["sb_feature"] == name).sum() > 0]
    assert {text.get_text() for text in few.get_yticklabels()} <= set(likely)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_features": 1}, ValueError, "whole number from 2"),
        ({"ambient": "nothing"}, KeyError, "no profile 'nothing'"),
        ({"ambient": np.ones(3)}, ValueError, "shape"),
        ({"ambient": np.full(8, np.nan)}, ValueError, "finite"),
        ({"ambient": -np.ones(8)}, ValueError, "not negative"),
        ({"ambient": np.zeros(8)}, ValueError, "all zero"),
        ({"ambient": pd.Series([1.0], ["tag0"])}, ValueError, "no row for 7 features, first 'tag1'"),
        ({"ambient": pd.DataFrame(np.ones((8, 2)), [f"tag{i}" for i in range(8)])}, ValueError, "no batch_key"),
        ({"feature_types": "Tag"}, KeyError, "needs a column"),
        ({"batch_key": "lane"}, ValueError, "one batch only"),
        ({"batch_key": "nothing"}, KeyError, "nothing"),
        ({"layer": "nothing"}, KeyError, "nothing"),
        ({"key_added": ""}, ValueError, "key_added"),
    ],
)
def test_bad_arguments_are_refused(called, settings, error, message):
    before = list(called.obs), list(called.layers)
    with pytest.raises(error, match=message):
        sb.tl.call_features(called, **settings)
    assert (list(called.obs), list(called.layers)) == before


def test_bad_counts_are_refused(called):
    with pytest.raises(TypeError, match="expected an AnnData"):
        sb.tl.call_features(called.X)
    plain = ad.AnnData(called.X.copy(), called.obs[["lane"]])
    for value, message in ((plain.X.log1p(), "counts"), (plain.X * 0, "no counts of these features")):
        plain.X = value
        with pytest.raises(ValueError, match=message):
            sb.tl.call_features(plain)
    called.var["feature_types"] = ["Tag"] * 4 + ["Guide"] * 4
    with pytest.raises(ValueError, match="Guide, Tag: choose with feature_types="):
        sb.tl.call_features(called)
    with pytest.raises(KeyError, match="no 'Gene', but Guide, Tag"):
        sb.tl.call_features(called, feature_types=["Tag", "Gene"])
    with pytest.raises(KeyError, match="call_features first"):
        sb.get.features(plain)
