r"""How likely counts of a Dirichlet-multinomial are, beside others of the same total.

Counts :math:`x` of total :math:`n` with concentrations :math:`\alpha_g = A a_g` have the log probability

.. math::
    L = \ln\frac{n!\,\Gamma(A)}{\Gamma(A + n)} + \sum_g \ln\frac{\Gamma(x_g + \alpha_g)}{x_g!\,\Gamma(\alpha_g)}.

They come from an urn: molecule :math:`n + 1` is of a gene drawn from :math:`a` with probability :math:`A / (A + n)`,
else of the gene of an earlier molecule. So one urn gives a draw of every total up to the last, and each molecule
changes the sum by one term, :math:`\ln((x_g + \alpha_g) / (x_g + 1))`.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from scbayes.stats._jit import jit

#: Counts up to which the term of a gene is a product, and not of gamma functions.
SMALL = 20
#: Slices of the range from 0 to 1, for each gene.
N_GUIDES = 2


class Sums(NamedTuple):
    """Beside draws of the same total, ``(n,)`` each.

    ``p``: two-sided Monte Carlo p-value, :math:`2 (R + 1) / (n + 1)`, with R draws that are no likelier, or no less
    likely if those are fewer: counts of a profile with fewer genes than :math:`a` may be likelier than those of
    :math:`a`. ``z``: standard deviations of draws above their mean.
    """

    p: np.ndarray
    z: np.ndarray


def beside_draws(
    score: np.ndarray, total: np.ndarray, profile: np.ndarray, concentration: float, n_urns: int, rng
) -> Sums:
    r"""Compare samples with draws of the same totals.

    Parameters
    ----------
    score
        The sum over genes in :math:`L` of each sample, shape ``(n,)``.
    total
        Its total, integers ``(n,)``, at least 1.
    profile, concentration
        :math:`a`, shape ``(n_genes,)``, and :math:`A`.
    n_urns
        Number of draws, two or more; they are the same for all samples, whose p-values are therefore not independent.
    rng
        Generator.
    """
    order = np.lexsort((score, total))
    value = score[order]
    totals, start = np.unique(total[order], return_index=True)
    first = np.append(start, len(value))
    cumulative = np.cumsum(profile)
    cumulative /= cumulative[-1]
    # where to look for the gene of a number from 0 to 1: at the first of its slice of that range, or soon after
    guide = np.searchsorted(cumulative, np.arange(N_GUIDES * len(profile)) / (N_GUIDES * len(profile)), side="right")
    tails, moments = np.zeros((2, len(score)), np.int64), np.zeros((len(totals), 2))
    model = cumulative, guide, profile * concentration, float(concentration)
    _urns(value, totals, first, *model, n_urns, rng, tails, moments)
    for begin, end in pairwise(first.tolist()):  # a draw below one sample is below all likelier ones of its total
        tails[:, begin:end] = np.cumsum(tails[:, begin:end], 1)
    mean = moments[:, 0] / n_urns
    sd = np.sqrt(np.maximum(moments[:, 1] / n_urns - mean**2, 1e-12))
    group = np.repeat(np.arange(len(totals)), np.diff(first))
    p, z = np.empty((2, len(score)))
    fewer = np.minimum(tails[0], n_urns - tails[1])
    p[order], z[order] = np.minimum(2 * (fewer + 1) / (n_urns + 1), 1), (value - mean[group]) / sd[group]
    return Sums(p, z)


@jit
def _urns(value, totals, first, cumulative, guide, alpha, concentration, n_urns, rng, tails, moments):  # noqa: PLR0917
    """Count draws in ``tails`` at the smallest sum of a sample that is no smaller, and at the smallest that is larger.

    Sums of draws of each total, and of their squares, are added to ``moments``.
    """
    last, end = totals[-1], len(alpha) - 1
    drawn, count = np.empty(last, np.int64), np.zeros(len(alpha), np.int64)
    new = np.log(alpha)  # the terms of genes without molecules, which are the most
    for _ in range(n_urns):
        score, t = 0.0, 0
        for n in range(last):
            u = rng.random() * (concentration + n)
            if u < concentration:
                u /= concentration
                gene = guide[min(int(u * len(guide)), len(guide) - 1)]
                while gene < end and cumulative[gene] <= u:
                    gene += 1
            else:
                gene = drawn[min(int(u - concentration), n - 1)]
            have = count[gene]
            score += new[gene] if have == 0 else math.log((have + alpha[gene]) / (have + 1.0))
            count[gene] = have + 1
            drawn[n] = gene
            if n + 1 == totals[t]:
                # sums in two orders differ by rounding: equal counts are equal
                slack = 1e-9 * abs(score)
                own = value[first[t] : first[t + 1]]
                place = np.searchsorted(own, score - slack)
                if place < len(own):
                    tails[0, first[t] + place] += 1
                while place < len(own) and own[place] < score + slack:
                    place += 1
                if place < len(own):
                    tails[1, first[t] + place] += 1
                moments[t, 0] += score
                moments[t, 1] += score * score
                t += 1
        for n in range(last):
            count[drawn[n]] = 0


@jit
def add_scores(indptr, indices, data, offset, alpha, first, out):
    """Add the sum over genes in :math:`L` of each row of CSR to ``out``, ``(n, K)``.

    ``alpha`` and ``first``, its logarithm: ``(n_batches * n_genes, K)``; ``offset``: of the batch of each row in it.
    """
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            gene, x = offset[c] + indices[i], int(data[i])
            if x == 1:
                for k in range(out.shape[1]):
                    out[c, k] += first[gene, k]
            elif x <= SMALL:
                for k in range(out.shape[1]):
                    odds = 1.0
                    for j in range(1, x):
                        odds *= (j + alpha[gene, k]) / (j + 1)
                    out[c, k] += first[gene, k] + math.log(odds)
            else:
                for k in range(out.shape[1]):
                    a = alpha[gene, k]
                    out[c, k] += math.lgamma(x + a) - math.lgamma(a) - math.lgamma(x + 1.0)
