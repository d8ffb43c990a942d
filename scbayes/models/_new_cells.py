r"""Capture probabilities of cells given all else: Newton's method on :math:`\ln\nu_c`, components averaged over."""

from functools import partial

import numpy as np
from jax import grad, jit, vmap
from jax import numpy as jnp

from scbayes.counts import Counts
from scbayes.models._model import Model
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells
from scbayes.stats._precision import double

#: Newton steps for all cells together, and the longest of them.
N_STEPS = 12
LONGEST = 1.0
#: Cells whose ln nu moves less have been found.
CLOSE = 1e-5


def solve_log_nu(
    parameters: Parameters, counts: Counts, total: np.ndarray, prior, *, unconstrained: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Normal approximation of the posterior of ln nu of each cell: mean and standard deviation, ``(n_cells,)``.

    Parameters
    ----------
    parameters
        Of the genes; their ``log_nu`` are ignored.
    total
        Counts of each cell, ``(n_cells,)``.
    prior
        Prior of nu; of ln nu where ``unconstrained``.
    """
    expected = np.einsum("bkg,k->b", parameters.mean, parameters.weights)[counts.batch]
    x = np.log((total + 0.5) / expected)
    for _ in range(N_STEPS):
        scores = score_cells(parameters._replace(log_nu=x), counts)
        weight = np.exp(log_responsibilities(scores.value, parameters.weights))
        slope, bend = prior_slopes(prior, x, unconstrained=unconstrained)
        gradient = np.sum(weight * scores.slope, 1) + slope
        curvature = np.maximum(-np.sum(weight * scores.bend, 1) - bend, 1e-3)
        move = np.clip(gradient / curvature, -LONGEST, LONGEST)
        x = x + move
        if np.max(np.abs(move)) < CLOSE:
            break
    return x, 1 / np.sqrt(curvature)


def prior_slopes(prior, x: np.ndarray, *, unconstrained: bool) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative of the log prior density of ln nu."""
    with double():
        slope, bend = _slopes(prior, jnp.asarray(x), unconstrained)
        return np.asarray(slope), np.asarray(bend)


@partial(jit, static_argnames="unconstrained")
def _slopes(prior, x, unconstrained):
    def log_density(z):
        return prior.log_prob(z) if unconstrained else prior.log_prob(jnp.exp(z)) + z

    first = grad(log_density)
    return vmap(first)(x), vmap(grad(first))(x)


def as_coordinate(model: Model, loc: np.ndarray, scale: np.ndarray, priors: dict) -> tuple[np.ndarray, np.ndarray]:
    """Normal of ln nu as one of the coordinate in which nu is sampled (another where its prior is bounded)."""
    transform = model.transform("nu", priors)
    x = jnp.minimum(jnp.exp(loc), 0.999) if float(transform(jnp.asarray(50.0))) <= 1 else jnp.exp(loc)
    z = transform.inv(x)
    slope = jnp.exp(transform.log_abs_det_jacobian(z, x)) / x  # d ln nu / dz
    return np.asarray(z), scale / np.asarray(slope)
