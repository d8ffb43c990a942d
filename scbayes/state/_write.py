"""A fit into AnnData: everything is made first, then written."""

import json
from typing import TYPE_CHECKING

import numpy as np

from scbayes.state._fit import Fit
from scbayes.state._names import SCHEMA, check_anndata, check_key, fingerprints, slot_of, split_slot
from scbayes.state._results import remove_results
from scbayes.state._seen import Seen, pack_seen

if TYPE_CHECKING:
    from anndata import AnnData

#: Gene-wise arrays of a posterior.
GENE_PARTS = ("loc", "tril", "factor")


def write_fit(
    adata: "AnnData", fit: Fit, unfinished: list[np.ndarray] | None = None, seen: Seen | None = None
) -> list[str]:
    """Write a fit into its slots, in place of an earlier one under the same key.

    Parameters
    ----------
    unfinished
        Arrays with which the optimisation can go on; None if it is done.
    seen
        What is kept for new cells to be added.

    Returns
    -------
    The slots, for the log.
    """
    fit_id = fit.id
    varm, obsm, uns = _parts(fit, fit_id)
    parts = [
        {"slot": f"{where}[{name!r}]", "shape": list(value.shape), "dtype": str(value.dtype)}
        for where, group in (("varm", varm), ("obsm", obsm))
        for name, value in group.items()
    ]
    if unfinished:
        uns["unfinished"] = {f"p{i:03d}": np.asarray(value) for i, value in enumerate(unfinished)}
    arrays = {name: list(value.shape) for name, value in uns.items() if name != "unfinished"}
    if seen is not None:
        uns["seen"] = pack_seen(seen)
    manifest = {
        "schema": SCHEMA,
        "id": fit_id,
        "model": fit.config.to_json(),
        "links": fit.links,
        "facts": fit.facts,
        "parts": parts,
        "arrays": arrays,
        "n_unfinished": len(unfinished or ()),
        "seen": None if seen is None else {name: list(value.shape) for name, value in uns["seen"].items()},
    }
    entry = {"manifest": json.dumps(manifest, allow_nan=False), **uns}
    remove_fit(adata, fit.key, missing_ok=True)
    for name, value in varm.items():
        adata.varm[name] = value
    for name, value in obsm.items():
        adata.obsm[name] = value
    adata.uns[fit.key] = entry
    return [*[part["slot"] for part in parts], f"uns[{fit.key!r}]"]


def check_free(adata: "AnnData", key: str) -> None:
    """Refuse a key whose slots hold something else.

    Raises
    ------
    ValueError
        If ``uns[key]`` is no fit, or one of the slots exists without a fit that owns it.
    """
    check_anndata(adata)
    check_key(key)
    owned = set()
    if key in adata.uns:
        owned = set(owned_slots(adata, key))
    for where in ("varm", "obsm"):
        for part in (*GENE_PARTS, "gene_id", "nu", "cell_id", "responsibilities"):
            slot = (where, slot_of(key, part))
            if slot[1] in getattr(adata, where) and slot not in owned:
                msg = f"adata.{where}[{slot[1]!r}] exists and belongs to no fit: choose another key_added than {key!r}"
                raise ValueError(msg)


def owned_slots(adata: "AnnData", key: str) -> list[tuple[str, str]]:
    """(field, name) of every slot that the manifest of a fit lists, present or not."""
    try:
        parts = json.loads(str(adata.uns[key]["manifest"]))["parts"]
        return [split_slot(part["slot"]) for part in parts]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        msg = f"adata.uns[{key!r}] holds something else than a scbayes fit: choose another key, or delete it"
        raise ValueError(msg) from error


def remove_fit(adata: "AnnData", key: str, *, missing_ok: bool = False) -> list[str]:
    """Delete every slot of a fit, and all results that were computed from it; returns their names."""
    if missing_ok and key not in adata.uns:
        return []
    removed = remove_results(adata, key)
    for where, name in owned_slots(adata, key):
        if name in getattr(adata, where):
            del getattr(adata, where)[name]
            removed.append(f"{where}[{name!r}]")
    del adata.uns[key]
    return [*removed, f"uns[{key!r}]"]


def _parts(fit: Fit, fit_id: str) -> tuple[dict, dict, dict]:
    """Arrays of a fit for varm, obsm and uns; rows of genes that were pooled are NaN."""
    posterior, fitted = fit.posterior, fit.fitted
    own = int(fitted.sum())
    varm = {}
    for part in GENE_PARTS:
        value = np.asarray(getattr(posterior, f"gene_{part}"))
        value = np.swapaxes(value, 0, 1) if fit.config.mixture else value  # genes come first in varm
        if value.shape[-1]:
            whole = np.full((len(fitted), *value.shape[1:]), np.nan)
            whole[fitted] = value[:own]
            varm[slot_of(fit.key, part)] = whole
    varm[slot_of(fit.key, "gene_id")] = fingerprints(fit.genes, fit_id)
    obsm = {slot_of(fit.key, "cell_id"): fingerprints(fit.cells, fit_id)}
    if posterior.cell_loc.size:
        obsm[slot_of(fit.key, "nu")] = np.stack([posterior.cell_loc, posterior.cell_scale], 1)
    if fit.config.mixture:
        obsm[slot_of(fit.key, "responsibilities")] = np.asarray(posterior.responsibilities)
    uns = {
        "loss": np.asarray(fit.losses),
        "global": np.stack([posterior.global_loc, posterior.global_scale], 1),
        "rest": fit.rest,
        "total": np.concatenate([fit.total.loc[..., None], fit.total.variance[..., None], fit.total.loading], -1),
    }
    if fit.config.mixture:
        uns["weights"] = np.asarray(posterior.weights)
    return varm, obsm, uns
