r"""Weights of models whose mixture predicts best.

Yao, Vehtari, Simpson & Gelman 2018, "Using stacking to average Bayesian predictive distributions".

The mean log score :math:`f(w) = \frac1n \sum_i \ln \sum_m w_m e^{l_{im}}` is concave. Without the constraint
:math:`\sum_m w_m = 1`, but with :math:`-\sum_m w_m` added, it has the same maximum, so only :math:`w \ge 0` is left
(Kim, Carbonetto, Stephens & Anitescu 2020). At any weights that sum to 1 the maximum is at most
:math:`\max_m \partial f / \partial w_m - 1` above: that is when to stop.
"""

import numpy as np

#: Part of the way to the boundary that a step may go.
SHORT_OF_BOUNDARY = 0.99
#: Target of the complementarity, relative to its present mean.
CENTRE = 0.1


def stacking_weights(log_density: np.ndarray, *, tolerance: float = 1e-9, n_steps: int = 200) -> np.ndarray:
    r"""Weights on the simplex that maximise :math:`\sum_i \ln \sum_m w_m e^{l_{im}}`.

    By a primal-dual interior-point method: models that predict alike share their weight, and no start is needed.

    Parameters
    ----------
    log_density
        :math:`l`, log predictive density of each held-out observation in each model, shape ``(n, M)``; -inf allowed
        where another model has a finite one.
    tolerance
        Nats per observation by which the mean log score may be below the best one.
    n_steps
        Most steps; 10 to 20 are usual.

    Returns
    -------
    float64, shape ``(M,)``, not negative, sum 1.

    Raises
    ------
    ValueError
        Not (n, M) with n > 0; or a row is -inf throughout or has NaN or +inf.
    RuntimeError
        The tolerance was not reached.
    """
    log_density = np.asarray(log_density, np.float64)
    if log_density.ndim != 2 or 0 in log_density.shape:
        raise ValueError(f"log_density must be (n observations, M models), both positive, not {log_density.shape}")
    most = np.max(log_density, 1, keepdims=True)
    if not np.all(np.isfinite(most)):
        raise ValueError("log_density has a row that is -inf throughout, or NaN or +inf")
    density = np.exp(log_density - most)  # a factor per observation changes no weight
    n, size = density.shape
    w, dual = np.full(size, 1 / size), np.ones(size)
    for _ in range(n_steps):
        ratio = density / (density @ w)[:, None]
        slope = np.mean(ratio, 0)
        # slope @ w = 1 whatever w sums to, so the slopes at the normalised weights are these times the sum
        if np.max(slope) * np.sum(w) - 1 <= tolerance:
            return w / np.sum(w)
        target = CENTRE * np.mean(w * dual)
        curvature = ratio.T @ ratio / n
        step = np.linalg.solve(curvature + np.diag(dual / w), slope - 1 + target / w)
        dual_step = (target - dual * step) / w - dual
        w = w + min(1, SHORT_OF_BOUNDARY * _reach(w, step)) * step
        dual = dual + min(1, SHORT_OF_BOUNDARY * _reach(dual, dual_step)) * dual_step
    raise RuntimeError(f"stacking weights have not converged to {tolerance:g} nats within {n_steps} steps")


def _reach(x: np.ndarray, step: np.ndarray) -> float:
    """How many steps bring the first of ``x`` to 0."""
    return 1 / max(float(np.max(-step / x)), 1e-30)
