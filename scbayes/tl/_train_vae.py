"""Train a variational autoencoder on the cells of a run."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.inference import Recipe, State, train_epochs
from scbayes.inference._epochs import first_state
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.models._latent_start import first_params, moments, native_moments
from scbayes.state._latent_fit import SETS
from scbayes.tl._latent_cells import DeviceCells
from scbayes.tl._latent_reading import encode_cells
from scbayes.tl._latent_run import Found, LatentRun

#: Variance over cells of the mean of a latent dimension above which it is in use.
ACTIVE = 0.01


class _Data(NamedTuple):
    """What compiled code is handed."""

    cells: DeviceCells
    fixed: dict


def train_vae(run: LatentRun, stored: list | None, history: np.ndarray | None, *, show: bool) -> Found:
    """Train from the beginning, or go on with what was ``stored``."""
    config, model = run.config, latent_model(run.config, run.sizes)
    found = moments(run.cells.x, np.exp(run.cells.log_size), run.cells.batch, run.sizes.n_batches)
    if config.ambient:
        found = native_moments(found, run.cells, run.fixed)
    seed = run.facts["seed"]
    params = first_params(model, found, seed)
    n_epochs = config.epochs(run.cells.n_cells)
    patience = config.patience if config.early_stopping else None
    recipe = Recipe(n_epochs, config.batch_size, config.learning_rate, config.kl_warmup, patience)
    data = _Data(run.cells.on_device(), {name: jnp.asarray(value, jnp.float32) for name, value in run.fixed.items()})
    state = None if stored is None else _state_of(stored, params, recipe, len(run.sets[0]))
    bar = _said if show else None
    how = {"seed": seed, "state": state, "history": history, "show": bar}
    trained = train_epochs(_parts(model), model.loss, params, data, run.sets, recipe, **how)
    loc, scale = encode_cells(model, trained.params, run.fixed, run.cells)
    return Found(
        params=trained.params,
        loc=loc,
        scale=scale,
        history=trained.history,
        best_epoch=trained.best_epoch,
        n_rejected=trained.n_rejected,
        n_active=int((loc[:, : config.n_latent].var(0) > ACTIVE).sum()),
        accuracy=_accuracy(model, trained.params, run, loc) if run.sizes.n_labels else None,
        converged=trained.converged,
        interrupted=trained.interrupted,
        unfinished=None if trained.done else [np.asarray(leaf) for leaf in jax.tree.leaves(trained.state)],
    )


@lru_cache(maxsize=32)
def _parts(model: LatentModel):
    """Parts of the ELBO of some cells, as the trainer calls them."""

    def parts(params, data: _Data, ids, key, training: bool):  # noqa: FBT001
        return model.parts(Inputs(params, data.fixed, data.cells.at(ids)), key, dropout=training)

    return parts


def _said(row: np.ndarray) -> str:
    elbo = row[:, 0] - row[:, 1]
    return f"ELBO {elbo[0]:.1f}" + ("" if np.isnan(elbo[1]) else f", validation {elbo[1]:.1f}")


def _state_of(stored: list, params, recipe: Recipe, n_train: int) -> State:
    """The state that was stored, in the structure that the recipe gives it."""
    leaves, tree = jax.tree.flatten(first_state(params, recipe, n_train))
    return tree.unflatten([jnp.asarray(value, leaf.dtype) for value, leaf in zip(stored, leaves, strict=True)])


def _accuracy(model: LatentModel, params, run: LatentRun, loc: np.ndarray) -> dict:
    """Share of labelled cells whose most likely label is theirs, by set."""
    logits = model.label_logits(Inputs(params, run.fixed, None), jnp.asarray(loc[:, : run.config.n_latent]))
    right = np.asarray(logits).argmax(1) == run.cells.label
    found = {}
    for name, ids in zip(SETS, run.sets, strict=True):
        known = ids[run.cells.label[ids] >= 0]
        if len(known):
            found[name] = float(right[known].mean())
    return found
