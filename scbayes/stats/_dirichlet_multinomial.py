r"""Regression of Dirichlet-multinomial counts, by Laplace's approximation at each point of a grid.

.. math::
    n_u \sim \mathrm{DM}(N_u, A\,\pi_u), \qquad \pi_u = \mathrm{softmax}(\eta_u), \qquad
    \eta_u = x_u^T B + z_u^T G,

with normal priors of the rows of B, and of all entries of G: levels of people, many of them, each in few units. Their
blocks are eliminated first, so that cost grows linearly with people. With :math:`a = A\pi`,
:math:`g = \psi(a + n) - \psi(a)` and :math:`h = \psi'(a) - \psi'(a + n)`, the gradient in :math:`\eta` is
:math:`d = a (g - \pi^T g)`, and the curvature :math:`J\,\mathrm{diag}(h)\,J - \mathrm{diag}(d) + \pi d^T + d \pi^T`,
:math:`J = A(\mathrm{diag}(\pi) - \pi\pi^T)`. Its first term is positive, and takes Newton's first steps.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln, log_softmax, zeta

#: Newton steps, at most, and where they stop: the largest rise of log posterior that a step promises. Below the last
#: number they use the whole curvature: its positive part alone takes many small steps.
MAX_STEPS, TOLERANCE, NEAR = 100, 1e-8, 1.0
#: Longest step in any coordinate (log scale).
LONGEST = 3.0


class Regression(NamedTuple):
    """What is regressed, with q columns, K types and P people.

    Attributes
    ----------
    counts
        ``(n, K)``; need not be whole numbers.
    design
        ``(n, q)``.
    prior_mean, prior_sd
        Of B: ``(q, K)`` and ``(q,)``.
    people
        Whose each unit is, ``(n, P)``; no columns where that is nobody's.
    """

    counts: np.ndarray
    design: np.ndarray
    prior_mean: np.ndarray
    prior_sd: np.ndarray
    people: np.ndarray


class Point(NamedTuple):
    """Where the regression is solved, m times: the ``concentration`` A and the prior sd of G, ``people_sd``, (m,)."""

    concentration: np.ndarray
    people_sd: np.ndarray


class Solution(NamedTuple):
    """At each of m points.

    Attributes
    ----------
    b, g
        The mode: ``(m, q, K)`` and ``(m, P, K)``.
    loc, covariance
        Of the linear predictors that were asked for, l of them: ``(m, l, K)`` and ``(m, l * K, l * K)``.
    evidence
        Log of the integral over B and G, ``(m,)``.
    """

    b: np.ndarray
    g: np.ndarray
    loc: np.ndarray
    covariance: np.ndarray
    evidence: np.ndarray


def log_likelihood(counts: np.ndarray, share: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    """Log probability of each row of ``counts``; the coefficient that counts orders is part of it."""
    a, total = concentration[..., None] * share, counts.sum(-1)
    types = gammaln(a + counts) - gammaln(a) - gammaln(counts + 1)
    units = gammaln(concentration) - gammaln(concentration + total) + gammaln(total + 1)
    return units + types.sum(-1)


def regress(problem: Regression, at: Point, rows: np.ndarray, start: Solution | None = None) -> Solution:
    """Posterior of the linear predictors of ``rows`` (l, q), with people at their mean, at each point.

    ``start``, a solution at as many points, saves steps.
    """
    m, n_people, n_types = len(at.concentration), problem.people.shape[1], problem.counts.shape[1]
    b = np.broadcast_to(problem.prior_mean, (m, *problem.prior_mean.shape)) if start is None else start.b
    g = np.zeros((m, n_people, n_types)) if start is None else start.g
    value = _log_posterior(problem, at, b, g)
    near = False
    for _ in range(MAX_STEPS):
        slope_b, slope_g, blocks = _slopes(problem, at, b, g, exact=near)
        if near and not blocks.positive():
            slope_b, slope_g, blocks = _slopes(problem, at, b, g, exact=False)
        step_b, step_g = (step[..., 0] for step in blocks.solve(slope_b[..., None], slope_g[..., None]))
        promised = np.sum(slope_b * step_b, (1, 2)) + np.sum(slope_g * step_g, (1, 2))
        longest = np.maximum(np.abs(step_b).max((1, 2)), np.abs(step_g).max((1, 2), initial=0))
        part = LONGEST / np.maximum(longest, LONGEST)
        for _ in range(30):  # steps that would go down are halved
            new_b, new_g = b + part[:, None, None] * step_b, g + part[:, None, None] * step_g
            new = _log_posterior(problem, at, new_b, new_g)
            worse = new < value - 1e-10 * np.abs(value)
            if not worse.any():
                break
            part = np.where(worse, part / 2, part)
        b, g, value = new_b, new_g, new
        if promised.max() < TOLERANCE:
            break
        near = promised.max() < NEAR
    blocks = _slopes(problem, at, b, g, exact=True)[2]
    if not blocks.positive():  # far from a maximum in some direction: there the positive part has to do
        blocks = _slopes(problem, at, b, g, exact=False)[2]
    mean = np.full((len(rows), n_people), 1 / max(n_people, 1))
    loc = rows @ b + np.einsum("lp,mpk->mlk", mean, g)
    return Solution(b, g, loc, blocks.covariance(rows, mean), value - blocks.half_log_det())


def _share(problem: Regression, b: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(problem.design @ b + problem.people @ g, -1))


def _log_posterior(problem: Regression, at: Point, b: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Up to the powers of 2 pi, which those of the integral cancel."""
    likely = log_likelihood(problem.counts, _share(problem, b, g), at.concentration[:, None]).sum(1)
    sd = problem.prior_sd[:, None]
    of_b = -0.5 * ((b - problem.prior_mean) / sd) ** 2 - np.log(sd)
    people_sd = at.people_sd[:, None, None]
    of_g = -0.5 * (g / people_sd) ** 2 - np.log(people_sd)
    return likely + of_b.sum((1, 2)) + of_g.sum((1, 2))


def _slopes(problem: Regression, at: Point, b: np.ndarray, g: np.ndarray, *, exact: bool):
    """Gradients in B and G, and the curvature; without ``exact`` only its positive part."""
    share = _share(problem, b, g)
    a = at.concentration[:, None, None] * share
    along = digamma(a + problem.counts) - digamma(a)
    slope = a * (along - np.sum(share * along, -1, keepdims=True))
    bend = a**2 * (zeta(2, a) - zeta(2, a + problem.counts))  # zeta(2, .) is the trigamma function
    outer = -bend[..., :, None] * share[..., None, :]
    curvature = outer + np.swapaxes(outer, -1, -2)
    curvature += np.einsum("mui,muj,mu->muij", share, share, bend.sum(-1))
    diagonal = bend
    if exact:
        outer = share[..., :, None] * slope[..., None, :]
        curvature += outer + np.swapaxes(outer, -1, -2)
        diagonal = bend - slope
    types = np.arange(share.shape[-1])
    curvature[..., types, types] += diagonal
    slope_b = (
        np.einsum("uq,muk->mqk", problem.design, slope) - (b - problem.prior_mean) / problem.prior_sd[:, None] ** 2
    )
    slope_g = np.einsum("up,muk->mpk", problem.people, slope) - g / at.people_sd[:, None, None] ** 2
    return slope_b, slope_g, _Blocks(problem, at.people_sd, curvature)


class _Blocks:
    """Curvature of the log posterior in B and G, by the blocks of people: those of two people share no unit."""

    def __init__(self, problem: Regression, people_sd: np.ndarray, curvature: np.ndarray):
        x, z = problem.design, problem.people
        m, _, n_types, _ = curvature.shape
        n_columns, n_people = x.shape[1], z.shape[1]

        def summed(weights: np.ndarray) -> np.ndarray:
            """Sums over units with each column of weights, ``(m, n_weights, K, K)``."""
            return (weights.T @ curvature.reshape(m, len(x), -1)).reshape(m, -1, n_types, n_types)

        top = summed(np.einsum("ua,ub->uab", x, x).reshape(len(x), -1))
        top = top.reshape(m, n_columns, n_columns, n_types, n_types).swapaxes(2, 3)
        top = top.reshape(m, n_columns * n_types, -1) + np.diag(np.repeat(problem.prior_sd**-2.0, n_types))
        self.own = summed(z) + np.eye(n_types) / people_sd[:, None, None, None] ** 2
        cross = summed(np.einsum("up,ua->upa", z, x).reshape(len(x), -1))
        cross = cross.reshape(m, n_people, n_columns, n_types, n_types).swapaxes(2, 3)
        self.cross = cross.reshape(m, n_people, n_types, n_columns * n_types)
        self.carried = np.linalg.solve(self.own, self.cross)
        self.top = top - np.einsum("mpka,mpkb->mab", self.cross, self.carried)

    def solve(self, to_b: np.ndarray, to_g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curvature^-1 times columns whose parts are ``(m, q, K, r)`` and ``(m, P, K, r)``."""
        flat = to_b.reshape(len(to_b), -1, to_b.shape[-1]) - np.einsum("mpka,mpkr->mar", self.carried, to_g)
        b = np.linalg.solve(self.top, flat)
        g = np.linalg.solve(self.own, to_g) - np.einsum("mpka,mar->mpkr", self.carried, b)
        return b.reshape(to_b.shape), g

    def covariance(self, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Of linear predictors with these weights of the rows of B (l, q) and G (l, P): ``(m, l * K, l * K)``."""
        m, n_types = len(self.top), self.own.shape[-1]

        def each(weights: np.ndarray) -> np.ndarray:
            """Every predictor and type, as a column."""
            columns = np.einsum("lq,kt->qklt", weights, np.eye(n_types))
            shape = weights.shape[1], n_types, len(weights) * n_types
            return np.broadcast_to(columns.reshape(shape), (m, *shape))

        to_b, to_g = each(rows), each(mean)
        b, g = self.solve(to_b, to_g)
        found = np.einsum("mqkt,mqks->mts", to_b, b) + np.einsum("mpkt,mpks->mts", to_g, g)
        return (found + np.swapaxes(found, 1, 2)) / 2

    def half_log_det(self) -> np.ndarray:
        return (np.linalg.slogdet(self.top)[1] + np.linalg.slogdet(self.own)[1].sum(-1)) / 2

    def positive(self) -> bool:
        blocks = [np.linalg.eigvalsh(part).min(initial=np.inf) for part in (self.top, self.own)]
        return min(blocks) > 0
