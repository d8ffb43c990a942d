r"""Data sets drawn from the model, without visiting the zeros.

Most counts are zero, and which of them are not can be drawn directly. The cells of one batch and component, sorted by
:math:`\nu`, are cut into bins of similar :math:`\nu`. In a bin with largest odds :math:`o` a count is positive with
probability at most :math:`q = (1-\pi)(1 - (1+o)^{-r})`: cells that pass with probability :math:`q` are found by jumps
of geometric length. Each of them has a uniform number :math:`v` below :math:`1 - (1+o)^{-r}`, and its count is the
quantile of its own negative binomial there, :math:`\#\{k : v < P(u > k)\}`, which is zero if :math:`v` is not below its
own probability of a positive count. A count grows with :math:`\nu` at the same :math:`v`: where smallest and largest
:math:`\nu` of the bin give one answer (tables of :math:`P(u > k)`), it is the answer, else it is computed. All this is
exact. Large means, where the quantile takes long, are drawn as Poisson counts of gamma rates.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters
from scbayes.stats._jit import jit

#: Cells whose nu differ by less than this factor share a bin, as do at least so many.
WIDTH = 1.08
FEWEST = 64
#: Means from which counts are Poisson of gamma rates.
LARGE = 24.0
#: Entries of a table, and the share of the positive counts beyond which it ends.
TABLE = 96
REST = 0.02
#: Numbers in the counts of a block of genes that are kept.
BLOCK = 4_000_000


class Sums(NamedTuple):
    """One data set, drawn or observed, summed up.

    Attributes
    ----------
    total, square, positive
        Sum over cells of counts, of their squares, and of detections: float64 ``(n_genes,)``.
    cell_total, cell_detected
        Sum of counts and number of genes detected: int64 ``(n_cells,)``.
    kept
        Counts of the genes asked for, CSR of int32 ``(n_kept, n_cells)``.
    """

    total: np.ndarray
    square: np.ndarray
    positive: np.ndarray
    cell_total: np.ndarray
    cell_detected: np.ndarray
    kept: sparse.csr_array

    @property
    def of_genes(self) -> np.ndarray:
        """Mean, variance (divided by one less than there are cells) and share of zeros of each gene: (3, n_genes)."""
        n = len(self.cell_total)
        mean = self.total / n
        variance = np.maximum(self.square - self.total * mean, 0) / max(n - 1, 1)
        return np.stack([mean, variance, 1 - self.positive / n])

    @property
    def of_cells(self) -> np.ndarray:
        """Sum of counts and number of genes detected: (2, n_cells)."""
        return np.stack([self.cell_total, self.cell_detected])


class Bins(NamedTuple):
    """Cells sorted by group, then by nu, and cut: bin b has ``order[first[b]:first[b + 1]]``, of group ``group[b]``."""

    order: np.ndarray
    nu: np.ndarray
    first: np.ndarray
    group: np.ndarray


def bins_of(group: np.ndarray, nu: np.ndarray) -> Bins:
    """Bins of cells with one group each and similar nu; ``group`` holds integers."""
    order = np.lexsort((nu, group))
    sorted_group, sorted_nu = group[order].astype(np.int64), np.ascontiguousarray(nu[order], float)
    first = _cut(sorted_group, sorted_nu, WIDTH, FEWEST)
    return Bins(order, sorted_nu, first, sorted_group[first[:-1]])


def replicate(
    parameters: Parameters,
    batch: np.ndarray,
    component: np.ndarray,
    rng: np.random.Generator,
    keep: np.ndarray | None = None,
) -> Sums:
    """Draw one data set of the cells with ``parameters.log_nu``, and sum it up.

    Parameters
    ----------
    batch, component
        Of each cell, integers ``(n_cells,)``.
    keep
        Genes whose counts are returned, increasing integers. They do not change what is drawn.
    """
    n_genes, n_cells = parameters.size.shape[2], len(parameters.log_nu)
    bins = bins_of(np.asarray(batch) * parameters.n_components + component, np.exp(parameters.log_nu))
    gate = np.zeros((0, n_genes)) if parameters.gate is None else parameters.gate
    tables = [np.ascontiguousarray(part, float).reshape(-1, n_genes) for part in (parameters.size, gate)]
    odds = np.exp(np.ascontiguousarray(parameters.log_odds)).reshape(-1, n_genes)
    keep = np.zeros(0, int) if keep is None else np.asarray(keep, int)
    sums, cells = np.zeros((3, n_genes)), np.zeros((2, n_cells), np.int64)
    kept = []
    # a few of the genes that are kept at a time; the stream of random numbers is one
    edges = [0, *keep[:: max(1, BLOCK // n_cells)][1:], n_genes]
    for start, stop in pairwise(edges):
        here = keep[(keep >= start) & (keep < stop)]
        row = np.full(n_genes, -1)
        row[here] = np.arange(len(here))
        dense = np.zeros((len(here), n_cells), np.int32)
        _draw(rng, tables[0], odds, tables[1], *bins, start, stop, row, sums, cells, dense)
        kept.append(sparse.csr_array(dense))
    return Sums(*sums, *cells, sparse.csr_array(sparse.vstack(kept)))


def observed(counts: Counts, n_genes: int, keep: np.ndarray) -> Sums:
    """Sums of the first ``n_genes`` genes of a data set; ``keep`` as in :func:`replicate`."""
    sums, cells = np.zeros((3, n_genes)), np.zeros((2, counts.n_cells), np.int64)
    kept = []
    for first, block in counts.blocks():
        _add(block.indptr, block.indices, block.data, sums, cells[:, first : first + block.shape[0]])
        kept.append(sparse.csr_array(block[:, keep]).astype(np.int32))
    return Sums(*sums, *cells, sparse.csr_array(sparse.vstack(kept).T))


def draw_components(log_probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One component per cell, from log probabilities ``(n_cells, n_components)``."""
    bounds = np.cumsum(np.exp(log_probabilities), 1)
    return np.minimum((rng.random(len(bounds))[:, None] * bounds[:, -1:] >= bounds).sum(1), bounds.shape[1] - 1)


@jit
def _add(indptr, indices, data, sums, cells):
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            g = indices[i]
            if g < sums.shape[1]:
                u = float(data[i])
                sums[0, g] += u
                sums[1, g] += u * u
                sums[2, g] += 1.0
                cells[0, c] += int(u)
                cells[1, c] += 1


@jit
def _cut(group, nu, width, fewest):
    first = [0]
    for c in range(1, len(nu)):
        start = first[-1]
        if group[c] != group[start] or (c - start >= fewest and nu[c] > width * nu[start]):
            first.append(c)
    first.append(len(nu))
    return np.array(first)


@jit
def _beyond(r, o, table, rest):
    """Fill ``table`` with P(u > k), k = 0, 1, ... until it is below ``rest`` of the first; returns their number."""
    log_zero = -r * math.log1p(o)
    q = o / (1.0 + o)
    above = -math.expm1(log_zero)
    part = math.exp(log_zero) * r * q
    stop = rest * above
    n = 0
    while n < len(table):
        table[n] = above
        n += 1
        if above <= stop:
            break
        above -= part
        part *= (r + n) * q / (n + 1.0)
    return n


@jit
def _quantile(v, r, o):
    """Number of k = 0, 1, ... with v < P(u > k), for counts u of size r and odds o."""
    log_zero = -r * math.log1p(o)
    q = o / (1.0 + o)
    above = -math.expm1(log_zero)
    part = math.exp(log_zero) * r * q
    least = 1e-18 * above  # rounding could leave a rest above a tiny v
    u = 0
    while v < above and (u == 0 or part > least):
        u += 1
        above -= part
        part *= (r + u) * q / (u + 1.0)
    return u


@jit
def _draw(rng, size, odds, gate, order, nu, first, group, begin, end, row, sums, cells, kept):  # noqa: PLR0917
    low, high = np.empty(TABLE), np.empty(TABLE)
    for g in range(begin, end):
        total, square, positive = 0.0, 0.0, 0.0
        for b in range(len(group)):
            r, o = size[group[b], g], odds[group[b], g]
            opened = 1.0 - gate[group[b], g] if len(gate) else 1.0
            start, stop = first[b], first[b + 1]
            large = r * o * nu[stop - 1] > LARGE
            top, pace, n_table = 1.0, 0.0, 0
            if not large:
                n_table = _beyond(r, o * nu[stop - 1], high, REST)
                _beyond(r, o * nu[start], low[:n_table], -1.0)
                top = high[0]
                if opened * top < 0.3:  # else every cell is looked at
                    pace = -math.log1p(-opened * top)
                    if pace <= 0.0:
                        continue
            i = start - 1
            while True:
                i += 1
                if pace > 0.0:
                    jump = rng.standard_exponential() / pace
                    if jump >= stop - i:
                        break
                    i += int(jump)
                    v = rng.random() * top
                else:
                    if i >= stop:
                        break
                    v = rng.random() / opened if opened > 0.0 else 1.0
                    if v >= top:
                        continue
                if large:
                    u = rng.poisson(rng.standard_gamma(r) * o * nu[i])
                else:
                    u = 1
                    while u < n_table and v < high[u]:
                        u += 1
                    if u == n_table or v >= low[u - 1]:
                        u = _quantile(v, r, o * nu[i])
                if u == 0:
                    continue
                total += u
                square += float(u) * u
                positive += 1.0
                cells[0, order[i]] += u
                cells[1, order[i]] += 1
                if row[g] >= 0:
                    kept[row[g], order[i]] = min(u, 2147483647)
        sums[0, g], sums[1, g], sums[2, g] = total, square, positive
