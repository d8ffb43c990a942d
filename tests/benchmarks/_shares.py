"""Cells of donors in two conditions, by type, with effects on abundance that are known."""

from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import log_softmax, softmax

from scbayes.models._abundance import Samples


class Shares(NamedTuple):
    """Counts, and the truth: effects relative to unchanged types, and log ratios of shares, both log2."""

    samples: Samples
    lfc: np.ndarray
    share_lfc: np.ndarray


def shares(
    n_donors: int = 4,
    n_types: int = 10,
    *,
    n_cells: int = 500,
    concentration: float = 50.0,
    changed: float = 0.25,
    effect_sd: float = 0.8,
    paired: bool = False,
    people_sd: float = 0.5,
    logit_sd: float | None = None,
    share: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    rng: np.random.Generator,
) -> Shares:
    """Dirichlet-multinomial counts; with `logit_sd` log shares with normal noise instead. Types have cells somewhere.

    In `paired` data each donor is in both conditions, with a level of its own.
    """
    share = rng.normal(0, 1, n_types) if share is None else share
    beta = (
        np.where(rng.random(len(share)) < changed, rng.normal(0, effect_sd, len(share)), 0.0) if beta is None else beta
    )
    level = np.repeat([0, 1], n_donors)
    eta = share + level[:, None] * beta
    people = np.zeros((2 * n_donors, 0))
    if paired:
        people = np.tile(np.eye(n_donors), (2, 1))
        levels = rng.normal(0, people_sd, (n_donors, len(share)))
        eta = eta + people @ (levels - levels.mean(0))
    totals = rng.integers(n_cells // 2, 2 * n_cells, 2 * n_donors)
    if logit_sd is None:
        p = np.array([rng.dirichlet(concentration * own) for own in softmax(eta, 1)])
    else:
        p = softmax(eta + rng.normal(0, logit_sd, eta.shape), 1)
    counts = np.array([rng.multinomial(n, own) for n, own in zip(totals, p, strict=True)]).astype(float)
    seen = counts.sum(0) > 0
    ratio = log_softmax(share + beta) - log_softmax(share)
    samples = Samples(counts[:, seen], level, np.zeros((2 * n_donors, 0)), people)
    return Shares(samples, beta[seen] / np.log(2), ratio[seen] / np.log(2))


def as_cells(samples: Samples) -> ad.AnnData:
    """A cell for each count, without genes: `obs` has `type`, `condition` and `donor`."""
    n_donors = len(samples.level) // 2
    rows = [
        (f"t{k}", f"c{level}", f"d{level}{u % n_donors}")
        for u, level in enumerate(samples.level)
        for k, n in enumerate(samples.counts[u])
        for _ in range(int(n))
    ]
    obs = pd.DataFrame(rows, columns=["type", "condition", "donor"], index=[f"cell{i}" for i in range(len(rows))])
    return ad.AnnData(sparse.csr_matrix((len(rows), 1), dtype=np.float32), obs=obs)
