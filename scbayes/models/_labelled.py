r"""Components estimated from cells whose component is known, and what other cells score under them.

Counts are :math:`\mathrm{NB}(r_g, \text{mean } \nu_c \mu_{kg})`; :math:`\nu_c` is the cell's total over the mean total.
The means of a gene come from a gamma distribution around its mean over all cells, whose width is learned from how much
components differ in it; :math:`r_g` comes from second moments, drawn towards the median gene. Closed form throughout:
estimates without a fold of the cells cost a subtraction, so that every cell is scored by estimates that have not seen
it.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import gammaln, softmax

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters, score_cells
from scbayes.models._typical import Typicality, typicality

#: Parts into which cells are divided: each is scored by estimates from the others.
N_FOLDS = 5
#: Shapes that the gamma distribution of a gene's means may have.
SHAPES = np.array([0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 256, 2048])
#: Dispersions 1/r are kept within these; the weight of the median gene's, in cells' worth of information.
DISPERSION = (0.01, 20.0)
SHRINKAGE = 10.0
#: Genes with so much information on their dispersion make up the median; the least and, without such genes, the median.
INFORMED, LEAST, USUAL = 20.0, 0.02, 0.1
#: Counts' worth of trust that batches do not differ in a gene.
BATCH_COUNTS = 10.0


class Sums(NamedTuple):
    """What estimates read from cells, with 1 for each cell in its component.

    Attributes
    ----------
    seen, with_nu
        Sums of u and of nu u, ``(n_batches, n_genes, n_components)``.
    square
        Sum of squared counts, ``(n_genes,)``.
    exposure, twice
        Sums of nu and of its square, ``(n_batches, n_components)``.
    """

    seen: np.ndarray
    with_nu: np.ndarray
    square: np.ndarray
    exposure: np.ndarray
    twice: np.ndarray

    def without(self, other: "Sums") -> "Sums":
        """Those of the other cells."""
        return Sums(*[a - b for a, b in zip(self, other, strict=True)])

    def together(self) -> "Sums":
        """Those of all components as one."""
        return Sums(*[part if part.ndim == 1 else part.sum(-1, keepdims=True) for part in self])


class Scored(NamedTuple):
    """Log likelihood of each cell under each component, ``(n_cells, n_components)``, and how typical the cells are."""

    scores: np.ndarray
    typical: Typicality | None


class Estimates(NamedTuple):
    """Components, all of them as one, and the total of a cell with nu = 1."""

    components: Parameters
    background: Parameters
    level: float


def cross_scores(
    counts: Counts, code: np.ndarray, n_components: int, rng: np.random.Generator, *, judge: bool
) -> tuple[Scored, Estimates]:
    """Score labelled cells by estimates from other labelled cells, and estimate from all of them.

    Parameters
    ----------
    counts
        Of the labelled cells.
    code
        Component of each.
    judge
        Also say how typical cells are of their best component.
    """
    n, total = counts.n_cells, totals(counts)
    level = max(float(total.mean()), 0.5)
    fold = _folds(code, rng)
    subsets = [np.flatnonzero(fold == f) for f in range(N_FOLDS)]
    parts = [some_cells(counts, cells) for cells in subsets]
    own = np.eye(n_components)[code]
    sums = [_sums(part, own[cells], total[cells], level) for part, cells in zip(parts, subsets, strict=True)]
    whole = Sums(*[sum(values) for values in zip(*sums, strict=True)])
    scores = np.zeros((n, n_components))
    typical = Typicality(np.zeros(n, int), np.zeros(n), np.zeros(n)) if judge else None
    for part, cells, removed in zip(parts, subsets, sums, strict=True):
        if len(cells):
            found = evaluate(estimate(whole.without(removed), level), part, judge=judge)
            scores[cells] = found.scores
            if judge:
                for mine, theirs in zip(typical, found.typical, strict=True):
                    mine[cells] = theirs
    return Scored(scores, typical), estimate(whole, level)


def evaluate(estimates: Estimates, counts: Counts, *, judge: bool) -> Scored:
    """What cells score under estimates."""
    total = totals(counts)
    log_nu = np.log(np.maximum(total, 0.5) / estimates.level)
    components = estimates.components._replace(log_nu=log_nu)
    scores = score_cells(components, counts).value
    if not judge:
        return Scored(scores, None)
    background = estimates.background._replace(log_nu=log_nu)
    return Scored(scores, typicality(components, background, scores, counts, total))


def estimate(sums: Sums, level: float) -> Estimates:
    """Means and sizes of the components."""
    seen, exposure = sums.seen.sum(0), sums.exposure.sum(0)
    overall = (seen.sum(1) + 0.5) / max(exposure.sum(), 0.5)
    mean = _shrunk(seen, exposure, overall)
    factor = np.ones((len(sums.seen), len(overall)))
    if len(factor) > 1:
        expected = sums.exposure @ mean.T
        factor = (sums.seen.sum(2) + BATCH_COUNTS) / (expected + BATCH_COUNTS)
    components = _parameters(mean * factor[..., None], sums, overall.sum())
    background = _parameters((overall * factor)[..., None], sums.together(), overall.sum())
    return Estimates(components, background, level)


def totals(counts: Counts) -> np.ndarray:
    """Total of each cell."""
    return np.concatenate([np.asarray(block.sum(1), float).ravel() for _, block in counts.blocks()])


def some_cells(counts: Counts, index: np.ndarray) -> Counts:
    """Counts of cells in ascending order, in memory: no others are."""
    rows = []
    for first, block in counts.blocks():
        here = index[(index >= first) & (index < first + block.shape[0])] - first
        rows.append(block[here])
    return Counts(sparse.vstack(rows, format="csr"), counts.batch[index], counts.n_batches, where=counts.where)


def _sums(counts: Counts, own: np.ndarray, total: np.ndarray, level: float) -> Sums:
    nu = np.maximum(total, 0.5) / level
    found, _ = counts.gather(np.concatenate([own, own * nu[:, None]], 1), detected=False)
    seen, with_nu = np.split(found, 2, axis=2)
    square = np.zeros(counts.n_genes)
    for _, block in counts.blocks():
        square += np.bincount(block.indices, block.data.astype(float) ** 2, counts.n_genes)
    here = [counts.batch == b for b in range(counts.n_batches)]
    exposure, twice = (np.stack([value[cells] @ own[cells] for cells in here]) for value in (nu, nu**2))
    return Sums(seen, with_nu, square, exposure, twice)


def _shrunk(seen: np.ndarray, exposure: np.ndarray, overall: np.ndarray) -> np.ndarray:
    """Means of the components ``(n_genes, n_components)``: averaged over the shapes that a gene's prior may have."""
    centre = overall[:, None]
    level = np.stack([_log_evidence(shape, seen, exposure, centre).sum(1) for shape in SHAPES])  # (shapes, genes)
    weight = np.full(len(SHAPES), 1 / len(SHAPES))
    for _ in range(30):  # how common each shape is among the genes
        share = softmax(level + np.log(np.maximum(weight, 1e-300))[:, None], 0)
        weight = share.mean(1)
    means = ((s[:, None] * (a + seen) / (a / centre + exposure)) for s, a in zip(share, SHAPES, strict=True))
    return sum(means)


def _log_evidence(shape: float, seen: np.ndarray, exposure: np.ndarray, centre: np.ndarray) -> np.ndarray:
    r"""Log of :math:`\int \mathrm{Gamma}(\mu; a, a/m)\, \mu^A e^{-\mu B} d\mu` with a = ``shape``, m = ``centre``."""
    rate = shape / centre
    return gammaln(shape + seen) - gammaln(shape) + shape * np.log(rate) - (shape + seen) * np.log(rate + exposure)


def _parameters(mean: np.ndarray, sums: Sums, total: float) -> Parameters:
    """Parameters with means ``(n_batches, n_genes, n_components)``: totals are made equal, sizes added."""
    mean = mean * (total / mean.sum(1, keepdims=True))  # totals do not tell components apart
    twice, exposure = mean**2 * sums.twice[:, None], mean * sums.exposure[:, None]
    excess = sums.square + np.sum(twice - 2 * mean * sums.with_nu - exposure, (0, 2))
    scale = np.maximum(np.sum(twice, (0, 2)), 1e-12)
    information = scale**2 / (np.sum(exposure, (0, 2)) + 2 * scale)
    raw, informed = excess / scale, information > INFORMED
    centre = max(float(np.median(np.maximum(raw[informed], 0))), LEAST) if informed.any() else USUAL
    dispersion = (raw * information + SHRINKAGE * centre) / (information + SHRINKAGE)
    size = np.broadcast_to((1 / np.clip(dispersion, *DISPERSION))[:, None], mean.shape)
    n = mean.shape[2]
    size, log_odds = np.moveaxis(size, 2, 1), np.moveaxis(np.log(mean) - np.log(size), 2, 1)
    return Parameters(np.ascontiguousarray(size), log_odds, None, np.full(n, 1 / n), np.zeros(0))


def _folds(code: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold of each cell, those of a component spread evenly."""
    fold = np.zeros(len(code), int)
    for k in np.unique(code):
        cells = np.flatnonzero(code == k)
        fold[rng.permutation(cells)] = (np.arange(len(cells)) + rng.integers(N_FOLDS)) % N_FOLDS
    return fold
