"""A fit in memory: what tl computes, get reads, and AnnData stores."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models import Model, ModelConfig
from scbayes.models._draws import Draw, Law, centre, draws
from scbayes.models._marginals import Marginal, Total, canonical_marginals, component_alone, sampled_marginals
from scbayes.models._posterior import Posterior

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Fit:
    """One fitted model.

    Attributes
    ----------
    key
        Name under which it is stored.
    config
        The model.
    priors
        Prior of each sampled parameter, those learned from the data included (numpyro distributions).
    posterior
        Normal distributions on log and logit coordinates, of the genes in ``genes`` and the cells in ``cells``.
    total
        Total of the abundance over all genes that were fitted; in a mixture one per component, on a first axis.
    links
        Distribution of each sampled parameter: normal on the ``"log"`` or ``"logit"`` scale, or ``"beta"``.
    genes, cells
        Names.
    fitted
        Which of ``genes`` were fitted on their own, bool; the others were pooled into one.
    rest
        The pooled gene's ``loc``, ``tril``, ``factor`` side by side, ``(K, 1 + K + Q)`` (in a mixture with a first
        axis of components); no columns without one.
    batch
        Batch of each cell, integers.
    losses
        Loss of each step, nats.
    facts
        What was run and how it went: inputs, settings, versions, convergence (plain values).
    slots
        Where AnnData holds it: name of the part -> slot.
    """

    key: str
    config: ModelConfig
    priors: dict
    posterior: Posterior
    total: Total
    links: dict[str, str]
    genes: np.ndarray
    cells: np.ndarray
    fitted: np.ndarray
    rest: np.ndarray
    batch: np.ndarray
    losses: np.ndarray
    facts: dict
    slots: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Tells a fit from others: a hash of its settings, of its data, and of how it went."""
        text = json.dumps([self.config.to_json(), self.facts])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def model(self) -> Model:
        """The model: its NumPyro program and guide."""
        return Model.of(self.config)

    @property
    def converged(self) -> bool:
        """Whether the optimisation met its criterion."""
        return bool(self.facts["convergence"]["converged"])

    @cached_property
    def sampled(self) -> dict[str, Marginal]:
        """Posterior of each sampled parameter."""
        return sampled_marginals(self.config, self.posterior, self.links)

    @cached_property
    def canonical(self) -> dict[str, Marginal]:
        """Posterior of p, r, mu, gate, nu, odds and composition, whichever of them the model has."""
        return canonical_marginals(
            self.config,
            self.posterior,
            self.total,
            self.links,
            np.log(self.facts["total_mrna"]["median"]),
            self.facts["total_mrna"]["log_sd"],
            self.batch,
        )

    @property
    def sampled_parameters(self) -> dict[str, Marginal]:
        """Posterior of each sampled parameter itself: where its coordinate is another's, as derived."""
        return {site: self.canonical[site] for site in self.sampled}

    @property
    def whole(self) -> bool:
        """Whether all genes that were fitted are here, the pooled one included."""
        pooled = self.rest.shape[-1] > 0
        return len(self.genes) == self.facts["n_genes"] if pooled else int(self.fitted.sum()) == self.facts["n_genes"]

    @property
    def law(self) -> Law:
        """What draws are made from: the genes that were fitted on their own, last the pooled one if all are here."""
        posterior = self.posterior
        if self.whole and self.rest.shape[-1]:
            posterior = _with_pooled(posterior, self.rest)
        mrna = self.facts["total_mrna"]
        log_mrna = float(np.log(mrna["median"])), float(mrna["log_sd"])
        totals = [self.total]
        if self.config.mixture:
            totals = [Total(*[part[k] for part in self.total]) for k in range(self.config.n_components)]
        return Law(self.model, posterior, self.priors, totals, self.whole, log_mrna, self.batch)

    def centre(self) -> Draw:
        """All parameters at the centre of the posterior: the median of each (see ``law`` for the genes)."""
        return centre(self.law)

    def draws(self, n: int, rng: np.random.Generator) -> Iterator[Draw]:
        """``n`` draws of all parameters, made one at a time (see ``law`` for the genes)."""
        return draws(self.law, n, rng)

    @property
    def components(self) -> list[str]:
        """Names of the components of a mixture."""
        return list(self.facts["components"]["names"]) if self.config.mixture else []

    def component(self, k: int) -> "Fit":
        """The fit of one component alone, without a mixture."""
        posterior, total = component_alone(self.config, self.posterior, self.total, k)
        facts = {name: value for name, value in self.facts.items() if name != "components"}
        facts["priors"] = {site: prior for site, prior in facts["priors"].items() if site != "weights"}
        priors = {site: prior for site, prior in self.priors.items() if site != "weights"}
        own = {"posterior": posterior, "config": self.config.plain, "total": total, "rest": self.rest[k]}
        return replace(self, **own, facts=facts, priors=priors)

    def to_anndata(self) -> "AnnData":
        """The fit without its cells, to store or to give away: pass it as ``reference`` with other cells."""
        from anndata import AnnData

        from scbayes.state._write import write_fit

        batch_key, none = self.facts["batch_key"], slice(0)
        obs = pd.DataFrame({} if batch_key is None else {batch_key: []}, index=pd.Index([], dtype=object))
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        empty = AnnData(np.zeros((0, len(self.genes)), np.float32), obs=obs, var=var)
        posterior = self.posterior
        cells = {name: getattr(posterior, name) for name in ("cell_loc", "cell_scale", "responsibilities")}
        cells = {name: None if value is None else value[none] for name, value in cells.items()}
        posterior = posterior._replace(**cells)
        write_fit(empty, replace(self, posterior=posterior, cells=self.cells[none], batch=self.batch[none]))
        return empty

    def squeeze(self, name: str, value: np.ndarray) -> np.ndarray:
        """``value`` of a parameter without the axis of batches, where they share it."""
        value = np.asarray(value)
        marginal = self.canonical[name]
        return value[0] if marginal.axis != "cell" and np.shape(marginal.loc)[0] == 1 else value

    def __str__(self) -> str:
        facts = self.facts
        source = "X" if facts["layer"] is None else f"layers[{facts['layer']!r}]"
        batches = (
            "" if facts["batch_key"] is None else f", {self.config.n_batches} batches of obs[{facts['batch_key']!r}]"
        )
        own = "" if not self.config.per_batch else f"; per batch: {', '.join(self.config.per_batch)}"
        lines = [
            f"scbayes fit {self.key!r}: {self.config.model}, {self.config.parameterization}"
            + (f", {self.config.n_components} components" if self.config.mixture else "")
            + (" (unconstrained)" if self.config.unconstrained else "")
            + own,
            f"    counts       {source}, {facts['n_cells']} cells x {facts['n_genes']} genes{batches}",
            *(
                [f"    ambient      as {facts['ambient']['key']!r} of sb.tl.denoise has it"]
                if "ambient" in facts
                else []
            ),
            *([f"    added        {', '.join(map(str, facts['added']))} cells later"] if "added" in facts else []),
            f"    here         {len(self.cells)} cells, {len(self.genes)} genes ({int(self.fitted.sum())} fitted)",
            f"    convergence  {_how_it_went(facts)}",
            "    priors       " + ", ".join(f"{name} ~ {_describe(prior)}" for name, prior in facts["priors"].items()),
            "    slots        " + ", ".join(sorted(set(self.slots.values()))),
        ]
        if self.config.capture:
            mrna = facts["total_mrna"]
            spread = f", log sd {mrna['log_sd']:g}" if mrna["log_sd"] else ""
            moving = [name for name, marginal in self.canonical.items() if not marginal.identified]
            lines.insert(
                -1,
                f"    scale        {', '.join(moving)} move with the total mRNA per cell, {mrna['median']:g}{spread}",
            )
        return "\n".join(lines)

    __repr__ = __str__


def _how_it_went(facts: dict) -> str:
    """The verdict on the posterior, in words."""
    how, k_hat = facts["convergence"], facts.get("k_hat")
    if facts.get("method") == "laplace":
        return "Laplace's approximation" + ("" if how["converged"] else ", components NOT settled")
    if facts.get("method") == "nuts":
        mcmc = facts["mcmc"]
        r_hat = max(of["r_hat"] for name, of in mcmc["agreement"].items() if name not in ("gene", "cell"))
        verdict = "chains agree" if how["converged"] else "chains do NOT agree: draw more with n_samples="
        diverged = f", {mcmc['n_divergent']} diverged" if mcmc["n_divergent"] else ""
        return f"{verdict}, R-hat {r_hat:.3f}; {how['n_steps']} draws of {mcmc['n_chains']} chains{diverged}"
    goes_on = "raise n_steps" if "ambient" in facts else "fit(..., resume=True) goes on"
    state = "converged" if how["converged"] else f"NOT converged: {goes_on}"
    rejected = f", {how['n_rejected']} steps rejected" if how["n_rejected"] else ""
    level = "no finite loss"
    if how["loss"] is not None:
        level = f"loss {how['loss_per_entry']:.6f} nats per cell and gene"
    change = "" if how["drift"] is None else f", last change {how['drift']:.3g} nats"
    normal = f"; k-hat {k_hat['median']:.2f}, {k_hat['above_0.7']:.1%} of genes above 0.7" if k_hat else ""
    return f"{state}, {how['n_steps']} steps{rejected}; {level}{change}{normal}"


def split_pooled(posterior: Posterior) -> tuple[Posterior, np.ndarray]:
    """``posterior`` without its last gene, into which others were pooled, and that gene's arrays as in ``Fit.rest``."""
    loc, tril, factor = posterior.gene_loc, posterior.gene_tril, posterior.gene_factor
    rest = np.concatenate([loc[..., -1, :, None], tril[..., -1, :, :], factor[..., -1, :, :]], -1)
    kept = {"gene_loc": loc[..., :-1, :], "gene_tril": tril[..., :-1, :, :], "gene_factor": factor[..., :-1, :, :]}
    return posterior._replace(**kept), rest


def _with_pooled(posterior: Posterior, rest: np.ndarray) -> Posterior:
    """``posterior`` with the gene into which others were pooled, as the last one."""
    n, q = posterior.gene_loc.shape[-1], posterior.gene_factor.shape[-1]
    parts = rest[..., 0], rest[..., 1 : 1 + n], rest[..., 1 + n : 1 + n + q]
    names = ("gene_loc", "gene_tril", "gene_factor")
    axis = {"gene_loc": -2, "gene_tril": -3, "gene_factor": -3}
    genes = {
        name: np.concatenate([getattr(posterior, name), np.expand_dims(part, axis[name])], axis[name])
        for name, part in zip(names, parts, strict=True)
    }
    return posterior._replace(**genes)


def _describe(prior: dict) -> str:
    of = [np.ravel(value) for name, value in prior.items() if name != "family"]
    values = ", ".join(f"{value:.3g}" for value in np.concatenate(of))
    return f"{prior['family']}({values})"
