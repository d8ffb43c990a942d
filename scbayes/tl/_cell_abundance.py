"""How common the surroundings of each cell are in each sample."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state._read import batch_names
from scbayes.stats._mixture_density import log_mixture_density
from scbayes.stats._numbers import check_positive, check_whole
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import read_latent
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def cell_abundance(
    adata: "AnnData",
    sample_key: str,
    key: str = "sb",
    *,
    dof: float | None = None,
    max_cells: int | None = None,
    leave_one_out: bool = True,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Log density of each sample's cells in the latent space, at each cell.

    With :math:`m_c, s_c` the posterior mean and standard deviation of the latent numbers z of cell c, and :math:`C_s`
    the cells of sample s,

    .. math::
        \ln q_s(m_c) = \ln \frac{1}{|C_s \setminus c|} \sum_{j \in C_s \setminus c} \prod_k N(m_{ck}; m_{jk}, s_{jk}^2)

    A cell is left out of the mixture of its own sample; if it were not, every cell would look common where it comes
    from. Ratios of these densities say where samples differ; :func:`scbayes.get.cell_abundance` makes them. For tests
    with samples as replicates, use :func:`scbayes.tl.abundance`.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    sample_key
        Column of `adata.obs` with the samples.
    key
        The fit to read.
    dof
        Degrees of freedom of Student's t in place of the normal; None: normal.
    max_cells
        Of samples with more cells, so many, drawn at random, stand for all. Time grows with cells times this.
    leave_one_out
        Leave each cell out of its own sample's mixture.
    reference
        Where the fit is, if `adata` has other cells: these are encoded. The samples are those of `adata`.
    layer
        Layer with the counts of new cells. Default: as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator of the choice of `max_cells`.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.obsm[key_added + "_abundance"]` : float32 `(n_cells, n_samples)`
        Log densities, nats. Columns are the samples, sorted by name.
    `adata.uns[key_added + "_cell_abundance"]` : dict
        How it was computed, with the names of the samples.

    Raises
    ------
    KeyError
        If there is no such fit or column.
    ValueError
        If the fit has no latent space, cells have no sample, a sample has no other cell, or a number is out of range.
    """
    from scanpy import logging as logg

    _check(dof, max_cells)
    seed = as_seed(rng)
    clock = logg.info(f"abundance around the cells of {key!r}, in samples of obs[{sample_key!r}]")
    code, names = _samples(adata, sample_key, alone=not leave_one_out)
    fit = read_latent(adata, key, reference=reference, layer=layer)
    n = fit.config.n_latent
    loc, scale = fit.loc[:, :n], fit.scale[:, :n]
    draw, columns = np.random.default_rng(seed), []
    for s in range(len(names)):
        members = np.flatnonzero(code == s)
        if max_cells is not None and len(members) > max_cells:
            members = np.sort(draw.choice(members, max_cells, replace=False))
        own = np.full(adata.n_obs, -1)
        if leave_one_out:
            own[members] = np.arange(len(members))
        columns.append(log_mixture_density(loc, loc[members], scale[members], dof=dof, own=own))
    facts = {"sample_key": sample_key, "samples": names, "dof": dof, "max_cells": max_cells, "seed": seed}
    facts |= {"leave_one_out": bool(leave_one_out), "n_cells": np.bincount(code).tolist()}
    values = {("obsm", "abundance"): np.stack(columns, 1).astype(np.float32)}
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": copy}
    return store(adata, "cell_abundance", key if key_added is None else key_added, values, **how)


def _check(dof: float | None, max_cells: int | None) -> None:
    check_positive(dof=dof, or_none=True)
    check_whole(2, max_cells=max_cells, or_none=True)


def _samples(adata: "AnnData", sample_key: str, *, alone: bool) -> tuple[np.ndarray, list[str]]:
    """Code of each cell's sample and the names; with ``alone``, a sample may have one cell."""
    if sample_key not in adata.obs:
        msg = f"no column {sample_key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    code, names = pd.factorize(batch_names(adata.obs[sample_key]), sort=True)
    if (code < 0).any():
        msg = f"obs[{sample_key!r}] is missing for {(code < 0).sum()} cells: give each a sample, or leave them out"
        raise ValueError(msg)
    single = np.flatnonzero(np.bincount(code) == 1)
    if len(single) and not alone:
        msg = (
            f"sample {names[single[0]]!r} of obs[{sample_key!r}] has one cell, and no other to compare it with: "
            "drop it, or pass leave_one_out=False"
        )
        raise ValueError(msg)
    return code, [str(name) for name in names]
