"""Which group each cell is in: a column of `obs`, two sets of cells, or the components of a fit."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.models._assignment import averaged
from scbayes.state import comes_from_counts, read_result
from scbayes.tl._probabilities import check_components, probabilities
from scbayes.tl._reading import read_with_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

#: Names of the groups that are given as sets of cells, and of all others.
SETS, REST, SETS_GIVEN = ("idx1", "idx2"), "rest", "idx1 and idx2"
#: Cells belong to components of at least this probability.
LEAST = 0.01


class Grouping(NamedTuple):
    """Groups of cells: entry i says that ``cell[i]`` belongs to ``names[group[i]]`` with this weight.

    ``what`` is how messages call it; ``double_use``: the groups are known to be made from the counts.
    """

    names: list[str]
    cell: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    what: str
    double_use: bool


def column_of(adata: "AnnData", key: str) -> pd.Series:
    """A column of `obs`.

    Raises
    ------
    KeyError
        If there is none.
    """
    if key not in adata.obs:
        msg = f"no column {key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    return adata.obs[key]


def categories_of(adata: "AnnData", key: str) -> pd.Series:
    """A column of `obs` as categories, which fractional numbers are not."""
    values = column_of(adata, key)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "f":
        msg = f"obs[{key!r}] has fractional numbers: only categories can be compared, or be samples or covariates"
        raise ValueError(msg)
    return values.astype("category")


def names_of(values: pd.Series, key: str) -> list[str]:
    """Names of the categories of a column.

    Raises
    ------
    ValueError
        If one is empty, or two are the same.
    """
    names = [str(name) for name in values.cat.categories]
    wrong = "an empty name" if "" in names else "two of the same name" if len(set(names)) < len(names) else None
    if wrong:
        msg = f"obs[{key!r}] has a category with {wrong}: {names}; rename it"
        raise ValueError(msg)
    return names


def which_cells(adata: "AnnData", cells: "str | Sequence", name: str) -> np.ndarray:
    """Mask of the cells that a query of `obs`, a mask, positions or names say.

    Raises
    ------
    KeyError, ValueError
        If they do not exist.
    """
    if isinstance(cells, str):
        try:
            here = adata.obs.eval(cells)
        except Exception as error:
            msg = f"{name}={cells!r} is no query of adata.obs: {error}"
            raise ValueError(msg) from error
        query, cells = cells, np.asarray(here)
        if cells.dtype != bool:
            msg = f"{name}={query!r} must be a condition on columns of adata.obs, such as \"condition == 'stim'\""
            raise ValueError(msg)
    if isinstance(cells, pd.Series) and not isinstance(cells.index, pd.RangeIndex):
        if not cells.index.sort_values().equals(adata.obs_names.sort_values()) and cells.dtype == bool:
            msg = f"{name} is a mask with another index than adata.obs_names"
            raise ValueError(msg)
        cells = cells.reindex(adata.obs_names) if cells.dtype == bool else cells
    cells = np.asarray(cells if hasattr(cells, "__len__") else list(cells))
    if cells.dtype == object and len(cells) and all(isinstance(one, bool | np.bool_) for one in cells):
        cells = cells.astype(bool)
    if cells.dtype == bool:
        if cells.shape != (adata.n_obs,):
            msg = f"{name} is a mask of shape {cells.shape}: give one value for each of the {adata.n_obs} cells"
            raise ValueError(msg)
        return cells
    if cells.dtype.kind in "iu":
        position = cells
    else:
        position = adata.obs_names.get_indexer(cells.astype(str))
        if (position < 0).any():
            msg = f"{name}: no cell {str(cells[position < 0][0])!r} in adata.obs_names"
            raise KeyError(msg)
    if position.size and not (-adata.n_obs <= position.min() and position.max() < adata.n_obs):
        msg = f"{name} has position {position[np.abs(position).argmax()]}: there are {adata.n_obs} cells"
        raise ValueError(msg)
    mask = np.zeros(adata.n_obs, bool)
    mask[position] = True
    return mask


def by_column(adata: "AnnData", groupby: str) -> Grouping:
    """Groups of a column of `obs`."""
    values = column_of(adata, groupby).astype("category")
    code = values.cat.codes.to_numpy()
    cell = np.flatnonzero(code >= 0)
    names = names_of(values, groupby)
    double_use = comes_from_counts(adata, groupby)
    return Grouping(names, cell, code[cell], np.ones(len(cell)), f"obs[{groupby!r}]", double_use)


def by_sets(adata: "AnnData", idx1, idx2) -> Grouping:
    """Two sets of cells, the second one all others if it is not given."""
    one = which_cells(adata, idx1, SETS[0])
    two = ~one if idx2 is None else which_cells(adata, idx2, SETS[1])
    both = np.flatnonzero(one & two)
    if len(both):
        msg = f"idx1 and idx2 share {len(both)} cells, such as {adata.obs_names[both[0]]!r}"
        raise ValueError(msg)
    cell = np.flatnonzero(one | two)
    names = [SETS[0], REST if idx2 is None else SETS[1]]
    return Grouping(names, cell, two[cell].astype(int), np.ones(len(cell)), SETS_GIVEN, double_use=False)


def by_components(adata: "AnnData", key: str) -> Grouping:
    """Components of the fit ``key``, with the probabilities of ``sb.tl.assign``, or else those of the fit's centre."""
    try:
        values, facts = read_result(adata, "assign", key)
        p, names = np.asarray(values["probabilities"]), list(facts["components"])
    except KeyError:
        reading = read_with_counts(adata, key)
        check_components(reading.fit)
        p, names = averaged(probabilities(reading, None, 0)).mean, list(reading.fit.components)
    cell, group = np.nonzero(p >= LEAST)
    return Grouping(
        [str(name) for name in names], cell, group, p[cell, group], f"components of {key!r}", double_use=True
    )


def warn_of_limits(grouping: Grouping, sample_key: str | None) -> None:
    """Say what results will not say."""
    from scanpy import logging as logg

    if sample_key is None:
        logg.warning("no sample_key: cells are taken as replicates, and results are descriptive of these cells alone")
    if grouping.double_use:
        logg.warning(f"{grouping.what}: groups that were made from these counts differ in them; see docs on double use")
