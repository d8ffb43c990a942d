"""Counts that were hidden from a model, and what it said of them."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData


def imputation(adata: "AnnData", key: str = "sb", *, draws: bool = False) -> "pd.DataFrame | np.ndarray":
    """What :func:`scbayes.tl.impute` wrote.

    Parameters
    ----------
    adata
        Cells x genes, with the result. All changed counts are in it, of cells that `adata` no longer has, too.
    key
        Its `key_added`.
    draws
        What each draw says instead.

    Returns
    -------
    table
        DataFrame with a row for each count that changed: `cell` and `gene`, categories of names; `original`,
        `corrupted`, `imputed`, float32 counts. ``attrs`` has settings and errors.
    draws
        float32 ``(n_samples, m)``, in the order of the table.

    Raises
    ------
    KeyError
        If there is no such result, or the draws were not kept.
    ValueError
        If the fit was replaced since.
    """
    values, facts = read_result(adata, "impute", key)
    if draws:
        if "draws" not in values:
            msg = f"{key!r} holds no draws: run sb.tl.impute(adata, keep_draws=True)"
            raise KeyError(msg)
        return np.array(values["draws"])
    columns = {
        name: pd.Categorical.from_codes(np.asarray(values[name]), np.asarray(values[f"{name}s"], object))
        for name in ("cell", "gene")
    }
    columns |= {name: np.array(values[name]) for name in ("original", "corrupted", "imputed")}
    table = pd.DataFrame(columns)
    table.attrs |= facts
    return table
