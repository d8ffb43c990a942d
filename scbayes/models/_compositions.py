r"""Composition of a cell: the shares of the genes in its latent expression.

Latent expression of gene g is :math:`\lambda_g \sim \mathrm{Gamma}(r_g)\,\mu_g / r_g`, independent given the
parameters, and the composition is :math:`x_g = \lambda_g / \sum_h \lambda_h`. Where all genes share their odds,
:math:`\mu_g / r_g` is one number and :math:`x \sim \mathrm{Dirichlet}(r)`; else it is no Dirichlet distribution.

With normalised means, :math:`\sum_g \mu_g = 1`, and :math:`L(t) = \prod_g (1 + t \mu_g / r_g)^{-r_g}`, the Laplace
transform of the total (Frullani's integral):

.. math:: E[\ln x_g] = \psi(r_g) + \ln\frac{\mu_g}{r_g} - E\Big[\ln \sum_h \lambda_h\Big], \qquad
    E\Big[\ln \sum_h \lambda_h\Big] = \int_{-\infty}^{\infty} \big(e^{-e^x} - L(e^x)\big)\, dx.
"""

import numpy as np
from scipy.special import digamma, logsumexp

#: Distance of the integral's nodes in ln t: the error of the trapezoid rule is exp(-pi^2 / STEP), as the integrand is
#: analytic and decays up to a distance of pi/2 from the real line.
STEP = 0.25
#: Where the integral begins: the integrand is of the order of t^2 there.
FIRST = -20.0
#: The integral ends where both transforms are below exp(-NOTHING), or at LAST: t must not overflow.
NOTHING = 37.0
LAST = 600.0


def draw_log_compositions(size: np.ndarray, mean: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Logs of ``n`` draws of a cell's composition.

    Parameters
    ----------
    size, mean
        r and mu of all genes, shape ``(..., G)``; mu on any scale.

    Returns
    -------
    float64 ``(..., G, n)``; logs, because shares of genes with small sizes are below the smallest double.
    """
    shape = (*size.shape, n)
    size = size[..., None]
    # Gamma(r) = Gamma(r + 1) U^(1/r), and -ln U is exponential: no draw is rounded to zero
    log_x = np.log(rng.standard_gamma(size + 1, shape)) - rng.standard_exponential(shape) / size
    log_x += np.log(mean[..., None]) - np.log(size)
    return log_x - logsumexp(log_x, axis=-2, keepdims=True)


def expected_log_composition(size: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Expected log of a cell's composition, given r and mu of all genes: all shapes ``(..., G)``."""
    mean = mean / mean.sum(-1, keepdims=True)
    scale = mean / size
    total = np.empty(size.shape[:-1])
    for index in np.ndindex(total.shape):
        total[index] = _expected_log_total(size[index], scale[index])
    return digamma(size) + np.log(scale) - total[..., None]


def _expected_log_total(size: np.ndarray, scale: np.ndarray) -> float:
    """Expected log of a sum of independent ``scale * Gamma(size)`` whose mean is 1."""
    if np.ptp(scale) <= 1e-9 * scale[0]:  # the sum is a Gamma variable itself
        return float(digamma(size.sum()) + np.log(scale.mean()))
    result, x = 0.0, FIRST
    while True:
        t = np.exp(x + STEP * np.arange(16))
        log_transform = -np.log1p(t[:, None] * scale) @ size
        result += STEP * np.sum(np.exp(-t) - np.exp(log_transform))
        x += STEP * 16
        if (log_transform[-1] < -NOTHING and t[-1] > NOTHING) or x > LAST:
            return float(result)
