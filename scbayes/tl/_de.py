"""Which genes differ between groups of cells, by how much, and how sure that is."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.counts import Counts
from scbayes.counts._by_unit import sum_by_unit
from scbayes.models._contrast import Table, compare_arms
from scbayes.models._units import Units
from scbayes.state import find_counts
from scbayes.tl._de_design import Cells, arms_of, cells_of
from scbayes.tl._de_layout import as_rank_genes_groups
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def de(
    adata: "AnnData",
    groupby: str,
    groups: "str | Iterable[str]" = "all",
    *,
    reference: str = "rest",
    sample_key: str | None = None,
    covariates: "tuple[str, ...]" = (),
    delta: float = 0.0,
    fdr: float = 0.05,
    min_cells: int = 10,
    layer: str | None = None,
    key_added: str = "sb_de",
    copy: bool = False,
) -> "AnnData | None":
    r"""Differential expression from counts, with replicates where there are any.

    With `sample_key` the question is about donors, not cells: counts of a donor's cells of a group are summed, and

    .. math::
        y_{gd} \sim \mathrm{NB}\big(E_d\, e^{\eta_{gd}}\big), \qquad
        \eta_{gd} = \alpha_g + x_d \beta_g + z_d^T\gamma_g + u_{gd}, \qquad u_{gd} \sim \tau_g t_\nu

    where the spread of donors :math:`\tau_g` is integrated under a prior that is learned over all genes, as are the
    tails; cells' own overdispersion (estimated by moments around a trend) adds to the variance of the sum. Donors that
    are in both arms make the design paired: each has a level of its own. Without `sample_key` cells stand for
    themselves, and results are descriptive: they say that these cells differ, not that other donors' would.

    The effect has two priors. Its mean, standard deviation and interval come from a wide one. Probabilities come from a
    point at zero and normals of several widths (at least 0.29 on the log2 scale), whose weights are learned. Genes are
    ordered by the end of the interval that is nearer to zero: large effects that are sure come first.

    Parameters
    ----------
    adata
        Cells x genes, with raw counts in `layer`.
    groupby
        Column of `obs` with the groups.
    groups
        Groups to compare with the reference, or ``"all"``.
    reference
        A group, or ``"rest"``: for each group all others together.
    sample_key
        Column of `obs` with donors or samples, the replicates.
    covariates
        Columns of `obs` with categories, such as a batch, whose levels shift genes.
    delta
        Genes count as changed if the log2 fold change is beyond this, in one direction.
    fdr
        Expected share of false calls among those that `is_de` marks.
    min_cells
        Groups with fewer cells are left out, which the log says.
    layer
        Layer with the counts. Default: the one that :func:`scbayes.pp.prepare_counts` kept, else `X`.
    key_added
        Where the result goes in `uns`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added]` : dict
        As :func:`scanpy.tl.rank_genes_groups`: `names`, `scores` (the end of the interval that is nearer to zero, 0 if
        it holds zero), `logfoldchanges`, `pvals` (local false sign rates), `pvals_adj` (expected share of false calls
        among genes with no larger one), `params`; and `columns`, which :func:`scbayes.get.de` reads.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If a column of `obs`, the layer, a group or the reference do not exist.
    ValueError
        If the counts are not counts, or nothing is left to compare.

    References
    ----------
    Stephens (2016), False discovery rates: a new deal. Biostatistics. Squair et al. (2021), Confronting false
    discoveries in single-cell differential expression. Nat Commun.
    """
    from scanpy import logging as logg

    clock = logg.info(f"comparing groups of obs[{groupby!r}]")
    covariates = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    _check_arguments(delta, fdr, min_cells)
    source = find_counts(adata, layer, None, None)
    cells = cells_of(adata, groupby, sample_key, covariates)
    chosen, against = _chosen(cells, groups, reference, min_cells, groupby)
    units = _sums(Counts(source.x, where=source.where), cells)
    if sample_key is None:
        logg.warning("no sample_key: cells are taken as replicates, and results are descriptive of these cells alone")
    tables: dict[str, Table] = {}
    for group in chosen:
        arms = arms_of(cells, units, group, against, covariates, replicated=sample_key is not None)
        tables[cells.groups[group]] = compare_arms(arms, delta=delta, fdr=fdr)
    skipped = [name for name, n in zip(cells.groups, cells.n_cells, strict=True) if n < min_cells]
    facts = {"groupby": groupby, "reference": reference, "sample_key": sample_key, "covariates": list(covariates)}
    facts |= {"delta": delta, "fdr": fdr, "min_cells": min_cells, "layer": source.layer, "groups": list(tables)}
    facts |= {"skipped": skipped, "descriptive": sample_key is None}
    facts |= {"learned": {name: table.learned for name, table in tables.items()}}
    values = as_rank_genes_groups(tables, np.asarray(adata.var_names), facts)
    return store(adata, "de", key_added, values, fit=None, facts=facts, clock=clock, copy=copy, entry=key_added)


def _sums(counts: Counts, cells: Cells) -> Units:
    """Sums over the cells of each unit; a cell's size factor is its total over the mean."""
    n_units = len(cells.table)
    (total, squares, detected), size = sum_by_unit(counts, cells.unit, n_units)
    here = cells.unit >= 0
    unit, size = cells.unit[here], size[here]
    size = size / max(size.mean(), 1e-300)
    sums = (np.bincount(unit, weights, n_units).astype(float) for weights in (None, size, size**2))
    return Units(total, squares, detected, *sums)


def _chosen(
    cells: Cells, groups: "str | Iterable[str]", reference: str, min_cells: int, groupby: str
) -> tuple[list[int], int | None]:
    """Positions of the groups to compare, and of the reference; None: the rest."""
    from scanpy import logging as logg

    def position(name: str) -> int:
        if str(name) not in cells.groups:
            msg = f"no group {name!r} in obs[{groupby!r}], which has {cells.groups}"
            raise KeyError(msg)
        return cells.groups.index(str(name))

    against = None if reference == "rest" and "rest" not in cells.groups else position(reference)
    named = not (isinstance(groups, str) and groups == "all")
    names = ([groups] if isinstance(groups, str) else groups) if named else cells.groups
    wanted = list(dict.fromkeys(position(name) for name in names))
    few = [k for k in wanted if cells.n_cells[k] < min_cells]
    if few:
        logg.warning(f"groups with fewer than {min_cells} cells are left out: {[cells.groups[k] for k in few]}")
    chosen = [k for k in wanted if k not in few and k != against]
    n_other = cells.n_cells.sum() - cells.n_cells[chosen].max() if chosen and against is None else 1
    if not chosen or n_other == 0 or (against is not None and cells.n_cells[against] == 0):
        msg = f"nothing to compare in obs[{groupby!r}]: give at least two groups of {min_cells} cells or more"
        raise ValueError(msg)
    return chosen, against


def _check_arguments(delta: float, fdr: float, min_cells: int) -> None:
    if not isinstance(delta, int | float | np.number) or not 0 <= delta < np.inf:
        msg = f"delta={delta!r}: give a log2 fold change of at least 0"
        raise ValueError(msg)
    if not isinstance(fdr, int | float | np.number) or not 0 < fdr < 1:
        msg = f"fdr={fdr!r}: give a share between 0 and 1"
        raise ValueError(msg)
    if not isinstance(min_cells, int | np.integer) or min_cells < 1:
        msg = f"min_cells={min_cells!r}: give a whole number of at least 1"
        raise ValueError(msg)
