"""Fits of native expression: what is not known of ambient counts goes into the posterior, by multiple imputation."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scbayes.models._gauge import at_total
from scbayes.models._imputation import pooled
from scbayes.models._native_draws import native_draws
from scbayes.models._posterior import Posterior
from scbayes.state import Source, read_manifest, read_result
from scbayes.tl._de_ambient import ambient_cells
from scbayes.tl._denoise_arguments import counts_in_memory
from scbayes.tl._methods import Settings, finite
from scbayes.tl._run import Run, start_run
from scbayes.tl._start_components import Components

if TYPE_CHECKING:
    from anndata import AnnData

#: Draws of native counts.
N_DRAWS = 10


def check_ambient(adata: "AnnData", given: dict) -> None:
    """Refuse arguments of ``fit`` that do not go with ambient counts."""
    key, ambient = given["key_added"], given["ambient"]
    for name in ("resume", "update"):
        if given[name] and (ambient is not None or "ambient" in read_manifest(adata, key)["facts"]):
            msg = f"{name}=True does not go with ambient=: fit all cells together, with n_steps= for a longer run"
            raise ValueError(msg)
    if ambient is None:
        return
    if given["layer"] is not None:
        msg = f"layer={given['layer']!r}: ambient={ambient!r} says which counts are meant, those of sb.tl.denoise"
        raise ValueError(msg)
    if given["method"] == "nuts":
        msg = "method='nuts' has draws for one data set, and ambient= makes several: choose 'svi' or 'laplace'"
        raise ValueError(msg)


def draws_of(adata: "AnnData", key: str, seed: int) -> Iterator[sparse.csr_array]:
    """Draws of native counts, made one at a time, from the result ``key`` of ``sb.tl.denoise``, read now.

    Raises
    ------
    KeyError, ValueError
        If something of it is missing, or it does not go with these cells and genes.
    """
    values, facts = read_result(adata, "denoise", key)
    ambient = ambient_cells(adata, key)
    _, counts = counts_in_memory(adata, facts["layer"], ambient.stratum, len(ambient.strata.sample))
    kind = np.asarray(values["denoise_group"].cat.codes)
    return native_draws(counts, kind, ambient, N_DRAWS, np.random.default_rng(seed))


def with_ambient(
    run: Run, drawn: Iterator[sparse.csr_array], *, key: str, settings: Settings, components: Components | None
) -> Run:
    """The run, of denoised counts, with the posterior of native ones: pooled over ``drawn`` ones.

    Draws are fitted by Laplace's approximation, with the priors that the run has learned.
    """
    model, mrna, now = run.model, run.facts["total_mrna"], run.found.posterior
    quick = settings._replace(method="laplace", progress=False)
    priors = run.start.priors | ({"total_mrna": mrna["median"]} if model.config.capture else {})
    if components is not None:  # names keep them in order
        components = components._replace(membership=now.responsibilities, names=run.facts["components"]["names"])

    def posterior_of(source: Source) -> Posterior:
        return start_run(model, source, priors, run.facts["seed"], quick, components).found.posterior

    draws = [posterior_of(run.source._replace(x=x)) for x in drawn]
    found = pooled(now, now if settings.method == "laplace" else posterior_of(run.source), draws)
    found = at_total(model, found, run.start.priors, np.log(mrna["median"]), run.source.batch)
    facts = run.facts | {"ambient": {"key": key, "n_draws": N_DRAWS}}
    return run._replace(found=run.found._replace(posterior=finite(found), unfinished=(), past=None), facts=facts)
