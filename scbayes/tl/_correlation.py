"""Correlation of genes over cells, of expression that is corrected for depth and noise of counting."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scbayes.stats._correlation import Moments, ranked
from scbayes.stats._numbers import check_positive, check_whole
from scbayes.tl._corrected_samples import CorrectedSamples
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_reading import read_latent_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

METHODS = ("spearman", "pearson")
#: Ranks that are held at a time, float32: of so many genes as fit in 128 MiB, twice.
HELD = 2**25


def correlation(
    adata: "AnnData",
    key: str = "sb",
    *,
    genes: "Iterable[str] | None" = None,
    n_samples: int = 10,
    method: str = "spearman",
    rna_size_factor: float = 1000,
    log1p: bool = False,
    noise: bool = True,
    transform_batch: "str | Iterable[str] | None" = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Correlation of genes over cells, of expression that depth, ambient counts and chance zeros do not blur.

    .. math:: z_c \sim q(z \mid u_c), \quad
        w_{cg} \sim \mathrm{Gamma}(\mathrm{shape} = \theta_g,\ \mathrm{mean} = s\,\rho_g(z_c)), \quad
        r = \frac{1}{S} \sum_s \mathrm{cor}_c(w^{(s)})

    w is the rate of the counts of a cell of library size s (`rna_size_factor`): of Poisson and binomial counts, its
    mean. The model's genes are independent given z: what genes have in common beyond z is not seen, and their own
    noise, with `noise`, draws r towards 0.

    Draws of one cell are not independent of each other, so r is found within each draw and then averaged; scvi-tools
    takes all draws as cells, which differs by about 1 / n_cells.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    key
        The fit to read.
    genes
        Names of genes. Default: all that the model is of.
    n_samples
        Draws S.
    method
        ``"spearman"``: of ranks, ties averaged; or ``"pearson"``.
    rna_size_factor
        Library size s, counts. It matters with `log1p` only: a correlation knows no units.
    log1p
        Correlate :math:`\ln(1 + w)`, which changes ``"pearson"`` only.
    noise
        Draw w; else it is its mean :math:`s \rho_g(z_c)`.
    transform_batch
        Batch that all cells are taken to be of; of several, r is averaged. Default: their own.
    reference
        Where the fit is, if `adata` has other cells, which are encoded.
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
    None, or the copy. It sets

    `adata.varp[key_added + "_correlation"]` : `(n_genes, n_genes)`
        float32; NaN where a gene does not vary. Sparse (CSR) with entries between the chosen genes where `adata` has
        others, too; :func:`scbayes.get.correlation` tells them apart.
    `adata.uns[key_added + "_correlation"]` : dict
        How it was computed.

    Raises
    ------
    KeyError
        If there is no such fit or layer, or a gene is not one of the model's.
    ValueError
        If the fit has no latent space, genes of it are not in `adata`, there are fewer than 2 cells or genes, a batch
        is unknown, or an argument is out of range.
    """
    from scanpy import logging as logg

    clock = logg.info(f"correlation of genes of {key!r}")
    _check(n_samples, method, rna_size_factor, log1p=log1p, noise=noise)
    seed = as_seed(rng)
    reading = read_latent_with_counts(adata, key, reference=reference, layer=layer)
    if reading.n_cells < 2:
        msg = "adata has one cell: a correlation needs at least 2"
        raise ValueError(msg)
    chosen = _chosen_genes(reading.fit, genes)
    batches = reading.batch_codes(transform_batch)
    samples = CorrectedSamples(reading, float(rna_size_factor), noise, seed)
    runs = [(draw, batch) for batch in batches for draw in range(n_samples)]
    found = _pearson(samples, chosen, runs, log1p=log1p) if method == "pearson" else _spearman(samples, chosen, runs)
    np.fill_diagonal(found, np.where(np.isnan(np.diag(found)), np.nan, 1))
    columns = adata.var_names.get_indexer(reading.fit.genes[chosen])
    facts = {"method": method, "n_samples": int(n_samples), "rna_size_factor": float(rna_size_factor)}
    facts |= {"log1p": log1p, "noise": noise, "n_genes": len(chosen), "n_cells": reading.n_cells, "seed": seed}
    facts["batches"] = None if batches == [None] else [reading.fit.batches[code] for code in batches]
    key_added = key if key_added is None else key_added
    values = {("varp", "correlation"): _of_all(found, columns, adata.n_vars)}
    return store(adata, "correlation", key_added, values, fit=reading.fit, facts=facts, clock=clock, copy=copy)


def _chosen_genes(fit, genes: "Iterable[str] | None") -> np.ndarray:
    """Positions of genes among those of the model, each once.

    Raises
    ------
    KeyError
        If one is not there.
    ValueError
        If there are fewer than two.
    """
    import pandas as pd

    if genes is None:
        positions = np.arange(len(fit.genes))
    else:
        names = pd.unique(np.array([genes] if isinstance(genes, str) else list(genes), object))
        positions = pd.Index(fit.genes).get_indexer(names)
        if (positions < 0).any():
            msg = f"gene {names[int(np.argmin(positions))]!r} is not one of the {len(fit.genes)} genes of {fit.key!r}"
            raise KeyError(msg)
    if len(positions) < 2:
        msg = f"genes={genes!r}: a correlation needs at least 2 genes"
        raise ValueError(msg)
    return positions


def _check(n_samples: int, method: str, size: float, **switches: bool) -> None:
    if method not in METHODS:
        msg = f"method={method!r}: choose one of {', '.join(map(repr, METHODS))}"
        raise ValueError(msg)
    check_whole(1, n_samples=n_samples)
    check_positive(rna_size_factor=size)
    for name, value in switches.items():
        if not isinstance(value, bool | np.bool_):
            msg = f"{name}={value!r}: give True or False"
            raise TypeError(msg)


def _pearson(samples: CorrectedSamples, genes: np.ndarray, runs: list, *, log1p: bool) -> np.ndarray:
    """Mean over draws of correlations from moments, a block of cells at a time."""
    found = np.zeros((len(genes), len(genes)))
    for draw, batch in runs:
        moments = Moments()
        for block in samples.reading.blocks(batch=batch):
            value = np.exp(samples.of_block(block, genes, draw))
            moments.add(np.log1p(value) if log1p else value)
        found += moments.correlation() / len(runs)
    return found.astype(np.float32)


def _spearman(samples: CorrectedSamples, genes: np.ndarray, runs: list) -> np.ndarray:
    """Mean over draws of products of ranks, between two sets of genes at a time; sets are drawn again for each pair."""
    found = np.zeros((len(genes), len(genes)), np.float32)
    step = max(HELD // samples.reading.n_cells, 1)
    sets = [slice(first, first + step) for first in range(0, len(genes), step)]
    for draw, batch in runs:
        for i, these in enumerate(sets):
            a = ranked(samples.of_genes(genes[these], draw, batch))
            found[these, these] += a @ a.T
            for those in sets[i + 1 :]:
                found[these, those] += a @ ranked(samples.of_genes(genes[those], draw, batch)).T
    upper = np.triu(found) / len(runs)
    return np.clip(upper + np.triu(upper, 1).T, -1, 1)


def _of_all(found: np.ndarray, columns: np.ndarray, n_genes: int) -> "np.ndarray | sparse.csr_matrix":
    """Correlations of all genes of ``adata``; sparse where some have none."""
    order = np.argsort(columns)
    found = found[np.ix_(order, order)]
    if len(columns) == n_genes:
        return found
    there = np.zeros(n_genes + 1, int)
    there[columns + 1] = len(columns)
    entries = found.ravel(), np.tile(columns[order], len(columns)), np.cumsum(there)
    return sparse.csr_matrix(entries, shape=(n_genes, n_genes))
