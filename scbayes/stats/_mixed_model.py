r"""Fixed and random effects on the log means of negative binomial counts, many small problems at once.

For each row :math:`g` and unit :math:`i`

.. math::
    y_{gi} \sim \mathrm{NB}(\text{mean } E_i e^{\eta_{gi}}, \text{size } k_{gi}), \qquad \eta_g = X b_g + Z a_g + u_g,
    \qquad b_g \sim N(m_g, S), \qquad a_{gp} \sim N(0, \omega^2), \qquad u_{gi} \sim \tau\, t_\nu

or, where values with known errors were measured instead of counts, :math:`y_{gi} \sim N(\eta_{gi}, v_{gi})`; or, where
counts are partly foreign, with a background in their mean (see :mod:`scbayes.stats._additive_background`).

with S diagonal, and each row of Z marking the person p of a unit. The joint mode of :math:`(b, a, u)` is found by
Newton's method. Each u is eliminated: its weight :math:`w = (W^{-1} + \tau^2/\rho)^{-1}` is that of the count's
curvature W and of its prior, with :math:`\rho = (\nu + 1)/(\nu + u^2/\tau^2)` (1 for the normal); then each a, whose
block is diagonal. The evidence is Laplace's approximation.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from scbayes.stats import _additive_background
from scbayes.stats._additive_background import Background, common_errors
from scbayes.stats._small_blocks import cholesky, inverse, solve_lower, solve_upper

#: Longest step of a log mean.
LONGEST = 2.0


class Problem(NamedTuple):
    """What the rows are asked.

    Attributes
    ----------
    y
        Counts or values, ``(n_rows, n_units)``.
    exposure
        Mean of the counts at a log mean of zero, ``(n_units,)`` or ``(n_rows, n_units)``; without meaning for values.
    noise
        ``1 / k`` of counts, the variance of values: ``(n_rows, n_units)``, positive.
    design
        X, ``(n_units, n_columns)``.
    prior_mean, prior_sd
        Of b: ``(n_rows, n_columns)`` and ``(n_columns,)``.
    people
        Z, ``(n_units, n_people)``.
    people_sd
        omega.
    background
        Of contaminated counts.
    """

    y: Array
    exposure: Array
    noise: Array
    design: Array
    prior_mean: Array
    prior_sd: Array
    people: Array
    people_sd: Array
    background: Background | None = None


class Solution(NamedTuple):
    """Normal approximation of the effect (the last of b) and of the level, and where it was found: ``(n_rows,)`` each.

    The level is the first of b and the mean person. The log evidence is up to a constant of each row; ``eta`` is
    ``(n_rows, n_units)``.
    """

    effect: Array
    variance: Array
    level: Array
    level_variance: Array
    covariance: Array
    evidence: Array
    eta: Array


def start(problem: Problem, kind: str = "counts") -> Array:
    """Where to start from."""
    if kind == "values":
        return problem.y
    expected = problem.exposure * jnp.exp(problem.prior_mean @ problem.design.T)
    own = problem.y
    if kind == "contaminated":
        own = jnp.maximum(own - problem.background.mean, 0.2 * jnp.sqrt(problem.background.mean))
    return jnp.log(own + 0.5 * jnp.minimum(expected, 1.0)) - jnp.log(problem.exposure)


@partial(jax.jit, static_argnames=("n_steps", "kind"))
def solve(problem: Problem, tau: Array, nu: Array, eta: Array, n_steps: int, kind: str = "counts") -> Solution:
    """Posterior of b at a spread ``tau`` of u with ``nu`` degrees of freedom (infinity: normal), from ``eta``.

    ``kind`` of y: ``"counts"``, ``"contaminated"`` (counts with a background) or ``"values"``.
    """
    slopes, log_likelihood = LIKELIHOODS[kind]
    precision = problem.prior_sd**-2

    def modes(eta: Array, u: Array):
        """Mode of the fixed part given u's weights, and what the evidence needs."""
        score, curvature = slopes(problem, eta)
        spread = tau**2 / _robust(u, tau, nu)
        weight = 1 / (1 / curvature + spread)
        response = eta + score / curvature
        own = weight @ problem.people + problem.people_sd**-2
        cross = jnp.einsum("gd,dp,di->gpi", weight, problem.people, problem.design)
        matrix = jnp.einsum("gd,di,dj->gij", weight, problem.design, problem.design) + jnp.diag(precision)
        tril = cholesky(matrix - jnp.einsum("gpi,gp,gpj->gij", cross, 1 / own, cross))
        right = (weight * response) @ problem.design + precision * problem.prior_mean
        of_people = (weight * response) @ problem.people
        right = right - jnp.einsum("gpi,gp->gi", cross, of_people / own)
        loc = solve_upper(tril, solve_lower(tril, right))
        people = (of_people - jnp.einsum("gpi,gi->gp", cross, loc)) / own
        fixed = loc @ problem.design.T + people @ problem.people.T
        return loc, people, (own, cross), tril, spread, curvature, fixed, weight * (response - fixed)

    def step(now, _):
        eta, u = now
        *_, spread, _, fixed, residual = modes(eta, u)
        u = spread * residual
        return (eta + jnp.clip(fixed + u - eta, -LONGEST, LONGEST), u), None

    (eta, u), _ = jax.lax.scan(step, (eta, jnp.zeros_like(problem.y)), None, length=n_steps)
    loc, people, (own, cross), tril, spread, curvature, fixed, _ = modes(eta, u)
    u = eta - fixed
    of_units = log_likelihood(problem, eta) + _log_spread(u, tau, nu)
    of_units -= 0.5 * jnp.log1p(spread * curvature) + 0.5 * jnp.log(_robust(u, tau, nu))
    of_columns = -0.5 * precision * (loc - problem.prior_mean) ** 2 + 0.5 * jnp.log(precision)
    of_columns -= jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1))
    of_people = -0.5 * (people / problem.people_sd) ** 2 - jnp.log(problem.people_sd) - 0.5 * jnp.log(own)
    evidence = of_units.sum(1) + of_columns.sum(1) + of_people.sum(1)
    covariance = inverse(tril)
    share = jnp.any(problem.people > 0, 0) / jnp.maximum(jnp.any(problem.people > 0, 0).sum(), 1)
    # the mean person moves with b, and has an error of its own
    along = jnp.zeros_like(loc).at[:, 0].set(1.0) - jnp.einsum("p,gpi->gi", share, cross / own[..., None])
    with_all = jnp.einsum("gi,gij->gj", along, covariance)
    level_variance = jnp.einsum("gj,gj->g", with_all, along) + jnp.einsum("p,gp->g", share**2, 1 / own)
    level = loc[:, 0] + people @ share
    variances = covariance[:, -1, -1], level_variance, with_all[:, -1]
    if problem.background is not None:
        weight = 1 / (1 / curvature + spread)
        moved = problem.design - jnp.einsum("dp,gpi->gdi", problem.people, cross / own[..., None])
        of_effect = weight * jnp.einsum("gdi,gi->gd", moved, covariance[:, -1])
        of_level = weight * (jnp.einsum("gdi,gi->gd", moved, with_all) + (share / own) @ problem.people.T)
        added = common_errors(problem, eta, curvature, of_effect, of_level)
        variances = [v + more for v, more in zip(variances, added, strict=True)]
    variance, level_variance, both = variances
    return Solution(loc[:, -1], variance, level, level_variance, both, evidence, eta)


def _slopes_of_counts(problem: Problem, eta: Array) -> tuple[Array, Array]:
    """First and minus second derivative of each log likelihood in its log mean."""
    mean = problem.exposure * jnp.exp(eta)
    over = 1 + problem.noise * mean
    return (problem.y - mean) / over, mean * (1 + problem.noise * problem.y) / over**2


def _log_likelihood_of_counts(problem: Problem, eta: Array) -> Array:
    """Up to what does not depend on the log mean."""
    scaled = problem.noise * problem.exposure * jnp.exp(eta)
    return problem.y * eta - (problem.y + 1 / problem.noise) * jnp.log1p(scaled)


def _slopes_of_values(problem: Problem, eta: Array) -> tuple[Array, Array]:
    return (problem.y - eta) / problem.noise, 1 / problem.noise


def _log_likelihood_of_values(problem: Problem, eta: Array) -> Array:
    return -0.5 * (problem.y - eta) ** 2 / problem.noise


LIKELIHOODS = {
    "counts": (_slopes_of_counts, _log_likelihood_of_counts),
    "contaminated": (_additive_background.slopes, _additive_background.log_likelihood),
    "values": (_slopes_of_values, _log_likelihood_of_values),
}


def _robust(u: Array, tau: Array, nu: Array) -> Array:
    return jnp.where(jnp.isinf(nu), 1.0, (nu + 1) / (nu + (u / tau) ** 2))


def _log_spread(u: Array, tau: Array, nu: Array) -> Array:
    """Log density of u / tau over that of the normal at its mode."""
    z = (u / tau) ** 2
    finite = jnp.where(jnp.isinf(nu), 4.0, nu)
    peak = gammaln((finite + 1) / 2) - gammaln(finite / 2) - 0.5 * jnp.log(finite / 2)
    return jnp.where(jnp.isinf(nu), -0.5 * z, peak - (finite + 1) / 2 * jnp.log1p(z / finite))
