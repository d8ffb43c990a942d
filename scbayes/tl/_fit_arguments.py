"""What :func:`scbayes.tl.fit` is given: checked, before anything is read."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.inference import as_optimizer
from scbayes.state import check_free, check_is_fit
from scbayes.stats._numbers import check_whole
from scbayes.tl._methods import METHODS
from scbayes.tl._start_components import ComponentSettings

if TYPE_CHECKING:
    from anndata import AnnData


def is_mixture(model: str, n_components: int | None, how: ComponentSettings) -> bool:
    if not isinstance(model, str):
        msg = f"model={model!r}: give the name of a model, such as 'nbvcp'"
        raise TypeError(msg)
    whole = isinstance(n_components, int | np.integer) and not isinstance(n_components, bool)
    if n_components is not None and (not whole or n_components < 1):
        msg = f"n_components={n_components!r}: give a whole number of at least 2, or None"
        raise ValueError(msg)
    grouped = how.labels_key is not None or how.init != "kmeans"
    if not grouped and n_components in {None, 1} and not model.endswith("_mix"):
        return False
    if n_components == 1 or (n_components is None and not grouped):
        msg = f"model={model!r} is a mixture: pass n_components=2 or more, or labels_key or init with groups of cells"
        raise ValueError(msg)
    if how.labels_key is not None and how.init != "kmeans":
        msg = f"both init={how.init!r} and labels_key={how.labels_key!r} say where components start: leave init out"
        raise ValueError(msg)
    return True


def check_target(adata: "AnnData", key: str, *, copy: bool, again: bool) -> None:
    """Refuse slots that something else has, a file that cannot be written, and a fit to go on with that is missing."""
    if again:
        check_is_fit(adata, key)
    check_free(adata, key)
    check_backed(adata, copy=copy)


def check_backed(adata: "AnnData", *, copy: bool) -> None:
    if adata.isbacked and (copy or adata.is_view):
        what = "leave out copy=True" if copy else "a view of it cannot be written to"
        msg = f"adata is backed by a file, which is not copied in memory: {what}, or use adata.to_memory()"
        raise ValueError(msg)


def check_method(method: str, n_samples: int, *, mixture: bool, resume: bool, update: bool) -> None:
    if resume and update:
        msg = "resume=True goes on with the same cells, and update=True adds others: leave one of them out"
        raise ValueError(msg)
    if method not in METHODS:
        msg = f"unknown method {method!r}; choose one of {', '.join(METHODS)}"
        raise ValueError(msg)
    if method == "nuts" and mixture:
        msg = "method='nuts' does not mix over the components of a mixture: leave method out, or fit without components"
        raise ValueError(msg)
    if resume and method != "svi":
        msg = f"resume=True goes on with an optimisation, and method={method!r} is none: leave one of them out"
        raise ValueError(msg)
    check_whole(10, n_samples=n_samples)


def component_settings(init: str, n_init: int, labels_key: str | None, label_trust: float) -> ComponentSettings:
    check_whole(1, n_init=n_init)
    if not isinstance(label_trust, int | float | np.number) or not 0.5 < label_trust <= 1:
        msg = f"label_trust={label_trust!r}: give a probability above 0.5 and at most 1"
        raise ValueError(msg)
    if label_trust != 1 and labels_key is None:
        msg = f"label_trust={label_trust!r} is about labels: give labels_key, the column of obs that has them"
        raise ValueError(msg)
    return ComponentSettings(init, n_init, labels_key, label_trust)


def check_arguments(n_steps: int, priors, optimizer, loss) -> None:
    from numpyro.infer.elbo import ELBO

    if priors is not None and not isinstance(priors, dict):
        msg = f"priors is a {type(priors).__name__}: give a dict of parameter -> numpyro distribution"
        raise TypeError(msg)
    as_optimizer(optimizer)
    if loss is not None and not isinstance(loss, ELBO):
        msg = f"loss must be a numpyro ELBO such as Trace_ELBO(), not {type(loss).__name__}"
        raise TypeError(msg)
    check_whole(1, n_steps=n_steps)


def as_seed(rng: int | np.random.Generator) -> int:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, int | np.integer) and rng >= 0:
        return int(rng)
    msg = f"rng={rng!r}: give a whole number of at least 0, or a numpy Generator"
    raise ValueError(msg)
