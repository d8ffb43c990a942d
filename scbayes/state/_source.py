"""Where the counts of a fit come from: layer, genes to fit, batches."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.counts import Counts
from scbayes.state._names import check_anndata
from scbayes.state._read import batch_names, read_manifest

if TYPE_CHECKING:
    from anndata import AnnData


class Source(NamedTuple):
    """Counts and what goes with them.

    ``layer`` is None for X; ``where`` is how messages call it; ``mask`` is None where all genes are fitted; ``batch``
    are codes into ``batches``.
    """

    x: object
    layer: str | None
    where: str
    mask: np.ndarray | None
    mask_var: str | None
    batch: np.ndarray
    batches: list[str]
    batch_key: str | None

    def select(self, index: np.ndarray) -> "Source":
        """Some of the cells, by position in ascending order."""
        if len(index) == len(self.batch):
            return self
        run = slice(index[0], index[-1] + 1)
        together = run.stop - run.start == len(index)
        return self._replace(x=self.x[run if together else index], batch=self.batch[index])


def actual(adata: "AnnData", *, stacklevel: int = 3) -> None:
    """Make a view a copy of its own, with scanpy's warning, which is to name the caller's caller."""
    if adata.is_view:
        warnings.warn("Received a view of an AnnData. Making a copy.", UserWarning, stacklevel=stacklevel)
        adata._init_as_actual(adata.copy())


def find_counts(
    adata: "AnnData",
    layer: str | None,
    mask_var: str | None,
    batch_key: str | None,
    *,
    defaults: bool = True,
    known: list[str] | None = None,
) -> Source:
    """The counts that a user means; where ``defaults``, what is None is as :func:`scbayes.pp.prepare_counts` left them.

    Batches that are ``known`` come first, in their order.

    Raises
    ------
    TypeError
        If ``adata`` is no AnnData.
    KeyError
        If layer, mask or batch do not exist.
    ValueError
        If names repeat, or the mask or the batches cannot be used.
    """
    check_anndata(adata)
    prepared = adata.uns.get("sb_counts", {}) if defaults else {}
    if layer is None and prepared.get("layer") is not None and prepared["layer"] in adata.layers:
        layer = prepared["layer"]
    if mask_var is None and prepared.get("mask") is not None and prepared["mask"] in adata.var:
        mask_var = prepared["mask"]
    if layer is not None and layer not in adata.layers:
        msg = f"no layer {layer!r}: adata.layers has {[name for name in adata.layers if name is not None]}"
        raise KeyError(msg)
    for names, axis in ((adata.obs_names, "obs"), (adata.var_names, "var")):
        if not names.is_unique:
            msg = f"{axis}_names repeat, first {names[names.duplicated()][0]!r}: call adata.{axis}_names_make_unique()"
            raise ValueError(msg)
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        msg = "adata.X is None: pass layer= with the raw UMI counts"
        raise ValueError(msg)
    batch, batches = _batch(adata, batch_key, known)
    where = "X" if layer is None else f"layer {layer!r}"
    return Source(x, layer, where, _mask(adata, mask_var), mask_var, batch, batches, batch_key)


def sum_by_batch(source: Source, codes: np.ndarray | None, n_batches: int) -> np.ndarray:
    """Counts of each gene in the cells of each batch, checked: float64 ``(n_batches, n_genes)``."""
    counts = Counts(source.x, codes, n_batches, where=source.where)
    counts.totals()  # checked
    return counts.gather(np.ones((counts.n_cells, 1)), detected=False)[0][..., 0]


def stored_source(adata: "AnnData", key: str) -> Source:
    """The counts that a fit was made of."""
    facts = read_manifest(adata, key)["facts"]
    check_native(adata, facts, key)
    known = None if facts["batch_key"] is None else facts["batches"]
    return find_counts(adata, facts["layer"], facts["mask_var"], facts["batch_key"], defaults=False, known=known)


def check_native(adata: "AnnData", facts: dict, key: str) -> None:
    """Refuse cells without the native counts that a fit with ambient ones is of."""
    if "ambient" in facts and facts["layer"] not in adata.layers:
        of = facts["ambient"]["key"]
        msg = (
            f"the fit {key!r} is of native counts, and adata.layers[{facts['layer']!r}] is missing: run "
            f"sb.tl.denoise(adata, key_added={of!r}), or name a layer"
        )
        raise KeyError(msg)


def _mask(adata: "AnnData", mask_var: str | None) -> np.ndarray | None:
    if mask_var is None:
        return None
    if mask_var not in adata.var:
        msg = f"no column {mask_var!r} in adata.var, which has {list(adata.var.columns)}"
        raise KeyError(msg)
    mask = adata.var[mask_var]
    if isinstance(mask.dtype, pd.BooleanDtype) and not mask.isna().any():
        mask = mask.astype(bool)
    if mask.dtype != bool:
        msg = f"var[{mask_var!r}] has dtype {mask.dtype}; a mask of genes is bool"
        raise ValueError(msg)
    if not mask.any():
        msg = f"var[{mask_var!r}] marks no gene to fit"
        raise ValueError(msg)
    return None if mask.all() else mask.to_numpy()


def _batch(adata: "AnnData", batch_key: str | None, known: list[str] | None) -> tuple[np.ndarray, list[str]]:
    if batch_key is None:
        return np.zeros(adata.n_obs, np.int32), []
    if batch_key not in adata.obs:
        msg = f"no column {batch_key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    codes, names = pd.factorize(batch_names(adata.obs[batch_key]), sort=True)
    if (codes < 0).any():
        msg = f"obs[{batch_key!r}] is missing for {(codes < 0).sum()} cells: give each a batch"
        raise ValueError(msg)
    names = [str(name) for name in names]
    if known is not None:
        both = [*known, *[name for name in names if name not in known]]
        return np.array([both.index(name) for name in names], np.int32)[codes], both
    if len(names) < 2:
        msg = f"obs[{batch_key!r}] has one batch only, {names}: leave batch_key out"
        raise ValueError(msg)
    return codes.astype(np.int32), names
