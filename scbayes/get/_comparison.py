"""Comparisons of fits, read back."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_manifest, read_result, stored_fits

if TYPE_CHECKING:
    from anndata import AnnData


def comparison(adata: "AnnData", key: str = "sb", *, by: str = "model") -> pd.DataFrame:
    """What :func:`scbayes.tl.compare` found.

    Parameters
    ----------
    adata
        Cells x genes, with the result.
    key
        Its prefix.
    by
        ``"model"``: one row a fit, best first. ``"gene"``: differences to the best fit, gene by gene. ``"cell"``: elpd
        (and, for fitted cells, k-hat) of each cell.

    Returns
    -------
    DataFrame. Of models, index `key` and the columns that :func:`scbayes.tl.compare` lists. Of genes, `key`, `gene`,
    `elpd_diff`, `se`, `z`. Of cells, `key`, `cell`, `elpd`, `pareto_k`, without cells that were left out.

    Raises
    ------
    KeyError
        If there is no comparison, or it was made without genes.
    ValueError
        If one of the fits was replaced since, or `by` is unknown.
    """
    if by not in ("model", "gene", "cell"):
        msg = f"by={by!r}: choose 'model', 'gene' or 'cell'"
        raise ValueError(msg)
    values, facts = read_result(adata, "compare", key)
    there = stored_fits(adata)
    for name, made_of in facts["fits"].items():
        if name in there and read_manifest(adata, name)["id"] != made_of:
            msg = f"the fit {name!r} is another than the one that was compared: run sb.tl.compare again"
            raise ValueError(msg)
    if by == "gene" and "gene" not in values:
        msg = f"the comparison {key!r} has no genes: run sb.tl.compare with by_gene=True"
        raise KeyError(msg)
    if by != "cell":
        return values[by].copy()
    names = facts["keys"]
    elpd = np.asarray(values["elpd"])
    k = np.asarray(values.get("pareto_k", np.full(elpd.shape, np.nan)))
    frames = [
        pd.DataFrame({"key": name, "cell": adata.obs_names, "elpd": elpd[:, m], "pareto_k": k[:, m]})
        for m, name in enumerate(names)
    ]
    return pd.concat(frames, ignore_index=True).dropna(subset="elpd", ignore_index=True)
