"""Gene sets as users give them, as weights of genes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.models._question import Question

if TYPE_CHECKING:
    from anndata import AnnData


def with_sets(adata: "AnnData", gene_sets, question: Question) -> tuple[Question, list[str]]:
    """The question with weights of genes in sets, and names of the sets; genes that ``adata`` lacks are left out.

    ``gene_sets``: name -> genes, or a table with the columns `source`, `target` and, if there are any, `weight`.
    """
    from scanpy import logging as logg

    if gene_sets is None:
        return question, []
    table = _as_table(gene_sets)
    place = pd.Series(np.arange(adata.n_vars), adata.var_names)
    place = place[~place.index.duplicated()].reindex(table["target"]).to_numpy()
    known = ~np.isnan(place)
    wanted, found = (part["source"].value_counts(sort=False) for part in (table, table[known]))
    few = {name: f"{found.get(name, 0)} of {n}" for name, n in wanted.items() if found.get(name, 0) < n}
    if few:
        logg.info(f"genes of sets that are in adata: {few}")
    absent = [name for name in wanted.index if name not in found.index]
    if len(absent) == len(wanted):
        msg = f"no gene of any set is in adata.var_names: {absent}"
        raise ValueError(msg)
    if absent:
        logg.warning(f"gene sets without a gene in adata.var_names are left out: {absent}")
    row, names = pd.factorize(table.loc[known, "source"])
    values = table.loc[known, "weight"].to_numpy(float), (row, place[known].astype(int))
    weight = sparse.csr_matrix(values, shape=(len(names), adata.n_vars))
    return question._replace(sets=weight), list(names)


def _as_table(gene_sets) -> pd.DataFrame:
    """A row per set and gene, each pair once."""
    if isinstance(gene_sets, pd.DataFrame):
        absent = {"source", "target"} - set(gene_sets.columns)
        if absent:
            msg = f"gene_sets has no column {sorted(absent)}: give source, target and, if you like, weight"
            raise KeyError(msg)
        table = gene_sets.assign(weight=gene_sets.get("weight", 1.0))[["source", "target", "weight"]]
    elif isinstance(gene_sets, Mapping):
        lone = [name for name, genes in gene_sets.items() if isinstance(genes, str)]
        if lone:
            msg = f"gene_sets[{lone[0]!r}] is a string: give a list of genes"
            raise TypeError(msg)
        table = [(name, gene, 1.0) for name, genes in gene_sets.items() for gene in genes]
        table = pd.DataFrame(table, columns=["source", "target", "weight"])
    else:
        msg = (
            f"gene_sets is {type(gene_sets).__name__}: give a dict of lists of genes, or a table with source and target"
        )
        raise TypeError(msg)
    table = table.astype({"source": str, "target": str}).drop_duplicates(["source", "target"])
    weight = table["weight"].to_numpy(float)
    if len(table) == 0 or not np.isfinite(weight).all():
        msg = "gene_sets has weights that are not finite" if len(table) else "gene_sets is empty"
        raise ValueError(msg)
    return table[weight != 0]
