"""A posterior from draws: its moments in the form of every other fit, and what tells whether chains agree."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from scipy.special import logsumexp

from scbayes.models._draws import Draw, Law, assemble
from scbayes.models._marginals import total_abundance
from scbayes.models._model import Model
from scbayes.models._posterior import Posterior
from scbayes.models._whitened import Target, coordinates
from scbayes.stats._small_blocks import cholesky


class Drawn:
    """Draws of all coordinates: ``gene`` (n_chains, n_draws, n_genes, K), ``glob`` and ``cell`` likewise, float32.

    Where counts do not know the scale of mu, each draw has it at the total mRNA (see :mod:`scbayes.models._gauge`).
    """

    def __init__(self, model: Model, target: Target, positions: np.ndarray, batch: np.ndarray) -> None:
        @jax.jit
        def at(position):
            gene, glob, cell = coordinates(target.whitening, position.astype(float))
            if not model.config.free_scale:
                return gene, glob, cell
            z = model.split(gene, glob, cell)
            step = target.log_mrna - jax.scipy.special.logsumexp(z["mu"], -1)
            z = model.rescale(z, step)
            nu = model.transform("nu", target.priors)
            cell = nu.inv(nu(cell) * jnp.exp(-step[batch if len(step) > 1 else 0]))
            glob = jnp.concatenate([z[site] for site in model.config.global_sites] or [glob])
            return gene.at[:, : len(step)].set(z["mu"].T), glob, cell

        found = [at(jnp.asarray(position)) for position in positions.reshape(-1, positions.shape[-1])]
        parts = [np.stack([np.asarray(part, np.float32) for part in parts]) for parts in zip(*found, strict=True)]
        lead = positions.shape[:2]
        self.gene, self.glob, self.cell = (part.reshape(lead + part.shape[1:]) for part in parts)

    def posterior(self, model: Model, around: Posterior) -> Posterior:
        """Normals of the draws' moments; genes answer to what they share as in ``around``."""
        gene = _joined(self.gene)
        loc = gene.mean(0)
        covariance = np.einsum("sgk,sgl->gkl", gene - loc, gene - loc) / (len(gene) - 1)
        if model.config.free_scale:
            free = _freed(loc, covariance, model.config.copies("mu"))
            covariance = covariance * free[:, :, None] * free[:, None, :]
        factor = np.asarray(around.gene_factor)
        if model.n_factors:
            here = self.log_total(model).std((0, 1), ddof=1)
            before = np.sqrt(total_abundance(model.config, around).variance)
            factor = factor * (here / before if len(here) == factor.shape[-1] else (here / before).mean())
        own = covariance - np.einsum("gkq,glq->gkl", factor, factor)
        tril = np.asarray(cholesky(jnp.asarray(own), float(1e-3 * np.sqrt(np.median(covariance[:, 0, 0])))))
        found = {"gene_loc": loc, "gene_tril": tril, "gene_factor": factor}
        for name, part in (("global", self.glob), ("cell", self.cell)):
            part = _joined(part)
            found |= {f"{name}_loc": part.mean(0), f"{name}_scale": part.std(0, ddof=1)}
        return around._replace(**found)

    def log_total(self, model: Model) -> np.ndarray:
        """Log of the sum over genes of the abundance, ``(n_chains, n_draws, copies)``."""
        return logsumexp(self.gene[..., : model.config.copies(model.abundance)].astype(float), 2)

    def diagnostics(self, model: Model, energy: np.ndarray) -> dict:
        """Split R-hat and effective sample size of scalars, and the worst and typical of genes and cells."""
        scalars = {"energy": energy[..., None], "log_total": self.log_total(model), "global": self.glob}
        many = {"gene": self.gene.reshape(*self.gene.shape[:2], -1), "cell": self.cell}
        found = {}
        for name, part in (scalars | many).items():
            if not part.shape[-1] or part.shape[1] < 4:
                continue
            r_hat, ess = split_gelman_rubin(part), effective_sample_size(part)
            found[name] = {"r_hat": float(np.max(r_hat)), "ess": float(np.min(ess))}
            if name in many:
                found[name] |= {"r_hat_q99": float(np.quantile(r_hat, 0.99)), "ess_median": float(np.median(ess))}
        return found

    def draws(self, law: Law, seed: int) -> Iterator[Draw]:
        """All parameters at each draw; ``seed`` is for the total mRNA, where it is uncertain."""
        rng = np.random.default_rng(seed)
        parts = [_joined(part) for part in (self.gene, self.glob, self.cell)]
        for gene, glob, cell in zip(*parts, strict=True):
            shift = law.log_mrna[1] * float(rng.standard_normal())
            yield assemble(law, gene, glob, cell, np.ones(1), np.zeros((len(law.total[0].loc), 1)), shift)


def _freed(loc: np.ndarray, covariance: np.ndarray, copies: int) -> np.ndarray:
    r"""By how much coordinates of genes spread more on their own than with the sum of mu held: ``(n_genes, K)``.

    A fit's genes are independent, and the composition's variance is :math:`v_g (1 - 2\rho_g) + \sum_h \rho_h^2 v_h`.
    """
    free = np.ones(loc.shape)
    for k in range(copies):
        held = covariance[:, k, k]
        share = np.exp(loc[:, k] - logsumexp(loc[:, k]))
        own = held
        for _ in range(5):
            own = np.clip((held - np.sum(share**2 * own)) / np.maximum(1 - 2 * share, 0.1), 0.5 * held, 4 * held)
        free[:, k] = np.sqrt(own / held)
    return free


def _joined(part: np.ndarray) -> np.ndarray:
    """Draws of all chains, one chain after the other, float64."""
    return part.reshape(part.shape[0] * part.shape[1], *part.shape[2:]).astype(float)
