r"""Moments of the genes' posterior that are right, not only best for a normal.

A normal that maximises the ELBO is narrower than a skewed posterior: with zero inflation, where the gate may be
anything down to zero, by a third. Given the cells, each gene is a problem of one to three numbers, so its mean and
covariance can be found outright, by importance sampling (see :mod:`scbayes.stats._importance`), and with them how far
from normal it is. The shared log odds, where there are any, go with the genes' new means: one Newton step.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts, Summary
from scbayes.models._at_posterior import View, log_nu, project_cells, total_r, view
from scbayes.models._cells import node_grid
from scbayes.models._evidence import Evidence
from scbayes.models._genes import GeneObjective
from scbayes.models._marginals import total_abundance
from scbayes.models._model import Model
from scbayes.models._new_cells import as_coordinate
from scbayes.models._posterior import Posterior
from scbayes.stats._importance import moments
from scbayes.stats._newton import Maximum

#: Points for genes of so many numbers; more than that (many batches) are left as they are.
POINTS = {1: 128, 2: 128, 3: 256}
#: Points where there is zero inflation.
GATED = 256
#: Longest step of the shared log odds, in standard deviations.
LONGEST = 5.0


class Refined(NamedTuple):
    """A posterior whose genes have the right moments.

    With it Pareto k-hat of their normals, ``(n_rows,)``, and the evidence on which they were found; None if they were
    left as they are.
    """

    posterior: Posterior
    k_hat: np.ndarray | None = None
    evidence: Evidence | None = None


def refine(
    model: Model, counts: Counts, summary: Summary, priors: dict, posterior: Posterior, log_mrna: float
) -> Refined:
    """Put the moments of each gene's conditional posterior in place of those of ``posterior``."""
    size = posterior.gene_loc.shape[-1]
    if size not in POINTS:
        return Refined(posterior)
    at = view(model, counts, summary, priors, posterior, log_mrna)
    evidence = at.evidence
    if at.cells is not None:
        grid = node_grid(at.cells, at.summary.past, gate=model.config.gate)
        evidence = project_cells(model, evidence, counts, grid, at.cells, at.summary.past)
    genes, level, objective = at.genes, at.level, GeneObjective(model)
    n_points = GATED if model.config.gate else POINTS[size]
    for turn in range(2 if model.config.gate else 1):
        if turn:
            move = _level_move(model, at, evidence, genes, priors, posterior)
            genes, level = _follow(model, genes, posterior, move), level + move
        args = (evidence, at.solver.log_odds(level), priors, jnp.asarray(log_mrna))
        genes, k_hat = moments(objective, genes, args, n_points)
    return Refined(_put(model, at, genes, level, priors, posterior, log_mrna), k_hat, evidence)


def _level_sd(model: Model, posterior: Posterior) -> np.ndarray:
    """Standard deviation of the shared log odds."""
    if model.config.parameterization != "standard":
        return np.asarray(posterior.global_scale)
    loading = total_abundance(model.config, posterior).loading  # sum(r) falls as the odds rise
    loading = np.abs(loading).reshape(-1, loading.shape[-1])
    return loading.sum(0) / np.count_nonzero(loading, 0)


def _level_move(model: Model, at: View, evidence: Evidence, genes: Maximum, priors, posterior: Posterior) -> np.ndarray:
    """Newton's step in the shared log odds, at the genes' new moments."""
    if not len(at.level):
        return at.level
    sd = _level_sd(model, posterior)
    return np.clip(at.solver.slope(evidence, genes, at.level, priors) * sd**2, -LONGEST * sd, LONGEST * sd)


def _follow(model: Model, genes: Maximum, posterior: Posterior, move: np.ndarray) -> Maximum:
    """Genes moved as they answer to the shared log odds."""
    if not model.n_factors:
        return genes
    answer = jnp.asarray(posterior.gene_factor) @ jnp.asarray(move / _level_sd(model, posterior))
    return genes._replace(loc=genes.loc + answer.reshape(genes.loc.shape))


def _put(
    model: Model, at: View, genes: Maximum, level: np.ndarray, priors, posterior: Posterior, log_mrna
) -> Posterior:
    config, shape = model.config, posterior.gene_loc.shape
    found = {"gene_loc": genes.loc.reshape(shape), "gene_tril": genes.tril.reshape(*shape, shape[-1])}
    if config.global_sites and config.parameterization != "standard":
        found["global_loc"] = level * (-1 if config.global_sites == ("phi",) else 1)
    if config.capture and model.n_factors:  # odds stay where cells were seen, though the sum of r has moved
        implied = log_mrna - np.log(total_r(model, at.solver, genes, priors))
        odds = np.asarray(at.solver.log_odds(level))[:, 0]
        missed = (odds - implied).reshape(config.n_batches, -1)[at.summary.batch]
        loc, scale = log_nu(model, posterior, priors)
        loc = loc + np.sum(at.summary.membership * missed, 1) / at.summary.weight
        found["cell_loc"], found["cell_scale"] = as_coordinate(model, loc, scale, priors)
    return posterior._replace(**found)
