"""Draws of the parameters."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import collect_draws, read_fit, read_result

if TYPE_CHECKING:
    from anndata import AnnData


def samples(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int | None = None,
    sites: str | Iterable[str] | None = None,
    rng: int | np.random.Generator = 0,
) -> dict[str, np.ndarray]:
    """Joint draws of the parameters from the posterior: those that are stored, or new ones.

    Parameters
    ----------
    adata
        Cells x genes, with the draws of :func:`scbayes.tl.posterior_samples`, or with a fit.
    key
        Prefix of the draws; with `n_samples`, the fit to draw from.
    n_samples
        Make so many draws now and store nothing. Default: read the stored ones.
    sites
        Parameters to return. Default: all that are stored; of new draws, those of mu, r, p, phi, gate, nu and weights
        that the model has. composition and odds can be named.
    rng
        Seed or generator of new draws.

    Returns
    -------
    dict
        Parameter -> float64, draws first: of genes ``(S, n_genes)``, of cells ``(S, n_cells)``, of the data set
        ``(S,)``. Parameters that each batch or each component has its own of have these axes after the first: ``(S,
        [n_batches,] [n_components,] n_genes)``; weights are ``(S, n_components)``. Genes that were pooled are left out;
        draws of chosen genes are in the order in which these were named.

    Raises
    ------
    KeyError
        If nothing is stored under `key`, or there is no such fit.
    ValueError
        If a parameter is not there, the draws would be larger than 2 GB, or the fit was replaced since they were made.
    """
    if n_samples is not None:
        return collect_draws(read_fit(adata, key), n_samples, rng, sites=sites)
    result = read_result(adata, "posterior_samples", key)
    axes = result.facts["axes"]
    names = list(axes) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    missing = [name for name in names if name not in axes]
    if missing:
        msg = f"no draws of {missing[0]!r} under {key!r}, which has {list(axes)}: name it in sites of posterior_samples"
        raise ValueError(msg)
    return {site: _read(adata, result.values, site, axes[site]) for site in names}


def _read(adata: "AnnData", values: dict, site: str, axis: str) -> np.ndarray:
    """Draws first, genes or cells last; of chosen genes, those that are still there."""
    if site in values:
        value = np.asarray(values[site])
        return value[..., np.isin(values["genes"], adata.var_names)] if axis == "gene" else value
    value = np.asarray(values[f"samples_{site}"])
    if axis == "gene":
        value = value[~np.isnan(value.reshape(len(value), -1)).all(1)]
    return np.moveaxis(value, 0, -1)
