"""Units (a donor's cells of one type) as counts with an exposure: size factors and dispersion."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scbayes.models._ambient_counts import AmbientCounts
from scbayes.models._decoded_units import DecodedUnits

#: Genes that are expected to have so many counts in a unit tell its size factor, if there are enough of them.
TELLS, ENOUGH = 10.0, 20
#: Inverse sizes are between these.
SMALLEST, LARGEST = 1e-3, 30.0
#: Spread of log inverse sizes of genes around their trend.
SPREAD = 0.5
#: Exposure of units whose cells are all empty.
TINY = 1e-9


class Overdispersion(NamedTuple):
    """What the cells of units say about the overdispersion of genes, see :mod:`scbayes.models._overdispersion`.

    Attributes
    ----------
    slope, information
        Of the log likelihood of the residual, Chebyshev series in it: ``(n_units, n_genes, n_terms)``.
    trend
        Log overdispersion that is usual at the gene's mean, times the number of cells: ``(n_units, n_genes)``.
    """

    slope: np.ndarray
    information: np.ndarray
    trend: np.ndarray


class Units(NamedTuple):
    """Sums over the cells of units.

    Attributes
    ----------
    total, squares, detected
        Sums of counts and of their squares, number of cells that express: ``(n_units, n_genes)``.
    cells
        Number of cells, ``(n_units,)``.
    exposure, exposure2
        Sum of the cells' size factors and of their squares, ``(n_units,)``.
        These are native ones where ambient counts are known.
    overdispersion
        Where it is asked for.
    ambient
        Ambient counts that are expected among those of `total`, where they are known.
    decoded
        What a decoder says of the cells, where there is one.
    """

    total: np.ndarray
    squares: np.ndarray
    detected: np.ndarray
    cells: np.ndarray
    exposure: np.ndarray
    exposure2: np.ndarray
    overdispersion: Overdispersion | None = None
    ambient: AmbientCounts | None = None
    decoded: DecodedUnits | None = None

    @property
    def gene_exposure(self) -> np.ndarray:
        """Exposure of each gene, ``(n_units, n_genes)``; where all have the same, ``(n_units, 1)``."""
        return self.exposure[:, None] if self.decoded is None else self.decoded.exposure.mean(1, dtype=float)

    @property
    def native(self) -> np.ndarray:
        """Counts less the ambient ones that are expected."""
        return self.total if self.ambient is None else np.maximum(self.total - self.ambient.mean(), 0)

    def take(self, index) -> "Units":
        """Some of the units."""
        return self._each(lambda part: part[index])

    def join(self, group: np.ndarray, n_groups: int) -> "Units":
        """Units put together, as ``group`` says."""

        def joined(part: np.ndarray) -> np.ndarray:
            together = np.zeros((n_groups, *part.shape[1:]), part.dtype)
            for k, unit in zip(group, part, strict=True):
                together[k] += unit
            return together

        return self._each(joined)

    def scaled(self, factor: np.ndarray) -> "Units":
        """With exposures times ``factor``."""
        ambient = None if self.ambient is None else self.ambient.scaled(factor)
        decoded = None if self.decoded is None else self.decoded.scaled(factor)
        sums = {"exposure": self.exposure * factor, "exposure2": self.exposure2 * factor**2}
        return self._replace(**sums, ambient=ambient, decoded=decoded)

    def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> "Units":
        *sums, extra, ambient, decoded = self
        extra = None if extra is None else Overdispersion(*map(function, extra))
        known = (None if part is None else part.each(function) for part in (ambient, decoded))
        return Units(*map(function, sums), extra, *known)


def size_factors(units: Units, relative_to: "str | np.ndarray" = "median") -> np.ndarray:
    """What the exposure of each unit has to be multiplied with, for fold changes relative to something.

    Parameters
    ----------
    relative_to
        ``"median"`` or ``"clr"``: median, or geometric mean, of the ratios to the mean profile over genes that are
        expected to have counts enough, where there are enough of those; ``"total"``: all counts; or a mask of genes:
        their counts.
    """
    factor = np.ones(len(units.exposure))
    if not len(factor):
        return factor
    native, of_genes = units.native, units.gene_exposure
    profile = native.sum(0) / np.maximum(of_genes.sum(0), TINY)
    for i, exposure in enumerate(of_genes):
        expected, total = profile * exposure, native[i]
        tells = expected >= TELLS
        if isinstance(relative_to, np.ndarray):
            factor[i] = (total[relative_to].sum() + 0.5) / (expected[relative_to].sum() + 0.5)
        elif relative_to == "clr" and tells.sum() >= ENOUGH:
            factor[i] = np.exp(np.mean(np.log((total[tells] + 0.5) / (expected[tells] + 0.5))))
        elif relative_to == "median" and tells.sum() >= ENOUGH:
            factor[i] = np.median(total[tells] / expected[tells])
    factor = np.where(factor > 0, factor, 1.0)
    return factor / np.exp(np.mean(np.log(factor)))


def inverse_sizes(units: Units, arm: np.ndarray) -> np.ndarray:
    r"""1 / r of each gene in each arm of units, ``(n_arms, n_genes)``, by moments around a trend.

    In a cell of size factor s, :math:`E[u(u-1)] = s^2 \mu^2 (1 + 1/r)`, and with ambient counts of mean m besides
    :math:`2 s \mu m + m^2`. What the sums over the cells of an arm say is weighed against the trend over genes by its
    error.
    """
    found = []
    for k in range(arm.max() + 1):
        own = units.take(arm == k)
        exposure = np.maximum(own.gene_exposure, TINY)
        mean, ratio = own.native / exposure, exposure / np.maximum(own.exposure, TINY)[:, None]
        # the mean's own error makes its square too large
        mean2 = np.maximum(mean**2 - own.total / exposure**2, 0)
        chance = np.sum(own.exposure2[:, None] * ratio**2 * mean2, 0)
        pairs = np.sum(own.squares - own.total, 0)
        foreign = 0.0 if own.ambient is None else own.ambient.pairs(ratio * mean).sum(0)
        estimate = (pairs - foreign) / np.maximum(chance, 1e-12) - 1
        error = np.sqrt(2 * np.maximum(pairs, 1.0)) / np.maximum(chance, 1e-12)
        tells = (chance > 20) & (estimate > 0)
        trend = np.median(estimate[tells]) if tells.sum() >= 5 else 0.5
        weight = 1 / (1 + (error / (SPREAD * trend)) ** 2)
        found.append(weight * np.maximum(estimate, 0) + (1 - weight) * trend)
    return np.clip(found, SMALLEST, LARGEST)
