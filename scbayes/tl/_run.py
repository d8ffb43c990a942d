"""One run of a fit: from counts to a posterior, new or continued."""

import hashlib
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts, Summary
from scbayes.inference import TOLERANCE, WINDOW, Progress, Training, as_optimizer, prepare, train
from scbayes.models._components import duplicates
from scbayes.models._config import ModelConfig
from scbayes.models._marginals import total_abundance
from scbayes.models._model import Inputs, Model
from scbayes.models._posterior import Posterior, moved, no_change
from scbayes.models._priors import LEARNED, check_priors, default_priors, to_json
from scbayes.models._warm_start import Start, evidence_at, warm_start
from scbayes.state import Fit, Source, read_fit, read_unfinished, split_pooled
from scbayes.tl._start_components import Components

#: Molecules of mRNA per cell where nothing else is said: a mammalian cell's order of magnitude (see docs/models.md).
TOTAL_MRNA = 2e5


class Settings(NamedTuple):
    """How to optimise; see :func:`scbayes.tl.fit`."""

    optimizer: object
    loss: object
    n_steps: int
    stable_update: bool
    progress: bool


class Run(NamedTuple):
    """What a run gave: the model, where it started, how training went, and the facts to record."""

    model: Model
    start: Start
    training: Training
    facts: dict


def start_run(
    model: Model, source: Source, priors: dict, seed: int, settings: Settings, components: Components | None = None
) -> Run:
    """Fit from the beginning; a mixture from ``components``."""
    counts = counts_of(source)
    summary = counts.summarise()
    _check_size(summary, source.where)
    mrna_mean, mrna_sd = _total_mrna(model.config, priors.get("total_mrna"), summary)
    given = check_priors(model.config, {site: prior for site, prior in priors.items() if site != "total_mrna"})
    mixed = {}
    if components is not None:
        ordered = bool(components.names)
        mixed = {"membership": components.membership, "labels": components.labels, "ordered": ordered}
    both = default_priors(model.config) | given

    def compile_ahead(outline: Start) -> None:
        inputs = _inputs(outline, summary, mrna_mean)
        prepare(
            model.program,
            model.guide,
            inputs,
            no_change(outline.posterior),
            optimizer=settings.optimizer,
            loss=settings.loss,
            stable_update=settings.stable_update,
            key=jax.random.key(seed),
        )

    log_mrna = np.log(mrna_mean)
    start = warm_start(model, counts, summary, both, set(given), log_mrna, **mixed, foreseen=compile_ahead)
    facts = {
        "layer": source.layer,
        "mask_var": source.mask_var,
        "batch_key": source.batch_key,
        "batches": source.batches,
        "n_cells": summary.n_cells,
        "n_genes": int(source.x.shape[1]),
        "n_counts": int(summary.cell_total.sum()),
        "data": _fingerprint(summary),
        "seed": seed,
        "total_mrna": {"median": float(mrna_mean), "log_sd": float(mrna_sd)},
        "priors": {site: to_json(prior) for site, prior in start.priors.items()},
        "learned": [site for site in start.priors if site in LEARNED and site not in given],
    }
    if components is not None:
        facts["components"] = _describe_components(components, start)
    return _train(model, start, summary, facts, settings)


def _describe_components(components: Components, start: Start) -> dict:
    """Names of the components, how they were found, and what is wrong with them."""
    found = np.asarray(start.posterior.responsibilities)
    names = components.names or [str(k) for k in range(found.shape[1])]
    warnings = []
    if not start.settled:
        warnings.append(f"cells had not settled in components after {start.rounds} rounds: some still moved")
    warnings += [
        f"component {names[k]!r} is empty: a smaller n_components is enough" for k in np.flatnonzero(found.sum(0) < 1)
    ]
    warnings += [
        f"components {names[i]!r} and {names[j]!r} share most of their cells: a smaller n_components is enough"
        for i, j in duplicates(found)
    ]
    return {"names": names, "settled": start.settled, "rounds": start.rounds, "warnings": warnings}


def counts_of(source: Source) -> Counts:
    """Counts as the models read them."""
    return Counts(source.x, source.batch, max(len(source.batches), 1), source.mask, source.where)


def resume_run(adata, key: str, source: Source, settings: Settings) -> Run | None:
    """Go on with an unfinished fit; None if it is done."""
    fit = read_fit(adata, key)
    arrays = read_unfinished(adata, key)
    if not arrays:
        return None
    facts, model = fit.facts, fit.model
    counts = counts_of(source)
    summary = counts.summarise()
    if _fingerprint(summary) != facts["data"]:
        msg = (
            f"the counts in {source.where} are not those that {key!r} was fitted on "
            "(or cells or genes were reordered): fit again"
        )
        raise ValueError(msg)
    n_start = len(Posterior._fields)
    posterior = Posterior(*[jnp.asarray(array) for array in arrays[:n_start]])
    progress = Progress(as_optimizer(settings.optimizer).init(no_change(posterior)), jnp.zeros((), jnp.int32))
    leaves, tree = jax.tree.flatten(progress)
    stored = arrays[n_start:]
    same = facts["optimizer"] == _optimizer_name(settings)
    if not same or [np.shape(leaf) for leaf in leaves] != [array.shape for array in stored]:
        msg = f"{key!r} was optimised with another optimizer than the one given (or with the default): pass the same"
        raise ValueError(msg)
    progress = tree.unflatten([jnp.asarray(a, leaf.dtype) for a, leaf in zip(stored, leaves, strict=True)])
    evidence = evidence_at(model, counts, summary, fit.priors, posterior, np.log(facts["total_mrna"]["median"]))
    start = Start(posterior, evidence, fit.priors)
    return _train(model, start, summary, facts, settings, progress=progress, losses=fit.losses)


def finished(run: Run, key: str, adata, source: Source) -> tuple[Fit, list[np.ndarray]]:
    """The fit that a run gave, and the arrays with which it can go on if it is not done.

    Raises
    ------
    FloatingPointError
        If the posterior is not finite.
    """
    posterior = Posterior(*[np.asarray(part) for part in moved(run.start.posterior, run.training.params)])
    if not all(np.isfinite(part).all() for part in posterior):
        msg = "the optimisation ran to values that are not finite: use a smaller step (and keep stable_update=True)"
        raise FloatingPointError(msg)
    unfinished = []
    if not run.training.converged:
        unfinished = [np.asarray(leaf) for leaf in jax.tree.leaves((run.start.posterior, run.training.progress))]
    total = total_abundance(run.model.config, posterior)
    rest = np.zeros((*posterior.gene_loc.shape[:-2], posterior.gene_loc.shape[-1], 0))
    if source.mask is not None:  # the pooled gene comes last
        posterior, rest = split_pooled(posterior)
    fit = Fit(
        key=key,
        config=run.model.config,
        priors=run.start.priors,
        posterior=posterior,
        total=total,
        links={site: _link(run.model, site, run.start.priors) for site in run.model.config.sites},
        genes=np.asarray(adata.var_names),
        cells=np.asarray(adata.obs_names),
        fitted=np.ones(adata.n_vars, bool) if source.mask is None else source.mask,
        rest=rest,
        batch=source.batch,
        losses=run.training.losses,
        facts=run.facts,
    )
    return fit, unfinished


def _train(
    model: Model, start: Start, summary: Summary, facts: dict, settings: Settings, progress=None, losses=None
) -> Run:
    inputs = _inputs(start, summary, facts["total_mrna"]["median"])
    n_latent = start.posterior.gene_loc.size + start.posterior.global_loc.size + start.posterior.cell_loc.size
    training = train(
        model.program,
        model.guide,
        inputs,
        no_change(start.posterior),
        optimizer=settings.optimizer,
        loss=settings.loss,
        n_steps=settings.n_steps,
        n_latent=n_latent,
        key=jax.random.key(facts["seed"]),
        stable_update=settings.stable_update,
        progress=progress,
        losses=losses,
        show=settings.progress,
    )
    last = training.losses[-WINDOW:]
    level = float(np.mean(last[np.isfinite(last)])) if np.isfinite(last).any() else None
    entries = summary.n_cells * summary.n_genes
    facts = facts | {
        "convergence": {
            "converged": training.converged,
            "interrupted": training.interrupted,
            "n_steps": len(training.losses),
            "n_rejected": training.n_rejected,
            "drift": training.drift if np.isfinite(training.drift) else None,
            "n_latent": int(n_latent),
            "window": WINDOW,
            "tolerance": TOLERANCE * n_latent,
            "loss": level,
            "loss_per_entry": None if level is None else level / entries,
        },
        "optimizer": _optimizer_name(settings),
        "versions": {name: version(name) for name in ("scbayes", "jax", "numpyro", "anndata")},
    }
    return Run(model, start, training, facts)


def _inputs(start: Start, summary: Summary, mrna: float) -> Inputs:
    """What program and guide are given."""
    log_mrna, batch = jnp.asarray(np.log(mrna)), jnp.asarray(summary.batch)
    return Inputs(start.evidence, start.priors, log_mrna, batch, start.posterior)


def _optimizer_name(settings: Settings) -> str:
    return "default" if settings.optimizer is None else "custom"


def _link(model: Model, site: str, priors: dict) -> str:
    return "log" if type(model.transform(site, priors)).__name__ == "ExpTransform" else "logit"


def _total_mrna(config: ModelConfig, given, summary: Summary) -> tuple[float, float]:
    """Mean and log standard deviation of the total mRNA per cell."""
    largest = float(summary.cell_total.max())
    if given is None:
        return max(TOTAL_MRNA, 2 * largest), 0.0
    if not config.capture:
        msg = f"priors names 'total_mrna', which only models with capture have, not {config.model!r}"
        raise ValueError(msg)
    if type(given).__name__ == "LogNormal" and given.batch_shape == ():
        mean, spread = float(np.exp(given.loc)), float(given.scale)
    elif isinstance(given, int | float | np.number):
        mean, spread = float(given), 0.0
    else:
        msg = f"the prior of 'total_mrna' is {given!r}; give a number of molecules or a scalar numpyro LogNormal"
        raise ValueError(msg)
    if not np.isfinite(spread):
        msg = f"the prior of 'total_mrna' has the width {spread}; it must be finite"
        raise ValueError(msg)
    if not np.isfinite(mean) or mean <= largest:
        msg = (
            f"total_mrna is {mean:g} molecules per cell, but a cell has {largest:g} counts: capture would exceed 1; "
            "give more than the largest total"
        )
        raise ValueError(msg)
    return mean, spread


def _check_size(summary: Summary, where: str) -> None:
    if summary.n_cells < 2 or summary.n_genes < 2:
        msg = (
            f"{where} has {summary.n_cells} cells and {summary.n_genes} genes to fit: a fit needs at least two of each"
        )
        raise ValueError(msg)
    if summary.cell_total.sum() == 0:
        msg = f"{where} has no counts above zero: nothing to fit, is it the right layer?"
        raise ValueError(msg)


def _fingerprint(summary: Summary) -> str:
    """Hash of totals per cell and histograms per gene, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (summary.batch, summary.cell_total, summary.row, summary.count, summary.cells):
        digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    return digest.hexdigest()
