"""What differential expression needs of the cells of each unit, in one place for data and for shuffled labels."""

import numpy as np

from scbayes.counts import Counts
from scbayes.counts._by_unit import sum_by_unit
from scbayes.models._overdispersion import overdispersion
from scbayes.models._units import Units
from scbayes.tl._de_design import Cells


def unit_sums(counts: Counts, cells: Cells, statistic: str) -> Units:
    """Sums over the cells of each unit, and what ``statistic`` needs; size factors are totals over their mean."""
    members = cells.members
    (total, squares, detected), size = sum_by_unit(counts, members)
    size = size / max(np.average(size[members.cell], weights=members.weight), 1e-300)
    units = Units(total, squares, detected, members.n_cells, members.sum(size), members.sum(size**2))
    if statistic == "mean":
        return units
    return units._replace(overdispersion=overdispersion(counts, members, size, units))
