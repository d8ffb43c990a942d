r"""How a count divides into a Poisson and a negative binomial part.

.. math:: P(j \mid x) \propto \mathrm{Poisson}(j; \lambda)\,\mathrm{NB}(x - j; m, r), \qquad
          \frac{P(j + 1 \mid x)}{P(j \mid x)} = \frac{\lambda}{j + 1} \cdot \frac{x - j}{q\,(x - j - 1 + r)}, \quad
          q = \frac{m}{m + r}

The sum of both is Delaporte distributed.
"""

import numpy as np

from scbayes.stats._jit import jit

#: Above this the weights are brought down, lest they overflow.
LARGE = 1e200


@jit
def divide(x, poisson, native, size, tail):
    """Expected Poisson part of the count ``x``; sets ``tail[j]`` to the probability that it is above j.

    ``tail`` has at least x entries. Where no native counts are expected, all is Poisson.
    """
    n = int(x)
    if poisson <= 0.0:
        tail[:n] = 0.0
        return 0.0
    if native <= 0.0:
        tail[:n] = 1.0
        return float(n)
    q = native / (native + size)
    weight, total = 1.0, 1.0
    for j in range(n):
        weight *= poisson / (j + 1) * (n - j) / (q * (n - j - 1 + size))
        tail[j] = weight
        total += weight
        if total > LARGE:
            weight, total = weight / LARGE, total / LARGE
            for i in range(j + 1):
                tail[i] /= LARGE
    mean, above = 0.0, 0.0
    for j in range(n - 1, -1, -1):
        above += tail[j]
        tail[j] = min(above / total, 1.0)
        mean += tail[j]
    return mean


def ambient_part(x: np.ndarray, poisson: np.ndarray, native: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Expected Poisson part of each count; arrays of one shape ``(n,)``."""
    out = np.empty(len(x))
    _parts(x, poisson, native, size, out)
    return out


@jit
def _parts(x, poisson, native, size, out):
    tail = np.empty(int(x.max()) + 1 if len(x) else 1)
    for i in range(len(x)):
        out[i] = divide(x[i], poisson[i], native[i], size[i], tail)


def draw_part(
    x: np.ndarray, poisson: np.ndarray, native: np.ndarray, size: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A draw of the Poisson part of each count; arrays of one shape ``(n,)``."""
    out = np.empty(len(x))
    _draws(x, poisson, native, size, rng.random(len(x)), out)
    return out


@jit
def _draws(x, poisson, native, size, uniform, out):
    tail = np.empty(int(x.max()) + 1 if len(x) else 1)
    for i in range(len(x)):
        divide(x[i], poisson[i], native[i], size[i], tail)
        out[i] = 0
        for j in range(int(x[i])):
            out[i] += tail[j] > uniform[i]
