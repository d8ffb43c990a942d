r"""Effects of a contrast: what is learned over genes, and what is believed of each.

The effect :math:`\beta` of a gene has two priors:

- a wide normal: intervals come from it, so that genes that changed are covered as well as those that did not;
- a mixture of a point at zero and normals of several widths, with weights learned over all genes (Stephens 2016): P and
  lfsr come from it. Given the spread of replicates, the likelihood of :math:`\beta` is that of a normal, so all is in
  closed form.

The spread of replicates, and how heavy its tails are, lie on a grid whose weights are learned over all genes, and are
integrated.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtr

from scbayes.models._effect_grid import NU, TAU, WIDE, OnGrid
from scbayes.stats._mixture_quantile import mixture_quantile

#: Widths of effects (natural log); the first is the point at zero. Narrower slabs would call what is near zero.
WIDTHS = np.array([0.0, 0.2, 0.4, 0.8, 1.6])
#: Belief in the point at zero in genes, at least, and as a share of all genes, before data are seen.
NULL_GENES, NULL_SHARE = 10.0, 0.02
#: Genes' worth of belief in the normal against heavy tails.
NORMAL_GENES = 20.0
#: Centre and width of log tau where replicates cannot tell it; genes' worth of it elsewhere.
TAU_CENTRE, TAU_WIDTH, TAU_GENES = np.log(0.2), 0.6, 5.0
#: Smallest precision that data are credited with.
FAINT = 1e-3


class Effects(NamedTuple):
    """Posterior of the effects, natural log.

    Under the wide prior a mixture of normals over the ``grid``, with ``weight``; under the learned prior
    ``slab_weight``, ``slab_loc``, ``slab_sd`` ``(n_genes, n_points, n_slabs)`` and ``null_weight`` ``(n_genes,
    n_points)``. ``learned``: plain values.
    """

    grid: OnGrid
    weight: np.ndarray
    slab_weight: np.ndarray
    slab_loc: np.ndarray
    slab_sd: np.ndarray
    null_weight: np.ndarray
    log_bayes_factor: np.ndarray
    learned: dict

    @property
    def null(self) -> np.ndarray:
        """P(no effect)."""
        return self.null_weight.sum(1)

    def mean(self) -> np.ndarray:
        """Mean under the wide prior."""
        return np.sum(self.weight * self.grid.effect, 1)

    def std(self) -> np.ndarray:
        """Standard deviation under the wide prior."""
        away = self.grid.effect - self.mean()[:, None]
        return np.sqrt(np.sum(self.weight * (self.grid.variance + away**2), 1))

    def quantile(self, q: float) -> np.ndarray:
        """Quantile under the wide prior."""
        return mixture_quantile(q, self.weight, self.grid.effect, np.sqrt(self.grid.variance))

    def positive(self) -> np.ndarray:
        """P(effect > 0) under the wide prior."""
        return np.sum(self.weight * ndtr(self.grid.effect / np.sqrt(self.grid.variance)), 1)

    def negative(self) -> np.ndarray:
        """P(effect < 0) under the wide prior, to small values without rounding."""
        return np.sum(self.weight * ndtr(-self.grid.effect / np.sqrt(self.grid.variance)), 1)

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
        return self.weight @ self.grid.tau

    def same_sign(self) -> np.ndarray:
        """P(a new pair of replicates differs in the direction of the mean effect), under the wide prior."""
        towards = np.sign(self.mean())[:, None] * self.grid.effect
        return np.sum(self.weight * ndtr(towards / np.sqrt(self.grid.variance + 2 * self.grid.tau**2)), 1)

    def draw(self, n: int, genes: slice, rng: np.random.Generator, *, wide: bool) -> tuple[np.ndarray, np.ndarray]:
        """``n`` draws of effect and level of some genes, ``(n, n_genes)`` each, under one of the two priors."""
        grid = OnGrid(*[part[genes] for part in self.grid[:6]], *self.grid[6:])
        parts = (
            (self.weight[genes][:, :, None], grid.effect[:, :, None], np.sqrt(grid.variance)[:, :, None])
            if wide
            else [
                np.concatenate([null[genes][:, :, None], slab[genes]], 2)
                for null, slab in (
                    (self.null_weight, self.slab_weight),
                    (np.zeros_like(self.null_weight), self.slab_loc),
                    (np.zeros_like(self.null_weight), self.slab_sd),
                )
            ]
        )
        weight, loc, sd = (part.reshape(len(part), -1) for part in parts)
        of_all = np.cumsum(weight, 1)
        uniform = rng.random((n, len(weight))) * of_all[:, -1]
        chosen = np.stack([np.searchsorted(of_one, u) for of_one, u in zip(of_all, uniform.T, strict=True)], 1)
        gene = np.arange(len(weight))
        effect = loc[gene, chosen] + sd[gene, chosen] * rng.standard_normal(chosen.shape)
        point = chosen // parts[0].shape[2]
        effect_loc, variance, level, level_variance, covariance = (part[gene, point] for part in grid[:5])
        slope = covariance / variance
        rest = np.sqrt(np.maximum(level_variance - slope * covariance, 0))
        return effect, level + slope * (effect - effect_loc) + rest * rng.standard_normal(chosen.shape)


def effects(grid: OnGrid, *, told: bool) -> Effects:
    """Posterior of all genes' effects; ``told``: whether replicates tell their spread."""
    precision = np.maximum(1 / grid.variance - WIDE**-2, FAINT)  # of the likelihood alone
    likely, likely_var = grid.effect / grid.variance / precision, 1 / precision
    widths2 = WIDTHS**2
    log_slab = _log_normal(likely[..., None], likely_var[..., None] + widths2)
    log_slab -= _log_normal(likely, likely_var + WIDE**2)[..., None]
    joint, points, share = _learn(grid.evidence, log_slab, grid.n_nu, told=told)
    slab_var = 1 / (precision[..., None] + 1 / widths2[1:])
    log_weight = grid.evidence + np.log(points)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    slabs = logsumexp(log_slab[..., 1:] + log_weight[..., None] + np.log(share[1:] / share[1:].sum()), axis=(1, 2))
    bayes = slabs - logsumexp(log_slab[..., 0] + log_weight, axis=1)
    by_nu = points.reshape(grid.n_nu, -1).sum(1)
    learned = {
        "null": float(share[0]),
        "slabs": share[1:].tolist(),
        "heavy_tails": float(by_nu[-1]) if grid.n_nu > 1 else 0.0,
    }
    slab_loc = slab_var * (likely * precision)[..., None]
    return Effects(grid, weight, joint[..., 1:], slab_loc, np.sqrt(slab_var), joint[..., 0], bayes, learned)


def typical_effect(learned: dict) -> float:
    """Mean size of the effects that are not zero, natural log, under the learned prior."""
    share = np.array(learned["slabs"])
    return float(np.sqrt(2 / np.pi) * share @ WIDTHS[1:] / share.sum())


def _tau_prior() -> np.ndarray:
    prior = np.exp(-0.5 * ((np.log(TAU) - TAU_CENTRE) / TAU_WIDTH) ** 2)
    return prior / prior.sum()


def _learn(evidence: np.ndarray, log_slab: np.ndarray, n_nu: int, *, told: bool):
    """Weights of the grid and of the widths of effects, by EM over genes; and of both for each gene."""
    n_genes, n_points, n_widths = log_slab.shape
    prior = _tau_prior() if n_points > 1 else np.ones(1)
    belief = np.array([NORMAL_GENES, 1.0])[: len(NU[:n_nu])]
    null = max(NULL_GENES, NULL_SHARE * n_genes) * (WIDTHS == 0)
    grid = np.outer(belief / belief.sum(), prior).ravel()
    share = np.full(n_widths, 1 / n_widths)
    base = evidence[..., None] + log_slab
    likely = np.exp(base - base.max((1, 2), keepdims=True))
    flat = likely.reshape(n_genes, -1)
    for _ in range(400):
        weight = grid[:, None] * share
        both = ((1 / (flat @ weight.ravel())) @ flat).reshape(weight.shape) * weight
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
