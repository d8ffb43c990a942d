"""Cells that lie far from the others of their group in the latent space."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state._read import batch_names
from scbayes.stats._outliers import ROWS
from scbayes.stats._outliers import outliers as outlying
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import read_latent
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def outliers(
    adata: "AnnData",
    groupby: str | None = None,
    key: str = "sb",
    *,
    contamination: float = 0.1,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Cells that lie far from the others of their group in the latent space.

    In each group, those with the largest Mahalanobis distance of their posterior means z from its robust centre, with
    its robust covariance (minimum covariance determinant, Rousseeuw & Van Driessen 1999): doublets, cells with a wrong
    label.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    groupby
        Column of `adata.obs` with groups; None: all cells are one. A cell without a group is no outlier, nor is any of
        a group with fewer than 5 cells for each latent dimension: the covariance is not known.
    key
        The fit to read.
    contamination
        Share of each group that is called outlying, above 0, at most 0.5.
    reference
        Where the fit is, if `adata` has other cells: these are encoded.
    layer
        Layer with the counts of new cells. Default: as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.obs[key_added + "_outlier"]` : bool
        Whether the cell is an outlier of its group.
    `adata.uns[key_added + "_outliers"]` : dict
        How it was computed, with the groups that were too small.

    Raises
    ------
    KeyError
        If there is no such fit or column.
    ValueError
        If the fit has no latent space, or `contamination` is out of range.
    """
    from scanpy import logging as logg

    if not isinstance(contamination, int | float | np.number) or not 0 < contamination <= 0.5:
        msg = f"contamination={contamination!r}: give the share of outliers, above 0 and at most 0.5"
        raise ValueError(msg)
    seed = as_seed(rng)
    clock = logg.info(f"outlying cells of {key!r}")
    fit = read_latent(adata, key, reference=reference, layer=layer)
    code, names = np.zeros(adata.n_obs, int), pd.Index(["all cells"])
    if groupby is not None:
        if groupby not in adata.obs:
            msg = f"no column {groupby!r} in adata.obs, which has {list(adata.obs.columns)}"
            raise KeyError(msg)
        code, names = pd.factorize(batch_names(adata.obs[groupby]), sort=True)
    z = fit.loc[:, : fit.config.n_latent]
    found = outlying(z, code, contamination=contamination, seed=seed)
    size = np.bincount(code[code >= 0], minlength=len(names))
    small = [str(name) for name in names[size < ROWS * z.shape[1]]]
    said = f"finished: {found.sum()} outliers" + (f"; groups too small to tell: {', '.join(small)}" if small else "")
    facts = {"groupby": groupby, "contamination": float(contamination), "seed": seed, "too_small": small}
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": copy, "said": said}
    key_added = key if key_added is None else key_added
    return store(adata, "outliers", key_added, {("obs", "outlier"): found}, **how)
