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
#: What a fit of any kind may write, by field.
PARTS = {
    "varm": (*GENE_PARTS, "gene_id"),
    "obsm": ("nu", "cell_id", "responsibilities", "latent"),
    "obs": ("split",),
}


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
    about = {"model": fit.config.to_json(), "links": fit.links}
    extra = {} if seen is None else {"seen": pack_seen(seen)}
    slots = {"varm": varm, "obsm": obsm}
    return store_fit(adata, fit.key, fit_id, about, fit.facts, slots=slots, uns=uns, extra=extra, unfinished=unfinished)


def store_fit(
    adata: "AnnData",
    key: str,
    fit_id: str,
    about: dict,
    facts: dict,
    *,
    slots: dict[str, dict],
    uns: dict[str, np.ndarray],
    extra: dict[str, dict] | None = None,
    unfinished: list[np.ndarray] | None = None,
) -> list[str]:
    """Write the parts of a fit of any kind, and the manifest that lists them.

    Parameters
    ----------
    about
        What the manifest says of the model: plain values.
    slots
        Field of AnnData (obs, obsm, varm) -> name -> value.
    uns, extra
        Arrays for ``uns[key]``, and dicts of arrays.
    """
    parts = [
        {"slot": f"{where}[{name!r}]", "shape": list(value.shape), "dtype": str(value.dtype)}
        for where, group in slots.items()
        for name, value in group.items()
    ]
    extra = dict(extra or {})
    manifest = {
        "schema": SCHEMA,
        "id": fit_id,
        **about,
        "facts": facts,
        "parts": parts,
        "arrays": {name: list(value.shape) for name, value in uns.items()},
        "n_unfinished": len(unfinished or ()),
        "seen": None,
        **{name: {part: list(np.shape(value)) for part, value in group.items()} for name, group in extra.items()},
    }
    if unfinished:
        extra["unfinished"] = {f"p{i:03d}": np.asarray(value) for i, value in enumerate(unfinished)}
    entry = {"manifest": json.dumps(manifest, allow_nan=False), **uns, **extra}
    remove_fit(adata, key, missing_ok=True)
    for where, group in slots.items():
        for name, value in group.items():
            getattr(adata, where)[name] = value
    adata.uns[key] = entry
    return [*[part["slot"] for part in parts], f"uns[{key!r}]"]


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
    for where, names in PARTS.items():
        for part in names:
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
    if fit.config.capture:
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
