r"""Log probabilities of the non-zero counts, added up per cell or per gene, under several components at once.

For size :math:`r` and odds :math:`o = \nu e^b`, with :math:`q = o/(1+o)`, a count exceeds the log probability of a zero
by

.. math::
    \ln\frac{p(u)}{p(0)} = \sum_{j<u} \ln\frac{(r + j)\,q}{1 + j} + E, \qquad
    E = \ln(1-\pi) + r \ln(1-q) - \ln\left(\pi + (1-\pi)(1-q)^r\right),

where :math:`E = 0` without zero inflation. The sum is the log of a product: logarithms are taken only when the product
leaves the middle of the floating point range.
"""

import math

import numpy as np

from scbayes.stats._jit import jit

#: Counts beyond this go through ln Gamma instead of a product.
LARGE = 64
#: 1 / (1 + j)
INVERSE = 1.0 / np.arange(1.0, LARGE + 1)


@jit
def score_cells(indptr, indices, data, offset, batch, size, odds, gate, weight, nu, out):  # noqa: PLR0917
    """Add what the non-zeros of each cell score to ``out`` (n_cells, n_components, 3).

    The three are the log likelihood ratio above and its first two derivatives in ln nu. ``size``, ``odds`` (exp b) and
    ``gate`` (probability; no rows without zero inflation) have shape (n_rows, n_components), ``odds`` (n_batches,
    n_components) where all genes share them; ``weight`` (n_genes) multiplies each gene's part (no entries: all 1).
    """
    n = size.shape[1]
    shared = len(odds) != len(size)
    product, q = np.ones(n), np.ones(n)
    for c in range(len(indptr) - 1):
        product[:] = 1.0
        total = 0.0
        if shared:
            for k in range(n):
                o = nu[c] * odds[batch[c], k]
                q[k] = o / (1.0 + o)
        for i in range(indptr[c], indptr[c + 1]):
            gene = indices[i]
            row = offset[c] + gene
            u = int(data[i])
            w = weight[gene] if len(weight) else 1.0
            total += w * u
            if not shared:
                for k in range(n):
                    o = nu[c] * odds[row, k]
                    q[k] = o / (1.0 + o)
                    out[c, k, 1] += w * u * (1.0 - q[k])
                    out[c, k, 2] -= w * u * q[k] * (1.0 - q[k])
            if len(weight) or u > LARGE:
                for k in range(n):
                    out[c, k, 0] += w * _log_ratio(u, size[row, k], q[k])
            else:
                _multiply(u, size[row], q, product, out[c])
            if len(gate):
                for k in range(n):
                    o = q[k] / (1.0 - q[k])
                    _add_gate(out[c, k], w, size[row, k], o, gate[row, k])
        for k in range(n):
            out[c, k, 0] += math.log(product[k])
            if shared:
                out[c, k, 1] += total * (1.0 - q[k])
                out[c, k, 2] -= total * q[k] * (1.0 - q[k])


@jit
def _multiply(u, size, q, product, out):
    """Multiply ``product`` by the factors of a count; where it leaves the middle of the range, its log goes to out."""
    for first in range(0, u, 8):  # few factors at a time stay in range
        small, large = 1.0, 1.0
        for k in range(len(size)):
            part = product[k]
            for j in range(first, min(first + 8, u)):
                part *= (size[k] + j) * q[k] * INVERSE[j]
            product[k] = part
            small, large = min(small, part), max(large, part)
        if small < 1e-150 or large > 1e150:
            for k in range(len(size)):
                out[k, 0] += math.log(product[k])
                product[k] = 1.0


@jit
def score_genes(indptr, indices, data, offset, size, odds, gate, weight, nu, out):  # noqa: PLR0917
    """Add what the non-zeros of each gene score to ``out`` (n_rows, n_components), cells weighted by ``weight``.

    Arguments as in :func:`score_cells`, but ``weight`` has shape (n_cells, n_components).
    """
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            row = offset[c] + indices[i]
            u = int(data[i])
            for k in range(size.shape[1]):
                if weight[c, k] == 0.0:
                    continue
                o = nu[c] * odds[row, k]
                value = _log_ratio(u, size[row, k], o / (1.0 + o))
                if len(gate):
                    value += _gate_ratio(size[row, k], o, gate[row, k])
                out[row, k] += weight[c, k] * value


@jit
def _log_ratio(u, r, q):
    if u > LARGE:
        return math.lgamma(u + r) - math.lgamma(r) - math.lgamma(u + 1.0) + u * math.log(q)
    total, part = 0.0, 1.0
    for j in range(u):
        part *= (r + j) * q / (1.0 + j)
        if part < 1e-150 or part > 1e150:
            total += math.log(part)
            part = 1.0
    return total + math.log(part)


@jit
def _gate_ratio(r, o, gate):
    log_fail = -r * math.log1p(o)
    return math.log1p(-gate) + log_fail - math.log(gate + (1.0 - gate) * math.exp(log_fail))


@jit
def _add_gate(out, w, r, o, gate):
    fail = (1.0 - gate) * math.exp(-r * math.log1p(o))
    opened = fail / (gate + fail)  # probability that a zero is one of the negative binomial
    rq, q = r * o / (1.0 + o), o / (1.0 + o)
    out[0] += w * _gate_ratio(r, o, gate)
    out[1] -= w * rq * (1.0 - opened)
    out[2] -= w * (rq * (1.0 - q) * (1.0 - opened) + rq * rq * opened * (1.0 - opened))
