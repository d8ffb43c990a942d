"""Quantiles of mixtures of normals, one mixture a row."""

from math import erfc, exp, inf, pi, sqrt

import numpy as np

from scbayes.stats._jit import jit

#: Parts with less weight are left out.
SLIGHT = 1e-7
#: Error of a quantile, in units of the narrowest part; and steps to get there.
CLOSE, STEPS = 1e-9, 200


def mixture_quantile(q: float, weight: np.ndarray, loc: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Value below which the mixture has probability ``q``: parts are ``(n_rows, n_parts)``, weights sum to 1."""
    found = np.empty(len(weight))
    _quantile(q, *(np.ascontiguousarray(part, float) for part in (weight, loc, sd)), found)
    return found


@jit
def _quantile(q, weight, loc, sd, found):
    for g in range(len(found)):
        low, high, x, narrow, total = inf, -inf, 0.0, inf, 0.0
        for t in range(weight.shape[1]):
            if weight[g, t] > SLIGHT:
                low, high = min(low, loc[g, t] - 9 * sd[g, t]), max(high, loc[g, t] + 9 * sd[g, t])
                x += weight[g, t] * loc[g, t]
                narrow = min(narrow, sd[g, t])
                total += weight[g, t]
        x /= total
        for _ in range(STEPS):  # Newton's, or half of the bracket where that leaves it
            below, density = 0.0, 0.0
            for t in range(weight.shape[1]):
                if weight[g, t] > SLIGHT:
                    z = (x - loc[g, t]) / sd[g, t]
                    below += weight[g, t] * 0.5 * erfc(-z / sqrt(2.0))
                    density += weight[g, t] * exp(-0.5 * z * z) / (sd[g, t] * sqrt(2.0 * pi))
            over = below / total - q
            if over > 0:
                high = x
            else:
                low = x
            moved = x - over * total / density if density > 0 else inf
            new = moved if low < moved < high else (low + high) / 2
            if abs(new - x) < CLOSE * narrow:
                break
            x = new
        found[g] = x
