"""Parameters of the distributions of counts that ``sb.tl.likelihood_parameters`` wrote."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData


def likelihood_parameters(
    adata: "AnnData", key: str = "sb", *, genes: str | Iterable[str] | None = None, samples: bool = False
) -> dict[str, pd.DataFrame | np.ndarray]:
    """Parameters of the distribution of each count, by name; see :func:`scbayes.tl.likelihood_parameters`.

    Parameters
    ----------
    adata
        Cells x genes, after ``tl.likelihood_parameters``.
    key
        Its `key_added`.
    genes
        Names of genes. Default: those that were chosen there and are in `adata`.
    samples
        The draws that were stored with `store_samples`, instead of their mean.

    Returns
    -------
    dict
        ``"mean"`` and, of the likelihoods that have them, ``"size"``, ``"gate"``, ``"probability"``: DataFrames, cells
        x `genes`, float64; of samples arrays, float32 ``(n_samples, n_cells, n_genes)``.

    Raises
    ------
    KeyError
        If there is no such result, it does not hold these genes or draws, or they are not in `adata`.
    ValueError
        If the fit was replaced since.
    """
    values, facts = read_result(adata, "likelihood_parameters", key)
    chosen, there = facts["genes"], set(adata.var_names)
    names = [genes] if isinstance(genes, str) else [n for n in chosen if n in there] if genes is None else list(genes)
    if missing := [name for name in names if name not in chosen or name not in there]:
        msg = f"parameters of {missing[0]!r} were not computed"
        raise KeyError(f"{msg}: name it in sb.tl.likelihood_parameters(adata, genes=[...])")
    if samples:
        if f"likelihood_{facts['parameters'][0]}_samples" not in values:
            raise KeyError(f"{key!r} holds no draws: run sb.tl.likelihood_parameters(adata, store_samples=True)")
        at = [chosen.index(name) for name in names]
        parts = {name: np.asarray(values[f"likelihood_{name}_samples"])[:, at] for name in facts["parameters"]}
        return {name: np.moveaxis(part, 2, 0) for name, part in parts.items()}
    columns = adata.var_names.get_indexer(names)
    return {name: _table(adata, values[f"likelihood_{name}"], columns) for name in facts["parameters"]}


def _table(adata: "AnnData", layer, columns: np.ndarray) -> pd.DataFrame:
    """Some columns of a sparse layer, which hold an entry for every cell."""
    value = np.zeros((adata.n_obs, len(columns)))
    part = sparse.coo_array(layer[:, columns])
    value[part.row, part.col] = part.data
    return pd.DataFrame(value, adata.obs_names, adata.var_names[columns])
