r"""Where effects are: a point at zero, and normals, with weights that are learned over genes (Stephens 2016).

Normals around zero alone would have to put effects near zero where all effects are large: there would be too few genes
without effect, and too many calls. So there are pairs on both sides of zero, too.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from scbayes.models._effect_grid import TAU
from scbayes.stats._mixture_weights import expected_members

#: Normals (natural log): centre, standard deviation, and which of them have one weight in common. The first is no
#: effect. Narrower ones around zero would call what is near zero.
CENTRE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5, -0.5, 1.2, -1.2])
WIDTH = np.array([0.0, 0.2, 0.4, 0.8, 1.6, 0.2, 0.2, 0.4, 0.4])
KIND = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6])
#: Each one's share of its kind.
PART = 1 / np.bincount(KIND)[KIND]
#: Standard deviation of what counts as no effect, as a share of the threshold: no effect is exactly zero.
NULL_WIDTH = 0.25
#: Belief in no effect in genes, at least, and as a share of all genes, before data are seen.
NULL_GENES, NULL_SHARE = 10.0, 0.05
#: Belief in a kind of effects, so that its weight is not zero.
SOME = 1e-6
#: Genes' worth of belief in the normal against heavy tails.
NORMAL_GENES = 20.0
#: Centre and width of log tau where replicates cannot tell it; genes' worth of it elsewhere.
TAU_CENTRE, TAU_WIDTH, TAU_GENES = np.log(0.2), 0.6, 5.0
#: Steps of EM at most, and the largest change of a weight in the last one.
STEPS, CLOSE = 400, 1e-5
#: Of more than MANY times EVERY genes, each EVERY-th goes most of the way, and all of them go the last steps.
MANY, EVERY, LAST_STEPS = 500, 8, 120


def tau_prior() -> np.ndarray:
    """Weights of the spreads before data are seen."""
    prior = np.exp(-0.5 * ((np.log(TAU) - TAU_CENTRE) / TAU_WIDTH) ** 2)
    return prior / prior.sum()


def typical_effect(learned: dict) -> float:
    """Mean size of the effects that are not zero, natural log, under the learned prior."""
    share = np.array([0.0, *learned["slabs"]])[KIND] * PART
    z = CENTRE / np.where(WIDTH > 0, WIDTH, 1.0)
    size = WIDTH * np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2) + CENTRE * (2 * ndtr(z) - 1)  # of a folded normal
    return float(share @ size / share.sum())


def learn(
    evidence: np.ndarray, log_part: np.ndarray, n_nu: int, *, told: bool, belief: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the grid and of the kinds of effects, by EM over genes.

    Parameters
    ----------
    evidence
        Of each point of the grid, log: ``(n_genes, n_points)``.
    log_part
        Evidence of each normal relative to that: ``(n_genes, n_points, n_parts)``.
    n_nu
        Number of kinds of tails on the grid.
    told
        Whether the weights of the grid are learned.
    belief
        Genes' worth of belief in no effect, and in each kind of effects. Default: in no effect alone.

    Returns
    -------
    Probability of each point and part for each gene ``(n_genes, n_points, n_parts)``; weights ``(n_points,)``; and
    weights of the kinds ``(n_kinds,)``.
    """
    n_genes, n_points, _ = log_part.shape
    n_kinds = KIND[-1] + 1
    tails = np.array([NORMAL_GENES, 1.0])[:n_nu]
    prior = _Prior(tails, tau_prior() if n_points > 1 else np.ones(1), *(belief or (NULL_SHARE * n_genes, SOME)))
    prior = prior if belief else prior._replace(null=max(NULL_GENES, prior.null))
    grid, share = np.outer(tails / tails.sum(), prior.tau).ravel(), np.full(n_kinds, 1 / n_kinds)
    base = evidence[..., None] + log_part
    likely = np.exp(base - base.max((1, 2), keepdims=True))
    flat, learned = likely.reshape(n_genes, -1), told and n_points > 1
    if n_genes > MANY * EVERY:  # most of the way with some of the genes
        few = prior._replace(null=prior.null / EVERY)
        grid, share = _maximised(flat[::EVERY], grid, share, few, STEPS, learned=learned)
    steps = STEPS if n_genes <= MANY * EVERY else LAST_STEPS
    grid, share = _maximised(flat, grid, share, prior, steps, learned=learned)
    joint = likely * (grid[:, None] * (share[KIND] * PART))
    return joint / joint.sum((1, 2), keepdims=True), grid, share


class _Prior(NamedTuple):
    """Genes' worth of belief in the kinds of tails and of effects, and the distribution of spreads."""

    tails: np.ndarray
    tau: np.ndarray
    null: float
    others: float


def _maximised(flat: np.ndarray, grid: np.ndarray, share: np.ndarray, prior: _Prior, n_steps: int, *, learned: bool):
    """Weights of the grid, if these are ``learned``, and of the kinds, after EM from those given."""
    believed = np.array([prior.null, *[prior.others] * (len(share) - 1)])
    flat, found = np.ascontiguousarray(flat), np.empty(flat.shape[1])
    for _ in range(n_steps):
        expected_members(flat, (grid[:, None] * (share[KIND] * PART)).ravel(), found)
        both = found.reshape(len(grid), -1)
        new = np.bincount(KIND, both.sum(0)) + believed
        new /= new.sum()
        moved = np.abs(new - share).max()
        share = new
        if learned:
            of_points = both.sum(1).reshape(len(prior.tails), -1)
            tails = of_points.sum(1) + prior.tails
            within = of_points + TAU_GENES * prior.tau
            within /= within.sum(1, keepdims=True)
            new = (tails[:, None] / tails.sum() * within).ravel()
            moved = max(moved, np.abs(new - grid).max())
            grid = new
        if moved < CLOSE:
            break
    return grid, share
