"""The latent space of a fit."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import check_anndata

if TYPE_CHECKING:
    from anndata import AnnData


def latent(adata: "AnnData", key: str = "sb") -> pd.DataFrame:
    """Latent variables of each cell.

    Parameters
    ----------
    adata
        Cells x genes, with ``obsm["X_" + key]``.
    key
        Name of the latent space: `key_added` of the function that wrote it.

    Returns
    -------
    DataFrame, a copy: cells x latent dimensions, columns `z1`, `z2`, ...; the type of numbers that is stored.

    Raises
    ------
    KeyError
        If there is no such latent space.
    """
    check_anndata(adata)
    if f"X_{key}" not in adata.obsm:
        msg = f"no latent space under {key!r}: adata.obsm has no 'X_{key}'; run sb.tl.latent first"
        raise KeyError(msg)
    z = np.array(adata.obsm[f"X_{key}"])
    return pd.DataFrame(z, index=adata.obs_names, columns=[f"z{i + 1}" for i in range(z.shape[1])])
