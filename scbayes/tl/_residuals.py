"""How well the model fits the counts, gene by gene and cell by cell."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from scbayes.models._parameters import log_responsibilities, score_cells
from scbayes.models._residuals import (
    N_BINS,
    Moments,
    Sums,
    gene_moments,
    residual_columns,
    residual_sums,
    shared_factors,
    tables,
)
from scbayes.tl._reading import Reading, read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: What a misfit must amount to, besides being significant: a gene of many cells is never exactly as a model has it.
MIN_EFFECT = {"variance": 0.1, "zeros": 0.02, "shared": 0.02, "ks": 0.05}
FITS, GROUP, ZEROS_GROUP = "fits", "likely a missing group", "excess zeros: likely a missing group"
ZEROS, OVER, UNDER, OTHER = "excess zeros", "overdispersed", "underdispersed", "other misfit"
VERDICTS = [FITS, ZEROS_GROUP, GROUP, ZEROS, OVER, UNDER, OTHER]
#: A Brownian bridge seen at steps of 1/B stays this much below its supremum, times the root of 1/B (Broadie, Glasserman
#: & Kou 1997).
GRID_LOSS = 0.5826


def residuals(
    adata: "AnnData",
    key: str = "sb",
    *,
    genes: str | list[str] | None = None,
    fdr: float = 0.01,
    min_effect: dict[str, float] | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Randomised quantile residuals of all counts, and a verdict on each gene.

    .. math::
        z_{cg} = \Phi^{-1}\big(F_{cg}(u_{cg} - 1) + V_{cg}\,(F_{cg}(u_{cg}) - F_{cg}(u_{cg} - 1))\big), \qquad
        F_{cg} = \sum_k \gamma_{ck} F_{kg}(\,\cdot \mid \nu_c)

    with :math:`V_{cg}` uniform and :math:`F_{kg}` the distribution of the counts under component k at the centre of the
    posterior: with the gene's size, mean and gate in the cell's batch and the cell's own :math:`\nu_c`. Where the
    model holds they are independent and standard normal, whatever the expression (Dunn & Smyth 1996).
    In a mixture, :math:`\gamma_{ck}` is the probability of component k given the cell, as fitted; without, it is 1.

    :math:`\nu_c`, :math:`\gamma_c` and the parameters come from the same counts. So residuals are a little too good:
    the variance of all is about 1 - 1/(number of genes that carry information on :math:`\nu_c`), and p-values of genes
    that fit are a little too large. A gene that makes up a large part of its cells' counts looks underdispersed.

    Four tests look at each gene: the variance of its residuals; the number of zeros against its expectation; whether
    residuals go along with other genes' (below); and the Kolmogorov-Smirnov distance of the uniform residuals
    :math:`\Phi(z)`. Four times the smallest p-value is the gene's. Where the false discovery rate of
    Benjamini and Hochberg is at most `fdr`, those of the four that are significant on their own and at
    least as large as `min_effect` make the verdict:

    ==========================================  ======================================================================
    ``"fits"``                                  none
    ``"excess zeros: likely a missing group"``  more zeros than expected, and residuals that go along with other genes'
    ``"likely a missing group"``                residuals that go along with other genes', without more zeros
    ``"excess zeros"``                          more zeros than expected, and than another size explains: zero inflation
    ``"overdispersed"``                         residuals vary more than they should
    ``"underdispersed"``                        residuals vary less than they should
    ``"other misfit"``                          another shape, mean, or too few zeros
    ==========================================  ======================================================================

    **Excess zeros are mostly a missing group of cells.** A gene that one group does not express has the same counts as
    a gene with zero inflation. What tells them apart is that a group has more than one gene: its cells have their zeros
    together. `shared` measures that. Of the genes with the most variable counts, 128 and another 128 make two sets; the
    first 8 principal components of the residuals of each set are compared with the genes that are not in it.
    `shared` is the share of the variance of a gene's residuals that these explain, less what chance explains.
    Groups are cell types or states, donors or batches that the model does not have; without capture
    (``nbdm``, ``zinb``) differences in depth look the same.

    Nothing of the size cells x genes is made. :math:`V_{cg}` depends on `rng` and the names of cell and gene only: a
    subset has the same residuals as the whole.

    Parameters
    ----------
    adata
        Cells x genes, with a fit, or new cells if `reference` is given.
    key
        The fit to read.
    genes
        Genes whose residuals are stored, one or several of those that were fitted.
    fdr
        False discovery rate of all verdicts but ``"fits"``, within 0 and 1.
    min_effect
        Replaces some of ``{"variance": 0.1, "zeros": 0.02, "shared": 0.02, "ks": 0.05}``: distance of the variance from
        1, excess of the fraction of zeros, `shared`, and Kolmogorov-Smirnov distance.
    reference
        Where the fit is, if `adata` holds other cells: genes are matched by name, :math:`\nu_c` and :math:`\gamma_c`
        are inferred.
    layer
        Layer with the counts. Default: that of the fit.
    rng
        Seed or generator.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy, with

    ``varm[key_added + "_residuals"]``
        DataFrame ``(n_genes, 16)``, float64, NaN in genes that were not fitted: ``mean_counts`` per cell; ``mean`` and
        ``variance`` of the residuals; ``zeros``, ``zeros_expected``, ``zeros_se`` and ``zeros_matched``
        (at most, of a negative binomial with the gene's mean and observed variance), fractions of cells;
        ``variance_ratio``, the mean squared distance of counts from their expectations over what it should be;
        ``shared``; ``ks``, on a grid of 512 steps;
        ``p_variance``, ``p_zeros``, ``p_shared``, ``p_ks`` (two-sided but for ``p_shared``), ``p_value`` of all four,
        ``q_value``
    ``var[key_added + "_residual_verdict"]``
        categorical, ``(n_genes,)``, missing in genes that were not fitted
    ``obs[key_added + "_residual_mean"]``, ``obs[key_added + "_residual_variance"]``
        float64, ``(n_cells,)``, over all genes that were fitted
    ``obsm[key_added + "_residual"]``
        DataFrame ``(n_cells, n_chosen)``, float64, the residuals of `genes`; only if given
    ``uns[key_added + "_residuals"]["histogram"]``
        uniform residuals of all cells and genes in 512 bins, int64

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit`; KeyError if one of `genes` was not fitted; ValueError if `fdr` or `min_effect` is no
        such thing.

    References
    ----------
    Dunn & Smyth (1996), Randomized quantile residuals, J. Comput. Graph. Stat. 5, 236-244. Benjamini & Hochberg (1995),
    Controlling the false discovery rate, J. R. Stat. Soc. B 57, 289-300. Stephens (1970), Use of the
    Kolmogorov-Smirnov statistics without extensive tables, J. R. Stat. Soc. B 32, 115-122, for ``p_ks``.
    """
    from scanpy import logging as logg

    clock = logg.info(f"residuals of {key!r}")
    least = _checked(fdr, min_effect)
    reading = read_with_counts(adata, key, reference=reference, layer=layer)
    chosen = _positions(reading, genes, key)
    seed = int(rng.integers(2**31)) if isinstance(rng, np.random.Generator) else int(rng)
    shares = _shares(reading, new=reference is not None and reference is not adata)
    found = _compute(reading, shares, chosen, seed)
    numbers = _numbers(found, reading.counts.n_cells)
    verdict = _verdicts(numbers, fdr, least)

    place = np.full(adata.n_vars, -1)
    place[reading.columns] = np.arange(len(reading.columns))
    codes = np.where(place < 0, -1, np.append(verdict, 0)[place])
    n_genes = len(reading.columns)
    mean = found.sums.cell[:, 0] / n_genes
    values = {
        ("varm", "residuals"): numbers.reindex(place).set_axis(adata.var_names),
        ("var", "residual_verdict"): pd.Categorical.from_codes(codes, VERDICTS),
        ("obs", "residual_mean"): mean,
        ("obs", "residual_variance"): found.sums.cell[:, 1] / n_genes - mean**2,
        ("uns", "histogram"): found.sums.histogram.sum(0, dtype=np.int64),
    }
    if chosen is not None:
        values["obsm", "residual"] = pd.DataFrame(found.chosen, adata.obs_names, reading.names[chosen])
    facts = {"seed": seed, "fdr": fdr, "min_effect": least, "layer": layer, "new_cells": reference is not None}
    tally = np.bincount(verdict, minlength=len(VERDICTS))
    counted = ", ".join(f"{n} {name}" for name, n in zip(VERDICTS, tally, strict=True) if n)
    how = {"fit": reading.fit, "facts": facts, "clock": clock, "copy": copy, "said": f"{n_genes} genes: {counted}"}
    return store(adata, "residuals", key_added or key, values, **how)


class _Found(NamedTuple):
    sums: Sums
    moments: Moments
    chosen: np.ndarray | None


def _shares(reading: Reading, *, new: bool) -> np.ndarray:
    """Probability of each component given the cell: those of the fit, or inferred for new cells."""
    fit, counts = reading.fit, reading.counts
    if fit.config.n_components in {None, 1}:
        return np.ones((counts.n_cells, 1))
    if not new:
        return np.asarray(fit.posterior.responsibilities)
    parameters = fit.centre().parameters
    return np.exp(log_responsibilities(score_cells(parameters, counts).value, parameters.weights))


def _compute(reading: Reading, shares: np.ndarray, chosen: np.ndarray | None, seed: int) -> _Found:
    parameters, counts = reading.fit.centre().parameters, reading.counts
    table = tables(parameters, counts.batch, shares, (reading.fit.cells, reading.names), seed)
    moments = gene_moments(table, counts)
    sums = residual_sums(table, counts, shared_factors(table, counts, moments))
    values = None
    if chosen is not None:
        values = np.concatenate([block for _, block in residual_columns(table, counts, chosen)])
    return _Found(sums, moments, values)


def _numbers(found: _Found, n: int) -> pd.DataFrame:
    """All numbers of each gene, from sums over ``n`` cells."""
    sums, moments = found.sums, found.moments
    mean = sums.gene[:, 0] / n
    variance = sums.gene[:, 1] / n - mean**2
    excess = (n - moments.detected) - sums.gene[:, 2]
    error = np.sqrt(np.maximum(sums.gene[:, 3], 1e-300))
    step = np.arange(1, N_BINS + 1) / N_BINS
    ks = np.abs(np.cumsum(sums.histogram, 1) / n - step).max(1)
    n_factors = sums.shared.shape[1]
    explained = np.sum(sums.shared**2, 1) / n / np.maximum(variance, 1e-300)  # chi-squared if nothing is shared
    shared = explained / n - n_factors / n
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = moments.distance / moments.variance
    p = {
        "p_variance": special.erfc(np.abs(variance - 1) * np.sqrt(n) / 2),  # its standard error is sqrt(2 / n)
        "p_zeros": special.erfc(np.abs(excess) / error / np.sqrt(2)),
        "p_shared": stats.chi2.sf(explained, n_factors) if n_factors else np.ones(len(mean)),
        "p_ks": special.kolmogorov((np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n)) * ks + GRID_LOSS / np.sqrt(N_BINS)),
    }
    p_value = np.minimum(len(p) * np.min(list(p.values()), axis=0), 1)
    return pd.DataFrame(
        {
            "mean_counts": moments.amount / n,
            "mean": mean,
            "variance": variance,
            "zeros": 1 - moments.detected / n,
            "zeros_expected": sums.gene[:, 2] / n,
            "zeros_se": error / n,
            "zeros_matched": moments.matched_zeros,
            "variance_ratio": np.where(moments.variance > 0, ratio, np.nan),
            "shared": shared,
            "ks": ks,
            **p,
            "p_value": p_value,
            "q_value": stats.false_discovery_control(p_value),
        }
    )


def _verdicts(table: pd.DataFrame, fdr: float, least: dict[str, float]) -> np.ndarray:
    """Position in ``VERDICTS`` of each gene's verdict."""
    p_values = table["p_value"].to_numpy()
    found = table["q_value"].to_numpy() <= fdr
    cutoff = p_values[found].max(initial=0) / 4  # the tests of a gene are held to what the genes are held to
    strong = {name: (table[f"p_{name}"] <= cutoff).to_numpy() & found for name in least}
    variance, excess = table["variance"].to_numpy() - 1, (table["zeros"] - table["zeros_expected"]).to_numpy()
    shared = strong["shared"] & (table["shared"] >= least["shared"]).to_numpy()
    zeros = strong["zeros"] & (excess >= least["zeros"])
    over, under = (strong["variance"] & (sign * variance >= least["variance"]) for sign in (1, -1))
    other = strong["ks"] & (table["ks"] >= least["ks"]).to_numpy()
    other |= strong["zeros"] & (-excess >= least["zeros"])
    inflated = zeros & (table["zeros"] - table["zeros_matched"] >= least["zeros"]).to_numpy()
    order = [zeros & shared, shared, inflated, over, under, other | zeros]
    names = [ZEROS_GROUP, GROUP, ZEROS, OVER, UNDER, OTHER]
    return np.select(order, [VERDICTS.index(name) for name in names], VERDICTS.index(FITS))


def _positions(reading: Reading, genes: str | list[str] | None, key: str) -> np.ndarray | None:
    if genes is None:
        return None
    names = [genes] if isinstance(genes, str) else list(genes)
    index = pd.Index(reading.names).get_indexer(names)
    if (index < 0).any():
        missing = [name for name, i in zip(names, index, strict=True) if i < 0]
        msg = f"genes={missing[:5]} were not fitted in {key!r}, or are not in adata: choose among its fitted genes"
        raise KeyError(msg)
    if len(set(names)) < len(names):
        msg = f"genes={names} names a gene twice"
        raise ValueError(msg)
    return index


def _checked(fdr: float, min_effect: dict[str, float] | None) -> dict[str, float]:
    if not 0 < fdr < 1:
        msg = f"fdr={fdr!r}: give a number within 0 and 1"
        raise ValueError(msg)
    given = dict(min_effect or {})
    if unknown := sorted(set(given) - set(MIN_EFFECT)):
        msg = f"min_effect names {unknown}: choose among {sorted(MIN_EFFECT)}"
        raise ValueError(msg)
    return {name: float(given.get(name, value)) for name, value in MIN_EFFECT.items()}
