"""Whether probabilities of classes mean what they say."""

import numpy as np


def calibration_error(probability: np.ndarray, label: np.ndarray, *, n_bins: int = 15) -> float:
    r"""Expected calibration error of the most probable class: 0 if, of calls made with 80 %, 80 % are right.

    :math:`\sum_b \frac{n_b}{n} |\mathrm{accuracy}_b - \mathrm{confidence}_b|` over bins :math:`b` of equal width of
    the largest probability (Guo et al. 2017, "On calibration of modern neural networks"). A number on a bin's upper
    edge belongs to it. Even calibrated probabilities do not reach 0 with finitely many cells.

    Parameters
    ----------
    probability
        Cells x classes, shape ``(n, K)``; rows sum to 1.
    label
        True classes, integers from 0 to K - 1, shape ``(n,)``. Of several largest probabilities the first is the call.
    n_bins
        Bins between 0 and 1.

    Returns
    -------
    The error, within 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, no or other labels, rows that are no probabilities, or fewer bins than one.
    """
    p, label = np.asarray(probability, np.float64), np.asarray(label)
    if p.ndim != 2 or 0 in p.shape or label.shape != p.shape[:1]:
        raise ValueError(f"probability must be (n, K) and label (n,), n > 0; they are {p.shape} and {label.shape}")
    if not np.issubdtype(label.dtype, np.integer) or label.min() < 0 or label.max() >= p.shape[1]:
        raise ValueError(f"label must hold integers from 0 to {p.shape[1] - 1}")
    if not (np.all(p >= 0) and np.all(np.abs(np.sum(p, 1) - 1) < 1e-3)):  # NaN is found as well
        raise ValueError("probability has negative numbers, NaN, or rows that do not sum to 1")
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, it must be at least 1")
    confidence, right = np.max(p, 1), np.argmax(p, 1) == label
    in_bin = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    # n_b |accuracy - confidence| of a bin is the size of the sum of its differences
    difference = np.bincount(in_bin, weights=right - confidence, minlength=n_bins)
    return float(np.sum(np.abs(difference)) / len(label))
