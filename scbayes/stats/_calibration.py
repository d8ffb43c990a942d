"""Class scores made into probabilities that can be trusted: temperature, rate of lapses, biases, from labels."""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.special import expit, logit

from scbayes.stats._entropy import softmax_log

#: Within these the parameters are sought: labels that the scores always rank first would drive both to 0.
TEMPERATURES = (0.05, 1e5)
LAPSES = (1e-6, 1 - 1e-6)
POWERS = (-1.0, 2.0)
BIASES = (-20.0, 20.0)
#: Where the search may start; from the best ones it does. The likelihood can have several maxima.
START_TEMPERATURES = np.geomspace(0.5, 1000, 12)
START_LAPSES = (1e-3, 0.03, 0.3)
N_STARTS = 3
#: Stands for -inf among scores relative to the largest: a probability of exactly 0 at any temperature allowed.
FAR_BELOW = -1e12


class Calibration(NamedTuple):
    r"""Probabilities :math:`(1 - \lambda)\,\mathrm{softmax}(l / T_i + b) + \lambda\,\pi` from log scores :math:`l`.

    Attributes
    ----------
    temperature
        :math:`T > 0`.
    lapse
        :math:`\lambda`, within 0 and 1: how often the scores say nothing.
    prior
        :math:`\pi`, what the classes are then: float64, shape ``(K,)``.
    power
        :math:`T_i = T n_i^a` for scores of :math:`n_i` times the usual amount of evidence; 0: one temperature for all.
    bias
        :math:`b`, added to each class: float64, shape ``(K,)``, sum 0. None: nothing.
    """

    temperature: float
    lapse: float
    prior: np.ndarray
    power: float = 0.0
    bias: np.ndarray | None = None

    def apply(self, log_scores: np.ndarray, log_amount: np.ndarray | float = 0.0) -> np.ndarray:
        r"""Calibrated probabilities of ``log_scores`` (..., K): float64, the same shape, rows sum to 1.

        Parameters
        ----------
        log_amount
            :math:`\ln n_i`, shape ``(...)``, counted from the mean of those that the calibration was learned on.
        """
        heat = self.temperature * np.exp(self.power * np.asarray(log_amount, np.float64))
        soft = softmax_log(log_scores / heat[..., None] + (0.0 if self.bias is None else self.bias))
        p = (1 - self.lapse) * soft + self.lapse * self.prior
        return p / np.sum(p, -1, keepdims=True)


def fit_calibration(
    log_scores: np.ndarray,
    label: np.ndarray,
    *,
    prior: np.ndarray | None = None,
    log_amount: np.ndarray | None = None,
    class_bias: bool = False,
) -> Calibration:
    r"""Temperature and lapse that maximise the mean log probability of the labels.

    Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks") with a floor under every class:
    without it one wrong label whose score is hundreds of nats behind would set the temperature of all. Where features
    are correlated, log scores overstate their evidence by a factor that grows with the amount of it: a temperature that
    grows with ``log_amount`` makes up for that. The power and the biases have standard normal priors.

    Parameters
    ----------
    log_scores
        Shape ``(n, K)``, up to a constant in each row; -inf excludes a class.
    label
        True classes, integers from 0 to K - 1, shape ``(n,)``. They should be of cells that the scores have not seen.
    prior
        Class probabilities where the scores lapse, shape ``(K,)``, brought to a sum of 1; positive for every class
        among the labels. Default: the frequencies of the labels.
    log_amount
        Log of the amount of evidence in each row, shape ``(n,)``, with mean 0: its power is learned. None: it is 0.
    class_bias
        Learn a bias of each class.

    Returns
    -------
    The calibration, within `TEMPERATURES` and `LAPSES`.

    Raises
    ------
    ValueError
        Shapes that do not fit, no or other labels, a row of scores that is -inf throughout or has NaN or +inf, or a
        prior that is no distribution or excludes a label.
    """
    scores, label = np.asarray(log_scores, np.float64), np.asarray(label)
    _check(scores, label)
    size = scores.shape[1]
    prior = np.bincount(label, minlength=size) if prior is None else np.asarray(prior, np.float64)
    if prior.shape != (size,) or not (np.all(prior >= 0) and np.all(prior[label] > 0) and np.sum(prior) < np.inf):
        raise ValueError("prior must be one number per class, none negative, positive for every class among the labels")
    prior = prior / np.sum(prior)
    amount = np.zeros(len(label)) if log_amount is None else np.asarray(log_amount, np.float64)
    if amount.shape != label.shape or not np.all(np.isfinite(amount)):
        raise ValueError(f"log_amount must be one finite number per row, its shape is {amount.shape}")
    relative = np.maximum(scores - np.max(scores, 1, keepdims=True), FAR_BELOW)
    free = np.r_[True, True, log_amount is not None, np.full(size, class_bias)]

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        return _loss(at, relative, label, prior, amount)

    rest = np.zeros(1 + size)
    starts = [np.r_[np.log(t), logit(lapse), rest] for t, lapse in product(START_TEMPERATURES, START_LAPSES)]
    starts = sorted(starts, key=lambda at: loss(at)[0])[:N_STARTS]
    bounds = [tuple(np.log(TEMPERATURES)), tuple(logit(LAPSES)), POWERS, *[BIASES] * size]
    bounds = [bound if move else (0.0, 0.0) for bound, move in zip(bounds, free, strict=True)]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    fits = [optimize.minimize(loss, at, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for at in starts]
    best = min(fits, key=lambda fit: fit.fun).x
    bias = best[3:] if class_bias else None  # their prior keeps the sum at 0
    return Calibration(float(np.exp(best[0])), float(expit(best[1])), prior, float(best[2]), bias)


def _loss(
    at: np.ndarray, scores: np.ndarray, label: np.ndarray, prior: np.ndarray, amount: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the mean log posterior at ``(ln temperature, logit lapse, power, biases)``, and its derivatives."""
    lapse, n = expit(at[1]), len(label)
    tempered = scores / np.exp(at[0] + at[2] * amount)[:, None]
    soft = softmax_log(tempered + at[3:])
    chosen = np.arange(n), label
    q, pi = soft[chosen], prior[label]
    p = (1 - lapse) * q + lapse * pi
    share = (1 - lapse) * q / p
    behind = share * (np.sum(soft * tempered, 1) - tempered[chosen])  # d ln p / d ln T
    slope_bias = np.bincount(label, share, scores.shape[1]) - share @ soft
    slope_lapse = np.sum((pi - q) / p) * lapse * (1 - lapse)
    slope = np.r_[np.sum(behind), slope_lapse, behind @ amount, slope_bias]
    penalty = np.r_[0.0, 0.0, at[2:]]
    return (np.sum(penalty**2) / 2 - float(np.sum(np.log(p)))) / n, (penalty - slope) / n


def _check(scores: np.ndarray, label: np.ndarray) -> None:
    if scores.ndim != 2 or label.shape != scores.shape[:1] or not len(label):
        raise ValueError(f"log_scores must be (n, K) and label (n,), n > 0; they are {scores.shape} and {label.shape}")
    if not np.issubdtype(label.dtype, np.integer) or label.min() < 0 or label.max() >= scores.shape[1]:
        raise ValueError(f"label must hold integers from 0 to {scores.shape[1] - 1}")
    if not np.all(np.isfinite(np.max(scores, 1))):
        raise ValueError("log_scores has a row that is -inf throughout, or NaN or +inf")
