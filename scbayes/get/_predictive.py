"""Posterior predictive data sets, summed up."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

STATISTICS = {"genes": ("mean", "variance", "zeros"), "cells": ("total", "detected")}


def predictive(adata: "AnnData", key: str = "sb", *, what: str = "genes") -> pd.DataFrame | dict:
    """What :func:`scbayes.tl.predict` found, as one tidy table.

    Parameters
    ----------
    adata
        Cells x genes, with the result of ``tl.predict``.
    key
        Its prefix.
    what
        ``"genes"``: mean, variance and share of zeros over cells. ``"cells"``: total of counts and number of genes
        detected. ``"histogram"``: number of cells with each count. ``"counts"``: the counts themselves.

    Returns
    -------
    DataFrame
        One row per gene, or cell, and ``statistic``; of histograms, per ``gene`` and count from ``low`` to ``high``.
        Columns ``observed``, ``mean`` and quantiles over replicates such as ``q0.05``, and ``rank``, the share of
        replicates below the observed value. Genes that were not fitted on their own are left out.
    dict
        Of counts: gene -> CSR ``(S, n_cells)``, one row per replicate.

    Raises
    ------
    KeyError
        If there is no such result, or it has no histograms or counts.
    ValueError
        If `what` is none of these, or the fit was replaced since.
    """
    values, facts = read_result(adata, "predict", key)
    if what in STATISTICS:
        head = what.removesuffix("s")
        tables = {name: values[f"predicted_{name}"] for name in STATISTICS[what]}
        parts = [
            table.dropna(subset="mean").rename_axis(head).reset_index().assign(statistic=name)
            for name, table in tables.items()
        ]
        table = pd.concat(parts, ignore_index=True)
        return table[[head, "statistic", *(name for name in table if name not in (head, "statistic"))]]
    if what not in ("histogram", "counts"):
        msg = f"what={what!r}: give 'genes', 'cells', 'histogram' or 'counts'"
        raise ValueError(msg)
    name = "histogram" if what == "histogram" else "predicted_counts"
    if name not in values:
        more = "" if what == "histogram" else " and store_counts=True"
        msg = f"the prediction {key!r} has no {what}: run sb.tl.predict with genes=[...]{more}"
        raise KeyError(msg)
    if what == "histogram":
        table = values[name]
        return table[np.isin(table["gene"], adata.var_names)].reset_index(drop=True)
    counts, n = sparse.csr_array(values[name].T), facts["n_samples"]
    return {gene: counts[i * n : (i + 1) * n] for i, gene in enumerate(facts["genes"])}
