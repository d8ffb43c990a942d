"""Which genes differ between groups of cells, by how much, and how sure that is."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.counts import Counts
from scbayes.models._contrast import Table, compare_arms
from scbayes.models._question import Question
from scbayes.stats._numbers import check_whole
from scbayes.tl._de_ambient import with_ambient
from scbayes.tl._de_arguments import as_question, grouping_of
from scbayes.tl._de_design import Cells, Comparison, arms_of, cells_of, comparisons
from scbayes.tl._de_groups import Grouping, warn_of_limits, which_cells
from scbayes.tl._de_latent import cell_columns, read_cells
from scbayes.tl._de_layout import as_rank_genes_groups, as_sets
from scbayes.tl._de_null import shuffled_tables, summary_of
from scbayes.tl._de_sets import with_sets
from scbayes.tl._de_units import unit_sums
from scbayes.tl._fit_arguments import check_backed
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

#: What is kept as it was given, and as it was understood.
KEPT = ("groupby", "key", "ambient", "within", "sample_key", "batch_key")
ASKED = ("statistic", "mode", "delta", "fdr", "seed")


def de(  # noqa: PLR0913
    adata: "AnnData",
    groupby: str | None = None,
    groups: "str | Iterable[str]" = "all",
    *,
    reference: str = "rest",
    sample_key: str | None = None,
    covariates: "str | Iterable[str]" = (),
    within: str | None = None,
    key: str | None = None,
    idx1: "str | Sequence | None" = None,
    idx2: "str | Sequence | None" = None,
    subset: "str | Sequence | None" = None,
    batch_key: str | None = None,
    batch1: "str | Iterable[str] | None" = None,
    batch2: "str | Iterable[str] | None" = None,
    transform_batch: "str | Iterable[str] | None" = None,
    batch_correction: bool = True,
    use_observed_batches: bool = False,
    weights: "str | np.ndarray" = "uniform",
    filter_outlier_cells: bool = False,
    fitted: "AnnData | None" = None,
    ambient: str | None = None,
    statistic: str = "mean",
    mode: str = "change",
    delta: float | str = 0.0,
    fdr: float = 0.05,
    level: "float | Iterable[float]" = 0.95,
    relative_to: "str | Iterable[str]" = "median",
    change_fn: "Callable[[np.ndarray, np.ndarray], np.ndarray] | None" = None,
    in_region_fn: "Callable[[np.ndarray], np.ndarray] | None" = None,
    n_samples: int = 5000,
    n_pairs: int | None = None,
    n_permutations: int = 0,
    gene_sets: "Mapping[str, Iterable[str]] | pd.DataFrame | None" = None,
    min_cells: int = 10,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "sb_de",
    progress: bool = True,
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

    What is compared is said in one of three ways: by `groupby`; by `idx1` and `idx2`; or by `key`, the components of a
    mixture, where cells count as much as they belong to each.

    With `groupby` or `idx1`, and the `key` of a fit with a latent space, cells are compared as if they were of the same
    batches, which the decoder tells: the effect is that of the groups' mean compositions under these,
    :math:`\beta_g = \log_2 \bar\rho_{Ag} - \log_2 \bar\rho_{Bg}` (relative to what `relative_to` says), and counts of a
    unit have the mean :math:`E_{gd} e^{\eta_{gd}}` with an exposure of each gene,
    :math:`E_{gd} = \sum_{c \in d} l_c\,\rho_{cg}(z_c, b_c) / \bar\rho_{gd}`. The decoder only translates between
    batches; size and certainty of effects come from counts. Where groups are of different batches, how far
    translations can be trusted is told by groups with cells in several.

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
        Columns of `obs` with categories, whose levels shift genes.
    within
        Column of `obs`: groups are compared within each of its categories, and the results are named
        ``"category: group"``.
    key
        A fitted mixture whose components are compared, with the probabilities that :func:`scbayes.tl.assign` left, or
        else those of the centre of the posterior. Or a fit with a latent space, whose decoder is read.
    idx1, idx2
        Two sets of cells: masks, positions, names, or queries such as ``"condition == 'stim'"``. Without `idx2` the
        second is all others. The result is named ``"idx1"``.
    subset
        Cells that take part, given in the same ways. Default: all.
    batch_key
        Column of `obs` with batches, a covariate.
    batch1, batch2
        Batches that cells of the group, and of the reference, are taken from. Default: all. Batches are a covariate as
        long as the two share any.
    transform_batch
        Of a fit with a latent space: batches that all cells are compared under, one or several. Default: all.
    batch_correction, use_observed_batches
        Of a fit with a latent space: ``batch_correction=False``, or ``use_observed_batches=True``, leaves each cell in
        its own batch. Both are the same.
    weights
        Of a fit with a latent space. ``"uniform"``: latent numbers are drawn from the encoder's normal.
        ``"importance"``: from the posterior, by importance resampling. Or numbers from 0 to 1: how much each cell
        counts, ``(n_cells,)``.
    filter_outlier_cells
        Of a fit with a latent space: leave out the tenth of each group that lies farthest out there (in groups of five
        cells or more for each coordinate).
    fitted
        Where the fit with a latent space is, if `adata` has other cells: these are encoded, genes are found by name.
        May be a fit without cells, ``sb.get.fit(adata).to_anndata()``.
    ambient
        Prefix of a result of :func:`scbayes.tl.denoise`, such as ``"sb"``: ambient counts are then part of the mean,

        .. math::
            E[y_{gd}] = E_d\, e^{\eta_{gd}} + \sum_{c \in d} N_c\, \rho_c\, a_{g b(c)},

        with the contamination :math:`\rho_c` of each cell of :math:`N_c` counts and the profile a of its batch.
        Effects are those of native expression, and intervals hold what is not known of :math:`\rho`, of its level in
        each sample and of a. Give it the counts as they were observed, not corrected ones.
    statistic
        What is compared. ``"mean"``: mean expression. ``"dispersion"``: variability at a given mean. Effects are then
        log2 ratios of the overdispersion 1 / r of the group over that of the reference, beyond what the trend over
        genes expects of their means; see docs on variability.
    mode
        ``"change"``: is there an effect. ``"vanilla"``: in which direction is it, if there were no effect of exactly
        zero: P(mean in group > mean in reference) under the wide prior, its log odds as `log_bayes_factor`, and `lfsr`
        the smaller of the two probabilities. With a fit with a latent space also `p_cell_up`, the probability that the
        decoder's composition of a random cell of the group is above that of a random cell of the reference, from
        `n_samples` pairs, and `log_odds_cell_up`. These two do not become surer with more cells.
    delta
        Genes count as changed if the log2 fold change is beyond this, in one direction. ``"auto"``: 0.6 times the mean
        size of effects under the learned prior, at least 0.1.
    fdr
        Expected share of false calls among those that `is_de` marks.
    level
        Probability of the interval; several for several intervals, the first of which is `ci_low` to `ci_high`, the
        others as `ci_low_50`.
    relative_to
        What fold changes are relative to. ``"median"``: the typical gene (the median ratio of samples to their mean
        over genes). ``"clr"``: the geometric mean of genes. ``"total"``: all counts. Names of genes, or a boolean
        column of `var`: their counts.
    change_fn
        Another effect than the log2 fold change: called with draws of the mean expression (counts per 10,000, relative
        to what `relative_to` says) or of the overdispersion at a common mean, in the group and in the reference, both
        ``(n_samples, some genes)``; returns effects of this shape.
    in_region_fn
        Which effects count as a change, as booleans. Default: those beyond `delta`.
    n_samples
        Draws for these two functions, and pairs of cells in vanilla mode through a decoder.
    n_pairs
        Draws of the group and of the reference are paired anew at random, so many times, for the `effect_` columns;
        None: as drawn together. Probabilities come from draws as they are: pairs made anew always differ.
    n_permutations
        Compare so many times with shuffled labels of samples (of people in both arms: within the person), or of cells
        where there are no samples; see `p_permuted`.
    gene_sets
        Sets whose effects are asked for, too: the mean log2 fold change of their genes. Name -> genes, or a table as
        decoupler has them, with the columns `source`, `target` and, if there are weights, `weight`. Genes that `adata`
        lacks are left out, and sets without any other, which the log says. :func:`scbayes.get.de_sets` reads them.
    min_cells
        Comparisons with fewer cells on a side are left out, which the log says.
    layer
        Layer with the counts. Default: the one that :func:`scbayes.pp.prepare_counts` kept, else `X`.
    rng
        Seed or generator, of draws and permutations.
    key_added
        Where the result goes in `uns`.
    progress
        Show a progress bar over comparisons.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added]` : dict
        As :func:`scanpy.tl.rank_genes_groups`: `names`, `scores` (the end of the interval that is nearer to zero, 0 if
        it holds zero), `logfoldchanges`, `pvals` (local false sign rates), `pvals_adj` (expected share of false calls
        among genes with no larger one), `params`; and `columns`, which :func:`scbayes.get.de` reads. With
        `gene_sets`, `sets`: their `names`, and columns ``(n_groups, n_sets)``, which :func:`scbayes.get.de_sets` reads.

    Raises
    ------
    TypeError
        If `adata` or `fitted` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If a column of `obs`, the layer, a group, the reference, a batch, a gene or the fit do not exist.
    ValueError
        If the counts are not counts, arguments exclude each other, or nothing is left to compare.

    References
    ----------
    Stephens (2016), False discovery rates: a new deal. Biostatistics. Squair et al. (2021), Confronting false
    discoveries in single-cell differential expression. Nat Commun. Boyeau et al. (2019), Deep generative models for
    detecting differential expression in single cells. MLCB (`mode`, `delta`).
    """
    given = dict(locals())
    from scanpy import logging as logg
    from tqdm.auto import tqdm

    clock = logg.info("comparing groups of cells")
    check_backed(adata, copy=copy)
    check_whole(0, n_permutations=n_permutations)
    rng = np.random.default_rng(rng)
    drawn = {"change": change_fn, "in_region": in_region_fn, "n_samples": n_samples, "n_pairs": n_pairs}
    asked = {"statistic": statistic, "mode": mode, "delta": delta, "fdr": fdr, "seed": int(rng.integers(2**31))}
    read = read_cells(adata, given, asked["seed"])
    question, sets = with_sets(read.adata, gene_sets, as_question(read.adata, relative_to, level, **asked, **drawn))
    part = None if subset is None else which_cells(adata, subset, "subset")
    grouping = read.grouping(grouping_of(adata, groupby, read.mixture, idx1, idx2, layer=read.layer), part)
    covariates = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    how = {"within": within, "sample_key": sample_key, "covariates": covariates, "batch_key": batch_key}
    cells = with_ambient(read.adata, cells_of(adata, grouping, part, **how), ambient, statistic)
    if idx1 is not None:
        groups, reference = grouping.names
    limits = {"min_cells": min_cells, "batch1": batch1, "batch2": batch2}
    pairs, skipped = comparisons(cells, groups, reference, grouping.what, **limits)
    warn_of_limits(grouping, sample_key)
    bar = tqdm(pairs, desc="comparisons", disable=not progress or len(pairs) * (n_permutations + 1) == 1)
    tables, permuted = _compared(read.counts, read.joined(cells, pairs), bar, question, n_permutations, rng)
    facts = _facts(given, question, tables, grouping) | read.facts | {"reference": str(reference), "skipped": skipped}
    facts |= {"covariates": list(covariates), "all_others": pairs[0].all_others, "permuted": permuted}
    values = as_rank_genes_groups(tables, np.asarray(read.adata.var_names), facts) | as_sets(tables, sets)
    return store(adata, "de", key_added, values, fit=read.fit, facts=facts, clock=clock, copy=copy, entry=key_added)


def _facts(given: dict, question: Question, tables: dict[str, Table], grouping: Grouping) -> dict:
    """What is kept of arguments, and what was learned."""
    facts = {name: given[name] for name in KEPT} | {name: getattr(question, name) for name in ASKED}
    facts |= {"level": list(question.levels), "min_cells": int(given["min_cells"])}
    relative_to = given["relative_to"]
    facts |= {"relative_to": relative_to if isinstance(relative_to, str) else "genes"}
    facts |= {"groups": list(tables), "learned": {name: table.learned for name, table in tables.items()}}
    return facts | {"double_use": grouping.double_use, "descriptive": given["sample_key"] is None}


def _compared(
    counts: Counts, cells: Cells, pairs: "Iterable[Comparison]", question: Question, n_permutations: int, rng
) -> tuple[dict[str, Table], dict]:
    """Table of each comparison, and what shuffled labels gave."""
    from scanpy import logging as logg

    units = unit_sums(counts, cells, question.statistic)
    if units.decoded is not None and not units.decoded.told:
        logg.warning("no group has cells enough in two batches: how well the decoder translates is not told")
    tables, permuted, confounded = {}, {}, []
    for pair in pairs:
        arms = arms_of(cells, units, pair)
        table = compare_arms(arms, question)
        if units.decoded is not None:
            table.learned["translation_spread"] = float(units.decoded.spread)
        if cells.decoder is not None and question.mode == "vanilla":
            table.columns.update(cell_columns(cells, pair, question.n_samples))
        if n_permutations:
            null = list(shuffled_tables(counts, cells, pair, arms, question, n_permutations, rng))
            permuted[pair.name], table.columns["p_permuted"] = summary_of(null, table)
        tables[pair.name] = table
        confounded += [pair.name] if arms.confounded else []
    if confounded:
        logg.warning(f"covariates or batches are the same as the groups in {confounded}: effects are left to the prior")
    return tables, permuted
