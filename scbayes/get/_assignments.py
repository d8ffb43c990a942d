"""What ``sb.tl.assign`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

WHATS = ("cells", "draws", "concentrations")


def assignments(adata: "AnnData", key: str = "sb", *, what: str = "cells") -> "pd.DataFrame | np.ndarray":
    """Cells and the components they belong to.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.assign`.
    key
        Its `key_added`.
    what
        ``"cells"``: assignments and probabilities. The others were stored on request: ``"draws"`` (`keep_draws`) and
        ``"concentrations"`` of Dirichlet distributions (`fit_dirichlet`).

    Returns
    -------
    cells
        DataFrame with a row for each cell: `assignment` (categorical), `confidence`, `surprise` where it was asked for,
        and the probability of each component under its name. ``attrs`` says how they were made.
    draws
        float64 ``(n_samples, n_cells, n_components)``.
    concentrations
        DataFrame of cells x components.

    Raises
    ------
    KeyError
        If there is no such result, or it was not asked to store this.
    ValueError
        If `what` is unknown, or the fit was replaced since.
    """
    if what not in WHATS:
        msg = f"unknown what={what!r}; choose one of {', '.join(WHATS)}"
        raise ValueError(msg)
    values, facts = read_result(adata, "assign", key)
    names = facts["components"]
    if what == "cells":
        own = {name: np.asarray(values[name]) for name in ("confidence", "surprise") if name in values}
        assignment = pd.Categorical(values["assignment"], categories=_categories(facts))
        table = pd.DataFrame({"assignment": assignment} | own, index=adata.obs_names)
        table = pd.concat([table, pd.DataFrame(values["probabilities"], adata.obs_names, names)], axis=1)
        table.attrs |= facts
        return table
    slot, argument = ("probability_draws", "keep_draws") if what == "draws" else ("concentrations", "fit_dirichlet")
    if slot not in values:
        msg = f"{key!r} holds no {what}: run sb.tl.assign(adata, n_samples=..., {argument}=True)"
        raise KeyError(msg)
    if what == "draws":
        return np.moveaxis(np.asarray(values[slot]), 1, 0)
    return pd.DataFrame(np.asarray(values[slot]), adata.obs_names, names)


def _categories(facts: dict) -> list[str]:
    """All that a cell could be assigned to: a subset of the cells need not have them."""
    return [*facts["components"], *(["unknown"] if facts["unknown"] is not None else [])]
