r"""Maximum-likelihood Dirichlet distributions of many sets of samples at once, from streamed sums.

With :math:`g_j` the mean over samples of :math:`\ln x_j`, the log likelihood per sample of concentrations :math:`a`,
:math:`A = \sum_j a_j`, is :math:`\ln\Gamma(A) - \sum_j \ln\Gamma(a_j) + \sum_j (a_j - 1) g_j`: concave, and
:math:`g` is all it takes from the samples.

Newton's steps :math:`\delta` are taken in :math:`1/a`, :math:`a \leftarrow a / (1 - \delta / a)`: where :math:`a` is
small, and along the precision where it is large, the score is of the form :math:`c/a - q`, for which such a step is
exact; and no step leaves the positive numbers.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import digamma

#: Largest precision (sum of the concentrations): what rows get whose samples are all equal.
LARGEST_PRECISION = 1e7
#: Smallest probability and concentration: the smallest normal double.
SMALLEST = float(np.finfo(np.float64).tiny)
#: What stands for the logarithm of a probability of 0.
LOG_FLOOR = float(np.log(SMALLEST))

#: Newton stops where no concentration moves by more than this, relative; the error left is about its square.
TOLERANCE = 1e-7
#: Largest factor by which one step may raise a concentration.
LARGEST_RISE = 10.0
#: Numbers worked on at once: they stay in the processor's cache.
BLOCK = 1 << 14


def mean_log(samples: np.ndarray, axis: int = 0) -> np.ndarray:
    r"""Mean over samples of :math:`\ln x`, with 0 taken as the smallest normal double, `SMALLEST`.

    Numbers from `SMALLEST` on are not changed. To stream, average the results weighted by their numbers of samples.

    Parameters
    ----------
    samples
        Probabilities: any real dtype, e.g. shape ``(n_samples, ..., K)``.
    axis
        The axis of the samples.

    Returns
    -------
    float64, the shape of `samples` without `axis`; `LOG_FLOOR` where all are 0.
    """
    return np.mean(np.log(np.maximum(samples, SMALLEST, dtype=np.float64)), axis=axis)


def fit_dirichlet(mean_log: np.ndarray, *, mean: np.ndarray | None = None, n_steps: int = 30) -> np.ndarray:
    r"""Concentrations :math:`a` of maximum likelihood: :math:`\psi(a_j) - \psi(\sum_k a_k) = g_j` in each row.

    Newton's method with the Hessian's inverse in closed form, as it is diagonal plus rank one (Minka 2000,
    "Estimating a Dirichlet distribution"); see the module for the form of a step. The mean :math:`a / A` of what is
    found is in general not the mean of the samples: see :func:`fit_dirichlet_with_mean`.

    Parameters
    ----------
    mean_log
        :math:`g`, the mean over samples of :math:`\ln x_j`, as of :func:`mean_log`: shape ``(..., K)``, K >= 2.
        Values below `LOG_FLOOR`, -inf included, count as `LOG_FLOOR`.
    mean
        Mean of the samples, shape ``(..., K)``: the mean of what is returned for rows at the largest precision.
    n_steps
        Most Newton steps; 3 to 8 are usual. Rows that have converged take no more.

    Returns
    -------
    float64, shape ``(..., K)``, all positive. Rows whose precision :math:`A` would be above `LARGEST_PRECISION`, those
    without a maximum (all samples equal) included, get `LARGEST_PRECISION`.

    Raises
    ------
    ValueError
        `mean_log` has NaN or cannot come from probabilities (:math:`\sum_j e^{g_j} > 1`), or shapes do not fit.
    """
    g = _checked(mean_log)
    rows = g.reshape(-1, g.shape[-1])
    found = np.empty_like(rows)
    for part in _parts(rows):
        found[part] = _newton(_step, _start(rows[part]), (rows[part],), n_steps)
    total = np.sum(found, -1, keepdims=True)
    above = total[:, 0] > LARGEST_PRECISION
    found[above] *= LARGEST_PRECISION / total[above]
    if mean is not None:
        found[above] = LARGEST_PRECISION * _checked_mean(mean, g)[above]
    return np.maximum(found, SMALLEST).reshape(g.shape)


def fit_dirichlet_with_mean(mean: np.ndarray, mean_log: np.ndarray, *, n_steps: int = 30) -> np.ndarray:
    r"""Concentrations :math:`a = s\,m` with the samples' mean :math:`m`, and the precision :math:`s` most likely then.

    Solves :math:`\psi(s) - \sum_j m_j \psi(s m_j) + \sum_j m_j g_j = 0` in each row. For probabilities near 0 or 1 the
    mean of the free fit departs from that of the samples; this one keeps it.

    Parameters
    ----------
    mean
        :math:`m`, the mean of the samples, shape ``(..., K)``, K >= 2; brought to a sum of 1. A mean of 0 (all samples
        0) counts as `SMALLEST`.
    mean_log
        :math:`g`, the mean over samples of :math:`\ln x_j`, as of :func:`mean_log`: shape ``(..., K)``. Values below
        `LOG_FLOOR`, -inf included, count as `LOG_FLOOR`.
    n_steps
        Most Newton steps; 3 to 8 are usual. Rows that have converged take no more.

    Returns
    -------
    float64, shape ``(..., K)``, all positive. Rows whose precision would be above `LARGEST_PRECISION`, those without a
    maximum (all samples equal) included, get `LARGEST_PRECISION`.

    Raises
    ------
    ValueError
        As :func:`fit_dirichlet`; or a row of `mean` has negative numbers, NaN, or nothing but zeros.
    """
    g = _checked(mean_log)
    m = _checked_mean(mean, g)
    rows = g.reshape(m.shape)
    precision = np.empty((len(m), 1))
    for part in _parts(m):
        # the score is c(s)/s - q, where c falls from K - 1 (s -> 0) to (K - 1)/2; q >= 0 by Jensen's inequality
        q = np.sum(m[part] * (np.log(m[part]) - rows[part]), -1, keepdims=True)
        start = (m.shape[1] - 1) / (2 * np.maximum(q, 0.5 / LARGEST_PRECISION))
        precision[part] = _newton(_precision_step, start, (m[part], q), n_steps)
    return np.maximum(np.minimum(precision, LARGEST_PRECISION) * m, SMALLEST).reshape(g.shape)


# --- Newton -----------------------------------------------------------------------------------------------------------


def _newton(step: Callable[..., np.ndarray], x: np.ndarray, args: tuple[np.ndarray, ...], n_steps: int) -> np.ndarray:
    """Move rows of `x` by ``step(x, *args)``, Newton's step relative to `x`, until they stay or are far too large."""
    now, active = x, np.arange(len(x))
    for _ in range(n_steps):
        if not len(active):
            break
        relative = step(now, *args)
        now = now / np.maximum(1 - relative, 1 / LARGEST_RISE)
        x[active] = now
        moving = np.max(np.abs(relative), -1) > TOLERANCE
        moving &= np.sum(now, -1) < 100 * LARGEST_PRECISION  # a row may pass the largest precision on its way
        now, active, args = now[moving], active[moving], tuple(value[moving] for value in args)
    return x


def _step(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Newton's step of :func:`fit_dirichlet`, relative to `a`."""
    total = np.sum(a, -1, keepdims=True)
    score = digamma(total) - digamma(a) + g
    per_curvature = a / _scaled_trigamma(a)  # 1 / (a psi'(a))
    rank_one = total**2 / _scaled_trigamma(total) - np.sum(a * per_curvature, -1, keepdims=True)
    shift = np.sum(a * per_curvature * score, -1, keepdims=True) / rank_one
    return per_curvature * (score + shift)


def _precision_step(s: np.ndarray, m: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Newton's step of :func:`fit_dirichlet_with_mean`, relative to `s`."""
    a = np.maximum(s * m, SMALLEST)
    score = s * (digamma(s) - q) - np.sum(a * (digamma(a) - np.log(m)), -1, keepdims=True)  # times s
    return score / (np.sum(_scaled_trigamma(a), -1, keepdims=True) - _scaled_trigamma(s))


def _scaled_trigamma(x: np.ndarray) -> np.ndarray:
    r""":math:`x^2 \psi'(x)` to 1e-8, enough for a step: four terms of its recurrence, then the asymptotic series."""
    square = x * x
    near = 1 + square * (1 / (x + 1) ** 2 + 1 / (x + 2) ** 2 + 1 / (x + 3) ** 2)
    r = 1 / (x + 4)
    r2 = r * r
    return near + square * r * (1 + r / 2 + r2 * (1 / 6 - r2 * (1 / 30 - r2 / 42)))


def _start(g: np.ndarray) -> np.ndarray:
    """Concentrations near those sought: exact where all are large, and where all are small but for the precision."""
    missing = np.maximum(1 - np.sum(np.exp(g), -1, keepdims=True), 0.5 / LARGEST_PRECISION)
    precision = (g.shape[-1] - 1) / (2 * missing)
    # psi(x) is close to -ln(exp(1/x) - 1) everywhere (Batir 2005); this is its inverse
    return 1 / np.logaddexp(0, -g - digamma(precision))


# --- input ------------------------------------------------------------------------------------------------------------


def _parts(rows: np.ndarray) -> Iterator[slice]:
    size = max(BLOCK // rows.shape[1], 1)
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _checked(mean_log: np.ndarray) -> np.ndarray:
    g = np.asarray(mean_log, np.float64)
    if g.ndim == 0 or g.shape[-1] < 2:
        raise ValueError(f"mean_log needs at least two components along its last axis, its shape is {g.shape}")
    if not np.all(np.sum(np.exp(np.minimum(g, 1)), -1) < 1.001):  # written so that NaN is found as well
        raise ValueError("mean_log is not the mean logarithm of probabilities: NaN, or its exponentials sum to over 1")
    return np.maximum(g, LOG_FLOOR)


def _checked_mean(mean: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`mean` as rows that sum to 1, all of them positive."""
    m = np.asarray(mean, np.float64)
    if m.shape != g.shape:
        raise ValueError(f"mean has shape {m.shape}, mean_log {g.shape}")
    m = m.reshape(-1, g.shape[-1])
    total = np.sum(m, -1, keepdims=True)
    if not (np.all(m >= 0) and np.all(total > 0) and np.all(np.isfinite(total))):
        raise ValueError("mean has negative numbers, NaN, or a row of zeros")
    return np.maximum(m / total, SMALLEST)
