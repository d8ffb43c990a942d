r"""Weighted sums of a cell's counts, with weights of each gene that do not know the cell.

Weights :math:`w_g(m_g)` that were made of the group's mean :math:`m_g`, in which the cell has a share, are fitted to
its counts. The weight without the cell is, to first order in what it has more than it should,

.. math:: s_{ct} = \sum_g u_{cg} \bigl[w_{gt} + (u_{cg} - N_c m_g)\, w'_{gt}\bigr],

where :math:`w'` is the change of w as one count is taken away.
"""

import numpy as np

from scbayes.counts._threads import over_rows
from scbayes.stats._jit import jit


def leave_out_sums(block, total: np.ndarray, weights: np.ndarray, change: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The sums :math:`s`, float64 ``(n_cells, n_weights)``, of the cells of a CSR block; cost: non-zeros x weights.

    Parameters
    ----------
    total
        :math:`N`, shape ``(n_cells,)``.
    weights, change
        w and w', shape ``(n_genes, n_weights)``.
    mean
        m, shares of the genes, shape ``(n_genes,)``.
    """
    out = np.zeros((block.shape[0], weights.shape[1]))
    tables = (np.ascontiguousarray(weights), np.ascontiguousarray(change), mean, np.asarray(total, float))

    def add(_, cells: slice, *vectors) -> None:
        _add(*vectors, tables[3][cells], *tables[:3], out[cells])

    over_rows(add, block)
    return out


@jit
def _add(indptr, indices, data, total, weights, change, mean, out):
    for c in range(len(indptr) - 1):
        to = out[c]
        for k in range(indptr[c], indptr[c + 1]):
            g = np.uint64(indices[k])
            u = float(data[k])
            more = u * (u - total[c] * mean[g])
            own, step = weights[g], change[g]
            for t in range(len(to)):
                to[t] += u * own[t] + more * step[t]
