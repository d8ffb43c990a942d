"""How many components a mixture should have."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from scbayes.models._components import marginal_scores
from scbayes.state import find_counts
from scbayes.tl._fit import fit
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def choose_components(
    adata: "AnnData",
    candidates: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 12),
    *,
    model: str = "nbvcp",
    parameterization: str | None = None,
    settings: dict | None = None,
    test_share: float = 0.2,
    layer: str | None = None,
    mask_var: str | None = None,
    rng: int = 0,
    key_added: str = "sb",
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Held-out density of mixtures with different numbers of components.

    Each is fitted to some of the cells, and scored by the log density of the others,

    .. math:: \ln p(u_c) = \ln\sum_k w_k \int p(u_c \mid k, \nu)\, p(\nu)\, d\nu,

    with capture probability and component integrated out, at the centre of the posterior. Cells are independent given
    the model, so a component that fits the noise of some cells does not help the others. The smallest number whose
    mean density is within one standard error (of the paired difference) of the best is suggested. Real populations
    have ever finer structure, so with more cells more components pay: take the number as the resolution that these
    cells support, not as a count of cell types.

    Parameters
    ----------
    adata
        Cells x genes, with raw UMI counts in `layer`.
    candidates
        Numbers of components to try; 1 is the model without a mixture.
    model, parameterization, layer, mask_var
        As in :func:`scbayes.tl.fit`.
    settings
        Further arguments of :func:`scbayes.tl.fit`, e.g. ``{"n_init": 10}``.
    test_share
        Share of the cells that is held out.
    rng
        Seed of the split and of the fits.
    key_added
        Prefix of what is written.
    progress
        Show a progress bar over the candidates.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added + "_choose_components"]` : dict
        `table`, a DataFrame with a row per candidate: `n_components`; `log_density`, mean over held-out cells, nats;
        `difference` to the best and its standard error `se`; `converged`; `suggested`.

    Raises
    ------
    ValueError
        If the candidates are no distinct positive numbers, or `test_share` leaves no cells.
    KeyError, TypeError
        As :func:`scbayes.tl.fit`.

    See Also
    --------
    scbayes.get.choose_components, scbayes.pl.choose_components
    """
    from scanpy import logging as logg
    from tqdm.auto import tqdm

    numbers = _check_candidates(candidates)
    source = find_counts(adata, layer, mask_var, None)
    train, test = _split(adata, source, test_share, rng)
    clock = logg.info(f"scoring mixtures of {numbers} components on {test.n_obs} held-out cells")
    density, converged = {}, {}
    for n in tqdm(numbers, desc="components", disable=not progress):
        how = {"parameterization": parameterization, "mask_var": source.mask_var and "mask", **(settings or {})}
        fit(train, model, n_components=None if n == 1 else n, **how, rng=rng, progress=False)
        density[n], converged[n] = _log_density(test, train)
    table = _table(density, converged)
    facts = {"model": model, "parameterization": parameterization, "n_test": test.n_obs, "n_train": train.n_obs}
    values = {("uns", "table"): table}
    said = f"suggested: {int(table.loc[table['suggested'], 'n_components'].iloc[0])}"
    how = {"fit": None, "facts": facts, "clock": clock, "copy": copy, "said": said}
    return store(adata, "choose_components", key_added, values, **how)


def _check_candidates(candidates) -> list[int]:
    numbers = sorted({int(n) for n in candidates if isinstance(n, int | np.integer)})
    if len(numbers) != len(tuple(candidates)) or len(numbers) < 2 or numbers[0] < 1:
        msg = f"candidates={candidates!r}: give at least two distinct whole numbers of at least 1"
        raise ValueError(msg)
    return numbers


def _split(adata: "AnnData", source, test_share: float, rng: int) -> tuple["AnnData", "AnnData"]:
    """Counts alone of the cells to fit and of those to score."""
    import anndata as ad

    n = adata.n_obs
    n_test = round(n * test_share)
    if not 0 < n_test < n:
        msg = f"test_share={test_share!r} holds out {n_test} of {n} cells: give a share between 0 and 1"
        raise ValueError(msg)
    held_out = np.zeros(n, bool)
    held_out[np.random.default_rng(rng).permutation(n)[:n_test]] = True
    parts = []
    for cells in (~held_out, held_out):
        part = ad.AnnData(source.x[np.flatnonzero(cells)], obs=pd.DataFrame(index=adata.obs_names[cells]))
        part.var_names = adata.var_names
        if source.mask is not None:
            part.var["mask"] = source.mask
        parts.append(part)
    return parts[0], parts[1]


def _log_density(test: "AnnData", train: "AnnData") -> tuple[np.ndarray, bool]:
    """Log density of each held-out cell, and whether the fit had converged."""
    reading = read_with_counts(test, "sb", reference=train)
    found, prior = reading.fit, None
    if found.config.capture:
        prior = found.priors["nu"]
    parameters = found.centre().parameters
    scores = marginal_scores(parameters, reading.counts, prior, unconstrained=found.config.unconstrained)
    return logsumexp(scores + np.log(parameters.weights), axis=1), found.converged


def _table(density: dict[int, np.ndarray], converged: dict[int, bool]) -> pd.DataFrame:
    numbers = list(density)
    mean = np.array([density[n].mean() for n in numbers])
    best = density[numbers[int(mean.argmax())]]
    error = np.array([np.std(density[n] - best, ddof=1) / np.sqrt(len(best)) for n in numbers])
    near = mean >= mean.max() - error
    return pd.DataFrame(
        {
            "n_components": numbers,
            "log_density": mean,
            "difference": mean - mean.max(),
            "se": error,
            "converged": [converged[n] for n in numbers],
            "suggested": np.arange(len(numbers)) == int(np.flatnonzero(near)[0]),
        }
    )
