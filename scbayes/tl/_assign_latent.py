"""Cells to labels, by the classifier of a fit with a latent space: what ``tl.assign`` does there."""

from functools import lru_cache
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import BLOCK, in_blocks, read_latent
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Draws of z over which probabilities are averaged, where none are asked for.
DRAWS = 50


def assign_latent(adata: "AnnData", given: dict, clock) -> "AnnData | None":
    """Compute and write; ``given`` are the arguments of ``tl.assign``."""
    fit = read_latent(adata, given["key"], reference=given["reference"], layer=given["layer"])
    if not fit.labels:
        msg = f"the fit {given['key']!r} has no labels to assign: fit again with labels_key, or use sb.tl.latent"
        raise ValueError(msg)
    n_samples = DRAWS if given["n_samples"] is None else int(given["n_samples"])
    rng, n, n_cells = np.random.default_rng(as_seed(given["rng"])), fit.config.n_latent, len(fit.loc)
    run, total, draws = _probabilities(fit.model), np.zeros((n_cells, len(fit.labels))), []
    for _ in range(n_samples):
        z = fit.loc[:, :n] + fit.scale[:, :n] * rng.standard_normal((n_cells, n), np.float32)
        p = np.empty_like(total)
        for ids, cells in in_blocks(n_cells, BLOCK):
            found = run(Inputs(fit.params, fit.fixed, None), jnp.asarray(z[ids]), given["temperature"])
            p[cells] = np.asarray(found, float)[: cells.stop - cells.start]
        total += p / n_samples
        draws += [p] if given["keep_draws"] else []
    best = total.argmax(1)
    values = {
        ("obs", "assignment"): pd.Categorical.from_codes(best, fit.labels),
        ("obs", "confidence"): total[np.arange(n_cells), best],
        ("obsm", "probabilities"): total,
    }
    if draws:
        values["obsm", "probability_draws"] = np.stack(draws, 1)
    facts = {"components": fit.labels, "n_samples": n_samples, "temperature": float(given["temperature"])}
    facts |= {"weight_type": None, "unknown": None, "calibration": None}
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": given["copy"]}
    return store(adata, "assign", given["key_added"], values, **how)


@lru_cache(maxsize=32)
def _probabilities(model: LatentModel):
    @jax.jit
    def run(inputs: Inputs, z: jax.Array, temperature) -> jax.Array:
        return jax.nn.softmax(model.label_logits(inputs, z) / temperature)

    return run
