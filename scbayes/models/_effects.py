r"""Effects of a contrast: what is learned over genes, and what is believed of each.

The effect :math:`\beta` of a gene has two priors:

- a wide normal: intervals come from it, so that genes that changed are covered as well as those that did not;
- a mixture of a point at zero and normals, with weights learned over all genes (Stephens 2016): P and lfsr come from
  it. Given the spread of replicates, the likelihood of :math:`\beta` is that of a normal, so all is in closed form.

The spread of replicates, and how heavy its tails are, lie on a grid whose weights are learned over all genes, and are
integrated.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtr

from scbayes.models._effect_grid import WIDE, OnGrid
from scbayes.models._effect_prior import CENTRE, KIND, NULL_WIDTH, PART, WIDTH, learn
from scbayes.stats._mixture_quantile import mixture_quantile

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


def effects(grid: OnGrid, *, told: bool, delta: float = 0.0, belief: tuple[float, float] | None = None) -> Effects:
    """Posterior of all genes' effects.

    Parameters
    ----------
    told
        Whether the weights of the grid are learned: where replicates tell their spread.
    delta
        Effects that are small beside this threshold are none.
    belief
        As :func:`scbayes.models._effect_prior.learn`.
    """
    precision = np.maximum(1 / grid.variance - WIDE**-2, FAINT)  # of the likelihood alone
    likely, variance = grid.effect / grid.variance / precision, 1 / precision
    width2 = np.where(KIND == 0, NULL_WIDTH * delta, WIDTH) ** 2
    log_part = _log_normal(likely[..., None] - CENTRE, variance[..., None] + width2)
    log_part -= _log_normal(likely, variance + WIDE**2)[..., None]
    joint, points, share = learn(grid.evidence, log_part, grid.n_nu, told=told, belief=belief)
    log_weight = grid.evidence + np.log(points)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    log_slabs = log_part[..., 1:] + np.log(share[KIND[1:]] * PART[1:] / share[1:].sum())
    bayes = logsumexp(log_slabs + log_weight[..., None], axis=(1, 2)) - logsumexp(log_part[..., 0] + log_weight, axis=1)
    slab_var = 1 / (precision[..., None] + 1 / width2[1:])
    slab_loc = slab_var * ((likely * precision)[..., None] + CENTRE[1:] / width2[1:])
    by_nu = points.reshape(grid.n_nu, -1).sum(1)
    learned = {
        "null": float(share[0]),
        "slabs": share[1:].tolist(),
        "heavy_tails": float(by_nu[-1]) if grid.n_nu > 1 else 0.0,
    }
    return Effects(grid, weight, joint[..., 1:], slab_loc, np.sqrt(slab_var), joint[..., 0], bayes, learned)


def _log_normal(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * x**2 / variance - 0.5 * np.log(variance)
