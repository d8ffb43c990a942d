"""Composition of the components of a fit, and expression of its cells."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtri

from scbayes.models._compositions import draw_log_compositions, expected_log_composition
from scbayes.state import Fit, is_latent, read_fit
from scbayes.stats._dirichlet import fit_dirichlet as fit_concentrations
from scbayes.stats._dirichlet import fit_dirichlet_with_mean
from scbayes.stats._numbers import check_whole
from scbayes.tl._cell_expression import expression_of_all, expression_of_chosen, read_cells
from scbayes.tl._families import check_family
from scbayes.tl._normalize_latent import normalize_latent
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

DIRICHLETS = (False, True, "mean")
#: Arguments for fits with a latent space only, and those for the others only.
OF_LATENT = ("transform_batch", "n_samples_overall", "weights")
OF_COMPOSITIONS = ("n_samples_dirichlet", "fit_dirichlet", "store_sizes")


def normalize_counts(  # noqa: PLR0913
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int = 100,
    n_samples_dirichlet: int = 1,
    interval: float = 0.9,
    fit_dirichlet: bool | str = False,
    store_samples: bool = False,
    store_sizes: bool = False,
    expression: "bool | str | Iterable[str] | None" = None,
    expression_interval: bool = False,
    scale: float | str = 1e4,
    transform_batch: "str | Iterable[str] | None" = None,
    n_samples_overall: int | None = None,
    weights: np.ndarray | str | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Mean composition with its interval; on request, compositions of cells, and the expression of each cell.

    Latent expression of gene :math:`g` in a cell is :math:`\lambda_g \sim \mathrm{Gamma}(r_g)\, \mu_g / r_g`, molecules
    at full capture. Three things can be asked of it:

    - **The mean composition** :math:`\rho_g = \mu_g / \sum_h \mu_h`, what the cells of a component are on average. It
      is a parameter; its posterior is log-normal, and narrow where there are many cells. Always computed.
    - **The composition of a cell**, :math:`x_g = \lambda_g / \sum_h \lambda_h`, which varies from cell to cell however
      well the parameters are known. Where genes share their odds (``standard``, ``linked``, ``odds_ratio``),
      :math:`x \sim \mathrm{Dirichlet}(r)` with mean :math:`\rho`. In ``mean_disp`` it is no Dirichlet distribution, and
      is drawn as it is defined. `store_samples` and `fit_dirichlet` are about this one.
    - **The expression of each cell given its counts**, at the centre of the posterior, relative to the total
      :math:`M = \sum_h \mu_h` that cells of its component and batch have on average:

      .. math:: \frac{s}{M}\, E[\lambda_{cg} \mid u_{cg}] = s\, \rho_g\, \frac{r_g + u_{cg}}{r_g + \nu_c \mu_g}

      with :math:`s` = `scale`: of every `scale` molecules, how many are of this gene. A zero that may be an excess zero
      counts by the probability that it is none; components of a mixture by their responsibilities.
      The total over genes is near :math:`s`, and not exactly :math:`s`, as counts say more or less of a cell; in
      ``nbdm`` and ``zinb`` cells do not differ in depth, so that depth stays in the expression. Parameters are taken as
      known: their uncertainty is small beside that of one count.

    Shares are of all genes that were fitted, the pooled ones included, whichever genes are in `adata`.

    Of a fit with a latent space (``"vae"``, ``"factors"``), it is the expression of each cell in `expression`, which
    must be given: :math:`s\,\rho_g(z)`, the decoded native composition without excess zeros and ambient counts, as mean
    over `n_samples` draws of :math:`z \sim q(z \mid u)`. It smooths: what a cell's own count of a gene says, it says
    through z only.

    Parameters
    ----------
    adata
        Cells x genes, with a fit; or new cells, with the fit in `reference`.
    key
        The fit to read.
    n_samples
        Draws from the posterior for what `store_samples`, `store_sizes` and `fit_dirichlet` ask for; of a latent space,
        draws of z, the same for all genes and batches.
    n_samples_dirichlet
        Cells drawn per draw from the posterior, for `store_samples`.
    interval
        Posterior probability of the intervals, equal-tailed.
    fit_dirichlet
        True: Dirichlet concentrations of maximum likelihood for compositions of cells, their expected logs averaged
        over draws from the posterior. ``"mean"``: those of maximum likelihood among distributions that keep the mean
        composition, as the other does not in ``mean_disp``.
    store_samples
        Store compositions of cells; n_genes x n_profiles x n_samples x n_samples_dirichlet numbers. Of a latent space:
        store the draws of the expression of each cell.
    store_sizes
        Store the draws of r from which they come.
    expression
        Names of genes whose expression to write as a layer, with an entry for every cell. True: all genes, as what
        counts add to the expression of a zero (sparse), and the expression of a zero (product of two thin matrices);
        :func:`scbayes.get.expression` adds them. Of a latent space, True names all genes of the model.
    expression_interval
        For the genes chosen in `expression`: also standard deviation and interval of the expression of each cell.
    scale
        Total of the expression of an average cell. ``"library"`` (latent space): native counts that are expected at
        the cell's own library size or size factor, ambient ones taken off.
    transform_batch
        Latent space: decode as if cells were of this batch; of several, the mean of each draw over them. Default: the
        batch of each cell.
    n_samples_overall
        Latent space: instead of the expression of each cell, that of so many cells drawn at random with replacement,
        with one draw of z each: draws from the population of cells.
    weights
        Weights of the cells in `n_samples_overall`, `(n_cells,)`, 0 or more, or a mask of the cells to draw from; or
        ``"importance"``: draws of z are weighted to be draws from the posterior of the cells of `adata` together,
        instead of the encoder's approximation of it; 1,024 random cells stand for all. Default: all alike.
    reference
        Where the fit is, if `adata` has other cells; genes are matched by name, capture probabilities are inferred.
    layer
        Layer with the counts. Default: that of the fit; of new cells, as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator of the draws.
    key_added
        Prefix of what is written. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. A profile is a component, in each batch that differs from the others: batches first, and one
    profile in a plain fit. Rows of genes that were not fitted on their own are NaN. It sets (float64 where not said)

    `adata.varm[key_added + "_composition_mean"]`, `..._lower`, `..._upper` : `(n_genes, n_profiles)`
        Posterior mean and interval of the mean composition.
    `adata.varm[key_added + "_composition_samples"]` : `(n_genes, n_profiles, n_samples, n_samples_dirichlet)`
        Compositions of cells.
    `adata.varm[key_added + "_composition_sizes"]` : `(n_genes, n_profiles, n_samples)`
        Draws of r.
    `adata.varm[key_added + "_composition_concentration"]` : `(n_genes, n_profiles)`
        Dirichlet concentrations; their totals, pooled genes included, are in `uns`.
    `adata.layers[key_added + "_normalized"]` : CSC, float32
        Expression of the chosen genes. Other genes have no entries: they are not zero, they were not asked for.
    `adata.layers[key_added + "_normalized_sd"]`, `..._lower`, `..._upper` : CSC, float32
        Its standard deviation and interval; of a latent space, over draws of z.
    `adata.layers[key_added + "_normalized_above_zero"]` : CSR, float32
        With `expression=True`: mean expression minus that of the same gene and cell with a count of zero.
    `adata.obsm[key_added + "_normalized_cells"]`, `adata.varm[key_added + "_normalized_genes"]` : `(n, Q)`
        With `expression=True`: their product, cells x genes, is the mean expression given a count of zero. Q is the
        number of profiles where genes share their odds and have no gate, else some 5 to 10 times that.
    `adata.uns[key_added + "_normalize_counts"]` : dict
        How it was computed, for :func:`scbayes.get.composition` and :func:`scbayes.get.expression`.

    Of a fit with a latent space, of these the layers of the chosen genes and `uns`, and

    `adata.obsm[key_added + "_normalized_samples"]` : float32 `(n_cells, len(expression), n_samples)`
        Draws of the expression, with `store_samples`.
    `adata.uns[key_added + "_normalize_counts"]["population"]` : float32 `(n_samples_overall, len(expression))`
        With `n_samples_overall`, instead of the layers.

    Raises
    ------
    KeyError
        If there is no such fit or layer, or a chosen gene is not in `adata`.
    ValueError
        If an argument is out of range, a chosen gene was not fitted on its own, or compositions of cells are asked of a
        part of the genes: what genes that are missing add to a cell's total is not known. (What was stored before genes
        were left out stays right.) If an argument is not for the family of the fit, or results are larger than 2 GB.

    References
    ----------
    Minka (2000), Estimating a Dirichlet distribution. Sarkar & Stephens (2021), Separating measurement and expression
    models clarifies confusion in single-cell RNA sequencing analysis, Nature Genetics 53, 770-777.
    """
    given = dict(locals())
    from scanpy import logging as logg

    clock = logg.info("normalizing counts")
    latent = is_latent(adata if reference is None else reference, key)
    check_family(given, normalize_counts, latent=latent, only_latent=OF_LATENT, never_latent=OF_COMPOSITIONS)
    chosen = _chosen(expression)
    _check(n_samples, n_samples_dirichlet, interval, fit_dirichlet)
    _check_scale(scale, latent=latent)
    if latent:
        return normalize_latent(adata, given, chosen, clock)
    if expression_interval and not isinstance(chosen, list):
        raise ValueError("expression_interval needs chosen genes: pass their names as expression")
    if chosen is None and reference is None:
        fit = read_fit(adata, key)
        columns = np.flatnonzero(fit.fitted)
    else:
        reading = read_with_counts(adata, key, reference=reference, layer=layer)
        fit, columns = reading.fit, reading.columns
    profiles = _Profiles.of(fit, columns)
    values = profiles.mean_composition(interval)
    if store_samples or store_sizes or fit_dirichlet:
        rng = np.random.default_rng(rng)
        kept = store_samples, store_sizes
        values |= profiles.cell_compositions(n_samples, n_samples_dirichlet, kept, fit_dirichlet, rng)
    if chosen is not None:
        cells = read_cells(reading, scale, stored=reference is None or reference is adata)
        if chosen is True:
            values |= expression_of_all(reading, cells)
        else:
            values |= expression_of_chosen(reading, cells, chosen, interval if expression_interval else None)
    facts = {
        "batches": profiles.batches,
        "components": fit.components,
        "interval": interval,
        "genes": chosen if chosen is not True else "all",
        "scale": scale,
    }
    return store(adata, "normalize_counts", key_added or key, values, fit=fit, facts=facts, clock=clock, copy=copy)


class _Profiles(NamedTuple):
    """Where the compositions of a fit go: ``n_profiles = max(len(batches), 1) * n_components``."""

    fit: Fit
    columns: np.ndarray
    batches: list[str]

    @classmethod
    def of(cls, fit: Fit, columns: np.ndarray) -> "_Profiles":
        differ = any(site != "gate" for site in fit.config.per_batch)
        return cls(fit, columns, list(fit.facts["batches"]) if differ else [])

    def rows(self, value: np.ndarray) -> np.ndarray:
        """``(copies, [K,] G, ...)`` as ``(n_genes, n_profiles, ...)``, a row for each gene of AnnData."""
        n_copies, n_components = max(len(self.batches), 1), self.fit.config.n_components
        value = value.reshape(value.shape[0], n_components, -1, *value.shape[2 + self.fit.config.mixture :])
        value = np.broadcast_to(value, (n_copies, *value.shape[1:]))
        rows = np.moveaxis(value.reshape(n_copies * n_components, *value.shape[2:]), 0, 1)
        out = np.full((len(self.fit.genes), *rows.shape[1:]), np.nan)
        out[self.columns] = rows[: len(self.columns)]  # the pooled gene is the last of the fit
        return out

    def mean_composition(self, interval: float) -> dict:
        """Posterior mean and interval of the mean composition."""
        marginal = self.fit.canonical["composition"]
        loc, scale = np.asarray(marginal.loc), np.asarray(marginal.scale)
        z = ndtri((1 + interval) / 2)
        found = {
            "mean": np.exp(loc + scale**2 / 2),
            "lower": np.exp(loc - z * scale),
            "upper": np.exp(loc + z * scale),
        }
        return {("varm", f"composition_{what}"): self.rows(value) for what, value in found.items()}

    def cell_compositions(self, n_samples: int, n_cells: int, kept, fit_dirichlet, rng) -> dict:
        """Compositions of cells, or what was asked of them."""
        if not self.fit.whole:
            n = self.fit.facts["n_genes"]
            raise ValueError(
                f"{len(self.columns)} of the {n} genes that {self.fit.key!r} was fitted to are here: compositions of "
                "cells need all of them; run sb.tl.normalize_counts before genes are left out"
            )
        samples, sizes, mean_log, mean = [], [], 0.0, 0.0
        for draw in self.fit.draws(n_samples, rng):
            r, mu = (value[: max(len(self.batches), 1)] for value in (draw.parameters.size, draw.parameters.mean))
            if kept[0]:
                samples.append(np.exp(draw_log_compositions(r, mu, n_cells, rng)))
            if kept[1]:
                sizes.append(r)
            if fit_dirichlet:
                mean_log = mean_log + expected_log_composition(r, mu) / n_samples
                mean = mean + mu / mu.sum(-1, keepdims=True) / n_samples
        values = {}
        if kept[0]:
            values["varm", "composition_samples"] = self._of_all(np.stack(samples, 3))
        if kept[1]:
            values["varm", "composition_sizes"] = self._of_all(np.stack(sizes, 3))
        if fit_dirichlet == "mean":
            found = fit_dirichlet_with_mean(mean, mean_log)
        elif fit_dirichlet:
            found = fit_concentrations(mean_log, mean=mean)
        if fit_dirichlet:
            values["varm", "composition_concentration"] = self._of_all(found)
            values["uns", "precision"] = found.sum(-1).ravel()
        return values

    def _of_all(self, value: np.ndarray) -> np.ndarray:
        """:meth:`rows` of ``(copies, K, G, ...)``, with the axis of components also where there is one only."""
        return self.rows(value if self.fit.config.mixture else value[:, 0])


# --- arguments --------------------------------------------------------------------------------------------------------


def _chosen(expression) -> "bool | list[str] | None":
    """None, True, or the names of genes, each once."""
    if expression is None or expression is False:
        return None
    if expression is True:
        return True
    names = [expression] if isinstance(expression, str) else [str(name) for name in expression]
    if not names:
        raise ValueError("expression names no gene: give at least one, True for all, or None")
    return list(dict.fromkeys(names))


def _check(n_samples: int, n_samples_dirichlet: int, interval: float, fit_dirichlet) -> None:
    check_whole(1, n_samples=n_samples, n_samples_dirichlet=n_samples_dirichlet)
    if not 0 < interval < 1:
        raise ValueError(f"interval={interval!r}: give a probability between 0 and 1")
    if fit_dirichlet not in DIRICHLETS:
        raise ValueError(f"fit_dirichlet={fit_dirichlet!r}: choose one of {', '.join(map(repr, DIRICHLETS))}")


def _check_scale(scale: float | str, *, latent: bool) -> None:
    if isinstance(scale, str):
        if not latent or scale != "library":
            of_latent = ", or 'library' of a fit with a latent space"
            raise ValueError(f"scale={scale!r}: give a positive number{of_latent}")
    elif not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale={scale!r}: give a positive number")
