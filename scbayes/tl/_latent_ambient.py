"""The ambient part of a model with a latent space: the profiles, and which of them is that of a cell."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtri

from scbayes.counts import Counts
from scbayes.models._contamination import find_contamination
from scbayes.models._latent_model import FLOOR
from scbayes.state import LatentFit
from scbayes.state._read import batch_names
from scbayes.tl._denoise_arguments import PRIOR, codes_of, profiles_of
from scbayes.tl._latent_cells import LatentCells
from scbayes.tl._quick_groups import quick_groups

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells that the prior is found from, at most; the smallest standard deviation of the log odds that it may have.
N_CELLS, NARROWEST = 10_000, 0.2
#: Probability of the interval of one standard deviation on both sides.
WIDTH = 0.6827


class Soups(NamedTuple):
    """Ambient profiles as a model takes them.

    Attributes
    ----------
    facts
        `name` in `varm`; `batch_key` and `batches`: the column of `obs`, and its value for each row of ``log_share``.
    log_share
        Logs of shares among the genes of the model, float32 ``(n_profiles, n_genes)``.
    soup
        Row of each cell, int32 ``(n_cells,)``.
    """

    facts: dict
    log_share: np.ndarray
    soup: np.ndarray


def soups_of(adata: "AnnData", name: str, columns: np.ndarray, batch_key: str | None) -> Soups:
    """Profiles ``adata.varm[name]`` of the genes in ``columns``.

    Raises
    ------
    TypeError
        If ``name`` is no string.
    KeyError, ValueError
        If there is no such profile, it does not fit genes and batches, or has none of the genes of the model.
    """
    if not isinstance(name, str):
        msg = f"ambient is a {type(name).__name__}: give the name of a profile in adata.varm"
        raise TypeError(msg)
    found = profiles_of(adata, name, batch_key)
    share = found.value[columns].T
    total = share.sum(1, keepdims=True)
    if not total.all():
        batch = found.batches[int(np.argmin(total))] if found.batches else "of all cells"
        msg = f"the ambient profile varm[{name!r}] of batch {batch} is zero in all genes that mask_var leaves"
        raise ValueError(msg)
    facts = {"name": name, "batch_key": found.batch_key, "batches": found.batches}
    log_share = np.log(np.maximum(share / total, FLOOR)).astype(np.float32)
    return Soups(facts, log_share, codes_of(adata, found.batch_key, found.batches))


def contamination_prior(cells: LatentCells, log_ambient: np.ndarray, seed: int) -> tuple[np.ndarray, dict]:
    r"""Mean share of ambient counts and sd of its log odds, of each profile, float32 ``(n_profiles, 2)``; and facts.

    From what :func:`scbayes.tl.denoise` finds for the cells, or for some of them: `level` over all of them, `level_sd`
    and whether it is `identified`.
    """
    rng = np.random.default_rng([seed, 2**21])
    chosen = np.sort(rng.permutation(cells.n_cells)[:N_CELLS])
    soup = cells.soup[chosen]
    counts = Counts(cells.x[chosen], soup, len(log_ambient))
    profile = np.exp(log_ambient, dtype=float).T
    kind, none = quick_groups(counts, seed), np.zeros(len(chosen), int)
    settings = {"prior": PRIOR, "width": WIDTH, "rng": rng}
    found = find_contamination(counts, kind, none, profile / profile.sum(0), **settings)
    logit, low, high = (np.log(p / (1 - p)) for p in np.clip([found.mean, found.low, found.high], 1e-4, 1 - 1e-4))
    variance = ((high - low) / 2) ** 2
    rows = []
    for k in range(len(log_ambient)):
        own = soup == k if (soup == k).any() else np.ones(len(soup), bool)
        spread = np.sqrt(logit[own].var() + variance[own].mean())
        rows.append((found.mean[own].mean(), max(spread, NARROWEST)))
    level = found.levels[0]
    return np.array(rows, np.float32), {"level": level.mean, "level_sd": level.sd, "identified": level.identified}


def soup_codes(adata: "AnnData", facts: dict, key: str) -> np.ndarray | None:
    """Row of the profile of each cell of ``adata``, of the fit ``key`` with these ``facts``; None: no ambient part.

    Raises
    ------
    KeyError, ValueError
        If the column is missing, or has values without a profile.
    """
    ambient = facts["ambient"]
    if ambient is None:
        return None
    column = ambient["batch_key"]
    if column is None:
        return np.zeros(adata.n_obs, np.int32)
    if column not in adata.obs:
        msg = f"the ambient profiles of {key!r} are of batches obs[{column!r}], which adata lacks"
        raise KeyError(msg)
    codes = codes_of(adata, column, ambient["batches"])
    if (codes < 0).any():
        first = batch_names(adata.obs[column])[codes < 0].iloc[0]
        msg = f"{key!r} has no ambient profile of batch {first!r} in obs[{column!r}], only of {ambient['batches']}"
        raise ValueError(msg)
    return codes


class Shares(NamedTuple):
    """Share of ambient counts of each cell: posterior mean, standard deviation, and ends of an interval."""

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shares_of(fit: LatentFit, soup: np.ndarray, interval: float = 0.9) -> Shares:
    """Share of ambient counts of the cells of ``fit``, by quadrature; the doubt about the level is in it."""
    k = fit.model.names.index("logit_contamination")
    loc, scale = fit.loc[:, k].astype(float), fit.scale[:, k].astype(float)
    fixed = {"hidden": np.asarray(fit.fixed["hidden"], float)}
    node, weight = np.polynomial.hermite_e.hermegauss(32)
    weight = weight / weight.sum()

    def share(z: np.ndarray) -> np.ndarray:
        return np.asarray(fit.model.contamination(fixed, soup, loc + scale * z), float)

    values = np.stack([share(z) for z in node])
    mean = weight @ values
    # errors of the level move all cells by the same factor
    relative = fit.facts["ambient"]["level_sd"] / max(fit.facts["ambient"]["level"], 1e-6)
    own = np.sqrt(np.maximum(weight @ (values - mean) ** 2, 0))
    sd = np.hypot(own, relative * mean)
    end = ndtri((1 + interval) / 2)
    low, high = (np.hypot(mean - share(z), end * relative * mean) for z in (-end, end))
    low, high = np.maximum(mean - low, 0), np.minimum(mean + high, 1)
    return Shares(mean, sd, low, high)
