"""Expression of cells from a latent space: what ``tl.normalize_counts`` does for ``vae`` and ``factors``."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scbayes.stats._numbers import check_whole
from scbayes.tl._cell_expression import as_columns
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_numbers import check_size, numbers_by_block, positions_of, summarise
from scbayes.tl._latent_reading import LatentReading, read_latent_with_counts
from scbayes.tl._predicted_tables import MOST
from scbayes.tl._storing import store
from scbayes.tl._weighted_draws import weighted_draws

if TYPE_CHECKING:
    from anndata import AnnData

#: Weights of cells that have a name.
WEIGHTS = ("uniform", "importance")


def normalize_latent(adata: "AnnData", given: dict, chosen: "bool | list[str] | None", clock) -> "AnnData | None":
    """Compute and write; ``given`` are the arguments of ``tl.normalize_counts``, ``chosen`` its genes."""
    if chosen is None:
        msg = f"expression is None and the fit {given['key']!r} has a latent space: name genes in expression=, or True"
        raise ValueError(msg)
    n_overall, weights = given["n_samples_overall"], given["weights"]
    if n_overall is None and weights is not None:
        raise ValueError("weights are those of the cells to draw: give n_samples_overall, their number, too")
    reading = read_latent_with_counts(adata, given["key"], reference=given["reference"], layer=given["layer"])
    fit = reading.fit
    names = list(fit.genes) if chosen is True else chosen
    genes = positions_of(reading, names, adata.var_names, "expression")
    batches = reading.batch_codes(given["transform_batch"])
    rng = np.random.default_rng(as_seed(given["rng"]))
    how = {"batches": batches, "rng": rng}
    weighting = {}
    if n_overall is not None:
        drawn, weighting = _drawn(reading, n_overall, len(genes), weights, rng)
        values = {("uns", "population"): _population(drawn, genes, given["scale"], how)}
    else:
        values = _of_cells(adata, reading, genes, given, how)
    facts = weighting | {
        "genes": names,
        "scale": given["scale"] if isinstance(given["scale"], str) else float(given["scale"]),
        "interval": float(given["interval"]),
        "transform_batch": [None if code is None else fit.batches[code] for code in batches],
        "n_samples": int(given["n_samples"] if n_overall is None else n_overall),
    }
    key_added = given["key_added"] or fit.key
    return store(adata, "normalize_counts", key_added, values, fit=fit, facts=facts, clock=clock, copy=given["copy"])


def _of_cells(adata: "AnnData", reading: LatentReading, genes: np.ndarray, given: dict, how: dict) -> dict:
    """Slots of the expression of every cell."""
    interval = given["interval"] if given["expression_interval"] else None
    each, n_samples = interval is not None or given["store_samples"], given["n_samples"]
    shape = (reading.n_cells, len(genes), n_samples)
    n_layers = 1 if interval is None else 4
    check_size(n_layers * shape[0] * shape[1], "expression")
    if given["store_samples"]:
        check_size(shape[0] * shape[1], "expression", n_samples=n_samples)
    name, factor = _unit(given["scale"])
    blocks = numbers_by_block(reading, (name,), genes, n_samples=n_samples, each=each, **how)
    scaled = ((cells, {"normalized": found[name] * factor}) for cells, found in blocks)
    found = summarise(scaled, shape, interval=interval, store_samples=given["store_samples"])
    values = {}
    if "normalized_samples" in found:
        values["obsm", "normalized_samples"] = found.pop("normalized_samples")
    columns = adata.var_names.get_indexer(reading.fit.genes[genes])
    return values | {("layers", what): as_columns(value, columns, adata.n_vars) for what, value in found.items()}


def _drawn(reading: LatentReading, n: int, n_genes: int, weights, rng) -> tuple[LatentReading, dict]:
    """Random cells as ``weights`` say, and how good the weights are where they are those of importance sampling."""
    check_whole(1, n_samples_overall=n)
    if 4 * n * n_genes > MOST:
        msg = f"n_samples_overall={n} draws of {n_genes} genes take more than {MOST / 1e9:g} GB: name fewer genes"
        raise ValueError(msg)
    if not isinstance(weights, str):
        return reading.select(rng.choice(reading.n_cells, n, p=_probability(weights, reading))), {}
    if weights not in WEIGHTS:
        msg = f"weights={weights!r}: choose one of {', '.join(map(repr, WEIGHTS))}, or give a number for each cell"
        raise ValueError(msg)
    if weights == "uniform":
        return reading.select(rng.choice(reading.n_cells, n)), {}
    found = weighted_draws(reading, np.arange(reading.n_cells), n, rng=rng)
    log_weight, ess, k_hat = found.weights
    chosen = rng.choice(n, n, p=np.exp(log_weight))
    drawn, v = reading.select(found.cells[chosen]), found.v[chosen]
    drawn = drawn._replace(fit=replace(drawn.fit, loc=v, scale=np.zeros_like(v)))  # decoded where they are
    return drawn, {"ess": ess, "k_hat": k_hat if np.isfinite(k_hat) else None}


def _population(drawn: LatentReading, genes: np.ndarray, scale: float | str, how: dict) -> np.ndarray:
    """Expression of random cells, one draw of each: float32 ``(n_samples_overall, n_genes)``."""
    name, factor = _unit(scale)
    blocks = numbers_by_block(drawn, (name,), genes, n_samples=1, each=False, **how)
    return np.concatenate([found[name][0] * factor for _, found in blocks]).astype(np.float32)


def _unit(scale: float | str) -> tuple[str, float]:
    """What is decoded, and what it is multiplied by."""
    return ("native", 1.0) if scale == "library" else ("share", float(scale))


def _probability(weights, reading: LatentReading) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, float)
    if weights.shape != (reading.n_cells,):
        msg = f"weights have the shape {weights.shape}: give one number for each of the {reading.n_cells} cells"
        raise ValueError(msg)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        msg = f"the weight of cell {reading.fit.cells[bad[0]]!r} is {weights[bad[0]]:g}: weights are 0 or more"
        raise ValueError(msg)
    if not weights.any():
        raise ValueError("all weights are 0: there is no cell to draw")
    return weights / weights.sum()
