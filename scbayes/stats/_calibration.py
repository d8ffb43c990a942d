"""Class scores made into probabilities that can be trusted: a temperature and a rate of lapses, from labels."""

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.special import expit, logit

from scbayes.stats._entropy import softmax_log

#: Within these the parameters are sought: labels that the scores always rank first would drive both to 0.
TEMPERATURES = (0.05, 1e5)
LAPSES = (1e-6, 1 - 1e-6)
#: Where the search may start; from the best ones it does. The likelihood can have several maxima.
START_TEMPERATURES = np.geomspace(0.5, 1000, 12)
START_LAPSES = (1e-3, 0.03, 0.3)
N_STARTS = 3
#: Stands for -inf among scores relative to the largest: a probability of exactly 0 at any temperature allowed.
FAR_BELOW = -1e12


class Calibration(NamedTuple):
    r"""Probabilities :math:`(1 - \lambda)\,\mathrm{softmax}(l / T) + \lambda\,\pi` from log scores :math:`l`.

    Attributes
    ----------
    temperature
        :math:`T > 0`.
    lapse
        :math:`\lambda`, within 0 and 1: how often the scores say nothing.
    prior
        :math:`\pi`, what the classes are then: float64, shape ``(K,)``.
    """

    temperature: float
    lapse: float
    prior: np.ndarray

    def apply(self, log_scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of ``log_scores`` (..., K): float64, the same shape, rows sum to 1."""
        p = (1 - self.lapse) * softmax_log(log_scores, temperature=self.temperature) + self.lapse * self.prior
        return p / np.sum(p, -1, keepdims=True)


def fit_calibration(log_scores: np.ndarray, label: np.ndarray, *, prior: np.ndarray | None = None) -> Calibration:
    r"""Temperature and lapse that maximise the mean log probability of the labels.

    Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks") with a floor under every class:
    without it one wrong label whose score is hundreds of nats behind would set the temperature of all.

    Parameters
    ----------
    log_scores
        Shape ``(n, K)``, up to a constant in each row; -inf excludes a class.
    label
        True classes, integers from 0 to K - 1, shape ``(n,)``. They should be of cells that the scores have not seen.
    prior
        Class probabilities where the scores lapse, shape ``(K,)``, brought to a sum of 1; positive for every class
        among the labels. Default: the frequencies of the labels.

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
    relative = np.maximum(scores - np.max(scores, 1, keepdims=True), FAR_BELOW)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        return _loss(at, relative, label, prior)

    starts = [np.array([np.log(t), logit(lapse)]) for t, lapse in product(START_TEMPERATURES, START_LAPSES)]
    starts = sorted(starts, key=lambda at: loss(at)[0])[:N_STARTS]
    bounds = [tuple(np.log(TEMPERATURES)), tuple(logit(LAPSES))]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    fits = [optimize.minimize(loss, at, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for at in starts]
    log_temperature, logit_lapse = min(fits, key=lambda fit: fit.fun).x
    return Calibration(float(np.exp(log_temperature)), float(expit(logit_lapse)), prior)


def _loss(at: np.ndarray, scores: np.ndarray, label: np.ndarray, prior: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the mean log probability at ``(ln temperature, logit lapse)``, and its derivatives."""
    temperature, lapse = np.exp(at[0]), expit(at[1])
    soft = softmax_log(scores, temperature=temperature)
    chosen = np.arange(len(label)), label
    q, pi = soft[chosen], prior[label]
    p = (1 - lapse) * q + lapse * pi
    behind = np.sum(soft * scores, 1) - scores[chosen]  # d ln q / d ln T, times T
    slope_temperature = np.mean((1 - lapse) * q * behind / p) / temperature
    slope_lapse = np.mean((pi - q) / p) * lapse * (1 - lapse)
    return -float(np.mean(np.log(p))), -np.array([slope_temperature, slope_lapse])


def _check(scores: np.ndarray, label: np.ndarray) -> None:
    if scores.ndim != 2 or label.shape != scores.shape[:1] or not len(label):
        raise ValueError(f"log_scores must be (n, K) and label (n,), n > 0; they are {scores.shape} and {label.shape}")
    if not np.issubdtype(label.dtype, np.integer) or label.min() < 0 or label.max() >= scores.shape[1]:
        raise ValueError(f"label must hold integers from 0 to {scores.shape[1] - 1}")
    if not np.all(np.isfinite(np.max(scores, 1))):
        raise ValueError("log_scores has a row that is -inf throughout, or NaN or +inf")
