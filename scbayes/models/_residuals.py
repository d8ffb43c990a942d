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
from scbayes.stats._randomised import keys, negative_binomial_tails, place, uniform

#: Bins of the uniform residuals of each gene: the resolution of the Kolmogorov-Smirnov distance.
N_BINS = 512
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
        Float64 ``(n_genes, 8)``: sums of residuals and of their squares; zeros, expected zeros and the variance of
        their number; squared distances of counts from their means, the expectation of that; counts.
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


class Factors(NamedTuple):
    """Structure in the residuals of two sets of genes: each gene is compared with the set that it is not in.

    Attributes
    ----------
    score
        Float64 ``(2, n_cells, n_factors)``: mean 0, variance 1, orthogonal.
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
    by_gene = [np.zeros((0, 1)) if part is None else part for part in (parameters.gate,)]
    size, odds, gate = (
        np.ascontiguousarray(part.reshape(-1, part.shape[-1])[:, :n_genes].T, float) if part.ndim == 3 else part
        for part in (parameters.size, np.exp(parameters.log_odds), *by_gene)
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
        np.zeros((n_genes, 8)),
        np.zeros((n_genes, N_BINS), np.int32),
        np.zeros((n_cells, 2)),
        np.zeros((n_genes, factors.score.shape[-1])),
    )
    for first, block in counts.blocks():
        cells = slice(first, first + block.shape[0])
        columns = block.tocsc()
        parts = columns.indptr, columns.indices, columns.data
        score = np.ascontiguousarray(factors.score[:, cells])
        _add(*parts, first, table, score, factors.which, sums)
    return sums


def residual_columns(table: Tables, counts: Counts, genes: np.ndarray):
    """Residuals of some genes: first cell and float64 ``(n_cells in the block, len(genes))`` of each block."""
    for first, block in counts.blocks():
        columns = block[:, genes].tocsc()
        out = np.empty(columns.shape)
        _fill(columns.indptr, columns.indices, columns.data, first, table, np.asarray(genes, np.int64), out)
        yield first, out


def shared_factors(table: Tables, counts: Counts) -> Factors:
    """Principal components of the residuals of the most variable genes, in two sets of genes.

    Where the model holds, residuals of different genes are independent, and a gene's residuals know nothing of the
    factors of genes other than itself. A group of cells that the model does not have shifts many genes at once.
    """
    detected, excess = _variability(table, counts)
    least = max(MIN_DETECTED, MIN_SHARE * counts.n_cells)
    order = np.argsort(-np.where(detected >= least, excess, -np.inf), kind="stable")
    order = order[: min(2 * N_FACTOR_GENES, int(np.sum(detected >= least)))]
    halves = order[::2], order[1::2]
    n_factors = int(min(N_FACTORS, len(halves[1]) // 2, counts.n_cells // 4))
    which = np.zeros(len(detected), np.int64)
    which[halves[0]] = 1
    score = np.zeros((2, counts.n_cells, n_factors))
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
    return np.concatenate([(block - mean) @ weight for _, block in residual_columns(table, counts, genes)])


def _variability(table: Tables, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Of each gene: cells that detect it, and squared distances from the cells' means over the sum of these."""
    n_cells, (n_genes, n_groups) = len(table.nu), table.size.shape
    weight = np.zeros((n_cells, n_groups))
    cell = np.repeat(np.arange(n_cells), np.diff(table.start))
    weight[cell, table.group] = table.share * table.nu[cell]
    mean = table.size * table.odds
    if len(table.gate):
        mean = mean * (1 - table.gate)
    detected, square = np.zeros(n_genes), np.einsum("gi,ij,gj->g", mean, weight.T @ weight, mean)
    for first, block in counts.blocks():
        _distances(block.indptr, block.indices, block.data, weight[first:], mean, detected, square)
    return detected, square / np.maximum(mean @ weight.sum(0), 1e-300)


@jit
def _distances(indptr, indices, data, weight, mean, detected, square):
    """Add the cells of each gene to ``detected``, and to ``square`` (that has the squared means) what counts change."""
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
            square[g] += u * (u - 2.0 * expected)


@jit
def _zero(table, c, g):
    """Of a cell and a gene: probability of a zero, mean and variance."""
    zero, mean, second = 0.0, 0.0, 0.0
    for i in range(table.start[c], table.start[c + 1]):
        k, w = table.group[i], table.share[i]
        r, o = table.size[g, k], table.nu[c] * table.odds[g, k]
        fail = math.exp(-r * math.log1p(o))
        m = r * o
        if len(table.gate):
            gate = table.gate[g, k]
            zero += w * gate
            w *= 1.0 - gate
        zero += w * fail
        mean += w * m
        second += w * m * (1.0 + o + m)
    return zero, mean, max(second - mean * mean, 0.0)


@jit
def _residual(table, c, g, u, zero):
    """Residual of a count on the normal and on the uniform scale; ``zero`` is the probability of a zero."""
    v = uniform(table.cell_key[c], table.gene_key[g])
    if u == 0:
        return place(0.0, zero, max(1.0 - zero, 0.0), v)
    below, at, above = 0.0, 0.0, 0.0
    for i in range(table.start[c], table.start[c + 1]):
        k, w = table.group[i], table.share[i]
        parts = negative_binomial_tails(u, table.size[g, k], table.nu[c] * table.odds[g, k])
        if len(table.gate):
            gate = table.gate[g, k]
            below += w * gate
            w *= 1.0 - gate
        below += w * parts[0]
        at += w * parts[1]
        above += w * parts[2]
    return place(below, at, above, v)


@jit
def _add(indptr, indices, data, first, table, score, which, sums):  # noqa: PLR0917
    """Add a block of cells, given by columns of genes, to all sums; ``first`` is the cell of its first row."""
    n_bins, n_factors = sums.histogram.shape[1], score.shape[2]
    shared = np.zeros(n_factors)
    for g in range(len(table.gene_key)):
        i = indptr[g]
        total, square, zeros, expected, spread, distance, variance, amount = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        shared[:] = 0.0
        side = score[which[g]]
        for row in range(score.shape[1]):
            u = 0
            if i < indptr[g + 1] and indices[i] == row:
                u = int(data[i])
                i += 1
            c = first + row
            zero, mean, var = _zero(table, c, g)
            z, flat = _residual(table, c, g, u, zero)
            total += z
            square += z * z
            zeros += u == 0
            expected += zero
            spread += zero * (1.0 - zero)
            distance += (u - mean) ** 2
            variance += var
            amount += u
            sums.histogram[g, min(int(flat * n_bins), n_bins - 1)] += 1
            sums.cell[c, 0] += z
            sums.cell[c, 1] += z * z
            for j in range(n_factors):
                shared[j] += z * side[row, j]
        sums.gene[g] += np.array([total, square, zeros, expected, spread, distance, variance, amount])
        sums.shared[g] += shared


@jit
def _fill(indptr, indices, data, first, table, genes, out):  # noqa: PLR0917
    """Residuals of a block of cells, given by columns of ``genes``."""
    for j in range(len(genes)):
        i = indptr[j]
        for row in range(len(out)):
            u = 0
            if i < indptr[j + 1] and indices[i] == row:
                u = int(data[i])
                i += 1
            zero, _, _ = _zero(table, first + row, genes[j])
            out[row, j], _ = _residual(table, first + row, genes[j], u, zero)
