"""New cells in a fit that is there: their counts are added to what it remembers, and old ones are not read again.

Where the likelihood reads cells through the summary alone, the result is that of a fit to all cells together. Where
genes have odds of their own or zeros of a second kind, and capture, old cells are seen through the sums on nodes of
their ln nu that the fit kept: their nu follow the genes together, batch by batch (see
:mod:`scbayes.models._past`).
"""

from dataclasses import replace

import numpy as np
import numpyro.distributions as dist

from scbayes.counts import Summary, merge
from scbayes.models import Model, ModelConfig
from scbayes.models._at_posterior import exact, log_nu, view
from scbayes.models._new_cells import as_coordinate
from scbayes.models._priors import from_json
from scbayes.state import Seen, Source, find_counts, name_ids, read_manifest, read_seen
from scbayes.tl._methods import Data, Settings
from scbayes.tl._run import Run, count, counts_of, run, seen_by

#: What a posterior has of cells.
CELLS = ("cell_loc", "cell_scale")
#: Cells of the fit that are here and are checked to be the same, about.
CHECKED = 1000
#: Arguments of `fit` that an update takes from the fit, and what they are where nothing is said.
SETTLED = {
    "parameterization": None,
    "unconstrained": False,
    "n_components": None,
    "init": "kmeans",
    "labels_key": None,
    "priors": None,
    "layer": None,
    "mask_var": None,
    "batch_key": None,
    "per_batch": None,
}


def update_run(adata, key: str, seed: int, settings: Settings) -> tuple[Run, Seen]:
    """Fit again with the cells of ``adata`` that ``key`` has not seen: the run, and what to remember after it."""
    from scanpy import logging as logg

    if settings.method == "nuts":
        msg = "method='nuts' draws the nu of all cells, and not all are here: fit all cells together for it"
        raise ValueError(msg)
    manifest, seen = read_manifest(adata, key), read_seen(adata, key)
    facts, config = manifest["facts"], ModelConfig.from_json(manifest["model"])
    source, genes = _source(adata, key, facts, seen)
    cells = name_ids(adata.obs_names)
    is_new = ~np.isin(cells, seen.cells)
    new, known = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    if not len(new):
        msg = f"none of the {adata.n_obs} cells of adata is new to the fit {key!r}: nothing to add"
        raise ValueError(msg)
    given = {site: from_json(prior) for site, prior in facts["priors"].items() if site not in facts["learned"]}
    own = [site for site in ("mu", "nu") if site in given]
    if own and not exact(Model.of(config)):
        msg = f"{key!r} has its own prior of {own[0]}, to whose scale old cells do not move: fit all cells together"
        raise ValueError(msg)
    _check_known(source, known[:: max(len(known) // CHECKED, 1)], cells, seen, adata, key)
    names = f", new batches {new_ones}" if (new_ones := source.batches[len(facts["batches"]) :]) else ""
    logg.info(f"    {len(new)} new cells, {len(known)} of {len(seen.cells)} earlier ones are here{names}")
    model = Model.of(replace(config, n_batches=max(len(source.batches), 1)))
    counts, summary = count(model, source.select(new))
    n_old, n_batches = len(seen.cells), model.config.n_batches
    whole = merge(seen.summary.reordered(genes, n_batches), summary)
    there = whole if exact(model) else whole.without_cells(n_old, seen.past.reordered(genes, n_batches))
    if config.capture:
        given["total_mrna"] = _stated_mrna(facts["total_mrna"], whole)
    data = Data(counts, there)
    found = run(model, source, data, whole, given, seed, settings)
    _check_converged(found, key)
    if not exact(model):
        found = _with_old_cells(found, data, seen.nu)
    found = found._replace(facts=found.facts | {"added": [*facts.get("added", []), len(new)]})
    after = seen_by(found, adata, seen)
    return _here(found, _places(cells, after.cells)), after


def check_settings(adata, key: str, given: dict) -> None:
    """Refuse arguments of ``fit`` that the fit has settled."""
    config = ModelConfig.from_json(read_manifest(adata, key)["model"])
    named = [name for name, default in SETTLED.items() if given[name] is not default and given[name] != default]
    if given["model"] not in ("nbvcp", config.model):
        named.insert(0, "model")
    if named:
        msg = f"update=True adds cells to {key!r}, with its settings ({config.model}): leave {', '.join(named)} out"
        raise ValueError(msg)


def _check_known(source: Source, some: np.ndarray, cells: np.ndarray, seen: Seen, adata, key: str) -> None:
    """Refuse cells that have the name of one that was fitted, and other counts."""
    if not len(some):
        return
    here = counts_of(source.select(some)).summarise()
    then = _places(cells[some], seen.cells)
    other = (here.cell_total != seen.summary.cell_total[then]) | (
        here.cell_detected != seen.summary.cell_detected[then]
    )
    if other.any():
        i = np.flatnonzero(other)[0]
        msg = (
            f"cell {adata.obs_names[some[i]]!r} has {here.cell_total[i]} counts, and had "
            f"{seen.summary.cell_total[then[i]]} when {key!r} was fitted: give it a name of its own if it is another"
        )
        raise ValueError(msg)


def _check_converged(found: Run, key: str) -> None:
    """Refuse what has not converged: the fit stays as it was, and can be updated again."""
    if found.found.interrupted:
        msg = f"nothing is stored, and {key!r} is as it was"
        raise KeyboardInterrupt(msg)
    how = found.found.facts["convergence"]
    if not how["converged"]:
        msg = f"not converged in {how['n_steps']} steps with the new cells, and {key!r} is as it was: raise n_steps"
        raise RuntimeError(msg)


def _source(adata, key: str, facts: dict, seen: Seen) -> tuple[Source, np.ndarray]:
    """Counts as the fit has them, and where in ``adata`` its genes are: the place of each among those fitted."""
    known = facts["batches"] if facts["batch_key"] is not None else None
    source = find_counts(adata, facts["layer"], None, facts["batch_key"], defaults=False, known=known)
    genes = name_ids(adata.var_names)
    missing = len(seen.genes) - np.isin(seen.genes, genes).sum()
    if missing or len(genes) != len(seen.genes):
        msg = (
            f"the fit {key!r} is of {len(seen.genes)} genes, and adata has {len(genes)}; {missing} of the fit's are "
            "missing: give new cells with the same genes"
        )
        raise ValueError(msg)
    mask = seen.fitted[_places(genes, seen.genes)]
    place = _places(seen.genes[seen.fitted], genes[mask])
    if mask.all():
        return source._replace(mask_var=facts["mask_var"]), place
    return source._replace(mask=mask, mask_var=facts["mask_var"]), np.append(place, len(place))  # the pooled gene


def _places(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` is ``among`` others."""
    order = np.argsort(among)
    return order[np.searchsorted(among, ids, sorter=order)]


def _stated_mrna(stated: dict, summary: Summary) -> float | dist.LogNormal:
    """As it was, unless new cells have more counts than that."""
    mean, largest = stated["median"], float(summary.cell_total.max())
    mean = mean if mean > largest else 2 * largest
    return dist.LogNormal(np.log(mean), stated["log_sd"]) if stated["log_sd"] else mean


def _with_old_cells(found: Run, data: Data, nu: np.ndarray) -> Run:
    """The run with the nu of old cells, which follow the genes, before those of new ones."""
    model, priors, posterior = found.model, found.start.priors, found.found.posterior
    log_mrna, past = np.log(found.facts["total_mrna"]["median"]), data.summary.past
    placed = view(model, data.counts, data.summary, priors, posterior, log_mrna).summary.past
    loc, scale = log_nu(model, posterior._replace(cell_loc=nu[:, 0], cell_scale=nu[:, 1]), priors)
    old = as_coordinate(model, loc + (placed.nodes - past.nodes)[past.batch, 0], scale, priors)
    both = {name: np.append(own, getattr(posterior, name)) for name, own in zip(CELLS, old, strict=True)}
    return found._replace(found=found.found._replace(posterior=posterior._replace(**both)))


def _here(found: Run, cells: np.ndarray) -> Run:
    """The run with the cells that are here."""
    posterior = found.found.posterior
    kept = {name: getattr(posterior, name)[cells] for name in CELLS if len(posterior.cell_loc)}
    return found._replace(found=found.found._replace(posterior=posterior._replace(**kept)))
