"""What :func:`scbayes.tl.fit` is given for a model with a latent space: checked, before anything is read."""

from importlib.util import find_spec
from inspect import Signature
from typing import TYPE_CHECKING

from scbayes.models._latent_config import LATENT_MODELS, LatentConfig
from scbayes.state import is_latent, read_manifest

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments that only these models know, those that they share with the negative binomial family, and all others.
OWN = ("config", "covariates", "size_factor_key")
SHARED = (
    *("adata", "model", "layer", "mask_var", "batch_key", "labels_key", "ambient", "resume", "rng", "key_added"),
    *("progress", "copy"),
)


def means_latent(adata: "AnnData", given: dict, signature: Signature) -> bool:
    """Whether a model with a latent space is to be fitted.

    Raises
    ------
    TypeError
        If ``config`` is no dict.
    ValueError
        If arguments are given that the model does not know.
    """
    again = given["resume"] or given["update"]
    latent = is_latent(adata, given["key_added"]) if again else given["model"] in LATENT_MODELS
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    if latent and again:
        _check_again(adata, given, defaults)
        return True
    known = (*SHARED, *OWN) if latent else [name for name in given if name not in OWN]
    foreign = [name for name, value in given.items() if name not in known and value != defaults[name]]
    if foreign and latent:
        msg = f"{', '.join(foreign)}: not for a model with a latent space, whose settings go into config={{...}}"
        raise ValueError(msg)
    if foreign:
        msg = f"{', '.join(foreign)}: for model='vae' or 'factors', not for model={given['model']!r}"
        raise ValueError(msg)
    if latent and not isinstance(given["config"], dict | None):
        msg = f"config is a {type(given['config']).__name__}: give a dict of settings, such as {{'n_latent': 20}}"
        raise TypeError(msg)
    return latent


def _check_again(adata: "AnnData", given: dict, defaults: dict) -> None:
    """Refuse other settings than those of the fit that is gone on with, and cells to add to it."""
    key = given["key_added"]
    if given["update"]:
        msg = f"update=True: cells are not added to {key!r}, which has a latent space: place them with reference="
        raise ValueError(msg)
    model = read_manifest(adata, key)["model"]["model"]
    free = ("adata", "resume", "key_added", "progress", "copy")
    foreign = [name for name, value in given.items() if name not in free and value != defaults[name]]
    foreign = [name for name in foreign if name != "model" or given["model"] != model]
    if foreign:
        msg = f"resume=True goes on with the settings of {key!r}: leave out {', '.join(foreign)}, or fit anew"
        raise ValueError(msg)


def check_together(config: LatentConfig, given: dict) -> None:
    """Refuse columns without the setting that reads them, and the other way round; networks without their library."""
    if config.model == "vae" and find_spec("equinox") is None:
        raise ImportError("model='vae' needs equinox: pip install 'scbayes[latent]', or fit model='factors'")
    for name in ("labels_key", "covariates"):
        if config.model == "factors" and given[name]:
            msg = f"{name} is for model='vae': factors know batches only"
            raise ValueError(msg)
    if given["ambient"] is not None and config.model != "vae":
        msg = f"ambient={given['ambient']!r}: model={config.model!r} has no ambient part; fit model='vae'"
        raise ValueError(msg)
    if (config.library == "size_factor") != (given["size_factor_key"] is not None):
        msg = "config={'library': 'size_factor'} and size_factor_key= go together: give both or none"
        raise ValueError(msg)
    for dispersion, column in (("gene-batch", "batch_key"), ("gene-label", "labels_key")):
        if config.dispersion == dispersion and given[column] is None:
            msg = f"dispersion={dispersion!r} needs {column}, the column of obs that has them"
            raise ValueError(msg)
