"""Where draws of parameters lie."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scbayes.models._draws import Draw
from scbayes.state import Fit, axis_of, collect_draws, write_result

if TYPE_CHECKING:
    from anndata import AnnData


def write_draws(adata: "AnnData", fit: Fit, draws: Iterable[Draw], n_samples: int) -> list[str]:
    """Write draws that a fit came with, as :func:`scbayes.tl.posterior_samples` writes others; returns the slots."""
    found = collect_draws(fit, n_samples, draws=draws)
    values, facts = draw_slots(fit, found, None), draw_facts(fit, found)
    return write_result(adata, "posterior_samples", fit.key, values, fit=fit, facts=facts)


def draw_facts(fit: Fit, found: dict[str, np.ndarray], seed: int | None = None) -> dict:
    """What is recorded of draws: their number, the seed, and what the last axis of each parameter is."""
    axes = {site: axis_of(fit, site) for site in found}
    return {"n_samples": len(next(iter(found.values()))), "rng": seed, "axes": axes}


def draw_slots(fit: Fit, found: dict[str, np.ndarray], names: list[str] | None) -> dict[tuple[str, str], np.ndarray]:
    """Draws by slot; those of genes and cells with the gene or cell first, as AnnData has them."""
    values: dict[tuple[str, str], np.ndarray] = {} if names is None else {("uns", "genes"): np.array(names)}
    for site, value in found.items():
        axis = axis_of(fit, site)
        if axis == "cell":
            values["obsm", f"samples_{site}"] = np.ascontiguousarray(np.moveaxis(value, -1, 0))
        elif axis == "global" or names is not None:
            values["uns", site] = value
        else:
            whole = np.full((len(fit.fitted), *value.shape[:-1]), np.nan)
            whole[fit.fitted] = np.moveaxis(value, -1, 0)
            values["varm", f"samples_{site}"] = whole
    return values
