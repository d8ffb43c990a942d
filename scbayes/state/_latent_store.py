"""A fit of a model with a latent space into AnnData, and back."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models._latent_config import latent_config_from_json, latent_config_to_json
from scbayes.models._latent_kinds import latent_model, params_like
from scbayes.models._latent_model import Sizes
from scbayes.models._latent_params import flatten_params, unflatten_params
from scbayes.state._fit import Fit
from scbayes.state._latent_fit import LatentFit
from scbayes.state._names import fingerprints, slot_of
from scbayes.state._read import check_names, check_parts, is_latent, read_fit, read_manifest
from scbayes.state._write import store_fit

if TYPE_CHECKING:
    from anndata import AnnData


def write_latent_fit(
    adata: "AnnData",
    fit: LatentFit,
    unfinished: list[np.ndarray] | None = None,
    *,
    without_cells: bool = False,
) -> list[str]:
    """Write a fit into its slots, in place of an earlier one under the same key; returns the slots."""
    fit_id, key = fit.id, fit.key
    slots: dict[str, dict] = {"obsm": {}, "obs": {}}
    if not without_cells:
        obsm = {"latent": np.hstack([fit.loc, fit.scale]), "cell_id": fingerprints(fit.cells, fit_id)}
        slots = {
            "obsm": {slot_of(key, part): value for part, value in obsm.items()},
            "obs": {slot_of(key, "split"): pd.Series(fit.split, index=adata.obs_names)},
        }
    about = {"model": latent_config_to_json(fit.config), "sizes": fit.sizes._asdict(), "links": {}}
    uns = {"history": np.asarray(fit.history, float), "genes": np.asarray(fit.genes, object)}
    extra = {"params": flatten_params(fit.params), "fixed": {name: np.asarray(v) for name, v in fit.fixed.items()}}
    return store_fit(adata, key, fit_id, about, fit.facts, slots=slots, uns=uns, extra=extra, unfinished=unfinished)


def read_latent_fit(adata: "AnnData", key: str = "sb") -> LatentFit:
    """The fit under ``key``, of the cells that ``adata`` has now.

    Raises
    ------
    KeyError
        If there is no fit under ``key``, or a part of it is missing.
    ValueError
        If the fit is of a model without a latent space, or its parts disagree with each other or with the names.
    """
    manifest = read_manifest(adata, key)
    if not is_latent(adata, key):
        msg = f"the fit {key!r} is of model={manifest['model']['model']!r}, which has no latent space: fit model='vae'"
        raise ValueError(msg)
    names = check_parts(adata, key, manifest)
    config, sizes = latent_config_from_json(manifest["model"]), Sizes(**manifest["sizes"])
    uns = adata.uns[key]
    for group in ("params", "fixed"):
        for name, shape in manifest[group].items():
            if name not in uns.get(group, {}) or list(np.shape(uns[group][name])) != shape:
                msg = f"the fit {key!r} is damaged: uns[{key!r}][{group!r}][{name!r}] is missing or has changed shape"
                raise ValueError(msg)
    width = len(latent_model(config, sizes).names)
    latent, split = np.zeros((0, 2 * width), np.float32), pd.Categorical([])
    if names:  # else it was exported without its cells
        ids = adata.obsm[slot_of(key, "cell_id")]
        check_names(adata.obs_names, ids, manifest["id"], key, "cell", "obs_names")
        latent = np.array(adata.obsm[slot_of(key, "latent")])
        split = pd.Categorical(adata.obs[slot_of(key, "split")])
    return LatentFit(
        key=key,
        config=config,
        sizes=sizes,
        params=unflatten_params(params_like(config, sizes), dict(uns["params"])),
        fixed={name: np.asarray(uns["fixed"][name]) for name in manifest["fixed"]},
        genes=np.asarray(uns["genes"], object),
        cells=np.asarray(adata.obs_names) if names else np.zeros(0, object),
        loc=latent[:, :width],
        scale=latent[:, width:],
        split=split,
        history=np.array(uns["history"]),
        facts=manifest["facts"],
        slots={name: f"{where}[{name!r}]" for where, name in names} | {"manifest": f"uns[{key!r}]"},
    )


def read_any_fit(adata: "AnnData", key: str = "sb") -> Fit | LatentFit:
    """The fit under ``key``, of whichever kind it is; see :func:`read_fit` and :func:`read_latent_fit`."""
    return read_latent_fit(adata, key) if is_latent(adata, key) else read_fit(adata, key)
