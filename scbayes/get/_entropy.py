"""What ``sb.tl.entropy`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

VERBS = {"cell": "entropy", "gene": "gene_entropy"}


def entropy(adata: "AnnData", key: str = "sb", *, by: str = "cell", what: str = "mean") -> "pd.DataFrame | np.ndarray":
    """Entropy of the probabilities of components, in nats.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.entropy`.
    key
        Its `key_added`.
    by
        ``"cell"`` or ``"gene"``.
    what
        ``"mean"``, or ``"draws"`` if they were kept.

    Returns
    -------
    mean
        DataFrame with a row for each cell or gene: `entropy`, and `entropy_of_mean` where draws were made; genes that
        were pooled are left out. ``attrs`` says how they were made; ``attrs["largest"]`` is ln K.
    draws
        float64 ``(n_samples, n_cells)`` or ``(n_samples, n_genes)``, NaN for genes that were pooled.

    Raises
    ------
    KeyError
        If there is no such result, or the draws were not kept.
    ValueError
        If `by` or `what` is unknown, or the fit was replaced since.
    """
    if by not in VERBS or what not in ("mean", "draws"):
        msg = f"by={by!r}, what={what!r}: choose 'cell' or 'gene', and 'mean' or 'draws'"
        raise ValueError(msg)
    if f"{key}_{VERBS[by]}" not in adata.uns:
        msg = f"no entropy by {by} under {key!r}: run sb.tl.entropy(adata, by={by!r}) first"
        raise KeyError(msg)
    values, facts = read_result(adata, VERBS[by], key)
    if what == "draws":
        if "entropy_draws" not in values:
            msg = f"{key!r} holds no draws: run sb.tl.entropy(adata, by={by!r}, n_samples=..., keep_draws=True)"
            raise KeyError(msg)
        return np.asarray(values["entropy_draws"]).T
    names = adata.obs_names if by == "cell" else adata.var_names
    columns = [name for name in ("entropy", "entropy_of_mean") if name in values]
    table = pd.DataFrame({name: np.asarray(values[name]) for name in columns}, index=names).dropna()
    table.attrs |= facts
    return table
