r"""The sparse operator between cells and genes, used both ways.

Cells carry weights :math:`L_{cm}` on the nodes of an interpolation. Transposed, the counts gather them per gene,

.. math:: W_{gm} = \sum_c u_{cg} L_{cm}, \qquad D_{gm} = \sum_{c: u_{cg} > 0} L_{cm};

forward, functions of a gene tabulated on the nodes are added up per cell,

.. math:: H_{cm} = \sum_g u_{cg} A_{gm} + \sum_{g: u_{cg} > 0} E_{gm}.

Both cost the non-zeros times the nodes.
"""

import numpy as np

from scbayes.stats._jit import jit


@jit
def gather(indptr, indices, data, offset, weights, counts, detected):
    """Add the block's :math:`W` to ``counts`` and :math:`D` to ``detected`` (skipped where it has no rows)."""
    for c in range(len(indptr) - 1):
        own = weights[c]
        if not own.any():
            continue
        genes, values = indices[indptr[c] : indptr[c + 1]], data[indptr[c] : indptr[c + 1]]
        for k in range(len(values)):
            row = np.uint64(offset[c] + genes[k])  # unsigned: no test for an index from the end
            u = float(values[k])
            to = counts[row]
            for m in range(len(own)):
                to[m] += u * own[m]
            if len(detected):
                to = detected[row]
                for m in range(len(own)):
                    to[m] += own[m]


@jit
def scatter(indptr, indices, data, offset, active, per_count, per_detection, out):
    """Add the block's :math:`H` to ``out``; ``A`` is ``per_count``, ``E`` ``per_detection`` (skipped where empty).

    Only for cells that are ``active``.
    """
    found = np.empty(out.shape[1])
    for c in range(len(indptr) - 1):
        if not active[c]:
            continue
        found[:] = 0.0
        genes, values = indices[indptr[c] : indptr[c + 1]], data[indptr[c] : indptr[c + 1]]
        for k in range(len(values)):
            row = np.uint64(offset[c] + genes[k])
            u = float(values[k])
            part = per_count[row]
            for m in range(len(found)):
                found[m] += u * part[m]
            if len(per_detection):
                part = per_detection[row]
                for m in range(len(found)):
                    found[m] += part[m]
        out[c] += found
