"""What a posterior says of cells to genes: the summary as seen from where its cells are."""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts, Past, Summary
from scbayes.models._cells import Cells, anchor, cell_scores, node_grid, project
from scbayes.models._evidence import Evidence, evidence_of
from scbayes.models._genes import Genes
from scbayes.models._model import Model
from scbayes.models._past import place
from scbayes.models._posterior import Posterior
from scbayes.stats._chebyshev import Chebyshev
from scbayes.stats._newton import Maximum


class View(NamedTuple):
    """A posterior's parts as the solver of genes has them.

    Attributes
    ----------
    summary, evidence
        Of all cells, in the components where the posterior has them; the evidence at ln nu = 0.
    genes
        Own normals of the genes, ``(n_rows, K)``: a row is a gene of a component.
    level
        Shared log odds, at their mean.
    cells
        Normals of ln nu, or None without capture.
    """

    summary: Summary
    evidence: Evidence
    solver: Genes
    genes: Maximum
    level: np.ndarray
    cells: Cells | None


def view(model: Model, counts: Counts, summary: Summary, priors: dict, posterior: Posterior, log_mrna: float) -> View:
    """Look at the counts from a posterior; ``summary`` has no components."""
    if model.config.mixture:
        summary = counts.weigh(summary, np.asarray(posterior.responsibilities))
    solver = Genes(model, summary, log_mrna)
    n = posterior.gene_loc.shape[-1]
    genes = Maximum(jnp.reshape(posterior.gene_loc, (-1, n)), jnp.reshape(posterior.gene_tril, (-1, n, n)))
    cells = Cells(*log_nu(model, posterior, priors)) if model.config.capture else None
    level = np.zeros(0)
    if model.n_levels:
        level = level_of(model, solver, genes, priors, np.asarray(posterior.global_loc), log_mrna)
    if summary.past is not None:
        past = place(model, summary.past, solver.points(genes), solver.log_odds(level), priors, log_mrna)
        summary = replace(summary, past=past)
    return View(summary, evidence_of(summary), solver, genes, level, cells)


def evidence_at(
    model: Model, counts: Counts, summary: Summary, priors: dict, posterior: Posterior, log_mrna: float
) -> Evidence:
    """Evidence anchored at a posterior: what the trainer sees, now or when it is resumed from a file.

    With capture and odds that differ between genes (or zero inflation) it holds for nu near the posterior's, and with
    scales of zero exactly at its nu, up to interpolation; else it is exact everywhere. It has no term that couples a
    cell's movement with a gene's: right in the mean under a guide in which the two are independent, and not a density
    to explore by MCMC.
    """
    at = view(model, counts, summary, priors, posterior, log_mrna)
    if exact(model):
        return at.evidence
    grid = node_grid(at.cells, at.summary.past, gate=model.config.gate)
    points, odds = at.solver.points(at.genes), at.solver.log_odds(at.level)
    scores = cell_scores(model, points, odds, priors, counts, at.summary, grid, log_mrna)
    return anchor(project_cells(model, at.evidence, counts, grid, at.cells, at.summary.past), grid, scores, at.cells)


def project_cells(
    model: Model, evidence: Evidence, counts: Counts, grid: Chebyshev, cells: Cells, past: Past | None
) -> Evidence:
    """Evidence with the cells on the nodes of ``grid``, averaged over where they may be: what genes see."""
    genes = model.config.gate or not model.config.shared_odds
    return project(evidence, counts, grid, cells, past, genes=genes, gate=model.config.gate)


def exact(model: Model) -> bool:
    """No interpolation: cells are alike, or genes see them through one number."""
    return not model.config.capture or not (model.config.gate or not model.config.shared_odds)


def level_of(model: Model, solver: Genes, genes: Maximum, priors, glob: np.ndarray, log_mrna: float) -> np.ndarray:
    """Shared log odds at the mean of a posterior, ``glob`` its global coordinates."""
    config = model.config
    if config.parameterization != "standard":
        return glob * (-1 if config.global_sites == ("phi",) else 1)
    log_r = np.log(total_r(model, solver, genes, priors))
    if not config.global_sites:
        return (log_mrna - log_r)[: model.n_levels]
    log_r = log_r.reshape(config.n_batches, -1).mean(1)  # the coordinate of p is the expected total, see Model.untie
    return glob - (log_r if len(glob) == len(log_r) else log_r.mean())


def total_r(model: Model, solver: Genes, genes: Maximum, priors) -> np.ndarray:
    """Expected sum of r over genes, shape ``(n_groups,)`` (of the one parameter where batches share it)."""
    points = solver.points(genes)
    total = sum(model.gene_values(z, priors)["r"].sum(-1, keepdims=True) for z in points) / len(points)
    return np.asarray(model.by_group(total))[:, 0]


def log_nu(model: Model, posterior: Posterior, priors) -> tuple[np.ndarray, np.ndarray]:
    """Normal of ln nu from that of its coordinate."""
    transform = model.transform("nu", priors)
    z = posterior.cell_loc
    x = transform(z)
    return np.asarray(jnp.log(x)), np.asarray(posterior.cell_scale * jnp.exp(transform.log_abs_det_jacobian(z, x)) / x)
