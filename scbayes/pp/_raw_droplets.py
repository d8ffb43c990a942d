"""Raw droplets, wherever they are: opened, and their genes brought beside those of the cells."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts import Counts
from scbayes.pp._tenx_file import opened_tenx
from scbayes.state._read import batch_names

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of `var` that may hold other names of genes.
NAME_COLUMNS = ("gene_ids", "gene_id", "gene_symbols", "gene_symbol", "gene_name", "gene_names")
#: What 10x calls RNA in `var["feature_types"]`.
RNA = "Gene Expression"


class Raw(NamedTuple):
    """Droplets x features, what they are called in messages, and their names."""

    x: object
    where: str
    obs: pd.DataFrame
    var: pd.DataFrame


class Droplets(NamedTuple):
    """Droplets of one file or matrix.

    Attributes
    ----------
    counts
        Features that tell which droplets are empty; batches are places in ``batches``.
    features
        All features of the kinds that the cells have, where those are others; else None.
    batches
        Names; one None where there are none.
    place
        Column of `features`, or of `counts`, with each gene of the cells, -1 where there is none, ``(n_genes,)``.
    known
        Droplets that are among the cells, by name, bool.
    """

    counts: Counts
    features: Counts | None
    batches: list
    place: np.ndarray
    known: np.ndarray


@contextmanager
def opened(raw, layer: str | None) -> Iterator[Raw]:
    """The droplets of an AnnData or of a path, which is closed at the end."""
    from anndata import AnnData

    if isinstance(raw, AnnData):
        yield _of_anndata(raw, layer)
        return
    if not isinstance(raw, str | Path):
        msg = f"raw is a {type(raw).__name__}: give an AnnData, a path, or droplet totals with profile="
        raise TypeError(msg)
    path = Path(raw)
    if not path.exists():
        msg = f"no file or folder {str(path)!r}"
        raise FileNotFoundError(msg)
    if path.suffix == ".h5":
        if layer is not None:
            msg = f"no layer {layer!r}: files of 10x have none"
            raise KeyError(msg)
        with opened_tenx(path) as (x, barcodes, var):
            yield Raw(x, f"{path.name}", pd.DataFrame(index=barcodes), var)
        return
    adata = _read(path)
    try:
        yield _of_anndata(adata, layer)
    finally:
        if adata.isbacked:
            adata.file.close()


def droplets(adata: "AnnData", raw: Raw, batch_key: str | None, batch: str | None) -> Droplets:
    """The droplets of ``raw``; with ``batch``, all of them are of this batch of ``adata``."""
    place = _match(adata.var, raw.var)
    codes, batches = _batches(adata, raw, batch_key) if batch is None else (None, [batch])

    def part(only) -> Counts:
        return Counts(raw.x, codes, len(batches), only=only, where=raw.where)

    own = decide = None
    if "feature_types" in raw.var:
        kinds = raw.var["feature_types"].astype(str).to_numpy()
        own, decide = np.isin(kinds, list(set(kinds[place[place >= 0]]))), rna(raw.var)
        place = np.where(place >= 0, (np.cumsum(own) - 1)[place], -1)
    counts = part(decide)
    same = own is None or np.array_equal(own, np.ones(len(own), bool) if decide is None else decide)
    cells = adata.obs_names if batch is None else adata.obs_names[names_of_batches(adata, batch_key) == batch]
    known = np.zeros(len(raw.obs), bool) if raw.obs is adata.obs else raw.obs.index.isin(cells)
    return Droplets(counts, None if same else part(own), batches, place, known)


def rna(var: pd.DataFrame) -> np.ndarray | None:
    """Which features are RNA, bool; None where all are, or none is known to be."""
    if "feature_types" not in var:
        return None
    found = (var["feature_types"].astype(str) == RNA).to_numpy()
    return found if found.any() and not found.all() else None


def names_of_batches(adata: "AnnData", batch_key: str) -> np.ndarray:
    """Batch of each cell.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it is missing for a cell.
    """
    if batch_key not in adata.obs:
        msg = f"no column {batch_key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    names = batch_names(adata.obs[batch_key])
    if names.isna().any():
        msg = f"obs[{batch_key!r}] is missing for {names.isna().sum()} cells: give each a batch"
        raise ValueError(msg)
    return names.to_numpy(object)


def distinct_batches(adata: "AnnData", batch_key: str | None) -> list:
    """Names of the batches of the cells, in order; one None where none are asked for."""
    return [None] if batch_key is None else sorted(set(names_of_batches(adata, batch_key)))


def check_mapping(raw: Mapping, batches: list) -> None:
    """Refuse a mapping whose batches are not those of the cells."""
    if batches == [None]:
        msg = "raw has droplets by batch: give batch_key, the column of obs with the batches of the cells"
        raise ValueError(msg)
    if sorted(map(str, raw)) != batches:
        msg = f"raw has the batches {sorted(map(str, raw))}, the cells {batches}: give one raw for each"
        raise ValueError(msg)


def _of_anndata(raw: "AnnData", layer: str | None) -> Raw:
    if layer is not None and layer not in raw.layers:
        msg = f"no layer {layer!r} in the raw droplets, which have {list(raw.layers)}"
        raise KeyError(msg)
    x, where = (raw.X, "X of the raw droplets") if layer is None else (raw.layers[layer], f"layer {layer!r} of raw")
    if x is None:
        msg = "X of the raw droplets is None: pass raw_layer="
        raise ValueError(msg)
    return Raw(x, where, raw.obs, raw.var)


def _read(path: Path) -> "AnnData":
    import anndata as ad
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        if path.suffix == ".h5ad":
            return ad.read_h5ad(path, backed="r")
        if path.suffix == ".zarr":
            return ad.read_zarr(path)
        if path.is_dir():
            return sc.read_10x_mtx(path, gex_only=False)
    msg = f"{str(path)!r} is neither .h5ad, .zarr, 10x's .h5, nor a folder with matrix.mtx"
    raise ValueError(msg)


def _match(own: pd.DataFrame, raw: pd.DataFrame) -> np.ndarray:
    """Where each gene of the cells is in ``raw``, by the names that match best.

    Names are looked for among the features of each type, then among all: an antibody may be called as a gene is.
    """
    from anndata.utils import make_index_unique

    if not own.index.is_unique:
        twice = own.index[own.index.duplicated()][0]
        msg = f"var_names repeat, first {twice!r}: call adata.var_names_make_unique()"
        raise ValueError(msg)
    kinds, of_own = (var["feature_types"].astype(str) if "feature_types" in var else None for var in (raw, own))
    groups = [np.arange(len(raw))]
    if kinds is not None:
        groups = [np.flatnonzero(kinds == kind) for kind in kinds.unique()] + groups
    best = np.full(len(own), -1)
    for names in _names(own):
        if not names.is_unique:
            continue
        for others in _names(raw):
            for group in groups:
                index = others[group]
                index = index if index.is_unique else make_index_unique(index)
                found = index.get_indexer(names)
                found = np.where(found >= 0, group[found], -1)
                if kinds is not None and of_own is not None:  # but for kinds that raw does not know
                    known = of_own.isin(kinds.unique()).to_numpy()
                    found[known & (kinds.to_numpy()[found] != of_own.to_numpy())] = -1
                if (found >= 0).sum() > (best >= 0).sum():
                    best = found
                if (best >= 0).all():
                    return best
    if (best < 0).all():
        msg = (
            f"no gene of the cells ({list(own.index[:3])}, ...) is in raw ({list(raw.index[:3])}, ...): give both "
            "names of one kind, in var_names or a column such as var['gene_ids']"
        )
        raise ValueError(msg)
    return best


def _names(var: pd.DataFrame) -> list[pd.Index]:
    """All names that features have."""
    return [var.index.astype(str), *[pd.Index(var[name].astype(str)) for name in NAME_COLUMNS if name in var]]


def _batches(adata: "AnnData", raw: Raw, batch_key: str | None) -> tuple[np.ndarray | None, list]:
    names = distinct_batches(adata, batch_key)
    if batch_key is None:
        return None, names
    if batch_key not in raw.obs:
        msg = f"no column {batch_key!r} in obs of the raw droplets: give a dict of one raw for each batch instead"
        raise KeyError(msg)
    # droplets of batches without cells belong to none
    codes = pd.Index(names).get_indexer(batch_names(raw.obs[batch_key]).to_numpy(object)).astype(np.int32)
    missing = [name for k, name in enumerate(names) if not (codes == k).any()]
    if missing:
        there = sorted(set(batch_names(raw.obs[batch_key]).dropna()))
        msg = f"no droplets of batch {missing[0]!r} in raw, which has {there[:10]}"
        raise ValueError(msg)
    return codes, names
