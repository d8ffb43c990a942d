r"""Cells whose counts are gone, seen by genes that have moved on.

What genes read of such cells are sums on nodes of :math:`\ln\nu` (see :class:`scbayes.counts.Past`), taken where the
cells were. When new cells move the genes, those of a batch follow together, by one shift :math:`\delta_b` of their
:math:`\ln\nu` that maximises their likelihood and prior

.. math::
    \sum_{m} \Big[\sum_g N_{bgm} A_g(\tau_m + \delta_b) + D_{bgm} E_g(\tau_m + \delta_b)\Big]
    + N_{bm} Z(\tau_m + \delta_b) + N_b \ln p(\bar x_b + \delta_b)

with the functions of :meth:`scbayes.models._likelihood.NegativeBinomialCounts.node_functions`, and the prior at the
cells' mean (exact where it is normal in :math:`\ln\nu`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.counts import Past, Summary
from scbayes.models._cells import log_prior
from scbayes.models._evidence import Evidence
from scbayes.models._model import Model

#: Newton steps, and the longest of them.
N_STEPS, LONGEST = 6, 1.0


def place(model: Model, past: Past, points: Array, log_odds: Array | None, priors: dict, log_mrna: float) -> Past:
    """Past cells where they belong given the genes, at ``points`` (see ``Genes.points``) and ``log_odds``."""
    shift = np.asarray(_shift(model, past._replace(batch=None, cell_total=None), points, log_odds, priors, log_mrna))
    return past._replace(nodes=past.nodes + shift[:, None])


@partial(jax.jit, static_argnames="model")
def _shift(model: Model, past: Past, points: Array, log_odds: Array | None, priors: dict, log_mrna) -> Array:
    batch = jnp.zeros(0, jnp.int32)

    def at(z: Array, shift: Array) -> Array:
        likelihood = model.likelihood(model.gene_values(z, priors), log_mrna, batch, log_odds)
        per_count, per_detection, all_zero = likelihood.node_functions(past.nodes + shift[:, None])
        found = jnp.sum(past.node_cells * all_zero) + jnp.sum(past.node_counts * per_count)
        return found if per_detection is None else found + jnp.sum(past.node_detected * per_detection)

    def value(shift: Array) -> Array:
        prior = jax.vmap(log_prior, (0, None, None))(mean + shift, priors["nu"], model.config.unconstrained)
        return jax.lax.map(lambda z: at(z, shift), points).mean() + jnp.sum(n_cells * prior)

    n_cells = past.node_cells.sum(1)
    mean = jnp.sum(past.node_cells * past.nodes, 1) / jnp.maximum(n_cells, 1)
    slope = jax.grad(value)

    def step(_, shift: Array) -> Array:
        gradient, bend = jax.jvp(slope, (shift,), (jnp.ones_like(shift),))  # batches do not feel each other
        return shift + jnp.clip(jnp.where(bend < 0, gradient / -bend, 0.0), -LONGEST, LONGEST)

    return jax.lax.fori_loop(0, N_STEPS, step, jnp.zeros(len(past.nodes)))


def past_of(evidence: Evidence, summary: Summary, shift: np.ndarray) -> Past:
    """All cells of ``evidence``, those of the summary and its past ones, each batch moved by ``shift``."""
    before = [] if summary.past is None else [summary.past]
    batch, cell_total = (
        np.concatenate([getattr(part, name) for part in (*before, summary)]) for name in ("batch", "cell_total")
    )
    sums = (np.asarray(getattr(evidence, name)) for name in ("node_cells", "node_counts", "node_detected"))
    return Past(batch, cell_total, np.asarray(evidence.nodes) + shift[:, None], *sums)


def shift_between(before: np.ndarray, after: np.ndarray, batch: np.ndarray, n_batches: int) -> np.ndarray:
    """Mean movement of ln nu of each batch's cells; that of all where a batch has none."""
    moved = after - before
    n = np.bincount(batch, minlength=n_batches)
    mean = np.bincount(batch, moved, n_batches) / np.maximum(n, 1)
    return np.where(n > 0, mean, moved.mean())
