r"""Cells whose counts are gone: the sums over them that genes need."""

from typing import NamedTuple

import numpy as np


class Past(NamedTuple):
    """Cells that are in the pairs of a summary, and not among its cells.

    Attributes
    ----------
    batch, cell_total
        Of each of these cells, shape ``(n_cells,)``.
    nodes
        Values of ln nu, shape ``(n_batches, n_nodes)``.
    node_cells
        Sums over the cells of the weights of the nodes (see :class:`scbayes.stats._chebyshev.Chebyshev`), averaged
        over where each cell may be: ``(n_batches, n_nodes)``.
    node_counts, node_detected
        The same, times each gene's counts and detections: ``(n_batches, n_genes, n_nodes)``; no detections where the
        model has no zero inflation.
    """

    batch: np.ndarray
    cell_total: np.ndarray
    nodes: np.ndarray
    node_cells: np.ndarray
    node_counts: np.ndarray
    node_detected: np.ndarray

    def reordered(self, place: np.ndarray, n_batches: int) -> "Past":
        """With gene ``i`` at ``place[i]``, and room for more batches."""
        order, more = np.argsort(place), n_batches - len(self.nodes)
        genes = {
            name: np.pad(part[:, order] if part.size else part, ((0, more if part.size else 0), (0, 0), (0, 0)))
            for name, part in (("node_counts", self.node_counts), ("node_detected", self.node_detected))
        }
        nodes = np.concatenate([self.nodes, np.repeat(self.nodes[:1], more, 0)])
        return self._replace(nodes=nodes, node_cells=np.pad(self.node_cells, ((0, more), (0, 0))), **genes)
