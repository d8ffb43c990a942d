r"""How well a decoder translates between batches, told by units that have cells in several.

In one unit both batches have the same :math:`e^{\eta_g}`. What counts say of it, :math:`\ln(y_{ubg} / E_{ubg})`,
differs between two batches by their own error and by that of the translation, whose variance in each batch is
:math:`s^2`: one number, learned over all genes with counts enough in both.
"""

import numpy as np

from scbayes.models._units import TINY, Units, inverse_sizes
from scbayes.stats._normal_means import normal_means

#: Genes with so many counts in both batches tell it, if there are enough of them.
TELLS, ENOUGH = 10, 20
#: Smallest standard deviation of a difference of two translations, natural log; and spread where no unit tells it.
SMALLEST, UNTOLD = 1e-3, 0.05


def translation_spread(strata: Units, unit: np.ndarray) -> tuple[float, bool]:
    """s, the spread of the errors of log exposures, and whether any unit tells it.

    Parameters
    ----------
    strata
        Units by batch.
    unit
        Which unit each of them is of.
    """
    size = inverse_sizes(strata, np.zeros(len(unit), int))[0]
    found, native = [], strata.native
    for one in np.unique(unit):
        own = np.flatnonzero(unit == one)
        pair = own[np.argsort(-strata.exposure[own], kind="stable")[:2]]
        if len(pair) < 2 or strata.exposure[pair].min() <= TINY:
            continue
        y, exposure = native[pair], strata.gene_exposure[pair]
        genes = (y.min(0) >= TELLS) & (exposure.min(0) > TINY)
        if genes.sum() < ENOUGH:
            continue
        value, error = np.log(y[:, genes] / exposure[:, genes]), strata.total[pair][:, genes] / y[:, genes] ** 2
        of_cells = (strata.exposure2[pair] / strata.exposure[pair] ** 2).sum() * size[genes]
        difference = value[0] - value[1]
        found.append((difference - np.median(difference), error.sum(0) + of_cells))
    if not found:
        return UNTOLD, False
    _, width = normal_means(*(np.concatenate(part) for part in zip(*found, strict=True)), smallest=SMALLEST)
    return width / np.sqrt(2), True
