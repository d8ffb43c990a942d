r"""Counts whose cells may move: the density over genes and cells together that MCMC explores.

Where genes see cells through one number each, :class:`~scbayes.models._evidence.Evidence` is that density. Elsewhere
its cells are held near a posterior. Here they are free: what all genes have in common with a cell, wherever it is, goes
through the nodes, and each non-zero count is taken at the odds of its own cell and gene. With
:math:`x_c = \ln\nu_c` and the functions of a gene of :meth:`NegativeBinomialCounts.node_functions`,

.. math::
    \ln p(u) = \sum_g \text{rise}_g + \sum_c Z(x_c) + \sum_{cg: u_{cg} > 0} u_{cg} A_g(x_c) + E_g(x_c).

A gradient costs the non-zeros, and cells x nodes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.counts import Counts
from scbayes.models._cells import Cells, node_grid
from scbayes.models._evidence import Evidence
from scbayes.models._likelihood import NegativeBinomialCounts, log_rise


class MovingCells(NamedTuple):
    """Evidence, and the non-zeros: ``cell`` and ``row`` (batch and gene) of each ``count``, shape ``(n_nonzero,)``.

    ``ends`` are those of the interval of ln nu, and ``transform`` leads from values at its nodes to coefficients.
    """

    evidence: Evidence
    cell: Array
    row: Array
    count: Array
    ends: Array
    transform: Array


def moving_cells(evidence: Evidence, counts: Counts, cells: Cells, *, gate: bool) -> MovingCells:
    """Counts with cells that may move six standard deviations from where ``cells`` has them."""
    grid = node_grid(cells, gate=gate)
    cell, row, count = [], [], []
    for first, block in counts.blocks():
        here = first + np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        cell.append(here)
        row.append(counts.batch[here] * counts.n_genes + block.indices)
        count.append(block.data)
    parts = [jnp.asarray(np.concatenate(part), kind) for part, kind in ((cell, int), (row, int), (count, float))]
    nodes = jnp.tile(jnp.asarray(grid.nodes), (counts.n_batches, 1))
    ends = jnp.array([grid.low, grid.high])
    return MovingCells(evidence._replace(nodes=nodes), *parts, ends, jnp.asarray(grid.transform))


def log_prob(likelihood: NegativeBinomialCounts, moving: MovingCells) -> Array:
    """Log density of the counts: a scalar."""
    evidence, x = moving.evidence, likelihood.cell_log_odds
    log_p = log_rise(jnp.exp(likelihood.log_size).ravel(), evidence).sum() - evidence.constant
    all_zero = likelihood.node_functions(evidence.nodes)[2]  # (n_batches, n_nodes)
    low, high = moving.ends
    angle = jnp.arccos(jnp.clip((2 * x - low - high) / (high - low), -1 + 1e-12, 1 - 1e-12))
    basis = jnp.cos(angle[:, None] * jnp.arange(all_zero.shape[1]))
    log_p += jnp.sum(basis * (all_zero @ moving.transform.T)[evidence.batch])
    at = x[moving.cell]
    per_count, per_detection = likelihood.entry_functions(moving.row, at)
    return log_p + jnp.sum(moving.count * per_count) + (0.0 if per_detection is None else jnp.sum(per_detection))
