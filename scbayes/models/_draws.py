r"""The posterior as values: its centre, and draws from it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logsumexp

from scbayes.models._marginals import Total
from scbayes.models._model import Model
from scbayes.models._parameters import Parameters
from scbayes.models._posterior import Posterior
from scbayes.stats._logit_beta import concentrations, logit_quantile
from scbayes.stats._precision import double


class Draw(NamedTuple):
    """One value of all parameters.

    Attributes
    ----------
    parameters
        As the distribution of the counts reads them.
    sites
        By name, on their own scale: those that are sampled (r, mu, gate: ``(copies, [n_components,] n_genes)``; p, phi:
        ``(copies,)``; nu: ``(n_cells,)``; weights: ``(n_components,)``) and those that follow from them (p, mu,
        r, odds, composition).
    """

    parameters: Parameters
    sites: dict[str, np.ndarray]


class Law(NamedTuple):
    """What is drawn from: a posterior with all that turns its coordinates into parameters.

    Attributes
    ----------
    total
        Total of the abundance over all genes that were fitted, one per component in a mixture.
    whole
        The posterior has all genes that were fitted; else their total is drawn on its own.
    log_mrna
        Mean and standard deviation of the log of the total mRNA per cell.
    batch
        Batch of each cell, ``(n_cells,)``.
    """

    model: Model
    posterior: Posterior
    priors: dict
    total: list[Total]
    whole: bool
    log_mrna: tuple[float, float]
    batch: np.ndarray


def centre(law: Law) -> Draw:
    """The centre of the posterior on its log and logit coordinates: the median of each parameter on its own.

    Of gates that are Beta-distributed, whose median may lie far below, the mean: that is the probability of a zero.
    """
    post = law.posterior
    weights = post.weights / post.weights.sum() if law.model.config.mixture else np.ones(1)
    log_totals = np.stack([total.loc for total in law.total], 1)
    law = law._replace(whole=False)  # the median of a sum is not the sum of the medians
    gene = np.array(post.gene_loc)
    if law.model.config.beta_gate:
        gates, loc, scale = _gates(law)
        a, b = concentrations(loc, scale)
        gene[..., gates] = np.log(a) - np.log(b)
    return assemble(law, gene, post.global_loc, post.cell_loc, weights, log_totals, 0.0)


def draws(law: Law, n: int, rng: np.random.Generator) -> Iterator[Draw]:
    """``n`` independent draws, made one at a time."""
    post = law.posterior
    lead, with_gates = post.gene_loc.shape[:-2], _with_beta_gates(law)
    for _ in range(n):
        shared = rng.standard_normal(post.gene_factor.shape[-1])
        gene = post.gene_loc + np.einsum("...kl,...l->...k", post.gene_tril, rng.standard_normal(post.gene_loc.shape))
        gene += post.gene_factor @ shared
        glob = post.global_loc + post.global_scale * rng.standard_normal(post.global_loc.shape)
        cell = post.cell_loc + post.cell_scale * rng.standard_normal(post.cell_loc.shape)
        weights = rng.dirichlet(post.weights) if lead else np.ones(1)
        own = [total.variance - np.sum(total.loading**2, -1) for total in law.total]
        log_totals = [
            total.loc + total.loading @ shared + np.sqrt(np.maximum(rest, 0)) * rng.standard_normal(rest.shape)
            for total, rest in zip(law.total, own, strict=True)
        ]
        shift = law.log_mrna[1] * float(rng.standard_normal())
        yield assemble(law, with_gates(gene), glob, cell, weights, np.stack(log_totals, 1), shift)


def _with_beta_gates(law: Law) -> Callable[[np.ndarray], np.ndarray]:
    """What turns coordinates (n_genes, K) that are normal into those of gates that are Beta-distributed."""
    if not law.model.config.beta_gate:
        return lambda gene: gene
    gates, loc, scale = _gates(law)
    a, b = concentrations(loc, scale)

    def put(gene: np.ndarray) -> np.ndarray:
        gene = np.array(gene)
        gene[..., gates] = logit_quantile(a, b, (gene[..., gates] - loc) / scale)
        return gene

    return put


def _gates(law: Law) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Columns of the gates, and means and standard deviations of their coordinates."""
    post, gates = law.posterior, [k for k, (site, _) in enumerate(law.model.columns) if site == "gate"]
    spread = [np.sum(np.asarray(part)[..., gates, :] ** 2, -1) for part in (post.gene_tril, post.gene_factor)]
    return gates, np.asarray(post.gene_loc)[..., gates], np.sqrt(sum(spread))


def assemble(law: Law, gene, glob, cell, weights, log_totals: np.ndarray, shift: float) -> Draw:
    """Parameters at coordinates; ``log_totals`` (copies, n_components) serve where genes are missing."""
    model, config = law.model, law.model.config
    with double():
        z = {site: np.asarray(value) for site, value in model.split(jnp.asarray(gene), glob, cell).items()}
        if law.whole:
            log_totals = logsumexp(z[model.abundance], -1).reshape(log_totals.shape)
        if config.parameterization == "standard" and "p" in z:  # its coordinate is the expected total, see Model.untie
            of_p = log_totals.mean(1)
            z["p"] = z["p"] - (of_p if len(of_p) == len(z["p"]) else of_p.mean())
        values = {site: np.asarray(model.transform(site, law.priors)(value)) for site, value in z.items()}
        log_odds = None
        if config.shared_odds and not config.global_sites:
            log_odds = model.by_group(jnp.asarray(law.log_mrna[0] - log_totals)[..., None])
        likelihood = model.likelihood(values, law.log_mrna[0], jnp.asarray(law.batch), log_odds)
        log_size, log_odds = np.asarray(likelihood.log_size), np.asarray(likelihood.gene_log_odds) + shift
    shape = (config.n_batches, config.n_components, log_size.shape[-1])
    gate = expit(np.asarray(likelihood.gate_logit)).reshape(shape) if config.gate else None
    log_nu = np.log(values["nu"]) - shift if config.capture else np.zeros(len(law.batch))
    full = np.broadcast_to(log_odds, log_size.shape).reshape(shape)
    parameters = Parameters(np.exp(log_size).reshape(shape), full, gate, weights, log_nu)
    sites = {site: value for site, value in values.items() if site in ("r", "mu", "gate")}
    sites |= {"nu": np.exp(log_nu)} if config.capture else {}
    level = log_odds.reshape(*shape[:2], -1)[..., 0] if config.shared_odds else None
    return Draw(parameters, sites | _derived(law, sites, parameters, level, log_totals))


def _derived(law: Law, sites: dict, parameters: Parameters, level: np.ndarray | None, log_totals: np.ndarray) -> dict:
    """Parameters that follow from the others, by name; those that batches share have one copy.

    ``level`` holds the log odds that all genes share, ``(n_batches, n_components)``.
    """
    model, config = law.model, law.model.config
    own = any(config.copies(site) > 1 for site in (*config.gene_sites, *config.global_sites) if site != "gate")
    copies = config.n_batches if own else 1
    mixed = slice(None) if config.mixture else 0
    abundance = sites[model.abundance]
    total = np.exp(log_totals if config.mixture else log_totals[:, 0])
    found = {"composition": abundance / total[..., None]}
    if config.mixture:
        found["weights"] = parameters.weights
    if config.capture:  # moves with the total mRNA
        found["mu"] = parameters.mean[: len(abundance), mixed]
    if level is None:
        return found
    found |= {"r": parameters.size[:copies, mixed], "mu": parameters.mean[:copies, mixed]}
    of_cell = level[law.batch] + parameters.log_nu[:, None]  # (n_cells, n_components)
    if config.global_sites:  # components share it
        level, of_cell = level[: config.copies(config.global_sites[0]), 0], of_cell[:, 0]
    else:
        level, of_cell = level[: config.copies("r"), mixed], of_cell[:, mixed].T
    found |= {"p": expit(level), "odds": np.exp(of_cell if config.capture else level)}
    return found | ({"phi": np.exp(-level)} if "phi" in config.global_sites else {})
