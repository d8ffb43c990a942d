"""Counts drawn from a fit, the same model fitted to them, and where the true values lie in its posterior."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpyro.distributions as dist
import pandas as pd
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtr
from scipy.stats import beta

from scbayes.models._draws import Draw
from scbayes.models._marginals import place
from scbayes.models._predictive import replicate
from scbayes.state import Fit, Marginal, read_fit
from scbayes.tl._fit import fit as run_fit

#: Cells of one batch and component, at least, for their nu to be compared with each other.
FEWEST = 20


class Design(NamedTuple):
    """What is simulated: cells and genes of the fit by position, and whether other genes are pooled into one."""

    cells: np.ndarray
    genes: np.ndarray
    pooled: bool


class Hits(NamedTuple):
    """What one refit says of the truth.

    Attributes
    ----------
    place
        By parameter, the place of each true value in its posterior, 0 to 1; genes or cells on the last axis. NaN where
        it is not compared.
    axis
        ``"gene"``, ``"cell"`` or ``"global"``, by parameter.
    counts
        Mean count of each gene, total of each cell.
    calls
        Of each cell of a mixture the largest probability of a component, and whether that is its component.
    converged
        Of the refit.
    """

    place: dict[str, np.ndarray]
    axis: dict[str, str]
    counts: dict[str, np.ndarray]
    calls: np.ndarray
    converged: bool


def choose(fit: Fit, max_cells: int | None, max_genes: int | None, rng: np.random.Generator) -> Design:
    """Cells, in proportion from all batches, and genes, at random; None: all."""
    n_cells, n_genes = len(fit.cells), int(fit.fitted.sum())
    order = np.lexsort((rng.random(n_cells), fit.batch))
    if len(np.unique(fit.batch)) < fit.config.n_batches:
        msg = f"some batches that {fit.key!r} was fitted on have no cell here: calibrate on adata with all of them"
        raise ValueError(msg)
    n = min(max_cells or n_cells, n_cells)
    cells = np.sort(order[np.arange(n) * n_cells // n])
    if len(np.unique(fit.batch[cells])) < fit.config.n_batches:
        msg = f"max_cells={max_cells!r} leaves batches without a cell: give more"
        raise ValueError(msg)
    genes = np.sort(rng.permutation(n_genes)[: min(max_genes or n_genes, n_genes)])
    return Design(cells, genes, len(genes) < n_genes or fit.rest.shape[-1] > 0)


def refit_drawn(fit: Fit, draw: Draw, design: Design, n_steps: int, rng: np.random.Generator) -> Hits:
    """Fit the model of ``fit`` to counts drawn at one draw of its posterior; components come from the weights."""
    config, batch, weights = fit.config, fit.batch[design.cells], draw.parameters.weights
    component = rng.choice(len(weights), len(batch), p=weights)
    if config.mixture:  # each has a cell at least, where it can start
        component[rng.permutation(len(batch))[: len(weights)]] = np.arange(len(weights))
    parameters = draw.parameters._replace(log_nu=draw.parameters.log_nu[design.cells])
    drawn = replicate(parameters, batch, component, rng, design.genes)
    x = sparse.csr_matrix(drawn.kept.T, dtype=np.float32)
    counts = {"gene": np.asarray(x.mean(0)).ravel(), "cell": drawn.cell_total.astype(float)}
    if design.pooled:
        rest = drawn.cell_total - np.asarray(x.sum(1)).ravel()
        x = sparse.hstack([x, sparse.csr_matrix(rest[:, None], dtype=np.float32)], format="csr")
    refit = _fitted(fit, x, batch, component, n_steps, int(rng.integers(2**31)))
    order, calls = np.zeros(1, int), np.zeros((0, 2))
    if config.mixture:
        p = refit.posterior.responsibilities
        order = linear_sum_assignment(-np.eye(len(weights))[component].T @ p)[1]
        calls = np.stack([p.max(1), p.argmax(1) == order[component]], 1)
    group = batch * config.n_components + component
    place, axis = {}, {}
    for name, kind, value in _places(refit, draw, design, order, group):
        place[name], axis[name] = value, kind
    return Hits(place, axis, counts, calls, refit.converged)


def _fitted(fit: Fit, x, batch: np.ndarray, component: np.ndarray, n_steps: int, seed: int) -> Fit:
    """The model of ``fit`` with the priors that it was given, fitted to counts ``x`` by the same method."""
    import anndata as ad

    config, facts = fit.config, fit.facts
    given = {site: prior for site, prior in fit.priors.items() if site not in facts["learned"]}
    how = {}
    if config.capture:
        mrna, spread = facts["total_mrna"]["median"], facts["total_mrna"]["log_sd"]
        mrna = max(mrna, float(x.sum(1).max()) + 1)
        given["total_mrna"] = dist.LogNormal(np.log(mrna), spread) if spread else mrna
    if config.n_batches > 1:
        how |= {"batch_key": "batch", "per_batch": config.per_batch}
    if config.mixture:
        how |= {"n_components": config.n_components, "init": "component"}
    width = len(str(max(config.n_batches, config.n_components)))  # names sort as their numbers do
    codes = {"batch": batch, "component": component}
    obs = {name: [str(code).zfill(width) for code in values] for name, values in codes.items()}
    simulated = ad.AnnData(x, obs=pd.DataFrame(obs, index=[str(c) for c in range(x.shape[0])]))
    run_fit(
        simulated,
        config.model,
        parameterization=config.parameterization,
        unconstrained=config.unconstrained,
        method=facts.get("method", "svi"),
        priors=given,
        n_steps=n_steps,
        rng=seed,
        progress=False,
        **how,
    )
    return read_fit(simulated, "sb")


def _places(
    refit: Fit, draw: Draw, design: Design, order: np.ndarray, group: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Place of each true value in its posterior, by parameter, with its axis.

    Parameters
    ----------
    order
        The component of the refit that each component is.
    group
        Batch and component of each cell.
    """
    mixture, n = refit.config.mixture, len(design.genes)
    for name, marginal in refit.canonical.items():
        true = np.asarray(draw.sites[name])
        if marginal.axis == "cell":
            true = true[..., design.cells]
        if name == "nu" and marginal.link == "log":
            yield "relative nu", "cell", _relative(marginal, np.log(true), group)
        if not marginal.identified:
            continue
        loc, scale = marginal.loc, marginal.scale
        if mixture and (marginal.axis == "gene" or (marginal.axis == "cell" and loc.ndim == 2)):
            loc, scale = (np.take(part, order, axis=-2) for part in (loc, scale))
        if marginal.axis == "gene":  # without the pooled one
            true, loc, scale = true[..., design.genes], loc[..., :n], scale[..., :n]
        yield name, marginal.axis, place(marginal._replace(loc=loc, scale=scale), true)
    if mixture:
        own = refit.posterior.weights
        yield "weights", "global", beta.cdf(draw.parameters.weights, own[order], own.sum() - own[order])


def _relative(marginal: Marginal, log_nu: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Place of ln nu less its mean over the cells of a group; NaN in small groups."""
    size = np.bincount(group)
    loc, true = (x - (np.bincount(group, x) / np.maximum(size, 1))[group] for x in (marginal.loc, log_nu))
    return np.where(size[group] >= FEWEST, ndtr((true - loc) / marginal.scale), np.nan)
