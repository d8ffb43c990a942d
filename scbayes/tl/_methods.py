"""From where a fit starts to its posterior: by optimisation, by Laplace's approximation, or by Markov chains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts, Past, Summary
from scbayes.inference import TOLERANCE, WINDOW, Progress, prepare, run_chains, train
from scbayes.models._at_posterior import exact, log_nu, view
from scbayes.models._drawn import Drawn
from scbayes.models._evidence import Evidence
from scbayes.models._gauge import at_total
from scbayes.models._model import Inputs, Model
from scbayes.models._moving_cells import moving_cells
from scbayes.models._past import past_of, shift_between
from scbayes.models._posterior import Posterior, moved, no_change
from scbayes.models._refine import refine
from scbayes.models._warm_start import Start
from scbayes.models._whitened import Energy, Target, n_coordinates, whiten

METHODS = ("svi", "laplace", "nuts")
#: Cells up to this number are each on their own.
ENOUGH = 200_000
#: Markov chains, and what they take to find their step size.
N_CHAINS, N_WARMUP = 2, 200
#: Bytes of draws that are refused.
MOST = 2e9
#: Chains whose scalars have R-hat below this agree.
AGREE = 1.01


class Settings(NamedTuple):
    """How to find the posterior; see :func:`scbayes.tl.fit`."""

    method: str
    optimizer: object
    loss: object
    n_steps: int
    n_samples: int
    stable_update: bool
    progress: bool


class Data(NamedTuple):
    """Counts and their summary.

    Attributes
    ----------
    stands_for
        Which cell of the summary each cell is, where cells that are alike are one; else None.
    """

    counts: Counts
    summary: Summary
    stands_for: np.ndarray | None = None

    def of_all(self, posterior: Posterior) -> Posterior:
        """The posterior with all cells."""
        if self.stands_for is None:
            return posterior
        cells = {name: getattr(posterior, name)[self.stands_for] for name in ("cell_loc", "cell_scale")}
        return posterior._replace(**cells)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.summary.n_cells if self.stands_for is None else len(self.stands_for)


def alike(model: Model, data: Data, settings: Settings) -> Data:
    """The data with cells of equal batch and total put together, if there are many and the model sees them alike.

    Some are kept apart: those together share the noise of stochastic optimisation.
    """
    most = -(-data.summary.n_cells // ENOUGH)
    seen = settings.method != "nuts" and not model.config.mixture and model.config.capture and exact(model)
    return Data(data.counts, *data.summary.alike(most)) if seen and most > 1 else data


class Found(NamedTuple):
    """A posterior and how it was found.

    Attributes
    ----------
    losses
        Of each step in nats: minus the ELBO, or the energy of each draw.
    facts
        What to record.
    unfinished
        Arrays with which the optimisation can go on; none if it is done.
    drawn
        Draws of Markov chains.
    past
        The cells as genes see them, where the summary alone does not say (see :class:`scbayes.counts.Past`).
    """

    posterior: Posterior
    losses: np.ndarray
    facts: dict
    unfinished: tuple = ()
    interrupted: bool = False
    drawn: Drawn | None = None
    past: Past | None = None


def compile_ahead(model: Model, outline: Start, data: Data, mrna: float, seed: int, settings: Settings) -> None:
    """Start to compile what optimisation will need."""
    prepare(
        model.program,
        model.guide,
        inputs_of(outline, data, mrna),
        no_change(outline.posterior),
        optimizer=settings.optimizer,
        loss=settings.loss,
        stable_update=settings.stable_update,
        key=jax.random.key(seed),
    )


def optimise(
    model: Model,
    start: Start,
    data: Data,
    facts: dict,
    settings: Settings,
    progress: Progress | None = None,
    losses: np.ndarray | None = None,
) -> Found:
    """Variational inference from ``start``, then the genes' own moments."""
    mrna, n_latent = facts["total_mrna"]["median"], _n_latent(start.posterior, data)
    training = train(
        model.program,
        model.guide,
        inputs_of(start, data, mrna),
        no_change(start.posterior),
        optimizer=settings.optimizer,
        loss=settings.loss,
        n_steps=settings.n_steps,
        n_latent=n_latent,
        key=jax.random.key(facts["seed"]),
        stable_update=settings.stable_update,
        progress=progress,
        losses=losses,
        show=settings.progress,
    )
    posterior = finite(moved(start.posterior, training.params))
    unfinished = ()
    if not training.converged:
        unfinished = tuple(np.asarray(leaf) for leaf in jax.tree.leaves((start.posterior, training.progress)))
    refined = refine(model, data.counts, data.summary, start.priors, posterior, np.log(mrna))
    how = {
        "converged": training.converged,
        "interrupted": training.interrupted,
        "n_steps": len(training.losses),
        "n_rejected": training.n_rejected,
        "drift": training.drift if np.isfinite(training.drift) else None,
        "window": WINDOW,
        "tolerance": TOLERANCE * n_latent,
    }
    more = {"convergence": how | _level(training.losses, data, n_latent), "k_hat": _describe_k_hat(refined.k_hat)}
    found = at_total(model, refined.posterior, start.priors, np.log(mrna), data.summary.batch)
    if refined.evidence is None:
        past = _past(model, data, start.evidence, start.posterior, found, start.priors)
    else:
        past = _past(model, data, refined.evidence, posterior, found, start.priors)
    return Found(data.of_all(finite(found)), training.losses, more, unfinished, training.interrupted, past=past)


def approximate(model: Model, start: Start, data: Data, facts: dict, settings: Settings) -> Found:
    """Laplace's approximation, which ``start`` is."""
    n_latent = _n_latent(start.posterior, data)
    how = {"converged": start.settled, "interrupted": False, "n_steps": 0, "n_rejected": 0, "drift": None}
    how |= {"window": WINDOW, "tolerance": TOLERANCE * n_latent}
    losses = np.zeros(0)
    log_mrna = np.log(facts["total_mrna"]["median"])
    found = at_total(model, start.posterior, start.priors, log_mrna, data.summary.batch)
    past = _past(model, data, start.evidence, start.posterior, found, start.priors)
    return Found(data.of_all(finite(found)), losses, {"convergence": how | _level(losses, data, n_latent)}, past=past)


def sample(model: Model, start: Start, data: Data, facts: dict, settings: Settings) -> Found:
    """Markov chains on the joint density of all coordinates."""
    posterior, counts, log_mrna = start.posterior, start.evidence, np.log(facts["total_mrna"]["median"])
    n_latent = n_coordinates(posterior)
    if (size := 8 * n_latent * settings.n_samples) > MOST:
        msg = (
            f"{settings.n_samples} draws of {n_latent} numbers take {size / 1e9:.1f} GB, and more than "
            f"{MOST / 1e9:g} GB are not made: lower n_samples, or fit fewer genes with mask_var="
        )
        raise ValueError(msg)
    if not exact(model):
        at = view(model, data.counts, data.summary, start.priors, posterior, log_mrna)
        counts = moving_cells(at.evidence, data.counts, at.cells, gate=model.config.gate)
    whitening = whiten(model, posterior, start.priors, data.summary.batch)
    target = Target(counts, start.priors, jnp.asarray(log_mrna), whitening)
    chains = run_chains(
        Energy(model),
        target,
        n_latent,
        n_draws=-(-settings.n_samples // N_CHAINS),
        n_warmup=N_WARMUP,
        n_chains=N_CHAINS,
        seed=facts["seed"],
        show=settings.progress,
    )
    if chains.draws.shape[1] < 4:
        raise KeyboardInterrupt("the chains were stopped before they had draws: nothing is stored")
    drawn = Drawn(model, target, chains.draws, data.summary.batch)
    agreement = drawn.diagnostics(model, chains.energy)
    worst = max(agreement[name]["r_hat"] for name in ("energy", "log_total", "global") if name in agreement)
    losses = chains.energy.ravel()
    how = {"converged": worst < AGREE, "interrupted": chains.interrupted, "n_steps": len(losses), "n_rejected": 0}
    how |= {"drift": None, "window": WINDOW, "tolerance": TOLERANCE * n_latent}
    mcmc = {
        "n_chains": N_CHAINS,
        "n_warmup": N_WARMUP,
        "n_divergent": chains.n_divergent,
        "n_gradients": chains.n_steps,
        "step_size": [float(size) for size in chains.step_size],
        "accepted": [float(rate) for rate in chains.accepted],
        "agreement": agreement,
    }
    more = {"convergence": how | _level(losses, data, n_latent), "mcmc": mcmc}
    found = at_total(model, drawn.posterior(model, posterior), start.priors, log_mrna, data.summary.batch)
    past = _past(model, data, start.evidence, start.posterior, found, start.priors)
    return Found(finite(found), losses, more, drawn=drawn, interrupted=chains.interrupted, past=past)


def inputs_of(start: Start, data: Data, mrna: float) -> Inputs:
    """What program and guide are given."""
    log_mrna, batch = jnp.asarray(np.log(mrna)), jnp.asarray(data.summary.batch)
    weight = None if data.stands_for is None else jnp.asarray(data.summary.weight)
    return Inputs(start.evidence, start.priors, log_mrna, batch, start.posterior, weight)


def finite(posterior: Posterior) -> Posterior:
    """The posterior as NumPy arrays, which must be finite."""
    posterior = Posterior(*[np.asarray(part) for part in posterior])
    if not all(np.isfinite(part).all() for part in posterior):
        msg = "the optimisation ran to values that are not finite: use a smaller step (and keep stable_update=True)"
        raise FloatingPointError(msg)
    return posterior


def _past(
    model: Model, data: Data, evidence: Evidence, there: Posterior, found: Posterior, priors: dict
) -> Past | None:
    """Past cells for later: those of ``evidence``, projected at ``there``, on the scale of what was found."""
    if exact(model) or model.config.mixture:
        return None
    before, after = (log_nu(model, posterior, priors)[0] for posterior in (there, found))
    return past_of(evidence, data.summary, shift_between(before, after, data.summary.batch, data.summary.n_batches))


def _n_latent(posterior: Posterior, data: Data) -> int:
    """Number of latent numbers, of all cells."""
    return n_coordinates(posterior) - len(posterior.cell_loc) + (data.n_cells if len(posterior.cell_loc) else 0)


def _level(losses: np.ndarray, data: Data, n_latent: int) -> dict:
    """Mean loss of the last window, and sizes to compare it with."""
    last = losses[-WINDOW:][np.isfinite(losses[-WINDOW:])]
    level = float(last.mean()) if last.size else None
    entries = data.summary.group_cells.sum() * data.summary.n_genes
    return {"loss": level, "loss_per_entry": None if level is None else level / entries, "n_latent": int(n_latent)}


def _describe_k_hat(k_hat: np.ndarray | None) -> dict | None:
    """How far from normal the genes' posteriors are: Pareto k-hat over the genes."""
    if k_hat is None:
        return None
    median, high = np.quantile(k_hat, [0.5, 0.95])
    return {"median": float(median), "q95": float(high), "above_0.7": float(np.mean(k_hat > 0.7)), "n": len(k_hat)}
