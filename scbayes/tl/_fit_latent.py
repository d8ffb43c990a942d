"""Fit a model with a latent space: what ``tl.fit`` does for ``model="vae"`` and ``model="factors"``."""

import hashlib
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models._latent_config import LatentConfig, latent_config
from scbayes.models._latent_model import Sizes
from scbayes.models._latent_start import hidden_shares, library_moments
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
from scbayes.tl._latent_ambient import contamination_prior, soups_of
from scbayes.tl._latent_arguments import check_together
from scbayes.tl._latent_cells import LatentCells, covariates_of, label_names, latent_cells
from scbayes.tl._latent_reading import cells_of
from scbayes.tl._latent_run import Found, LatentRun
from scbayes.tl._solve_factors import solve_factors
from scbayes.tl._train_vae import train_vae

if TYPE_CHECKING:
    from anndata import AnnData


def fit_latent(adata: "AnnData", given: dict, clock) -> "AnnData | None":
    """Fit, write, report; ``given`` are the arguments of ``tl.fit``."""
    from scanpy import logging as logg

    key = given["key_added"]
    if given["resume"]:
        before = read_latent_fit(adata, key)
        stored = read_unfinished(adata, key)
        if not stored:
            logg.info(f"    {key!r} is done, {before.verdict}: nothing to resume", time=clock)
            return adata.copy() if given["copy"] else None
        run, history = _again(adata, before), before.history
    else:
        run, stored, history = _anew(adata, given), None, None
    if run.config.model == "factors":
        found = solve_factors(run, show=given["progress"])
    else:
        found = train_vae(run, stored, history, show=given["progress"])
    fit = _as_fit(run, found, key, adata)
    out = adata.copy() if given["copy"] else adata
    actual(out, stacklevel=4)
    slots = write_latent_fit(out, fit, found.unfinished)
    _report(logg, clock, fit, slots)
    if found.interrupted:
        said = "nothing is stored, since copy=True" if given["copy"] else "the fit so far is stored"
        raise KeyboardInterrupt(said + "; go on with fit(..., resume=True)" * (not given["copy"]))
    return out if given["copy"] else None


def _anew(adata: "AnnData", given: dict) -> LatentRun:
    """A run from the beginning."""
    source = find_counts(adata, given["layer"], given["mask_var"], given["batch_key"])
    config = latent_config(given["model"], dict(given["config"] or {}))
    check_together(config, given)
    columns = np.arange(adata.n_vars) if source.mask is None else np.flatnonzero(source.mask)
    covariates = (given["covariates"],) if isinstance(given["covariates"], str) else tuple(given["covariates"] or ())
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
    fixed, soup = {}, None
    if given["ambient"] is not None:
        facts["ambient"], fixed["log_ambient"], soup = soups_of(adata, given["ambient"], columns, source.batch_key)
        config = replace(config, ambient=True)
    cells = latent_cells(adata, source, columns, facts=facts, batch=source.batch, soup=soup)
    n_batches = max(len(source.batches), 1)
    sizes = Sizes(len(columns), n_batches, len(facts["labels"]), cells.covariates.shape[1])
    if config.ambient:
        fixed["contamination"], level = contamination_prior(cells, fixed["log_ambient"], given["seed"])
        facts["ambient"] |= level
    fixed["library"] = library_moments(cells.total, cells.batch, n_batches)
    return _as_run(config, sizes, cells, fixed, facts)


def _again(adata: "AnnData", before: LatentFit) -> LatentRun:
    """The run of a stored fit."""
    source = stored_source(adata, before.key)
    cells = cells_of(adata, before, source)
    fixed = {name: value for name, value in before.fixed.items() if name != "hidden"}
    run = _as_run(before.config, before.sizes, cells, fixed, before.facts)
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


def _split(config: LatentConfig, n: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], pd.Categorical]:
    """Cells that train and that validate; and the set of each cell. Factors need no validation: all cells train."""
    if config.model == "factors":
        return (np.arange(n), np.arange(0)), pd.Categorical.from_codes(np.zeros(n, int), [*SETS, "test"])
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


def _as_fit(run: LatentRun, found: Found, key: str, adata: "AnnData") -> LatentFit:
    at = found.history[found.best_epoch] if len(found.history) else np.full((2, len(COLUMNS)), np.nan)
    elbo = {name: float(v) if np.isfinite(v) else None for name, v in zip(SETS, at[:, 0] - at[:, 1], strict=True)}
    fixed = run.fixed
    if run.config.ambient:
        fixed = fixed | {"hidden": hidden_shares(found.loc[:, -1], run.cells.soup, fixed["contamination"][:, 0])}
    facts = run.facts | {
        "method": "svi",
        "active_units": found.n_active,
        "accuracy": found.accuracy,
        "convergence": {
            "converged": found.converged,
            "done": found.unfinished is None,
            "n_epochs": len(found.history),
            "best_epoch": found.best_epoch + 1,
            "n_rejected": found.n_rejected,
            "elbo": elbo,
        },
        "versions": {name: version(name) for name in ("scbayes", "jax", "numpyro", "anndata")},
    }
    columns = slice(None) if facts["mask_var"] is None else adata.var[facts["mask_var"]].to_numpy(bool)
    return LatentFit(
        key=key,
        config=run.config,
        sizes=run.sizes,
        params=found.params,
        fixed=fixed,
        genes=np.asarray(adata.var_names[columns], object),
        cells=np.asarray(adata.obs_names),
        loc=found.loc,
        scale=found.scale,
        split=run.split,
        history=found.history,
        facts=facts,
    )


def _fingerprint(cells: LatentCells) -> str:
    """Hash of the counts and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (cells.x.indptr, cells.x.indices, cells.x.data, cells.batch, cells.label, cells.soup):
        digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    return digest.hexdigest()


def _report(logg, clock, fit: LatentFit, slots: list[str]) -> None:
    how = fit.facts["convergence"]
    if not how["converged"]:
        (logg.info if how["done"] else logg.warning)(f"    {fit.key!r}: {fit.verdict}")
    if how["n_rejected"]:
        logg.warning(f"{how['n_rejected']} steps were not finite and were not taken")
    if fit.config.ambient and not fit.facts["ambient"]["identified"]:
        logg.warning(
            "the level of contamination is not identified: cells are in order, but all shares may be off together"
        )
    if fit.facts["active_units"] < min(2, fit.config.n_latent):
        logg.warning(f"{fit.facts['active_units']} of {fit.config.n_latent} latent dimensions are in use: collapsed")
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))
