"""What differential expression needs of the cells of each unit, in one place for data and for shuffled labels."""

import numpy as np

from scbayes.counts import Counts
from scbayes.counts._by_unit import sum_by_unit
from scbayes.models._overdispersion import overdispersion
from scbayes.models._translation import translation_spread
from scbayes.models._units import Units
from scbayes.tl._de_design import Cells


def unit_sums(counts: Counts, cells: Cells, statistic: str) -> Units:
    """Sums over the cells of each unit, and what ``statistic`` needs; size factors are totals over their mean.

    Where ambient counts are known, these are totals of native ones.
    """
    members, ambient, decoder = cells.members, cells.ambient, cells.decoder
    if decoder is not None:  # it knows batches
        members, unit = decoder.strata(members)
    (total, squares, detected), n = sum_by_unit(counts, members)
    size = n if ambient is None else n * (1 - ambient.fraction)
    size = size / max(np.average(size[members.cell], weights=members.weight), 1e-300)
    units = Units(total, squares, detected, members.n_cells, members.sum(size), members.sum(size**2))
    if ambient is not None:
        units = units._replace(ambient=ambient.by_unit(n, size, members.sum))
    if decoder is not None:
        decoded, spread = decoder.by_stratum(members, unit, size), (0.0, True)
        if decoder.codes is not None:
            told = np.flatnonzero(decoder.wanted[unit])
            spread = translation_spread(units._replace(decoded=decoded).take(told), unit[told])
        decoded = decoded._replace(spread=spread[0], told=spread[1])
        units = units._replace(decoded=decoded).join(unit, cells.members.n_units)
    if statistic == "mean":
        return units
    return units._replace(overdispersion=overdispersion(counts, members, size, units))
