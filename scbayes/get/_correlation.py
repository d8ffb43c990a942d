"""Correlation of genes that ``sb.tl.correlation`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.state import read_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def correlation(adata: "AnnData", key: str = "sb", *, genes: "Iterable[str] | None" = None) -> pd.DataFrame:
    """Correlation of genes over cells, as a table.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.correlation`; of its genes, those that `adata` still has.
    key
        Its `key_added`.
    genes
        Names of genes, in the order of the table. Default: all that were correlated.

    Returns
    -------
    DataFrame, genes x genes, float32; ``attrs`` says how it was computed.

    Raises
    ------
    KeyError
        If there is no such result, or a gene is not in `adata` or was not correlated.
    ValueError
        If the fit was replaced since.
    """
    values, facts = read_result(adata, "correlation", key)
    value = values["correlation"]
    diagonal = value.diagonal() if sparse.issparse(value) else np.diag(value)
    there = np.flatnonzero(diagonal != 0)  # 1, or NaN of a gene that does not vary; 0 of one that was not chosen
    columns = there if genes is None else _columns(adata, genes, there, key)
    value = value[columns][:, columns]
    table = pd.DataFrame(_dense(value), adata.var_names[columns], adata.var_names[columns])
    table.attrs |= facts
    return table


def _columns(adata: "AnnData", genes, there: np.ndarray, key: str) -> np.ndarray:
    names = [genes] if isinstance(genes, str) else list(genes)
    columns = adata.var_names.get_indexer(names)
    if (columns < 0).any():
        msg = f"no gene {names[int(np.argmin(columns))]!r} in adata.var_names"
        raise KeyError(msg)
    absent = np.flatnonzero(~np.isin(columns, there))
    if len(absent):
        msg = f"{names[absent[0]]!r} is not in the result {key!r}: name it in sb.tl.correlation(adata, genes=[...])"
        raise KeyError(msg)
    return columns


def _dense(value) -> np.ndarray:
    """The entries of chosen genes, all of which are stored."""
    if not sparse.issparse(value):
        return np.array(value)
    entries = value.tocoo()
    dense = np.zeros(value.shape, np.float32)
    dense[entries.row, entries.col] = entries.data
    return dense
