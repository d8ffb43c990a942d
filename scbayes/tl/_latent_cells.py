"""What a model with a latent space is told of cells: counts, library sizes, batches, labels, covariates."""

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array
from scipy import sparse

from scbayes.counts import Counts
from scbayes.counts._minibatch import DeviceCounts
from scbayes.models._latent_model import Cells
from scbayes.state import Source
from scbayes.state._read import batch_names

if TYPE_CHECKING:
    from anndata import AnnData


class LatentCells(NamedTuple):
    """Cells of one data set, in memory.

    Attributes
    ----------
    x
        Counts, CSR ``(n_cells, n_genes)`` of the genes of the model, in its order.
    total, log_size
        Sum of the counts of each cell, and log of its library size or size factor, float32.
    batch, label, soup
        Codes, int32; label -1 where it is missing.
    covariates
        float32 ``(n_cells, n_covariates)``.
    """

    x: sparse.csr_array
    total: np.ndarray
    log_size: np.ndarray
    batch: np.ndarray
    label: np.ndarray
    soup: np.ndarray
    covariates: np.ndarray

    @property
    def n_cells(self) -> int:
        return self.x.shape[0]

    def at(self, index) -> Cells:
        """Some cells as the model takes them: by positions, a mask or a slice."""
        of_cells = [jnp.asarray(value[index]) for value in self[1:]]
        return Cells(jnp.asarray(self.x[index].toarray(), jnp.float32), *of_cells)

    def on_device(self) -> "DeviceCells":
        """All cells on the device, counts as they are stored."""
        return DeviceCells(DeviceCounts.of(self.x), *map(jnp.asarray, self[1:]))


class DeviceCells(NamedTuple):
    """As :class:`LatentCells`, on the device, for compiled code."""

    counts: DeviceCounts
    total: Array
    log_size: Array
    batch: Array
    label: Array
    soup: Array
    covariates: Array

    def at(self, ids: Array) -> Cells:
        """Some cells as the model takes them."""
        return Cells(self.counts.rows(ids), *[value[ids] for value in self[1:]])


def latent_cells(
    adata: "AnnData",
    source: Source,
    columns: np.ndarray,
    *,
    facts: dict,
    batch: np.ndarray,
    soup: np.ndarray | None = None,
) -> LatentCells:
    """Read what a model is told of the cells of ``adata``.

    Parameters
    ----------
    source
        The counts.
    columns
        Position in ``adata`` of each gene of the model.
    facts
        Of the fit: `covariates`, `labels_key`, `labels`, `size_factor_key`.
    soup
        Row of the ambient profile of each cell.
    """
    x = _rows(source, columns)
    total = np.asarray(x.sum(1), np.float32)
    if not total.all():
        empty = np.flatnonzero(total == 0)
        msg = (
            f"{len(empty)} cells have no counts of the genes of the model in {source.where}, first "
            f"{adata.obs_names[empty[0]]!r}: their latent numbers are not known; leave them out"
        )
        raise ValueError(msg)
    size = total if facts["size_factor_key"] is None else size_factors(adata, facts["size_factor_key"])
    label = np.full(adata.n_obs, -1, np.int32)
    if facts["labels_key"] is not None and facts["labels_key"] in adata.obs:
        label = label_codes(adata, facts["labels_key"], facts["labels"])
    soup = np.zeros(adata.n_obs, np.int32) if soup is None else soup
    design = covariate_values(adata, facts["covariates"])
    return LatentCells(x, total, np.log(size).astype(np.float32), batch, label, soup, design)


def _rows(source: Source, columns: np.ndarray) -> sparse.csr_array:
    """Checked counts of some genes, in their order."""
    same = len(columns) == source.x.shape[1] and (columns == np.arange(len(columns))).all()
    blocks = []
    for _, block in Counts(source.x, where=source.where).blocks(check=True):
        chosen = block if same else block[:, columns]
        chosen = sparse.csr_array(chosen, dtype=np.float32)
        chosen.sort_indices()
        blocks.append(chosen)
    return blocks[0] if len(blocks) == 1 else sparse.csr_array(sparse.vstack(blocks, format="csr"))


def size_factors(adata: "AnnData", key: str) -> np.ndarray:
    """Size factors of the cells, checked."""
    if key not in adata.obs:
        msg = f"no column {key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    values = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        msg = f"obs[{key!r}] of cell {adata.obs_names[bad[0]]!r} is no positive number: size factors have to be"
        raise ValueError(msg)
    return values


def label_names(adata: "AnnData", key: str) -> list[str]:
    """Labels that cells have, sorted."""
    if key not in adata.obs:
        msg = f"no column {key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    names = sorted(set(batch_names(adata.obs[key]).dropna()))
    if len(names) < 2:
        msg = f"obs[{key!r}] has the labels {names}: at least two are needed to tell cells apart"
        raise ValueError(msg)
    return names


def label_codes(adata: "AnnData", key: str, names: list[str]) -> np.ndarray:
    """Code of each cell's label; -1 where it is missing or unknown."""
    return pd.Index(names).get_indexer(batch_names(adata.obs[key])).astype(np.int32)


def covariates_of(adata: "AnnData", names: tuple[str, ...]) -> list[dict]:
    """What covariates are: categories, or mean and standard deviation of numbers; plain values."""
    found = []
    if len(set(names)) < len(names):
        msg = f"covariates name a column twice: {list(names)}"
        raise ValueError(msg)
    for name in names:
        if name not in adata.obs:
            msg = f"no column {name!r} in adata.obs, which has {list(adata.obs.columns)}"
            raise KeyError(msg)
        column = adata.obs[name]
        if column.isna().any():
            msg = f"covariate obs[{name!r}] is missing for {int(column.isna().sum())} cells"
            raise ValueError(msg)
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.to_numpy(float)
            if not np.isfinite(values).all() or values.std() == 0:
                msg = f"covariate obs[{name!r}] has to have finite values, not all the same"
                raise ValueError(msg)
            found.append({"name": name, "mean": float(values.mean()), "sd": float(values.std())})
        else:
            found.append({"name": name, "categories": sorted(set(batch_names(column)))})
    return found


def covariate_values(adata: "AnnData", covariates: list[dict]) -> np.ndarray:
    """Indicators of categories and standardised numbers, float32 ``(n_cells, n_covariates)``."""
    columns = [np.zeros((adata.n_obs, 0))]
    for of in covariates:
        name = of["name"]
        if name not in adata.obs:
            msg = f"the model has the covariate obs[{name!r}], which adata lacks"
            raise KeyError(msg)
        if "categories" not in of:
            columns.append((adata.obs[name].to_numpy(float)[:, None] - of["mean"]) / of["sd"])
            continue
        values = batch_names(adata.obs[name])
        unknown = sorted(set(values.fillna("nan")) - set(of["categories"]))
        if unknown:
            msg = f"covariate obs[{name!r}] has values that the model does not know: {unknown[:5]}"
            raise ValueError(msg)
        columns.append(values.to_numpy()[:, None] == np.array(of["categories"], object))
    return np.hstack(columns).astype(np.float32)
