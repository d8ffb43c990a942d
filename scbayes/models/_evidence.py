"""A summary of counts as JAX arrays: what a likelihood is evaluated on."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.counts import Summary

#: Below this count, ln Gamma(u + r) - ln Gamma(r) is a sum of logarithms over a survival histogram; Stirling beyond.
RISE = 32


class Evidence(NamedTuple):
    """Counts as the likelihood reads them; shapes over groups (B), genes (G), cells (C) and nodes (M).

    A group is a batch, or a component in a batch: cells belong to the components of their batch with the weights
    ``membership`` (C, n_components), and everything below is a sum over cells with these weights.

    ``rise_*`` list, for each row (group and gene) and each j below 32, the cells with a count above j. ``tail_*`` are
    the pairs with larger counts. ``nodes`` hold functions of ln nu: cells are seen through ``node_cells`` (B, M),
    ``node_counts`` (B, G, M) and ``node_detected`` (B, G, M). Around ``anchor`` (C), the ln nu at which these were
    projected, a cell's log likelihood has the slope ``slope`` and minus the second derivative ``curvature``.
    ``constant`` is subtracted from the log density: the sum of ln u! over all counts.
    """

    rise_row: Array
    rise_j: Array
    rise_cells: Array
    tail_row: Array
    tail_count: Array
    tail_cells: Array
    constant: Array
    batch: Array
    membership: Array
    cell_total: Array
    nodes: Array
    node_cells: Array
    node_counts: Array
    node_detected: Array
    anchor: Array
    slope: Array
    curvature: Array

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return self.nodes.shape[0] // self.membership.shape[1]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.batch.shape[0]


def evidence_of(summary: Summary) -> Evidence:
    """Evidence in which every cell sits at ln nu = 0: all that a model without capture needs, exactly."""
    from scipy.special import gammaln

    row, j, cells = _survivors(summary)
    large = summary.count > RISE
    return Evidence(
        rise_row=jnp.asarray(row, jnp.int32),
        rise_j=jnp.asarray(j, float),
        rise_cells=jnp.asarray(cells, float),
        tail_row=jnp.asarray(summary.row[large], jnp.int32),
        tail_count=jnp.asarray(summary.count[large], float),
        tail_cells=jnp.asarray(summary.cells[large], float),
        constant=jnp.asarray(np.sum(summary.cells * gammaln(summary.count + 1.0))),
        batch=jnp.asarray(summary.batch),
        membership=jnp.asarray(summary.membership, float),
        cell_total=jnp.asarray(summary.cell_total, float),
        nodes=jnp.zeros((summary.n_groups, 1)),
        node_cells=jnp.asarray(summary.group_cells[:, None], float),
        node_counts=jnp.asarray(summary.gene_total[..., None]),
        node_detected=jnp.asarray(summary.gene_detected[..., None]),
        anchor=jnp.zeros(summary.n_cells),
        slope=jnp.zeros(summary.n_cells),
        curvature=jnp.zeros(summary.n_cells),
    )


def without_empty(evidence: Evidence) -> Evidence:
    """The same evidence without the rows behind which there is no cell: a mixture has many."""
    rise, tail = np.flatnonzero(evidence.rise_cells), np.flatnonzero(evidence.tail_cells)
    names = ("rise_row", "rise_j", "rise_cells")
    kept = {name: getattr(evidence, name)[rise] for name in names}
    return evidence._replace(
        **kept, **{n: getattr(evidence, n)[tail] for n in ("tail_row", "tail_count", "tail_cells")}
    )


def _survivors(summary: Summary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, j, number of cells with count > j) for all j < RISE where there is such a cell, ordered by row."""
    above, first = np.unique(summary.row, return_index=True)
    highest = np.minimum(np.maximum.reduceat(summary.count, first) if len(first) else above, RISE)
    row = np.repeat(above, highest)
    start = np.cumsum(highest) - highest
    j = np.arange(len(row)) - np.repeat(start, highest)
    tally = np.zeros(len(row))
    slot = np.repeat(start, np.diff(np.append(first, len(summary.row)))) + np.minimum(summary.count, RISE) - 1
    np.add.at(tally, slot, summary.cells)
    reverse = np.cumsum(tally[::-1])[::-1]  # cells of this row with count > j, and of all later rows
    later = np.append(reverse, 0)[start + highest]
    return row, j, reverse - np.repeat(later, highest)
