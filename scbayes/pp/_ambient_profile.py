"""What floats in the liquid around cells: its profile over genes, with its uncertainty."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.pp._ambient_arguments import check_range, check_share, check_whole
from scbayes.pp._ambient_sources import Found, from_cells, from_droplets, from_profile
from scbayes.pp._raw_droplets import check_mapping, distinct_batches
from scbayes.state import actual, write_result
from scbayes.state._names import check_anndata

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

METHODS = ("empty", "iterative")
#: p-values come from draws, and cannot be smaller.
LEAST_ALPHA = 1e-4


def ambient_profile(  # noqa: PLR0913
    adata: "AnnData",
    raw: "AnnData | str | Path | Mapping[str, AnnData | str | Path] | pd.Series | np.ndarray | None" = None,
    *,
    batch_key: str | None = None,
    method: str = "empty",
    profile: "str | np.ndarray | pd.Series | pd.DataFrame | None" = None,
    layer: str | None = None,
    raw_layer: str | None = None,
    min_raw_counts: int = 2,
    empty_range: tuple[float, float] | None = None,
    alpha: float = 0.01,
    prob: float = 0.995,
    iterations: int = 3,
    sample: int | None = 50_000,
    key_added: str = "sb_ambient",
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> "AnnData | None":
    r"""Profile of the ambient RNA, the share of each gene in what empty droplets hold, with its uncertainty.

    With ``method="empty"`` droplets are empty whose counts :math:`x_d` are likely, given their total :math:`n_d`, as

    .. math:: x_d \mid n_d \sim \mathrm{DM}(n_d, A\,a)

    Totals have two humps, of empty droplets and of cells; they are split where the variance between two classes is
    largest (each droplet weighted by its counts). Those up to the median count of the lower hump are empty without a
    test, and give :math:`a` and the concentration :math:`A`; larger ones, up to the split, are tested with Monte Carlo
    draws of the same total, on both sides. Droplets that are cells of `adata` by name are never empty.

    The profile is the posterior of all that was found empty, and no share in it is zero:

    .. math:: t \sim \mathrm{Dir}(s), \qquad q_g \sim \mathrm{Dir}(\kappa\,\pi), \qquad a_{bg} \propto t_g\, q_{gb}

    Batches b are drawn to what they have in common where counts are few; s and :math:`\kappa` are learned.

    Parameters
    ----------
    adata
        Cells x genes: the cells whose ambient RNA is sought, by name of gene.
    raw
        All droplets: AnnData (in memory or backed), or a path: ``.h5ad`` or 10x's ``raw_feature_bc_matrix.h5`` (read
        in blocks), 10x's folder, ``.zarr``. Of several ``var["feature_types"]``, ``"Gene Expression"`` says which
        droplets are empty, whatever features `adata` has. One for each batch: a dict by name of batch. Totals of
        droplets, shape ``(n_droplets,)``, go with `profile`; a Series has their barcodes as index. None: the profile
        is estimated from the cells, which is rough and has no uncertainty.
    batch_key
        Column of `obs`, of `raw` as well unless that is a dict: each batch gets a profile. None: one for all.
    method
        ``"empty"``, or ``"iterative"``: that of SCAR, droplets of which each gene's share of the log probability is
        above that of `prob`. It is a limit on totals for the most part, and pools without a posterior.
    profile
        A profile that is known: Series or DataFrame (a column for each batch) by name of gene, array ``(n_genes,)`` or
        ``(n_genes, n_batches)``, or a column of `adata.var`. Whole numbers are counts, and say how sure they are;
        shares that sum to 1 do with totals of droplets as `raw`.
    layer, raw_layer
        Layers with the counts of the cells and of the droplets; `X` where None (cells: as
        :func:`scbayes.pp.prepare_counts` left them).
    min_raw_counts
        Smallest total of a droplet that counts.
    empty_range
        Smallest and largest total of droplets that are empty, untested. Default: found as above, in each batch.
    alpha
        p-value below which a droplet is not empty, from 0.0001 to 1; smaller ones take longer.
    prob, iterations, sample
        Of ``method="iterative"``: probability per gene, rounds, and largest number of droplets (None: all).
    key_added
        Name of the result.
    rng
        Seed or generator.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.varm[key_added]` : float64 `(n_genes, n_batches)`
        The profile, one column where there is no `batch_key`. Sums to 1 over the genes of `adata`.
    `adata.varm[key_added + "_sd"]` : float64 `(n_genes, n_batches)`
        Posterior standard deviation; NaN where it is not known.
    `adata.uns[key_added]` : dict
        How it was made, with `concentration` (of the Dirichlet distribution of each batch), and droplets by total.
        See :func:`scbayes.get.ambient_profile` and :func:`scbayes.get.barcode_rank`.

    Features of several types share one profile: for one each, give an `adata` with the features of one type.
    Genes that `raw` does not have get a share of 0, an sd of NaN, and a warning in the log.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or `raw` is nothing of the above.
    FileNotFoundError
        If a path does not exist.
    KeyError
        If a layer or column does not exist.
    ValueError
        If arguments are out of range or exclude each other; if no genes match; if values are no counts; if there are no
        empty droplets.

    References
    ----------
    Lun et al. (2019), EmptyDrops: distinguishing cells from empty droplets in droplet-based single-cell RNA sequencing
    data. Genome Biology 20:63. Sheng et al. (2022), Probabilistic machine learning ensures accurate ambient denoising
    in droplet-based single-cell omics. bioRxiv 2022.01.14.476312.
    """
    from scanpy import logging as logg

    check_anndata(adata)
    check_whole(min_raw_counts=min_raw_counts, iterations=iterations, **({} if sample is None else {"sample": sample}))
    check_share(prob=prob)
    check_share(LEAST_ALPHA, alpha=alpha)
    limits = check_range(empty_range)
    _check(method, raw, profile, limits)
    clock = logg.info("estimating the profile of ambient RNA")
    batches = distinct_batches(adata, batch_key)
    rng = np.random.default_rng(rng)
    if isinstance(raw, Mapping):
        check_mapping(raw, batches)
    rule = {"method": method, "least": min_raw_counts, "limits": limits, "alpha": alpha}
    rule |= {"prob": prob, "iterations": iterations, "sample": sample}
    if profile is not None:
        found = from_profile(adata, profile, raw, batches, rule)
    elif raw is None:
        found = from_cells(adata, layer, batch_key, batches)
    else:
        found = from_droplets(adata, raw, raw_layer, batch_key, rule, rng)
    _say(found, adata, logg)

    out = adata.copy() if copy else adata
    actual(out)
    values = {("varm", ""): found.mean, ("varm", "sd"): found.sd, ("uns", "concentration"): found.concentration}
    values |= {("uns", name): value for name, value in found.ranks.items()}
    facts = {"source": found.source, "method": method if found.source == "droplets" else None, "batch_key": batch_key}
    facts |= {"batches": batches, "missing_genes": int((~found.there).sum()), "min_raw_counts": int(min_raw_counts)}
    facts |= {"params": {"alpha": alpha, "prob": prob, "iterations": iterations, "sample": sample}} | found.facts
    slots = write_result(out, "ambient_profile", key_added, values, fit=None, facts=facts, entry=key_added)
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))
    return out if copy else None


def _check(method, raw, profile, limits) -> None:
    if method not in METHODS:
        msg = f"unknown method={method!r}; choose one of {', '.join(METHODS)}"
        raise ValueError(msg)
    if limits is not None and method == "iterative":
        msg = "empty_range belongs to method='empty'"
        raise ValueError(msg)
    totals = isinstance(raw, pd.Series | np.ndarray | list)
    if totals and profile is None:
        msg = (
            "totals of droplets alone say nothing about genes: give profile=, or all droplets as raw, in an AnnData "
            "(or a dict of one for each batch)"
        )
        raise ValueError(msg)
    if profile is not None and raw is not None and not totals:
        msg = "profile= goes with totals of droplets or without raw, not with counts of droplets"
        raise ValueError(msg)


def _say(found: Found, adata: "AnnData", logg) -> None:
    if not found.there.all():
        names = ", ".join(adata.var_names[~found.there][:5]) + (", ..." if (~found.there).sum() > 5 else "")
        odd = "; do names mean the same?" if found.there.mean() < 0.5 else ""
        logg.warning(f"{(~found.there).sum()} of {adata.n_vars} genes are not in raw ({names}): their share is 0{odd}")
    for said in found.warnings:
        logg.warning(said)
