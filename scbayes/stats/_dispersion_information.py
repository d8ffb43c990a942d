r"""What one negative binomial count of known mean is expected to tell about its overdispersion.

For mean m and size :math:`r = 1/\alpha` the expected information about r (the mean is orthogonal to it) is

.. math::
    I_r = E[\psi_1(r) - \psi_1(r + u)] - \frac{m}{r (r + m)}
        = \int_0^\infty e^{-rt} \Big[ \tfrac{t}{1 - e^{-t}} \big(1 - (1 + \alpha m (1 - e^{-t}))^{-r}\big)
          - (1 - e^{-mt}) \Big] dt

by :math:`\psi_1(x) = \int t e^{-xt} / (1 - e^{-t}) dt` and the generating function of u. About :math:`\ln \alpha` it is
:math:`r^2 I_r`, near :math:`\tfrac12 m^2 \alpha^2 / (1 + \alpha)` where m is small: pairs of molecules tell.
"""

from functools import cache

import numpy as np
from scipy.interpolate import RectBivariateSpline

#: Log means and log overdispersions that are tabulated, and their number.
LOG_MEAN, LOG_ALPHA = (-9.0, 11.0, 81), (-9.0, 6.0, 46)
#: Points of the integral over ln t.
N_POINTS = 400


def information(log_mean: np.ndarray, log_alpha: np.ndarray) -> np.ndarray:
    """Expected information about log overdispersion, by interpolation: of each pair of the two, any equal shapes."""
    log_mean, log_alpha = np.broadcast_arrays(log_mean, log_alpha)
    mean, alpha = (np.clip(x, *ends[:2]) for x, ends in ((log_mean, LOG_MEAN), (log_alpha, LOG_ALPHA)))
    ratio = _table().ev(mean.ravel(), alpha.ravel()).reshape(mean.shape)
    return np.exp(ratio + _log_of_pairs(mean, alpha) + 2 * np.minimum(log_mean - LOG_MEAN[0], 0))


def integrated(log_mean: np.ndarray, log_alpha: np.ndarray) -> np.ndarray:
    """The same by its integral, for arrays of equal shapes."""
    m, r = np.exp(log_mean)[..., None], np.exp(-log_alpha)[..., None]
    low, high = -12 - np.log1p(m + r), np.log(45 / r)  # the integrand falls as t on the left, exp(-rt) on the right
    x = low + (high - low) * np.linspace(0, 1, N_POINTS)
    t = np.exp(x)
    gone = -np.expm1(-t)
    inside = -t / gone * np.expm1(-r * np.log1p(m / r * gone)) + np.expm1(-m * t)
    return r[..., 0] ** 2 * np.sum(np.exp(-r * t) * inside * t, -1) * (x[..., 1] - x[..., 0])


def _log_of_pairs(log_mean: np.ndarray, log_alpha: np.ndarray) -> np.ndarray:
    return 2 * (log_mean + log_alpha) - np.log(2) - np.logaddexp(0, log_alpha)


@cache
def _table() -> RectBivariateSpline:
    """Log of the information over that of rare pairs, which is smooth."""
    mean, alpha = (np.linspace(*ends) for ends in (LOG_MEAN, LOG_ALPHA))
    at = np.meshgrid(mean, alpha, indexing="ij")
    return RectBivariateSpline(mean, alpha, np.log(integrated(*at)) - _log_of_pairs(*at))
