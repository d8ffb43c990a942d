"""Shares of intervals that hold the truth, where those of one data set share their errors."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri


class Share(NamedTuple):
    """A share and its 95% interval."""

    value: float
    low: float
    high: float


def pooled_share(hits: np.ndarray, sizes: np.ndarray) -> Share:
    r"""Share of hits over all data sets, and an interval that takes data sets as the independent units.

    Wilson's interval (1927) with :math:`n / \max(d, 1)` observations for n, where the design effect

    .. math:: d = \frac{\frac{S}{S-1} \sum_s (h_s - \hat c\, n_s)^2}{n\, \hat c (1 - \hat c)}

    says how much more the hits of S data sets scatter than independent ones would (Kish 1965, Survey Sampling;
    Rao & Scott 1992, A simple method for the analysis of clustered binary data, Biometrics 48, 577-585).

    Parameters
    ----------
    hits, sizes
        Hits and trials of each data set, ``(S,)``.
    """
    hits, sizes = np.asarray(hits, float), np.asarray(sizes, float)
    total, n_sets = sizes.sum(), len(sizes)
    share = float(hits.sum() / total)
    independent = total * share * (1 - share)
    scatter = n_sets / max(n_sets - 1, 1) * float(np.sum((hits - share * sizes) ** 2))
    n = total / max(scatter / independent, 1.0) if independent > 0 else total
    z2 = float(ndtri(0.975)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return Share(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))
