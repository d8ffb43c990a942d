"""Where a profile of ambient RNA comes from: droplets, a profile that is known, or the cells."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.models._ambient_profile import dirichlet_sd, posterior, smoothed
from scbayes.models._empty_droplets import Empty, Rule, empty_droplets, find_limits, find_ranks, pool_empty
from scbayes.models._iterative_profile import iterative_profile, sampled
from scbayes.pp._raw_droplets import Droplets, droplets, names_of_batches, opened
from scbayes.state import find_counts, sum_by_batch
from scbayes.stats._barcode_ranks import Ranks, barcode_ranks

if TYPE_CHECKING:
    from anndata import AnnData


class Found(NamedTuple):
    """A profile, and what goes with it.

    Attributes
    ----------
    source
        ``"droplets"``, ``"profile"``, ``"totals"`` (a profile with totals of droplets) or ``"cells"``.
    mean, sd
        ``(n_genes, n_batches)``.
    concentration
        ``(n_batches,)``, NaN where it is not known.
    there
        Genes that the source has, bool.
    ranks
        Droplets by total, arrays to store; none without droplets.
    facts, warnings
        What else is kept, and what is to be said.
    """

    source: str
    mean: np.ndarray
    sd: np.ndarray
    concentration: np.ndarray
    there: np.ndarray
    ranks: dict[str, np.ndarray]
    facts: dict
    warnings: list[str]


class _Batch(NamedTuple):
    """Counts of the genes of the cells in empty droplets of a batch, of all other genes, and how they were found."""

    counts: np.ndarray
    others: float
    inflation: float
    ranks: dict[str, np.ndarray]
    facts: dict


def from_droplets(adata: "AnnData", raw, layer: str | None, batch_key: str | None, rule: dict, rng) -> Found:
    """The profile of what is empty among the droplets of each batch."""
    several = isinstance(raw, Mapping)
    sources = [(str(name), raw[name]) for name in sorted(raw, key=str)] if several else [(None, raw)]
    found, there, warnings = [], np.ones(adata.n_vars, bool), []
    for name, source in sources:
        with opened(source, layer) as own:
            of = droplets(adata, own, batch_key, name)
            there &= of.place >= 0
            found += (_iterative if rule["method"] == "iterative" else _empty)(of, rule, rng)
            if source is not adata and not of.known.any():
                where = "raw" if name is None else f"raw of batch {name!r}"
                warnings.append(f"no cell is in {where} by name: cells are told from empty droplets by totals alone")
    counts, others = np.stack([part.counts for part in found])[:, there], np.array([part.others for part in found])
    inflation = np.array([part.inflation for part in found])
    if rule["method"] == "iterative":
        share, total = (counts / counts.sum(1, keepdims=True)).T, counts.sum(1)
        whole, mean, concentration, alike = 1.0, share, total, None
        sd = dirichlet_sd(share, total)
    else:
        profile = posterior(np.column_stack([counts, others]), inflation)
        whole = 1 - profile.mean[-1]  # the last one is all other genes
        mean, sd = profile.mean[:-1] / whole, profile.sd[:-1] / whole
        concentration, alike = profile.concentration * whole, profile.alike
    facts = {name: [part.facts[name] for part in found] for name in found[0].facts}
    facts |= {"alike": alike, "share_of_genes": np.broadcast_to(whole, len(found)).tolist()}
    ranks = stacked([part.ranks for part in found])
    mean, sd = _spread(mean, there), _spread(sd, there, np.nan)
    return Found("droplets", mean, sd, concentration, there, ranks, facts, warnings)


def _empty(of: Droplets, rule: dict, rng) -> list[_Batch]:
    total = of.counts.totals(keep=True)
    found, empty = empty_droplets(of.counts, total, of.known, _rule(rule, of.batches), rng)
    pooled, inflation = [own.counts for own in found], [own.inflation for own in found]
    if of.features is not None:
        pooled, inflation = pool_empty(of.features, empty, rng)
    parts = []
    for b, own in enumerate(found):
        here = of.counts.batch == b
        counts, others = _beside(pooled[b], of.place)
        ranks = ranked(own.ranks, total[here], {"empty": empty[here], "known": of.known[here]})
        parts.append(_Batch(counts, others, inflation[b], ranks, described(own) | {"n_counts": float(pooled[b].sum())}))
    return parts


def _rule(rule: dict, batches: list) -> Rule:
    limits = rule["limits"]
    return Rule(rule["least"] if limits is None else int(np.ceil(limits[0])), limits, rule["alpha"], tuple(batches))


def _iterative(of: Droplets, rule: dict, rng) -> list[_Batch]:
    source = of.counts if of.features is None else of.features
    genes, total = of.place[of.place >= 0], source.totals()
    parts = []
    for b, x in enumerate(sampled(source, genes, rule["least"], rule["sample"], rng)):
        here = (source.batch == b) & (total > 0)
        pooled, empty = iterative_profile(x, rule["prob"], rule["iterations"])
        counts = np.zeros(len(of.place))
        counts[of.place >= 0] = pooled
        ranks = barcode_ranks(total[here])
        facts = {"n_empty": int(empty.sum()), "n_counts": float(pooled.sum())} | _bends(ranks)
        parts.append(_Batch(counts, 0.0, 1.0, ranked(ranks, total[here], {"known": of.known[here]}), facts))
    return parts


def from_profile(adata: "AnnData", profile, totals, batches: list, rule: dict) -> Found:
    """The profile that a user has."""
    value, there = _given(adata, profile, batches)
    whole = np.array_equal(value, np.round(value)) and value.sum(0).min() > 1
    facts, ranks, source, n_counts = {"n_counts": None}, {}, "profile", np.full(value.shape[1], np.nan)
    if totals is not None:
        source, total, told = "totals", _totals(totals), _rule(rule, batches)
        known = totals.index.isin(adata.obs_names) if isinstance(totals, pd.Series) else np.zeros(len(total), bool)
        asked = total >= told.least
        found = find_ranks(total[asked], known[asked], told, None)
        _, most = find_limits(found, total[asked & ~known], told, None, known=known[asked].any())
        empty = asked & ~known & (total <= most)
        n_counts[:] = total[empty].sum() / value.shape[1]
        facts = {"n_empty": [int(empty.sum())]} | {name: [x] for name, x in _bends(found).items()}
        ranks = stacked([ranked(found, total, {"empty": empty, "known": known})])
    if whole:
        n_counts = value.sum(0)
        mean = np.stack([smoothed(column) for column in value[there].T], 1)
    else:
        mean = value[there] / value[there].sum(0)
    sd = dirichlet_sd(mean, n_counts)
    sure = np.isfinite(n_counts).all()
    warnings = [] if sure else ["shares without totals of droplets: their uncertainty is unknown"]
    facts |= {"n_counts": [None if np.isnan(n) else float(n) for n in n_counts]}
    return Found(source, _spread(mean, there), _spread(sd, there, np.nan), n_counts, there, ranks, facts, warnings)


def from_cells(adata: "AnnData", layer: str | None, batch_key: str | None, batches: list) -> Found:
    """The mean of the cells, for want of anything better."""
    source = find_counts(adata, layer, None, None)
    codes = None if batch_key is None else pd.Index(batches).get_indexer(names_of_batches(adata, batch_key))
    pooled = sum_by_batch(source, codes, len(batches))
    if not pooled.sum(1).all():
        name = batches[int(np.argmin(pooled.sum(1)))]
        msg = f"{source.where} has no counts" + ("" if name is None else f" in batch {name!r}")
        raise ValueError(msg)
    mean = np.stack([smoothed(row) for row in pooled], 1)
    nan = np.full(len(batches), np.nan)
    said = "no raw droplets: the profile is the mean of the cells, which is rough; its uncertainty is unknown"
    return Found("cells", mean, np.full(mean.shape, np.nan), nan, np.ones(adata.n_vars, bool), {}, {}, [said])


def ranked(ranks: Ranks, total: np.ndarray, marks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Distinct totals, droplets of each, and sums of what is marked among them."""
    place = np.searchsorted(-ranks.total, -total)
    there = place < len(ranks.total)
    there[there] = ranks.total[place[there]] == total[there]
    columns = {"total": ranks.total.astype(np.int64), "droplets": ranks.droplets.astype(np.int64)}
    for name, mark in marks.items():
        columns[name] = np.bincount(place[there], mark[there].astype(float), len(ranks.total))
    return columns


def described(found: Empty) -> dict:
    """Plain values, for the log and the file."""
    facts = {"n_empty": found.n_droplets, "n_tested": found.n_tested, "n_refused": found.n_refused}
    facts |= {"n_counts": float(found.counts.sum()), "droplet_concentration": found.concentration}
    return facts | {"sure": found.limits[0], "limit": found.limits[1]} | _bends(found.ranks)


def _bends(ranks: Ranks) -> dict[str, float]:
    return {"knee": ranks.knee, "inflection": ranks.inflection, "split": ranks.split}


def stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tables of batches, one below the other, with their places."""
    columns = {f"rank_{name}": np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return columns | {"rank_batch": np.repeat(np.arange(len(parts)), [len(part["total"]) for part in parts])}


def _beside(counts: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, float]:
    """Counts of the cells' genes, and of all others."""
    own = np.where(place >= 0, counts[place], 0.0)
    return own, float(counts.sum() - own.sum())


def _spread(values: np.ndarray, there: np.ndarray, rest: float = 0.0) -> np.ndarray:
    whole = np.full((len(there), values.shape[1]), rest)
    whole[there] = values
    return whole


def _given(adata: "AnnData", profile, batches: list) -> tuple[np.ndarray, np.ndarray]:
    """The profile over the genes of ``adata``, ``(n_genes, n_batches)``, and which genes it has."""
    if isinstance(profile, str):
        if profile not in adata.var:
            msg = f"no column {profile!r} in adata.var, which has {list(adata.var.columns)}"
            raise KeyError(msg)
        profile = adata.var[profile]
    there = np.ones(adata.n_vars, bool)
    if isinstance(profile, pd.Series | pd.DataFrame):
        if not profile.index.is_unique:
            msg = "genes repeat in the index of profile"
            raise ValueError(msg)
        there = adata.var_names.isin(profile.index)
        if not there.any():
            some = list(adata.var_names[:3]), list(profile.index[:3])
            msg = f"no gene of the cells ({some[0]}, ...) is in profile ({some[1]}, ...)"
            raise ValueError(msg)
        if isinstance(profile, pd.DataFrame) and batches != [None]:
            profile = profile.rename(columns=str)
            missing = [name for name in batches if name not in profile]
            if missing:
                msg = f"profile has no column for batch {missing[0]!r}, but {list(profile.columns)}"
                raise KeyError(msg)
            profile = profile[batches]
        profile = profile.reindex(adata.var_names[there]).to_numpy()
    try:
        value = np.asarray(profile, float)
    except (TypeError, ValueError):
        msg = f"profile is a {type(profile).__name__} that is no array of numbers"
        raise TypeError(msg) from None
    value = value[:, None] if value.ndim == 1 else value
    if value.shape[1:] == (1,) and len(batches) > 1:
        value = np.repeat(value, len(batches), 1)
    if value.shape != (there.sum(), len(batches)):
        msg = f"profile has shape {value.shape}, for {adata.n_vars} genes and {len(batches)} batch(es) of batch_key"
        raise ValueError(msg)
    if not (np.isfinite(value).all() and (value >= 0).all() and (value.sum(0) > 0).all()):
        msg = "profile has negative, infinite or NaN values, or only zeros"
        raise ValueError(msg)
    return _spread(value, there), there


def _totals(totals) -> np.ndarray:
    value = np.asarray(totals)
    if value.ndim != 1:
        msg = f"totals of droplets have shape {value.shape}: give one number for each, or an AnnData of all droplets"
        raise ValueError(msg)
    if value.dtype.kind not in "iuf" or not (np.isfinite(value).all() and (value >= 0).all() and (value > 0).any()):
        msg = "totals of droplets must be counts, not all zero"
        raise ValueError(msg)
    if not np.array_equal(value, np.round(value)):
        msg = "totals of droplets are not whole numbers"
        raise ValueError(msg)
    return value.astype(np.int64)
