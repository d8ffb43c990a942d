"""The model of a config with a latent space, whichever it is."""

from functools import lru_cache

import jax
import jax.numpy as jnp

from scbayes.models._factor_model import FactorModel, blank_params
from scbayes.models._latent_config import LatentConfig
from scbayes.models._latent_model import LatentModel, Sizes
from scbayes.models._latent_start import Moments, first_params


@lru_cache(maxsize=32)
def latent_model(config: LatentConfig, sizes: Sizes) -> LatentModel:
    """The one model of a config and sizes: compiled code is kept per model, so equal ones must share theirs."""
    return {"vae": LatentModel, "factors": FactorModel}[config.model](config, sizes)


def params_like(config: LatentConfig, sizes: Sizes) -> dict:
    """Shapes of the parameters of a model, as a pytree."""
    model = latent_model(config, sizes)
    if isinstance(model, FactorModel):
        return blank_params(config, sizes)

    def first() -> dict:
        blank = Moments(jnp.zeros((sizes.n_batches, sizes.n_genes)), jnp.zeros(sizes.n_genes))
        return first_params(model, blank, 0)

    return jax.eval_shape(first)
