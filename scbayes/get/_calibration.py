"""Coverage of intervals in simulated data."""

from typing import TYPE_CHECKING

from scbayes.state import read_result

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def calibration(adata: "AnnData", key: str = "sb") -> "pd.DataFrame":
    """The table of :func:`scbayes.tl.calibrate`.

    Parameters
    ----------
    adata
        Cells x genes, with the result.
    key
        Its prefix, `key_added` of the function that wrote it.

    Returns
    -------
    DataFrame with a row per `parameter`, `bin` (``"all"``; thirds of genes or cells by their counts, ``"low"``,
    ``"middle"``, ``"high"``) and `level`: `coverage` with its 95% interval from `low` to `high`, the number of
    intervals `n`, and `mean_count`, mean count per cell of the genes, or total of the cells.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If the fit was replaced by another since.
    """
    return read_result(adata, "calibrate", key)[0]["table"].copy()
