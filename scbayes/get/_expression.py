"""Expression of cells that ``sb.tl.normalize_counts`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

WHATS = ("mean", "sd", "lower", "upper", "samples", "population")
#: Argument of tl.normalize_counts that asks for it.
ARGUMENTS = {"mean": "", "samples": ", store_samples=True", "population": ", n_samples_overall=1000"}


def expression(
    adata: "AnnData", key: str = "sb", *, genes: "str | Iterable[str] | None" = None, what: str = "mean"
) -> pd.DataFrame | np.ndarray:
    r"""Expression of genes in each cell given its counts, as a dense table.

    See :func:`scbayes.tl.normalize_counts` for what it is. With ``expression=True`` there, this is
    ``layers["sb_normalized_above_zero"] + obsm["sb_normalized_cells"] @ varm["sb_normalized_genes"].T``.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.normalize_counts` with `expression`.
    key
        Its `key_added`.
    genes
        Names of genes. Default: those that were chosen there and are in `adata`; needed where all were.
    what
        ``"mean"``; or ``"sd"``, ``"lower"``, ``"upper"`` of chosen genes, with `expression_interval`. Of a latent space
        also ``"samples"``, with `store_samples`, and ``"population"``, with `n_samples_overall`.

    Returns
    -------
    DataFrame, cells x `genes`, float64; a cell of average size has a total of `scale` over all genes. Of samples an
    array, float32 ``(n_samples, n_cells, n_genes)``; of a population a DataFrame, draws x `genes`.

    Raises
    ------
    KeyError
        If there is no such result, it does not hold these genes or this value, or they are not in `adata`.
    ValueError
        If `what` is unknown, `genes` is missing, or the fit was replaced since.
    """
    if what not in WHATS:
        raise ValueError(f"unknown what {what!r}; choose one of {', '.join(WHATS)}")
    values, facts = read_result(adata, "normalize_counts", key)
    chosen = facts["genes"]
    if chosen is None:
        raise KeyError(f"{key!r} holds no expression: run sb.tl.normalize_counts(adata, expression=...)")
    names = _names(adata, genes, chosen)
    columns = adata.var_names.get_indexer(names)
    if (columns < 0).any():
        raise KeyError(f"no gene {names[int(np.argmin(columns))]!r} in adata.var_names")
    part = {"mean": "normalized", "population": "population"}.get(what, f"normalized_{what}")
    if chosen == "all" and what == "mean":
        value = np.asarray(values["normalized_cells"]) @ np.asarray(values["normalized_genes"])[columns].T
        if (pooled := np.isnan(value).any(0)).any():
            raise KeyError(f"{names[int(np.argmax(pooled))]!r} was not fitted on its own")
        _add(value, values["normalized_above_zero"][:, columns])
    elif part not in values:
        argument = ARGUMENTS.get(what, ", expression_interval=True")
        raise KeyError(f"{key!r} holds no {what}: run sb.tl.normalize_counts(adata, expression=genes{argument})")
    elif what in ("samples", "population"):
        value = np.asarray(values[part])[:, [chosen.index(name) for name in names]]
        return np.moveaxis(value, 2, 0) if what == "samples" else pd.DataFrame(value.astype(float), columns=names)
    else:
        value = np.zeros((adata.n_obs, len(names)))
        _add(value, values[part][:, columns])
    return pd.DataFrame(value, adata.obs_names, names)


def _names(adata: "AnnData", genes, chosen) -> list[str]:
    if genes is None:
        if chosen == "all":
            raise ValueError("expression is there for all genes: say which with genes=[...]")
        there = set(adata.var_names)
        return [name for name in chosen if name in there]
    names = [genes] if isinstance(genes, str) else list(genes)
    if chosen != "all" and (missing := [name for name in names if name not in set(chosen)]):
        raise KeyError(
            f"expression of {missing[0]!r} was not computed: name it in sb.tl.normalize_counts(adata, expression=[...])"
        )
    return names


def _add(value: np.ndarray, part) -> None:
    """Add a sparse matrix without duplicate entries."""
    part = part.tocoo()
    value[part.row, part.col] += part.data
