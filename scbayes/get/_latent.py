"""The latent space of a fit."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import check_anndata

if TYPE_CHECKING:
    from anndata import AnnData

#: Slot of `obsm` of each statistic.
SLOTS = {"mean": "X_{key}", "sd": "{key}_z_sd", "samples": "{key}_z_samples"}


def latent(adata: "AnnData", key: str = "sb", *, statistic: str = "mean") -> pd.DataFrame | np.ndarray:
    """Latent numbers of each cell.

    Parameters
    ----------
    adata
        Cells x genes, with ``obsm["X_" + key]``.
    key
        Name of the latent space: `key_added` of the function that wrote it.
    statistic
        ``"mean"`` or ``"sd"`` of the posterior, or ``"samples"``, the draws of ``sb.tl.latent(n_samples=...)``.

    Returns
    -------
    DataFrame, a copy: cells x latent dimensions, columns `z1`, `z2`, ...; the type of numbers that is stored. Draws are
    an array `(n_samples, n_cells, n_latent)`.

    Raises
    ------
    KeyError
        If there is no such latent space, or it was stored without this statistic.
    ValueError
        If `statistic` is none of the three.
    """
    check_anndata(adata)
    if statistic not in SLOTS:
        msg = f"statistic={statistic!r}: choose one of {', '.join(map(repr, SLOTS))}"
        raise ValueError(msg)
    slot, mean = SLOTS[statistic].format(key=key), f"X_{key}"
    for name in (mean, slot):
        if name not in adata.obsm:
            how = "sb.tl.latent(adata, n_samples=...)" if statistic == "samples" else "sb.tl.latent"
            msg = f"no latent space under {key!r}: adata.obsm has no {name!r}; run {how} first"
            raise KeyError(msg)
    z, n = np.array(adata.obsm[slot]), adata.obsm[mean].shape[1]
    if statistic == "samples":
        return z.reshape(len(z), -1, n).swapaxes(0, 1)
    return pd.DataFrame(z, index=adata.obs_names, columns=[f"z{i + 1}" for i in range(n)])
