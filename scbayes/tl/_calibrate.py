"""Whether intervals of a fit hold what they should, at the design and depth of its data."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import Fit, read_fit
from scbayes.stats._coverage import pooled_share
from scbayes.stats._numbers import check_whole
from scbayes.tl._refits import Hits, choose, refit_drawn
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Thirds of genes or cells by their counts.
BINS = ("low", "middle", "high")
#: Edges of bins of the probability of a cell's component.
CALLS = np.linspace(0, 1, 11)
COLUMNS = ["parameter", "bin", "level", "coverage", "low", "high", "n", "mean_count"]


def calibrate(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_simulations: int = 20,
    max_cells: int | None = 2000,
    max_genes: int | None = 2000,
    levels: Sequence[float] = (0.5, 0.9, 0.95),
    n_steps: int = 2000,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Coverage of a fit's intervals where the model is true, at the design and depth of its data.

    Each simulation draws all parameters from the posterior, counts of the same cells and genes from the parameters
    (each cell's component from the weights), and fits the same model anew: priors that were learned are learned
    anew, those that were given are given. The share of central intervals that hold the parameters drawn is to be the
    nominal one. What it cannot show is how far the data are from the model: see :func:`scbayes.tl.predict`.

    Only parameters that counts identify are compared (see the models page). Of the capture probabilities with a prior
    on the log scale that is :math:`\ln\nu_c` less its mean over the cells of the same batch and component,
    ``relative nu``. Refits of mixtures start from the components drawn, and their components are matched with these by
    the cells they share: whether another start had found others is not in the table.

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit.
    n_simulations
        Data sets to simulate and to fit. Intervals of one data set share their errors: the error of a coverage
        depends on this number more than on that of genes.
    max_cells
        Cells in a simulation, at most: a random part, in proportion from all batches. Fewer cells mean wider
        intervals. None: all.
    max_genes
        Genes with parameters of their own, at most: a random part; the others are simulated and pooled into one, as
        `mask_var` does in :func:`scbayes.tl.fit`. None: all that were fitted.
    levels
        Probabilities of the intervals.
    n_steps
        As in :func:`scbayes.tl.fit`.
    rng
        Seed or generator.
    key_added
        Prefix of what is written; by default that of the fit.
    progress
        Show a progress bar.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added + "_calibrate"]["table"]` : DataFrame
        A row per `parameter`, `bin` (``"all"``, and thirds of genes or cells by their counts: ``"low"``,
        ``"middle"``, ``"high"``) and `level`: `coverage`, with a 95% interval from `low` to `high` that takes
        simulations as the independent units; `n`, the number of intervals; `mean_count`, mean count per cell of the
        genes, or total of the cells. For mixtures also parameter ``assignment``: of cells whose most probable
        component has about the probability `level`, the share that belongs to it.

    Raises
    ------
    KeyError
        If there is no such fit.
    ValueError
        If genes that were fitted are missing from `adata`, or an argument cannot be used.

    See Also
    --------
    scbayes.get.calibration, scbayes.pl.calibration

    References
    ----------
    Cook, Gelman, Rubin (2006), Validation of software for Bayesian models using posterior quantiles. J Comput Graph
    Stat. Talts, Betancourt, Simpson, Vehtari, Gelman (2018), Validating Bayesian inference algorithms with
    simulation-based calibration.
    """
    from scanpy import logging as logg
    from scanpy import settings
    from tqdm.auto import tqdm

    fit = read_fit(adata, key)
    levels = _check(fit, n_simulations, levels, {"max_cells": max_cells, "max_genes": max_genes})
    generator = np.random.default_rng(rng)
    design = choose(fit, max_cells, max_genes, generator)
    clock = logg.info(f"calibrating {key!r} by {n_simulations} refits of simulated counts")
    draws = tqdm(fit.draws(n_simulations, generator), "simulations", n_simulations, disable=not progress)
    with settings.verbosity.override(0):  # the log of each refit is not this function's
        found = [refit_drawn(fit, draw, design, n_steps, generator) for draw in draws]
    n_converged = sum(hits.converged for hits in found)
    if n_converged < n_simulations:
        logg.warning(f"{n_simulations - n_converged} of {n_simulations} refits have not converged: raise n_steps")
    table = pd.DataFrame([*_coverage(found, levels), *_right_calls(found)], columns=COLUMNS)
    facts = {
        "n_simulations": n_simulations,
        "n_converged": n_converged,
        "n_cells": len(design.cells),
        "n_genes": len(design.genes),
        "of_cells": len(fit.cells),
        "of_genes": int(fit.fitted.sum()),
    }
    values = {("uns", "table"): table}
    return store(adata, "calibrate", key_added or key, values, fit=fit, facts=facts, clock=clock, copy=copy)


def _check(fit: Fit, n_simulations: int, levels: Sequence[float], most: dict) -> list[float]:
    if not fit.whole:
        msg = f"genes that {fit.key!r} was fitted on are missing here: calibrate on adata with all of them"
        raise ValueError(msg)
    check_whole(2, n_simulations=n_simulations)
    check_whole(2, or_none=True, **most)
    levels = sorted({float(level) for level in np.ravel(levels)})
    if not levels or not 0 < levels[0] <= levels[-1] < 1:
        msg = f"levels={levels!r}: give probabilities between 0 and 1"
        raise ValueError(msg)
    return levels


def _coverage(found: list[Hits], levels: list[float]) -> list[list]:
    """Rows of the table: coverage by parameter, bin and level."""
    rows = []
    for name, axis in found[0].axis.items():
        for bin in ["all", *(() if axis == "global" else BINS)]:
            parts = [_in_bin(hits, name, axis, bin) for hits in found]
            sizes = np.array([len(place) for place, _ in parts])
            if not sizes.any():
                continue
            mean = float(np.concatenate([count for _, count in parts]).mean())
            for level in levels:
                hits = np.array([np.sum(np.abs(place - 0.5) < level / 2) for place, _ in parts])
                rows.append([name, bin, level, *pooled_share(hits, sizes), int(sizes.sum()), mean])
    return rows


def _in_bin(hits: Hits, name: str, axis: str, bin: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of the true values of a bin that have one, and the counts of their genes or cells."""
    place = hits.place[name]
    if axis == "global":
        return place.ravel(), np.full(place.size, np.nan)
    count = hits.counts[axis]
    third = np.argsort(np.argsort(count, kind="stable")) * len(BINS) // len(count)
    chosen = np.isfinite(place) & (bin == "all" or third == BINS.index(bin))
    return place[chosen], np.broadcast_to(count, place.shape)[chosen]


def _right_calls(found: list[Hits]) -> list[list]:
    """Rows of the table: share of right calls by their probability."""
    rows = []
    for low, high in pairwise(CALLS):
        inside = [hits.calls[(hits.calls[:, 0] > low) & (hits.calls[:, 0] <= high)] for hits in found]
        sizes = np.array([len(part) for part in inside])
        if sizes.any():
            share = pooled_share(np.array([part[:, 1].sum() for part in inside]), sizes)
            level = float(np.concatenate(inside)[:, 0].mean())
            rows.append(["assignment", "all", level, *share, int(sizes.sum()), np.nan])
    return rows
