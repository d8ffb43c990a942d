r"""Effects of gene sets: weighted means over the genes of a set.

The effect of set S is :math:`\sum_g w_g \beta_g` with weights whose absolute values sum to one. Genes of a set vary
together between replicates, so errors of its genes do not average out as independent ones would. The set is therefore
followed through the units: unit i says

.. math::
    Z_i = \sum_g w_g z_{gi}, \qquad V_i = \sum_g w_g^2 v_{gi}

with the responses and error variances of :func:`scbayes.models._effect_grid.responses`, and these are solved as values
with errors, in the design of the genes and with a spread :math:`\tau_S` of replicates of their own. It lies between

.. math::
    \sqrt{\textstyle\sum_g w_g^2 \tau_g^2} \quad\text{(genes vary on their own)} \qquad\text{and}\qquad
    \textstyle\sum_g |w_g| \tau_g \quad\text{(all together)},

and its prior says so: a mixture over places between the two, on the log scale, whose weights are learned over the sets
that were asked for, with some belief in all places alike where these are few.
"""

import numpy as np
from scipy import sparse
from scipy.special import logsumexp, softmax

from scbayes.models._effect_grid import NU, TAU, Contrast, on_grid, responses
from scbayes.models._effect_prior import tau_prior
from scbayes.models._effects import Effects, effects

#: Belief in no effect, and in each kind of effects, in sets, before data are seen: sets are few.
BELIEF = 8.0, 0.4
#: Where log tau of a set may lie between its two limits, how far around that, and sets' worth of belief in all places.
PLACES, AROUND, PLACE_SETS = np.linspace(0, 1, 5), 0.35, 5.0


def set_effects(contrast: Contrast, spread: np.ndarray, weight: sparse.csr_matrix, delta: float) -> Effects:
    """Effects of sets.

    Parameters
    ----------
    contrast
        Of all genes.
    spread
        Of replicates, for each gene.
    weight
        Of genes in sets, ``(n_sets, n_genes)``.
    delta
        As :func:`scbayes.models._effects.effects`.
    """
    used = np.unique(weight.indices)
    weight, spread = weight[:, used], spread[used]
    own = contrast.take(used)
    value, variance, mean = responses(own, spread)
    of_sets, noise = weight @ value, weight.power(2) @ variance
    if own.ambient is not None:  # the level of contamination moves all genes together
        for error in own.ambient.errors(levels_only=True):
            relative = error.T / mean
            noise += (weight @ relative) ** 2 - weight.power(2) @ relative**2
    nowhere = np.ones(len(contrast.design))  # values have no exposure
    given = contrast._replace(y=of_sets, exposure=nowhere, noise=noise, kind="values", ambient=None)
    grid = on_grid(given)
    if contrast.replicated:
        apart, together = np.sqrt(weight.power(2) @ spread**2), abs(weight) @ spread
        # in place of the prior that genes have
        log_p = _log_prior(apart, together, grid.evidence[:, : len(TAU)]) - np.log(tau_prior())
        grid = grid._replace(evidence=grid.evidence + np.tile(log_p, len(NU)))
    return effects(grid, told=False, delta=delta, belief=BELIEF)


def _log_prior(apart: np.ndarray, together: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Prior of each set's tau, ``(n_sets, n_tau)``; ``evidence``: under the normal."""
    middle = np.log(apart)[:, None] + np.log(together / apart)[:, None] * PLACES
    log_p = -0.5 * ((np.log(TAU) - middle[..., None]) / AROUND) ** 2
    log_p -= logsumexp(log_p, axis=2, keepdims=True)
    likely = logsumexp(log_p + evidence[:, None], axis=2)
    share = np.full(len(PLACES), 1 / len(PLACES))
    for _ in range(100):
        of_places = softmax(likely + np.log(share), axis=1)
        share = (of_places.sum(0) + PLACE_SETS / len(PLACES)) / (len(likely) + PLACE_SETS)
    return logsumexp(log_p + np.log(share)[:, None], axis=1)
