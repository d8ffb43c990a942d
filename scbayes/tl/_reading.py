"""What every function that reads a fit needs: the fit, and the counts of the cells it is asked about."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbayes.counts import Counts
from scbayes.models._new_cells import as_coordinate, solve_log_nu
from scbayes.state import Fit, batch_codes, check_native, find_counts, read_fit, stored_source
from scbayes.stats._precision import double

if TYPE_CHECKING:
    from anndata import AnnData


class Reading(NamedTuple):
    """A fit and counts that match it: columns of ``counts`` are the genes of ``fit.law``.

    Attributes
    ----------
    fit
        Of the cells in ``adata``; where these are new, with their capture probabilities inferred.
    counts
        Their counts, the pooled gene last if there is one.
    columns
        Position in ``adata`` of each gene that was fitted on its own.
    """

    fit: Fit
    counts: Counts
    columns: np.ndarray

    def for_all_genes(self, rows: np.ndarray) -> np.ndarray:
        """``rows`` of the genes of the counts as rows of all genes of ``adata``: NaN where a gene was not fitted.

        The pooled gene, which comes last, is left out.
        """
        whole = np.full((len(self.fit.genes), *rows.shape[1:]), np.nan)
        whole[self.columns] = rows[: len(self.columns)]
        return whole

    @property
    def names(self) -> np.ndarray:
        """Names of the genes that were fitted on their own, in the order of the columns."""
        return self.fit.genes[self.fit.fitted]


def read_with_counts(
    adata: "AnnData", key: str, *, reference: "AnnData | None" = None, layer: str | None = None
) -> Reading:
    """The fit under ``key`` and the counts it speaks of.

    Parameters
    ----------
    reference
        Where the fit is, if ``adata`` has other cells: genes are matched by name, those that only one of the two has
        are left out, and capture probabilities are inferred given the genes.
    layer
        Layer of ``adata`` with the counts. Default: that of the fit; of new cells, as ``tl.fit`` would choose.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit` and ``tl.fit``; ValueError if no gene matches.
    """
    if reference is not None and reference is not adata:
        return _read_new(adata, key, reference, layer)
    fit = read_fit(adata, key)
    source = stored_source(adata, key) if layer is None else find_counts(adata, layer, None, None, defaults=False)
    return Reading(fit, _matching(fit, source.x, source.where), np.flatnonzero(fit.fitted))


def _matching(fit: Fit, x, where: str) -> Counts:
    n_batches = fit.config.n_batches
    if fit.fitted.all() or (fit.whole and fit.rest.shape[1]):
        return Counts(x, fit.batch, n_batches, None if fit.fitted.all() else fit.fitted, where)
    return Counts(x[:, np.flatnonzero(fit.fitted)], fit.batch, n_batches, None, where)


def _read_new(adata: "AnnData", key: str, reference: "AnnData", layer: str | None) -> Reading:
    fit = read_fit(reference, key)
    if layer is None and "ambient" in fit.facts:
        check_native(adata, fit.facts, key)
        layer = fit.facts["layer"]
    source = find_counts(adata, layer, None, None)
    known = {name: i for i, name in enumerate(fit.genes) if fit.fitted[i]}
    columns = np.array([i for i, name in enumerate(adata.var_names) if name in known], int)
    if not len(columns):
        msg = f"no gene of adata was fitted in {key!r} of reference: var_names must be of one kind (symbols or ids)"
        raise ValueError(msg)
    index = np.array([known[adata.var_names[i]] for i in columns])
    batch = batch_codes(adata, fit.facts, key)
    position = np.cumsum(fit.fitted) - 1
    genes = {name: _take(getattr(fit.posterior, name), position[index], name) for name in GENE_ARRAYS}
    new = np.zeros(adata.n_obs if fit.config.capture else 0)
    posterior = fit.posterior._replace(**genes, cell_loc=new, cell_scale=new)
    complete = len(columns) == fit.facts["n_genes"]
    result = replace(
        fit,
        posterior=posterior,
        genes=np.asarray(adata.var_names),
        cells=np.asarray(adata.obs_names),
        fitted=np.isin(np.arange(adata.n_vars), columns),
        rest=fit.rest if complete else np.zeros((*fit.rest.shape[:-1], 0)),
        batch=batch,
    )
    counts = Counts(source.x[:, columns] if len(columns) < adata.n_vars else source.x, batch, fit.config.n_batches)
    return Reading(_with_nu(result, counts), counts, columns)


#: Gene-wise arrays of a posterior, and their axis of genes counted from the last.
GENE_ARRAYS = {"gene_loc": -2, "gene_tril": -3, "gene_factor": -3}


def _take(value: np.ndarray, index: np.ndarray, name: str) -> np.ndarray:
    return np.take(value, index, GENE_ARRAYS[name])


def _with_nu(fit: Fit, counts: Counts) -> Fit:
    """``fit`` with the capture probabilities of its cells inferred from ``counts``."""
    if not fit.config.capture:
        return fit
    unconstrained = fit.config.unconstrained
    total = counts.summarise().cell_total
    blank = replace(
        fit, posterior=fit.posterior._replace(cell_loc=np.zeros(len(total)), cell_scale=np.ones(len(total)))
    )
    parameters = blank.centre().parameters
    loc, scale = solve_log_nu(parameters, counts, total, fit.priors["nu"], unconstrained=unconstrained)
    with double():
        loc, scale = as_coordinate(fit.model, loc, scale, fit.priors)
    return replace(fit, posterior=fit.posterior._replace(cell_loc=loc, cell_scale=scale))
