"""How well a model says counts that were hidden from it."""

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import jax
import numpy as np

from scbayes.metrics import imputation_error
from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.stats._numbers import check_whole
from scbayes.tl._corrupted import KEPT, Corrupted, corrupt
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import LatentReading, encode_cells, read_latent_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def impute(
    adata: "AnnData",
    key: str = "sb",
    *,
    corruption: str = "uniform",
    rate: float = 0.1,
    n_samples: int = 8,
    keep_draws: bool = False,
    transform_batch: "str | Iterable[str] | None" = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Hide some counts from the model, and compare what it says of them: scVI's imputation benchmark.

    .. math:: \tilde u = \mathrm{corrupt}(u), \quad z \sim q(z \mid \tilde u), \quad
        \hat u_{cg} = l_c\,\rho_g(z_c), \quad \mathrm{error} = \mathrm{median}\, |u_{cg} - \hat u_{cg}|

    over all counts that changed. The corrupted cell has the library size l of what is left of it; with an ambient part
    :math:`\hat u` is the mean of native and ambient counts together, as u is their sum; excess zeros are left out.
    The model is not fitted again: it has seen the counts of its training cells, so that cells it has not seen, with
    `reference`, are the harder test. For imputed values of all counts, see :func:`scbayes.tl.normalize_counts`.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    key
        The fit to read.
    corruption
        ``"uniform"``: a chosen count above 0 becomes 0 with probability 0.1; ``"binomial"``: a chosen count u becomes
        Binomial(u, 0.2).
    rate
        Probability that a count is chosen, above 0 and at most 1. Cells that would lose all counts are left as they
        are.
    n_samples
        Draws of the latent numbers.
    keep_draws
        Store what each of them says.
    transform_batch
        Batch that all cells are decoded as; of several, the mean. Default: their own.
    reference
        Where the fit is, if `adata` has other cells.
    layer
        Layer with the counts. Default: that of the fit; of new cells, as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator of corruption and draws.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added + "_impute"]` : dict
        Of the m counts that changed: codes `cell` and `gene`, int32, of the names `cells` and `genes`; `original`,
        `corrupted` and `imputed` (the mean of the draws), float32 ``(m,)``; with `keep_draws`, `draws`,
        ``(n_samples, m)``. Its facts, which :func:`scbayes.get.imputation` has in ``attrs``, hold errors, in counts:

        ===========================  ==================================================================================
        `error`                      median of \|original - imputed\|
        `error_per_cell`             mean over cells with changed counts of the median in each
        `error_of_draws`             median over counts and draws, which is scVI's score; `error_of_draws_per_cell`:
                                     mean over all cells, 0 of those without changed counts, which is its other one
        `error_of_corrupted`         median of \|original - corrupted\|: the counts left as they are
        `error_of_profile`           median, where each cell had the composition of all cells
        ===========================  ==================================================================================

    Raises
    ------
    KeyError
        If there is no such fit or layer.
    ValueError
        If the fit has no latent space, genes of it are not in `adata`, a batch is unknown, an argument is out of range,
        or no count changed.
    """
    from scanpy import logging as logg

    clock = logg.info(f"imputing counts that were hidden from {key!r}")
    _check(corruption, rate, n_samples, keep_draws)
    seed = as_seed(rng)
    reading = read_latent_with_counts(adata, key, reference=reference, layer=layer)
    codes = reading.batch_codes(transform_batch)
    observed = reading.fit.facts["size_factor_key"] is None
    hidden = corrupt(reading.cells, corruption, rate, np.random.default_rng([seed, 0]), observed=observed)
    if not len(hidden.cell):
        msg = f"no count changed with corruption={corruption!r} and rate={rate:g}: raise rate, or choose another rng"
        raise ValueError(msg)
    fit = reading.fit
    loc, scale = encode_cells(fit.model, fit.params, fit.fixed, hidden.cells)
    seen = LatentReading(replace(fit, loc=loc, scale=scale), hidden.cells)
    draws = _draws(seen, hidden, codes, n_samples, seed)
    imputed = draws.mean(0, dtype=np.float64).astype(np.float32)
    facts = {"corruption": corruption, "rate": float(rate), "n_samples": int(n_samples), "seed": seed}
    facts |= {"batches": None if codes == [None] else [fit.batches[code] for code in codes]}
    facts |= {"n_changed": len(imputed), "n_cells": reading.n_cells, "n_cells_spared": hidden.n_spared}
    facts |= _errors(hidden, imputed, draws)
    there, cell = np.unique(hidden.cell, return_inverse=True)
    values = {"cell": cell.astype(np.int32), "cells": np.asarray(adata.obs_names[there], object)}
    values |= {"gene": hidden.gene, "genes": np.asarray(fit.genes, object)}
    values |= {"original": hidden.original, "corrupted": hidden.corrupted, "imputed": imputed}
    values |= {"draws": draws} if keep_draws else {}
    key_added = key if key_added is None else key_added
    own = {("uns", name): value for name, value in values.items()}
    said = f"error {facts['error']:.3g} counts, {facts['error_of_corrupted']:.3g} of the corrupted counts"
    return store(adata, "impute", key_added, own, fit=fit, facts=facts, clock=clock, copy=copy, said=said)


def _check(corruption: str, rate: float, n_samples: int, keep_draws: bool) -> None:  # noqa: FBT001
    if corruption not in KEPT:
        msg = f"corruption={corruption!r}: choose one of {', '.join(map(repr, KEPT))}"
        raise ValueError(msg)
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 < rate <= 1:
        msg = f"rate={rate!r}: give a number above 0 and at most 1"
        raise ValueError(msg)
    check_whole(1, n_samples=n_samples)
    if not isinstance(keep_draws, bool | np.bool_):
        msg = f"keep_draws={keep_draws!r}: give True or False"
        raise TypeError(msg)


def _draws(seen: LatentReading, hidden: Corrupted, codes: list, n_samples: int, seed: int) -> np.ndarray:
    """What the model says of the changed counts, float32 ``(n_samples, m)``; a block of cells and a draw at a time."""
    mean, found = _mean(seen.model), np.zeros((n_samples, len(hidden.cell)), np.float32)
    for code in codes:
        for block in seen.blocks(batch=code):
            first, stop = block.cells.start, block.cells.stop
            these = slice(*np.searchsorted(hidden.cell, [first, stop]))
            row, column = hidden.cell[these] - first, hidden.gene[these]
            for draw in range(n_samples):
                rng = np.random.default_rng([seed, 1, draw, first])  # the same z for each batch
                v = block.loc + block.scale * rng.standard_normal(block.loc.shape, np.float32)
                found[draw, these] += np.asarray(mean(block.inputs, v))[row, column] / len(codes)
    return found


@lru_cache(maxsize=32)
def _mean(model: LatentModel):
    """Mean of all counts, excess zeros aside."""

    @jax.jit
    def mean(inputs: Inputs, v: jax.Array):
        return jax.numpy.exp(model.decode(inputs, v).log_mean)

    return mean


def _errors(hidden: Corrupted, imputed: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    """The model's errors, and those of what needs no model."""
    x, cells = hidden.original, {"cells": hidden.cell}
    return {
        "error": imputation_error(x, imputed),
        "error_per_cell": imputation_error(x, imputed, **cells),
        "error_of_draws": imputation_error(x, draws),
        "error_of_draws_per_cell": imputation_error(x, draws, **cells, n_cells=hidden.cells.n_cells),
        **{f"error_of_{name}": imputation_error(x, value) for name, value in hidden.baselines.items()},
    }
