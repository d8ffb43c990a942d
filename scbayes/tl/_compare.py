"""Compare fits by how well they predict."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp

from scbayes.counts import Summary
from scbayes.models._draws import draws
from scbayes.models._gene_predictive import Genes
from scbayes.models._marginal_likelihood import Marginal, marginalise, population_of_nu
from scbayes.models._parameters import Parameters
from scbayes.state import Fit, read_fit
from scbayes.stats._numbers import check_whole
from scbayes.stats._stacking import stacking_weights
from scbayes.tl._reading import Reading, read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Draws that densities of single genes are averaged over, at most.
GENE_DRAWS = 50
#: Monte Carlo error of a gene's difference with so many draws, nats: without it rare genes, whose cells are all alike,
#: would seem certain. (Median over genes of its standard deviation between seeds, linked nbvcp against zinbvcp.)
GENE_ERROR = 0.3
#: Fewest draws: Pareto smoothing needs a tail.
FEWEST = 25


def compare(
    adata: "AnnData",
    keys: Sequence[str],
    *,
    n_samples: int = 100,
    by_gene: bool = True,
    n_cells: int | None = None,
    refit_nu: bool = True,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "sb",
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Expected log predictive densities of cells under several fits, and of genes.

    The observation is a cell. Its capture probability and its component are integrated out,

    .. math::
        p(u_c \mid \theta) = \sum_k w_k \int p(u_c \mid k, \nu, \theta)\, p(\nu)\, d\nu,

    so that models with and without capture, and with any number of components, predict the same thing. From draws of
    :math:`\theta` follow, for fitted cells, elpd by Pareto-smoothed importance sampling (leave one cell out) and WAIC;
    for new cells (`reference`), the log of the mean density. Stacking weights are those of the mixture of the fits that
    predicts best. Standard errors are those of sums over cells, of differences paired by cell.

    Read with care: p(nu) is learned from the fitted cells (two numbers). The prior that a fit learns is at least twice
    as wide as its cells need, and would cost a model with capture 0.3 to 1 nats per cell against one without; see
    `refit_nu`. Draws come from the approximate posterior and are taken as if from the exact one. A difference of less
    than 4 nats, or of less than a few `diff_se`, says little.

    With `by_gene`, the log density of each count given the other counts of its cell,
    :math:`\ln p(u_{cg} \mid u_{c,-g})`, averaged over at most 50 draws, less WAIC's correction for fitted cells. It
    is compared with the best fit, cell by cell. Its sum over genes is not the elpd of the cells.

    Parameters
    ----------
    adata
        Cells x genes, with the fits; or new cells.
    keys
        Two or more fits of the same cells, genes and counts.
    n_samples
        Draws from each posterior, at least 25. Each costs a pass over the non-zero counts: 0.4 s of CPU time for 10
        million of them, 1 s with zero inflation.
    by_gene
        Also compare gene by gene: some 10 s of CPU time for each fit of 14,000 cells and genes.
    n_cells
        Compare on a random part of this many cells. Memory is `8 * n_samples * n_cells` bytes.
    refit_nu
        Integrate over the distribution of ln nu that the fitted cells come from, a normal of maximum likelihood,
        instead of over a prior that the fit learned. False: over the prior of the fit. A prior that was given stays.
    reference
        AnnData with the fits, if `adata` has other cells. Genes are matched by name.
    layer
        Layer with the counts. Default: that of each fit.
    rng
        Seed or generator.
    key_added
        Prefix of what is written.
    progress
        Show a progress bar.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets, for M fits and float64 where not said (:func:`scbayes.get.comparison` reads them)

    `adata.uns[key_added + "_compare"]["model"]` : DataFrame, index `key`, best fit first
        `elpd`, `se`: sum over cells and its standard error; `elpd_diff`, `diff_se`: to the best fit; `weight`:
        stacking; and for fitted cells `p_loo`, `max_k`, `n_high_k` (cells whose k-hat exceeds
        :math:`\min(1 - 1/\log_{10} S, 0.7)`: their elpd is not reliable), `elpd_waic`, `p_waic` (NaN for new cells).
    `adata.uns[key_added + "_compare"]["gene"]` : DataFrame
        With `by_gene`: `key`, `gene`, `elpd_diff` to the best fit (positive: `key` is better), `se` (with 0.3 nats of
        Monte Carlo error), `z`.
    `adata.obsm[key_added + "_elpd"]` : `(n_cells, M)`
        elpd of each cell in the order of `keys`; NaN for cells left out.
    `adata.obsm[key_added + "_pareto_k"]` : `(n_cells, M)`
        k-hat of each cell; fitted cells only.

    Raises
    ------
    ImportError
        If arviz-stats is missing: ``pip install "scbayes[compare]"``. (Not needed for new cells.)
    KeyError
        If there is no such fit.
    ValueError
        If the fits are of different cells, genes or counts, or an argument cannot be used.

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC.
    Stat Comput. Yao, Vehtari, Simpson, Gelman (2018), Using stacking to average Bayesian predictive distributions.
    Bayesian Anal.
    """
    from scanpy import logging as logg
    from tqdm import tqdm

    new = reference is not None and reference is not adata
    keys = _check(keys, n_samples, n_cells)
    smoothed = None if new else _leave_one_out()
    clock = logg.info(f"comparing {', '.join(keys)}")
    readings = [read_with_counts(adata, key, reference=reference, layer=layer) for key in keys]
    generator = np.random.default_rng(rng)
    cells = _chosen(adata.n_obs, n_cells, generator)
    bar = tqdm(total=len(keys) * n_samples, desc="draws", disable=not progress)
    with bar:
        models = []
        for reading, child in zip(readings, generator.spawn(len(keys)), strict=True):
            known = read_fit(reference, reading.fit.key) if new else reading.fit
            priors = _priors(known, refit_nu=refit_nu)
            models.append(_evaluated(reading, priors, cells, n_samples, child, bar))
            _check_same(readings[0], models[0].summary, reading, models[-1].summary)
    scores = [_scores(model.log_density, smoothed) for model in models]
    table = _table(keys, scores, n_samples)
    values = {("uns", "model"): table}
    if by_gene:
        best = keys.index(table.index[0])
        values["uns", "gene"] = _by_gene(keys, best, models, readings[0].names, corrected=not new)
    for what, name in (("elpd", "elpd"), ("pareto_k", "k")):
        if name in scores[0]:
            full = np.full((adata.n_obs, len(keys)), np.nan)
            full[cells] = np.stack([score[name] for score in scores], 1)
            values["obsm", what] = full
    facts = {
        "keys": keys,
        "fits": {reading.fit.key: reading.fit.id for reading in readings},
        "n_samples": n_samples,
        "n_cells": len(cells),
        "new_cells": new,
    }
    if not new and (high := table["n_high_k"].max()) > 0:
        logg.warning(f"elpd is not reliable for up to {high:.0f} of {len(cells)} cells (k-hat is high): see n_high_k")
    return store(adata, "compare", key_added, values, fit=readings[0].fit, facts=facts, clock=clock, copy=copy)


class _Model(NamedTuple):
    """One fit on the chosen cells: log densities ``(n_cells, n_samples)``, and what genes are read from."""

    marginal: Marginal
    centre: Parameters
    draws: list[Parameters]
    summary: Summary
    log_density: np.ndarray
    counts: object


def _check(keys: Sequence[str], n_samples: int, n_cells: int | None) -> list[str]:
    if isinstance(keys, str) or len(keys) < 2 or len(set(keys)) < len(keys):
        msg = f"keys={keys!r}: give two or more different fits, e.g. ['sb', 'other']"
        raise ValueError(msg)
    check_whole(FEWEST, n_samples=n_samples)
    check_whole(2, n_cells=n_cells, or_none=True)
    return list(keys)


def _leave_one_out():
    """PSIS-LOO on arrays ``(n_cells, n_samples)``."""
    try:
        from arviz_stats.base import array_stats
    except ImportError as error:
        msg = 'sb.tl.compare needs arviz-stats: pip install "scbayes[compare]"'
        raise ImportError(msg) from error
    return lambda log_density: array_stats.loo(log_density, chain_axis=None, draw_axis=-1)


def _chosen(n_obs: int, n_cells: int | None, rng: np.random.Generator) -> np.ndarray:
    if n_cells is None or n_cells >= n_obs:
        return np.arange(n_obs)
    return np.sort(rng.choice(n_obs, n_cells, replace=False))


def _priors(fit: Fit, *, refit_nu: bool) -> dict:
    """Priors of a fit, with the population of nu in place of one that was learned."""
    if not (refit_nu and "nu" in fit.facts["learned"]):
        return fit.priors
    return population_of_nu(fit.priors, fit.posterior.cell_loc, fit.posterior.cell_scale)


def _evaluated(reading: Reading, priors: dict, cells: np.ndarray, n_samples: int, rng, bar) -> _Model:
    """One fit on the chosen cells."""
    fit, counts = reading.fit, reading.counts
    counts = counts if len(cells) == counts.n_cells else counts.cells(cells)
    summary = counts.summarise()
    centre = fit.centre().parameters
    marginal = marginalise(fit.model, priors, centre, counts, summary.cell_total.astype(float))
    # the prior of nu moves with the total mRNA, so that a spread of the latter changes no density
    law = fit.law._replace(log_mrna=(fit.law.log_mrna[0], 0.0))
    log_density, kept = np.empty((len(cells), n_samples)), []
    for s, draw in enumerate(draws(law, n_samples, rng)):
        log_density[:, s] = marginal.log_density(draw.parameters)
        if s < GENE_DRAWS:
            kept.append(draw.parameters)
        bar.update()
    return _Model(marginal, centre, kept, summary, log_density, counts)


def _check_same(first: Reading, mine: Summary, other: Reading, its: Summary) -> None:
    a, b = first.fit, other.fit
    where = f"{a.key!r} and {b.key!r} are not fits of the same data"
    for fact, words in (("n_cells", "cells"), ("n_genes", "genes"), ("n_counts", "counts")):
        if a.facts[fact] != b.facts[fact]:
            msg = f"{where}: {a.facts[fact]} and {b.facts[fact]} {words}; only fits of the same counts can be compared"
            raise ValueError(msg)
    if not np.array_equal(a.fitted, b.fitted) or mine.n_genes != its.n_genes:
        msg = f"{where}: another choice of genes was fitted (mask_var)"
        raise ValueError(msg)
    same = np.array_equal(mine.cell_total, its.cell_total)
    if not same or (a.facts["batch_key"] == b.facts["batch_key"] and a.facts["data"] != b.facts["data"]):
        msg = f"{where}: their counts differ (layers {a.facts['layer']!r} and {b.facts['layer']!r})"
        raise ValueError(msg)


def _scores(log_density: np.ndarray, smoothed) -> dict[str, np.ndarray]:
    """Pointwise elpd, and for fitted cells what goes with it."""
    lppd = logsumexp(log_density, axis=1) - np.log(log_density.shape[1])
    if smoothed is None:
        return {"elpd": lppd}
    elpd, k, p_loo = smoothed(log_density)
    p_waic = log_density.var(axis=1, ddof=1)
    return {"elpd": elpd, "k": k, "p_loo": p_loo, "elpd_waic": lppd - p_waic, "p_waic": p_waic}


def _table(keys: list[str], scores: list[dict], n_samples: int) -> "pd.DataFrame":
    import pandas as pd

    elpd = np.stack([score["elpd"] for score in scores], 1)
    difference = elpd - elpd[:, [np.argmax(elpd.sum(0))]]
    table = pd.DataFrame(
        {
            "elpd": elpd.sum(0),
            "se": _standard_error(elpd),
            "elpd_diff": difference.sum(0),
            "diff_se": _standard_error(difference),
            "weight": stacking_weights(elpd),
        },
        index=pd.Index(keys, name="key"),
    )
    limit = min(1 - 1 / np.log10(n_samples), 0.7)
    kinds = {
        "p_loo": lambda score: score["p_loo"].sum(),
        "max_k": lambda score: score["k"].max(),
        "n_high_k": lambda score: float((score["k"] > limit).sum()),
        "elpd_waic": lambda score: score["elpd_waic"].sum(),
        "p_waic": lambda score: score["p_waic"].sum(),
    }
    for name, of in kinds.items():
        table[name] = [of(score) if "k" in score else np.nan for score in scores]
    return table.sort_values("elpd", ascending=False, kind="stable")


def _standard_error(pointwise: np.ndarray) -> np.ndarray:
    return np.sqrt(len(pointwise) * pointwise.var(axis=0, ddof=1))


def _by_gene(keys: list[str], best: int, models: list[_Model], names: np.ndarray, *, corrected: bool) -> "pd.DataFrame":
    """Sum over cells of differences to the best fit, gene by gene; the pooled gene is left out."""
    import pandas as pd

    genes = [
        Genes(each.marginal, each.centre, each.draws, each.counts, each.summary, corrected=corrected) for each in models
    ]
    n, size = len(models[0].log_density), len(names)
    total, squares = np.zeros((2, len(keys), size))
    for parts in zip(*(each.blocks() for each in genes), strict=True):
        values = [part[1][:, :size] for part in parts]
        for m, value in enumerate(values):
            if m != best:
                value -= values[best]
                total[m] += value.sum(0)
                squares[m] += np.einsum("cg,cg->g", value, value)
    se = np.sqrt(np.maximum(squares - total**2 / n, 0) * n / (n - 1) + GENE_ERROR**2)
    z = total / se
    frames = [
        pd.DataFrame({"key": key, "gene": names, "elpd_diff": total[m], "se": se[m], "z": z[m]})
        for m, key in enumerate(keys)
        if m != best
    ]
    return pd.concat(frames, ignore_index=True)
