"""What ``sb.pp.ambient_profile`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import batch_codes, find_counts, read_result, sum_by_batch

if TYPE_CHECKING:
    from anndata import AnnData


def ambient_profile(
    adata: "AnnData", key: str = "sb_ambient", *, cells: bool = False, layer: str | None = None
) -> "pd.DataFrame":
    """Profile of ambient RNA, with its uncertainty.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.pp.ambient_profile`.
    key
        Its `key_added`.
    cells
        Whether to add up the counts of the cells, too.
    layer
        Layer with these; `X` where None, or as :func:`scbayes.pp.prepare_counts` left them.

    Returns
    -------
    DataFrame with a row for each gene and batch, in the order of `adata`. ``attrs`` says how it was made.

    gene, batch : str
        `batch` is None where there is one profile for all.
    mean, sd : float
        Share of the gene in what empty droplets hold: posterior mean and standard deviation (NaN where unknown).
    count, in_cells : float
        With `cells`: counts of the gene in the cells of the batch, and their share of all counts.

    Raises
    ------
    KeyError
        If there is no such result; with `cells`, if there is no such layer, or no column with batches.
    ValueError
        With `cells`, if values are no counts, or cells are of other batches.
    """
    values, facts = read_result(adata, "ambient_profile", key, key)
    mean, sd = np.asarray(values[""]), np.asarray(values["sd"])
    batches = facts["batches"]
    table = pd.DataFrame({"gene": np.tile(adata.var_names.to_numpy(), len(batches))})
    table["batch"] = np.repeat(np.array(batches, object), adata.n_vars)
    table["mean"], table["sd"] = mean.T.ravel(), sd.T.ravel()
    if cells:
        counts = sum_by_batch(find_counts(adata, layer, None, None), batch_codes(adata, facts, key), len(batches))
        table["count"] = counts.ravel()
        table["in_cells"] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).ravel()
    table.attrs |= facts | {"concentration": np.asarray(values["concentration"]).tolist()}
    return table
