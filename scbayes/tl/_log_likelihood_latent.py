"""How probable the counts are under a fit with a latent space: what ``tl.log_likelihood`` does for it."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from scbayes.models._latent_scores import CELLS, divergence, importance_ratios, reconstruction
from scbayes.stats._importance import importance
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import LatentReading, read_latent_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: What can be computed, and the number of draws where none is given.
KINDS = {"marginal": 1000, "elbo": 100, "reconstruction": 100}
#: Above this Pareto k-hat, importance sampling is not to be trusted (Vehtari et al. 2024).
K_HAT = 0.7
#: Share of such cells that is said.
UNSURE = 0.05
#: Draws below which the tail of the weights has no shape.
FEWEST = 25


def log_likelihood_latent(adata: "AnnData", given: dict) -> "AnnData | None":
    """Compute, write, report; ``given`` are the arguments of ``tl.log_likelihood``."""
    from scanpy import logging as logg

    kind, n = _checked(given)
    key, seed = given["key"], as_seed(given["rng"])
    clock = logg.info(f"log likelihood of {key!r}: {kind}, {n} draws")
    reading = read_latent_with_counts(adata, key, reference=given["reference"], layer=given["layer"])
    found = latent_log_likelihood(reading, kind, n, seed)
    value = found["log_likelihood"]
    facts = {"by": "cell", "kind": kind, "n_samples": n, "seed": seed, "mean": float(value.mean())}
    said = f"mean {value.mean():.3f} nats per cell"
    if kind == "marginal":
        facts["share_unsure"] = float(np.mean(found["log_likelihood_k_hat"] > K_HAT))
        if facts["share_unsure"] > UNSURE:
            share = f"{facts['share_unsure']:.0%}"
            logg.warning(f"Pareto k-hat is above {K_HAT:g} in {share} of the cells: raise n_samples, or read with care")
        said += f"; Pareto k-hat above {K_HAT:g} in {facts['share_unsure']:.0%} of the cells"
    values = {("obs", what): column for what, column in found.items()}
    how = {"fit": reading.fit, "facts": facts, "clock": clock, "copy": given["copy"], "said": f"finished: {said}"}
    return store(adata, "log_likelihood_cell", given["key_added"] or key, values, **how)


def latent_log_likelihood(reading: LatentReading, kind: str, n: int, seed: int) -> dict[str, np.ndarray]:
    """Log likelihood of each cell and, of importance sampling, how good it is: columns by name, float64."""
    model, blocks = reading.model, []
    for i, block in enumerate(reading.blocks(CELLS)):
        of_cells, of_block = (block.inputs, block.loc, block.scale), jax.random.fold_in(jax.random.key(seed), i)
        if kind == "marginal":
            ratios = np.asarray(importance_ratios(model)(*of_cells, of_block, n))
            blocks.append(importance(block.cut(ratios.T).T))
            continue
        value = np.asarray(reconstruction(model)(*of_cells, of_block, n), float).mean(0)
        if kind == "elbo":
            value = value - np.asarray(divergence(model)(*of_cells), float)
        blocks.append((block.cut(value),))
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    return dict(zip(("log_likelihood", "log_likelihood_ess", "log_likelihood_k_hat"), columns, strict=False))


def _checked(given: dict) -> tuple[str, int]:
    """Kind and number of draws."""
    kind = "marginal" if given["kind"] is None else given["kind"]
    if kind not in KINDS:
        msg = f"kind={kind!r}: choose one of {', '.join(KINDS)}"
        raise ValueError(msg)
    n = KINDS[kind] if given["n_samples"] is None else given["n_samples"]
    if kind == "marginal" and n < FEWEST:
        msg = f"n_samples={n}: importance sampling needs at least {FEWEST} draws"
        raise ValueError(msg)
    return kind, int(n)
