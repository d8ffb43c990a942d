r"""Cells as the genes see them, and genes as the cells see them: through nodes in :math:`x = \ln\nu_c`."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from scbayes.counts import Counts, Past, Summary
from scbayes.models._evidence import Evidence
from scbayes.models._model import Model
from scbayes.stats._chebyshev import Chebyshev, chebyshev

#: Three-point Gauss-Hermite rule: standard normal abscissae and weights.
HERMITE = ((0.0, 2 / 3), (3**0.5, 1 / 6), (-(3**0.5), 1 / 6))
#: Distance of the nearest singularity of a cell's score from the real line, without and with zero inflation.
POLE = {False: np.pi, True: 1.0}
#: Newton steps for all cells together, at most; they end when no cell moves by more than the tolerance.
N_STEPS, TOLERANCE = 10, 1e-9
#: Cells that are solved together: derivatives at the nodes are held for these only.
ROWS = 1 << 16


class Cells(NamedTuple):
    """Normal posterior of ln nu: ``loc`` and ``scale``, shape ``(n_cells,)``."""

    loc: np.ndarray
    scale: np.ndarray


def node_grid(cells: Cells, past: Past | None = None, *, gate: bool) -> Chebyshev:
    """Nodes that cover the cells and their uncertainty, and the nodes of past cells."""
    low, high = np.min(cells.loc - 6 * cells.scale), np.max(cells.loc + 6 * cells.scale)
    if past is not None:
        low, high = min(low, past.nodes.min()), max(high, past.nodes.max())
    return chebyshev(float(low), float(high), pole=POLE[gate])


def project(
    evidence: Evidence,
    counts: Counts,
    grid: Chebyshev,
    cells: Cells,
    past: Past | None = None,
    *,
    genes: bool,
    gate: bool,
) -> Evidence:
    """Evidence with the cells on the nodes of ``grid``, averaged over their posterior; past cells as they are.

    Parameters
    ----------
    genes
        Also project counts (and, with ``gate``, detections): needed where odds differ between genes or zeros count.
    """
    weights = np.empty((len(cells.loc), len(grid.nodes)))
    for start in range(0, len(weights), ROWS):
        loc, scale = (part[start : start + ROWS] for part in cells)
        weights[start : start + ROWS] = sum(w * grid.basis(loc + at * scale) for at, w in HERMITE) @ grid.transform
    cell_total, membership = np.asarray(evidence.cell_total), np.asarray(evidence.membership)
    if genes:
        found = [counts.gather(weights * part[:, None], detected=gate) for part in membership.T]
        node_counts, detected = (_by_group(parts) for parts in zip(*found, strict=True))
    else:  # only the sum over genes matters: spread it evenly
        share = membership * (cell_total / counts.n_genes)[:, None]
        node_counts = _sum_over_groups(weights, evidence, share)[:, None]
        detected = np.zeros((0, 0, 0))
    node_cells = _sum_over_groups(weights, evidence, membership)
    if past is not None:
        onto = np.stack([grid.weights(nodes) for nodes in past.nodes])
        node_cells = node_cells + np.einsum("bm,bmn->bn", past.node_cells, onto)
        node_counts = node_counts + past.node_counts @ onto
        detected = detected + past.node_detected @ onto if gate else detected
    return evidence._replace(
        nodes=jnp.tile(jnp.asarray(grid.nodes), (counts.n_batches * membership.shape[1], 1)),
        node_cells=jnp.asarray(node_cells),
        node_counts=jnp.asarray(node_counts),
        node_detected=jnp.asarray(detected),
    )


def _by_group(parts: list[np.ndarray]) -> np.ndarray:
    """``(n_batches, n_genes, n_nodes)`` of each component as ``(n_groups, n_genes, n_nodes)``."""
    return np.stack(parts, 1).reshape(len(parts) * len(parts[0]), *parts[0].shape[1:])


def _sum_over_groups(value: np.ndarray, evidence: Evidence, membership: np.ndarray) -> np.ndarray:
    """Sum of ``value`` (n_cells, n) over the cells of each group: ``(n_groups, n)``."""
    if evidence.n_batches == 1:
        return membership.T @ value
    batch = np.asarray(evidence.batch)
    here = [batch == b for b in range(evidence.n_batches)]
    return np.concatenate([membership[cells].T @ value[cells] for cells in here])


def cell_scores(
    model: Model,
    points: Array,
    log_odds: Array | None,
    priors,
    counts: Counts,
    summary: Summary,
    grid: Chebyshev,
    log_mrna,
) -> np.ndarray:
    """Log likelihood of each cell as a function of ln nu, at the nodes: shape ``(n_cells, n_nodes)``.

    In a mixture, its mean over the components to which the cell belongs.

    Parameters
    ----------
    points
        Coordinates of the genes over which it is averaged, ``(n_points, n_genes, K)``.
    log_odds
        Shared log odds ``(n_groups, 1)``, or None.
    """
    nodes = jnp.tile(jnp.asarray(grid.nodes), (summary.n_groups, 1))
    tables = _tables(model, points, log_odds, priors, jnp.asarray(summary.batch), nodes, log_mrna)
    per_count, per_detection, all_zero = (value if value is None else np.asarray(value) for value in tables)
    scores = np.zeros((summary.n_cells, len(grid.nodes)))
    shape = (summary.n_batches, summary.n_genes, len(grid.nodes))
    for k, weight in enumerate(summary.membership.T):
        own = slice(k, None, summary.n_components)  # the groups of this component
        found = all_zero[own][summary.batch]
        if per_count.shape[1] == 1 and per_detection is None:  # all genes of a cell score alike: its total is enough
            found = found + summary.cell_total[:, None] * per_count[own][summary.batch, 0]
        else:
            once = None if per_detection is None else per_detection[own]
            found = found + counts.scatter(np.broadcast_to(per_count[own], shape), once, weight > 0)
        scores += weight[:, None] * found
    return scores


@partial(jax.jit, static_argnames="model")
def _tables(model: Model, points: Array, log_odds, priors, batch: Array, nodes: Array, log_mrna):
    def at(z: Array):
        likelihood = model.likelihood(model.gene_values(z, priors), log_mrna, batch, log_odds)
        return likelihood.node_functions(nodes)

    return jax.tree.map(lambda value: value.mean(0), jax.lax.map(at, points))


def solve_cells(
    scores: np.ndarray, grid: Chebyshev, cells: Cells, prior: dist.Distribution, *, unconstrained: bool
) -> Cells:
    """Best normal approximation of each cell's posterior of ln nu (see stats._newton).

    Parameters
    ----------
    scores
        Log likelihoods at the nodes, ``(n_cells, n_nodes)``.
    prior
        Prior of nu; of ln nu where ``unconstrained``.
    """
    ends = jnp.asarray([grid.low, grid.high])
    found = np.empty((2, len(scores)))
    size = -(-len(scores) // -(-len(scores) // ROWS))  # blocks of one size, compiled once: the last may overlap
    for start in range(0, len(scores), size):
        rows = slice(min(start, len(scores) - size), start + size)
        slope, bend = (np.ascontiguousarray(part.T) for part in _slopes(scores[rows], grid))
        found[:, rows] = _solve(slope, bend, ends, cells.loc[rows], cells.scale[rows], prior, unconstrained)
    return Cells(*found)


@partial(jax.jit, static_argnames="unconstrained")
def _solve(slope, bend, ends, loc, scale, prior, unconstrained):
    """Newton's method on the mean of each cell's normal, with derivatives averaged over it."""
    low, high = ends
    first, second = (jax.vmap(f, (0, None, None)) for f in (jax.grad(_log_prior), jax.grad(jax.grad(_log_prior))))

    def derivatives(x):
        t = jnp.clip((2 * x - low - high) / (high - low), -1, 1)
        both = _clenshaw(jnp.stack([slope, -bend], 1), t)
        return both[0] + first(x, prior, unconstrained), both[1] - second(x, prior, unconstrained)

    def step(now):
        n, _, loc, scale = now
        found = [derivatives(loc + at * scale) for at, _ in HERMITE]
        gradient, curvature = (sum(w * part[i] for (_, w), part in zip(HERMITE, found, strict=True)) for i in (0, 1))
        curvature = jnp.maximum(curvature, 1e-3)
        moved = jnp.clip(loc + jnp.clip(gradient / curvature, -1, 1), low, high)
        width = jnp.minimum(curvature**-0.5, (high - low) / 4)
        change = jnp.max(jnp.abs(moved - loc)) + jnp.max(jnp.abs(width - scale))
        return n + 1, change, moved, width

    start = 0, jnp.inf, loc, scale
    return jax.lax.while_loop(lambda now: (now[0] < N_STEPS) & (now[1] > TOLERANCE), step, start)[2:]


def _log_prior(x: Array, prior: dist.Distribution, unconstrained: bool) -> Array:  # noqa: FBT001
    """Log density of ln nu."""
    return prior.log_prob(x) if unconstrained else prior.log_prob(jnp.exp(x)) + x


def _clenshaw(coefficients: Array, t: Array) -> Array:
    """Sums of Chebyshev polynomials at ``t`` (n,): coefficients ``(n_nodes, m, n)``, sums ``(m, n)``."""
    last = len(coefficients) - 1

    def add(k, carry):
        before, after = carry
        return coefficients[last - k] + 2 * t * before - after, before

    zeros = jnp.zeros_like(coefficients[0])
    before, after = jax.lax.fori_loop(0, last, add, (zeros, zeros))
    return coefficients[0] + t * before - after


def anchor(evidence: Evidence, grid: Chebyshev, scores: np.ndarray, cells: Cells) -> Evidence:
    """Evidence whose cells may move around ``cells``; its nodes were averaged over the same ``cells``.

    The averaged nodes already hold the mean of each cell's curvature, so that of the movement is taken out.
    """
    slope, bend = _slopes(scores, grid)
    basis = grid.basis(cells.loc)
    curvature = np.maximum(-np.sum(basis * bend, 1), 0)
    return evidence._replace(
        anchor=jnp.asarray(cells.loc),
        slope=jnp.asarray(np.sum(basis * slope, 1)),
        curvature=jnp.asarray(curvature),
        constant=evidence.constant - np.sum(curvature * np.expm1(cells.scale**2 / 2)),
    )


def _slopes(scores: np.ndarray, grid: Chebyshev) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev coefficients of the first and second derivative of functions given at the nodes."""
    first = scores @ grid.transform.T @ grid.derivative.T
    return first, first @ grid.derivative.T
