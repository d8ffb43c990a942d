"""The profile of the liquid as SCAR finds it: droplets above a fixed probability per gene, a few times over."""

import numpy as np
from scipy import sparse
from scipy.special import gammaln, xlogy

from scbayes.counts import Counts

#: Fewer empty droplets than this are refused.
FEWEST = 50


def iterative_profile(x: sparse.csr_array, prob: float, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Counts of genes in droplets with :math:`\ln \mathrm{Multinomial}(x_d; n_d, a) \ge G \ln` ``prob``.

    The first :math:`a` is that of all droplets, and each next one that of those that were chosen.

    Parameters
    ----------
    x
        Droplets x G genes.
    prob, iterations
        Probability per gene; number of rounds.

    Returns
    -------
    Counts ``(G,)``, and which droplets are empty.

    Raises
    ------
    ValueError
        If fewer than `FEWEST` droplets are chosen.
    """
    x = x.astype(np.float64)
    total = np.asarray(x.sum(1)).ravel()
    logs = x.copy()
    logs.data = gammaln(x.data + 1)
    orders = gammaln(total + 1) - np.asarray(logs.sum(1)).ravel()
    pooled, empty = np.asarray(x.sum(0)).ravel(), np.ones(len(total), bool)
    for _ in range(iterations):
        share = pooled / pooled.sum()
        level = orders + x @ xlogy(1.0, np.maximum(share, np.finfo(float).tiny))
        empty = level >= x.shape[1] * np.log(prob)
        if empty.sum() < FEWEST:
            msg = f"{empty.sum()} droplets are empty at prob={prob}, fewer than {FEWEST}: lower it, or method='empty'"
            raise ValueError(msg)
        pooled = empty @ x
    return pooled, empty


def sampled(counts: Counts, place: np.ndarray, least: int, sample: int | None, rng) -> list[sparse.csr_array]:
    """Of each batch, droplets of at least ``least`` counts in the genes at ``place``, at most ``sample`` of them."""
    there = np.zeros((counts.n_batches, counts.n_genes, 1))
    there[:, place] = 1
    enough = counts.scatter(there, active=counts.batch >= 0)[:, 0] >= least
    parts = []
    for b in range(counts.n_batches):
        own = np.flatnonzero(enough & (counts.batch == b))
        if sample is not None and len(own) > sample:
            own = rng.choice(own, sample, replace=False)
        chosen = np.zeros(counts.n_cells, bool)
        chosen[own] = True
        parts.append(sparse.csr_array(counts.pick(chosen).x)[:, place])
    return parts
