r"""A posterior from the data alone, a few Newton passes long: where the trainer starts.

Three facts make it fast. Given the cells, genes are independent problems in one to three numbers. Given the genes,
cells are independent problems in one number. And where all genes of a cell share its odds, the two see each other
only through :math:`R = \sum_g r_g`: one scalar equation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from scbayes.counts import Counts, Summary
from scbayes.models._at_posterior import evidence_at, exact, project_cells, total_r
from scbayes.models._cells import Cells, cell_scores, node_grid, solve_cells
from scbayes.models._components import Labels, marginal_scores, parameters_at, responsibilities
from scbayes.models._evidence import Evidence, evidence_of
from scbayes.models._genes import Coupling, Genes
from scbayes.models._model import Model
from scbayes.models._new_cells import as_coordinate
from scbayes.models._past import beside, place
from scbayes.models._posterior import Posterior
from scbayes.models._priors import LEARNED
from scbayes.stats._newton import Maximum

#: Rounds of genes given cells and cells given genes; the cells hardly move after the first.
ROUNDS = 3
#: Rounds at most until cells have settled in the components of a mixture.
SETTLING = 60
#: Variance of log totals that components alone may cause, where a given prior of nu has to be met.
COMPOSITION = 0.3
#: Cells have settled when memberships move by less than this, per cell.
SETTLED = 1e-3


class Start(NamedTuple):
    """Posterior, evidence projected at its cells, and priors with what was learned.

    ``settled`` says whether the memberships of a mixture's cells had stopped moving, after ``rounds``.
    """

    posterior: Posterior
    evidence: Evidence
    priors: dict[str, dist.Distribution]
    settled: bool = True
    rounds: int = ROUNDS


@dataclass
class State:
    """What the rounds go through; ``pairs`` is the summary without components."""

    pairs: Summary
    summary: Summary
    solver: Genes
    evidence: Evidence
    priors: dict
    genes: Maximum
    level: np.ndarray
    cells: Cells
    weights: np.ndarray


def warm_start(
    model: Model,
    counts: Counts,
    summary: Summary,
    priors: dict,
    given: set[str],
    log_mrna: float,
    *,
    membership: np.ndarray | None = None,
    labels: Labels | None = None,
    ordered: bool = False,
    spread: bool = True,
    foreseen: Callable[["Start"], None] = lambda _: None,
) -> Start:
    """Posterior of ``model`` from counts.

    Parameters
    ----------
    priors
        Prior of each sampled parameter; those of learned parameters not in ``given`` are replaced.
    log_mrna
        Log of the total mRNA per cell.
    membership
        Of a mixture: where cells start, ``(n_cells, n_components)``.
    labels
        What is known about the components of cells.
    ordered
        The components have an order; else they are sorted, heaviest first.
    spread
        Find the best normals of the genes; else their modes and curvatures, Laplace's approximation. Cells are
        averaged over either way: at their joint mode there are as many numbers as cells, and sizes are biased.
    foreseen
        Called as soon as the shapes of the result are known, with something of these shapes.
    """
    now = _first(model, counts, summary, priors, given, log_mrna, membership, spread=spread)
    learned = [site for site in model.config.gene_sites if site in LEARNED and site not in given]
    for site in learned:
        columns = np.asarray(now.genes.loc)[:, now.solver.columns[site]]
        width = 3.0 if site == model.abundance else 1.5
        now.priors = now.priors | {site: _family(model)(float(np.median(columns)), width)}
    settled, rounds = True, 0
    if model.config.mixture:
        settled, rounds = _settle(model, counts, now, learned, labels)
        if not ordered:
            _sort(model, counts, now)
    for turn in range(min(rounds, 1), ROUNDS):  # what cells settled in is a first round
        if turn == 1:
            foreseen(_outline(model, now))
        _round(model, counts, now, learned, 4 if turn else 12, last=turn == ROUNDS - 1)
    coupling = None
    if len(now.level):
        if model.config.capture:
            grid = node_grid(now.cells, now.summary.past, gate=model.config.gate)
            now.evidence = project_cells(model, now.evidence, counts, grid, now.cells, now.summary.past)
        coupling = now.solver.coupling(now.evidence, now.genes, now.level, now.priors)
    posterior = _assemble(model, now, coupling)
    evidence = evidence_at(model, counts, now.pairs, now.priors, posterior, log_mrna)
    return Start(posterior, evidence, now.priors, settled, rounds + ROUNDS)


def _family(model: Model):
    return dist.Normal if model.config.unconstrained else dist.LogNormal


def _first(
    model: Model, counts: Counts, summary: Summary, priors, given, log_mrna, membership, *, spread: bool
) -> State:
    pairs = summary
    if membership is not None:
        summary = counts.weigh(summary, membership)
    total = summary.cell_total.astype(float)
    cells = Cells(np.log(np.maximum(total, 0.5)) - log_mrna, 1 / np.sqrt(total + 1.0))
    if model.config.capture and "nu" not in given:  # wide, so that only empty cells feel it
        all_totals, stands_for = summary.totals
        seen = all_totals > 0
        x, stands_for = np.log(all_totals[seen]) - log_mrna, stands_for[seen]
        centre = np.average(x, weights=stands_for)
        width = np.sqrt(np.average((x - centre) ** 2, weights=stands_for))
        priors = priors | {"nu": _family(model)(float(centre), float(max(1.0, 2 * width)))}
    elif model.config.capture:  # totals differ by composition too: meet a narrow prior half way
        loc, width = _moments_of_log(priors["nu"], unconstrained=model.config.unconstrained)
        data, prior = 1 / (cells.scale**2 + COMPOSITION), 1 / width**2
        cells = cells._replace(loc=(cells.loc * data + loc * prior) / (data + prior))
    if summary.past is not None:
        summary = pairs = replace(summary, past=beside(summary.past, cells.loc, total))
    solver = Genes(model, summary, log_mrna, spread=spread)
    weights = np.zeros(0)
    if model.config.mixture:
        weights = np.asarray(priors["weights"].concentration) + summary.membership.sum(0)
    return State(pairs, summary, solver, evidence_of(summary), priors, *solver.first(), cells, weights)


def _moments_of_log(prior: dist.Distribution, *, unconstrained: bool) -> tuple[float, float]:
    """Mean and standard deviation of ln nu under a prior of nu, by draws."""
    draws = np.asarray(prior.sample(jax.random.key(0), (4000,)), float)
    draws = draws if unconstrained else np.log(np.maximum(draws, 1e-300))
    return float(draws.mean()), float(draws.std())


def _round(model: Model, counts: Counts, now: State, learned, steps: int, *, last: bool, n_search: int = 30) -> None:
    """Genes given the cells, then cells given the genes."""
    capture, log_mrna = model.config.capture, now.solver.log_mrna
    if capture:
        grid = node_grid(now.cells, now.summary.past, gate=model.config.gate)
        now.evidence = project_cells(model, now.evidence, counts, grid, now.cells, now.summary.past)
    now.genes, now.level = now.solver.solve(
        now.evidence, now.genes, now.level, now.priors, steps, spread=last, n_search=n_search
    )
    now.priors = now.priors | now.solver.learn(now.genes, now.priors, learned)
    if not capture:
        return
    points, odds = now.solver.points(now.genes, spread=last), now.solver.log_odds(now.level)
    scores = cell_scores(model, points, odds, now.priors, counts, now.summary, grid, log_mrna)
    now.cells = solve_cells(scores, grid, now.cells, now.priors["nu"], unconstrained=model.config.unconstrained)
    if now.summary.past is not None:
        now.summary = replace(now.summary, past=place(model, now.summary.past, points, odds, now.priors, log_mrna))
    if model.n_factors:  # b is set by the total mRNA: what the sum of r misses goes into nu
        gauge = log_mrna - np.log(total_r(model, now.solver, now.genes, now.priors))
        of_groups = (np.asarray(odds)[:, 0] - gauge).reshape(model.config.n_batches, -1)
        missed = np.sum(now.summary.membership * of_groups[now.summary.batch], 1) / now.summary.weight
        if now.summary.past is not None:
            past = now.summary.past
            now.summary = replace(now.summary, past=past._replace(nodes=past.nodes + of_groups))
        now.cells = now.cells._replace(loc=now.cells.loc + missed)
        now.level = gauge[: len(now.level)]


def _settle(model: Model, counts: Counts, now: State, learned, labels: Labels | None) -> tuple[bool, int]:
    """Rounds with cells moving between components, until they stay: whether they did, and how many rounds."""
    prior = now.priors["weights"].concentration
    for turn in range(SETTLING):
        _round(model, counts, now, learned, 1 if turn else 6, last=False, n_search=1 if turn else 8)
        parameters = parameters_at(
            model,
            now.genes.loc,
            now.priors,
            now.solver.log_mrna,
            jnp.asarray(now.summary.batch),
            now.solver.log_odds(now.level),
            now.cells.loc if model.config.capture else np.zeros(now.summary.n_cells),
        )
        parameters = parameters._replace(weights=now.weights / now.weights.sum())
        scores = marginal_scores(parameters, counts, now.priors.get("nu"), unconstrained=model.config.unconstrained)
        found = responsibilities(scores, now.weights, labels)
        moved = np.abs(found - now.summary.membership).sum() / 2 / len(found)
        now.weights = np.asarray(prior) + found.sum(0)
        _assign(model, counts, now, found)
        if moved < SETTLED:
            return True, turn + 1
    return False, SETTLING


def _assign(model: Model, counts: Counts, now: State, membership: np.ndarray) -> None:
    """Put the cells into components as ``membership`` says."""
    now.summary = counts.weigh(now.pairs, membership)
    now.solver = Genes(model, now.summary, now.solver.log_mrna, spread=now.solver.spread)
    now.evidence = evidence_of(now.summary)


def _sort(model: Model, counts: Counts, now: State) -> None:
    """Put the heaviest component first."""
    order = np.argsort(-now.weights, kind="stable")
    k = len(order)
    now.weights = now.weights[order]
    now.priors = now.priors | {"weights": dist.Dirichlet(np.asarray(now.priors["weights"].concentration)[order])}
    rows = [part.reshape(k, -1, *part.shape[1:])[order].reshape(part.shape) for part in now.genes]
    now.genes = Maximum(*rows)
    if len(now.level) and not model.config.global_sites:
        now.level = now.level.reshape(-1, k)[:, order].ravel()
    _assign(model, counts, now, now.summary.membership[:, order])


def _outline(model: Model, now: State) -> Start:
    """Something of the shapes of the result."""
    coupling = Coupling(np.zeros((*now.genes.loc.shape, len(now.level))), np.ones(len(now.level)))
    evidence = evidence_of(now.summary)
    if not exact(model):
        n = node_grid(now.cells, now.summary.past, gate=model.config.gate).nodes.size
        genes = (now.summary.n_groups, now.summary.n_genes)
        evidence = evidence._replace(
            nodes=jnp.zeros((genes[0], n)),
            node_cells=jnp.zeros((genes[0], n)),
            node_counts=jnp.zeros((*genes, n)),
            node_detected=jnp.zeros((*genes, n) if model.config.gate else (0, 0, n)),
        )
    return Start(_assemble(model, now, coupling), evidence, now.priors)


def _assemble(model: Model, now: State, coupling: Coupling | None) -> Posterior:
    config, genes, cells = model.config, now.genes, now.cells
    factor = np.zeros((*genes.loc.shape, 0))
    glob, glob_scale = np.zeros(0), np.zeros(0)
    if model.n_factors:
        factor = coupling.response * np.sqrt(coupling.variance)
    if config.global_sites:
        glob, glob_scale = now.level, np.sqrt(coupling.variance)
        if config.parameterization == "standard":
            glob, glob_scale = _expected_total(now.solver, genes, now.level, now.priors)
        elif config.global_sites == ("phi",):
            glob = -now.level
    cell_loc, cell_scale = (cells.loc, cells.scale) if config.capture else (np.zeros(0), np.zeros(0))
    if config.capture:
        cell_loc, cell_scale = as_coordinate(model, cell_loc, cell_scale, now.priors)
    parts = [genes.loc, genes.tril, factor]
    if config.mixture:
        shape = (config.n_components, now.summary.n_genes)
        parts = [np.reshape(part, shape + part.shape[1:]) for part in parts]
    membership = now.summary.membership if config.mixture else np.zeros((0, 0))
    parts += [glob, glob_scale, cell_loc, cell_scale, now.weights, membership]
    return Posterior(*[jnp.asarray(part) for part in parts])


def _expected_total(solver: Genes, genes: Maximum, level: np.ndarray, priors) -> tuple[np.ndarray, np.ndarray]:
    """Normal of the coordinate that stands for p in ``standard`` without capture (see Model.untie)."""
    summary, n_batches = solver.summary, solver.model.config.n_batches
    log_r = np.log(total_r(solver.model, solver, genes, priors)).reshape(n_batches, -1).mean(1)
    total, cells = summary.gene_total.sum(1).reshape(n_batches, -1).sum(1), np.bincount(summary.batch, None, n_batches)
    if len(level) == 1:
        total, cells, log_r = total.sum(keepdims=True), cells.sum(keepdims=True), log_r.mean(keepdims=True)
    return level + log_r, np.sqrt(1 / np.maximum(total, 1) + 1 / (cells * np.exp(log_r)))
