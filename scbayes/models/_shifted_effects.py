r"""Effects on log shares, which are known up to a shift that all types have in common.

At each concentration :math:`A` the likelihood of the effects of K types is nearly

.. math:: \hat\beta_k \mid \beta, c \sim N(\beta_k + c,\ s_k^2), \quad\text{independent given the shift } c,

where :math:`s_k^2` are quasi-variances (Firth & de Menezes 2004): numbers whose sums come near the variances of all
differences of two types. Counts say nothing about c. Of what it is depends what an effect means:

- ``"unchanged"``: the types whose effect is zero tell it. Which they are is not known: c is integrated on a grid, and
  :math:`p(c)` is the product of all other types' marginals under the learned prior;
- a number: the effect of this type is zero;
- None: there is none. Effects are known as they are, type by type.

As for genes (:mod:`scbayes.models._effects`), intervals of a type come from a wide prior of its effect, and
probabilities from a point at zero and normals of several widths, whose weights are learned.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import helmert
from scipy.special import logsumexp, softmax

from scbayes.models._effect_grid import WIDE
from scbayes.models._effect_prior import CENTRE, WIDTH
from scbayes.models._effects import FAINT
from scbayes.models._two_priors import TwoPriors

#: Standard deviations of effects, zero first: types are too few to learn more of where effects are.
WIDTHS = WIDTH[CENTRE == 0]
#: Belief in each width, the point at zero first, in types, before data are seen: types are few.
PRIOR = np.array([4.0, 0.5, 0.5, 0.5, 0.5])
#: Steps of EM, at most, and the change of a weight at which they stop.
MAX_STEPS, CLOSE = 100, 1e-4
#: Points of the grid of shifts; how far it goes beyond types that tell it, in standard deviations; who tells it.
SHIFTS, BEYOND, TELLS = 241, 4.0, 4.0
#: A quasi-variance is at least this share of the smallest variance of a difference.
SMALLEST = 0.02
#: Standard deviation of what is zero by definition.
NOTHING = 1e-12
#: Points with less than e to the minus this of the largest weight, for all types, are left out.
NEGLIGIBLE = 16.0


class Likelihood(NamedTuple):
    """Normal likelihoods at each of m concentrations: ``loc``, ``variance`` (m, K), and log ``evidence`` (m,)."""

    loc: np.ndarray
    variance: np.ndarray
    evidence: np.ndarray


@dataclass(frozen=True)
class Shifted(TwoPriors):
    """Posterior of the effects of K types; ``share``: learned weights of the widths."""

    share: np.ndarray


def apart(loc: np.ndarray, variance: np.ndarray, evidence: np.ndarray) -> Likelihood:
    """Likelihood of effects that need no shift, from their posterior under the wide prior."""
    precision = np.maximum(1 / variance - WIDE**-2, FAINT)
    return Likelihood(loc / variance / precision, 1 / precision, evidence)


def up_to_a_shift(loc: np.ndarray, covariance: np.ndarray, evidence: np.ndarray) -> Likelihood:
    """Likelihood of effects that are known up to a shift, from their posterior under the wide prior."""
    n_types = loc.shape[1]
    basis = helmert(n_types)  # of all that a shift does not change
    whole = np.linalg.inv(covariance)
    value, vector = np.linalg.eigh(basis @ whole @ basis.T - np.eye(n_types - 1) / WIDE**2)
    back = basis.T @ vector
    covariance = back / np.maximum(value, FAINT)[:, None, :] @ np.swapaxes(back, 1, 2)
    likely = np.einsum("mij,mjk,mk->mi", covariance, whole, loc)
    return Likelihood(likely, quasi_variances(covariance), evidence)


def quasi_variances(covariance: np.ndarray) -> np.ndarray:
    """Numbers whose sums come nearest to the variances of all differences, relative to these: ``(m, K)``."""
    n_types = covariance.shape[-1]
    own = np.diagonal(covariance, axis1=1, axis2=2)
    of_difference = own[:, :, None] + own[:, None, :] - 2 * covariance
    types = np.arange(n_types)
    of_difference[:, types, types] = np.inf
    if n_types == 2:
        return np.repeat(of_difference[:, 0, 1:] / 2, 2, axis=1)
    weight = of_difference**-2.0
    weight[:, types, types] = weight.sum(2)
    found = np.linalg.solve(weight, (1 / of_difference).sum(2)[..., None])[..., 0]
    return np.maximum(found, SMALLEST * of_difference.min(2))


def posterior(likelihood: Likelihood, relative_to: "str | int | None") -> Shifted:
    """Effects relative to what the shift is told by: ``"unchanged"``, the number of a type, or None."""
    shift, log_step = _shifts(likelihood, relative_to)
    likely = likelihood.loc[:, None, :] - shift[..., None]  # (m, C, K)
    variance = np.broadcast_to(likelihood.variance[:, None, :], likely.shape)
    log_wide = _log_normal(likely, variance + WIDE**2)
    log_null = _log_normal(likely, variance)
    # evidence of the concentration is that under the wide prior, which is divided out
    evidence = likelihood.evidence[:, None, None] + log_step[..., None]
    of_wide = _others(log_wide, log_null, relative_to) + log_wide + log_step[..., None]
    evidence = np.broadcast_to(evidence - logsumexp(of_wide, axis=1, keepdims=True), likely.shape)
    share = PRIOR / PRIOR.sum()
    log_mixed = logsumexp(_by_width(likely, variance) + np.log(share), axis=-1)
    rough = evidence + _others(log_mixed, log_null, relative_to) + np.maximum(log_mixed, log_wide)
    matters = (rough > rough.max((0, 1)) - NEGLIGIBLE).any(2)
    parts = (part[matters] for part in (likely, variance, evidence, log_wide, log_null))
    found = _learned(*parts, relative_to)
    return _without_effect(found, relative_to) if isinstance(relative_to, int) else found


def _by_width(likely: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return _log_normal(likely[..., None], variance[..., None] + WIDTHS**2)


def _others(log_mixed: np.ndarray, log_null: np.ndarray, relative_to: "str | int | None") -> np.ndarray:
    """What others than each type say of the shift."""
    if relative_to is None:
        return np.zeros_like(log_mixed)
    if relative_to == "unchanged":
        return log_mixed.sum(-1, keepdims=True) - log_mixed
    return np.broadcast_to(log_null[..., relative_to, None], log_mixed.shape)


def _learned(likely, variance, evidence, log_wide, log_null, relative_to) -> Shifted:
    """Posterior at points (T, K), with the weights of widths by EM over types."""
    log_width, tells = _by_width(likely, variance), np.arange(likely.shape[1]) != relative_to
    share = PRIOR / PRIOR.sum()
    for _ in range(MAX_STEPS):
        of_width = log_width + np.log(share)
        of_shift = evidence + _others(logsumexp(of_width, axis=-1), log_null, relative_to)
        joint = softmax(of_shift[..., None] + of_width, axis=(0, 2))
        new = joint[:, tells].sum((0, 1)) + PRIOR
        new /= new.sum()
        moved, share = np.abs(new - share).max(), new
        if moved < CLOSE:
            break
    weight = softmax(of_shift + log_wide, axis=0)
    wide, slab = 1 / (1 / variance + 1 / WIDE**2), 1 / (1 / variance[..., None] + 1 / WIDTHS[1:] ** 2)
    loc, slab_loc = wide * likely / variance, slab * (likely / variance)[..., None]
    parts = weight, loc, np.sqrt(wide), joint[..., 1:], slab_loc, np.sqrt(slab)
    return Shifted(*[np.swapaxes(part, 0, 1).copy() for part in parts], joint[..., 0].sum(0), share)


def _shifts(likelihood: Likelihood, relative_to: "str | int | None") -> tuple[np.ndarray, np.ndarray]:
    """Grid of shifts at each concentration, and the log of its steps: ``(m, C)`` and ``(m, 1)``."""
    loc, sd = likelihood.loc, np.sqrt(likelihood.variance)
    if relative_to is None:
        return np.zeros((len(loc), 1)), np.zeros((len(loc), 1))
    if relative_to == "unchanged":
        near = sd <= TELLS * sd.min(1, keepdims=True)
        low = np.where(near, loc - BEYOND * sd, np.inf).min(1)
        high = np.where(near, loc + BEYOND * sd, -np.inf).max(1)
    else:
        low, high = (loc[:, relative_to] + side * BEYOND * sd[:, relative_to] for side in (-1, 1))
    return np.linspace(low, high, SHIFTS, axis=1), np.log((high - low) / SHIFTS)[:, None]


def _without_effect(found: Shifted, k: int) -> Shifted:
    """Type k does not change, by definition."""
    for part in (found.loc, found.sd, found.slab_weight):
        part[k] = 0
    found.sd[k] = NOTHING
    found.null[k] = 1
    return found


def _log_normal(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * x**2 / variance - 0.5 * np.log(2 * np.pi * variance)
