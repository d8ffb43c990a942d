"""Weights of genes in a log likelihood, from what a user gives for the genes of AnnData."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.tl._reading import Reading

if TYPE_CHECKING:
    from anndata import AnnData

WEIGHT_TYPES = ("multiplicative", "additive")


def gene_weights(
    adata: "AnnData", reading: Reading, weights, weight_type: str, *, by_component: bool
) -> np.ndarray | None:
    """Weights of the genes of ``reading.counts``, ``(n_genes, n_components)``; None if none were given.

    A pooled gene, the last, has the mean weight of the genes that were pooled (additive: 0).

    Parameters
    ----------
    weights
        ``(adata.n_vars,)``, or with ``by_component`` ``(adata.n_vars, n_components)``; or the name of a column of var.

    Raises
    ------
    KeyError
        If a column of var does not exist.
    ValueError
        If numbers or shapes make no sense.
    """
    if weight_type not in WEIGHT_TYPES:
        msg = f"weight_type={weight_type!r}: choose one of {', '.join(WEIGHT_TYPES)}"
        raise ValueError(msg)
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights not in adata.var:
            msg = f"weights={weights!r}: no such column of adata.var, which has {list(adata.var.columns)}"
            raise KeyError(msg)
        weights = adata.var[weights]
    value, n = np.asarray(weights, float), reading.fit.config.n_components
    if value.shape != (adata.n_vars,) and not (by_component and value.shape == (adata.n_vars, n)):
        shapes = f"({adata.n_vars},)" + (f" or ({adata.n_vars}, {n})" if by_component else "")
        msg = f"weights has shape {value.shape}, it must be {shapes}"
        raise ValueError(msg)
    value = np.broadcast_to(value.reshape(adata.n_vars, -1), (adata.n_vars, n))
    used = value[reading.columns]
    multiplicative = weight_type == "multiplicative"
    if reading.counts.n_genes > len(used):
        pooled = value[~reading.fit.fitted].mean(0) if multiplicative else np.zeros(n)
        used = np.concatenate([used, pooled[None]])
    if not np.isfinite(used).all() or (multiplicative and used.min() < 0):
        msg = "weights must be finite" + (" and not negative" if multiplicative else "")
        raise ValueError(msg)
    return used
