r"""Density of a cell's counts given the genes alone: its capture probability and its component integrated out.

.. math::
    p(u_c \mid \theta) = \sum_k w_k \int p(u_c \mid k, \nu, \theta)\, p(\nu)\, d\nu

At the centre :math:`\hat\theta` of the posterior the integral is Gauss-Hermite quadrature about the mode, one cell and
component at a time. At any other :math:`\theta` it is the one at the centre times

.. math::
    \mathrm E\left[\frac{p(u_c \mid k, \nu, \theta)}{p(u_c \mid k, \nu, \hat\theta)} \,\middle|\,
    u_c, k, \hat\theta\right],

where the logarithm of the ratio is expanded to second order in :math:`\ln\nu`: one pass over the counts for each value
of :math:`\theta`, instead of one for each node.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import grad, nn, vmap
from scipy.special import expit, logsumexp

from scbayes.counts import Counts
from scbayes.models._model import Model
from scbayes.models._new_cells import solve_log_nu
from scbayes.models._parameters import Parameters, Scores, score_cells
from scbayes.stats._normal_means import normal_means
from scbayes.stats._precision import double

#: Nodes of the quadrature.
N_NODES = 15
#: A component that explains a cell worse than the best one by more nats than this is left out for that cell.
NEGLIGIBLE = 100.0
#: ln nu at which the search for a mode begins at most, where nu is bounded by 1.
HIGHEST = -0.1
#: Newton steps of that search, and the move at which it ends.
N_STEPS = 25
CLOSE = 1e-6


class Part(NamedTuple):
    """Cells that one component may explain, at the centre of the posterior.

    Attributes
    ----------
    cells
        Which cells, ``(n,)``.
    counts
        Theirs.
    anchor
        ln nu about which scores are expanded, ``(n,)``.
    distance, log_weight
        Nodes in ln nu, measured from ``anchor``, and logs of their posterior weights, ``(n, N_NODES)``.
    log_marginal
        Log density with nu integrated out, ``(n,)``.
    scores
        At ``anchor``, ``(n, 1)`` each.
    """

    cells: np.ndarray
    counts: Counts
    anchor: np.ndarray
    distance: np.ndarray
    log_weight: np.ndarray
    log_marginal: np.ndarray
    scores: Scores

    @property
    def log_nu(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and variance of ln nu, ``(n,)`` each."""
        weight = np.exp(self.log_weight)
        mean = np.sum(weight * self.distance, 1)
        return self.anchor + mean, np.sum(weight * (self.distance - mean[:, None]) ** 2, 1)


class Marginal(NamedTuple):
    """Densities of cells given the genes, prepared at the centre of the posterior; one part per component."""

    n_cells: int
    weights: np.ndarray
    parts: list[Part]

    @property
    def log_responsibilities(self) -> np.ndarray:
        """Log probability of each component given the cell, at the centre: ``(n_cells, n_components)``."""
        joint = self._joint(self.weights, [part.log_marginal for part in self.parts])
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def log_density(self, parameters: Parameters) -> np.ndarray:
        """Log density of each cell at some value of the genes' parameters: float64 ``(n_cells,)``."""
        found = []
        for k, part in enumerate(self.parts):
            now = score_cells(parameters.component(k)._replace(log_nu=part.anchor), part.counts)
            value, slope, bend = (new - old for new, old in zip(now, part.scores, strict=True))
            ratio = value + slope * part.distance + bend / 2 * part.distance**2
            found.append(part.log_marginal + logsumexp(part.log_weight + ratio, axis=1))
        return logsumexp(self._joint(parameters.weights, found), axis=1)

    def _joint(self, weights: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
        joint = np.full((self.n_cells, len(self.parts)), -np.inf)
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        for k, (part, value) in enumerate(zip(self.parts, values, strict=True)):
            joint[part.cells, k] = log_weights[k] + value
        return joint


def marginalise(model: Model, priors: dict, parameters: Parameters, counts: Counts, total: np.ndarray) -> Marginal:
    """Integrate over nu at the centre of the posterior.

    Parameters
    ----------
    priors
        Prior of each sampled parameter: of nu, what is integrated over.
    parameters
        At the centre; their ``log_nu`` are ignored.
    total
        Counts of each cell, ``(n_cells,)``.
    """
    components = [parameters.component(k) for k in range(parameters.n_components)]
    if not model.config.capture:
        nothing = np.zeros(counts.n_cells)
        scores = [score_cells(each._replace(log_nu=nothing), counts) for each in components]
        rough = np.concatenate([each.value for each in scores], 1)
        at = [(nothing, nothing)] * len(components)
    else:
        unconstrained = model.config.unconstrained
        at = [solve_log_nu(each, counts, total, priors["nu"], unconstrained=unconstrained) for each in components]
        rough = np.stack(
            [
                score_cells(each._replace(log_nu=loc), counts).value[:, 0]
                + _log_prior(model, priors, *_coordinate(model, priors, loc))
                + np.log(scale)
                for each, (loc, scale) in zip(components, at, strict=True)
            ],
            1,
        )
    with np.errstate(divide="ignore"):
        rough = rough + np.log(parameters.weights)
    best = rough.max(1)
    parts = []
    for k, (each, (loc, scale)) in enumerate(zip(components, at, strict=True)):
        cells = np.flatnonzero(rough[:, k] > best - NEGLIGIBLE)
        parts.append(
            _part(
                model,
                priors,
                each,
                counts if len(cells) == counts.n_cells else counts.cells(cells),
                cells,
                loc[cells],
                scale[cells],
            )
        )
    return Marginal(counts.n_cells, parameters.weights, parts)


def population_of_nu(priors: dict, loc: np.ndarray, scale: np.ndarray) -> dict:
    """``priors`` with that of nu replaced by the normal of ln nu that cells come from.

    The prior that a fit learns is wide, so that it leaves each cell to its counts; as a prediction of the next cell it
    is too vague. ``loc`` and ``scale`` (n_cells,) are the posterior of ln nu under it.
    """
    prior = priors["nu"]
    own = 1 / scale**2 - 1 / float(prior.scale) ** 2  # what the counts say, without the prior
    own = np.maximum(own, 1e-3)
    x = (loc / scale**2 - float(prior.loc) / float(prior.scale) ** 2) / own
    centre, width = normal_means(x, 1 / own, smallest=0.01)
    return priors | {"nu": type(prior)(centre, width)}


def _part(model: Model, priors: dict, parameters: Parameters, counts: Counts, cells, loc, scale) -> Part:
    """Quadrature of one component."""
    if not len(cells):
        none = np.zeros((0, 1))
        return Part(cells, counts, loc, none, none, loc, Scores(none, none, none))
    bounded = model.config.capture and _bounded(model, priors)
    centre, width = loc, scale
    if bounded:
        centre, width = _bounded_mode(model, priors, parameters, counts, loc)
        loc = -np.logaddexp(0, -centre)
    scores = score_cells(parameters._replace(log_nu=loc), counts)
    if not model.config.capture:
        none = np.zeros((len(cells), 1))
        return Part(cells, counts, loc, none, none, scores.value[:, 0], scores)
    node, weight = np.polynomial.hermite.hermgauss(N_NODES)
    x = np.empty((len(cells), N_NODES))
    joint = np.empty_like(x)
    for j in range(N_NODES):
        z = centre + np.sqrt(2) * width * node[j]
        x[:, j] = -np.logaddexp(0, -z) if bounded else z
        value = score_cells(parameters._replace(log_nu=x[:, j]), counts).value[:, 0]
        joint[:, j] = (
            value + _log_prior(model, priors, x[:, j], z) + np.log(np.sqrt(2) * width * weight[j]) + node[j] ** 2
        )
    log_marginal = logsumexp(joint, axis=1)
    return Part(cells, counts, loc, x - loc[:, None], joint - log_marginal[:, None], log_marginal, scores)


def _bounded_mode(model: Model, priors: dict, parameters: Parameters, counts: Counts, start: np.ndarray):
    """Mode of the posterior of logit nu, and its width: Newton's method."""

    def log_density(z):
        return priors["nu"].log_prob(nn.sigmoid(z)) + nn.log_sigmoid(z) + nn.log_sigmoid(-z)

    slope_of = vmap(grad(log_density))
    bend_of = vmap(grad(grad(log_density)))
    z = _logit(np.minimum(start, HIGHEST))
    for _ in range(N_STEPS):
        scores = score_cells(parameters._replace(log_nu=-np.logaddexp(0, -z)), counts)
        slope, bend = scores.slope[:, 0], scores.bend[:, 0]
        turn = expit(-z)  # d ln nu / dz
        with double():
            gradient = slope * turn + np.asarray(slope_of(jnp.asarray(z)))
            curvature = -bend * turn**2 + slope * turn * (1 - turn) - np.asarray(bend_of(jnp.asarray(z)))
        curvature = np.maximum(curvature, 1e-2)
        move = np.clip(gradient / curvature, -1, 1)
        z = z + move
        if np.max(np.abs(move)) < CLOSE:
            break
    return z, 1 / np.sqrt(curvature)


def _logit(x: np.ndarray) -> np.ndarray:
    """Logit of exp(x)."""
    return x - np.log(-np.expm1(x))


def _coordinate(model: Model, priors: dict, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln nu (below 0 if nu is bounded by 1), and the coordinate of the quadrature there."""
    if not _bounded(model, priors):
        return x, x
    x = np.minimum(x, HIGHEST)
    return x, _logit(x)


def _bounded(model: Model, priors: dict) -> bool:
    return float(model.transform("nu", priors)(jnp.asarray(50.0))) <= 1


def _log_prior(model: Model, priors: dict, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Log prior density at ln nu = x, per unit of the coordinate z: ln nu itself, or logit nu where nu is bounded."""
    with double():
        if model.config.unconstrained:
            return np.asarray(priors["nu"].log_prob(jnp.asarray(x)))
        density = np.asarray(priors["nu"].log_prob(jnp.exp(jnp.asarray(x)))) + x
    return density - np.logaddexp(0, z) if _bounded(model, priors) else density
