"""Which droplets hold cells, with probabilities."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.counts import Counts
from scbayes.models._ambient_profile import posterior
from scbayes.models._cell_calls import Liquid, call, find_cells
from scbayes.models._empty_droplets import Rule, empty_droplets
from scbayes.pp._ambient_arguments import check_range, check_share, check_whole
from scbayes.pp._ambient_sources import described, ranked, stacked
from scbayes.pp._raw_droplets import rna
from scbayes.state import actual, find_counts, write_result

if TYPE_CHECKING:
    from anndata import AnnData


def call_cells(
    adata: "AnnData",
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    fdr: float = 0.01,
    n_profiles: int = 10,
    min_raw_counts: int = 2,
    empty_range: tuple[float, float] | None = None,
    min_counts: int | None = None,
    key_added: str = "sb",
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> "AnnData | None":
    r"""Probability that each droplet holds a cell, and cells called at a false discovery rate.

    .. math::
        \frac{P(\text{cell} \mid x_d)}{P(\text{empty} \mid x_d)} = \frac{\pi(n_d)}{1 - \pi(n_d)} \cdot
        \frac{(1 - \epsilon) \sum_k w_k\, \mathrm{DM}(x_d; n_d, A_k p_k)
              + \epsilon\, \mathrm{DM}(x_d; n_d, A_0 a)}{\mathrm{DM}(x_d; n_d, A_0 a)}

    What is empty, and its profile :math:`a`, is found as in :func:`scbayes.pp.ambient_profile`. The profiles
    :math:`p_k` of cells are learned from droplets so far from empty ones of the same total that 0.1 are expected
    there by chance, then once more from those that are surely cells. The prior :math:`\pi` is learned in bins of the
    total. :math:`\epsilon = 0.02` is for cells that look like the liquid, such as doublets. Droplets are called from
    the likeliest on, as long as the mean of :math:`P(\text{empty})` among them is at most `fdr` and each is likelier
    a cell than not.

    Parameters
    ----------
    adata
        All droplets x genes, before cells were called. May be backed; droplets above `min_counts` are held in memory.
        Of several ``var["feature_types"]``, ``"Gene Expression"`` decides.
    batch_key
        Column of `obs`: each batch has its own liquid, and its own totals; profiles of cells are shared.
    layer
        Layer with the counts; `X` where None, or as :func:`scbayes.pp.prepare_counts` left them.
    fdr
        Expected share of empty droplets among those that are called, in (0, 1).
    n_profiles
        Profiles of cells; fewer where there are fewer than 15 cells for each.
    min_raw_counts, empty_range
        As in :func:`scbayes.pp.ambient_profile`.
    min_counts
        Smallest total of a cell. Default: what is surely empty, the median count of the lower hump of totals.
    key_added
        Prefix of what is written.
    rng
        Seed or generator.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.obs[key_added + "_cell_probability"]` : float64 `(n_droplets,)`
        0 below `min_counts`, and for droplets of no batch.
    `adata.obs[key_added + "_is_cell"]` : bool `(n_droplets,)`
        Whether it is called.
    `adata.uns[key_added + "_call_cells"]` : dict
        How they were called, and droplets by total, see :func:`scbayes.get.barcode_rank`.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If a layer or column does not exist.
    ValueError
        If an argument is out of range; if values are no counts; if there are no empty droplets.
    """
    from scanpy import logging as logg

    check_whole(n_profiles=n_profiles, min_raw_counts=min_raw_counts)
    check_whole(**({} if min_counts is None else {"min_counts": min_counts}))
    check_share(fdr=fdr)
    limits = check_range(empty_range)
    clock = logg.info("calling cells")
    source = find_counts(adata, layer, None, batch_key)
    batches = source.batches or [None]
    counts = Counts(source.x, source.batch, len(batches), where=source.where, only=rna(adata.var))
    total, rng = counts.totals(keep=True), np.random.default_rng(rng)
    rule = Rule(min_raw_counts if limits is None else int(np.ceil(limits[0])), limits, batches=tuple(batches))
    found, empty = empty_droplets(counts, total, np.zeros(len(total), bool), rule, rng)
    profile = posterior(np.stack([own.counts for own in found]), np.array([own.inflation for own in found]))
    liquid = Liquid(profile.mean.T, np.array([own.concentration for own in found]))
    smallest = np.array([own.limits[0] + 1 for own in found]) if min_counts is None else np.full(len(found), min_counts)
    asked = total >= smallest[counts.batch]
    probability, called = np.zeros(len(total)), np.zeros(len(total), bool)
    if asked.any():
        probability[asked] = find_cells(counts.pick(asked), liquid, n_profiles, rng)
        called[asked] = call(probability[asked], fdr)
    if not called.any():
        logg.warning("no cells were found: no droplets are unlike empty ones")

    out = adata.copy() if copy else adata
    actual(out)
    ranks = []
    for b, own in enumerate(found):
        here = counts.batch == b
        ranks.append(ranked(own.ranks, total[here], {"empty": empty[here], "cells": probability[here]}))
    values = {("obs", "cell_probability"): probability, ("obs", "is_cell"): called}
    values |= {("uns", name): value for name, value in stacked(ranks).items()}
    facts = {"layer": source.layer, "batch_key": batch_key, "batches": batches, "fdr": float(fdr)}
    facts |= {"n_cells": int(called.sum()), "expected_cells": float(probability.sum())}
    facts |= {"min_counts": smallest.astype(float).tolist(), "n_profiles": int(n_profiles)}
    facts |= {name: [described(own)[name] for own in found] for name in described(found[0])}
    slots = write_result(out, "call_cells", key_added, values, fit=None, facts=facts)
    said = f"    {called.sum()} of {len(total)} droplets are cells"
    logg.info(said, time=clock, deep="added\n    " + "\n    ".join(slots))
    return out if copy else None
