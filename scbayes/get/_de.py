"""What ``sb.tl.de`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.get._de_parts import CERTAINTY, EFFECT, SPREAD, read_groups

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of every table, besides the names of the genes.
COLUMNS = (*EFFECT, *CERTAINTY, "mean_1", "mean_2", "pct_1", "pct_2", *SPREAD, "data_poor")
FLAGS = ("is_de", "data_poor")


def de(adata: "AnnData", group: str | None = None, key: str = "sb_de") -> "pd.DataFrame":
    """Differential expression of one group, or of all.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.de`.
    group
        A group that was compared; None: all, one after the other, with a column `group`.
    key
        Its `key_added`.

    Returns
    -------
    DataFrame with a row for each gene, surest large effects first. ``attrs`` says how it was made. Fold changes are
    log2 of the group over the reference.

    names : str
    lfc_mean, lfc_sd, lfc_median, ci_low, ci_high : float
        Posterior under the wide prior, with the ends of its interval (95%, or the first `level`).
    lfsr, p_up, p_down, p_de : float
        Local false sign rate (the probability that the fold change is not beyond `delta` in the likelier direction),
        and the probabilities that it is above `delta`, below ``-delta``, and either.
    fsr : float
        Expected share of false calls among this gene and all with a smaller `lfsr`.
    log_bayes_factor : float
        Of a change against none, natural log; in vanilla mode, and with an effect of your own, the log odds of `p_up`,
        and of `p_de`.
    is_de : bool
        Whether `fsr` is at most the `fdr` that was asked for.
    mean_1, mean_2, pct_1, pct_2 : float
        Counts per 10,000 of all counts, and share of cells that express, in the group and in the reference. With
        `ambient`, `mean` is that of native counts, the observed less the ambient ones that are expected; `pct` remains
        that of observed counts.
    ambient_1, ambient_2 : float
        With `ambient`: share of the gene's counts that is expected to be ambient, in the group and in the reference.
    decoded_1, decoded_2 : float
        With a fit with a latent space: what its decoder says of the mean composition, per 10,000, in the group and in
        the reference, under the batches that were asked for. Effects do not rest on it.
    p_cell_up, log_odds_cell_up : float
        With that and ``mode="vanilla"``: P(decoded expression of a random cell of the group > that of a random cell of
        the reference), and its log odds.
    donor_sd : float
        Posterior mean of the spread of donors, log2; without donors next to zero.
    p_sign_new_donor : float
        Probability that a new pair of donors differs in the direction of the mean.
    min_detectable_lfc : float
        Fold change whose interval would exclude zero with probability 0.8.
    data_poor : bool
        The interval is mostly that of the prior; such genes are never called.
    ci_low_50, ci_high_50, ... : float
        Further intervals, if more than one `level` was asked for.
    dispersion_1, dispersion_2 : float
        With ``statistic="dispersion"``: overdispersion 1 / r in the group and in the reference, the posterior's centre
        on the log scale. All fold changes are then ratios of these two, less what the trend expects of the means.
    effect_mean, effect_sd, effect_median, effect_low, effect_high : float
        Posterior of the effect under the wide prior, with `change_fn` or `in_region_fn`.
    p_permuted : float
        Share of genes, over all comparisons with shuffled labels, whose ``|lfc_mean| / lfc_sd`` is as large, with
        `n_permutations`.

    Raises
    ------
    KeyError
        If there is no such result, or it does not have this group.
    """
    values, facts, wanted = read_groups(adata, group, key)
    tables = []
    for name in wanted:
        stored = values["columns"]
        order = [*COLUMNS, *sorted(column for column in stored if column not in (*COLUMNS, "bound"))]
        columns = {column: np.asarray(stored[column])[facts["groups"].index(name)] for column in order}
        columns |= {flag: columns[flag].astype(bool) for flag in FLAGS}
        table = pd.DataFrame({"names": np.asarray(values["names"][name], str)} | columns)
        tables.append(table if group is not None else table.assign(group=name))
    table = pd.concat(tables, ignore_index=True)
    table.attrs |= facts
    return table
