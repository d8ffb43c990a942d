r"""Cells of one kind in one batch, as a line between what they express and what floats around them.

.. math:: E[x_{cg}] = N_c\,[m_g + \delta_c (a_g - m_g)], \qquad
          \mathrm{Var}[x_{cg}] = N_c \mu_{cg} + N_c^2 (1 - \delta_c)^2\,(v_g + (FF^\top)_{gg})

m is the mean composition of the group, a the ambient profile. The share of ambient counts is
:math:`\rho_c = \bar\rho + (1 - \bar\rho)\,\delta_c`: how cells differ (:math:`\delta`) is seen without knowing the
level :math:`\bar\rho` of the group.
"""

from dataclasses import dataclass, field

import numpy as np

from scbayes.counts import Counts

#: Counts that the mean of a gene over all cells is worth in that of a group.
PRIOR_COUNTS = 4.0
#: The level of a group is known to about this share of itself while noise is estimated.
LEVEL_ERROR = 0.3
#: No mean falls below this share of the larger of m and a.
FLOOR = 0.01


@dataclass(eq=False)
class AmbientGroup:
    r"""State of one group.

    Attributes
    ----------
    kind, sample
        Which kind of cells, and which sample: integers.
    cells
        Which cells of the data, integers ``(n_cells,)``.
    x, total
        Their counts (CSR) and totals N.
    profile
        a, ``(n_genes,)``.
    sums, squares, by_total
        Sums over cells of x, x² and N x, ``(n_genes,)``.
    centre
        Share of each gene in all cells of the batch: where the mean of a gene of few counts is drawn to.
    level
        :math:`\bar\rho`, as far as it is known.
    shift
        m is that of the cells moved this far towards a, so that :math:`\delta` has mean 0 over cells.
    dispersion
        Squared coefficient of variation of native expression, ``(n_genes,)``.
    programmes
        F, ``(n_genes, n_programmes)``: covariance of native expression, as share of all counts.
    unexplained
        How many times native variance is what v and F say.
    noise
        How many times it is taken to be in weights.
    """

    kind: int
    sample: int
    cells: np.ndarray
    x: object
    total: np.ndarray
    profile: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    by_total: np.ndarray
    centre: np.ndarray
    level: float
    shift: float = 0.0
    dispersion: np.ndarray = field(default_factory=lambda: np.array(0.3))
    programmes: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    unexplained: float = 1.0
    noise: float = 1.0

    @property
    def exposure(self) -> float:
        """Sum of the totals."""
        return float(self.total.sum())

    @property
    def mean(self) -> np.ndarray:
        """m, as observed."""
        observed = self.sums / self.exposure
        return observed + self.shift * (self.profile - observed)

    def expected(self, less: float = 0.0) -> np.ndarray:
        """m, drawn to the centre, as if each gene had ``less`` counts."""
        sums = np.maximum(self.sums - less, 0.0)
        mean = (sums + PRIOR_COUNTS) / (self.exposure + PRIOR_COUNTS / self.centre)
        return np.maximum(mean + self.shift * (self.profile - mean), 1e-3 * mean)

    def native(self, mean: np.ndarray) -> np.ndarray:
        """Part of the mean that is native."""
        return np.maximum(mean - self.level * self.profile, 0.0)

    def native_variance(self, mean: np.ndarray) -> np.ndarray:
        """v: overdispersion, of expression whose square is known up to the errors of m and of the level."""
        error = mean / self.exposure + (LEVEL_ERROR * self.level * self.profile) ** 2
        return self.dispersion * (self.native(mean) ** 2 + error)


def make_groups(
    counts: Counts, kind: np.ndarray, sample: np.ndarray, profiles: np.ndarray, *, level: float
) -> list[AmbientGroup]:
    """Groups of the cells of ``counts``, whose batches are the columns of ``profiles``.

    Parameters
    ----------
    kind, sample
        Integers ``(n_cells,)``; negative: in no group.
    profiles
        Shares ``(n_genes, n_batches)``.
    """
    x = counts.x
    total = np.asarray(x.sum(1), np.float64).ravel()
    batch = counts.batch
    place = np.stack([kind, sample, batch], axis=1)
    inside = (kind >= 0) & (total > 0)
    groups = []
    centres = {}
    for b in np.unique(batch[inside]):
        own = np.asarray(x[np.flatnonzero(inside & (batch == b))].sum(0), np.float64).ravel()
        centres[b] = (own + 1e-2) / own.sum()
    for k, s, b in np.unique(place[inside], axis=0):
        cells = np.flatnonzero(inside & (place == (k, s, b)).all(1))
        part = x[cells]
        n = total[cells]
        square = part.copy()
        square.data = square.data.astype(np.float64) ** 2
        groups.append(
            AmbientGroup(
                int(k),
                int(s),
                cells,
                part,
                n,
                np.ascontiguousarray(profiles[:, b], np.float64),
                np.asarray(part.sum(0), np.float64).ravel(),
                np.asarray(square.sum(0)).ravel(),
                np.asarray(part.T @ n).ravel(),
                centres[b],
                level,
                programmes=np.zeros((x.shape[1], 0)),
            )
        )
    return groups
