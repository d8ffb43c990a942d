r"""Which droplets are empty, and what they hold: Dirichlet-multinomial counts of one profile, whatever their totals.

.. math:: x_d \mid n_d, \text{empty} \sim \mathrm{DM}(n_d, A\,a)

:math:`a` is the share of each gene in the liquid, and :math:`A` says how much droplets differ in it (infinite:
multinomial). Droplets of the smallest totals are empty without a test and give both; larger ones, up to where cells
begin, are tested against them, each given its own total.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from scbayes.counts import Counts
from scbayes.models._ambient_profile import smoothed
from scbayes.stats._barcode_ranks import Ranks, barcode_ranks
from scbayes.stats._urn import beside_draws

#: Concentrations that are tried, and droplets on which.
CONCENTRATIONS = np.geomspace(10, 1e6, 12)
N_SAMPLE = 1000
#: Draws behind each p-value, over alpha: the smallest p-value is about half of it.
URNS = 4


class Empty(NamedTuple):
    """What was found in one batch.

    Attributes
    ----------
    ranks
        Totals of its droplets.
    limits
        Droplets up to the first total are empty untested, above the second they are none.
    counts
        Counts of each gene in empty droplets, ``(n_genes,)``.
    concentration
        :math:`A`; `CONCENTRATIONS` ends where droplets are as good as multinomial.
    inflation
        Variance of `counts` over that of a multinomial.
    n_droplets, n_tested, n_refused
        Empty droplets; those that were tested, and those of them that are not empty.
    """

    ranks: Ranks
    limits: tuple[float, float]
    counts: np.ndarray
    concentration: float
    inflation: float
    n_droplets: int
    n_tested: int
    n_refused: int


class Rule(NamedTuple):
    """How empty droplets are told: smallest total, ``limits`` (None: found), and the p-value that refuses."""

    least: int = 2
    limits: tuple[float, float] | None = None
    alpha: float = 0.01


def empty_droplets(counts: Counts, total: np.ndarray, known: np.ndarray, rule: Rule, rng) -> tuple[list, np.ndarray]:
    """What is empty in each batch of ``counts``, and a mask of the empty droplets.

    Parameters
    ----------
    counts
        Droplets x genes, with their batches.
    total
        Counts of each droplet, ``(n,)``.
    known
        Droplets that are known to be cells, bool ``(n,)``.
    rule, rng
        See :class:`Rule`; a generator.

    Raises
    ------
    ValueError
        If there are no droplets that could be empty.
    """
    sure, tested = np.zeros((2, len(total)), bool)
    ranks, limits = [], []
    for b in range(counts.n_batches):
        own = (counts.batch == b) & (total >= max(rule.least, 1))
        ranks.append(_ranks(total[own], known[own], rule))
        limits.append(_limits(ranks[-1], total[own & ~known], rule, known=known[own].any()))
        low, high = limits[-1]
        sure |= own & ~known & (total <= low)
        tested |= own & ~known & (total > low) & (total <= high)
    pooled = counts.gather(sure[:, None].astype(float), detected=False)[0][..., 0]
    sample = np.zeros(len(total), bool)
    for b in range(counts.n_batches):
        own = np.flatnonzero(sure & (counts.batch == b))
        sample[rng.permutation(own)[:N_SAMPLE]] = True
    some, rest = counts.pick(sample), counts.pick(tested) if tested.any() else None
    rest_total, refused = total[tested], np.zeros(tested.sum(), bool)
    found, n_urns = [], int(np.ceil(URNS / rule.alpha))
    for b in range(counts.n_batches):
        profile = smoothed(pooled[b])
        own = counts.batch[tested] == b
        concentration = find_concentration(some.pick(some.batch == b), profile)
        if own.any():
            part = rest.pick(own)
            score = gene_scores(part, profile[None] * concentration)[:, 0]
            refused[own] = beside_draws(score, rest_total[own], profile, concentration, n_urns, rng).p < rule.alpha
            pooled[b] += part.gather((~refused[own])[:, None].astype(float), detected=False)[0][b, :, 0]
        n = np.concatenate([total[sure & (counts.batch == b)], rest_total[own & ~refused]]).astype(float)
        inflation = float((n * (n + concentration)).sum() / (n.sum() * (1 + concentration)))
        number = len(n), int(own.sum()), int(refused[own].sum())
        found.append(Empty(ranks[b], limits[b], pooled[b], concentration, inflation, *number))
    tested[np.flatnonzero(tested)[refused]] = False
    return found, sure | tested


def gene_scores(counts: Counts, alpha: np.ndarray) -> np.ndarray:
    r"""Sum over genes of :math:`\ln \Gamma(x + \alpha) / (x!\,\Gamma(\alpha))`, for K sets: ``(n_cells, K)``.

    ``alpha``: shape ``(K, n_genes)``, or ``(n_batches, K, n_genes)``, positive.
    """
    # of the score of a negative binomial of size alpha and odds 1, in which each count halves the probability
    size = np.broadcast_to(np.swapaxes(alpha, -1, -2), (counts.n_batches, counts.n_genes, alpha.shape[-2]))
    one = np.ones((counts.n_batches, 1, alpha.shape[-2]))
    score = counts.score_cells(size, one, None, np.ones(counts.n_cells))[..., 0]
    return score + counts.totals()[:, None] * np.log(2)


def total_scores(total: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    r"""The rest of the log probability, :math:`\ln n!\,\Gamma(A) / \Gamma(A + n)`: ``(n, K)``."""
    n = np.asarray(total, float)[:, None]
    return gammaln(n + 1) + gammaln(concentration) - gammaln(concentration + n)


def find_concentration(counts: Counts, profile: np.ndarray) -> float:
    """The likeliest of `CONCENTRATIONS`, and of as many again around it."""
    tried, total = CONCENTRATIONS, counts.totals()
    for _ in range(2):
        level = (gene_scores(counts, tried[:, None] * profile) + total_scores(total, tried)).sum(0)
        best = int(np.argmax(level))
        if not 0 < best < len(tried) - 1:
            break
        tried = np.geomspace(tried[best - 1], tried[best + 1], len(tried))
    return float(tried[best])


def _ranks(total: np.ndarray, known: np.ndarray, rule: Rule) -> Ranks:
    if known.all():
        what = "droplets with counts" if not len(total) else "droplets but those that are cells by name"
        msg = f"no {what} of at least {rule.least} counts: empty ones are in the matrix before cells were called"
        raise ValueError(msg)
    return barcode_ranks(total, known)


def _limits(ranks: Ranks, total: np.ndarray, rule: Rule, *, known: bool) -> tuple[float, float]:
    """Totals up to which droplets are surely empty, and above which they are not asked about."""
    if rule.limits is not None:
        low, high = rule.limits
        if not ((total >= low) & (total <= high)).any():
            msg = f"no droplets have totals of {low:g} to {high:g}, as empty_range says"
            raise ValueError(msg)
        return float(high), float(high)
    if not ranks.apart and not known:
        msg = (
            "the totals of droplets have one hump only: there are no cells among them, or no empty droplets. Give "
            "empty_range=(smallest, largest total) if they are empty"
        )
        raise ValueError(msg)
    if ranks.apart:
        return ranks.sure, ranks.split
    return ranks.sure, float(total.max())
