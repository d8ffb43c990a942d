"""Features of cells, all parameters learned from the counts by expectation and maximisation."""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit

from scbayes.models._feature_cells import Cells, Sets, judge, likeliest_sets, tables, tilts
from scbayes.models._feature_counts import KERNEL, NORMAL, POINTS, Features, Nodes, Pairs, distinct, expected, nodes
from scbayes.models._feature_natives import AMBIENT_SIZE, Population, renew_ambient_size, renew_natives
from scbayes.stats._presence import of_each

#: Rounds at most and at least, and the mean change of probabilities that ends them.
N_ROUNDS, FEWEST_ROUNDS, ENOUGH = 100, 5, 5e-5
#: Non-zeros to learn from, and more for each feature; cells of each batch at least.
MANY, MANY_EACH, FEW_CELLS = 100_000, 300, 500
#: Cells' worth of what all batches have in common in each; of even numbers of features; of each feature.
FROM_ALL, EVEN, EACH = 10.0, 0.5, 0.5
#: Ambient counts' worth of the profile of all batches in that of each, where none was given.
PROFILE_COUNTS = 50.0
#: Spread of log ambient amounts at the start, and where it stays; counts of the start.
SPREAD, SPREADS = 0.5, (0.05, 3.0)
#: Cells' worth of the first spread, and of the normal distribution.
N_SPREAD, N_NORMAL = 5.0, 50.0
#: Smallest share of a feature in the ambient counts, of an even one.
SMALLEST_SHARE = 1e-3
#: Prevalences stay within.
PREVALENCES = 1e-9, 1 - 1e-6


class Calls(NamedTuple):
    """What was learned from ``n_learned`` cells, in rounds with these ``changes``, and what is believed of all cells.

    ``amount`` is the expected ambient amount of each.
    """

    features: Features
    cells: Cells
    amount: np.ndarray
    sets: Sets
    n_learned: int
    changes: list[float]

    @property
    def converged(self) -> bool:
        """Whether probabilities have settled."""
        return self.changes[-1] < ENOUGH


class Given(NamedTuple):
    """A profile ``(B, F)`` that is known as well as so many ambient counts ``(B,)`` would tell; infinite: exactly."""

    profile: np.ndarray
    counts: np.ndarray


def call(
    x: sparse.csr_array, batch: np.ndarray, n_batches: int, most: int, given: Given | None, rng: np.random.Generator
) -> Calls:
    """Learn all parameters, and judge every cell.

    Parameters
    ----------
    x
        Counts of features, cells x features, without stored zeros.
    batch
        Of each cell, integers from 0.
    most
        Largest number of features with a probability of its own; the last is for so many or more.
    given
        Profile of ambient counts; None: learned from the cells.
    rng
        Chooses the cells to learn from, where there are many.
    """
    some = _enough(x, batch, rng)
    features, changes = learn(x[some], batch[some], n_batches, most, given)
    pairs, at = distinct(x, batch, n_batches), nodes(features)
    looked_up = tables(pairs, features, at)
    cells = judge(x, batch, pairs, features, looked_up)
    sets = likeliest_sets(x, batch, pairs, features, looked_up, cells)
    amount = (cells.node * np.exp(at.amount)[batch]).sum(1)
    return Calls(features, cells, amount, sets, len(some), changes)


def learn(x: sparse.csr_array, batch: np.ndarray, n_batches: int, most: int, given: Given | None) -> tuple:
    """Parameters, and the mean change of probabilities in each round."""
    pairs = distinct(x, batch, n_batches)
    features, population = start(x, batch, n_batches, most, given)
    changes, before = [], np.full(x.nnz, 0.5)
    for _ in range(N_ROUNDS):
        at = nodes(features)
        cells = judge(x, batch, pairs, features, tables(pairs, features, at))
        now = expit(cells.log_odds)
        changes.append(float(np.abs(now - before).mean()) if x.nnz else 0.0)
        if len(changes) >= FEWEST_ROUNDS and changes[-1] < ENOUGH:
            break
        features, population = renew(x, batch, pairs, features, population, at, cells, given)
        before = now
    return features, changes


def _enough(x: sparse.csr_array, batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells to learn from, by position in ascending order."""
    share = (MANY + MANY_EACH * x.shape[1]) / max(x.nnz, 1)
    if share >= 1:
        return np.arange(x.shape[0])
    chosen = []
    for b in np.unique(batch):
        own = np.flatnonzero(batch == b)
        chosen.append(rng.permutation(own)[: max(int(share * len(own)), FEW_CELLS)])
    return np.sort(np.concatenate(chosen))


def start(x: sparse.csr_array, batch: np.ndarray, n_batches: int, most: int, given: Given | None) -> tuple:
    """Parameters where each feature's counts are native above the split of their logarithms into two classes."""
    n_features = x.shape[1]
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    native = _split(x)
    group = batch[row] * n_features + x.indices
    shape = n_batches, n_features
    n_native = np.bincount(group, native, n_batches * n_features).reshape(shape)
    own = np.bincount(group, x.data * native, n_batches * n_features).reshape(shape)
    rest = np.bincount(group, x.data * ~native, n_batches * n_features).reshape(shape)
    n_cells = np.bincount(batch, minlength=n_batches)[:, None]
    rate = (rest + 0.5) / np.maximum(n_cells - n_native, 1)
    profile = rate / rate.sum(1, keepdims=True) if given is None else given.profile
    overall = max(own.sum() / max(n_native.sum(), 1), 1.5)
    mean = (own + 3 * overall) / (n_native + 3)
    numbers = np.bincount(row, native, x.shape[0]).astype(int)
    number = np.stack(
        [np.bincount(np.minimum(numbers[batch == b], most), minlength=most + 1) for b in range(n_batches)]
    )
    number = (number + 1) / (number + 1).sum(1, keepdims=True)
    prevalence = np.clip((n_native + 0.5) / (n_cells + 1), *PREVALENCES)
    amount = np.log(np.maximum(rate.sum(1), 0.1))
    amounts = amount, np.full(n_batches, SPREAD), np.tile(NORMAL, (n_batches, 1)), np.full(n_batches, AMBIENT_SIZE)
    features = Features(profile, mean, np.full(shape, 3.0), prevalence, *amounts, number, 0.5)
    return features, Population(np.full(n_batches, np.log(overall)), np.log(3.0), np.array([0.5, 0.5]))


def renew(
    x: sparse.csr_array,
    batch: np.ndarray,
    pairs: Pairs,
    features: Features,
    population: Population,
    at: Nodes,
    found: Cells,
    given: Given | None,
) -> tuple:
    """Parameters of the largest expected log likelihood."""
    shape = features.profile.shape
    n_cells = np.bincount(batch, minlength=shape[0])
    sums = expected(pairs, features, at, found.weight, found.present)
    offset = at.amount - features.amount[:, None]
    mean, size, population, coupling = renew_natives(
        features.mean, features.size, population, features.coupling, offset, sums
    )
    profile = _profile(sums.ambient.sum(1).reshape(shape), given)
    # amounts
    node = np.stack([found.node[batch == b].sum(0) for b in range(shape[0])])
    amount = (node * at.amount).sum(1) / n_cells
    square = (node * (at.amount - amount[:, None]) ** 2).sum(1)
    spread = np.clip(np.sqrt((square + N_SPREAD * SPREAD**2) / (n_cells + N_SPREAD)), *SPREADS)
    mean = mean * np.exp(coupling * (amount - features.amount))[:, None]  # the mean at the new centre
    population = population._replace(mean=population.mean + coupling * (amount - features.amount))
    # how many, and which
    number = np.stack([found.number[batch == b].sum(0) for b in range(shape[0])])
    number = number + EVEN
    number = number + FROM_ALL * number.sum(0) / number.sum()
    prevalence = _prevalence(sums.cells.sum(1).reshape(shape), number, features)
    number = number / number.sum(1, keepdims=True)
    amounts = np.stack([smoothed(own, *part) for own, *part in zip(node, at.amount, amount, spread, strict=True)])
    ambient_size = renew_ambient_size(features, at, node, sums)
    return Features(
        profile, mean, size, prevalence, amount, spread, amounts, ambient_size, number, coupling
    ), population


def smoothed(cells: np.ndarray, at: np.ndarray, amount: float, spread: float) -> np.ndarray:
    """Distribution of log ambient amounts at the points, from ``cells`` at nodes ``at`` and the normal one."""
    kernel = np.exp(-(((POINTS[:, None] - (at - amount) / spread) / KERNEL) ** 2) / 2)
    found = kernel @ (cells / np.maximum(kernel.sum(0), 1e-300)) + N_NORMAL * NORMAL
    return found / found.sum()


def _profile(ambient: np.ndarray, given: Given | None) -> np.ndarray:
    if given is None:
        overall = ambient.sum(0) + 0.5
        counts = ambient + PROFILE_COUNTS * overall / overall.sum()
        return _floored(counts / counts.sum(1, keepdims=True))
    known = np.isinf(given.counts)[:, None]
    counts = ambient + np.where(known, 0, given.counts[:, None]) * given.profile
    return np.where(known, given.profile, counts / counts.sum(1, keepdims=True))


def _floored(profile: np.ndarray) -> np.ndarray:
    profile = np.maximum(profile, SMALLEST_SHARE / profile.shape[1])
    return profile / profile.sum(1, keepdims=True)


def _prevalence(seen: np.ndarray, number: np.ndarray, features: Features) -> np.ndarray:
    """A round of iterative scaling: odds times what is seen of a feature over what is expected of it."""
    odds = features.prevalence / (1 - features.prevalence)
    share = seen.sum(0) + EACH
    seen = seen + FROM_ALL * share / share.sum() * (seen.sum() / number.sum())
    new = np.empty_like(odds)
    tilt = tilts(features._replace(number=number / number.sum(1, keepdims=True)))
    for b in range(len(odds)):
        expected = of_each(features.prevalence[b], np.exp(tilt[b] - tilt[b].max())) * number[b].sum()
        ratio = (seen[b] / seen[b].sum()) / (expected / expected.sum())
        odds_b = odds[b] * ratio
        # independent features would be as many as there are: the scale is free but for the last number
        mean = seen[b].sum() / number[b].sum()
        p = odds_b / (1 + odds_b)
        for _ in range(20):
            odds_b *= np.clip(mean / p.sum(), 0.5, 2)
            p = odds_b / (1 + odds_b)
        new[b] = np.clip(p, *PREVALENCES)
    return new


def _split(x: sparse.csr_array) -> np.ndarray:
    """Non-zeros that lie above the split of their feature's log counts (Otsu), bool ``(nnz,)``."""
    log = np.log(x.data.astype(float))
    limit = np.full(x.shape[1], _otsu(log))
    order = np.argsort(x.indices, kind="stable")
    ends = np.searchsorted(x.indices[order], np.arange(x.shape[1] + 1))
    for f in range(x.shape[1]):
        own = log[order[ends[f] : ends[f + 1]]]
        if len(own) >= 30:
            limit[f] = _otsu(own)
    return log > limit[x.indices]


def _otsu(value: np.ndarray) -> float:
    at, n = np.unique(value, return_counts=True)
    if len(at) < 2:
        return float(at[0]) if len(at) else 0.0
    below, s = np.cumsum(n)[:-1], np.cumsum(n * at)[:-1]
    above, rest = n.sum() - below, (n * at).sum() - s
    return float(at[np.argmax(below * above * (rest / above - s / below) ** 2)])
