r"""The totals of droplets: where those of cells begin, and which are surely empty.

Few droplets hold cells, and their totals are large; the many others hold what floats in the liquid. Weighted by their
counts, log totals therefore have two humps. They are split where the variance between two classes is largest (Otsu):
no number of cells has to be known, and no slope of a curve of ranks has to be steep.
"""

from typing import NamedTuple

import numpy as np

#: Points of the curve of log totals on log ranks at which its slope is taken, and how many are averaged.
N_POINTS, WINDOW = 200, 7
#: Two humps are two where they lie this far apart, in standard deviations of the classes (a normal cut in two: 2.6).
APART = 3.0


class Ranks(NamedTuple):
    """Distinct totals, the largest first, and how many droplets have each.

    ``knee`` is the total at which the plateau of cells ends, ``inflection`` that at which the curve is steepest,
    ``split`` the largest of the lower hump, and ``sure`` the total up to which half of the lower hump's counts lie.
    """

    total: np.ndarray
    droplets: np.ndarray
    knee: float
    inflection: float
    split: float
    sure: float
    apart: bool

    @property
    def rank(self) -> np.ndarray:
        """Mean rank of the droplets of each total, from 1."""
        return np.cumsum(self.droplets) - (self.droplets - 1) / 2


def barcode_ranks(total: np.ndarray, known: np.ndarray | None = None) -> Ranks:
    """Ranks of droplets with counts.

    Parameters
    ----------
    total
        Counts of each droplet, integers, shape ``(n,)``; at least one positive.
    known
        Droplets that are known to be cells, bool ``(n,)``: the half of the lower hump is that of the others.
    """
    value, droplets = (part[::-1] for part in np.unique(total[total > 0], return_counts=True))
    split, apart = _split(value, droplets)
    lower = (total > 0) & (total <= split)
    if known is not None and (lower & ~known).any():
        lower &= ~known
    below, count = np.unique(total[lower], return_counts=True)
    half = np.searchsorted(np.cumsum(below * count), (below * count).sum() / 2)
    knee, inflection = _bends(value, droplets, split)
    return Ranks(value, droplets, knee, inflection, split, float(below[half]), apart)


def _split(value: np.ndarray, droplets: np.ndarray) -> tuple[float, bool]:
    """Total that ends the lower of two classes of log totals, droplets weighted by their counts."""
    if len(value) < 2:
        return float(value[0]), False
    x, weight = np.log(value[::-1].astype(float)), (value * droplets)[::-1].astype(float)
    n, s, q = (np.cumsum(weight * x**power) for power in range(3))
    n_low, s_low, q_low = n[:-1], s[:-1], q[:-1]
    n_high, s_high, q_high = n[-1] - n_low, s[-1] - s_low, q[-1] - q_low
    distance = s_high / n_high - s_low / n_low
    between = n_low * n_high * distance**2
    best = int(np.argmax(between))
    variance = q_low - s_low**2 / n_low + q_high - s_high**2 / n_high
    sd = np.sqrt(max(variance[best] / n[-1], 1e-12))
    # between two classes that are far apart any total is as good: the middle
    return float(np.exp((x[best] + x[best + 1]) / 2)), bool(distance[best] > APART * sd)


def _bends(value: np.ndarray, droplets: np.ndarray, split: float) -> tuple[float, float]:
    """Totals of knee and inflection, on log totals over log ranks."""
    rank = np.cumsum(droplets) - (droplets - 1) / 2
    x, y = np.log(rank), np.log(value.astype(float))
    if len(x) < 3:
        return float(value[0]), float(value[-1])
    end = max(int(np.searchsorted(-value, -split)), 2)  # the curve of those above the split, and one beyond
    end = min(end, len(x) - 1)
    line = y[0] + (y[end] - y[0]) * (x[: end + 1] - x[0]) / (x[end] - x[0])
    knee = int(np.argmax(y[: end + 1] - line))
    at = np.linspace(x[knee], x[-1], N_POINTS)
    slope = np.gradient(np.interp(at, x, y), at)
    smooth = np.convolve(slope, np.ones(WINDOW) / WINDOW, mode="valid")
    shown = at[WINDOW // 2 : WINDOW // 2 + len(smooth)]
    inner = shown < x[-1] - np.log(2)  # the last ranks fall for want of droplets
    steepest = shown[inner][np.argmin(smooth[inner])] if inner.any() else at[-1]
    return float(value[knee]), float(np.exp(np.interp(steepest, x, y)))
