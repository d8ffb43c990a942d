"""Held-out densities of mixtures with different numbers of components."""

from typing import TYPE_CHECKING

from scbayes.state import read_result

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def choose_components(adata: "AnnData", key: str = "sb") -> "pd.DataFrame":
    """The table of :func:`scbayes.tl.choose_components`.

    Parameters
    ----------
    adata
        Cells x genes, with the result.
    key
        Its prefix, `key_added` of the function that wrote it.

    Returns
    -------
    DataFrame with a row per candidate: `n_components`, `log_density` (mean over held-out cells, nats), `difference`
    to the best, its standard error `se`, `converged`, `suggested`.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    return read_result(adata, "choose_components", key)[0]["table"].copy()
