r"""Ambient counts that are expected in units of cells.

Of the :math:`N_c` counts of cell c a share :math:`\rho_c` is ambient, of the profile :math:`a_k` of its stratum k
(cells of one sample and batch). So, with :math:`\lambda_c = N_c \rho_c`, unit u expects

.. math:: B_{ug} = \sum_k a_{gk} \sum_{c \in u, k} \lambda_c

of gene g: sums over cells and strata are all that is kept. Three things make B uncertain:

- what is particular to a cell's :math:`\rho_c`, which averages out over cells;
- the level of :math:`\rho` of a sample, an error that all its cells have in common;
- the profile of a batch, likewise.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Strata(NamedTuple):
    """Cells of one sample and batch.

    Attributes
    ----------
    profile, profile_sd
        Of the ambient RNA, with its error, ``(n_genes, n_strata)``.
    level_sd
        Error of the sample's level of contamination, as a share of it: ``(n_strata,)``.
    sample, batch
        Whose each stratum is, from zero: ``(n_strata,)``.
    """

    profile: np.ndarray
    profile_sd: np.ndarray
    level_sd: np.ndarray
    sample: np.ndarray
    batch: np.ndarray


class AmbientCells(NamedTuple):
    """Contamination of each cell: its share of ambient counts, that share's own standard deviation, its stratum."""

    fraction: np.ndarray
    sd: np.ndarray
    stratum: np.ndarray
    strata: Strata

    def by_unit(self, total: np.ndarray, size: np.ndarray, sum_over: Callable) -> "AmbientCounts":
        """Sums over units; ``total``, ``size``: counts and native size factor of each cell; ``sum_over`` cells."""
        expected = total * self.fraction
        parts = expected, expected**2 + (total * self.sd) ** 2, size * expected, (total * self.sd) ** 2
        n_strata = len(self.strata.sample)
        here = [self.stratum == k for k in range(n_strata)]
        return AmbientCounts(*[np.stack([sum_over(part * own) for own in here], 1) for part in parts], self.strata)


class AmbientCounts(NamedTuple):
    """Sums over the cells of units, ``(n_units, n_strata)`` each.

    Attributes
    ----------
    expected, squares, mixed
        Of expected ambient counts, of their squares, and of their products with size factors.
    own
        Of the variances of their errors, as far as these are each cell's own.
    strata
        What the columns are.
    """

    expected: np.ndarray
    squares: np.ndarray
    mixed: np.ndarray
    own: np.ndarray
    strata: Strata

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> "AmbientCounts":
        """With a function of each of the sums."""
        return AmbientCounts(*map(function, self[:4]), self.strata)

    def scaled(self, factor: np.ndarray) -> "AmbientCounts":
        """With size factors times ``factor``."""
        return self._replace(mixed=self.mixed * factor[:, None])

    def of_genes(self, genes: np.ndarray) -> "AmbientCounts":
        """Some of the genes."""
        parts = {name: getattr(self.strata, name)[genes] for name in ("profile", "profile_sd")}
        return self._replace(strata=self.strata._replace(**parts))

    def mean(self) -> np.ndarray:
        """Expected ambient counts, ``(n_units, n_genes)``."""
        return self.expected @ self.strata.profile.T

    def pairs(self, native: np.ndarray) -> np.ndarray:
        """Pairs of molecules in a cell of which one or both are ambient, for native means at a size factor of 1."""
        profile = self.strata.profile.T
        return 2 * native * (self.mixed @ profile) + self.squares @ profile**2

    def causes(self) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Errors that units have in common: load, profile and factor of :class:`Background`.

        A cause for each sample, its level, and for each batch, its profile.
        """
        load = np.concatenate([self.expected, self.expected], 1)
        profile = np.concatenate([self.strata.profile * self.strata.level_sd, self.strata.profile_sd], 1)
        factor = [of[:, None] == np.arange(of.max() + 1) for of in (self.strata.sample, self.strata.batch)]
        none = [np.zeros_like(part) for part in factor[::-1]]
        return load, profile, np.block([[factor[0], none[0]], [none[1], factor[1]]]).astype(float)

    def variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the error of expected counts, and of it what has common causes: ``(n_units, n_genes)`` each."""
        common = sum(error**2 for error in self.errors())
        return common + self.own @ (self.strata.profile**2).T, common

    def errors(self, *, levels_only: bool = False) -> Iterator[np.ndarray]:
        """Of expected counts, for one standard deviation of each cause: ``(n_units, n_genes)`` each.

        ``levels_only``: of those causes that move all genes together.
        """
        load, profile, factor = self.causes()
        n_causes = self.strata.sample.max() + 1 if levels_only else factor.shape[1]
        for own in factor.T[:n_causes] > 0:
            yield load[:, own] @ profile[:, own].T
