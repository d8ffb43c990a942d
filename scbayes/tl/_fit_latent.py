"""Fit a model with a latent space: what ``tl.fit`` does for ``model="vae"`` and ``model="factors"``."""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from scbayes.inference import Recipe, State, Trained, train_epochs
from scbayes.inference._epochs import first_state
from scbayes.models._latent_config import VAEConfig, latent_config
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_model import Inputs, LatentModel, Sizes
from scbayes.models._latent_start import first_params, library_moments, moments
from scbayes.state import (
    LatentFit,
    actual,
    find_counts,
    read_latent_fit,
    read_unfinished,
    stored_source,
    write_latent_fit,
)
from scbayes.state._latent_fit import COLUMNS, SETS
from scbayes.tl._latent_arguments import check_together
from scbayes.tl._latent_cells import DeviceCells, LatentCells, covariates_of, label_names, latent_cells
from scbayes.tl._latent_reading import cells_of, encode_cells

if TYPE_CHECKING:
    from anndata import AnnData

#: Variance over cells of the mean of a latent dimension above which it is in use.
ACTIVE = 0.01


class _Data(NamedTuple):
    """What compiled code is handed."""

    cells: DeviceCells
    fixed: dict


class LatentRun(NamedTuple):
    """Settings of a run, and what it is of."""

    config: object
    sizes: Sizes
    cells: LatentCells
    fixed: dict
    facts: dict
    sets: tuple[np.ndarray, np.ndarray]
    split: pd.Categorical


def fit_latent(adata: "AnnData", given: dict, clock) -> "AnnData | None":
    """Fit, write, report; ``given`` are the arguments of ``tl.fit``."""
    from scanpy import logging as logg

    key = given["key_added"]
    if given["resume"]:
        before = read_latent_fit(adata, key)
        stored = read_unfinished(adata, key)
        if not stored:
            logg.info(f"    {key!r} had converged: nothing to resume", time=clock)
            return adata.copy() if given["copy"] else None
        run, history = _again(adata, before), before.history
    else:
        run, stored, history = _anew(adata, given), None, None
    trained = _train(run, stored, history, show=given["progress"])
    fit = _as_fit(run, trained, key, adata)
    out = adata.copy() if given["copy"] else adata
    actual(out, stacklevel=4)
    unfinished = None if trained.converged else [np.asarray(leaf) for leaf in jax.tree.leaves(trained.state)]
    slots = write_latent_fit(out, fit, unfinished)
    _report(logg, clock, fit, slots)
    if trained.interrupted:
        said = "nothing is stored, since copy=True" if given["copy"] else "the fit so far is stored"
        raise KeyboardInterrupt(said + "; go on with fit(..., resume=True)" * (not given["copy"]))
    return out if given["copy"] else None


def _anew(adata: "AnnData", given: dict) -> LatentRun:
    """A run from the beginning."""
    source = find_counts(adata, given["layer"], given["mask_var"], given["batch_key"])
    config = latent_config(given["model"], dict(given["config"] or {}))
    check_together(config, given)
    columns = np.arange(adata.n_vars) if source.mask is None else np.flatnonzero(source.mask)
    covariates = (given["covariates"],) if isinstance(given["covariates"], str) else tuple(given["covariates"])
    facts = {
        "layer": source.layer,
        "mask_var": source.mask_var,
        "batch_key": source.batch_key,
        "batches": source.batches,
        "covariates": covariates_of(adata, covariates),
        "labels_key": given["labels_key"],
        "labels": [] if given["labels_key"] is None else label_names(adata, given["labels_key"]),
        "size_factor_key": given["size_factor_key"],
        "ambient": None,
        "seed": given["seed"],
    }
    cells = latent_cells(adata, source, columns, facts=facts, batch=source.batch)
    n_batches = max(len(source.batches), 1)
    sizes = Sizes(len(columns), n_batches, len(facts["labels"]), cells.covariates.shape[1])
    fixed = {"library": library_moments(cells.total, cells.batch, n_batches)}
    return _as_run(config, sizes, cells, fixed, facts)


def _again(adata: "AnnData", before: LatentFit) -> LatentRun:
    """The run of a stored fit."""
    source = stored_source(adata, before.key)
    cells = cells_of(adata, before, source)
    run = _as_run(before.config, before.sizes, cells, before.fixed, before.facts)
    if run.facts["data"] != before.facts["data"]:
        msg = f"the counts in {source.where} are not those that {before.key!r} was fitted on: fit again"
        raise ValueError(msg)
    return run


def _as_run(config, sizes: Sizes, cells: LatentCells, fixed: dict, facts: dict) -> LatentRun:
    if cells.n_cells < 3 or sizes.n_genes < 2:
        msg = f"{cells.n_cells} cells and {sizes.n_genes} genes: a latent space needs at least three cells, two genes"
        raise ValueError(msg)
    sets, split = _split(config, cells.n_cells, facts["seed"])
    facts = facts | {
        "n_cells": cells.n_cells,
        "n_genes": sizes.n_genes,
        "n_counts": int(cells.total.sum(dtype=np.float64)),
        "data": _fingerprint(cells),
    }
    return LatentRun(config, sizes, cells, fixed, facts, sets, split)


# --- training ---------------------------------------------------------------------------------------------------------


def _train(run: LatentRun, stored: list | None, history, *, show: bool) -> Trained:
    config, model = run.config, latent_model(run.config, run.sizes)
    found = moments(run.cells.x, np.exp(run.cells.log_size), run.cells.batch, run.sizes.n_batches)
    seed = run.facts["seed"]
    params = first_params(model, found, seed)
    n_epochs = config.epochs(run.cells.n_cells)
    patience = config.patience if config.early_stopping else None
    recipe = Recipe(n_epochs, config.batch_size, config.learning_rate, config.kl_warmup, patience)
    data = _Data(run.cells.on_device(), {name: jnp.asarray(value, jnp.float32) for name, value in run.fixed.items()})
    state = None if stored is None else _state_of(stored, params, recipe, len(run.sets[0]))
    bar = _said if show else None
    how = {"seed": seed, "state": state, "history": history, "show": bar}
    return train_epochs(_parts(model), model.loss, params, data, run.sets, recipe, **how)


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


def _split(config: VAEConfig, n: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], pd.Categorical]:
    """Cells that train and that validate; and the set of each cell."""
    train, validate = config.train_size, config.validation_size
    train = 1 - validate if train is None else train
    validate = 1 - train if validate is None else validate
    n_train = max(int(np.ceil(train * n)), 1)
    n_validate = min(int(np.floor(validate * n + 1e-9)), n - n_train)
    order = np.random.default_rng([seed, 2**20]).permutation(n) if config.shuffle_set_split else np.arange(n)
    code = np.full(n, 2)
    code[order[:n_train]], code[order[n_train : n_train + n_validate]] = 0, 1
    sets = np.flatnonzero(code == 0), np.flatnonzero(code == 1)
    return sets, pd.Categorical.from_codes(code, [*SETS, "test"])


def _as_fit(run: LatentRun, trained: Trained, key: str, adata: "AnnData") -> LatentFit:
    model = latent_model(run.config, run.sizes)
    loc, scale = encode_cells(model, trained.params, run.fixed, run.cells)
    n = run.config.n_latent
    elbo = trained.history[trained.best_epoch] if len(trained.history) else np.full((2, len(COLUMNS)), np.nan)
    values = {name: float(v) if np.isfinite(v) else None for name, v in zip(SETS, elbo[:, 0] - elbo[:, 1], strict=True)}
    facts = run.facts | {
        "method": "svi",
        "active_units": int((loc[:, :n].var(0) > ACTIVE).sum()),
        "accuracy": _accuracy(model, trained.params, run, loc) if run.facts["labels"] else None,
        "convergence": {
            "converged": trained.converged,
            "n_epochs": len(trained.history),
            "best_epoch": trained.best_epoch + 1,
            "n_rejected": trained.n_rejected,
            "elbo": values,
        },
        "versions": {name: version(name) for name in ("scbayes", "jax", "numpyro", "anndata")},
    }
    columns = np.arange(adata.n_vars) if facts["mask_var"] is None else adata.var[facts["mask_var"]].to_numpy(bool)
    return LatentFit(
        key=key,
        config=run.config,
        sizes=run.sizes,
        params=trained.params,
        fixed=run.fixed,
        genes=np.asarray(adata.var_names[columns], object),
        cells=np.asarray(adata.obs_names),
        loc=loc,
        scale=scale,
        split=run.split,
        history=trained.history,
        facts=facts,
    )


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


def _fingerprint(cells: LatentCells) -> str:
    """Hash of the counts and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (cells.x.indptr, cells.x.indices, cells.x.data, cells.batch, cells.label):
        digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    return digest.hexdigest()


def _report(logg, clock, fit: LatentFit, slots: list[str]) -> None:
    how = fit.facts["convergence"]
    if not how["converged"]:
        logg.warning(f"the fit {fit.key!r} has not ended: go on with sb.tl.fit(adata, resume=True)")
    if how["n_rejected"]:
        logg.warning(f"{how['n_rejected']} steps were not finite and were not taken")
    if fit.facts["active_units"] < min(2, fit.config.n_latent):
        logg.warning(f"{fit.facts['active_units']} of {fit.config.n_latent} latent dimensions are in use: collapsed")
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))
