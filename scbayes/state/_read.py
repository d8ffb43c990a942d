"""A fit out of AnnData: all of it, or an error that says what is missing and what to do."""

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models import ModelConfig
from scbayes.models._latent_config import LATENT_MODELS
from scbayes.models._marginals import Total
from scbayes.models._model import Model
from scbayes.models._posterior import Posterior
from scbayes.models._priors import from_json
from scbayes.state._fit import Fit
from scbayes.state._names import SCHEMA, check_anndata, fingerprints, slot_of, split_slot

if TYPE_CHECKING:
    from anndata import AnnData


def stored_fits(adata: "AnnData") -> list[str]:
    """Keys of all fits in ``adata``."""
    return [key for key, entry in adata.uns.items() if hasattr(entry, "keys") and "manifest" in entry]


def read_fit(adata: "AnnData", key: str = "sb") -> Fit:
    """The fit under ``key``, of the cells and genes that ``adata`` has now.

    Raises
    ------
    KeyError
        If there is no fit under ``key``, or a part of it is missing.
    ValueError
        If parts disagree with each other, with the names of cells and genes, or with this version of scbayes.
    """
    manifest = read_manifest(adata, key)
    _check_no_latent(manifest, key)
    parts = check_parts(adata, key, manifest)
    for axis, what in (("var", "gene"), ("obs", "cell")):
        stored = getattr(adata, f"{axis}m")[slot_of(key, f"{what}_id")]
        check_names(getattr(adata, f"{axis}_names"), stored, manifest["id"], key, what, f"{axis}_names")
    config = ModelConfig.from_json(manifest["model"])
    uns, facts = adata.uns[key], manifest["facts"]
    loc = np.asarray(adata.varm[slot_of(key, "loc")])
    fitted = np.isfinite(loc).all(tuple(range(1, loc.ndim)))
    columns = len(Model.of(config).columns)
    factor = slot_of(key, "factor")
    nu = np.array(adata.obsm[slot_of(key, "nu")]) if config.capture else np.zeros((0, 2))
    genes = {"loc": loc[fitted], "tril": np.asarray(adata.varm[slot_of(key, "tril")])[fitted]}
    without = np.zeros((*genes["loc"].shape[:-1], columns, 0))
    genes["factor"] = np.asarray(adata.varm[factor])[fitted] if factor in adata.varm else without
    if config.mixture:  # components come first in the posterior
        genes = {name: np.swapaxes(value, 0, 1) for name, value in genes.items()}
    mixed = {}
    if config.mixture:
        shares = np.array(adata.obsm[slot_of(key, "responsibilities")])
        mixed = {"weights": np.array(uns["weights"]), "responsibilities": shares}
    posterior = Posterior(
        **{f"gene_{name}": value for name, value in genes.items()},
        **mixed,
        global_loc=np.array(uns["global"])[:, 0],  # copies: what is handed out may be changed
        global_scale=np.array(uns["global"])[:, 1],
        cell_loc=nu[:, 0],
        cell_scale=nu[:, 1],
    )
    total = np.array(uns["total"])
    return Fit(
        key=key,
        config=config,
        priors={site: from_json(prior) for site, prior in facts["priors"].items()},
        posterior=posterior,
        total=Total(total[..., 0], total[..., 1], total[..., 2:]),
        links=manifest["links"],
        genes=np.asarray(adata.var_names),
        cells=np.asarray(adata.obs_names),
        fitted=fitted,
        rest=np.array(uns["rest"]),
        batch=batch_codes(adata, facts, key),
        losses=np.array(uns["loss"]),
        facts=facts,
        slots={name: f"{where}[{name!r}]" for where, name in parts} | {"manifest": f"uns[{key!r}]"},
    )


def read_unfinished(adata: "AnnData", key: str) -> list[np.ndarray]:
    """Arrays with which an optimisation can go on; empty if it was done."""
    n = read_manifest(adata, key)["n_unfinished"]
    stored = adata.uns[key].get("unfinished", {})
    if len(stored) != n:
        msg = f"the fit {key!r} cannot be resumed: {n - len(stored)} of its {n} arrays are missing; fit again"
        raise ValueError(msg)
    return [np.asarray(stored[f"p{i:03d}"]) for i in range(n)]


def check_is_fit(adata: "AnnData", key: str) -> None:
    """Raise the error of :func:`read_fit` if there is no fit under ``key``."""
    read_manifest(adata, key)


def read_manifest(adata: "AnnData", key: str, *, any_version: bool = False) -> dict:
    """The manifest of a fit, of a version that is understood."""
    check_anndata(adata)
    if key not in adata.uns:
        found = stored_fits(adata)
        known = f"the fits here are {found}" if found else "there is no fit here: run sb.tl.fit(adata) first"
        msg = f"no fit {key!r}: {known}"
        raise KeyError(msg)
    entry = adata.uns[key]
    try:
        manifest = json.loads(str(entry["manifest"]))
        schema = manifest["schema"]
    except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
        msg = f"uns[{key!r}] is not a scbayes fit (no readable manifest); the fits here are {stored_fits(adata)}"
        raise ValueError(msg) from error
    if schema > SCHEMA and not any_version:
        msg = (
            f"the fit {key!r} was written by a newer scbayes (layout {schema}, this version reads up to {SCHEMA}): "
            "update scbayes, or fit again"
        )
        raise ValueError(msg)
    return manifest


def check_parts(adata: "AnnData", key: str, manifest: dict) -> list[tuple[str, str]]:
    """(field, name) of each slot of a fit, all of which are there as the manifest says."""
    parts = {split_slot(part["slot"]): part for part in manifest["parts"]}
    for (where, name), part in parts.items():
        _check_part(adata, key, where, name, part)
    for name, shape in manifest["arrays"].items():
        if name not in adata.uns[key] or list(np.shape(adata.uns[key][name])) != shape:
            msg = f"the fit {key!r} is damaged: uns[{key!r}][{name!r}] is missing or has changed shape; fit again"
            raise ValueError(msg)
    return list(parts)


def is_latent(adata: "AnnData", key: str) -> bool:
    """Whether the fit under ``key`` is of a model with a latent space."""
    return read_manifest(adata, key)["model"]["model"] in LATENT_MODELS


def _check_no_latent(manifest: dict, key: str) -> None:
    model = manifest["model"]["model"]
    if model in LATENT_MODELS:
        msg = (
            f"the fit {key!r} is of model={model!r}, whose genes have no distributions of their own: this is for the "
            "negative binomial models, such as 'nbvcp'"
        )
        raise ValueError(msg)


def _check_part(adata: "AnnData", key: str, where: str, name: str, part: dict) -> None:
    if name not in getattr(adata, where):
        msg = (
            f"the fit {key!r} is incomplete: adata.{where}[{name!r}] is missing; "
            "fit again, or delete the rest with sb.tl.remove"
        )
        raise KeyError(msg)
    value = getattr(adata, where)[name]
    kind = getattr(value, "dtype", type(value).__name__)  # a DataFrame has many
    if list(value.shape[1:]) != part["shape"][1:] or str(kind) != part["dtype"]:
        msg = (
            f"the fit {key!r} is damaged: adata.{where}[{name!r}] is {kind} of shape {value.shape}, "
            f"and was {part['dtype']} of shape {tuple(part['shape'])}; fit again"
        )
        raise ValueError(msg)


def check_names(names, stored: np.ndarray, fit_id: str, key: str, what: str, attribute: str) -> None:
    changed = np.flatnonzero(fingerprints(names, fit_id)[:, 0] != np.asarray(stored)[:, 0])
    if len(changed):
        msg = (
            f"{len(changed)} {what}s are not called what they were when {key!r} was fitted, or come from another fit, "
            f"first {names[changed[0]]!r}: restore adata.{attribute}, or fit again"
        )
        raise ValueError(msg)


def batch_names(column: pd.Series) -> pd.Series:
    """Names of batches; whole numbers are called the same whatever their type, missing ones stay so."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(str).where(column.notna())


def batch_codes(adata: "AnnData", facts: dict, key: str) -> np.ndarray:
    """Codes of the batches of the cells of ``adata``, as they were when ``key`` was fitted: int32 ``(n_cells,)``."""
    if facts["batch_key"] is None:
        return np.zeros(adata.n_obs, np.int32)
    if facts["batch_key"] not in adata.obs:
        msg = f"the fit {key!r} needs obs[{facts['batch_key']!r}], its batches, which is not there"
        raise KeyError(msg)
    code = {name: i for i, name in enumerate(facts["batches"])}
    names = batch_names(adata.obs[facts["batch_key"]]).fillna("nan")
    unknown = sorted(set(names) - set(code))
    if unknown:
        msg = f"obs[{facts['batch_key']!r}] has batches that {key!r} was not fitted on: {unknown[:5]}"
        raise ValueError(msg)
    return np.array([code[name] for name in names], np.int32)
