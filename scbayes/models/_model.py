"""A model: its parameters, its NumPyro program, and its guide."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import biject_to

from scbayes.models._config import ModelConfig
from scbayes.models._coupled_normal import CoupledNormal
from scbayes.models._evidence import Evidence
from scbayes.models._likelihood import MixtureOfCounts, NegativeBinomialCounts
from scbayes.models._posterior import Posterior, moved, no_change
from scbayes.models._priors import support


class Inputs(NamedTuple):
    """What program and guide are given.

    Attributes
    ----------
    counts
        Evidence, or dense counts ``(n_cells, n_genes)``; None to draw them.
    priors
        Prior of each sampled parameter.
    log_mrna
        Log of the total mRNA per cell that fixes the scale of nu and mu.
    batch
        Batch of each cell, ``(n_cells,)``.
    start
        Posterior to start from; its shapes give the number of genes.
    weight
        How many cells each stands for, ``(n_cells,)``; None: one.
    """

    counts: object
    priors: dict[str, dist.Distribution]
    log_mrna: Array
    batch: Array
    start: Posterior
    weight: Array | None = None


class Model:
    r"""NB family: ``u_cg ~ NB(size r_g, odds nu_c exp(b_g))``, zero with probability ``gate_g`` on top.

    The parameterization says which of r, mu, p, phi are sampled, and so where the priors sit; ``log_size`` and
    ``gene_log_odds`` follow:

    ============  ==============  ==========================  =============================
    coordinates   sampled         :math:`r_g`                 :math:`b_g`
    ============  ==============  ==========================  =============================
    standard      r, p            r                           logit p
    linked        mu, p           mu (1-p)/p                  logit p
    odds_ratio    mu, phi         mu phi                      -ln phi
    mean_disp     mu, r           r                           ln mu - ln r
    ============  ==============  ==========================  =============================

    With capture, ``standard`` does not sample p: only odds are identified, and the total mRNA per cell M, a stated
    constant, sets p/(1-p) = M / sum(r).
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @staticmethod
    @lru_cache(maxsize=64)
    def of(config: ModelConfig) -> "Model":
        """The one model of a config: compiled code is kept per model, so equal configs must share theirs."""
        return Model(config)

    # -- parameters ----------------------------------------------------------------------------------------------------
    @property
    def columns(self) -> list[tuple[str, int]]:
        """(parameter, batch copy) of each of the K coordinates of a gene."""
        return [(site, copy) for site in self.config.gene_sites for copy in range(self.config.copies(site))]

    @property
    def abundance(self) -> str:
        """The gene-wise parameter that sets the composition."""
        return self.config.gene_sites[0]

    @property
    def n_levels(self) -> int:
        """Number of shared b: one, or one per batch (and component, where sizes set it); none where b is the gene's."""
        config = self.config
        if not config.shared_odds:
            return 0
        return (
            config.copies(config.global_sites[0]) if config.global_sites else config.copies("r") * config.n_components
        )

    @property
    def n_factors(self) -> int:
        """Number of scalars through which genes are coupled in the guide: in ``standard``, the shared b."""
        return self.n_levels if self.config.parameterization == "standard" else 0

    def transform(self, site: str, priors: dict[str, dist.Distribution]):
        """Map from the unconstrained coordinate (log, logit) to the parameter."""
        return biject_to(support(site, priors[site], self.config))

    def split_genes(self, gene: Array) -> dict[str, Array]:
        """Gene-wise coordinates ``(n_genes, K)`` by parameter, each ``(copies, n_genes)``.

        Mixtures have an axis of components before the genes, here and there.
        """
        names = [name for name, _ in self.columns]
        return {s: jnp.stack([gene[..., k] for k, n in enumerate(names) if n == s]) for s in self.config.gene_sites}

    def split(self, gene: Array, glob: Array, cell: Array) -> dict[str, Array]:
        """Coordinates by parameter: gene-wise ``(copies, n_genes)``, global ``(copies,)``, cell-wise ``(n_cells,)``."""
        values = self.split_genes(gene)
        at = 0
        for site in self.config.global_sites:
            copies = self.config.copies(site)
            values[site] = glob[at : at + copies]
            at += copies
        return values | dict.fromkeys(self.config.cell_sites, cell)

    def gene_values(self, gene: Array, priors) -> dict[str, Array]:
        """Gene-wise parameters at coordinates ``(n_genes, K)``; in a mixture, component by component."""
        if self.config.mixture:
            gene = gene.reshape(self.config.n_components, -1, gene.shape[-1])
        return {site: self.transform(site, priors)(z) for site, z in self.split_genes(gene).items()}

    def likelihood(self, values: dict[str, Array], log_mrna, batch: Array, log_odds=None) -> NegativeBinomialCounts:
        """Distribution of the counts given the parameters.

        Parameters
        ----------
        values
            Parameters by name, shaped as in :meth:`split`.
        log_odds
            Shape ``(n_groups, 1)``: stands for the shared b, so that genes do not depend on each other.
        """
        config = self.config
        log_size = self.by_group(jnp.log(values[self.abundance]))
        if config.parameterization == "mean_disp":
            log_mean, log_size = log_size, self.by_group(jnp.log(values["r"]))
            gene_log_odds = log_mean - log_size
        else:
            shared = self.shared_log_odds(values, log_mrna) if log_odds is None else log_odds
            gene_log_odds = self.by_group(shared) if log_odds is None else shared
            if self.abundance == "mu":
                log_size = log_size - gene_log_odds
        cell = jnp.log(values["nu"]) if "nu" in values else None
        gate = jax.scipy.special.logit(self.by_group(values["gate"])) if config.gate else None
        return NegativeBinomialCounts(log_size, gene_log_odds, cell, gate, batch * config.n_components)

    def by_group(self, value: Array) -> Array:
        """``(copies, [n_components,] n)`` as ``(n_groups, n)``: what batches or components share is repeated."""
        config, n = self.config, value.shape[-1]
        shape = (config.n_batches, config.n_components, n)
        return jnp.broadcast_to(value.reshape(value.shape[0], -1, n), shape).reshape(-1, n)

    def shared_log_odds(self, values: dict[str, Array], log_mrna) -> Array:
        """b where all genes of a batch share it: logit p, shape ``(1 or n_batches, 1)``."""
        if "phi" in values:
            return -jnp.log(values["phi"])[:, None]
        if "p" in values:
            return jax.scipy.special.logit(values["p"])[:, None]
        return log_mrna - jnp.log(values["r"].sum(-1, keepdims=True))

    # -- program and guide ---------------------------------------------------------------------------------------------
    def program(self, inputs: Inputs) -> None:
        """NumPyro model: priors and likelihood, of dense counts or of a summary alike."""
        values = {}
        for site in self.config.sites:
            prior = inputs.priors[site]
            if self.config.unconstrained:
                prior = dist.TransformedDistribution(prior, self.transform(site, inputs.priors))
            shape = self.shape(site, inputs)
            if site in self.config.cell_sites:
                with _cells(inputs):
                    values[site] = numpyro.sample(site, prior)
                continue
            values[site] = numpyro.sample(site, prior.expand(shape).to_event(len(shape)))
        likelihood = self.likelihood(values, inputs.log_mrna, inputs.batch)
        if isinstance(inputs.counts, Evidence):  # NumPyro observes arrays only; weights are found with memberships
            numpyro.factor("counts", likelihood.log_prob(inputs.counts))
            return
        if self.config.mixture:
            weights = numpyro.sample("weights", inputs.priors["weights"])
            likelihood = MixtureOfCounts(likelihood, weights)
        numpyro.sample("counts", likelihood, obs=inputs.counts)

    def guide(self, inputs: Inputs) -> None:
        """NumPyro guide: normal on log and logit coordinates, genes coupled where the cells couple them."""
        change = {name: numpyro.param(name, value) for name, value in no_change(inputs.start).items()}
        posterior = moved(inputs.start, change)
        self.sample_posterior(posterior, inputs, detached=True)
        if self.config.mixture and not isinstance(inputs.counts, Evidence):
            numpyro.sample("weights", dist.Dirichlet(posterior.weights))

    def sample_posterior(self, posterior: Posterior, inputs: Inputs, *, detached: bool = False) -> None:
        """Sample statements of the posterior, one per parameter."""
        priors, shape = inputs.priors, posterior.gene_loc.shape
        n = shape[-1]
        parts = (posterior.gene_loc.reshape(-1, n), posterior.gene_tril.reshape(-1, n, n))
        gene = CoupledNormal(*parts, posterior.gene_factor.reshape(len(parts[0]), n, -1), detached=detached)
        glob, cell = posterior.global_loc, posterior.cell_loc
        gene = _auxiliary("_gene", gene).reshape(shape)
        if glob.size:
            glob = _auxiliary("_global", _Normal(glob, posterior.global_scale, detached=detached).to_event(1))
        if cell.size:
            with _cells(inputs):
                cell = _auxiliary("_cell", _Normal(cell, posterior.cell_scale, detached=detached))
        for site, z in self.untie(self.split(gene, glob, cell)).items():
            transform = self.transform(site, priors)
            value = transform(z)
            density = -transform.log_abs_det_jacobian(z, value)
            if site in self.config.cell_sites:
                with _cells(inputs):
                    numpyro.sample(site, dist.Delta(value, density))
                continue
            numpyro.sample(site, dist.Delta(value, density.sum(), event_dim=value.ndim))

    def untie(self, z: dict[str, Array]) -> dict[str, Array]:
        """Coordinates of the parameters from those of the posterior.

        Without capture, ``standard`` has r and p tied along the ridge of equal expected total; the posterior's own
        coordinate is that total, ln(p/(1-p)) + ln sum(r), which is nearly independent of r.
        """
        if self.config.parameterization == "standard" and "p" in z:
            log_r = jax.scipy.special.logsumexp(z["r"], -1)
            log_r = log_r.reshape(len(log_r), -1).mean(1)  # over components
            return z | {"p": z["p"] - (log_r if log_r.shape == z["p"].shape else log_r.mean())}
        return z

    def rescale(self, z: dict[str, Array], step: Array) -> dict[str, Array]:
        """Coordinates with each copy of mu times ``exp(step)`` and, where it sets r, the shared odds with it: r stays.

        The counts do not change if nu is divided by as much (see ``ModelConfig.free_scale``).
        """
        moved = {"mu": z["mu"] + step[(...,) + (None,) * (z["mu"].ndim - step.ndim)]}
        for site in self.config.global_sites:
            moved[site] = z[site] + (step if site == "p" else -step)
        return z | moved

    def shape(self, site: str, inputs: Inputs) -> tuple[int, ...]:
        """Shape of a sampled parameter."""
        if site in self.config.cell_sites:
            return inputs.batch.shape
        copies = self.config.copies(site)
        return (copies, *inputs.start.gene_loc.shape[:-1]) if site in self.config.gene_sites else (copies,)

    def log_prior(self, z: dict[str, Array], priors) -> dict[str, Array]:
        """Log prior density of unconstrained coordinates, by parameter and element."""
        result = {}
        for site, value in z.items():
            if self.config.unconstrained:
                result[site] = priors[site].log_prob(value)
            else:
                transform = self.transform(site, priors)
                x = transform(value)
                result[site] = priors[site].log_prob(x) + transform.log_abs_det_jacobian(value, x)
        return result


class _Normal(dist.Normal):
    """Independent normals whose density, where ``detached``, has constant parameters (see CoupledNormal)."""

    pytree_aux_fields = ("detached",)

    def __init__(self, loc, scale, *, detached: bool = False, validate_args=None) -> None:
        self.detached = detached
        super().__init__(loc, scale, validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        if self.detached:
            return dist.Normal(*jax.lax.stop_gradient((self.loc, self.scale))).log_prob(value)
        return super().log_prob(value)


def _auxiliary(name: str, fn: dist.Distribution) -> Array:
    return numpyro.sample(name, fn, infer={"is_auxiliary": True})


@contextmanager
def _cells(inputs: Inputs) -> Iterator[None]:
    """Statements of one parameter per cell; cells that stand for others count for them, too."""
    weight = 1.0 if inputs.weight is None else inputs.weight
    with numpyro.plate("cells", inputs.batch.shape[0]), numpyro.handlers.scale(scale=weight):
        yield
