r"""Which features each cell has: the sum over all subsets of its non-zeros, and over its ambient amount.

.. math::
    p(x_c) = \int p(\lambda) \prod_f p_0(x_{cf} \mid \lambda) \sum_z t_{|z|} \prod_f (1 - p_f)^{1 - z_f}
    \bigl(p_f\, \mathrm{BF}_{cf}(\lambda)\bigr)^{z_f}\, d\lambda, \qquad t_K = \pi_K / P(K \mid p)

:math:`\pi_K` is the probability of K features, :math:`P(K \mid p)` that which they would have independently.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import logit

from scbayes.counts._threads import over_rows
from scbayes.models._feature_counts import Features, Nodes, Pairs, log_ratios, log_zeros
from scbayes.stats._jit import jit
from scbayes.stats._presence import add_up, of_each, of_numbers, split_up

#: Posterior weight below which a node is left out.
NEGLIGIBLE = 1e-7
#: Parts of the cells with sums of their own: the same on all machines.
N_PARTS = 4
#: Log posterior odds stay within.
LIMIT = 700.0


class Cells(NamedTuple):
    """What is believed of cells.

    ``log_odds`` of presence by non-zero; ``number`` of features present ``(n, K + 1)``; ``node`` ``(n, G)``; log
    ``evidence`` ``(n,)``; ``weight`` and ``present`` ``(P, G)``: cells with each distinct count, and those of them that
    have the feature.
    """

    log_odds: np.ndarray
    number: np.ndarray
    node: np.ndarray
    evidence: np.ndarray
    weight: np.ndarray
    present: np.ndarray


class Tables(NamedTuple):
    """What cells look up, ``(P, G)`` by distinct count and node.

    ``odds`` are log odds of presence but for the number; ``absent`` is the log ratio of the probability of the count to
    that of zero where the feature is absent. ``base`` ``(B, G)`` is the log weight of a node without counts.
    """

    odds: np.ndarray
    absent: np.ndarray
    base: np.ndarray


class Sets(NamedTuple):
    """The most probable set of each cell.

    ``order`` are the non-zeros of each cell by their odds, the largest first; the first ``size`` ``(n,)`` are the set,
    and ``probability`` ``(n,)`` that of exactly these. ``single`` ``(n,)`` is that of the first alone.
    """

    order: np.ndarray
    size: np.ndarray
    probability: np.ndarray
    single: np.ndarray


def tilts(features: Features) -> np.ndarray:
    """Log factors of the numbers of features, ``(B, K + 1)``."""
    most = features.number.shape[1] - 1
    alone = np.stack([of_numbers(own, most) for own in features.prevalence])
    return np.log(np.maximum(features.number, 1e-300)) - np.log(np.maximum(alone, 1e-300))


def prior_odds(features: Features) -> np.ndarray:
    """Log odds that a cell has each feature, before its counts are seen: ``(B, F)``."""
    tilt = tilts(features)
    factor = np.exp(tilt - tilt.max(1, keepdims=True))
    return logit(np.stack([of_each(*own) for own in zip(features.prevalence, factor, strict=True)]))


def tables(pairs: Pairs, features: Features, at: Nodes) -> Tables:
    """What cells look up."""
    present, absent = log_ratios(pairs, features, at)
    prevalence = features.prevalence.ravel()[pairs.group]
    odds = present + (np.log(prevalence) - np.log1p(-prevalence))[:, None]
    base = at.weight + log_zeros(features, at) + np.log1p(-features.prevalence).sum(1)[:, None]
    return Tables(odds, absent, base)


def judge(x: sparse.csr_array, batch: np.ndarray, pairs: Pairs, features: Features, found: Tables) -> Cells:
    """Posterior of each cell."""
    n, n_nodes = x.shape[0], found.base.shape[1]
    tilt = tilts(features)
    top = tilt.max(1)  # so that factors are at most one
    factor = np.exp(tilt - top[:, None])
    scale = np.logaddexp(0, found.odds)
    looked_up = np.exp(-scale), np.exp(found.odds - scale), scale + found.absent
    cells = Cells(
        np.empty(x.nnz), np.zeros((n, factor.shape[1])), np.zeros((n, n_nodes)), np.zeros(n), *_two(found.odds)
    )
    parts = [_two(found.odds) for _ in range(N_PARTS)]

    def run(part: int, own: slice, indptr, _, __) -> None:
        rows = cells.number[own], cells.node[own], cells.evidence[own]
        base = found.base + top[:, None]
        _judge(indptr, pairs.of, *looked_up, base, batch[own], factor, cells.log_odds, *rows, *parts[part])

    over_rows(run, x, n_parts=N_PARTS)
    for weight, present in parts:
        cells.weight[...] += weight
        cells.present[...] += present
    return cells


def likeliest_sets(
    x: sparse.csr_array, batch: np.ndarray, pairs: Pairs, features: Features, found: Tables, cells: Cells
) -> Sets:
    """The most probable of the sets of the k likeliest features, for k from 0 to all, of each cell."""
    n = x.shape[0]
    rows = np.repeat(np.arange(n), np.diff(x.indptr))
    order = np.lexsort((x.indices, -cells.log_odds, rows))
    size, probability, single = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    tilt = tilts(features)
    _sets(x.indptr, pairs.of[order], *found, batch, tilt, cells.evidence, size, probability, single)
    return Sets(order, size, probability, single)


def _two(like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(like), np.zeros_like(like)


@jit
def _judge(  # noqa: PLR0917
    indptr, pair, absent, present, scale, base, batch, factor, log_odds, number, node, evidence, weight, weight_present
) -> None:
    n_nodes, n_numbers = base.shape[1], factor.shape[1]
    longest = 0
    for c in range(len(batch)):
        longest = max(longest, indptr[c + 1] - indptr[c])
    out_of, into = np.empty(longest), np.empty(longest)
    inside, outside, with_it, without = np.empty(longest), np.empty(longest), np.empty(longest), np.empty(longest)
    sums, level = np.zeros((longest + 1, n_numbers)), np.empty(n_nodes)
    for c in range(len(batch)):
        begin, n, b = indptr[c], indptr[c + 1] - indptr[c], batch[c]
        most = -np.inf
        for g in range(n_nodes):
            level[g] = base[b, g]
            for i in range(n):
                u = pair[begin + i]
                out_of[i], into[i] = absent[u, g], present[u, g]
                level[g] += scale[u, g]
            add_up(out_of, into, n, sums)
            total = 0.0
            for k in range(n_numbers):
                total += sums[n, k] * factor[b, k]
            level[g] += math.log(total) if total > 0 else -np.inf
            most = max(most, level[g])
        total = 0.0
        for g in range(n_nodes):
            total += math.exp(level[g] - most)
        evidence[c] = most + math.log(total)
        with_it[:n], without[:n] = 0.0, 0.0
        for g in range(n_nodes):
            share = math.exp(level[g] - evidence[c])
            node[c, g] = share
            if share < NEGLIGIBLE:
                continue
            for i in range(n):
                u = pair[begin + i]
                out_of[i], into[i] = absent[u, g], present[u, g]
            add_up(out_of, into, n, sums)
            total = split_up(out_of, into, n, factor[b], sums, inside, outside)
            for i in range(n):
                with_it[i] += share * inside[i] / total
                without[i] += share * outside[i] / total
                weight[pair[begin + i], g] += share
                weight_present[pair[begin + i], g] += share * inside[i] / total
            for k in range(n_numbers):
                number[c, k] += share * sums[n, k] * factor[b, k] / total
        for i in range(n):
            odds = math.log(max(with_it[i], 1e-305)) - math.log(max(without[i], 1e-305))
            log_odds[begin + i] = min(max(odds, -LIMIT), LIMIT)


@jit
def _sets(  # noqa: PLR0917
    indptr, pair, odds, absent, base, batch, tilt, evidence, size, probability, single
) -> None:
    last = tilt.shape[1] - 1
    for c in range(len(batch)):
        begin, n, b = indptr[c], indptr[c + 1] - indptr[c], batch[c]
        sums = np.zeros(n + 1)
        for g in range(base.shape[1]):
            level = base[b, g] - evidence[c]
            for i in range(n):
                level += absent[pair[begin + i], g]
            for k in range(n + 1):
                if k > 0:
                    level += odds[pair[begin + k - 1], g]
                sums[k] += math.exp(min(level + tilt[b, min(k, last)], 0.0))
        size[c] = np.argmax(sums)
        probability[c] = min(sums[size[c]], 1.0)
        single[c] = min(sums[1], 1.0) if n else 0.0
