r"""Interpolation of smooth functions on Chebyshev nodes.

A function :math:`f` on :math:`[a, b]` is replaced by the polynomial through its values at
:math:`\tau_m = \tfrac{a+b}{2} + \tfrac{b-a}{2}\cos\tfrac{(m+1/2)\pi}{M}`. If :math:`f` is analytic within the ellipse
with foci :math:`a, b` and parameter :math:`\varrho`, the error falls as :math:`\varrho^{-M}` (Trefethen 2013, ch. 8).
"""

from typing import NamedTuple

import numpy as np

from scbayes.stats._jit import jit


class Chebyshev(NamedTuple):
    """An interval and its nodes.

    Attributes
    ----------
    low, high
        The ends of the interval.
    nodes
        float64, shape ``(n_nodes,)``.
    """

    low: float
    high: float
    nodes: np.ndarray

    def basis(self, x: np.ndarray) -> np.ndarray:
        """Chebyshev polynomials at ``x``, clipped to the interval: float64, shape ``(n, n_nodes)``."""
        centre, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return _polynomials(np.clip((np.asarray(x, float) - centre) / half, -1, 1), len(self.nodes))

    @property
    def transform(self) -> np.ndarray:
        """Matrix from values at the nodes to Chebyshev coefficients, shape ``(n_nodes, n_nodes)``."""
        n = len(self.nodes)
        order, node = np.arange(n)[:, None], np.arange(n)[None, :]
        matrix = 2 / n * np.cos(order * (node + 0.5) * np.pi / n)
        matrix[0] /= 2
        return matrix

    @property
    def derivative(self) -> np.ndarray:
        """Matrix from the coefficients of a function to those of its derivative, shape ``(n_nodes, n_nodes)``."""
        n = len(self.nodes)
        matrix = np.zeros((n, n))
        for order in range(1, n):  # T_k' = 2k (T_{k-1} + T_{k-3} + ...), the term in T_0 counted half
            matrix[order - 1 :: -2, order] = 2 * order
        matrix[0] /= 2
        return matrix * 2 / (self.high - self.low)

    def weights(self, x: np.ndarray) -> np.ndarray:
        """Weights of the nodes' values in the interpolated value at each ``x``: float64, ``(n, n_nodes)``."""
        return self.basis(x) @ self.transform


@jit
def _polynomials(t, n):
    """T_0 to T_{n-1} at each ``t``: T_k = 2 t T_{k-1} - T_{k-2}."""
    out = np.ones((len(t), n))
    for i in range(len(t)):
        before, here = t[i], 1.0
        for k in range(n):
            out[i, k] = here
            before, here = here, 2 * t[i] * here - before
    return out


def chebyshev(low: float, high: float, *, pole: float = np.pi, tolerance: float = 1e-7) -> Chebyshev:
    """Nodes on ``[low, high]``, enough for functions whose nearest singularity lies ``pole`` off the real axis.

    Parameters
    ----------
    low, high
        The interval; ``high > low``.
    pole
        Distance of the nearest singularity from the real axis, in units of ``x``. ``log1p(exp(x))`` has it at pi.
    tolerance
        The relative error aimed at.
    """
    half = max((high - low) / 2, 1e-3)
    reach = pole / half
    ellipse = reach + np.sqrt(1 + reach**2)
    n = -np.log(tolerance) / np.log(ellipse) + 2
    n = 8 * int(np.clip(np.ceil(n / 8), 1, 12))  # few sizes, so that compiled code serves many data sets
    centre = (low + high) / 2
    nodes = centre + half * np.cos((np.arange(n) + 0.5) * np.pi / n)
    return Chebyshev(centre - half, centre + half, nodes)
