r"""A posterior from the data alone, a few Newton passes long: where the trainer starts.

Three facts make it fast. Given the cells, genes are independent problems in one to three numbers. Given the genes,
cells are independent problems in one number. And where all genes of a cell share its odds, the two see each other
only through :math:`R = \sum_g r_g`: one scalar equation.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from scbayes.counts import Counts, Summary
from scbayes.models._cells import Cells, anchor, cell_scores, node_grid, project, solve_cells
from scbayes.models._evidence import Evidence, evidence_of
from scbayes.models._genes import Coupling, Genes
from scbayes.models._model import Model
from scbayes.models._new_cells import as_coordinate
from scbayes.models._posterior import Posterior
from scbayes.models._priors import LEARNED
from scbayes.stats._newton import Maximum

#: Rounds of genes given cells and cells given genes; the cells hardly move after the first.
ROUNDS = 3


class Start(NamedTuple):
    """Posterior, evidence projected at its cells, and priors with what was learned."""

    posterior: Posterior
    evidence: Evidence
    priors: dict[str, dist.Distribution]


def warm_start(model: Model, counts: Counts, summary: Summary, priors: dict, given: set[str], log_mrna: float) -> Start:
    """Posterior of ``model`` from counts.

    Parameters
    ----------
    priors
        Prior of each sampled parameter; those of learned parameters not in ``given`` are replaced.
    log_mrna
        Log of the total mRNA per cell.
    """
    capture = model.config.capture
    family = dist.Normal if model.config.unconstrained else dist.LogNormal
    learned = [site for site in model.config.gene_sites if site in LEARNED and site not in given]
    evidence = evidence_of(summary)
    total = summary.cell_total.astype(float)
    cells = Cells(np.log(np.maximum(total, 0.5)) - log_mrna, 1 / np.sqrt(total + 1.0))
    if capture and "nu" not in given:  # wide, so that only empty cells feel it
        seen = cells.loc[total > 0]
        priors = priors | {"nu": family(float(seen.mean()), float(max(1.0, 2 * seen.std())))}
    solver = Genes(model, summary, log_mrna)
    genes, level = solver.first()
    for site in learned:
        columns = np.asarray(genes.loc)[:, solver.columns[site]]
        priors = priors | {site: family(float(np.median(columns)), 3.0 if site == model.abundance else 1.5)}
    for turn in range(ROUNDS):
        last = turn == ROUNDS - 1
        if capture:
            grid = node_grid(cells, gate=model.config.gate)
            evidence = _project(model, evidence, counts, grid, cells)
        genes, level = solver.solve(evidence, genes, level, priors, 4 if turn else 12, spread=last)
        priors = priors | solver.learn(genes, priors, learned)
        if capture:
            points, odds = solver.points(genes, spread=last), solver.log_odds(level)
            scores = cell_scores(model, points, odds, priors, counts, summary, grid, log_mrna)
            cells = solve_cells(scores, grid, cells, priors["nu"], unconstrained=model.config.unconstrained)
            if model.n_factors:  # b is set by the total mRNA: what the sum of r misses goes into nu
                gauge = log_mrna - np.log(_total_r(model, solver, genes, priors))
                cells = cells._replace(loc=cells.loc + (np.asarray(odds)[:, 0] - gauge)[summary.batch])
                level = gauge[: len(level)]
    coupling = None
    if len(level):
        if capture:
            evidence = _project(model, evidence, counts, node_grid(cells, gate=model.config.gate), cells)
        coupling = solver.coupling(evidence, genes, level, priors)
    posterior = _assemble(model, solver, genes, level, coupling, cells, priors)
    return Start(posterior, evidence_at(model, counts, summary, priors, posterior, log_mrna), priors)


def evidence_at(
    model: Model, counts: Counts, summary: Summary, priors: dict, posterior: Posterior, log_mrna: float
) -> Evidence:
    """Evidence anchored at a posterior: what the trainer sees, now or when it is resumed from a file.

    With capture and odds that differ between genes (or zero inflation) it holds for nu near the posterior's, and with
    scales of zero exactly at its nu, up to interpolation; else it is exact everywhere. It has no term that couples a
    cell's movement with a gene's: right in the mean under a guide in which the two are independent, and not a density
    to explore by MCMC.
    """
    evidence = evidence_of(summary)
    if not model.config.capture or not (model.config.gate or not model.config.shared_odds):
        return evidence  # exact as it is
    cells = Cells(*_log_nu(model, posterior, priors))
    solver = Genes(model, summary, log_mrna)
    genes = Maximum(posterior.gene_loc, posterior.gene_tril)
    level = np.zeros(0)
    if model.n_factors:
        level = (log_mrna - np.log(_total_r(model, solver, genes, priors)))[: model.n_levels]
    elif model.n_levels:
        level = np.asarray(posterior.global_loc) * (-1 if model.config.global_sites == ("phi",) else 1)
    grid = node_grid(cells, gate=model.config.gate)
    points = solver.points(genes)
    scores = cell_scores(model, points, solver.log_odds(level), priors, counts, summary, grid, log_mrna)
    return anchor(_project(model, evidence, counts, grid, cells), grid, scores, cells)


def _total_r(model: Model, solver: Genes, genes: Maximum, priors) -> np.ndarray:
    """Expected sum of r over genes, shape ``(n_batches,)`` (of the one parameter where batches share it)."""
    total = np.mean([np.asarray(model.gene_values(z, priors)["r"]).sum(1) for z in solver.points(genes)], 0)
    return np.broadcast_to(total, (solver.summary.n_batches,))


def _project(model: Model, evidence: Evidence, counts: Counts, grid, cells: Cells) -> Evidence:
    genes = model.config.gate or not model.config.shared_odds
    return project(evidence, counts, grid, cells, genes=genes, gate=model.config.gate)


def _assemble(
    model: Model, solver: Genes, genes: Maximum, level: np.ndarray, coupling: Coupling | None, cells: Cells, priors
) -> Posterior:
    config = model.config
    factor = np.zeros((*genes.loc.shape, 0))
    glob, glob_scale = np.zeros(0), np.zeros(0)
    if model.n_factors:
        factor = coupling.response * np.sqrt(coupling.variance)
    if config.global_sites:
        glob, glob_scale = level, np.sqrt(coupling.variance)
        if config.parameterization == "standard":
            glob, glob_scale = _expected_total(solver, genes, level, priors)
        elif config.global_sites == ("phi",):
            glob = -level
    cell_loc, cell_scale = (cells.loc, cells.scale) if config.capture else (np.zeros(0), np.zeros(0))
    if config.capture:
        cell_loc, cell_scale = as_coordinate(model, cell_loc, cell_scale, priors)
    return Posterior(*[jnp.asarray(a) for a in (genes.loc, genes.tril, factor, glob, glob_scale, cell_loc, cell_scale)])


def _expected_total(solver: Genes, genes: Maximum, level: np.ndarray, priors) -> tuple[np.ndarray, np.ndarray]:
    """Normal of the coordinate that stands for p in ``standard`` without capture (see Model.untie)."""
    summary = solver.summary
    log_r = np.log(_total_r(solver.model, solver, genes, priors))
    total, cells = summary.gene_total.sum(1), summary.group_cells
    if len(level) == 1:
        total, cells, log_r = total.sum(keepdims=True), cells.sum(keepdims=True), log_r.mean(keepdims=True)
    return level + log_r, np.sqrt(1 / np.maximum(total, 1) + 1 / (cells * np.exp(log_r)))


def _log_nu(model: Model, posterior: Posterior, priors) -> tuple[np.ndarray, np.ndarray]:
    """Normal of ln nu from that of its coordinate."""
    transform = model.transform("nu", priors)
    z = posterior.cell_loc
    x = transform(z)
    return np.asarray(jnp.log(x)), np.asarray(posterior.cell_scale * jnp.exp(transform.log_abs_det_jacobian(z, x)) / x)
