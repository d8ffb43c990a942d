r"""Counts of a feature barcode in a cell: what floated in, and what is the cell's own where it has the feature.

.. math::
    x_{cf} = A_{cf} + N_{cf}, \qquad A_{cf} \sim \mathrm{NB}(\lambda_c\, a_f, \phi), \qquad
    N_{cf} \mid \text{present} \sim \mathrm{NB}(m_f (\lambda_c / \bar\lambda)^\gamma, r_f) \text{ without zero}, \qquad
    \log \lambda_c \sim h

A feature is present where the cell has at least one count of its own. So a count of zero is never native, and only
non-zeros are to be judged. h is normal with mean :math:`\log\bar\lambda`, but for what many cells show. All parameters
but :math:`\gamma` are of a batch.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from scbayes.counts._threads import N_THREADS
from scbayes.stats._jit import jit

#: Counts above it are taken to a fiftieth: what they say about presence hardly changes.
EXACT, FINE = 100, 50
#: Standard deviations of log ambient amounts that nodes span to either side; numbers of nodes; their distance in
#: posterior standard deviations of the cell with most ambient counts.
SPAN, FEWEST, MOST, APART = 4.5, 15, 61, 1.2
#: Points at which the distribution of log ambient amounts is kept, in units of their spread; width of its kernel.
POINTS, KERNEL = np.linspace(-SPAN, SPAN, 31), 0.3
#: The normal distribution at these points.
NORMAL = np.exp(-(POINTS**2) / 2) / np.exp(-(POINTS**2) / 2).sum()
#: Ambient counts that are summed over: mean, and so many standard deviations, and so many more.
TAIL_SDS, TAIL = 7.0, 12
#: Sum of products of exponentials below which logarithms are added instead.
SMALLEST_SUM = 1e-280
#: Cells below which a distinct count at a node is left out of sums.
FEWEST_CELLS = 1e-12


class Features(NamedTuple):
    """Parameters: of B batches, F features, numbers of features present from 0 to K or more.

    ``profile``, ``mean``, ``size`` and ``prevalence`` are ``(B, F)``: share in the ambient counts, mean and size r of
    native counts, probability of presence but for the number. ``amount`` and ``spread`` are ``(B,)``: centre and
    standard deviation of log ambient amounts, and ``amounts`` ``(B, len(POINTS))`` their distribution in these units;
    ``ambient_size`` ``(B,)`` is phi. ``number`` is ``(B, K + 1)``. ``coupling`` is gamma.
    """

    profile: np.ndarray
    mean: np.ndarray
    size: np.ndarray
    prevalence: np.ndarray
    amount: np.ndarray
    spread: np.ndarray
    amounts: np.ndarray
    ambient_size: np.ndarray
    number: np.ndarray
    coupling: float


class Pairs(NamedTuple):
    """Distinct counts of each feature in each batch.

    ``group`` is ``batch * F + feature``, ascending, and ``count`` ascends within. ``first`` ``(B F + 1,)`` is where
    groups begin; ``of`` says for each non-zero which it is.
    """

    group: np.ndarray
    count: np.ndarray
    first: np.ndarray
    of: np.ndarray


class Nodes(NamedTuple):
    """Log ambient amounts and the log prior weight of each, ``(B, G)``."""

    amount: np.ndarray
    weight: np.ndarray


class Sums(NamedTuple):
    """Expected sums by group (and node, ``(B F, G)``).

    ``cells`` have the feature, and ``native`` counts of it; ``ambient`` counts are those of all cells. Of each group,
    ``native_above`` and ``ambient_above`` say how many such counts are above j, one group after the other; ``start``
    is where each begins.
    """

    cells: np.ndarray
    native: np.ndarray
    ambient: np.ndarray
    native_above: np.ndarray
    ambient_above: np.ndarray
    start: np.ndarray


def distinct(x, batch: np.ndarray, n_batches: int) -> Pairs:
    """The distinct counts in CSR ``x`` of cells in ``batch``."""
    n_features = x.shape[1]
    count = x.data.astype(np.int64)
    step = np.where(count > EXACT, 2.0 ** np.floor(np.log2(np.maximum(count / FINE, 1))), 1).astype(np.int64)
    count = (count + step // 2) // step * step
    group = np.repeat(batch.astype(np.int64), np.diff(x.indptr)) * n_features + x.indices
    most = int(count.max(initial=1)) + 1
    code, of = np.unique(group * most + count, return_inverse=True)
    first = np.searchsorted(code // most, np.arange(n_batches * n_features + 1))
    return Pairs(code // most, code % most, first, of.ravel())


def nodes(features: Features) -> Nodes:
    """Points of log ambient amounts, as close as cells with many ambient counts can tell."""
    spread = float(features.spread.max())
    rate = np.exp(features.amount + 2 * features.spread)[:, None] * features.profile
    known = float((1 / (1 / rate + 1 / features.ambient_size[:, None])).sum(1).max())
    told = 1 / math.sqrt(1 / spread**2 + known)
    n = int(np.clip(math.ceil(2 * SPAN * spread / (APART * told)) + 1, FEWEST, MOST))
    at = np.linspace(-SPAN, SPAN, n)
    weight = np.stack([np.exp(np.interp(at, POINTS, np.log(own))) for own in features.amounts])
    return Nodes(
        features.amount[:, None] + features.spread[:, None] * at, np.log(weight / weight.sum(1, keepdims=True))
    )


def log_ratios(pairs: Pairs, features: Features, at: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood ratios of each distinct count at each node, ``(P, G)``: present to absent, and absent to zero."""
    out = np.empty((len(pairs.count), at.amount.shape[1])), np.empty((len(pairs.count), at.amount.shape[1]))

    def run(begin: int, end: int) -> None:
        _log_ratios(begin, end, pairs.first, pairs.count, *_flat(features, at), *out)

    _in_threads(run, pairs)
    return out


def log_zeros(features: Features, at: Nodes) -> np.ndarray:
    """Log probability of no ambient count at all at each node, ``(B, G)``."""
    rate = np.exp(at.amount)[:, None] * features.profile[:, :, None]
    size = features.ambient_size[:, None, None]
    return -(size * np.log1p(rate / size)).sum(1)


def expected(pairs: Pairs, features: Features, at: Nodes, weight: np.ndarray, present: np.ndarray) -> Sums:
    """What native and ambient counts add up to.

    Parameters
    ----------
    weight, present
        Cells with each distinct count at each node, and those of them that have the feature, ``(P, G)``.
    """
    n_groups, n_nodes = len(pairs.first) - 1, at.amount.shape[1]
    largest = np.zeros(n_groups, np.int64)
    np.maximum.at(largest, pairs.group, pairs.count)
    start = np.concatenate([[0], np.cumsum(largest)])
    sums = Sums(*(np.zeros((n_groups, n_nodes)) for _ in range(3)), np.zeros(start[-1]), np.zeros(start[-1]), start)

    def run(begin: int, end: int) -> None:
        _expected(begin, end, pairs.first, pairs.count, *_flat(features, at), weight, present, *sums)

    _in_threads(run, pairs)
    return sums


def _flat(features: Features, at: Nodes) -> tuple[np.ndarray, ...]:
    """Parameters by group: ambient share, native mean and size; log amounts, and factors of native means, by batch."""
    scale = np.exp(features.coupling * (at.amount - features.amount[:, None]))
    group = features.profile.ravel(), features.mean.ravel(), features.size.ravel()
    return *group, at.amount, scale, features.ambient_size


def _in_threads(run, pairs: Pairs) -> None:
    n_groups = len(pairs.first) - 1
    ends = np.searchsorted(pairs.first, np.linspace(0, len(pairs.count), 4 * N_THREADS + 1)[1:-1])
    ends = np.concatenate([[0], ends, [n_groups]])
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(run, ends[:-1].tolist(), ends[1:].tolist()))


@jit
def _log_native(largest: int, mean: float, size: float, out: np.ndarray) -> None:
    """Log probabilities of native counts from 1 to ``largest``, zero left out."""
    log_zero = -size * math.log1p(mean / size)
    step = math.log(mean / (mean + size))
    value = log_zero - math.log(-math.expm1(log_zero))
    for n in range(1, largest + 1):
        value += step + math.log((size + n - 1) / n)
        out[n] = value


@jit
def _log_ambient(largest: int, rate: float, size: float, out: np.ndarray) -> None:
    """Log probabilities of ambient counts from 0 to ``largest``."""
    step = math.log(rate / (rate + size))
    out[0] = -size * math.log1p(rate / size)
    for n in range(1, largest + 1):
        out[n] = out[n - 1] + step + math.log((size + n - 1) / n)


@jit
def _exp(log: np.ndarray, first: int, largest: int, out: np.ndarray) -> float:
    """Exponentials of ``log`` from ``first`` to ``largest`` over the largest of them, whose log is returned."""
    most = log[first : largest + 1].max()
    for n in range(first, largest + 1):
        out[n] = math.exp(log[n] - most)
    return most


@jit
def _present(x: int, reach: tuple[int, int], ambient, native, part) -> tuple[float, int, int]:
    """Log probability of x counts where the feature is present; ``part`` has the shares of the ambient counts.

    ``ambient`` and ``native`` have log probabilities, and exponentials over the largest with its log.
    """
    first, end = max(0, min(x - 1, reach[0])), min(x, reach[1])
    log_ambient, ambient_share, most_ambient = ambient
    log_native, native_share, most_native = native
    total, most = 0.0, most_ambient + most_native
    for k in range(first, end):
        part[k] = ambient_share[k] * native_share[x - k]
        total += part[k]
    if total < SMALLEST_SUM:  # all of it is far from both
        most = -np.inf
        for k in range(first, end):
            most = max(most, log_ambient[k] + log_native[x - k])
        total = 0.0
        for k in range(first, end):
            part[k] = math.exp(log_ambient[k] + log_native[x - k] - most)
            total += part[k]
    for k in range(first, end):
        part[k] /= total
    return most + math.log(total), first, end


@jit
def _prepare(largest, rate, ambient_size, mean, size, room):
    """Reach of ambient counts, and what :func:`_present` needs of both kinds of counts."""
    sd = math.sqrt(rate + rate**2 / ambient_size)
    reach = int(rate - TAIL_SDS * sd) - TAIL, int(rate + TAIL_SDS * sd) + TAIL + 1
    _log_ambient(largest, rate, ambient_size, room[0])
    _log_native(largest, mean, size, room[2])
    ambient = room[0], room[1], _exp(room[0], 0, largest, room[1])
    return reach, ambient, (room[2], room[3], _exp(room[2], 1, largest, room[3]))


@jit
def _log_ratios(  # noqa: PLR0917
    begin, end, first, count, profile, mean, size, amount, scale, ambient_size, present, absent
) -> None:
    n_features = len(profile) // len(amount)
    room = np.empty((5, count.max() + 1))
    for h in range(begin, end):
        if first[h] == first[h + 1]:
            continue
        b, largest = h // n_features, count[first[h + 1] - 1]
        for g in range(amount.shape[1]):
            rate = math.exp(amount[b, g]) * profile[h]
            prepared = _prepare(largest, rate, ambient_size[b], mean[h] * scale[b, g], size[h], room)
            for i in range(first[h], first[h + 1]):
                x = count[i]
                present[i, g] = _present(x, *prepared, room[4])[0] - room[0, x]
                absent[i, g] = room[0, x] - room[0, 0]


@jit
def _expected(  # noqa: PLR0913, PLR0917
    begin, end, first, count, profile, mean, size, amount, scale, ambient_size,
    weight, with_it, cells, counts, floating, above, floating_above, start,
) -> None:  # fmt: skip
    n_features = len(profile) // len(amount)
    room = np.empty((5, count.max() + 1))
    for h in range(begin, end):
        if first[h] == first[h + 1]:
            continue
        b, largest = h // n_features, count[first[h + 1] - 1]
        own, other = above[start[h] : start[h + 1]], floating_above[start[h] : start[h + 1]]
        for g in range(amount.shape[1]):
            rate = math.exp(amount[b, g]) * profile[h]
            prepared = _prepare(largest, rate, ambient_size[b], mean[h] * scale[b, g], size[h], room)
            for i in range(first[h], first[h + 1]):
                x, w = count[i], with_it[i, g]
                without = max(weight[i, g] - w, 0.0)
                other[x - 1] += without
                floating[h, g] += without * x
                if w < FEWEST_CELLS:
                    continue
                _, low, high = _present(x, *prepared, room[4])
                for k in range(low, high):
                    own[x - k - 1] += w * room[4, k]
                    counts[h, g] += w * room[4, k] * (x - k)
                    floating[h, g] += w * room[4, k] * k
                    if k > 0:
                        other[k - 1] += w * room[4, k]
                cells[h, g] += w
        for j in range(len(own) - 2, -1, -1):  # counts of n are above 0, ..., n - 1
            own[j] += own[j + 1]
            other[j] += other[j + 1]
