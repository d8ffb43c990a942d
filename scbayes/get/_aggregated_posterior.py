"""Where the cells of a population lie in the latent space, as one distribution."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import read_latent_fit, read_result, stored_fits

if TYPE_CHECKING:
    from anndata import AnnData
    from numpyro.distributions import Distribution


def aggregated_posterior(
    adata: "AnnData", key: str = "sb", *, cells: "np.ndarray | None" = None, dof: float | None = 3.0
) -> "Distribution":
    r"""Posterior of the latent numbers z of a cell drawn at random from a population.

    .. math:: q(z) = \frac{1}{n} \sum_c \prod_k t_\nu(z_k; m_{ck}, s_{ck})

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, after :func:`scbayes.tl.latent`.
    key
        The fit, or the prefix of what ``tl.latent`` wrote.
    cells
        The population: a mask, positions, or names of cells. Default: all.
    dof
        Degrees of freedom :math:`\nu` of Student's t, whose tails make up for standard deviations that are too small;
        None: normal distributions.

    Returns
    -------
    numpyro ``MixtureSameFamily`` with a component for each cell, of events ``(n_latent,)``. Of a logistic-normal latent
    space, it is of the normal z before its softmax.

    Raises
    ------
    KeyError
        If there is neither such a fit nor such a result, or no cell of a name.
    ValueError
        If the fit has no latent space, `cells` chooses none, or `dof` is not positive.
    """
    import numpyro.distributions as dist

    if dof is not None and not (isinstance(dof, int | float | np.number) and dof > 0):
        msg = f"dof={dof!r}: give a positive number of degrees of freedom, or None for normals"
        raise ValueError(msg)
    loc, scale = _latent(adata, key)
    index = _positions(adata, cells)
    loc, scale = loc[index], scale[index]
    if not len(loc):
        msg = f"{key!r} has no cells here: a mixture needs at least one (a fit without its cells has none)"
        raise ValueError(msg)
    each = dist.Normal(loc, scale) if dof is None else dist.StudentT(float(dof), loc, scale)
    return dist.MixtureSameFamily(dist.Categorical(probs=np.full(len(loc), 1 / len(loc), np.float32)), each.to_event(1))


def _latent(adata: "AnnData", key: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of z of all cells: of the fit, or of what ``tl.latent`` wrote for new cells."""
    if key in stored_fits(adata):
        fit = read_latent_fit(adata, key)
        n = fit.config.n_latent
        return fit.loc[:, :n], fit.scale[:, :n]
    try:
        values, facts = read_result(adata, "latent", key)
    except KeyError as error:
        msg = f"no fit {key!r}, and no result of sb.tl.latent: the fits here are {stored_fits(adata)}"
        raise KeyError(msg) from error
    if facts["distribution"] != "normal":
        msg = f"{key!r} is of new cells in a logistic-normal space: what tl.latent wrote is not normal"
        raise ValueError(msg)
    return np.asarray(values["z"]), np.asarray(values["z_sd"])


def _positions(adata: "AnnData", cells) -> np.ndarray:
    """Positions of the cells that are meant."""
    if cells is None:
        return np.arange(adata.n_obs)
    cells = np.atleast_1d(np.asarray(cells))
    if cells.dtype == bool and cells.shape != (adata.n_obs,):
        msg = f"cells is a mask of shape {cells.shape}, and there are {adata.n_obs} cells"
        raise ValueError(msg)
    if cells.dtype.kind not in "biu" and cells.size:
        found = adata.obs_names.get_indexer(cells)
        if (found < 0).any():
            msg = f"{(found < 0).sum()} of the cells are not in adata.obs_names, first {cells[found < 0][0]!r}"
            raise KeyError(msg)
        return found
    try:
        index = np.arange(adata.n_obs)[cells if cells.size else slice(0)]
    except IndexError as error:
        msg = f"cells has positions that are not there: adata has {adata.n_obs} cells"
        raise ValueError(msg) from error
    if not index.size:
        msg = "cells chooses no cell: a mixture needs at least one"
        raise ValueError(msg)
    return index
