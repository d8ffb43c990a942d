"""Raw droplets, wherever they are: opened, and their genes brought beside those of the cells."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts import Counts

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of `var` that may hold other names of genes.
NAME_COLUMNS = ("gene_ids", "gene_id", "gene_symbols", "gene_symbol", "gene_name", "gene_names")


class Droplets(NamedTuple):
    """Droplets of one file or matrix.

    Attributes
    ----------
    counts
        All genes of the kinds that the cells have; batches are places in ``batches``.
    batches
        Names; one None where there are none.
    place
        Column of `counts` with each gene of the cells, -1 where there is none, ``(n_genes,)``.
    known
        Droplets that are among the cells, by name, bool.
    """

    counts: Counts
    batches: list
    place: np.ndarray
    known: np.ndarray


@contextmanager
def opened(raw) -> "Iterator[AnnData]":
    """The AnnData of a path, closed at the end, or the one that was given."""
    from anndata import AnnData

    if isinstance(raw, AnnData):
        yield raw
        return
    if not isinstance(raw, str | Path):
        msg = f"raw is a {type(raw).__name__}: give an AnnData, a path, or droplet totals with profile="
        raise TypeError(msg)
    path = Path(raw)
    if not path.exists():
        msg = f"no file or folder {str(path)!r}"
        raise FileNotFoundError(msg)
    adata = _read(path)
    try:
        yield adata
    finally:
        if adata.isbacked:
            adata.file.close()


def droplets(adata: "AnnData", raw: "AnnData", layer: str | None, batch_key: str | None, batch: str | None) -> Droplets:
    """The droplets of ``raw``; with ``batch``, all of them are of this batch of ``adata``."""
    if layer is not None and layer not in raw.layers:
        msg = f"no layer {layer!r} in the raw droplets, which have {list(raw.layers)}"
        raise KeyError(msg)
    x, where = (raw.X, "X of the raw droplets") if layer is None else (raw.layers[layer], f"layer {layer!r} of raw")
    if x is None:
        msg = "X of the raw droplets is None: pass raw_layer="
        raise ValueError(msg)
    place = _match(adata, raw)
    kinds = raw.var.get("feature_types")
    mask = None if kinds is None else kinds.isin(kinds.iloc[place[place >= 0]].unique()).to_numpy()
    if mask is not None and not mask.all():  # antibodies beside RNA, say: totals are those of the cells' kinds
        place = np.where(place >= 0, (np.cumsum(mask) - 1)[place], -1)
        x = _columns(x, mask, where)
    cells = adata.obs_names if batch is None else adata.obs_names[adata.obs[batch_key].astype(str) == batch]
    known = np.zeros(raw.n_obs, bool) if raw is adata else raw.obs_names.isin(cells)
    codes, batches = _batches(adata, raw, batch_key) if batch is None else (None, [batch])
    return Droplets(Counts(x, codes, len(batches), where=where), batches, place, known)


def batch_names(adata: "AnnData", batch_key: str | None) -> list:
    """Names of the batches of the cells, in order; one None where none are asked for."""
    if batch_key is None:
        return [None]
    if batch_key not in adata.obs:
        msg = f"no column {batch_key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    if adata.obs[batch_key].isna().any():
        msg = f"obs[{batch_key!r}] is missing for some cells: give each a batch"
        raise ValueError(msg)
    return sorted(str(name) for name in adata.obs[batch_key].unique())


def check_mapping(raw, batches: list) -> None:
    """Refuse a mapping whose batches are not those of the cells."""
    if isinstance(raw, Mapping) and {str(name) for name in raw} != {str(name) for name in batches}:
        msg = f"raw has the batches {sorted(map(str, raw))}, the cells {batches}: give batch_key, and one raw for each"
        raise ValueError(msg)


def _read(path: Path) -> "AnnData":
    import anndata as ad
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        if path.suffix == ".h5ad":
            return ad.read_h5ad(path, backed="r")
        if path.suffix == ".h5":
            return sc.read_10x_h5(path, gex_only=False)
        if path.suffix == ".zarr":
            return ad.read_zarr(path)
        if path.is_dir():
            return sc.read_10x_mtx(path, gex_only=False)
    msg = f"{str(path)!r} is neither .h5ad, .zarr, 10x's .h5, nor a folder with matrix.mtx"
    raise ValueError(msg)


def _match(adata: "AnnData", raw: "AnnData") -> np.ndarray:
    """Where each gene of the cells is in ``raw``, by the names that match best; repeated ones are told apart."""
    from anndata.utils import make_index_unique

    best = np.full(adata.n_vars, -1)
    for own in _names(adata):
        for other in _names(raw):
            index = other if other.is_unique else make_index_unique(pd.Index(other.astype(str)))
            found = index.get_indexer(own)
            if (found >= 0).sum() > (best >= 0).sum() and own.is_unique:
                best = found
    if (best < 0).all():
        msg = f"no gene of the cells ({list(adata.var_names[:3])}, ...) is in raw ({list(raw.var_names[:3])}, ...)"
        raise ValueError(msg)
    return best


def _names(adata: "AnnData") -> list[pd.Index]:
    return [adata.var_names, *[pd.Index(adata.var[name].astype(str)) for name in NAME_COLUMNS if name in adata.var]]


def _columns(x, mask: np.ndarray, where: str):
    """Some of the columns, in memory."""
    kept = Counts(x, where=where).genes(np.flatnonzero(mask))
    return kept.x


def _batches(adata: "AnnData", raw: "AnnData", batch_key: str | None) -> tuple[np.ndarray | None, list]:
    names = batch_names(adata, batch_key)
    if batch_key is None:
        return None, names
    if batch_key not in raw.obs:
        msg = f"no column {batch_key!r} in obs of the raw droplets: give a dict of one raw for each batch instead"
        raise KeyError(msg)
    codes = pd.Categorical(raw.obs[batch_key].astype(str), categories=names).codes.astype(np.int32)
    # droplets of batches without cells belong to none
    missing = [name for k, name in enumerate(names) if not (codes == k).any()]
    if missing:
        msg = f"no droplets of batch {missing[0]!r} in raw"
        raise ValueError(msg)
    return codes, names
