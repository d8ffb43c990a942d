"""Check the raw counts, keep them, describe and filter cells and genes, choose the genes to fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scbayes.counts._blocks import is_dask, is_stored, row_blocks
from scbayes.counts._check import check_shape
from scbayes.pp._sums import Sums, add_up, cell_sums, same_counts, within

if TYPE_CHECKING:
    from anndata import AnnData


def prepare_counts(
    adata: AnnData,
    layer: str | None = None,
    *,
    min_counts: int | None = None,
    max_counts: int | None = None,
    min_genes: int | None = None,
    max_genes: int | None = None,
    min_cells: int | None = None,
    min_gene_counts: int | None = None,
    n_top_genes: int | None = None,
    coverage: float | None = None,
    batch_key: str | None = None,
    mask_added: str = "sb_mask",
    layer_added: str | None = "counts",
    copy: bool = False,
) -> AnnData | None:
    r"""Check raw UMI counts and keep them, with per-cell and per-gene totals, filters and the genes to fit.

    Cells are filtered first, on all genes; then genes, on the cells that are left. The columns written describe the
    data that result, so a cell's total may lie below `min_counts` if genes were dropped. Genes that are merely of
    little interest are better masked than dropped: a fit pools masked genes into one "rest", and totals stay whole.

    `n_top_genes` takes the genes that vary most beyond what the cells' totals explain. With :math:`u_{cg}` the counts,
    :math:`U_c` the total of cell :math:`c` and :math:`b(c)` its batch, a gene without biology has the mean
    :math:`m_{cg} = U_c \sum_{c' \in b(c)} u_{c'g} / \sum_{c' \in b(c)} U_{c'}`, and its score is

    .. math:: \frac{\sum_c (u_{cg} - m_{cg})^2}{\sum_c m_{cg}},

    the variance in units of the Poisson variance, about 1 for a gene that only follows the totals. Cells that are
    filtered out do not count; totals include genes that are. With `batch_key`, only variation within batches counts.

    Parameters
    ----------
    adata
        Cells x genes. May be backed, or hold dask arrays, unless cells or genes are to be filtered while backed.
    layer
        Layer that holds the raw counts; `X` where None.
    min_counts, max_counts
        Keep cells with at least, at most this many counts (the names of :func:`scanpy.pp.filter_cells`).
    min_genes, max_genes
        Keep cells that express at least, at most this many genes.
    min_cells
        Keep genes expressed in at least this many cells (the name of :func:`scanpy.pp.filter_genes`).
    min_gene_counts
        Keep genes with at least this many counts over all cells (`min_counts` of :func:`scanpy.pp.filter_genes`).
    n_top_genes
        Mark this many most variable genes in `mask_added`.
    coverage
        Mark the smallest set of genes that holds at least this fraction of all counts, in (0, 1]. Give this or
        `n_top_genes`, or neither: any other boolean column, such as scanpy's `highly_variable`, can be handed to
        ``sb.tl.fit(adata, mask_var="highly_variable")`` as it is.
    batch_key
        Column of `obs` with the batches in which `n_top_genes` measures variation.
    mask_added
        Column of `var` for the mask. Written only with `n_top_genes` or `coverage`.
    layer_added
        Layer that keeps the raw counts when scanpy normalises `X` in place. None to keep none.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. With `n_cells` and `n_genes` after filtering, it sets

    `adata.layers[layer_added]` : CSR matrix `(n_cells, n_genes)`, dtype of the source
        The checked counts, without duplicates and explicit zeros. If the source is this layer already, it stays as it
        is. A dask array is referred to, not copied; counts in a file (backed) stay there, and no layer is added.
    `adata.obs["total_counts"]`, `adata.obs["n_genes_by_counts"]` : int64 `(n_cells,)`
        Counts and expressed genes of each cell, under the names of :func:`scanpy.pp.calculate_qc_metrics`.
    `adata.var["total_counts"]`, `adata.var["n_cells_by_counts"]` : int64 `(n_genes,)`
        Counts of each gene and cells that express it.
    `adata.var["mean_counts"]`, `adata.var["pct_dropout_by_counts"]` : float64 `(n_genes,)`
        Counts per cell, and percentage of cells without a count.
    `adata.var[mask_added]` : bool `(n_genes,)`
        Genes to fit; a fit pools the others.
    `adata.uns["sb_counts"]` : dict
        `layer` with the checked counts (None: `X`), `mask` (None if not written), `n_cells_before`, `n_genes_before`
        (shape before filtering), and `params`.

    On any error `adata` is as it was.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If `layer` or `batch_key` does not exist.
    ValueError
        If values are negative, fractional, NaN, infinite or above 2**31 - 1; if names of cells or genes repeat; if the
        filters leave nothing; if `layer_added` holds other values already; if arguments exclude each other; if a
        backed object is to be filtered or copied.
    """
    params = {name: value for name, value in locals().items() if name not in ("adata", "copy")}
    from scanpy import logging as logg

    start = logg.info("preparing counts")
    x, where = _source(adata, layer)
    _check_arguments(n_top_genes, coverage, batch_key, mask_added, layer_added)
    _check_names(adata)
    batch = _batch(adata, batch_key)
    kept_already = layer_added is not None and layer != layer_added and layer_added in adata.layers

    sums = add_up(x, where, (min_counts, max_counts), (min_genes, max_genes), batch, scores=n_top_genes is not None)
    genes = within(sums.gene_cells, min_cells, None) & within(sums.gene_total, min_gene_counts, None)
    cells = sums.cells
    for kept, axis in ((cells, "cells"), (genes, "genes")):
        if not kept.any():
            msg = f"the filters leave none of the {kept.size} {axis}: relax them"
            raise ValueError(msg)
    if not genes.all():
        sums.cell_total, sums.cell_genes = cell_sums(x, genes)
    if kept_already and not same_counts(x, adata.layers[layer_added]):
        msg = (
            f"layers[{layer_added!r}] already holds other values than {where}: pass layer={layer_added!r} to use them, "
            "or another name as layer_added"
        )
        raise ValueError(msg)
    mask = _choose(sums, genes, n_top_genes, coverage)

    out = _target(adata, cells, genes, copy=copy)
    if layer_added is not None and layer != layer_added and not kept_already:
        source = out.X if layer is None else out.layers[layer]
        # Nothing normalises a matrix in a file in place, and a second handle to it would break AnnData's writing.
        if is_stored(source):
            layer_added = None
        else:
            out.layers[layer_added] = source if is_dask(source) else _to_csr(source)
    _write_qc(out, sums, cells, genes)
    if mask is not None:
        out.var[mask_added] = mask
    out.uns["sb_counts"] = {
        "layer": layer if layer_added is None else layer_added,
        "mask": None if mask is None else mask_added,
        "n_cells_before": cells.size,
        "n_genes_before": genes.size,
        "params": params,
    }
    if not copy and out is not adata:
        adata._init_as_actual(out)
    _report(logg, start, out, cells, genes, mask, mask_added)
    return out if copy else None


def _source(adata, layer: str | None):
    """Return the matrix that holds the counts, and what messages call it."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"prepare_counts takes an AnnData, not {type(adata).__name__}"
        raise TypeError(msg)
    if layer is not None and layer not in adata.layers:
        names = [name for name in adata.layers if name is not None]
        msg = f"no layer {layer!r}: adata.layers has {names}"
        raise KeyError(msg)
    x, where = (adata.X, "X") if layer is None else (adata.layers[layer], f"layer {layer!r}")
    if x is None:
        msg = "adata.X is None: pass layer= with the raw UMI counts"
        raise ValueError(msg)
    check_shape(x, where)
    return x, where


def _check_arguments(n_top_genes, coverage, batch_key, mask_added, layer_added) -> None:
    if n_top_genes is not None and coverage is not None:
        msg = "give n_top_genes or coverage, not both"
        raise ValueError(msg)
    if n_top_genes is not None and n_top_genes < 1:
        msg = f"n_top_genes must be at least 1, not {n_top_genes}"
        raise ValueError(msg)
    if coverage is not None and not 0 < coverage <= 1:
        msg = f"coverage must be in (0, 1], not {coverage}"
        raise ValueError(msg)
    if batch_key is not None and n_top_genes is None:
        msg = "batch_key only matters with n_top_genes: give both or neither"
        raise ValueError(msg)
    for name in (mask_added, layer_added):
        if name is not None and "/" in name:
            msg = f"{name!r} has a '/', which AnnData cannot store in a name"
            raise ValueError(msg)


def _check_names(adata) -> None:
    for names, axis in ((adata.obs_names, "obs"), (adata.var_names, "var")):
        if not names.is_unique:
            first = names[names.duplicated()][0]
            msg = f"{axis}_names repeat, first {first!r}: call adata.{axis}_names_make_unique()"
            raise ValueError(msg)


def _batch(adata, batch_key: str | None) -> np.ndarray:
    """Return the batch of each cell as integers from 0."""
    import pandas as pd

    if batch_key is None:
        return np.zeros(adata.n_obs, np.int64)
    if batch_key not in adata.obs:
        msg = f"no column {batch_key!r} in adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    codes, _ = pd.factorize(adata.obs[batch_key])
    if (codes < 0).any():
        msg = f"obs[{batch_key!r}] is missing for {(codes < 0).sum()} cells: give each a batch"
        raise ValueError(msg)
    return codes


def _choose(sums: Sums, genes: np.ndarray, n_top_genes: int | None, coverage: float | None) -> np.ndarray | None:
    """Return the genes to fit among those that pass the filters; ties go to the first."""
    if n_top_genes is None and coverage is None:
        return None
    total = sums.gene_total[genes]
    order = np.argsort(-(total if n_top_genes is None else sums.score[genes]), kind="stable")
    if n_top_genes is None:
        covered = np.cumsum(total[order])
        # In floating point 0.07 of 100 is 7.000000000000001: without the tolerance it would ask for an 8th.
        n_top_genes = int(np.searchsorted(covered, coverage * covered[-1] * (1 - 1e-12))) + 1
    mask = np.zeros(total.size, bool)
    mask[order[:n_top_genes]] = True
    return mask


def _target(adata, cells: np.ndarray, genes: np.ndarray, *, copy: bool):
    """Return the object to write to: `adata`, or a new one if it is a view, filtered or to be copied."""
    filtered = not (cells.all() and genes.all())
    if not (filtered or copy or adata.is_view):
        return adata
    if adata.isbacked:
        msg = "a backed AnnData can be neither filtered nor copied, nor a view of it changed: use adata.to_memory()"
        raise ValueError(msg)
    if adata.is_view and not copy:
        warnings.warn("Received a view of an AnnData. Making a copy.", UserWarning, stacklevel=3)
    return adata[cells, genes].copy() if filtered else adata.copy()


def _to_csr(x) -> sparse.csr_matrix:
    """Return a canonical CSR copy of an in-memory matrix."""
    blocks = [block for _, block in row_blocks(x)]
    whole = blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")
    return sparse.csr_matrix(whole, copy=len(blocks) == 1 and sparse.issparse(x))


def _write_qc(adata, sums: Sums, cells: np.ndarray, genes: np.ndarray) -> None:
    adata.obs["n_genes_by_counts"] = sums.cell_genes[cells]
    adata.obs["total_counts"] = sums.cell_total[cells]
    adata.var["n_cells_by_counts"] = detected = sums.gene_cells[genes]
    adata.var["mean_counts"] = sums.gene_total[genes] / adata.n_obs
    adata.var["pct_dropout_by_counts"] = 100 * (1 - detected / adata.n_obs)
    adata.var["total_counts"] = sums.gene_total[genes]


def _report(logg, start, adata, cells: np.ndarray, genes: np.ndarray, mask: np.ndarray | None, mask_added: str) -> None:
    if not (cells.all() and genes.all()):
        logg.info(f"    filtered out {(~cells).sum()} cells and {(~genes).sum()} genes")
    empty_cells = int((adata.obs["total_counts"] == 0).sum())
    empty_genes = int((adata.var["total_counts"] == 0).sum())
    if empty_cells or empty_genes:
        logg.warning(
            f"{empty_cells} cells and {empty_genes} genes have no counts: they are kept, "
            "and a fit gives them the prior (to drop them: min_counts=1, min_cells=1)"
        )
    added = ["'total_counts', 'n_genes_by_counts' (adata.obs)", "'total_counts', 'n_cells_by_counts', ... (adata.var)"]
    kept = adata.uns["sb_counts"]["layer"]
    if kept is not None:
        added.append(f"{kept!r}, the raw counts (adata.layers)")
    if mask is not None:
        added.append(f"{mask_added!r}, {mask.sum()} genes to fit (adata.var)")
    logg.info("    finished", time=start, deep="added\n    " + "\n    ".join(added))
