"""Posterior predictive data sets, summed up as they are drawn."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm.auto import tqdm

from scbayes.models._parameters import Parameters, log_responsibilities, score_cells
from scbayes.models._predictive import Sums, draw_components, observed, replicate
from scbayes.tl._reading import Reading, read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

GENE_STATISTICS = ("mean", "variance", "zeros")
CELL_STATISTICS = ("total", "detected")
#: Bars of a histogram at most.
BARS = 100
#: Bytes of stored counts that are refused.
MOST = 2e9
#: Totals of cells beyond are cut: they say that the model is broken, not how much.
LARGEST = 2**31 - 1
#: Columns whose quantiles are taken at a time.
CHUNK = 4096


def predict(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int = 100,
    genes: Iterable[str] | None = None,
    use: str = "draws",
    biological: bool = False,
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95),
    store_counts: bool = False,
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
        the bands are narrower.
    biological
        Without measurement: no excess zeros and :math:`\nu_c = 1`, so that counts are molecules in the cell, in units
        of the total mRNA that the fit assumes. (Without capture: only without excess zeros.) There is nothing observed
        to compare with. Most counts are positive then, and drawing takes about ten times as long.
    quantiles
        Which quantiles over replicates are kept, increasing; the outermost are the band.
    store_counts
        Keep also every count of the genes named in `genes`: 8 bytes per positive count.
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
    ``q0.95`` (one per quantile) and ``rank``; with `biological` neither ``observed`` nor ``rank``

    `adata.varm[key_added + "_predicted_mean"]`, `..._predicted_variance`, `..._predicted_zeros` : n_genes rows
        Over cells: mean, variance (divisor n_cells - 1) and share of zeros; NaN for genes that were not fitted on
        their own.
    `adata.obsm[key_added + "_predicted_total"]`, `..._predicted_detected` : n_cells rows
        Over the genes that were fitted on their own: sum of counts, and number of genes with a count.
    `adata.obsm[key_added + "_predicted_counts"]` : CSR of int32 `(n_cells, len(genes) * S)`, with `store_counts`
        Counts, the S replicates of the first gene first.
    `adata.uns[key_added + "_predict"]` : dict
        ``histogram``, with `genes`: how many cells have a count from ``low`` to ``high`` (DataFrame, at most 101 bars a
        gene, the last with all that is above); and how it was computed.

    :func:`scbayes.get.predictive` reads them.

    Raises
    ------
    KeyError
        If there is no such fit, layer or gene.
    ValueError
        If the fit cannot be read, a setting is not understood, or the counts to be stored are larger than 2 GB.

    References
    ----------
    Gelman, Meng, Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies. Stat Sin.
    """
    from scanpy import logging as logg

    key_added = key if key_added is None else key_added
    clock = logg.info(f"predicting {n_samples} data sets from {key!r}")
    quantiles = _checked(n_samples, use, quantiles)
    reading = read_with_counts(adata, key, reference=reference, layer=layer)
    names = _names(reading, genes, store_counts=store_counts)
    n_genes = len(reading.columns)
    keep = np.flatnonzero(np.isin(reading.names, names))
    seen = observed(reading.counts, n_genes, keep)
    if store_counts:
        _check_size(seen.kept.nnz if not biological else len(names) * adata.n_obs, n_samples)
    of_genes = np.empty((n_samples, len(GENE_STATISTICS), n_genes))
    of_cells = np.empty((n_samples, len(CELL_STATISTICS), adata.n_obs), np.int32)
    bars, kept = [], []
    generator = np.random.default_rng(rng)
    states = _states(reading, n_samples, generator, use=use, biological=biological)
    for i, state in enumerate(tqdm(states, total=n_samples, desc="predict", unit="data set", disable=not progress)):
        drawn = replicate(*state, generator, keep)
        of_genes[i], of_cells[i] = drawn.of_genes, np.minimum(drawn.of_cells, LARGEST)
        bars.append(_histograms(drawn))
        kept += [drawn.kept] if store_counts else []
    seen = None if biological else seen
    order = [list(reading.names[keep]).index(name) for name in names]
    values = _tables(adata, reading, of_genes, of_cells, seen, quantiles)
    if names:
        values["uns", "histogram"] = _histogram_table(names, order, bars, seen, quantiles)
    if store_counts:
        values["obsm", "predicted_counts"] = _stacked(kept, order)
    facts = {"n_samples": int(n_samples), "use": use, "biological": bool(biological), "genes": names}
    facts |= {"quantiles": list(quantiles), "rng": int(rng) if np.isscalar(rng) else None}
    return store(adata, "predict", key_added, values, fit=reading.fit, facts=facts, clock=clock, copy=copy)


def _checked(n_samples: int, use: str, quantiles) -> tuple[float, ...]:
    if not isinstance(n_samples, int | np.integer) or n_samples < 1:
        msg = f"n_samples={n_samples!r}: give a whole number of at least 1"
        raise ValueError(msg)
    if use not in ("draws", "centre"):
        msg = f"use={use!r}: give 'draws' or 'centre'"
        raise ValueError(msg)
    found = np.atleast_1d(np.asarray(quantiles, float))
    if not len(found) or (np.diff(found) <= 0).any() or not (0 <= found[0] <= found[-1] <= 1):
        msg = f"quantiles={quantiles!r}: give increasing numbers from 0 to 1"
        raise ValueError(msg)
    return tuple(found.tolist())


def _names(reading: Reading, genes: Iterable[str] | None, *, store_counts: bool) -> list[str]:
    names = [] if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(map(str, genes)))
    missing = sorted(set(names) - set(reading.names))
    if missing:
        msg = f"genes that {reading.fit.key!r} was not fitted to: {missing[:5]}"
        raise KeyError(msg)
    if store_counts and not names:
        msg = "store_counts=True keeps the counts of the genes named in genes=, which are none"
        raise ValueError(msg)
    return names


def _check_size(n_positive: int, n_samples: int) -> None:
    size = 8 * n_positive * n_samples
    if size > MOST:
        msg = (
            f"{n_samples} replicates of the counts of these genes take about {size / 1e9:.1f} GB, and more than "
            f"{MOST / 1e9:g} GB are not stored: name fewer in genes=, lower n_samples=, or do without store_counts"
        )
        raise ValueError(msg)


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


def _histograms(drawn: Sums) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts that occur in each gene that is kept, 0 first, and in how many cells."""
    found = []
    for row in np.split(drawn.kept.data, drawn.kept.indptr[1:-1])[: drawn.kept.shape[0]]:
        counts, cells = np.unique(row, return_counts=True)
        found.append((np.append(0, counts), np.append(len(drawn.cell_total) - len(row), cells)))
    return found


def _tables(adata, reading: Reading, of_genes, of_cells, seen: Sums | None, quantiles) -> dict:
    """The DataFrames of genes and cells by slot."""
    values = {}
    for i, name in enumerate(GENE_STATISTICS):
        table = _bands(of_genes[:, i], None if seen is None else seen.of_genes[i], quantiles)
        whole = {what: reading.for_all_genes(column) for what, column in table.items()}
        values["varm", f"predicted_{name}"] = pd.DataFrame(whole, index=adata.var_names)
    for i, name in enumerate(CELL_STATISTICS):
        table = _bands(of_cells[:, i], None if seen is None else seen.of_cells[i], quantiles)
        values["obsm", f"predicted_{name}"] = pd.DataFrame(table, index=adata.obs_names)
    return values


def _bands(values: np.ndarray, seen: np.ndarray | None, quantiles: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Columns of a table from values (n_samples, n) and what was observed (n,)."""
    chunks = [slice(first, first + CHUNK) for first in range(0, values.shape[1], CHUNK)]
    found = np.concatenate([np.quantile(values[:, chunk], quantiles, axis=0) for chunk in chunks], 1)
    table = {} if seen is None else {"observed": np.asarray(seen, float)}
    table["mean"] = values.mean(0)
    table |= {f"q{level:g}": row for level, row in zip(quantiles, found, strict=True)}
    if seen is not None:
        ranks = [(values[:, c] < seen[c]).mean(0) + 0.5 * (values[:, c] == seen[c]).mean(0) for c in chunks]
        table["rank"] = np.concatenate(ranks)
    return table


def _histogram_table(names, order, bars: list, seen: Sums | None, quantiles) -> pd.DataFrame:
    """One row per gene and bar: of one count, of more where there would be more than BARS of them.

    The last bar has all counts above its lowest: one replicate with an extreme count must not widen them all.
    """
    truth = [] if seen is None else [_histograms(seen)]
    parts = []
    for name, j in zip(names, order, strict=True):
        rows = [one[j] for one in bars + truth]
        largest = [counts[-1] for counts, _ in rows]
        usual = max(np.quantile(largest[: len(bars)], quantiles[-1]), *largest[len(bars) :], 1)
        width = int(usual) // BARS + 1
        n = int(usual) // width + 1
        table = np.stack([np.bincount(np.minimum(u // width, n - 1), cells, n) for u, cells in rows])
        bands = _bands(table[: len(bars)], table[-1] if truth else None, quantiles)
        low = np.arange(n) * width
        high = np.append(low[1:] - 1, max(n * width - 1, *largest))
        parts.append(pd.DataFrame({"gene": name, "low": low, "high": high} | bands))
    return pd.concat(parts, ignore_index=True)


def _stacked(kept: list[sparse.csr_array], order: list[int]) -> sparse.csr_array:
    """Counts as cells x (genes x replicates)."""
    by_gene = [sparse.vstack([one[[j]] for one in kept]) for j in order]
    return sparse.csr_array(sparse.vstack(by_gene).T)
