"""What ``tl.call_features`` is given: counts of features, and a profile of ambient counts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.counts import Counts
from scbayes.models._feature_calls import Given
from scbayes.state import Source, find_counts, read_result

if TYPE_CHECKING:
    from anndata import AnnData

#: Share of a feature that a given profile does not have, of an even one.
SMALLEST_SHARE = 1e-3


class FeatureCounts(NamedTuple):
    """Counts, cells x features; their columns in ``adata``, bool; where they are."""

    x: sparse.csr_array
    chosen: np.ndarray
    source: Source


def feature_counts(
    adata: "AnnData", feature_types: str | Sequence[str] | None, layer: str | None, batch_key: str | None
) -> FeatureCounts:
    """The counts of the features that are meant, in memory."""
    source = find_counts(adata, layer, None, batch_key)
    chosen = _chosen(adata, feature_types)
    blocks = [sparse.csr_array(block)[:, chosen] for _, block in Counts(source.x, where=source.where).blocks()]
    x = sparse.csr_array(sparse.vstack(blocks, format="csr"))
    if not Counts(x, where=source.where).totals().any():  # checked
        msg = f"{source.where} has no counts of these features"
        raise ValueError(msg)
    x.eliminate_zeros()
    x.sort_indices()
    return FeatureCounts(x, chosen, source)


def given_profile(adata: "AnnData", ambient, features: FeatureCounts) -> Given | None:
    """The profile of the features in each batch, and how many counts' worth is known."""
    if ambient is None:
        return None
    n_batches = max(len(features.source.batches), 1)
    counts = np.full(1, np.inf)
    if isinstance(ambient, str):
        value, counts = _stored(adata, ambient, features)
    elif isinstance(ambient, pd.DataFrame | pd.Series):
        value = ambient.to_frame() if isinstance(ambient, pd.Series) else ambient
        if not value.index.is_unique:
            msg = "ambient: names of features repeat"
            raise ValueError(msg)
        names = adata.var_names[features.chosen]
        missing = names.difference(value.index)
        if len(missing):
            msg = f"ambient has no row for {len(missing)} features, first {missing[0]!r}"
            raise ValueError(msg)
        value = _of_batches(value.loc[names], features.source.batches)
    else:
        value = np.asarray(ambient, float)
        value = value[:, None] if value.ndim == 1 else value
        if value.ndim == 2 and len(value) == adata.n_vars:
            value = value[features.chosen]
    n_features = features.x.shape[1]
    if value.ndim != 2 or len(value) != n_features or value.shape[1] not in (1, n_batches):
        msg = (
            f"ambient has shape {value.shape}: give a share for each of {n_features} features (and {n_batches} batches)"
        )
        raise ValueError(msg)
    if not np.isfinite(value).all() or (value < 0).any() or (value.sum(0) <= 0).any():
        msg = "ambient: shares must be finite, not negative, and not all zero"
        raise ValueError(msg)
    # of a Dirichlet distribution over all genes, features are one with as much of its concentration
    profile = np.maximum(value / value.sum(0), SMALLEST_SHARE / n_features)
    profile = np.broadcast_to((profile / profile.sum(0)).T, (n_batches, n_features))
    return Given(np.ascontiguousarray(profile), np.broadcast_to(counts * value.sum(0), n_batches))


def _chosen(adata: "AnnData", feature_types: str | Sequence[str] | None) -> np.ndarray:
    kinds = adata.var["feature_types"].astype(str) if "feature_types" in adata.var else None
    if feature_types is None:
        if len(set(kinds if kinds is not None else ())) > 1:
            msg = f"var['feature_types'] has {', '.join(sorted(kinds.unique()))}: choose with feature_types="
            raise ValueError(msg)
        return np.ones(adata.n_vars, bool)
    if kinds is None:
        msg = "feature_types= needs a column 'feature_types' in adata.var"
        raise KeyError(msg)
    wanted = [feature_types] if isinstance(feature_types, str) else list(feature_types)
    missing = [name for name in wanted if name not in set(kinds)]
    if missing:
        msg = f"var['feature_types'] has no {missing[0]!r}, but {', '.join(sorted(kinds.unique()))}"
        raise KeyError(msg)
    return kinds.isin(wanted).to_numpy()


def _stored(adata: "AnnData", key: str, features: FeatureCounts) -> tuple[np.ndarray, np.ndarray]:
    """A profile of :func:`scbayes.pp.ambient_profile`, or any other in `varm`, and how many counts' worth is known."""
    if key not in adata.varm:
        msg = f"no profile {key!r} in adata.varm: run sb.pp.ambient_profile first, or leave ambient out"
        raise KeyError(msg)
    value = np.asarray(adata.varm[key], float)
    value = value[:, None] if value.ndim == 1 else value
    counts = np.full(value.shape[1], np.inf)
    if key in adata.uns:
        values, facts = read_result(adata, "ambient_profile", key, key)
        counts = np.asarray(values["concentration"], float)
        counts = np.where(np.isnan(counts), np.inf, counts)
        table = pd.DataFrame(np.vstack([value, counts]), columns=[str(name) for name in facts["batches"]])
        table = _of_batches(table, features.source.batches)
        value, counts = table[:-1], table[-1]
    return value[features.chosen], counts


def _of_batches(table: pd.DataFrame, batches: list[str]) -> np.ndarray:
    if table.shape[1] > 1:
        table = table.rename(columns=str)
        missing = [name for name in batches if name not in table]
        if missing or not batches:
            said = f"none for {missing[0]!r}" if missing else "and there is no batch_key"
            msg = f"ambient has columns {', '.join(map(str, table.columns))}, {said}"
            raise ValueError(msg)
        table = table[batches]
    return table.to_numpy(float)
