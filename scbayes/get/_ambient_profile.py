"""What ``sb.pp.ambient_profile`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData


def ambient_profile(adata: "AnnData", key: str = "sb_ambient") -> "pd.DataFrame":
    """Profile of ambient RNA, with its uncertainty.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.pp.ambient_profile`.
    key
        Its `key_added`.

    Returns
    -------
    DataFrame with a row for each gene and batch, in the order of `adata`. ``attrs`` says how it was made.

    gene, batch : str
        `batch` is None where there is one profile for all.
    mean, sd : float
        Share of the gene in what empty droplets hold: posterior mean and standard deviation (NaN where unknown).

    Raises
    ------
    KeyError
        If there is no such result.
    """
    values, facts = read_result(adata, "ambient_profile", key, key)
    mean, sd = np.asarray(values[""]), np.asarray(values["sd"])
    batches = facts["batches"]
    table = pd.DataFrame({"gene": np.tile(adata.var_names.to_numpy(), len(batches))})
    table["batch"] = np.repeat(np.array(batches, object), adata.n_vars)
    table["mean"], table["sd"] = mean.T.ravel(), sd.T.ravel()
    table.attrs |= facts | {"concentration": np.asarray(values["concentration"]).tolist()}
    return table
