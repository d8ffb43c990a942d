r"""How likely a droplet holds a cell: its counts under a mixture of profiles of cells, beside the liquid's.

.. math::
    x_d \mid n_d, \text{cell} \sim (1 - \epsilon) \sum_k w_k\,\mathrm{DM}(n_d, A_k\,p_k)
        + \epsilon\,\mathrm{DM}(n_d, A_0\,a), \qquad
    x_d \mid n_d, \text{empty} \sim \mathrm{DM}(n_d, A_0\,a)

The mixture is learned from droplets whose counts lie far from those of empty droplets of the same totals.
The prior probability of a cell depends on the total, and is learned in bins of it. So a small droplet with the counts
of a cell is one, and one whose counts are those of the liquid is none, unless all others of such totals are: a doublet
of two types may look like the liquid, hence the small :math:`\epsilon`.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds
from scipy.special import expit, logit, logsumexp, ndtri

from scbayes.counts import Counts
from scbayes.models._ambient_profile import smoothed
from scbayes.models._empty_droplets import find_concentration, gene_scores, total_scores
from scbayes.stats._urn import beside_draws

#: Empty droplets that are expected among those that can hardly be empty, if scores were normal, and draws for it. More
#: would make profiles of cells of their own.
CHANCE, N_URNS = 0.1, 200
#: Cells for each profile, at least.
N_CELLS = 15
#: Droplets from which the mixture is learned, and from which a concentration; rounds, and those after which
#: concentrations are found.
N_TRAIN, N_EACH, N_ROUNDS, RENEW = 4000, 200, 8, (3, 7)
#: Concentration at the start, and counts of the mean of all cells that each profile is given.
START, PSEUDO = 1000.0, 300.0
#: Principal components in which droplets are clustered at the start.
N_PCS = 20
#: Share of empty droplets among those from which profiles are learned again.
SURE = 0.001
#: Weight of cells that look like the liquid, as a doublet of two types may: no counts rule out a cell altogether.
BLEND = 0.02
#: Bins of log10 totals, droplets' worth of the overall share of cells in each, rounds.
BIN, BIN_WEIGHT, BIN_ROUNDS = 0.1, 0.5, 200


class Mixture(NamedTuple):
    """Profiles of cells ``(K, n_genes)``, their concentrations and weights ``(K,)``."""

    profile: np.ndarray
    concentration: np.ndarray
    weight: np.ndarray


class Liquid(NamedTuple):
    """Profile of the liquid in each batch, ``(B, n_genes)``, and its concentration, ``(B,)``."""

    profile: np.ndarray
    concentration: np.ndarray

    def log_likelihood(self, counts: Counts, total: np.ndarray) -> np.ndarray:
        """Of each droplet, ``(n,)``."""
        alpha = self.profile * self.concentration[:, None]
        score = gene_scores(counts, alpha[:, None])[:, 0]
        return score + total_scores(total, self.concentration[counts.batch, None])[:, 0]


def unlike_liquid(counts: Counts, total: np.ndarray, liquid: Liquid, rng) -> np.ndarray:
    """Droplets that can hardly be empty, given their totals: bool ``(n,)``."""
    found, far = np.zeros(counts.n_cells, bool), -ndtri(CHANCE / 2 / counts.n_cells)
    alpha = liquid.profile * liquid.concentration[:, None]
    score = gene_scores(counts, alpha[:, None])[:, 0]
    for b in np.unique(counts.batch):
        own = counts.batch == b
        beside = beside_draws(score[own], total[own], liquid.profile[b], liquid.concentration[b], N_URNS, rng)
        found[own] = np.abs(beside.z) > far
    return found


def find_cells(counts: Counts, liquid: Liquid, n_profiles: int, rng) -> np.ndarray:
    """Probability that each droplet holds a cell, ``(n,)``.

    Profiles are learned twice: from droplets that can hardly be empty, then from those that are surely cells by the
    first. No droplet is a cell where there are none of the former.
    """
    total = counts.totals()
    sure, mixture = unlike_liquid(counts, total, liquid, rng), None
    empty = liquid.log_likelihood(counts, total)
    probability = np.zeros(counts.n_cells)
    for _ in range(2):
        if not sure.any():
            break
        mixture = learn_cells(counts.pick(sure), n_profiles, rng, mixture)
        cell = logsumexp(log_likelihoods(mixture, counts, total) + np.log(mixture.weight), 1)
        bayes_factor = np.logaddexp(np.log1p(-BLEND) + cell - empty, np.log(BLEND))
        probability = cell_probability(bayes_factor, total)
        sure = call(probability, SURE)
    return probability


def learn_cells(counts: Counts, n_profiles: int, rng, mixture: Mixture | None = None) -> Mixture:
    """Mixture of the profiles of cells.

    Parameters
    ----------
    counts
        Droplets that hold cells.
    n_profiles, rng
        Number of profiles, fewer where there are less than `N_CELLS` cells for each; a generator.
    mixture
        Where to start. Default: clusters.
    """
    if counts.n_cells > N_TRAIN:
        chosen = np.zeros(counts.n_cells, bool)
        chosen[rng.choice(counts.n_cells, N_TRAIN, replace=False)] = True
        counts = counts.pick(chosen)
    total = counts.totals()
    overall = smoothed(counts.gather(np.ones((counts.n_cells, 1)), detected=False)[0].sum(0)[:, 0])
    if mixture is None:
        start = _start(counts, total, max(min(n_profiles, counts.n_cells // N_CELLS), 1), rng)
        mixture = _estimate(counts, total, start, np.full(start.shape[1], START), overall)
    for i in range(N_ROUNDS):
        level = log_likelihoods(mixture, counts, total) + np.log(mixture.weight)
        membership = np.exp(level - logsumexp(level, 1, keepdims=True))
        mixture = _estimate(counts, total, membership, mixture.concentration, overall)
        if i in RENEW:
            mixture = _renew(counts, membership, mixture, rng)
    return mixture


def log_likelihoods(mixture: Mixture, counts: Counts, total: np.ndarray) -> np.ndarray:
    """Of each droplet under each profile, ``(n, K)``."""
    alpha = mixture.profile * mixture.concentration[:, None]
    return gene_scores(counts, alpha) + total_scores(total, mixture.concentration)


def cell_probability(log_bayes_factor: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Posterior probability of a cell; its prior is learned in bins of log totals, drawn to their neighbours'."""
    place = np.floor(np.log10(np.maximum(total, 1)) / BIN).astype(int)
    place -= place.min(initial=0)
    n_bins = place.max(initial=0) + 1
    near = np.eye(n_bins) + 0.5 * (np.eye(n_bins, k=1) + np.eye(n_bins, k=-1))
    droplets = near @ np.bincount(place, minlength=n_bins)
    prior = np.full(n_bins, 0.5)
    for _ in range(BIN_ROUNDS):
        probability = expit(log_bayes_factor + logit(prior)[place])
        cells = near @ np.bincount(place, probability, n_bins)
        new = (cells + BIN_WEIGHT * probability.mean()) / (droplets + BIN_WEIGHT)
        new = np.clip(new, 1e-9, 1 - 1e-9)
        done = np.abs(new - prior).max() < 1e-6
        prior = new
        if done:
            break
    return expit(log_bayes_factor + logit(prior)[place])


def call(probability: np.ndarray, fdr: float) -> np.ndarray:
    """As many of the likeliest as keep the expected share of empty droplets among them at ``fdr``, bool ``(n,)``.

    None that is likelier empty is called, though many sure cells would leave room for some.
    """
    order = np.argsort(-probability, kind="stable")
    share = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    called = np.zeros(len(order), bool)
    called[order[: np.searchsorted(share, fdr, side="right")]] = True  # the share never falls
    return called & (probability > 0.5)


def _start(counts: Counts, total: np.ndarray, n_profiles: int, rng) -> np.ndarray:
    """Clusters of the droplets, by k-means on principal components of the roots of their shares: ``(n, K)``."""
    whole = sparse.vstack([block for _, block in counts.blocks()], format="csr").astype(np.float64)
    roots = sparse.csr_array(whole / total[:, None]).sqrt()
    seen = np.flatnonzero(roots.sum(0))
    n_components = min(N_PCS, len(seen) - 1, counts.n_cells - 1)
    if n_components < 1:
        return np.ones((counts.n_cells, 1))
    left, size, _ = svds(roots[:, seen], n_components, rng=rng)
    points = left * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of clusters without droplets
        _, label = kmeans2(points, n_profiles, minit="++", rng=rng)
    return (label[:, None] == np.unique(label)).astype(float)


def _estimate(
    counts: Counts, total: np.ndarray, membership: np.ndarray, concentration: np.ndarray, overall: np.ndarray
) -> Mixture:
    # a droplet of many counts says less per count where droplets differ
    weight = membership / (1 + total[:, None] / concentration)
    found = counts.gather(weight, detected=False)[0].sum(0).T + PSEUDO * overall
    profile = found / found.sum(1, keepdims=True)
    return Mixture(profile, concentration, (membership.sum(0) + 1) / (membership.sum() + membership.shape[1]))


def _renew(counts: Counts, membership: np.ndarray, mixture: Mixture, rng) -> Mixture:
    """The mixture with the likeliest concentration of each profile, by some of its droplets."""
    concentration = mixture.concentration.copy()
    best = membership.argmax(1)
    for k in range(len(concentration)):
        own = np.flatnonzero((best == k) & (membership[:, k] > 0.5))
        if len(own) > 2:
            chosen = np.zeros(counts.n_cells, bool)
            chosen[rng.permutation(own)[:N_EACH]] = True
            concentration[k] = find_concentration(counts.pick(chosen), mixture.profile[k])
    return mixture._replace(concentration=concentration)
