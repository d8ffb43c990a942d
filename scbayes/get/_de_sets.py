"""Gene sets of what ``sb.tl.de`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.get._de_parts import CERTAINTY, EFFECT, SPREAD, read_groups

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of every table, besides the names of the sets.
COLUMNS = ("n_genes", *EFFECT, *CERTAINTY, *SPREAD, "share_up")


def de_sets(adata: "AnnData", group: str | None = None, key: str = "sb_de") -> "pd.DataFrame":
    """Effects of gene sets in one group, or in all.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.de` with `gene_sets`.
    group
        A group that was compared; None: all, one after the other, with a column `group`.
    key
        Its `key_added`.

    Returns
    -------
    DataFrame with a row for each set, surest large effects first. ``attrs`` says how it was made. The effect of a set
    is the (weighted) mean of its genes' log2 fold changes.

    names : str
    n_genes : int
        Genes of the set that data tell about: those that are not `data_poor`.
    lfc_mean, lfc_sd, lfc_median, ci_low, ci_high, lfsr, p_up, p_down, p_de, fsr, log_bayes_factor, is_de
        As :func:`scbayes.get.de`, of the set; `fsr` is over sets.
    donor_sd, p_sign_new_donor, min_detectable_lfc : float
        As :func:`scbayes.get.de`, of the set: `donor_sd` is the spread of the set's mean between donors.
    share_up : float
        Expected share of the genes that go up (by weight; those of negative weight: down).
    ci_low_50, ci_high_50, ... : float
        Further intervals, if more than one `level` was asked for.

    Raises
    ------
    KeyError
        If there is no such result, it was made without `gene_sets`, or it does not have this group.
    """
    values, facts, wanted = read_groups(adata, group, key)
    if "sets" not in values:
        msg = f"{key!r} has no gene sets: run sb.tl.de with gene_sets"
        raise KeyError(msg)
    stored = values["sets"]
    others = sorted(column for column in stored if column not in (*COLUMNS, "names", "bound"))
    tables = []
    for name in wanted:
        row = {
            column: np.asarray(stored[column])[facts["groups"].index(name)] for column in (*COLUMNS, *others, "bound")
        }
        order = np.lexsort((-np.abs(row["lfc_mean"]), -row["p_de"], -np.abs(row.pop("bound"))))
        row["is_de"] = row["is_de"].astype(bool)
        table = pd.DataFrame({"names": [str(one) for one in stored["names"]]} | row)
        tables.append(table.iloc[order] if group is not None else table.iloc[order].assign(group=name))
    table = pd.concat(tables, ignore_index=True)
    table.attrs |= facts
    return table
