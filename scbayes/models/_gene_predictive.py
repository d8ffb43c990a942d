r"""Density of one count of a cell given its other counts: what a gene contributes to the prediction of a cell.

Given the genes' parameters :math:`\theta`, the counts of a cell are tied by its capture probability and its component
alone, so that what the other genes say of a count follows from what all genes say of the two:

.. math::
    \frac{1}{p(u_{cg} \mid u_{c,-g}, \theta)} = \sum_k \gamma_{ck}\,
    \mathrm E\left[\frac{1}{p_k(u_{cg} \mid \nu, \theta_g)} \,\middle|\, u_c, k\right],

with the responsibilities :math:`\gamma`. The expectation over :math:`\ln\nu` (mean :math:`x`, variance
:math:`\sigma^2`) is taken to second order, :math:`\ln p - \sigma^2 (l'^2 - l'') / 2`. Over draws of :math:`\theta_g`
the density is averaged and, for cells that were fitted, WAIC's correction is subtracted: the variance of its log.

All of it is a smooth function of :math:`x` for each gene and count, and is tabulated on Chebyshev nodes where more
cells share a gene and a count than there are nodes.
"""

import math
from collections.abc import Iterator

import numpy as np

from scbayes.counts import Counts, Summary
from scbayes.models._marginal_likelihood import Marginal
from scbayes.models._parameters import POLE, Parameters
from scbayes.stats._chebyshev import chebyshev
from scbayes.stats._jit import jit

#: Numbers in a block of cells x genes.
BLOCK = 8_000_000
#: Counts beyond this go through ln Gamma instead of a product.
LARGE = 32


class Genes:
    """Log densities of single counts under one fit, in blocks of cells.

    Parameters
    ----------
    marginal
        Cells, prepared at the centre of the posterior.
    centre
        Parameters there.
    draws
        Parameters at draws from the posterior.
    counts, summary
        Counts of all cells in ``marginal``.
    corrected
        Subtract WAIC's correction: for cells that were fitted.
    """

    def __init__(
        self,
        marginal: Marginal,
        centre: Parameters,
        draws: list[Parameters],
        counts: Counts,
        summary: Summary,
        *,
        corrected: bool,
    ) -> None:
        self.counts, self.corrected = counts, corrected
        self.gamma = marginal.log_responsibilities
        self.first = np.searchsorted(summary.row, np.arange(counts.n_batches * counts.n_genes + 1))
        self.summary = summary
        n_components = len(marginal.parts)
        self.log_nu = np.zeros((counts.n_cells, n_components))
        self.variance = np.zeros((counts.n_cells, n_components))
        for k, part in enumerate(marginal.parts):
            self.log_nu[part.cells, k], self.variance[part.cells, k] = part.log_nu
        used = np.concatenate([self.log_nu[part.cells, k] for k, part in enumerate(marginal.parts)])
        gate = centre.gate is not None
        self.grid = chebyshev(float(used.min()), float(used.max()), pole=POLE[gate], tolerance=1e-6)
        often = summary.cells > len(self.grid.nodes)
        self.slot = np.where(often, np.cumsum(often) - 1, -1)
        n_rows = counts.n_batches * counts.n_genes
        rows = np.concatenate([np.arange(n_rows), summary.row[often]])
        values = np.concatenate([np.zeros(n_rows, np.int64), summary.count[often].astype(np.int64)])
        self.tables, self.laws = [], []
        for k in range(n_components):
            law = *_flat(draws, k), *_flat([centre], k)
            table = np.zeros((len(rows), 2 * len(self.grid.nodes)))
            _tabulate(rows, values, self.grid.nodes, *law, corrected, table)
            self.laws.append(law)
            self.tables.append(table)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Cells and their log densities, ``(n, n_genes)``; a block belongs to the caller."""
        n_genes = self.counts.n_genes
        step = max(1, BLOCK // n_genes)
        for first, block in self.counts.blocks():
            for start in range(0, block.shape[0], step):
                rows = block[start : start + step]
                cells = slice(first + start, first + start + rows.shape[0])
                found = np.full(rows.shape, np.nan)
                for k in range(len(self.tables)):
                    self._add(k, rows, cells, found)
                yield cells, found

    def _add(self, k: int, rows, cells: slice, found: np.ndarray) -> None:
        """Put the densities under component ``k`` into ``found``, in the harmonic mean with what is there."""
        active = np.flatnonzero(self.gamma[cells, k] > -np.inf)
        if not len(active):
            return
        rows = rows[active] if len(active) < rows.shape[0] else rows
        index = active + cells.start
        weights = self.grid.weights(self.log_nu[index, k])
        weights = np.concatenate([weights, weights * self.variance[index, k : k + 1]], 1)
        batch, n_genes = self.counts.batch[index], self.counts.n_genes
        value = np.empty((len(active), n_genes))
        for b in np.unique(batch):
            here = batch == b
            value[here] = weights[here] @ self.tables[k][b * n_genes : (b + 1) * n_genes].T
        zeros = self.counts.n_batches * n_genes
        of_cell = batch.astype(np.int64) * n_genes, weights, self.log_nu[index, k], self.variance[index, k]
        lookup = self.first, self.summary.count, self.slot, self.tables[k][zeros:]
        _fill(rows.indptr, rows.indices, rows.data, *of_cell, *lookup, *self.laws[k], self.corrected, value)
        gamma = self.gamma[index, k][:, None]
        before = found[active]
        with np.errstate(invalid="ignore"):
            both = -np.logaddexp(-before, gamma - value)
        found[active] = np.where(np.isnan(before), value - gamma, both)


def _flat(parameters: list[Parameters], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size, log odds and gate of component ``k``, ``(n_rows, n_draws)`` each; no rows for a gate of None."""
    size = np.stack([each.size[:, k].ravel() for each in parameters], 1)
    log_odds = np.stack([each.log_odds[:, k].ravel() for each in parameters], 1)
    if parameters[0].gate is None:
        return size, log_odds, np.zeros((0, len(parameters)))
    return size, log_odds, np.stack([each.gate[:, k].ravel() for each in parameters], 1)


@jit
def _log_density(u, r, b, gate, x):
    """Log probability of a count: size ``r``, odds exp(b + x), excess zeros ``gate``."""
    o = math.exp(b + x)
    log_fail = -math.log1p(o)
    if u == 0:
        value = r * log_fail
        return value if gate == 0.0 else math.log(gate + (1.0 - gate) * math.exp(value))
    log_q = b + x + log_fail
    if u > LARGE:
        value = math.lgamma(u + r) - math.lgamma(r) - math.lgamma(u + 1.0) + u * log_q
    else:
        product, value = 1.0, u * log_q
        for j in range(u):
            product *= (r + j) / (1.0 + j)
            if product < 1e-150:
                value += math.log(product)
                product = 1.0
        value += math.log(product)
    return value + r * log_fail + math.log1p(-gate)


@jit
def _predictive(u, row, x, size, log_odds, gate, corrected, work):
    """Log of the mean density over draws, less WAIC's correction if ``corrected``."""
    n = size.shape[1]
    top, total = -math.inf, 0.0
    for s in range(n):
        work[s] = _log_density(u, size[row, s], log_odds[row, s], gate[row, s] if len(gate) else 0.0, x)
        top = max(top, work[s])
        total += work[s]
    mean, density, spread = total / n, 0.0, 0.0
    for s in range(n):
        density += math.exp(work[s] - top)
        spread += (work[s] - mean) ** 2
    value = top + math.log(density / n)
    return value - spread / (n - 1) if corrected else value


@jit
def _uncertain(u, row, x, size, log_odds, gate):
    """What the log density gains per unit of variance of ln nu: half of second derivative minus squared slope."""
    r, o = size[row, 0], math.exp(log_odds[row, 0] + x)
    q = o / (1.0 + o)
    slope, bend = u * (1.0 - q) - r * q, -(u + r) * q * (1.0 - q)
    if u == 0 and len(gate):
        fail = (1.0 - gate[row, 0]) * math.exp(-r * math.log1p(o))
        opened = fail / (gate[row, 0] + fail)
        slope, bend = slope * opened, bend * opened + slope * slope * opened * (1.0 - opened)
    return (bend - slope * slope) / 2.0


@jit
def _tabulate(rows, values, nodes, size, log_odds, gate, size_0, log_odds_0, gate_0, corrected, out):  # noqa: PLR0917
    """Both parts of the density of each gene and count at each node: ``(n, 2 n_nodes)``."""
    work = np.empty(size.shape[1])
    n = len(nodes)
    for i in range(len(rows)):
        for m in range(n):
            out[i, m] = _predictive(values[i], rows[i], nodes[m], size, log_odds, gate, corrected, work)
            out[i, n + m] = _uncertain(values[i], rows[i], nodes[m], size_0, log_odds_0, gate_0)


@jit
def _fill(  # noqa: PLR0913, PLR0917
    indptr, indices, data, offset, weights, x, variance, first, count, slot, table,
    size, log_odds, gate, size_0, log_odds_0, gate_0, corrected, out,
):  # fmt: skip
    """Overwrite ``out`` (n_cells, n_genes) at the non-zeros: from ``table`` where there is a row for gene and count."""
    work = np.empty(size.shape[1])
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            row = offset[c] + indices[i]
            u = int(data[i])
            at = first[row] + np.searchsorted(count[first[row] : first[row + 1]], u)
            if slot[at] >= 0:
                value = 0.0
                for m in range(weights.shape[1]):
                    value += weights[c, m] * table[slot[at], m]
            else:
                value = _predictive(u, row, x[c], size, log_odds, gate, corrected, work)
                value += variance[c] * _uncertain(u, row, x[c], size_0, log_odds_0, gate_0)
            out[c, indices[i]] = value
