"""The factor model as a model with a latent space: a linear decoder, and Newton's method as the encoder."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.models._factor_cells import Genes, climb, deviation
from scbayes.models._factors import ALL_STEPS, AT_MODE, FactorFit
from scbayes.models._latent_config import FactorsConfig
from scbayes.models._latent_model import Inputs, LatentModel, Sizes

#: Information of a cell on a factor, in units of the prior's precision, above which the factor is in use. That of a
#: factor without use stays near 1.
ACTIVE = 2.0


class LinearDecoder(NamedTuple):
    """``z @ loadings.T + offset[batch]``: `loadings` (n_genes, n_latent) and `offset` (n_batches, n_genes)."""

    loadings: Array
    offset: Array

    def __call__(self, z: Array, extra: Array, batch: Array) -> dict[str, Array]:
        """``z`` (..., B, n_latent) to activations (..., B, n_genes)."""
        return {"scale": z @ self.loadings.T + self.offset[batch]}


class FactorModel(LatentModel):
    r"""Factors with loadings of unit length: :math:`z_k \sim N(0, s_k^2)`, the variance in z instead of the loadings.

    Distances between cells are then nearly those between their log compositions, and a factor that explains little
    counts for little. ``params["spread"]`` are the :math:`s_k`.
    """

    def prior(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and standard deviation of the prior of the factors, each ``(B, n_latent)``."""
        scale = jnp.broadcast_to(inputs.params["spread"], (inputs.cells.batch.shape[0], self.config.n_latent))
        return jnp.zeros_like(scale), scale

    def encode(self, inputs: Inputs, key: Array | None = None) -> tuple[Array, Array]:
        """Mode of each cell's posterior, and standard deviation from the precision there, each ``(B, n_latent)``."""
        cells, params = inputs.cells, inputs.params
        decoder, spread = params["decoder"], params["spread"]
        inverse = jnp.zeros(self.sizes.n_genes)
        if self.config.likelihood == "nb":
            inverse = jnp.exp(-params["log_theta"][0])
        genes = Genes(decoder.offset[cells.batch], decoder.loadings * spread, inverse)
        start = jnp.zeros((cells.batch.shape[0], self.config.n_latent))
        place = climb(cells.counts, jnp.exp(cells.log_size), genes, start, ALL_STEPS, AT_MODE)
        return place.z * spread, deviation(place) * spread


def factor_params(config: FactorsConfig, found: FactorFit) -> tuple[dict, np.ndarray, np.ndarray]:
    """Parameters, and mean and standard deviation of the cells' factors, where loadings have unit length; float32."""
    spread = np.maximum(np.linalg.norm(found.params.loadings, axis=0), 1e-8)
    decoder = LinearDecoder(_single(found.params.loadings / spread), _single(found.params.offset.T))
    params = {"decoder": decoder, "spread": _single(spread)}
    if config.likelihood == "nb":
        params["log_theta"] = _single(found.params.log_theta[None])
    return params, _single(found.loc * spread), _single(found.scale * spread)


def blank_params(config: FactorsConfig, sizes: Sizes) -> dict:
    """Parameters of the right shapes."""
    g, n = sizes.n_genes, config.n_latent
    decoder = LinearDecoder(np.zeros((g, n), np.float32), np.zeros((sizes.n_batches, g), np.float32))
    params = {"decoder": decoder, "spread": np.ones(n, np.float32)}
    return params | ({"log_theta": np.zeros((1, g), np.float32)} if config.likelihood == "nb" else {})


def _single(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, np.float32)
