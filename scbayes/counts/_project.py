r"""The sparse operator between cells and genes, used both ways.

Cells carry weights :math:`L_{cm}` on the nodes of an interpolation. Transposed, the counts gather them per gene,

.. math:: W_{gm} = \sum_c u_{cg} L_{cm}, \qquad D_{gm} = \sum_{c: u_{cg} > 0} L_{cm};

forward, functions of a gene tabulated on the nodes are added up per cell,

.. math:: H_{cm} = \sum_g u_{cg} A_{gm} + \sum_{g: u_{cg} > 0} E_{gm}.

Both cost the non-zeros times the nodes.
"""

from scbayes.stats._jit import jit


@jit
def gather(indptr, indices, data, offset, weights, counts, detected):
    """Add the block's :math:`W` to ``counts`` and :math:`D` to ``detected`` (skipped where it has no rows)."""
    n_nodes = weights.shape[1]
    for c in range(len(indptr) - 1):
        if not weights[c].any():
            continue
        for k in range(indptr[c], indptr[c + 1]):
            row = offset[c] + indices[k]
            u = data[k]
            for m in range(n_nodes):
                counts[row, m] += u * weights[c, m]
            if len(detected):
                for m in range(n_nodes):
                    detected[row, m] += weights[c, m]


@jit
def scatter(indptr, indices, data, offset, active, per_count, per_detection, out):
    """Add the block's :math:`H` to ``out``; ``A`` is ``per_count``, ``E`` ``per_detection`` (skipped where empty).

    Only for cells that are ``active``.
    """
    n_nodes = out.shape[1]
    for c in range(len(indptr) - 1):
        if not active[c]:
            continue
        for k in range(indptr[c], indptr[c + 1]):
            row = offset[c] + indices[k]
            u = data[k]
            for m in range(n_nodes):
                out[c, m] += u * per_count[row, m]
            if len(per_detection):
                for m in range(n_nodes):
                    out[c, m] += per_detection[row, m]
