r"""Weighted summaries: histograms of the counts of each component, cells taken with their responsibilities.

The distinct pairs of a gene and a count do not change, only how many cells stand behind each: :math:`P^T w` for the
matrix P of cells x pairs.
"""

import itertools
from dataclasses import replace

import numpy as np

from scbayes.counts._summary import Summary
from scbayes.stats._jit import jit


@jit
def tally(indptr, indices, data, offset, first, count, membership, cells):
    """Add each cell's memberships (n_cells, K) to the pairs of its counts: ``cells`` has shape (n_pairs, K).

    ``count`` holds the counts of the pairs, ascending within a row; row i has the pairs ``first[i]:first[i + 1]``.
    """
    for c in range(len(indptr) - 1):
        genes, values, own = indices[indptr[c] : indptr[c + 1]], data[indptr[c] : indptr[c + 1]], membership[c]
        for i in range(len(values)):
            row = np.uint64(offset[c] + genes[i])  # unsigned: no test for an index from the end
            u = int(values[i])
            at = min(first[row] + u, first[row + np.uint64(1)]) - 1  # or before, since few small counts are missing
            while count[np.uint64(at)] > u:
                at -= 1
            to = cells[np.uint64(at)]
            for k in range(len(own)):
                to[k] += own[k]


def spread(summary: Summary, membership: np.ndarray, cells: np.ndarray) -> Summary:
    """Summary by batch and component, from the tallies ``cells`` (n_pairs, n_components)."""
    n_components = cells.shape[1]
    batch, gene = np.divmod(summary.row, summary.n_genes)
    ends = np.searchsorted(batch, np.arange(summary.n_batches + 1))
    row, count, weight = [], [], []
    for b, pairs in enumerate(slice(*pair) for pair in itertools.pairwise(ends)):  # rows ascend as they are put here
        first = (b * n_components + np.arange(n_components)) * summary.n_genes
        row.append((first[:, None] + gene[pairs]).ravel())
        count.append(np.tile(summary.count[pairs], n_components))
        weight.append(cells[pairs].T.ravel())
    parts = {"row": row, "count": count, "cells": weight}
    return replace(summary, **{name: np.concatenate(part) for name, part in parts.items()}, membership=membership)
