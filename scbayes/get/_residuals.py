"""Residuals and verdicts as tables."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

BY = ("gene", "cell", "uniform", "value")


def residuals(adata: "AnnData", key: str = "sb", *, by: str = "gene") -> pd.DataFrame:
    """What :func:`scbayes.tl.residuals` found.

    Parameters
    ----------
    adata
        Cells x genes, with residuals.
    key
        Prefix under which they are stored.
    by
        ``"gene"``, ``"cell"``, ``"uniform"`` (how often each value of the uniform residuals occurs) or ``"value"``
        (the residuals themselves, of the genes for which they were stored).

    Returns
    -------
    DataFrame
        ``"gene"``: a row for each gene that was fitted, the columns of ``varm[key + "_residuals"]`` and ``verdict``.
        ``"cell"``: a row for each cell, ``mean`` and ``variance`` of its residuals.
        ``"uniform"``: a row for each of 512 bins, ``low`` and ``high`` edge, ``n`` and ``expected`` residuals.
        ``"value"``: cells x genes, float64.

    Raises
    ------
    KeyError
        If there are no residuals; with ``by="value"`` if those of no gene were stored.
    ValueError
        If the fit was replaced since, or `by` is none of these.
    """
    if by not in BY:
        msg = f"by={by!r}: choose one of {', '.join(BY)}"
        raise ValueError(msg)
    values = read_result(adata, "residuals", key)[0]
    if by == "gene":
        verdict = values["residual_verdict"]
        return values["residuals"].assign(verdict=verdict)[verdict.notna().to_numpy()]
    if by == "cell":
        return pd.DataFrame({"mean": values["residual_mean"], "variance": values["residual_variance"]})
    if by == "uniform":
        n = np.asarray(values["histogram"])
        edges = np.linspace(0, 1, len(n) + 1)
        return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, "expected": n.sum() / len(n)})
    if "residual" not in values:
        msg = f"the residuals of no gene are stored under {key!r}: run sb.tl.residuals with genes=[...]"
        raise KeyError(msg)
    return values["residual"].copy()
