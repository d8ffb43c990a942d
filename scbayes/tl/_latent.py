"""Latent numbers of cells: where they lie, and how sure that is."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import LatentFit
from scbayes.stats._numbers import check_whole
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import read_latent_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Draws for the mean of a logistic-normal, which has no closed form.
DRAWS = 1000


def latent(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Posterior mean and standard deviation of the latent numbers of each cell.

    .. math:: q(z \mid u) = N(m(u), s(u)^2)

    The share of ambient counts, of a model with an ambient part, is with :func:`scbayes.tl.denoise`.

    For a logistic-normal latent space, those of :math:`\mathrm{softmax}(z)`, from 1,000 draws. ``obsm["X_sb"]`` is what
    scanpy takes: ``sc.pp.neighbors(adata, use_rep="X_sb")``.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    key
        The fit to read.
    n_samples
        Store so many draws for each cell, too; :func:`scbayes.get.latent` reads them.
    reference
        Where the fit is, if `adata` has other cells: these are encoded, genes are found by name. May be a fit without
        cells, ``sb.get.fit(adata).to_anndata()``.
    layer
        Layer with the counts. Default: that of the fit; of new cells, as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator of the draws.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets (float32)

    `adata.obsm["X_" + key_added]` : `(n_cells, n_latent)`
        Posterior mean.
    `adata.obsm[key_added + "_z_sd"]` : `(n_cells, n_latent)`
        Posterior standard deviation.
    `adata.obsm[key_added + "_z_samples"]` : `(n_cells, n_samples * n_latent)`
        Draws, one after the other, with `n_samples`.
    `adata.obs[key_added + "_library"]`, `..._library_sd`
        Mean and standard deviation of the library size: the sum of the counts of the model's genes and 0 where it is
        observed, the size factor and 0 where that was given.
    `adata.uns[key_added + "_latent"]` : dict
        How it was computed.

    Raises
    ------
    KeyError
        If there is no such fit or layer.
    ValueError
        If the fit has no latent space, or genes of it are not in `adata`.
    """
    from scanpy import logging as logg

    clock = logg.info(f"latent numbers of {key!r}")
    check_whole(1, n_samples=n_samples, or_none=True)
    reading = read_latent_with_counts(adata, key, reference=reference, layer=layer)
    rng = np.random.default_rng(as_seed(rng))
    fit = reading.fit
    mean, sd = _space(fit, rng)
    key_added = key if key_added is None else key_added
    values = {("obsm", "z"): mean, ("obsm", "z_sd"): sd}
    if n_samples is not None:
        draws = [_drawn(fit, rng).astype(np.float32) for _ in range(n_samples)]
        values["obsm", "z_samples"] = np.hstack(draws)
    given = fit.config.library == "size_factor"
    size = np.exp(reading.cells.log_size) if given else reading.cells.total
    values |= _of_cells("library", *_log_normal(fit, "log_library", size))
    facts = {"n_samples": n_samples, "n_latent": mean.shape[1], "distribution": fit.config.latent_distribution}
    encoded = fit.config.library == "encoded"
    facts |= {name: fit.facts[name] for name in ("batch_key", "batches")}
    facts["log_library_prior"] = np.asarray(fit.fixed["library"], float).tolist() if encoded else None
    names = {"z": f"X_{key_added}"}
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": copy, "names": names}
    return store(adata, "latent", key_added, values, **how)


def _space(fit: LatentFit, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the coordinates of the latent space."""
    n = fit.config.n_latent
    if fit.config.latent_distribution == "normal":
        return fit.loc[:, :n], fit.scale[:, :n]
    mean, square = 0.0, 0.0
    for _ in range(DRAWS):
        drawn = _drawn(fit, rng)
        mean, square = mean + drawn / DRAWS, square + drawn**2 / DRAWS
    return mean.astype(np.float32), np.sqrt(np.maximum(square - mean**2, 0)).astype(np.float32)


def _drawn(fit: LatentFit, rng: np.random.Generator) -> np.ndarray:
    """One draw of the coordinates of all cells."""
    n = fit.config.n_latent
    z = fit.loc[:, :n] + fit.scale[:, :n] * rng.standard_normal((len(fit.loc), n))
    return np.asarray(fit.model.space(z), float)


def _log_normal(fit: LatentFit, name: str, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the exponential of a latent number; what was given where there is none."""
    if name not in fit.model.names:
        return given, np.zeros_like(given)
    k = fit.model.names.index(name)
    loc, variance = fit.loc[:, k].astype(float), fit.scale[:, k].astype(float) ** 2
    mean = np.exp(loc + variance / 2)
    return mean, mean * np.sqrt(np.expm1(variance))


def _of_cells(name: str, mean: np.ndarray, sd: np.ndarray) -> dict:
    return {("obs", name): mean.astype(np.float32), ("obs", f"{name}_sd"): sd.astype(np.float32)}
