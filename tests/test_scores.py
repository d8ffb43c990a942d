"""Class scores: entropy, softmax, calibration and its error, and weights of models."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from scbayes.metrics import calibration_error
from scbayes.stats._calibration import LAPSES, TEMPERATURES, Calibration, _loss, fit_calibration
from scbayes.stats._entropy import entropy, softmax_log
from scbayes.stats._stacking import stacking_weights

# --- entropy and softmax ----------------------------------------------------------------------------------------------


def test_entropy_is_that_of_scipy():
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.3), size=(5, 40))
    found = entropy(p)
    assert found.shape == (5, 40)
    np.testing.assert_allclose(found, stats.entropy(p, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(entropy(np.moveaxis(p, -1, 0), axis=0), found, rtol=1e-12)
    np.testing.assert_allclose(entropy([0.25, 0.75, 0]), -0.25 * np.log(0.25) - 0.75 * np.log(0.75), rtol=1e-15)
    np.testing.assert_allclose(entropy([1.0, 1e-8]), 1e-8 * (1 + np.log(1e8)), rtol=1e-7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 49, 1000])
def test_entropy_is_exact_at_its_ends(size):
    uniform = np.full((3, size), 1 / size)
    np.testing.assert_array_equal(entropy(uniform), np.log(size))
    np.testing.assert_array_equal(entropy(uniform.astype(np.float32)), np.log(size))
    np.testing.assert_array_equal(entropy(np.eye(size)), 0)


def test_entropy_stays_inside():
    rng = np.random.default_rng(1)
    for size in (2, 3, 10):
        nearly = np.concatenate(
            [1 / size + rng.normal(scale=1e-16, size=(2000, size)), np.eye(size)[rng.integers(0, size, 500)] + 1e-17]
        )
        found = entropy(nearly)
        assert found.min() >= 0
        assert found.max() <= np.log(size)


@pytest.mark.parametrize("p", [[0.5, -0.1], [np.nan, 1], [0, 0], [np.inf, 1]])
def test_entropy_of_no_probabilities(p):
    with pytest.raises(ValueError, match="row of zeros"):
        entropy(p)


def test_softmax():
    log_p = np.random.default_rng(2).normal(scale=300, size=(6, 5, 4))
    np.testing.assert_allclose(softmax_log(log_p), special.softmax(log_p, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(
        softmax_log(log_p, axis=0, temperature=70), special.softmax(log_p / 70, axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(softmax_log(log_p).sum(-1), 1, rtol=1e-15)
    np.testing.assert_allclose(softmax_log([1e6, 1e6 + np.log(3), -np.inf]), [0.25, 0.75, 0], rtol=1e-9)
    assert softmax_log(np.zeros(2, np.float32)).dtype == np.float64


def test_softmax_of_nothing():
    for row in ([-np.inf, -np.inf], [np.nan, 0], [np.inf, 0]):
        with pytest.raises(ValueError, match="inf throughout"):
            softmax_log([[0, 1], row])
    for temperature in (0, -1, np.nan):
        with pytest.raises(ValueError, match="must be positive"):
            softmax_log([0, 1], temperature=temperature)


# --- calibration ------------------------------------------------------------------------------------------------------


def labelled(temperature: float, lapse: float, n: int = 20_000, seed: int = 3) -> tuple[np.ndarray, ...]:
    """Scores hundreds of nats apart, and labels drawn with the probabilities that a calibration gives them."""
    rng = np.random.default_rng(seed)
    prior = np.array([0.5, 0.3, 0.15, 0.05])
    scores = rng.normal(scale=2 * temperature, size=(n, 4)) - 5000
    p = Calibration(temperature, lapse, prior).apply(scores)
    return scores, (rng.uniform(size=(n, 1)) > p.cumsum(1)).sum(1).clip(max=3), prior


def test_apply():
    calibration = Calibration(200.0, 0.1, np.array([0.2, 0.3, 0.5]))
    scores = np.array([[-900.0, -1100, -1300], [0, -np.inf, 0]])
    e = np.exp([0, -1, -2])
    expected = [0.9 * e / e.sum() + [0.02, 0.03, 0.05], [0.47, 0.03, 0.5]]
    np.testing.assert_allclose(calibration.apply(scores), expected, rtol=1e-14)
    np.testing.assert_allclose(calibration.apply(scores[0]), expected[0], rtol=1e-14)


@pytest.mark.parametrize(("temperature", "lapse"), [(0.7, 0.05), (30.0, 0.2), (800.0, 0.02)])
def test_calibration_finds_the_truth_and_the_top(temperature, lapse):
    scores, label, prior = labelled(temperature, lapse)
    found = fit_calibration(scores, label, prior=prior)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.lapse == pytest.approx(lapse, abs=0.02)
    np.testing.assert_allclose(found.prior, prior, rtol=1e-15)

    def worse(at: np.ndarray) -> float:
        p = Calibration(np.exp(at[0]), special.expit(at[1]), prior).apply(scores)
        return -np.mean(np.log(p[np.arange(len(label)), label]))

    there = np.array([np.log(found.temperature), special.logit(found.lapse)])
    best = optimize.minimize(worse, there, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-13})
    assert worse(there) < best.fun + 1e-9
    np.testing.assert_allclose(there, best.x, atol=1e-3)


def test_calibration_mends_what_is_too_sure():
    scores, label, _ = labelled(60.0, 0.1)
    found = fit_calibration(scores[:10_000], label[:10_000])
    np.testing.assert_allclose(found.prior, np.bincount(label[:10_000]) / 10_000, rtol=1e-15)
    before, after = softmax_log(scores[10_000:]), found.apply(scores[10_000:])
    assert calibration_error(before, label[10_000:]) > 0.15
    assert calibration_error(after, label[10_000:]) < 0.02
    np.testing.assert_allclose(after.sum(1), 1, rtol=1e-14)


def test_calibration_of_scores_without_errors_or_without_meaning():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, 400)
    sure = fit_calibration(300.0 * np.eye(3)[label], label)
    assert sure.temperature >= TEMPERATURES[0]
    assert sure.lapse == pytest.approx(LAPSES[0], rel=1e-6)
    assert sure.apply([[300.0, 0, 0]])[0, 0] > 1 - 1e-5
    label = rng.choice(3, 4000, p=[0.7, 0.2, 0.1])
    blind = fit_calibration(rng.normal(scale=200, size=(4000, 3)), label)
    np.testing.assert_allclose(blind.apply([[300.0, 0, -300]])[0], blind.prior, atol=0.05)


def test_calibration_with_excluded_classes():
    scores = np.array([[0, -np.inf, -3], [-np.inf, 0, -1], [0, -1, -np.inf], [-2, 0, -np.inf]])
    label = np.array([0, 1, 2, 1])  # the third is excluded by its score
    found = fit_calibration(scores, label)
    p = found.apply(scores)
    assert 0 < p[2, 2] == pytest.approx(found.lapse * 0.25)
    assert 0.2 < found.lapse < 0.9


@pytest.mark.parametrize("at", [(0.0, -3.0, 0.0), (4.0, 0.5, 0.7), (6.0, -6.0, -0.4)])
def test_calibration_slopes(at):
    scores, label, prior = labelled(60.0, 0.1, n=200)
    relative = scores - scores.max(1, keepdims=True)
    amount = np.random.default_rng(6).normal(size=200)
    at = np.array([*at, 0.3, -0.5, 0.1, 0.1])
    loss = lambda x: _loss(x, relative, label, prior, amount)
    slope = optimize.approx_fprime(at, lambda x: loss(x)[0], 1e-7)
    np.testing.assert_allclose(loss(at)[1], slope, rtol=1e-4, atol=1e-6)
    p = Calibration(np.exp(at[0]), special.expit(at[1]), prior, at[2], at[3:]).apply(scores, amount)
    expected = np.sum(at[2:] ** 2) / 400 - np.mean(np.log(p[np.arange(200), label]))  # standard normal priors
    assert loss(at)[0] == pytest.approx(expected, rel=1e-12)


def test_calibration_finds_what_grows_and_what_is_favoured():
    rng = np.random.default_rng(7)
    amount = rng.normal(scale=0.6, size=40_000)
    scores = rng.normal(scale=60, size=(40_000, 4)) * np.exp(amount)[:, None]
    truth = Calibration(20.0, 0.05, np.full(4, 0.25), 0.8, np.array([1.5, -0.5, 0.0, -1.0]))
    label = (rng.uniform(size=(40_000, 1)) > truth.apply(scores, amount).cumsum(1)).sum(1).clip(max=3)
    found = fit_calibration(scores, label, prior=truth.prior, log_amount=amount, class_bias=True)
    assert found.temperature == pytest.approx(20.0, rel=0.05)
    assert found.lapse == pytest.approx(0.05, abs=0.01)
    assert found.power == pytest.approx(0.8, abs=0.06)
    np.testing.assert_allclose(found.bias, truth.bias, atol=0.15)
    assert abs(found.bias.sum()) < 1e-9
    plain = fit_calibration(scores, label, prior=truth.prior)
    assert plain.power == 0
    assert plain.bias is None
    new = truth.apply(scores, amount)
    error = [np.abs(p - new).mean() for p in (found.apply(scores, amount), plain.apply(scores))]
    assert error[0] < 0.01
    assert error[1] > 0.04


def test_biases_of_few_labels_stay_small():
    found = fit_calibration(np.zeros((6, 3)), np.array([0, 0, 0, 0, 0, 1]), prior=np.ones(3), class_bias=True)
    assert np.abs(found.bias).max() < 2
    assert found.bias[0] > found.bias[1] > found.bias[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.array([0, 1])}, "must be"),
        ({"log_scores": np.zeros(3)}, "must be"),
        ({"log_scores": np.zeros((0, 2)), "label": np.zeros(0, int)}, "must be"),
        ({"label": np.array([0, 1, 2])}, "integers from 0 to 1"),
        ({"label": np.array([0, -1, 1])}, "integers from 0 to 1"),
        ({"label": np.array([0.0, 1, 1])}, "integers from 0 to 1"),
        ({"log_scores": np.full((3, 2), -np.inf)}, "inf throughout"),
        ({"log_scores": np.array([[0, 1], [np.nan, 0], [0, 1]])}, "NaN"),
        ({"prior": [1.0, 0]}, "prior"),
        ({"prior": [0.5, 0.2, 0.3]}, "prior"),
        ({"prior": [np.nan, 1]}, "prior"),
        ({"prior": [np.inf, 1]}, "prior"),
        ({"log_amount": np.zeros(2)}, "log_amount"),
        ({"log_amount": np.array([0, np.nan, 1])}, "log_amount"),
    ],
)
def test_calibration_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(**({"log_scores": np.zeros((3, 2)), "label": np.array([0, 1, 1])} | change))


# --- calibration error ------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.3, 0.7], [0.5, 0.5]])
    label = np.array([0, 1, 1, 1, 0])
    # bins of 0.2: (0.8, 1]: right 1 of 2, sure 0.925; (0.6, 0.8]: 1 of 1, 0.7; (0.4, 0.6]: 2 of 2, 0.55
    expected = (2 * abs(0.5 - 0.925) + abs(1 - 0.7) + 2 * abs(1 - 0.55)) / 5
    found = calibration_error(p, label, n_bins=5)
    assert type(found) is float
    assert found == pytest.approx(expected, rel=1e-12)
    # 0.5 is the upper edge of the first of two bins
    edge = calibration_error(np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 1]), n_bins=2)
    assert edge == pytest.approx((0.5 + 0.75) / 2, rel=1e-12)
    assert calibration_error(p, label, n_bins=1) == pytest.approx(abs(4 / 5 - p.max(1).mean()), rel=1e-12)


def test_calibration_error_at_its_ends():
    label = np.array([0, 1, 2, 1])
    assert calibration_error(np.eye(3)[label], label) == 0
    assert calibration_error(np.eye(3)[(label + 1) % 3], label) == 1
    rng = np.random.default_rng(5)
    p = rng.dirichlet([0.5, 0.5, 0.5], size=100_000)
    label = (rng.uniform(size=(len(p), 1)) > p.cumsum(1)).sum(1).clip(max=2)
    assert calibration_error(p, label) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.array([0])}, "must be"),
        ({"probability": np.zeros((0, 2)), "label": np.zeros(0, int)}, "must be"),
        ({"label": np.array([0, 2])}, "integers"),
        ({"label": np.array([0.0, 1])}, "integers"),
        ({"probability": np.array([[0.5, 0.4], [1, 0]])}, "sum to 1"),
        ({"probability": np.array([[np.nan, 0.4], [1, 0]])}, "NaN"),
        ({"probability": np.array([[1.1, -0.1], [1, 0]])}, "negative"),
        ({"n_bins": 0}, "n_bins"),
    ],
)
def test_calibration_error_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(**({"probability": np.eye(2), "label": np.array([0, 1])} | change))


# --- stacking ---------------------------------------------------------------------------------------------------------


def mean_log_score(w: np.ndarray, log_density: np.ndarray) -> float:
    return float(np.mean(special.logsumexp(log_density, axis=1, b=w)))


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_stacking_weights_are_the_best(size, scale):
    rng = np.random.default_rng([size, int(10 * scale)])
    log_density = rng.normal(scale=scale, size=(80, size)) + 0.3 * scale * rng.normal(size=size) - 700
    found = stacking_weights(log_density)
    best = optimize.minimize(
        lambda w: -mean_log_score(np.maximum(w, 0), log_density),
        np.full(size, 1 / size),
        method="SLSQP",
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, rel=1e-14)
    assert -mean_log_score(found, log_density) <= best.fun + 1e-9
    np.testing.assert_allclose(found, best.x, atol=2e-4)


def test_stacking_where_one_model_dominates():
    log_density = np.random.default_rng(6).normal(size=(50, 1)) - [[3, 0, 1, 500]]
    np.testing.assert_allclose(stacking_weights(log_density), [0, 1, 0, 0], atol=1e-8)


def test_stacking_by_hand():
    # each observation is possible in one model: the weights are the shares
    own = np.where(np.eye(3)[[0, 0, 0, 1, 1, 2]] > 0, -2.0, -np.inf)
    np.testing.assert_allclose(stacking_weights(own), [3 / 6, 2 / 6, 1 / 6], atol=1e-4)
    np.testing.assert_array_equal(stacking_weights(np.full((4, 1), -3.0)), [1])


def test_models_that_are_alike_share_their_weight():
    log_density = np.random.default_rng(7).normal(size=(100, 2))
    two, three = stacking_weights(log_density), stacking_weights(log_density[:, [0, 1, 1]])
    np.testing.assert_allclose(three, [two[0], two[1] / 2, two[1] / 2], atol=1e-4)
    np.testing.assert_allclose(stacking_weights(np.zeros((5, 4))), 0.25, rtol=1e-12)


def test_stacking_reaches_its_tolerance():
    rng = np.random.default_rng(8)
    for _ in range(60):
        shape = rng.integers(1, 60), rng.integers(1, 20)
        log_density = rng.normal(scale=10 ** rng.uniform(-5, 3), size=shape)
        w = stacking_weights(log_density)
        relative = np.exp(log_density - log_density.max(1, keepdims=True))
        assert np.max(np.mean(relative / (relative @ w)[:, None], 0)) - 1 < 1.1e-9  # bounds what is left to gain


def test_stacking_says_what_is_wrong():
    for wrong in (np.zeros(3), np.zeros((0, 2)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="must be"):
            stacking_weights(wrong)
    for row in ([-np.inf, -np.inf], [np.nan, 0], [np.inf, 0]):
        with pytest.raises(ValueError, match="inf throughout"):
            stacking_weights([[0, 1], row])
    with pytest.raises(RuntimeError, match="not converged"):
        stacking_weights(np.random.default_rng(9).normal(size=(20, 3)), n_steps=2)
