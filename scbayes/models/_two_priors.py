"""Effects under two priors: a wide one, for intervals, and a learned one with a point at zero, for probabilities."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from scbayes.stats._mixture_quantile import mixture_quantile


@dataclass(frozen=True)
class TwoPriors:
    """Posterior of n effects, natural log: mixtures of normals over T points.

    Attributes
    ----------
    weight, loc, sd
        Under the wide prior, ``(n, T)``.
    slab_weight, slab_loc, slab_sd
        Under the learned prior, of effects that are not zero: ``(n, T, n_slabs)``.
    null
        P(no effect) under the learned prior, ``(n,)``.
    """

    weight: np.ndarray
    loc: np.ndarray
    sd: np.ndarray
    slab_weight: np.ndarray
    slab_loc: np.ndarray
    slab_sd: np.ndarray
    null: np.ndarray

    def mean(self) -> np.ndarray:
        """Under the wide prior."""
        return np.sum(self.weight * self.loc, 1)

    def std(self) -> np.ndarray:
        """Under the wide prior."""
        return np.sqrt(np.sum(self.weight * (self.sd**2 + (self.loc - self.mean()[:, None]) ** 2), 1))

    def quantile(self, q: float) -> np.ndarray:
        """Under the wide prior."""
        return mixture_quantile(q, self.weight, self.loc, self.sd)

    def positive(self) -> np.ndarray:
        """P(effect > 0) under the wide prior."""
        return np.sum(self.weight * ndtr(self.loc / self.sd), 1)

    def negative(self) -> np.ndarray:
        """P(effect < 0) under the wide prior, to small values without rounding."""
        return np.sum(self.weight * ndtr(-self.loc / self.sd), 1)

    def above(self, threshold: float) -> np.ndarray:
        """P(effect > threshold), a number of at least 0, under the learned prior."""
        return np.sum(self.slab_weight * ndtr((self.slab_loc - threshold) / self.slab_sd), (1, 2))

    def below(self, threshold: float) -> np.ndarray:
        """P(effect < -threshold) under the learned prior."""
        return np.sum(self.slab_weight * ndtr(-(self.slab_loc + threshold) / self.slab_sd), (1, 2))

    def wrong_sign(self, delta: float) -> np.ndarray:
        """P(the effect does not go beyond ``delta`` in the likelier direction), to small values without rounding."""
        not_up = np.sum(self.slab_weight * ndtr((delta - self.slab_loc) / self.slab_sd), (1, 2))
        not_down = np.sum(self.slab_weight * ndtr((self.slab_loc + delta) / self.slab_sd), (1, 2))
        return np.minimum(self.null + np.minimum(not_up, not_down), 1.0)
