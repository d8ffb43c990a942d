r"""Native counts behind the observed ones, of a model with a latent space and an ambient part.

Given the latent numbers, native counts are negative binomial or Poisson, and ambient ones Poisson. Of the non-zeros x

.. math:: \text{native} \mid x \sim \mathrm{Binomial}\Big(x, \frac{m}{m + \lambda}\Big)

where both are Poisson, or where each of the cell's counts is drawn from a mixture (binomial likelihood); with
m and :math:`\lambda` the means of native and ambient counts. Where native counts are negative binomial, the sum is
Delaporte distributed (:mod:`scbayes.stats._delaporte`). A count that is not zero is no excess zero.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.models._latent_model import LatentModel
from scbayes.stats._delaporte import ambient_part, draw_part


class Rates(NamedTuple):
    """Means of native and ambient counts, and size of native ones; None where they are Poisson. All of one shape."""

    native: np.ndarray
    ambient: np.ndarray
    size: np.ndarray | None

    def at(self, rows: np.ndarray, columns: np.ndarray) -> "Rates":
        """Some entries of matrices, float64 ``(n,)``."""
        return Rates(*[None if part is None else np.asarray(part)[rows, columns].astype(float) for part in self])

    def expected(self, x: np.ndarray) -> np.ndarray:
        """Expected native part of the counts x."""
        if self.size is None:
            return x * self._share
        return np.clip(x - ambient_part(x, self.ambient, self.native, self.size), 0, x)

    def drawn(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A draw of the native part of the counts x."""
        if self.size is None:
            return rng.binomial(x.astype(np.int64), self._share).astype(float)
        return x - draw_part(x, self.ambient, self.native, self.size, rng)

    @property
    def _share(self) -> np.ndarray:
        return self.native / np.maximum(self.native + self.ambient, 1e-300)


@lru_cache(maxsize=32)
def rates(model: LatentModel):
    """Compiled ``(inputs, v) -> Rates`` of all genes, ``(B, n_genes)``."""

    def found(inputs, v) -> Rates:
        decoded = model.decode(inputs, v)
        native = jnp.exp(decoded.log_native)
        size = None if decoded.log_theta is None else jnp.broadcast_to(jnp.exp(decoded.log_theta), native.shape)
        return Rates(native, jnp.exp(decoded.log_background), size)

    return jax.jit(found)


def rounded(x: np.ndarray, native: np.ndarray, gene: np.ndarray, kind: np.ndarray, rng: np.random.Generator):
    """Native counts made whole: of each gene, each kind of cells loses as many counts as are expected to be ambient.

    Each ambient part is rounded down or up, up where the remainder is largest; all arguments have one entry for each
    non-zero. Of all whole numbers with these sums the result is nearest to the expected ones.
    """
    ambient = x - native
    low = np.floor(ambient)
    rest = ambient - low
    stratum = kind.astype(np.int64) * (gene.max(initial=0) + 1) + gene
    _, stratum = np.unique(stratum, return_inverse=True)
    sums = np.bincount(stratum, rest)
    take = np.floor(sums + rng.random(len(sums)))
    order = np.lexsort((-rest, stratum))
    first = np.searchsorted(stratum[order], np.arange(len(sums)))
    place = np.arange(len(order)) - first[stratum[order]]
    up = np.zeros(len(x))
    up[order] = place < take[stratum[order]]
    return np.maximum(x - low - up, 0)
