"""Posterior predictive data sets, summed up as they are drawn."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from scbayes.models._latent_numbers import LARGEST
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells
from scbayes.models._predictive import draw_components, observed, replicate
from scbayes.state import is_latent
from scbayes.tl._families import check_family
from scbayes.tl._predict_latent import predict_latent
from scbayes.tl._predicted_tables import (
    CELL_STATISTICS,
    GENE_STATISTICS,
    check_size,
    checked,
    chosen_names,
    histogram_table,
    histograms,
    stacked,
    tables,
)
from scbayes.tl._reading import Reading, read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments for fits with a latent space only.
OF_LATENT = ("transform_batch", "rna_size_factor")


def predict(  # noqa: PLR0913
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int = 100,
    genes: Iterable[str] | None = None,
    use: str = "draws",
    biological: bool = False,
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95),
    store_counts: bool = False,
    transform_batch: str | Iterable[str] | None = None,
    rna_size_factor: float | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Posterior predictive counts, summed up per gene and per cell, beside the observed ones.

    Each replicate s is a data set of the same cells: parameters are drawn from the posterior, then every count,

    .. math::
        \tilde u_{cg} \sim \pi_g \delta_0 + (1 - \pi_g)\, \mathrm{NB}(r_g,\ \text{odds } \nu_c e^{b_g}).

    The cells keep what the fit learned about each of them: their batch, their draw of :math:`\nu_c`, and, in a mixture,
    a component drawn from their responsibilities at that draw. So a replicate answers what these cells would have
    looked like if they were counted again; it does not test the weights of the components, nor the distribution of
    :math:`\nu`.

    Replicates are never stored: each is summed up while its positive counts are drawn, and of the sums the mean and
    quantiles over replicates are kept, for which 24 bytes per gene, 8 per cell and replicate are in memory. The draws
    are exact. ``rank`` is the share of replicates below the observed value, ties counted half: near 0 or 1, the model
    does not make what was observed.

    The bands are those of a new data set: on simulated data, 90% bands held 88 to 92% of the means, variances and
    shares of zeros of counts drawn anew from the truth (500 cells, 300 genes, ``nbvcp`` and ``zinb``; 73 to 81% with
    ``use="centre"``, which leaves out what is not known of the parameters). Of the data that were fitted they hold 98%
    and more where the model is right, since the fit has seen them: a share of 90% is then a sign of misfit.

    Of a fit with a latent space, each replicate draws the latent numbers of every cell from :math:`q`, then every count
    given these; networks and dispersions are taken as known.

    Parameters
    ----------
    adata
        Cells x genes, with a fit; new cells with `reference`.
    key
        The fit to read.
    n_samples
        Number of replicates S.
    genes
        Names of genes whose histograms of counts are kept. They do not change what is drawn.
    use
        ``"draws"``: parameters are drawn anew for each replicate; ``"centre"``: they stay at the median of each, and
        the bands are narrower. Of a latent space: latent numbers, and their means.
    biological
        Without measurement: no excess zeros and :math:`\nu_c = 1`, so that counts are molecules in the cell, in units
        of the total mRNA that the fit assumes. (Without capture: only without excess zeros.) There is nothing observed
        to compare with. Most counts are positive then, and drawing takes about ten times as long. Of a latent space:
        native counts at the library size of the cell, without excess zeros and ambient counts.
    quantiles
        Which quantiles over replicates are kept, increasing; the outermost are the band.
    store_counts
        Keep also every count of the genes named in `genes`: 8 bytes per positive count.
    transform_batch
        Latent space: as if cells were of this batch; of several, each cell of each replicate is of one of them at
        random, so that counts are whole numbers. Default: the batch of each cell. Nothing observed is compared with
        counts of another batch.
    rna_size_factor
        Latent space: instead of counts, expression with its noise as if all cells had this library size R,
        :math:`w_{cg} \sim \mathrm{Gamma}(\theta)\, R \rho_{cg} / \theta`, of which negative binomial counts are Poisson
        draws; under ``"poisson"`` and ``"b"``, which have no such noise, :math:`R \rho_{cg}`. Without histograms and
        what is observed.
    reference
        Where the fit is, if `adata` has other cells: their :math:`\nu_c` are inferred from their counts.
    layer
        Layer of `adata` with the counts. Default: that of the fit; of new cells, as ``tl.fit`` would choose.
    rng
        Seed or generator.
    key_added
        Prefix of the slots. Default: `key`.
    progress
        Show a progress bar.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets DataFrames with the float64 columns ``observed``, ``mean``, ``q0.05``, ``q0.5``,
    ``q0.95`` (one per quantile) and ``rank``; with `biological`, `transform_batch` or `rna_size_factor` neither
    ``observed`` nor ``rank``

    `adata.varm[key_added + "_predicted_mean"]`, `..._predicted_variance`, `..._predicted_zeros` : n_genes rows
        Over cells: mean, variance (divisor n_cells - 1) and share of zeros; NaN for genes that were not fitted on
        their own.
    `adata.obsm[key_added + "_predicted_total"]`, `..._predicted_detected` : n_cells rows
        Over the genes that were fitted on their own: sum of counts, and number of genes with a count.
    `adata.obsm[key_added + "_predicted_counts"]` : CSR of int32 `(n_cells, len(genes) * S)`, with `store_counts`
        Counts, the S replicates of the first gene first; float32 with `rna_size_factor`.
    `adata.uns[key_added + "_predict"]` : dict
        ``histogram``, with `genes`: how many cells have a count from ``low`` to ``high`` (DataFrame, at most 101 bars a
        gene, the last with all that is above); and how it was computed.

    :func:`scbayes.get.predictive` reads them.

    Raises
    ------
    KeyError
        If there is no such fit, layer or gene.
    ValueError
        If the fit cannot be read, a setting is not understood or not for the family of the fit, or the counts to be
        stored are larger than 2 GB.

    References
    ----------
    Gelman, Meng, Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies. Stat Sin.
    """
    given = dict(locals())
    from scanpy import logging as logg

    latent = is_latent(adata if reference is None else reference, key)
    check_family(given, predict, latent=latent, only_latent=OF_LATENT)
    key_added = key if key_added is None else key_added
    clock = logg.info(f"predicting {n_samples} data sets from {key!r}")
    quantiles = checked(n_samples, use, quantiles)
    if latent:
        return predict_latent(adata, given | {"quantiles": quantiles, "key_added": key_added}, clock)
    reading = read_with_counts(adata, key, reference=reference, layer=layer)
    names = chosen_names(reading.names, genes, key, store_counts=store_counts)
    n_genes = len(reading.columns)
    keep = np.flatnonzero(np.isin(reading.names, names))
    seen = observed(reading.counts, n_genes, keep)
    if store_counts:
        check_size(seen.kept.nnz if not biological else len(names) * adata.n_obs, n_samples)
    of_genes = np.empty((n_samples, len(GENE_STATISTICS), n_genes))
    of_cells = np.empty((n_samples, len(CELL_STATISTICS), adata.n_obs), np.int32)
    bars, kept = [], []
    generator = np.random.default_rng(rng)
    states = _states(reading, n_samples, generator, use=use, biological=biological)
    for i, state in enumerate(tqdm(states, total=n_samples, desc="predict", unit="data set", disable=not progress)):
        drawn = replicate(*state, generator, keep)
        of_genes[i], of_cells[i] = drawn.of_genes, np.minimum(drawn.of_cells, LARGEST)
        bars.append(histograms(drawn))
        kept += [drawn.kept] if store_counts else []
    seen = None if biological else seen
    order = [list(reading.names[keep]).index(name) for name in names]
    values = tables(adata, reading.columns, of_genes, of_cells, seen, quantiles)
    if names:
        values["uns", "histogram"] = histogram_table(names, order, bars, seen, quantiles)
    if store_counts:
        values["obsm", "predicted_counts"] = stacked(kept, order)
    facts = {"n_samples": int(n_samples), "use": use, "biological": bool(biological), "genes": names}
    facts |= {"quantiles": list(quantiles), "rng": int(rng) if np.isscalar(rng) else None}
    return store(adata, "predict", key_added, values, fit=reading.fit, facts=facts, clock=clock, copy=copy)


def _states(
    reading: Reading, n_samples: int, rng: np.random.Generator, *, use: str, biological: bool
) -> Iterator[tuple[Parameters, np.ndarray, np.ndarray]]:
    """Parameters, batch and component of each cell, for each replicate."""
    fit, counts = reading.fit, reading.counts
    draws = fit.draws(n_samples, rng) if use == "draws" else [fit.centre()] * n_samples
    own = slice(0, len(reading.columns))
    known, log_probability = None, None
    for draw in draws:
        parameters = draw.parameters
        component = np.zeros(counts.n_cells, int)
        if parameters.n_components > 1:
            if parameters is not known:
                known = parameters
                log_probability = log_responsibilities(score_cells(parameters, counts).value, parameters.weights)
            component = draw_components(log_probability, rng)
        if biological:
            parameters = parameters._replace(gate=None, log_nu=np.zeros(counts.n_cells))
        yield parameters.genes(own), fit.batch, component
