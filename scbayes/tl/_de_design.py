"""What differential expression compares: cells into units, units into two arms with a design."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.models._contrast import Arms
from scbayes.models._units import Units

if TYPE_CHECKING:
    from anndata import AnnData


class Cells(NamedTuple):
    """Units of all cells that take part: every combination of group, sample and covariates that has cells.

    ``unit`` is each cell's, -1 for cells of none; ``table`` has a row per unit with its ``group`` (position in
    ``groups``), ``sample`` and covariates, ``cells`` their numbers.
    """

    unit: np.ndarray
    table: pd.DataFrame
    groups: list[str]
    n_cells: np.ndarray


def cells_of(adata: "AnnData", groupby: str, sample_key: str | None, covariates: tuple[str, ...]) -> Cells:
    """Cells into units; those without a group, sample or covariate are left out."""
    keys = [groupby, *([sample_key] if sample_key else []), *covariates]
    for key in keys:
        if key not in adata.obs:
            msg = f"no column {key!r} in adata.obs, which has {list(adata.obs.columns)}"
            raise KeyError(msg)
    if len(set(keys)) < len(keys):
        msg = f"groupby, sample_key and covariates name a column twice: {keys}"
        raise ValueError(msg)
    columns = {}
    for key in keys:
        values = adata.obs[key]
        if key != groupby and isinstance(values.dtype, np.dtype) and values.dtype.kind == "f":
            msg = f"obs[{key!r}] has fractional numbers: only categories can be samples or covariates"
            raise ValueError(msg)
        columns[key] = values.astype("category")
    groups = [str(name) for name in columns[groupby].cat.categories]
    codes = pd.DataFrame({key: column.cat.codes.to_numpy() for key, column in columns.items()})
    here = (codes >= 0).all(axis=1).to_numpy()
    table, unit = np.unique(codes[here].to_numpy(), axis=0, return_inverse=True)
    whole = np.full(adata.n_obs, -1)
    whole[here] = unit.ravel()
    table = pd.DataFrame(table, columns=["group", *(["sample"] if sample_key else []), *numbered(covariates)])
    if sample_key is None:
        table["sample"] = 0
    n_cells = np.bincount(codes[groupby].to_numpy()[here], minlength=len(groups))
    return Cells(whole, table, groups, n_cells)


def numbered(covariates: tuple[str, ...]) -> list[str]:
    """Names of the covariates' columns in a table of units, which none of its own has."""
    return [f"covariate {k}" for k in range(len(covariates))]


def arms_of(
    cells: Cells, units: Units, group: int, reference: int | None, covariates: tuple[str, ...], *, replicated: bool
) -> Arms:
    """Units of a group and of its reference: another group, or with None the other groups together."""
    table = cells.table
    own = table["group"].to_numpy() == group
    other = ~own if reference is None else table["group"].to_numpy() == reference
    part = table[own | other].assign(arm=own[own | other].astype(int))
    if not replicated:
        part = part.assign(sample=0)
    rows, place = np.unique(part[["arm", "sample", *numbered(covariates)]].to_numpy(), axis=0, return_inverse=True)
    joined = units.take(np.flatnonzero(own | other)).join(place.ravel(), len(rows))
    arm, sample = rows[:, 0], rows[:, 1]
    columns = [np.ones(len(rows))]
    for k in range(len(covariates)):
        levels = np.unique(rows[:, 2 + k])
        columns += [(rows[:, 2 + k] == level).astype(float) for level in levels[1:]]
    people = np.zeros((len(rows), 0))
    if replicated and len(np.intersect1d(sample[arm == 1], sample[arm == 0])) > 1:
        people = (sample[:, None] == np.unique(sample)).astype(float)
    return Arms(joined, arm, np.stack([*columns, arm - 0.5], 1), people, replicated)
