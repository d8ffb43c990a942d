"""What ``tl.denoise`` is given: a profile of ambient RNA for each cell, kinds of cells, samples."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts import Counts
from scbayes.state import Source, read_fit, read_result
from scbayes.state._read import batch_names
from scbayes.state._source import find_counts
from scbayes.tl._de_groups import categories_of, column_of, names_of
from scbayes.tl._quick_groups import quick_groups

if TYPE_CHECKING:
    from anndata import AnnData

#: Median of the level of a sample, and standard deviation of its logarithm.
PRIOR = (0.08, 1.0)
#: Kind of cells of which none is known.
MISSING = "missing"


class Profiles(NamedTuple):
    """Ambient profiles.

    Attributes
    ----------
    value
        Shares, ``(n_genes, n_batches)``; each column sums to 1.
    batch_key, batches
        The column of `obs`, and its values in the order of the columns; None: one profile for all.
    name
        Where it is in `varm`; None: it was given as values.
    """

    value: np.ndarray
    batch_key: str | None
    batches: list[str]
    name: str | None


class Kinds(NamedTuple):
    """Kind of each cell, integers, their names, and where they come from."""

    code: np.ndarray
    names: list[str]
    source: str


def profiles_of(adata: "AnnData", ambient, batch_key: str | None) -> Profiles:
    """The profile that ``ambient`` means."""
    name, batches = None, None
    if isinstance(ambient, str):
        if ambient not in adata.varm:
            msg = f"no profile {ambient!r} in adata.varm: run sb.pp.ambient_profile(adata, raw) first, or pass shares"
            raise KeyError(msg)
        name, value = ambient, adata.varm[ambient]
        if ambient in adata.uns:
            facts = read_result(adata, "ambient_profile", ambient, ambient).facts
            batches, batch_key = [str(b) for b in facts["batches"]], facts["batch_key"]
    elif isinstance(ambient, pd.Series | pd.DataFrame):
        table = ambient.to_frame() if isinstance(ambient, pd.Series) else ambient
        absent = adata.var_names.difference(table.index)
        if len(absent) or not table.index.is_unique:
            said = f"has no row for {len(absent)} genes, first {absent[0]!r}" if len(absent) else "has genes twice"
            msg = f"ambient {said}: give a share for each of adata.var_names"
            raise ValueError(msg)
        value, batches = table.loc[adata.var_names], [*batch_names(table.columns.to_series())]
    else:
        value = ambient
    try:
        value = np.asarray(value, float)
    except (TypeError, ValueError):
        msg = f"ambient is a {type(ambient).__name__} of no numbers: give shares, or the name of a slot of adata.varm"
        raise TypeError(msg) from None
    value = value[:, None] if value.ndim == 1 else value
    if value.ndim != 2 or len(value) != adata.n_vars or not value.shape[1]:
        msg = f"ambient has shape {value.shape}: give shares of {adata.n_vars} genes, and a column for each batch"
        raise ValueError(msg)
    if not np.isfinite(value).all() or (value < 0).any() or (value.sum(0) <= 0).any():
        msg = "ambient: shares must be finite, not negative, and not all zero"
        raise ValueError(msg)
    if batch_key is not None:
        column = column_of(adata, batch_key)
    if value.shape[1] == 1:
        batch_key, batches = None, []
    else:
        if batch_key is None:
            msg = f"ambient has {value.shape[1]} columns: name the column of obs with the batches, batch_key="
            raise ValueError(msg)
        found = batch_names(column)
        batches = batches or [*batch_names(column.astype("category").cat.categories.to_series())]
        absent = sorted(set(found.dropna()) - set(batches))
        if absent or found.isna().any() or len(batches) != value.shape[1]:
            said = f"batch {absent[0]!r} has no column" if absent else "batches and columns do not match"
            msg = f"obs[{batch_key!r}] and the {value.shape[1]} columns of ambient: {said}"
            raise ValueError(msg)
    return Profiles(value / value.sum(0), batch_key, batches, name)


def codes_of(adata: "AnnData", column: str | None, names: list[str]) -> np.ndarray:
    """Place of each cell's value in ``names``; 0 where there is no column."""
    if column is None:
        return np.zeros(adata.n_obs, np.int32)
    return pd.Index(names).get_indexer(batch_names(adata.obs[column])).astype(np.int32)


def kinds_of(adata: "AnnData", counts: Counts, *, groupby: str | None, key: str | None, seed: int) -> Kinds:
    """Kinds of cells: of a column, of the components of a fit, or groups that are plainly apart."""
    if groupby is not None and key is not None:
        msg = "groupby and key both say which cells are alike: give one"
        raise ValueError(msg)
    if groupby is not None:
        values = categories_of(adata, groupby).cat.remove_unused_categories()
        names, code = names_of(values, groupby), values.cat.codes.to_numpy().astype(int)
        if (code < 0).any():
            names = names if MISSING in names else [*names, MISSING]
            code = np.where(code < 0, names.index(MISSING), code)
        return Kinds(code, names, f"obs[{groupby!r}]")
    if key is not None:
        shares = read_fit(adata, key).posterior.responsibilities
        if shares is None:
            msg = f"the fit {key!r} has no components: name a fit with n_components, or leave key out"
            raise ValueError(msg)
        code = np.asarray(shares).argmax(1)
        return Kinds(code, [str(k) for k in range(code.max() + 1)], f"components of {key!r}")
    code = quick_groups(counts, seed)
    return Kinds(code, [str(k) for k in range(code.max() + 1)], "clusters")


def samples_of(adata: "AnnData", sample_key: str | None) -> tuple[np.ndarray, list[str]]:
    """Sample of each cell, and the names of the samples."""
    if sample_key is None:
        return np.zeros(adata.n_obs, int), ["all"]
    values = categories_of(adata, sample_key).cat.remove_unused_categories()
    if values.isna().any():
        msg = f"obs[{sample_key!r}] has missing values: give each cell a sample"
        raise ValueError(msg)
    return values.cat.codes.to_numpy().astype(int), names_of(values, sample_key)


def counts_in_memory(adata: "AnnData", layer: str | None, batch: np.ndarray, n_batches: int) -> tuple[Source, Counts]:
    """The counts that are meant, checked, as CSR in memory without stored zeros."""
    source = find_counts(adata, layer, None, None)
    counts = Counts(source.x, batch, max(n_batches, 1), where=source.where)
    total = counts.totals()
    if not total.any():
        msg = f"{source.where} has no counts"
        raise ValueError(msg)
    counts = counts.pick(np.ones(len(total), bool))
    counts.x.eliminate_zeros()
    counts.x.sort_indices()
    return source, counts
