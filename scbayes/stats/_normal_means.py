r"""Centre and width of a population of normal means, each seen with its own error.

:math:`x_i \sim N(\theta_i, v_i)`, :math:`\theta_i \sim N(m, s^2)`: the pair that maximises
:math:`\prod_i N(x_i; m, s^2 + v_i)`, by the fixed point of its score equations (Efron & Morris 1975).
"""

import numpy as np


def normal_means(
    x: np.ndarray, variance: np.ndarray, *, smallest: float = 0.1, n_steps: int = 50
) -> tuple[float, float]:
    """Maximum marginal likelihood ``(m, s)`` from estimates ``x`` and their ``variance``; ``s >= smallest``."""
    centre, width = float(np.median(x)), max(float(np.std(x)), smallest)
    for _ in range(n_steps):
        weight = 1 / (width**2 + variance)
        centre = float(np.sum(weight * x) / np.sum(weight))
        excess = np.sum(weight**2 * ((x - centre) ** 2 - variance)) / np.sum(weight**2)
        new = max(float(np.sqrt(max(excess, 0.0))), smallest)
        if abs(new - width) < 1e-6:
            return centre, new
        width = new
    return centre, width
