"""The scale of mu and nu, which counts do not know: that of the stated total mRNA per cell."""

import jax.numpy as jnp
import numpy as np

from scbayes.models._at_posterior import log_nu
from scbayes.models._marginals import total_abundance
from scbayes.models._model import Model
from scbayes.models._new_cells import as_coordinate
from scbayes.models._posterior import Posterior


def at_total(model: Model, posterior: Posterior, priors: dict, log_mrna: float, batch: np.ndarray) -> Posterior:
    """The posterior with the expected sum of mu at the total mRNA, and nu such that all expected counts stay.

    A mixture's components have totals of their own: it is left as it is.
    """
    config = model.config
    if not config.free_scale or config.mixture:
        return posterior
    step = log_mrna - total_abundance(config, posterior).log_mean
    z = model.split(jnp.asarray(posterior.gene_loc), jnp.asarray(posterior.global_loc), jnp.zeros(0))
    z = model.rescale(z, jnp.asarray(step))
    gene_loc = np.array(posterior.gene_loc)
    gene_loc[:, : len(step)] = np.asarray(z["mu"]).T  # mu has the first columns
    glob = np.concatenate([np.asarray(z[site]) for site in config.global_sites] or [np.zeros(0)])
    loc, scale = log_nu(model, posterior, priors)
    own = step[batch] if len(step) > 1 else step[0]
    cell_loc, cell_scale = as_coordinate(model, loc - own, scale, priors)
    return posterior._replace(gene_loc=gene_loc, global_loc=glob, cell_loc=cell_loc, cell_scale=cell_scale)
