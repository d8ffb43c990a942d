"""Probabilities of classes: from logarithms, and how undecided they are."""

import numpy as np
from scipy.special import xlogy


def entropy(p: np.ndarray, axis: int = -1) -> np.ndarray:
    r"""Shannon entropy in nats, :math:`H = -\sum_k p_k \ln p_k` with :math:`0 \ln 0 = 0`.

    Computed as :math:`\ln\sum_k r_k - \sum_k r_k \ln r_k / \sum_k r_k` with :math:`r = p / \max p`, which is exactly 0
    where one class has everything, exactly :math:`\ln K` where all are equal, and never outside.

    Parameters
    ----------
    p
        Probabilities of K classes along `axis`; what they sum to is taken as 1.
    axis
        The axis of the classes.

    Returns
    -------
    float64, the shape of `p` without `axis`, within [0, ln K].

    Raises
    ------
    ValueError
        Negative numbers, NaN, infinities, or all of a row's numbers 0.
    """
    p = np.asarray(p, np.float64)
    most = np.max(p, axis=axis, keepdims=True)
    if not (np.all(p >= 0) and np.all((most > 0) & (most < np.inf))):
        raise ValueError("p has negative numbers, NaN, infinities, or a row of zeros")
    ratio = p / most
    total = np.sum(ratio, axis=axis)
    found = np.log(total) - np.sum(xlogy(ratio, ratio), axis=axis) / total
    return np.clip(found, 0, np.log(p.shape[axis]))


def softmax_log(log_p: np.ndarray, axis: int = -1, temperature: float = 1.0) -> np.ndarray:
    r"""Probabilities :math:`e^{l_k / T} / \sum_j e^{l_j / T}` from their logarithms up to a constant.

    Parameters
    ----------
    log_p
        :math:`l`, any real dtype; -inf is a probability of 0.
    axis
        The axis that is normalised.
    temperature
        :math:`T > 0`; above 1 the probabilities are flatter.

    Returns
    -------
    float64, the shape of `log_p`.

    Raises
    ------
    ValueError
        A row is -inf throughout or has NaN or +inf, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, it must be positive")
    log_p = np.asarray(log_p, np.float64)
    most = np.max(log_p, axis=axis, keepdims=True)
    if not np.all(np.isfinite(most)):
        raise ValueError("log_p has a row that is -inf throughout, or NaN or +inf")
    p = np.exp((log_p - most) / temperature)
    return p / np.sum(p, axis=axis, keepdims=True)
