"""What ``sb.tl.abundance`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of the table between the names and the numbers of samples.
COLUMNS = (
    "lfc_mean",
    "lfc_sd",
    "lfc_median",
    "ci_low",
    "ci_high",
    "lfsr",
    "p_up",
    "p_down",
    "p_changed",
    "fsr",
    "log_bayes_factor",
    "is_changed",
    "share_lfc_mean",
    "share_lfc_ci_low",
    "share_lfc_ci_high",
    "log_odds_mean",
    "log_odds_ci_low",
    "log_odds_ci_high",
    "share_1",
    "share_2",
    "sample_cv",
    "data_poor",
)
FLAGS = ("is_changed", "data_poor")
WHATS = ("effects", "samples")


def abundance(adata: "AnnData", key: str = "sb_abundance", *, what: str = "effects") -> "pd.DataFrame":
    """Differential abundance of types of cells.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.abundance`.
    key
        Its `key_added`.
    what
        ``"effects"``, or ``"samples"``: cells of each type in each sample.

    Returns
    -------
    DataFrame with a row for each condition but the reference, and each type. ``attrs`` says how it was made, and what
    was learned. Effects are log2 of the condition over the reference.

    condition, label : str
    lfc_mean, lfc_sd, lfc_median, ci_low, ci_high : float
        Effect relative to what `relative_to` says: posterior under the wide prior, with the ends of its 95% interval.
    lfsr, p_up, p_down, p_changed : float
        Local false sign rate (the probability that the effect is not beyond `delta` in the likelier direction), and the
        probabilities that it is above `delta`, below ``-delta``, and either.
    fsr : float
        Expected share of false calls among this type and all with a smaller `lfsr`.
    log_bayes_factor : float
        Of a change against none, natural log.
    is_changed : bool
        Whether `fsr` is at most the `fdr` that was asked for.
    share_lfc_mean, share_lfc_ci_low, share_lfc_ci_high : float
        Ratio of shares, whatever the relative_to.
    log_odds_mean, log_odds_ci_low, log_odds_ci_high : float
        Ratio of the odds of the type against all others.
    share_1, share_2 : float
        Share of cells of a typical sample of the condition and of the reference.
    sample_cv : float
        Spread of the share between samples, over its mean: of shares drawn with the learned concentration.
    n_samples_1, n_samples_2 : int
        Samples of the condition and of the reference.
    data_poor : bool
        The interval is mostly that of the prior.

    With ``what="samples"``: `condition`, `sample`, `label`, `count` (expected ones of probabilities) and `share`.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If `what` is unknown.
    """
    if what not in WHATS:
        msg = f"unknown what={what!r}; choose one of {', '.join(WHATS)}"
        raise ValueError(msg)
    values, facts = read_result(adata, "abundance", key, key)
    types, conditions = facts["types"], facts["conditions"]
    if what == "samples":
        counts = np.asarray(values["counts"])
        names = [conditions[k] for k in values["condition"]]
        table = pd.DataFrame(
            {"condition": np.repeat(names, len(types)), "sample": np.repeat(facts["samples"], len(types))}
        )
        table["label"] = np.tile(types, len(counts))
        table["count"] = counts.ravel()
        table["share"] = (counts / counts.sum(1, keepdims=True)).ravel()
    else:
        table = pd.DataFrame({"condition": np.repeat(conditions[1:], len(types))})
        table["label"] = np.tile(types, len(conditions) - 1)
        for name in COLUMNS:
            table[name] = np.asarray(values["columns"][name]).ravel()
        table = table.astype(dict.fromkeys(FLAGS, bool))
        table["n_samples_1"] = np.repeat(facts["n_samples"][1:], len(types))
        table["n_samples_2"] = facts["n_samples"][0]
    table.attrs |= facts
    return table
