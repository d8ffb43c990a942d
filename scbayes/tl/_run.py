"""One run of a fit: from counts to a posterior, new or continued."""

import hashlib
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts import ClusterCounts, Counts, Summary, cluster_of
from scbayes.inference import Progress, as_optimizer
from scbayes.models._at_posterior import evidence_at, exact
from scbayes.models._components import duplicates
from scbayes.models._config import ModelConfig
from scbayes.models._marginals import total_abundance
from scbayes.models._model import Model
from scbayes.models._posterior import Posterior, no_change
from scbayes.models._priors import LEARNED, check_priors, default_priors, to_json
from scbayes.models._warm_start import Start, warm_start
from scbayes.state import Fit, Seen, Source, name_ids, read_fit, read_unfinished, split_pooled
from scbayes.tl._methods import Data, Found, Settings, alike, approximate, compile_ahead, optimise, sample
from scbayes.tl._start_components import Components

#: Molecules of mRNA per cell where nothing else is said: a mammalian cell's order of magnitude (see docs/models.md).
TOTAL_MRNA = 2e5


class Run(NamedTuple):
    """What a run gave: the model, where it started, what was found, and the facts to record.

    ``summary`` is of all cells, ``source`` of those that are here.
    """

    model: Model
    start: Start
    found: Found
    facts: dict
    source: Source
    summary: Summary


def start_run(
    model: Model, source: Source, priors: dict, seed: int, settings: Settings, components: Components | None = None
) -> Run:
    """Fit from the beginning; a mixture from ``components``."""
    counts, summary = count(model, source)
    _check_size(summary, source.where)
    return run(model, source, Data(counts, summary), summary, priors, seed, settings, components)


def count(model: Model, source: Source) -> tuple[Counts, Summary]:
    """The counts as the models read them, and their summary."""
    counts = counts_of(source)
    return counts, counts.summarise(keep=counts.streamed and _reads_again(model))


def run(
    model: Model,
    source: Source,
    data: Data,
    summary: Summary,
    priors: dict,
    seed: int,
    settings: Settings,
    components: Components | None = None,
) -> Run:
    """Fit to ``data``; ``summary`` is of all cells."""
    mrna_mean, mrna_sd = _total_mrna(model.config, priors.get("total_mrna"), summary)
    given = check_priors(model.config, {site: prior for site, prior in priors.items() if site != "total_mrna"})
    mixed = {}
    if components is not None:
        ordered = bool(components.names)
        mixed = {"membership": components.membership, "labels": components.labels, "ordered": ordered}
    both = default_priors(model.config) | given
    data, log_mrna = alike(model, data, settings), np.log(mrna_mean)
    mixed["spread"] = settings.method != "laplace"
    if settings.method == "svi":
        mixed["foreseen"] = lambda outline: compile_ahead(model, outline, data, mrna_mean, seed, settings)
    start = warm_start(model, data.counts, data.summary, both, set(given), log_mrna, **mixed)
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
    find = {"svi": optimise, "laplace": approximate, "nuts": sample}[settings.method]
    return _run(model, start, find(model, start, data, facts, settings), facts, settings, source, summary)


def _reads_again(model: Model) -> bool:
    """Whether a fit passes over the counts more often than for their summary."""
    return model.config.mixture or not exact(model)


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
    """Counts as the models read them, on a dask cluster if that is where they are."""
    kind = Counts if cluster_of(source.x) is None else ClusterCounts
    return kind(source.x, source.batch, max(len(source.batches), 1), source.mask, source.where)


def resume_run(adata, key: str, source: Source, settings: Settings) -> Run | None:
    """Go on with an unfinished fit; None if it is done."""
    fit = read_fit(adata, key)
    facts, model = fit.facts, fit.model
    arrays = read_unfinished(adata, key)
    if not arrays:
        return None
    counts, summary = count(model, source)
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
    data, log_mrna = alike(model, Data(counts, summary), settings), np.log(facts["total_mrna"]["median"])
    start = Start(posterior, evidence_at(model, counts, data.summary, fit.priors, posterior, log_mrna), fit.priors)
    found = optimise(model, start, data, facts, settings, progress, fit.losses)
    return _run(model, start, found, facts, settings, source, summary)


def as_fit(run: Run, key: str, adata) -> Fit:
    """The fit that a run gave."""
    posterior, source = run.found.posterior, run.source
    total = total_abundance(run.model.config, posterior)
    rest = np.zeros((*posterior.gene_loc.shape[:-2], posterior.gene_loc.shape[-1], 0))
    if source.mask is not None:  # the pooled gene comes last
        posterior, rest = split_pooled(posterior)
    return Fit(
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
        losses=run.found.losses,
        facts=run.facts,
    )


def seen_by(run: Run, adata, before: Seen | None = None) -> Seen | None:
    """What to remember of the cells of a run, those ``before`` it first; None if no cells can be added."""
    if run.model.config.mixture or "ambient" in run.facts:
        return None
    fitted = np.ones(adata.n_vars, bool) if run.source.mask is None else run.source.mask
    cells = name_ids(adata.obs_names)
    if before is not None:
        cells = np.concatenate([before.cells, cells[~np.isin(cells, before.cells)]])
    nu = None
    if run.found.past is not None:
        nu = np.stack([run.found.posterior.cell_loc, run.found.posterior.cell_scale], 1)
    return Seen(name_ids(adata.var_names), cells, fitted, run.summary, run.found.past, nu)


def _run(
    model: Model, start: Start, found: Found, facts: dict, settings: Settings, source: Source, summary: Summary
) -> Run:
    versions = {name: version(name) for name in ("scbayes", "jax", "numpyro", "anndata")}
    how = {"method": settings.method, "optimizer": _optimizer_name(settings), "versions": versions}
    return Run(model, start, found, facts | found.facts | how, source, summary)


def _optimizer_name(settings: Settings) -> str:
    return "default" if settings.optimizer is None else "custom"


def _link(model: Model, site: str, priors: dict) -> str:
    if site == "gate" and model.config.beta_gate:
        return "beta"
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
