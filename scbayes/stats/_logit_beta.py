r"""Beta distributions by the mean and standard deviation of the logit.

For :math:`x \sim \mathrm{Beta}(a, b)`, :math:`E[\operatorname{logit} x] = \psi(a) - \psi(b)` and
:math:`\operatorname{Var}[\operatorname{logit} x] = \psi'(a) + \psi'(b)`: two numbers for two, whatever they are.
"""

import numpy as np
from scipy.special import betaincinv, digamma, expit, log_ndtr, ndtr, polygamma

#: Newton steps at most, and the error at which they end.
N_STEPS, CLOSE = 60, 1e-9


def concentrations(loc: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The a and b whose logit has the mean ``loc`` and standard deviation ``scale``: float64, of their shape."""
    loc, scale = np.broadcast_arrays(np.asarray(loc, float), np.asarray(scale, float))
    share = expit(loc)
    size = 1 / scale**2
    u, v = np.log(size / (1 - share) + 0.1), np.log(size / share + 0.1)
    for _ in range(N_STEPS):
        a, b = np.exp(u), np.exp(v)
        spread = [polygamma(1, a), polygamma(1, b)]
        both = spread[0] + spread[1]
        error = digamma(a) - digamma(b) - loc, np.log(both) - 2 * np.log(scale)
        if max(np.max(np.abs(part), initial=0) for part in error) < CLOSE:
            break
        first = a * spread[0], -b * spread[1]
        second = a * polygamma(2, a) / both, b * polygamma(2, b) / both
        det = first[0] * second[1] - first[1] * second[0]
        du = (error[0] * second[1] - error[1] * first[1]) / det
        dv = (error[1] * first[0] - error[0] * second[0]) / det
        u, v = u - np.clip(du, -1, 1), v - np.clip(dv, -1, 1)
    return np.exp(u), np.exp(v)


def logit_quantile(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Logit of the quantile of Beta(a, b) at the probability that a standard normal lies below ``z``."""
    x = betaincinv(a, b, ndtr(z))
    # far out on the left the distribution function is x^a / (a B(a, b))
    return np.where(x > 1e-280, np.log(np.maximum(x, 1e-300)) - np.log1p(-np.minimum(x, 1 - 1e-16)), log_ndtr(z) / a)
