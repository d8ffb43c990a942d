"""Parameters of the distributions of counts, from a latent space."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scbayes.models._latent_numbers import PARAMETERS
from scbayes.stats._numbers import check_whole
from scbayes.tl._cell_expression import as_columns
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_numbers import check_size, numbers_by_block, positions_of, summarise
from scbayes.tl._latent_reading import read_latent_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def likelihood_parameters(
    adata: "AnnData",
    key: str = "sb",
    *,
    genes: str | Iterable[str] | None = None,
    n_samples: int = 100,
    store_samples: bool = False,
    transform_batch: str | Iterable[str] | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Parameters of the distribution of the count of each gene in each cell.

    ``mean`` :math:`\mu` and ``size`` :math:`\theta` of the negative binomial, whose variance is
    :math:`\mu + \mu^2/\theta`; ``gate``, the probability of an excess zero, of ``"zinb"`` (the mean is that without
    excess zeros); of ``"poisson"`` the mean; of ``"b"``, binomial, ``probability`` and the mean, which is that times
    the total of the cell. All are means over draws of :math:`z \sim q(z \mid u)`; with an ambient part, of native and
    ambient counts together.

    Parameters
    ----------
    adata
        Cells x genes, with a fit of ``model="vae"`` or ``"factors"``; or new cells, with the fit in `reference`.
    key
        The fit to read.
    genes
        Names of genes. Default: all of the model, up to 2 GB.
    n_samples
        Draws of z of each cell.
    store_samples
        Store the parameters of each draw, too.
    transform_batch
        Decode as if cells were of this batch; of several, the mean over them. Default: the batch of each cell.
    reference
        Where the fit is, if `adata` has other cells: these are encoded, genes are found by name.
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
    None, or the copy. It sets, for each parameter, here the mean

    `adata.layers[key_added + "_likelihood_mean"]` : CSC, float32
        An entry for every cell and chosen gene; other genes have none.
    `adata.obsm[key_added + "_likelihood_mean_samples"]` : float32 `(n_cells, len(genes), n_samples)`
        With `store_samples`.
    `adata.uns[key_added + "_likelihood_parameters"]` : dict
        How it was computed, for :func:`scbayes.get.likelihood_parameters`.

    Raises
    ------
    KeyError
        If there is no such fit or layer, or a gene is not in `adata`.
    ValueError
        If the fit has no latent space, a gene is not of the model, or the result would be larger than 2 GB.
    """
    from scanpy import logging as logg

    clock = logg.info(f"parameters of the counts' distributions of {key!r}")
    check_whole(1, n_samples=n_samples)
    reading = read_latent_with_counts(adata, key, reference=reference, layer=layer)
    fit = reading.fit
    names = list(dict.fromkeys([genes] if isinstance(genes, str) else fit.genes if genes is None else map(str, genes)))
    if not names:
        raise ValueError("genes names no gene: give at least one, or None for all")
    chosen = positions_of(reading, names, adata.var_names, "genes")
    batches = reading.batch_codes(transform_batch)
    parameters = PARAMETERS[fit.config.likelihood]
    shape = (reading.n_cells, len(names), int(n_samples))
    check_size(len(parameters) * shape[0] * shape[1], "genes")
    if store_samples:
        check_size(len(parameters) * shape[0] * shape[1], "genes", n_samples=n_samples)
    how = {"batches": batches, "n_samples": shape[2], "rng": np.random.default_rng(as_seed(rng))}
    found = summarise(
        numbers_by_block(reading, parameters, chosen, each=store_samples, **how), shape, store_samples=store_samples
    )
    columns = adata.var_names.get_indexer(fit.genes[chosen])
    values = {("layers", f"likelihood_{name}"): as_columns(found[name], columns, adata.n_vars) for name in parameters}
    if store_samples:
        values |= {("obsm", f"likelihood_{name}_samples"): found[f"{name}_samples"] for name in parameters}
    facts = {
        "genes": names,
        "likelihood": fit.config.likelihood,
        "parameters": list(parameters),
        "n_samples": shape[2],
        "transform_batch": [None if code is None else fit.batches[code] for code in batches],
    }
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": copy}
    return store(adata, "likelihood_parameters", key if key_added is None else key_added, values, **how)
