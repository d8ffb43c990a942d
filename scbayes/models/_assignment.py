"""Probabilities of components: of cells, and of genes; and their averages over draws."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from scbayes.counts import Counts
from scbayes.models._components import marginal_scores
from scbayes.models._parameters import Parameters, score_cells, score_genes
from scbayes.stats._dirichlet import mean_log
from scbayes.stats._entropy import entropy, softmax_log


class GeneWeights(NamedTuple):
    """How genes count: ``factor`` (n_genes,) multiplies log probabilities, ``shift`` (n_components,) is added.

    Either is None where it does nothing.
    """

    factor: np.ndarray | None = None
    shift: np.ndarray | None = None


class Averaged(NamedTuple):
    """Averages over S draws of probabilities p, ``(n, n_components)`` each.

    Attributes
    ----------
    mean
        Mean of p.
    mean_log
        Mean of ln p.
    entropy
        Mean of the entropy of p, ``(n,)``.
    draws
        All draws, ``(n, S, ...)``: of p or of its entropy; None if they were not kept.
    """

    mean: np.ndarray
    mean_log: np.ndarray
    entropy: np.ndarray
    draws: np.ndarray | None


def averaged(draws: Iterable[np.ndarray], keep: str | None = None) -> Averaged:
    """Averages of probabilities ``(n, n_components)`` that come one draw at a time.

    Parameters
    ----------
    keep
        Keep each draw's ``"probabilities"`` or ``"entropy"``.
    """
    sums, kept, n = [0.0, 0.0, 0.0], [], 0
    for p in draws:
        n += 1
        h = entropy(p)
        sums = [a + b for a, b in zip(sums, (p, mean_log(p[None]), h), strict=True)]
        if keep is not None:
            kept.append(p if keep == "probabilities" else h)
    return Averaged(*[value / n for value in sums], np.stack(kept, 1) if kept else None)


def expected_log_total(parameters: Parameters, batch: np.ndarray) -> np.ndarray:
    """Log of the total that each cell is expected to have, on average over components: ``(n_cells,)``."""
    return parameters.log_nu + np.log(parameters.mean.sum(-1))[batch] @ parameters.weights


def expecting(parameters: Parameters, log_total: np.ndarray, batch: np.ndarray) -> Parameters:
    """``parameters`` with the capture probabilities at which ``log_total`` are the expected ones."""
    now = expected_log_total(parameters, batch)
    return parameters._replace(log_nu=parameters.log_nu + log_total - now)


def at_equal_totals(parameters: Parameters, batch: np.ndarray) -> Parameters:
    """``parameters`` with the same expected total of a cell under all components, at ``log_nu``."""
    even = parameters.log_odds - np.log(parameters.mean.sum(-1, keepdims=True))
    return parameters._replace(log_odds=even, log_nu=expected_log_total(parameters, batch))


def cell_probabilities(
    parameters: Parameters,
    counts: Counts,
    prior,
    *,
    unconstrained: bool,
    temperature: float = 1.0,
    scale: float = 1.0,
    weights: GeneWeights | None = None,
) -> np.ndarray:
    """Probability of each component given the cell, ``(n_cells, n_components)``.

    nu is integrated out; with weights of genes, which say nothing about it, it is that of an equal expected total.

    Parameters
    ----------
    prior, unconstrained
        As of :func:`~scbayes.models._components.marginal_scores`.
    temperature
        Divides log weight and log likelihood.
    scale
        Divides the log likelihood.
    """
    factor, shift = (None, None) if weights is None else weights
    if factor is None:
        scores = marginal_scores(parameters, counts, prior, unconstrained=unconstrained)
    else:  # nu is known from all genes
        state = parameters if prior is None else at_equal_totals(parameters, counts.batch)
        scores = score_cells(state, counts, factor).value
    scores = scores if shift is None else scores + shift
    with np.errstate(divide="ignore"):
        return softmax_log(np.log(parameters.weights) + scores / scale, temperature=temperature)


def gene_probabilities(
    parameters: Parameters, counts: Counts, *, capture: bool, temperature: float = 1.0, scale: float = 1.0
) -> np.ndarray:
    """Probability of each component given a gene's counts in all cells, if all cells were of it: ``(n_genes, K)``.

    With ``capture``, components are compared at equal expected totals of each cell.
    """
    if capture:
        parameters = at_equal_totals(parameters, counts.batch)
    scores = score_genes(parameters, counts, np.ones((counts.n_cells, parameters.n_components)))
    return softmax_log(scores.T / scale, temperature=temperature)
