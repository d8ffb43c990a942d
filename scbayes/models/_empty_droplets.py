r"""Which droplets are empty, and what they hold: Dirichlet-multinomial counts of one profile, whatever their totals.

.. math:: x_d \mid n_d, \text{empty} \sim \mathrm{DM}(n_d, A\,a)

:math:`a` is the share of each gene in the liquid, and :math:`A` says how much droplets differ in it (infinite:
multinomial). Droplets of the smallest totals are empty without a test and give both; larger ones, up to where cells
begin, are tested against them, each given its own total.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from scbayes.counts import Counts
from scbayes.counts._threads import N_THREADS, over_rows
from scbayes.models._ambient_profile import smoothed
from scbayes.stats._barcode_ranks import Ranks, barcode_ranks
from scbayes.stats._urn import add_scores, beside_draws

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
    """How empty droplets are told: smallest total, ``limits`` (None: found), and the p-value that refuses.

    ``batches`` are the names of batches, for messages.
    """

    least: int = 2
    limits: tuple[float, float] | None = None
    alpha: float = 0.01
    batches: tuple = (None,)


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
    for b, name in enumerate(rule.batches):
        own = (counts.batch == b) & (total >= max(rule.least, 1))
        ranks.append(find_ranks(total[own], known[own], rule, name))
        limits.append(find_limits(ranks[-1], total[own & ~known], rule, name, known=known[own].any()))
        low, high = limits[-1]
        sure |= own & ~known & (total <= low)
        tested |= own & ~known & (total > low) & (total <= high)
    pooled = counts.gather(sure[:, None].astype(float), detected=False)[0][..., 0]
    sample = _sample(counts.batch, sure, counts.n_batches, rng)
    chosen = sample | tested
    part, asked = counts.pick(chosen), tested[chosen]  # read once, held in memory
    profile = np.stack([smoothed(row) for row in pooled])
    concentration = np.empty(counts.n_batches)
    for b in range(counts.n_batches):
        concentration[b] = find_concentration(part.pick(sample[chosen] & (part.batch == b)), profile[b])
    if asked.any():
        score = gene_scores(part, (profile * concentration[:, None])[:, None])[asked, 0]
        batch, size, n_urns = part.batch[asked], total[tested], int(np.ceil(URNS / rule.alpha))
        refused = np.zeros(len(score), bool)

        def test(b: int, own_rng) -> None:
            own = batch == b
            beside = beside_draws(score[own], size[own], profile[b], concentration[b], n_urns, own_rng)
            refused[own] = beside.p < rule.alpha

        with ThreadPoolExecutor(N_THREADS) as pool:
            asked_of = np.unique(batch).tolist()
            list(pool.map(test, asked_of, rng.spawn(len(asked_of))))
        accepted = np.zeros(len(asked))
        accepted[asked] = ~refused
        pooled += part.gather(accepted[:, None], detected=False)[0][..., 0]
        sure[np.flatnonzero(tested)[~refused]] = True
    found = []
    for b in range(counts.n_batches):
        own = counts.batch == b
        inflation = _inflation(total[own & sure], concentration[b])
        number = [int((own & these).sum()) for these in (sure, tested, tested & ~sure)]
        found.append(Empty(ranks[b], limits[b], pooled[b], float(concentration[b]), inflation, *number))
    return found, sure


def pool_empty(counts: Counts, empty: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Counts of other features in empty droplets, ``(B, n_features)``, and their inflation, ``(B,)``."""
    pooled = counts.gather(empty[:, None].astype(float), detected=False)[0][..., 0]
    total, inflation = counts.totals(), np.ones(counts.n_batches)
    sample = _sample(counts.batch, empty & (total > 0), counts.n_batches, rng)
    part = counts.pick(sample)
    for b in np.unique(part.batch):
        concentration = find_concentration(part.pick(part.batch == b), smoothed(pooled[b]))
        inflation[b] = _inflation(total[empty & (counts.batch == b)], concentration)
    return pooled, inflation


def gene_scores(counts: Counts, alpha: np.ndarray) -> np.ndarray:
    r"""Sum over genes of :math:`\ln \Gamma(x + \alpha) / (x!\,\Gamma(\alpha))`, for K sets: ``(n_cells, K)``.

    ``alpha``: shape ``(K, n_genes)``, or ``(n_batches, K, n_genes)``, positive.
    """
    shape = counts.n_batches, counts.n_genes, alpha.shape[-2]
    table = np.ascontiguousarray(np.broadcast_to(np.swapaxes(alpha, -1, -2), shape)).reshape(-1, shape[-1])
    first, offset = np.log(table), counts.batch.astype(np.int64) * counts.n_genes
    out = np.zeros((counts.n_cells, shape[-1]))

    def add(_, cells: slice, *vectors) -> None:
        add_scores(*vectors, offset[cells], table, first, out[cells])

    for start, block in counts.blocks():
        over_rows(add, block, start)
    return out


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


def find_ranks(total: np.ndarray, known: np.ndarray, rule: Rule, batch: str | None) -> Ranks:
    """Ranks of the droplets of a batch, of which some must be no cells by name."""
    if known.all():
        what = f"droplets of at least {rule.least} counts{_of(batch)}"
        what += ", but those that are cells by name" if len(total) else ""
        msg = f"no {what}: empty ones are in the matrix before cells were called"
        raise ValueError(msg)
    return barcode_ranks(total, known)


def find_limits(ranks: Ranks, total: np.ndarray, rule: Rule, batch: str | None, *, known: bool) -> tuple[float, float]:
    """Totals up to which droplets are surely empty, and above which they are not asked about."""
    if rule.limits is not None:
        low, high = rule.limits
        if not ((total >= low) & (total <= high)).any():
            msg = f"no droplets{_of(batch)} have totals of {low:g} to {high:g}, as empty_range says"
            raise ValueError(msg)
        return float(high), float(high)
    if not ranks.apart and not known:
        msg = (
            f"the totals of droplets{_of(batch)} have one hump only: there are no cells among them, or no empty "
            "droplets. Give empty_range=(smallest, largest total) if they are empty"
        )
        raise ValueError(msg)
    if ranks.apart:
        return ranks.sure, ranks.split
    return ranks.sure, float(total.max())


def _of(batch: str | None) -> str:
    return "" if batch is None else f" of batch {batch!r}"


def _sample(batch: np.ndarray, these: np.ndarray, n_batches: int, rng) -> np.ndarray:
    """At most `N_SAMPLE` of ``these`` droplets of each batch, bool ``(n,)``."""
    sample = np.zeros(len(batch), bool)
    for b in range(n_batches):
        sample[rng.permutation(np.flatnonzero(these & (batch == b)))[:N_SAMPLE]] = True
    return sample


def _inflation(total: np.ndarray, concentration: float) -> float:
    """Variance of the pooled counts of droplets over that of a multinomial."""
    n = total.astype(float)
    return float((n * (n + concentration)).sum() / (max(n.sum(), 1) * (1 + concentration)))
