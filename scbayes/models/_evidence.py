"""A summary of counts as JAX arrays: what a likelihood is evaluated on."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.counts import Summary

#: Below this count, ln Gamma(u + r) - ln Gamma(r) is a sum of logarithms over a survival histogram; Stirling beyond.
RISE = 32
#: Lengths of lists of entries: at least the first, powers of two up to the second.
SHORTEST, LONG = 1024, 16384


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
    """Evidence in which every cell sits at ln nu = 0: all that a model without capture needs, exactly.

    Rows behind which there is no cell are left out (a mixture has many).
    """
    from scipy.special import gammaln

    last = summary.n_groups * summary.n_genes - 1
    row, j, cells = _survivors(summary)
    rise = _padded(cells, (row, last), (j, 0))
    large = summary.count > RISE
    tail = _padded(summary.cells[large], (summary.row[large], last), (summary.count[large], RISE))
    return Evidence(
        rise_row=jnp.asarray(rise[1], jnp.int32),
        rise_j=jnp.asarray(rise[2], float),
        rise_cells=jnp.asarray(rise[0], float),
        tail_row=jnp.asarray(tail[1], jnp.int32),
        tail_count=jnp.asarray(tail[2], float),
        tail_cells=jnp.asarray(tail[0], float),
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


def _padded(cells: np.ndarray, *parts: tuple[np.ndarray, int]) -> list[np.ndarray]:
    """Entries with cells, and more without any so that lengths are few: compiled code then serves other data too.

    Short lengths are powers of two, which costs nothing; long ones multiples of an eighth of one. ``parts`` come with
    what fills them up.
    """
    used = np.flatnonzero(cells)
    power = 2 ** max(len(used) - 1, SHORTEST - 1).bit_length()
    more = power - len(used) if power <= LONG else -len(used) % (power // 16)
    filled = [np.concatenate([part[used], np.full(more, fill, part.dtype)]) for part, fill in parts]
    return [np.concatenate([cells[used], np.zeros(more, cells.dtype)]), *filled]


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
