r"""Randomised quantile residuals of all counts, summed per gene and per cell without cells x genes.

The residual of a count is :math:`z_{cg} = \Phi^{-1}\big(F(u - 1) + V (F(u) - F(u - 1))\big)` with :math:`V` uniform and
:math:`F = \sum_k \gamma_{ck} F_k` the distribution of the counts of gene g in cell c. V belongs to the seed and the
names of cell and gene, so residuals depend neither on blocks nor on which other cells and genes are there.
"""

import math
from typing import NamedTuple

import numpy as np

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters
from scbayes.stats._jit import jit
from scbayes.stats._randomised import TINY, keys, negative_binomial_tails, normal_quantile, place, uniform

#: Bins of the uniform residuals of each gene: the resolution of the Kolmogorov-Smirnov distance.
N_BINS = 512
#: Cells that are looked at together.
N_ROWS = 2048
#: Cells that stand for all where a rough sum does.
N_CELLS = 512
#: Components below this share of a cell are left out of its distribution.
NEGLIGIBLE = 1e-9
#: What other genes share with a gene is sought in this many factors of at most so many genes' residuals.
N_FACTORS, N_FACTOR_GENES = 8, 128
#: Genes detected in fewer cells, or in a smaller share of cells, do not make factors.
MIN_DETECTED, MIN_SHARE = 10, 0.01


class Tables(NamedTuple):
    """What the kernels read. Groups are batches x components.

    Attributes
    ----------
    size, odds, gate
        Float64 ``(n_genes, n_groups)``: size, odds at nu = 1, probability of an excess zero (no rows without).
    nu
        ``(n_cells,)``.
    start, group, share
        Cell c has the groups ``group[start[c]:start[c + 1]]`` with probabilities ``share``.
    cell_key, gene_key
        Random numbers, uint64.
    """

    size: np.ndarray
    odds: np.ndarray
    gate: np.ndarray
    nu: np.ndarray
    start: np.ndarray
    group: np.ndarray
    share: np.ndarray
    cell_key: np.ndarray
    gene_key: np.ndarray


class Sums(NamedTuple):
    """What is summed over cells, or over genes.

    Attributes
    ----------
    gene
        Float64 ``(n_genes, 4)``: sums of residuals and of their squares; expected number of zeros, and its variance.
    histogram
        Uniform residuals, int32 ``(n_genes, N_BINS)``.
    cell
        Float64 ``(n_cells, 2)``: sums of residuals and of their squares.
    shared
        Float64 ``(n_genes, n_factors)``: sums of residuals times factors of other genes' residuals.
    """

    gene: np.ndarray
    histogram: np.ndarray
    cell: np.ndarray
    shared: np.ndarray


class Moments(NamedTuple):
    """Of each gene, float64 ``(n_genes,)`` each.

    Attributes
    ----------
    detected, amount
        Cells that have counts, and how many counts.
    expected
        Counts expected.
    distance, variance
        Sum of squared distances of counts from their means, and its expectation, the sum of their variances.
    matched_zeros
        Fraction of zeros of a negative binomial whose size is such that it has the observed `distance`, with three
        standard errors added to 1 / size.
    """

    detected: np.ndarray
    amount: np.ndarray
    expected: np.ndarray
    distance: np.ndarray
    variance: np.ndarray
    matched_zeros: np.ndarray


class Factors(NamedTuple):
    """Structure in the residuals of two sets of genes: each gene is compared with the set that it is not in.

    Attributes
    ----------
    score
        Float64 ``(2, n_factors, n_cells)``: mean 0, variance 1, orthogonal.
    which
        Set that a gene is compared with, int64 ``(n_genes,)``.
    """

    score: np.ndarray
    which: np.ndarray


def tables(parameters: Parameters, batch: np.ndarray, responsibilities: np.ndarray, names, seed: int) -> Tables:
    """Parameters as the kernels read them.

    Parameters
    ----------
    parameters
        Of all genes that ``names`` lists, and perhaps more.
    responsibilities
        Probability of each component given the cell, ``(n_cells, n_components)``.
    names
        Of the cells and of the genes.
    """
    cells, genes = names
    n_genes, n_components = len(genes), parameters.n_components
    n_groups = parameters.size.shape[0] * n_components
    size, odds, gate = (
        np.zeros((0, n_groups)) if part is None else np.ascontiguousarray(part.reshape(n_groups, -1)[:, :n_genes].T)
        for part in (parameters.size, np.exp(parameters.log_odds), parameters.gate)
    )
    kept = responsibilities > NEGLIGIBLE
    cell, component = np.nonzero(kept)
    share = responsibilities[kept]
    share /= np.bincount(cell, share, len(cells))[cell]
    return Tables(
        size,
        odds,
        gate,
        np.exp(parameters.log_nu),
        np.concatenate([[0], np.cumsum(kept.sum(1))]),
        batch[cell].astype(np.int64) * n_components + component,
        share,
        keys(cells, seed, "cell"),
        keys(genes, seed, "gene"),
    )


def residual_sums(table: Tables, counts: Counts, factors: Factors) -> Sums:
    """One pass over all cells and genes."""
    n_cells, n_genes = len(table.nu), len(table.gene_key)
    sums = Sums(
        np.zeros((n_genes, 4)),
        np.zeros((n_genes, N_BINS), np.int32),
        np.zeros((n_cells, 2)),
        np.zeros((n_genes, factors.score.shape[1])),
    )
    for first, block in _columns(counts):
        score = np.ascontiguousarray(factors.score[:, :, first : first + block.shape[0]])
        _add(block.indptr, block.indices, block.data, first, table, score, factors.which, sums)
    return sums


def residual_columns(table: Tables, counts: Counts, genes: np.ndarray):
    """Residuals of some genes: first cell and float64 ``(n_cells in the block, len(genes))`` of each block."""
    for first, block in _columns(counts, genes):
        out = np.empty(block.shape)
        _fill(block.indptr, block.indices, block.data, first, table, np.asarray(genes, np.int64), out)
        yield first, out


def _columns(counts: Counts, genes=slice(None)):
    """First cell and CSC of each block of cells, few enough for the processor's cache."""
    for start, block in counts.blocks():
        for first in range(0, block.shape[0], N_ROWS):
            yield start + first, block[first : first + N_ROWS, genes].tocsc()


def shared_factors(table: Tables, counts: Counts, moments: Moments) -> Factors:
    """Principal components of the residuals of the most variable genes, in two sets of genes.

    Where the model holds, residuals of different genes are independent, and a gene's residuals know nothing of the
    factors of other genes. A group of cells that the model does not have shifts many genes at once.
    """
    n_cells, detected = counts.n_cells, moments.detected
    eligible = detected >= max(MIN_DETECTED, MIN_SHARE * n_cells)
    excess = np.where(eligible, moments.distance / np.maximum(moments.expected, TINY), -np.inf)
    order = np.argsort(-excess, kind="stable")[: min(2 * N_FACTOR_GENES, int(eligible.sum()))]
    halves = order[::2], order[1::2]
    n_factors = int(min(N_FACTORS, len(halves[1]) // 2, n_cells // 4))
    which = np.zeros(len(detected), np.int64)
    which[halves[0]] = 1
    score = np.zeros((2, n_factors, n_cells))
    for part, genes in zip(score, halves, strict=True):
        if n_factors:
            part[:] = _principal(table, counts, genes, n_factors)
    return Factors(score, which)


def _principal(table: Tables, counts: Counts, genes: np.ndarray, n_factors: int) -> np.ndarray:
    """Scores of the first principal components of the residuals of ``genes``: mean 0 and variance 1."""
    total, gram = np.zeros(len(genes)), np.zeros((len(genes), len(genes)))
    for _, block in residual_columns(table, counts, genes):
        total += block.sum(0)
        gram += block.T @ block
    mean = total / counts.n_cells
    value, vector = np.linalg.eigh(gram / counts.n_cells - np.outer(mean, mean))
    weight = vector[:, ::-1][:, :n_factors] / np.sqrt(value[::-1][:n_factors])
    return np.concatenate([weight.T @ (block - mean).T for _, block in residual_columns(table, counts, genes)], 1)


def gene_moments(table: Tables, counts: Counts) -> Moments:
    """Counts and squared distances from their means, observed and expected: one pass over the non-zeros."""
    n_cells, (n_genes, n_groups) = len(table.nu), table.size.shape
    cell = np.repeat(np.arange(n_cells), np.diff(table.start))
    weight = np.zeros(
        (n_cells, n_groups)
    )  # a mean is a product of this and `mean`, one factor for cells, one for genes
    weight[cell, table.group] = table.share * table.nu[cell]
    square = np.bincount(table.group, table.share * table.nu[cell] ** 2, n_groups)
    mean = table.size * table.odds
    opened = 1 - table.gate if len(table.gate) else np.ones_like(mean)
    second = (opened * mean) @ weight.sum(0) + (opened * mean * (table.odds + mean)) @ square
    mean = mean * opened
    squared_means = np.einsum("gi,ij,gj->g", mean, weight.T @ weight, mean)
    detected, amount, distance = np.zeros(n_genes), np.zeros(n_genes), squared_means.copy()
    for first, block in counts.blocks():
        _distances(block.indptr, block.indices, block.data, weight[first:], mean, detected, amount, distance)
    expected = mean @ weight.sum(0)
    order = np.lexsort((table.nu, weight.argmax(1)))  # so that a few evenly spaced cells stand for all
    few = weight[order[np.linspace(0, n_cells - 1, min(n_cells, N_CELLS)).round().astype(int)]]
    dispersion = np.maximum((distance - expected) / np.maximum(squared_means, TINY), 1e-6)
    # a variance from n cells has about this relative error in a negative binomial: what it may be at most counts
    dispersion = np.minimum(dispersion * (1 + 3 * np.sqrt((2 + 6 * dispersion) / n_cells)), 1e6)
    matched = np.zeros(n_genes)
    for cell_weight in few:
        matched += np.exp(-np.log1p(mean @ cell_weight * dispersion) / dispersion) / len(few)
    return Moments(detected, amount, expected, distance, np.maximum(second - squared_means, 0), matched)


@jit
def _distances(indptr, indices, data, weight, mean, detected, amount, distance):
    """Add cells and counts of each gene, and what counts change in ``distance``, which has the squared means."""
    n_genes = len(mean)
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            g, u = indices[i], float(data[i])
            if g >= n_genes:
                continue
            expected = 0.0
            for k in range(mean.shape[1]):
                expected += weight[c, k] * mean[g, k]
            detected[g] += 1.0
            amount[g] += u
            distance[g] += u * (u - 2.0 * expected)


@jit
def _zeros(table, first, g, zero, flat):
    """Probability of a zero in gene ``g`` of each cell of a block, and the uniform residual that a zero has."""
    plain = len(table.gate) == 0
    for row in range(len(zero)):
        c = first + row
        found = 0.0
        for i in range(table.start[c], table.start[c + 1]):
            k = table.group[i]
            fail = math.exp(-table.size[g, k] * math.log1p(table.nu[c] * table.odds[g, k]))
            if not plain:
                fail += table.gate[g, k] * (1.0 - fail)
            found += table.share[i] * fail
        zero[row] = found
        flat[row] = max(found * uniform(table.cell_key[c], table.gene_key[g]), TINY)


@jit
def _positive(table, c, g, u):
    """Residual of a count above zero on the normal and on the uniform scale."""
    below, at, above = 0.0, 0.0, 0.0
    for i in range(table.start[c], table.start[c + 1]):
        k, w = table.group[i], table.share[i]
        parts = negative_binomial_tails(u, table.size[g, k], table.nu[c] * table.odds[g, k])
        if len(table.gate):
            below += w * table.gate[g, k]
            w *= 1.0 - table.gate[g, k]
        below += w * parts[0]
        at += w * parts[1]
        above += w * parts[2]
    return place(below, at, above, uniform(table.cell_key[c], table.gene_key[g]))


@jit
def _residuals(indices, data, first, table, g, zero, flat, z):
    """Residuals of gene ``g`` in a block of cells. Most are those of zeros: loops that do one thing are faster."""
    _zeros(table, first, g, zero, flat)
    for row in range(len(z)):
        z[row] = normal_quantile(flat[row])
    for i in range(len(indices)):
        row = indices[i]
        z[row], flat[row] = _positive(table, first + row, g, int(data[i]))


@jit
def _add(indptr, indices, data, first, table, score, which, sums):
    """Add a block of cells, given by columns of genes, to all sums; ``first`` is the cell of its first row."""
    n_bins, n = sums.histogram.shape[1], score.shape[2]
    zero, flat, z = np.empty(n), np.empty(n), np.empty(n)
    for g in range(len(table.gene_key)):
        column = slice(indptr[g], indptr[g + 1])
        _residuals(indices[column], data[column], first, table, g, zero, flat, z)
        for row in range(n):
            sums.histogram[g, min(int(flat[row] * n_bins), n_bins - 1)] += 1
        total, square, expected, spread = 0.0, 0.0, 0.0, 0.0
        for row in range(n):
            total += z[row]
            square += z[row] * z[row]
            expected += zero[row]
            spread += zero[row] * (1.0 - zero[row])
            sums.cell[first + row, 0] += z[row]
            sums.cell[first + row, 1] += z[row] * z[row]
        sums.gene[g, 0] += total
        sums.gene[g, 1] += square
        sums.gene[g, 2] += expected
        sums.gene[g, 3] += spread
        for j in range(score.shape[1]):
            sums.shared[g, j] += np.dot(score[which[g], j], z)


@jit
def _fill(indptr, indices, data, first, table, genes, out):
    """Residuals of a block of cells, given by columns of ``genes``."""
    zero, flat, z = np.empty(len(out)), np.empty(len(out)), np.empty(len(out))
    for j in range(len(genes)):
        column = slice(indptr[j], indptr[j + 1])
        _residuals(indices[column], data[column], first, table, genes[j], zero, flat, z)
        out[:, j] = z
