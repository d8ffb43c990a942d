"""What differential expression compares: cells into units, units into two arms with a design."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts._by_unit import Members
from scbayes.models._ambient_counts import AmbientCells
from scbayes.models._contrast import Arms
from scbayes.models._decoded_units import Decoder
from scbayes.models._units import Units
from scbayes.stats._numbers import check_whole
from scbayes.tl._de_groups import REST, SETS_GIVEN, Grouping, categories_of, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class Cells(NamedTuple):
    """Units of all cells that take part: every combination of group, level, sample and covariates that has cells.

    ``table`` has a row per unit with its ``group`` (position in ``groups``), ``within`` (position in ``levels``),
    ``sample`` and ``covariates``; ``batch`` are names, one a unit, None without batches. ``ambient``: contamination of
    all cells, where it is known. ``decoder``: what says how expression differs between batches, where there is one.
    """

    members: Members
    table: pd.DataFrame
    groups: list[str]
    levels: list[str]
    covariates: list[str]
    batch: np.ndarray | None
    replicated: bool
    ambient: AmbientCells | None = None
    decoder: Decoder | None = None


class Comparison(NamedTuple):
    """Units of two arms; ``covariates``: columns of the table that the design takes in.

    ``all_others``: whether the reference is everything else, not a group.
    """

    name: str
    own: np.ndarray
    other: np.ndarray
    covariates: list[str]
    all_others: bool


def cells_of(
    adata: "AnnData",
    grouping: Grouping,
    subset: np.ndarray | None,
    *,
    within: str | None,
    sample_key: str | None,
    covariates: tuple[str, ...],
    batch_key: str | None,
) -> Cells:
    """Cells into units; those without a group, level, sample or covariate are left out."""
    extra = [*covariates, *([batch_key] if batch_key else [])]
    used = {"within": within, "sample": sample_key} | {f"covariate {k}": name for k, name in enumerate(extra)}
    used = {name: key for name, key in used.items() if key is not None}
    keys = [grouping.what, *(f"obs[{key!r}]" for key in used.values())]
    if len(set(keys)) < len(keys):
        msg = f"groupby, within, sample_key, covariates and batch_key name a column twice: {keys}"
        raise ValueError(msg)
    columns = {name: categories_of(adata, key) for name, key in used.items()}
    table = pd.DataFrame({"group": grouping.group, "within": 0, "sample": 0})
    for name, column in columns.items():
        table[name] = column.cat.codes.to_numpy()[grouping.cell]
    here = (table >= 0).all(axis=1).to_numpy(copy=True)
    if subset is not None:
        here &= subset[grouping.cell]
    groups = table[here].groupby(list(table.columns), sort=True)
    unit = groups.ngroup().to_numpy()
    rows = table[here].iloc[np.unique(unit, return_index=True)[1]].reset_index(drop=True)
    cell = grouping.cell[here]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=adata.n_obs))])
    members = Members(indptr, unit, grouping.weight[here], len(rows))
    levels = names_of(columns["within"], within) if within else [""]
    names = [name for name in rows.columns if name.startswith("covariate")]
    batch = None
    if batch_key:
        batch = columns[names[-1]].cat.categories.astype(str).to_numpy()[rows[names[-1]]]
    return Cells(members, rows, grouping.names, levels, names, batch, sample_key is not None)


def comparisons(
    cells: Cells,
    groups: "str | Sequence[str]",
    reference: str,
    what: str,
    *,
    min_cells: int,
    batch1: "Sequence[str] | None",
    batch2: "Sequence[str] | None",
) -> tuple[list[Comparison], list[str]]:
    """Every comparison that has cells, and the names of those that have fewer than ``min_cells``."""
    from scanpy import logging as logg

    check_whole(1, min_cells=min_cells)

    def position(name: str) -> int:
        if str(name) not in cells.groups:
            msg = f"no group {name!r} in {what}, which has {cells.groups}"
            raise KeyError(msg)
        return cells.groups.index(str(name))

    against = None if reference == REST and REST not in cells.groups else position(reference)
    all_others = against is None or (what == SETS_GIVEN and reference == REST)
    if reference == REST and not all_others:
        logg.warning(f"{what} has a group {REST!r}, which is the reference, not all other cells")
    named = not (isinstance(groups, str) and groups == "all")
    names = ([groups] if isinstance(groups, str) else groups) if named else cells.groups
    wanted = [k for k in dict.fromkeys(position(name) for name in names) if k != against]
    in_batches, covariates = _batches(cells, batch1, batch2)
    group, level, n_cells = cells.table["group"].to_numpy(), cells.table["within"].to_numpy(), cells.members.n_cells
    found, skipped = [], []
    for place, level_name in enumerate(cells.levels):
        for k in wanted:
            name = f"{level_name}: {cells.groups[k]}" if level_name else cells.groups[k]
            own = (group == k) & (level == place) & in_batches[0]
            other = (group != k if against is None else group == against) & (level == place) & in_batches[1]
            if min(n_cells[own].sum(), n_cells[other].sum()) < min_cells:
                skipped.append(name)
            else:
                found.append(Comparison(name, own, other, covariates, all_others))
    names = [comparison.name for comparison in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"two comparisons would be called {twice!r}: rename groups or categories"
        raise ValueError(msg)
    if not found:
        msg = f"nothing to compare in {what}: give at least two groups of {min_cells} cells or more"
        raise ValueError(msg)
    if skipped:
        logg.warning(f"comparisons with fewer than {min_cells} cells on one side are left out: {skipped}")
    return found, skipped


def _batches(cells: Cells, batch1, batch2) -> tuple[list[np.ndarray], list[str]]:
    """Which units each arm may take, and the covariates: batches are one where both arms share them."""
    from scanpy import logging as logg

    if cells.batch is None:
        return [np.ones(len(cells.table), bool)] * 2, cells.covariates
    known = sorted(set(cells.batch))
    sets = []
    for name, chosen in (("batch1", batch1), ("batch2", batch2)):
        chosen = known if chosen is None else [chosen] if isinstance(chosen, str) else [str(b) for b in chosen]
        absent = [b for b in chosen if b not in known]
        if absent or not chosen:
            msg = f"{name} must name batches, of which there are {known}: {absent or chosen}"
            raise KeyError(msg)
        sets.append(set(chosen))
    shared = sets[0] & sets[1]
    if shared and sets[0] != sets[1]:
        logg.warning(f"batch1 and batch2 overlap in part: what the others add is told from {sorted(shared)} alone")
    return [np.isin(cells.batch, sorted(part)) for part in sets], cells.covariates if shared else cells.covariates[:-1]


def arms_of(cells: Cells, units: Units, comparison: Comparison) -> Arms:
    """Units of both arms put together by sample and covariates, with their design."""
    part = comparison.own | comparison.other
    table = cells.table[part].assign(arm=comparison.own[part].astype(int))
    columns = ["arm", "sample", *comparison.covariates]
    groups = table.groupby(columns, sort=True)
    joined = units.take(np.flatnonzero(part)).join(groups.ngroup().to_numpy(), groups.ngroups)
    rows = np.unique(table[columns].to_numpy(), axis=0)
    arm, sample = rows[:, 0], rows[:, 1]
    design = [np.ones(len(rows))]
    for values in rows[:, 2:].T:
        design += [(values == level) - np.mean(values == level) for level in np.unique(values)[1:]]
    people = np.zeros((len(rows), 0))
    if cells.replicated and len(np.intersect1d(sample[arm == 1], sample[arm == 0])) > 1:
        people = (sample[:, None] == np.unique(sample)).astype(float)
    return Arms(joined, arm, np.stack([*design, arm - 0.5], 1), people, cells.replicated)
