"""Cells whose component is known, and all cells compared with them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts import Counts
from scbayes.metrics import calibration_error
from scbayes.models._labelled import Scored, cross_scores, evaluate, some_cells, totals
from scbayes.models._typical import surprise
from scbayes.state import Fit
from scbayes.stats._calibration import fit_calibration
from scbayes.stats._entropy import softmax_log
from scbayes.tl._reading import Reading, read_with_counts

if TYPE_CHECKING:
    from anndata import AnnData


class Known(NamedTuple):
    """Cells whose component is known: their counts, the component of each, and which cells of adata they are.

    ``here`` is None where they are cells of another data set.
    """

    counts: Counts
    code: np.ndarray
    here: np.ndarray | None


class Compared(NamedTuple):
    """What cells score under estimates from known cells that do not include them.

    Attributes
    ----------
    scores, surprise
        Of all cells, ``(n_cells, n_components)`` and ``(n_cells,)``; the latter None if not asked for.
    known_scores, code
        Of the known cells, with their components.
    log_total, known_log_total
        Log of the totals of both.
    """

    scores: np.ndarray
    surprise: np.ndarray | None
    known_scores: np.ndarray
    code: np.ndarray
    log_total: np.ndarray
    known_log_total: np.ndarray


def known_cells(adata: "AnnData", key: str, reading: Reading, reference: "AnnData | None", labels: str | None) -> Known:
    """The cells of the fit whose component is known: by the column ``labels`` of obs, or as the fit has it.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it has other labels than the components, or fewer than two cells of one.
    """
    own = reference is None or reference is adata
    source, fit, counts = adata, reading.fit, reading.counts
    if not own:
        source, other = reference, read_with_counts(reference, key)
        fit = other.fit
        position = {name: i for i, name in enumerate(other.names)}
        index = np.array([position[name] for name in reading.names])
        counts = other.counts
        if not np.array_equal(index, np.arange(counts.n_genes)):
            counts = counts.genes(index)
    code = fit.posterior.responsibilities.argmax(1) if labels is None else _codes(source, labels, fit)
    here = code >= 0
    return Known(some_cells(counts, np.flatnonzero(here)), code[here], here if own else None)


def compare_with_known(
    counts: Counts, known: Known, n_components: int, rng: np.random.Generator, *, judge: bool
) -> Compared:
    """Score all cells; ``judge`` also says how surprising they are."""
    unseen, estimates = cross_scores(known.counts, known.code, n_components, rng, judge=judge)
    log_total, known_log_total = (np.log(np.maximum(totals(part), 0.5)) for part in (counts, known.counts))
    here = np.zeros(counts.n_cells, bool) if known.here is None else known.here
    rest = np.flatnonzero(~here)
    scores, rank = np.zeros((counts.n_cells, n_components)), np.zeros(counts.n_cells) if judge else None
    if known.here is not None:
        scores[here] = unseen.scores
        if judge:
            rank[here] = surprise(unseen.typical, unseen.typical, same=True)
    if len(rest):
        found: Scored = evaluate(estimates, some_cells(counts, rest), judge=judge)
        scores[rest] = found.scores
        if judge:
            rank[rest] = surprise(found.typical, unseen.typical)
    return Compared(scores, rank, unseen.scores, known.code, log_total, known_log_total)


def calibrated(compared: Compared) -> tuple[np.ndarray, dict]:
    """Calibrated probabilities of all cells ``(n_cells, n_components)``, and the calibration as plain values."""
    scores, code = compared.known_scores, compared.code
    centre = float(compared.known_log_total.mean())
    amount = compared.known_log_total - centre
    found = fit_calibration(scores, code, log_amount=amount, class_bias=True)
    unseen = found.apply(scores, amount)
    facts = {
        "temperature": found.temperature,
        "power": found.power,
        "lapse": found.lapse,
        "bias": found.bias.tolist(),
        "prior": found.prior.tolist(),
        "total": float(np.exp(centre)),
        "n_labels": len(code),
        "accuracy": float(np.mean(unseen.argmax(1) == code)),
        "error": calibration_error(unseen, code),
        "error_before": calibration_error(softmax_log(scores), code),
    }
    return found.apply(compared.scores, compared.log_total - centre), facts


def _codes(adata: "AnnData", labels: str, fit: Fit) -> np.ndarray:
    """Component of each cell by its label; -1 where it has none."""
    if labels not in adata.obs:
        msg = f"calibrate={labels!r}: no such column of obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    column, names = adata.obs[labels], fit.components
    text, known = column.astype(str).to_numpy(), column.notna().to_numpy()
    code = pd.Index(names).get_indexer(text)
    code[~known] = -1
    strange = sorted(set(text[known & (code < 0)]))
    if strange:
        msg = f"obs[{labels!r}] has labels that are no components: {strange[:5]}; the components are {names}"
        raise ValueError(msg)
    n = np.bincount(code[code >= 0], minlength=len(names))
    if n.min() < 2:
        few = [names[k] for k in np.flatnonzero(n < 2)]
        msg = (
            f"to calibrate, obs[{labels!r}] must have at least two cells of each component; it lacks them of {few[:5]}"
        )
        raise ValueError(msg)
    return code
