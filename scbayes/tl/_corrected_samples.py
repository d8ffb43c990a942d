"""Draws of the expression of cells of one size: the rate of their counts, without what is ambient and without gates."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.tl._latent_reading import Block, LatentReading


class CorrectedSamples(NamedTuple):
    r"""Draws of :math:`\ln w`, :math:`w_{cg} \sim \mathrm{Gamma}(\theta_g,\ \mathrm{mean} = s\,\rho_{cg})`.

    The same draw of the same cells and genes is the same whenever it is asked for; z is the same for all genes and for
    all batches that cells are taken to be of.

    Attributes
    ----------
    reading
        The fit and its cells.
    size
        Library size s.
    noise
        Draw w; else it is its mean, as it is of counts without a dispersion.
    seed
        Of all draws.
    """

    reading: LatentReading
    size: float
    noise: bool
    seed: int

    def of_block(self, block: Block, genes: np.ndarray, draw: int) -> np.ndarray:
        """Draw number ``draw`` of the cells of a block and genes by position: ``(B, len(genes))`` float32."""
        seeds = self.seed, draw, block.cells.start
        eps = np.random.default_rng([*seeds, 0]).standard_normal(block.loc.shape, np.float32)
        share, theta = _decoder(self.reading.model)(block.inputs, block.loc + block.scale * eps, jnp.asarray(genes))
        log_rate = block.cut(share) + np.float32(np.log(self.size))
        if theta is None or not self.noise:
            return log_rate
        theta = block.cut(theta)
        rng = np.random.default_rng([*seeds, 1 + int(genes[0])])
        return log_rate + log_gamma(rng, theta) - np.log(theta)

    def of_genes(self, genes: np.ndarray, draw: int, batch: int | None) -> np.ndarray:
        """A draw of all cells, genes by position: ``(len(genes), n_cells)``."""
        values = np.empty((len(genes), self.reading.n_cells), np.float32)
        for block in self.reading.blocks(batch=batch):
            values[:, block.cells] = self.of_block(block, genes, draw).T
        return values


def log_gamma(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    r"""Logs of draws of Gamma(shape, 1), float32: small shapes do not underflow.

    :math:`\ln G(a) = \ln G(a + 1) + \ln(U) / a`, and :math:`-\ln U` is exponential.
    """
    up = rng.standard_gamma(shape + np.float32(1), dtype=np.float32)
    return np.log(up) - rng.standard_exponential(shape.shape, np.float32) / shape


@lru_cache(maxsize=32)
def _decoder(model: LatentModel):
    @jax.jit
    def decode(inputs: Inputs, v: jax.Array, genes: jax.Array):
        decoded = model.decode(inputs, v)
        share = decoded.log_share[:, genes]
        if decoded.log_theta is None:
            return share, None
        theta = jnp.broadcast_to(decoded.log_theta, decoded.log_share.shape)[:, genes]
        return share, jnp.exp(theta)

    return decode
