r"""Which component a cell belongs to: responsibilities, with its capture probability integrated out.

.. math:: \gamma_{ck} \propto w_k \int p(u_c \mid k, \nu)\, p(\nu)\, d\nu.

Components are compared at equal expected totals, :math:`\nu \sum_g \mu_{kg}`: the integral over :math:`\ln\nu` is then
that of a normal around nearly the same point for all of them, found by one Newton step (Laplace's method).
"""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from scbayes.counts import Counts
from scbayes.models._model import Model
from scbayes.models._new_cells import prior_slopes
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells

#: Responsibilities below this are taken as zero: such cells cost a component nothing.
NEGLIGIBLE = 1e-6
#: A normal around a point holds if its centre is this near, in ln nu; else it is moved there, in steps of at most.
NEAR, LONGEST, N_STEPS = 0.3, 1.0, 5
#: Share of the smaller component's cells that a second one also claims, from which the two are called the same.
SHARED = 0.5


class Labels(NamedTuple):
    """What is known about the components of cells beforehand.

    Attributes
    ----------
    code
        Component of each cell, integers; -1 where nothing is known.
    trust
        Probability that a label is right; 1: it is.
    """

    code: np.ndarray
    trust: float

    def log_prior(self, n_components: int) -> np.ndarray:
        """Log prior factor of each component, ``(n_cells, n_components)``."""
        with np.errstate(divide="ignore"):
            wrong, right = np.log((1 - self.trust) / (n_components - 1)), np.log(self.trust)
        known = self.code >= 0
        factor = np.where(known[:, None], wrong, 0.0) * np.ones(n_components)
        factor[known, self.code[known]] = right
        return factor


def marginal_scores(parameters: Parameters, counts: Counts, prior, *, unconstrained: bool) -> np.ndarray:
    """Log likelihood of each cell under each component, ``(n_cells, n_components)``, nu integrated out.

    Parameters
    ----------
    parameters
        With ``log_nu`` near each cell's.
    prior
        Prior of nu (of ln nu where ``unconstrained``); None without capture: nu is 1.
    """
    if prior is None:
        return score_cells(parameters, counts).value
    total = np.log(parameters.mean.sum(-1))[counts.batch]  # (n_cells, n_components)
    expected = parameters.log_nu + total @ parameters.weights
    even = parameters.log_odds - np.log(parameters.mean.sum(-1, keepdims=True))
    for _ in range(N_STEPS):  # once, but where components have very different totals
        scores = score_cells(parameters._replace(log_odds=even, log_nu=expected), counts)
        log_nu = expected[:, None] - total
        slope, bend = prior_slopes(prior, log_nu.ravel(), unconstrained=unconstrained)
        gradient = scores.slope + slope.reshape(log_nu.shape)
        curvature = np.maximum(-scores.bend - bend.reshape(log_nu.shape), 1e-3)
        move = gradient / curvature
        likeliest = np.argmax(scores.value, 1)
        shift = np.clip(move[np.arange(len(move)), likeliest], -LONGEST, LONGEST)
        if np.max(np.abs(shift)) < NEAR:
            break
        expected = expected + np.where(np.abs(shift) < NEAR, 0.0, shift)
    gain = np.where(np.abs(move) < 1, gradient * move / 2, np.abs(gradient) - curvature / 2)  # no leap beyond 1
    return scores.value + prior_log_density(prior, log_nu, unconstrained=unconstrained) + gain - np.log(curvature) / 2


def prior_log_density(prior, log_nu: np.ndarray, *, unconstrained: bool) -> np.ndarray:
    """Log prior density of ln nu."""
    x = log_nu if unconstrained else np.exp(log_nu)
    return np.asarray(prior.log_prob(x), float) + (0.0 if unconstrained else log_nu)


def responsibilities(scores: np.ndarray, weights: np.ndarray, labels: Labels | None) -> np.ndarray:
    """Posterior probability of each component given the cell; negligible ones are zero.

    Parameters
    ----------
    scores
        Log likelihoods, ``(n_cells, n_components)``.
    weights
        Dirichlet concentrations of the weights.
    """
    log_weights = digamma(weights) - digamma(weights.sum())
    prior = 0.0 if labels is None else labels.log_prior(len(weights))
    found = np.exp(log_responsibilities(scores + prior, np.exp(log_weights)))
    found[found < NEGLIGIBLE] = 0.0
    return found / found.sum(1, keepdims=True)


def duplicates(found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of components that claim the same cells, from responsibilities ``(n_cells, n_components)``."""
    size = found.sum(0)
    pairs = []
    for i in range(found.shape[1]):
        for j in range(i + 1, found.shape[1]):
            shared = np.minimum(found[:, i], found[:, j]).sum()
            if min(size[i], size[j]) >= 1 and shared > SHARED * min(size[i], size[j]) / 2:
                pairs.append((i, j))
    return pairs


def parameters_at(model: Model, gene_loc, priors: dict, log_mrna: float, batch, log_odds, cells) -> Parameters:
    """Parameters at coordinates of the genes and ln nu of the cells; weights are even."""
    likelihood = model.likelihood(model.gene_values(gene_loc, priors), log_mrna, batch, log_odds)
    config = model.config
    shape = (config.n_batches, config.n_components, likelihood.log_size.shape[-1])
    full = np.broadcast_to(np.asarray(likelihood.gene_log_odds), likelihood.log_size.shape)
    gate = None
    if config.gate:
        gate = 1 / (1 + np.exp(-np.asarray(likelihood.gate_logit).reshape(shape)))
    even = np.full(config.n_components, 1 / config.n_components)
    return Parameters(np.exp(np.asarray(likelihood.log_size)).reshape(shape), full.reshape(shape), gate, even, cells)
