"""Feature barcodes with known truth, what an oracle makes of them, other methods, and scores."""

from typing import NamedTuple

import numpy as np
from scipy import sparse, stats


class Simulated(NamedTuple):
    """Counts ``x`` and native counts ``native``, CSR cells x features; features ``carried`` by each cell, ``number``.

    ``rate`` and ``mean`` of each non-zero are its true ambient rate and native mean (of a carrier); ``size`` is that of
    native counts. ``profile`` is ``(n_batches, n_features)``, ``prior`` the probability of presence of each feature.
    """

    x: sparse.csr_array
    native: sparse.csr_array
    number: np.ndarray
    batch: np.ndarray
    profile: np.ndarray
    rate: np.ndarray
    mean: np.ndarray
    size: float
    share: np.ndarray
    numbers: np.ndarray


def simulate(
    n_cells: int,
    n_features: int,
    *,
    total: float = 20,
    ambient: float = 0.25,
    moi: float | None = None,
    doublets: float = 0.08,
    negatives: float = 0.05,
    size: float = 4.0,
    ambient_size: float | None = None,
    low: float = 0.0,
    n_batches: int = 1,
    seed: int = 0,
) -> Simulated:
    """Cells with one feature, a pair or none, or with Poisson(``moi``) ones.

    The mean of all counts of a cell is ``total``, of which ``ambient`` is the share of ambient ones. Cells differ in
    their capture (log sd 0.4, native counts with its power 0.6), ambient amounts by 0.25 more; features in their native
    means (0.25), in how many cells they are, and widely in the ambient profile (exponential, in each batch another). A
    share ``low`` of the cells has 0.35 times the counts of the others.
    """
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, n_batches, n_cells)
    profile = rng.dirichlet(np.ones(n_features), n_batches) + 1e-3 / n_features
    profile /= profile.sum(1, keepdims=True)
    share = rng.dirichlet(np.full(n_features, 8.0))
    if moi is None:
        numbers = np.array([negatives, 1 - negatives - doublets, doublets])
    else:
        numbers = stats.poisson.pmf(np.arange(40), moi)
    number = np.minimum(rng.choice(len(numbers), n_cells, p=numbers / numbers.sum()), n_features)
    capture = np.exp(rng.normal(0, 0.4, n_cells))
    depth = np.where(rng.random(n_cells) < low, 0.35, 1.0)
    amount = capture * depth * np.exp(rng.normal(0, 0.25, n_cells))
    amount *= total * ambient / amount.mean()
    means = np.exp(rng.normal(0, 0.25, (n_batches, n_features)))
    own = [rng.choice(n_features, k, replace=False, p=share) for k in number]
    row, column = np.repeat(np.arange(n_cells), number), np.concatenate(own)
    scale = capture**0.6 * depth
    mean = means[batch[row], column] * scale[row]
    level = total * (1 - ambient) * n_cells / mean.sum()
    native = sparse.csr_array((rng.poisson(rng.gamma(size, mean * level / size)), (row, column)), (n_cells, n_features))
    native.eliminate_zeros()

    def floats(c: int) -> sparse.csr_array:
        rate = amount[c] * profile[batch[c]]
        noise = 1.0 if ambient_size is None else rng.gamma(ambient_size, 1 / ambient_size, n_features)
        return sparse.csr_array(rng.poisson(rate * noise)[None])

    x = sparse.csr_array(sparse.vstack([floats(c) for c in range(n_cells)], format="csr") + native)
    x.eliminate_zeros()
    x.sort_indices()
    row = np.repeat(np.arange(n_cells), np.diff(x.indptr))
    rate, mean = amount[row] * profile[batch[row], x.indices], level * scale[row] * means[batch[row], x.indices]
    return Simulated(x, native, number, batch, profile, rate, mean, size, share, numbers)


def truth(simulated: Simulated) -> np.ndarray:
    """Whether each non-zero has native counts."""
    x = simulated.x
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    return np.asarray(simulated.native[row, x.indices]).ravel() > 0


def oracle(simulated: Simulated) -> np.ndarray:
    """Probability that each non-zero is native, where all parameters and the ambient amount and capture are known.

    It is a bound that no method reaches: those of a cell are known exactly. The number of features is that of the
    carried ones, of which few have no counts.
    """
    x, most = simulated.x, len(simulated.numbers)
    convolved, zero = np.zeros(x.nnz), simulated.size / (simulated.size + simulated.mean)
    for n in range(1, int(x.data.max()) + 1):
        some = x.data >= n
        native = stats.nbinom.pmf(n, simulated.size, zero[some])
        convolved[some] += native * stats.poisson.pmf(x.data[some] - n, simulated.rate[some])
    absent = np.maximum(stats.poisson.pmf(x.data, simulated.rate), 1e-12 * convolved)  # surer than sure overflows
    ratio = convolved / absent * simulated.share[x.indices]
    prior = _symmetric(simulated.share, most)
    factor = np.where(prior > 0, simulated.numbers / np.maximum(prior, 1e-300), 0)
    found = np.empty(x.nnz)
    for begin, end in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        own = ratio[begin:end]
        every = _symmetric(own, most) @ factor
        for i in range(len(own)):
            rest = _symmetric(np.delete(own, i), most)
            found[begin + i] = own[i] * (rest[:-1] @ factor[1:]) / every
    return found


def _symmetric(value: np.ndarray, most: int) -> np.ndarray:
    """Elementary symmetric polynomials of orders from 0 to ``most - 1``."""
    sums = np.zeros(most)
    sums[0] = 1
    for v in value:
        sums[1:] += v * sums[:-1].copy()
    return sums


def scores(simulated: Simulated, probability: np.ndarray) -> dict[str, float]:
    """Presence of native counts in every cell and feature, zeros included, at probabilities above a half.

    "at the share" is the balanced accuracy where the limit is the share of presences, which is best for it. Calibration
    errors are mean differences of probability and share of native in ten bins of equally many non-zeros, of all and of
    those that are undecided (0.01 to 0.99); the latter also as chance alone makes it.
    """
    native, n_all = truth(simulated), np.prod(simulated.x.shape)
    level = {"balanced accuracy": 0.5, "at the share": native.sum() / n_all}
    found = {name: balanced(native, probability > limit, n_all) for name, limit in level.items()}
    undecided = (probability > 0.01) & (probability < 0.99)
    called = probability > 0.5
    found |= {"found": called[native].mean(), "false": (~native)[called].mean()}
    found["F1"] = f1(native, called)
    found["ECE"] = calibration_error(probability, native)
    found["ECE, undecided"] = calibration_error(probability[undecided], native[undecided])
    found["by chance"] = by_chance(probability[undecided])
    return found | {"undecided": int(undecided.sum())}


def by_chance(probability: np.ndarray) -> float:
    """Calibration error of probabilities that are right, by the luck of so many draws."""
    rng = np.random.default_rng(0)
    return float(
        np.mean([calibration_error(probability, rng.random(len(probability)) < probability) for _ in range(20)])
    )


def balanced(native: np.ndarray, called: np.ndarray, n_all: int) -> float:
    return (called[native].mean() + 1 - (called & ~native).sum() / (n_all - native.sum())) / 2


def f1(native: np.ndarray, called: np.ndarray) -> float:
    return 2 * (called & native).sum() / max(called.sum() + native.sum(), 1)


def calibration_error(probability: np.ndarray, native: np.ndarray) -> float:
    bins = [part for part in np.array_split(np.argsort(probability, kind="stable"), 10) if len(part)]
    apart = [len(part) * abs(probability[part].mean() - native[part].mean()) for part in bins]
    return sum(apart) / max(len(probability), 1)


def cell_ranger(simulated: Simulated) -> np.ndarray:
    """Two normals of log10(1 + count) for each feature, as in Cell Ranger and crispat's Gauss."""
    from sklearn.mixture import GaussianMixture

    x, found = sparse.csc_array(simulated.x), np.zeros(simulated.x.shape, np.float32)
    for f in range(x.shape[1]):
        value = np.zeros(x.shape[0])
        own = slice(x.indptr[f], x.indptr[f + 1])
        value[x.indices[own]] = np.log10(1 + x.data[own])
        if len(np.unique(value)) > 2:
            fitted = GaussianMixture(2, random_state=0).fit(value[:, None])
            found[:, f] = fitted.predict_proba(value[:, None])[:, fitted.means_.argmax()]
    row = np.repeat(np.arange(x.shape[0]), np.diff(simulated.x.indptr))
    return found[row, simulated.x.indices]


def scar_rule(simulated: Simulated) -> np.ndarray:
    """SCAR's ratio of Poisson distribution to density above 3, at the true ambient rates: 0 or 1."""
    x, rate = simulated.x, simulated.rate
    total = np.asarray(x.sum(1)).ravel()[np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))]
    ambient = np.bincount(np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), rate, x.shape[0])
    adjust = np.maximum(total - ambient[np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))], 0) / x.shape[1]
    log = stats.poisson.logcdf(x.data, rate + adjust) - stats.poisson.logpmf(x.data, rate + adjust)
    return (log > np.log(3)).astype(float)


def best_limit(simulated: Simulated) -> dict[str, float]:
    """Balanced accuracy and F1 of the limit of counts that is best for each, chosen by the truth."""
    native, n_all = truth(simulated), np.prod(simulated.x.shape)
    called = [simulated.x.data >= limit for limit in range(1, 30)]
    best = {"balanced": max(balanced(native, own, n_all) for own in called)}
    return best | {"F1": max(f1(native, own) for own in called)}
