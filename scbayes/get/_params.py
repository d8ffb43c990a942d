"""Parameters of the variational posterior."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import read_fit

if TYPE_CHECKING:
    from anndata import AnnData


def params(adata: "AnnData", key: str = "sb") -> dict[str, dict[str, np.ndarray]]:
    """Parameters of the variational posterior, by sampled parameter.

    Each sampled parameter is normal on its coordinate, the log of a positive parameter or the logit of a probability.
    (In ``standard`` without capture, that of p is ``logit(p) + log(sum(r))``, see the models page.)

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to read.

    Returns
    -------
    dict
        Parameter -> ``{"loc", "scale"}``, float64: shape ``(n_genes,)``, ``(n_cells,)`` or ``()``, with a first axis
        of batches for parameters that each batch has its own of. In ``"gene"``, the joint normal of the genes'
        coordinates: ``loc`` `(n_genes, K)`, ``tril`` `(n_genes, K, K)` and ``factor`` `(n_genes, K, Q)`. Pooled genes
        are left out. In mixtures, axes of components come before those of genes (and after those of batches), and
        ``"weights"`` has the ``concentration`` `(n_components,)` of their Dirichlet distribution.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit`.
    """
    fit = read_fit(adata, key)
    result = {
        site: {"loc": fit.squeeze(site, marginal.loc), "scale": fit.squeeze(site, marginal.scale)}
        for site, marginal in fit.sampled.items()
    }
    posterior = fit.posterior
    result["gene"] = {"loc": posterior.gene_loc, "tril": posterior.gene_tril, "factor": posterior.gene_factor}
    if fit.config.mixture:
        result["weights"] = {"concentration": posterior.weights}
    return result
