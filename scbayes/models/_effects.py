r"""Effects of a contrast: what is learned over genes, and what is believed of each.

The effect :math:`\beta` of a gene has two priors:

- a wide normal: intervals come from it, so that genes that changed are covered as well as those that did not;
- a mixture of a point at zero and normals, with weights learned over all genes (Stephens 2016): P and lfsr come from
  it. Given the spread of replicates, the likelihood of :math:`\beta` is that of a normal, so all is in closed form.

The spread of replicates, and how heavy its tails are, lie on a grid whose weights are learned over all genes, and are
integrated.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr

from scbayes.models._effect_grid import WIDE, OnGrid
from scbayes.models._effect_prior import CENTRE, KIND, NULL_WIDTH, PART, WIDTH, learn
from scbayes.models._two_priors import TwoPriors

#: Smallest precision that data are credited with.
FAINT = 1e-3


@dataclass(frozen=True)
class Effects(TwoPriors):
    """Posterior of the effects over the ``grid``.

    ``null_weight`` ``(n_genes, n_points)``: P(no effect) at each point; ``learned``: plain values.
    """

    grid: OnGrid
    null_weight: np.ndarray
    log_bayes_factor: np.ndarray
    learned: dict

    def spread(self) -> np.ndarray:
        """Mean of tau."""
        return self.weight @ self.grid.tau

    def same_sign(self) -> np.ndarray:
        """P(a new pair of replicates differs in the direction of the mean effect), under the wide prior."""
        towards = np.sign(self.mean())[:, None] * self.loc
        return np.sum(self.weight * ndtr(towards / np.sqrt(self.grid.variance + 2 * self.grid.tau**2)), 1)

    def draw(self, n: int, genes: slice, rng: np.random.Generator, *, wide: bool) -> tuple[np.ndarray, np.ndarray]:
        """``n`` draws of effect and level of some genes, ``(n, n_genes)`` each, under one of the two priors."""
        grid = OnGrid(*[part[genes] for part in self.grid[:6]], *self.grid[6:])
        parts = (
            [part[genes][:, :, None] for part in (self.weight, self.loc, self.sd)]
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
    slabs = joint[..., 1:], slab_loc, np.sqrt(slab_var)
    null = joint[..., 0]
    return Effects(weight, grid.effect, np.sqrt(grid.variance), *slabs, null.sum(1), grid, null, bayes, learned)


def _log_normal(x: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * x**2 / variance - 0.5 * np.log(variance)
