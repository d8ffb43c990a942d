r"""Effects of a contrast on the log means of genes, with replicates: what is learned over genes, and what of each.

Per gene :math:`\eta = X b + Z a + u` (see :mod:`scbayes.stats._mixed_model`); the last column of X is the contrast,
with effect :math:`\beta`. The spread :math:`\tau` of replicates, and how heavy its tails are, lie on a grid whose
weights are learned over all genes, and are integrated. Two priors of :math:`\beta`:

- a wide normal: intervals come from it, so that genes that changed are covered as well as those that did not;
- a mixture of a point at zero and normals of several widths, with weights learned over all genes (Stephens 2016): P and
  lfsr come from it. Given the grid point, the likelihood of :math:`\beta` is that of a normal, so it is closed form.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, ndtr, ndtri

from scbayes.stats._mixed_model import Problem, solve, start
from scbayes.stats._precision import double

#: Spreads of replicates (natural log), and degrees of freedom of their distribution.
TAU = np.exp(np.linspace(np.log(0.02), np.log(1.2), 12))
NU = (np.inf, 4.0)
#: Widths of effects (natural log); the first is the point at zero. Narrower slabs would call what is near zero.
WIDTHS = np.array([0.0, 0.2, 0.4, 0.8, 1.6])
#: Standard deviation of the wide prior of effects, of covariates, of people in both arms (so wide that only differences
#: within them tell), and of the log mean itself around its rough value.
WIDE, COVARIATE, PERSON, LEVEL = 2.0, 1.0, 1.5, 4.0
#: Belief in the point at zero in genes, at least, and as a share of all genes, before data are seen.
NULL_GENES, NULL_SHARE = 10.0, 0.02
#: Genes' worth of belief in the normal against heavy tails.
NORMAL_GENES = 20.0
#: Centre and width of log tau where replicates cannot tell it; genes' worth of it elsewhere.
TAU_CENTRE, TAU_WIDTH, TAU_GENES = np.log(0.2), 0.6, 5.0
#: Newton steps from the rough start, and from the neighbour on the grid.
FIRST, NEXT = 14, 5
#: Smallest precision that data are credited with.
FAINT = 1e-3


class Contrast(NamedTuple):
    """Units of two arms.

    Attributes
    ----------
    y
        Counts, ``(n_genes, n_units)``.
    exposure
        ``(n_units,)``.
    inverse_size
        ``(n_genes, n_units)``.
    design
        ``(n_units, n_columns)``: intercept first, the contrast last, covariates between.
    people
        Whose each unit is, ``(n_units, n_people)``; no columns where that is nobody's.
    replicated
        Whether units are replicates; else their spread is zero.
    told
        Whether the spread of replicates can be told from effects: more units than columns.
    """

    y: np.ndarray
    exposure: np.ndarray
    inverse_size: np.ndarray
    design: np.ndarray
    people: np.ndarray
    replicated: bool
    told: bool


class Effects(NamedTuple):
    """Posterior of the effects, natural log.

    A mixture over the grid of normals under the wide prior (``weight``, ``loc``, ``sd``: ``(n_genes, n_points)``), and
    what the learned mixture prior says: ``slab_weight``, ``slab_loc``, ``slab_sd`` ``(n_genes, n_points, n_slabs)``,
    ``null`` and ``log_odds`` of a change ``(n_genes,)``. ``tau`` is the spread at each grid point.
    """

    weight: np.ndarray
    loc: np.ndarray
    sd: np.ndarray
    slab_weight: np.ndarray
    slab_loc: np.ndarray
    slab_sd: np.ndarray
    null: np.ndarray
    log_bayes_factor: np.ndarray
    tau: np.ndarray
    learned: dict

    def mean(self) -> np.ndarray:
        """Mean under the wide prior."""
        return np.sum(self.weight * self.loc, 1)

    def std(self) -> np.ndarray:
        """Standard deviation under the wide prior."""
        return np.sqrt(np.sum(self.weight * (self.sd**2 + (self.loc - self.mean()[:, None]) ** 2), 1))

    def quantile(self, q: float) -> np.ndarray:
        """Quantile under the wide prior, by bisection."""
        z = ndtri(q)
        ends = self.loc + z * self.sd
        low, high = ends.min(1), ends.max(1)  # a mixture's quantile lies between those of its parts
        for _ in range(40):
            middle = (low + high) / 2
            below = np.sum(self.weight * ndtr((middle[:, None] - self.loc) / self.sd), 1) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2

    def above(self, threshold: float) -> np.ndarray:
        """P(effect > threshold) under the mixture prior."""
        slabs = np.sum(self.slab_weight * ndtr((self.slab_loc - threshold) / self.slab_sd), (1, 2))
        return slabs + (self.null if threshold < 0 else 0)

    def below(self, threshold: float) -> np.ndarray:
        """P(effect < threshold) under the mixture prior."""
        slabs = np.sum(self.slab_weight * ndtr((threshold - self.slab_loc) / self.slab_sd), (1, 2))
        return slabs + (self.null if threshold > 0 else 0)

    def wrong_sign(self, delta: float) -> np.ndarray:
        """P(the effect does not go beyond ``delta`` in the likelier direction), to small values without rounding."""
        not_up = np.sum(self.slab_weight * ndtr((delta - self.slab_loc) / self.slab_sd), (1, 2))
        not_down = np.sum(self.slab_weight * ndtr((self.slab_loc + delta) / self.slab_sd), (1, 2))
        return np.minimum(self.null + np.minimum(not_up, not_down), 1.0)

    def spread(self) -> np.ndarray:
        """Mean of tau."""
        return self.weight @ self.tau

    def same_sign(self) -> np.ndarray:
        """P(a new pair of replicates differs in the direction of the mean effect), under the wide prior."""
        towards = np.sign(self.mean())[:, None] * self.loc
        return np.sum(self.weight * ndtr(towards / np.sqrt(self.sd**2 + 2 * self.tau**2)), 1)


def effects(contrast: Contrast) -> Effects:
    """Posterior of all genes' effects."""
    tau, nu = (part.ravel() for part in np.meshgrid(TAU, NU)) if contrast.replicated else (np.array([1e-5]), np.inf)
    nu = np.broadcast_to(nu, tau.shape)
    loc, variance, evidence = _on_grid(contrast, tau, nu)
    precision = np.maximum(1 / variance - WIDE**-2, FAINT)  # of the likelihood alone
    likely, likely_var = loc / variance / precision, 1 / precision
    widths2 = WIDTHS**2
    log_slab = _log_normal(likely[..., None], likely_var[..., None] + widths2)
    log_slab -= _log_normal(likely, likely_var + WIDE**2)[..., None]
    joint, grid, share = _learn(evidence, log_slab, len(NU) if contrast.replicated else 1, told=contrast.told)
    slab_var = 1 / (precision[..., None] + 1 / widths2[1:])
    log_weight = evidence + np.log(grid)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    slabs = logsumexp(log_slab[..., 1:] + log_weight[..., None] + np.log(share[1:] / share[1:].sum()), axis=(1, 2))
    bayes = slabs - logsumexp(log_slab[..., 0] + log_weight, axis=1)
    by_nu = grid.reshape(-1, len(TAU)).sum(1) if contrast.replicated else np.ones(1)
    learned = {
        "null": float(share[0]),
        "slabs": share[1:].tolist(),
        "heavy_tails": float(by_nu[-1]) if len(by_nu) > 1 else 0.0,
    }
    return Effects(
        weight, loc, np.sqrt(variance), joint[..., 1:], slab_var * (likely * precision)[..., None], np.sqrt(slab_var),
        joint[..., 0].sum(1), bayes, tau, learned,
    )  # fmt: skip


def _tau_prior() -> np.ndarray:
    prior = np.exp(-0.5 * ((np.log(TAU) - TAU_CENTRE) / TAU_WIDTH) ** 2)
    return prior / prior.sum()


def _on_grid(contrast: Contrast, tau: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance of the effect, and evidence, at each point of the grid: ``(n_genes, n_points)`` each."""
    rough = np.log((contrast.y.sum(1) + 0.5) / contrast.exposure.sum())
    prior_mean = np.zeros((len(rough), contrast.design.shape[1]))
    prior_mean[:, 0] = rough
    prior_sd = np.array([LEVEL, *[COVARIATE] * (contrast.design.shape[1] - 2), WIDE])
    found = []
    with double():
        parts = (*contrast[:4], prior_mean, prior_sd, contrast.people, PERSON)
        problem = Problem(*[jnp.asarray(part, float) for part in parts])
        eta, steps = start(problem), FIRST
        for t, n in zip(tau, nu, strict=True):
            solved = solve(problem, jnp.asarray(t), jnp.asarray(n), eta, steps)
            eta, steps = solved.eta, NEXT
            found.append(
                [np.asarray(part) for part in (solved.loc[:, -1], solved.covariance[:, -1, -1], solved.evidence)]
            )
    return tuple(np.stack(part, 1) for part in zip(*found, strict=True))


def _learn(evidence: np.ndarray, log_slab: np.ndarray, n_nu: int, *, told: bool):
    """Weights of the grid and of the widths of effects, by EM over genes; and of both for each gene."""
    n_points, n_widths = log_slab.shape[1:]
    prior = _tau_prior() if n_points > 1 else np.ones(1)
    belief = np.array([NORMAL_GENES, 1.0])[:n_nu]
    null = max(NULL_GENES, NULL_SHARE * len(evidence)) * (WIDTHS == 0)
    grid = np.outer(belief / belief.sum(), prior).ravel()
    share = np.full(n_widths, 1 / n_widths)
    base = evidence[..., None] + log_slab
    base = base - base.max((1, 2), keepdims=True)
    likely = np.exp(base)
    for _ in range(400):
        weight = grid[:, None] * share
        norm = np.einsum("gts,ts->g", likely, weight)
        both = np.einsum("gts,g->ts", likely, 1 / norm) * weight
        new = both.sum(0) + null
        new /= new.sum()
        moved = np.abs(new - share).max()
        share = new
        if told and n_points > 1:
            of_points = both.sum(1).reshape(n_nu, -1)
            tails = of_points.sum(1) + belief
            within = of_points + TAU_GENES * prior
            within /= within.sum(1, keepdims=True)
            new = (tails[:, None] / tails.sum() * within).ravel()
            moved = max(moved, np.abs(new - grid).max())
            grid = new
        if moved < 1e-5:
            break
    joint = likely * (grid[:, None] * share)
    return joint / joint.sum((1, 2), keepdims=True), grid, share


def _log_normal(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * x**2 / variance - 0.5 * np.log(variance)
