r"""Cells whose counts are gone, seen by genes that have moved on.

What genes read of such cells are sums on nodes of :math:`\ln\nu` (see :class:`scbayes.counts.Past`), taken where the
cells were. When new cells move the genes, those of a batch follow together, by one shift :math:`\delta_b` of their
:math:`\ln\nu` at which their log likelihood

.. math::
    \sum_{m} \Big[N_{bm} Z(\tau_m + \delta_b) + \sum_g N_{bgm} A_g(\tau_m + \delta_b)
    + D_{bgm} E_g(\tau_m + \delta_b)\Big]

is highest, with the functions of :meth:`scbayes.models._likelihood.NegativeBinomialCounts.node_functions`. (Their
prior, learned and wide, does not pull them.)
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.counts import Past, Summary
from scbayes.models._evidence import Evidence
from scbayes.models._model import Model

#: Newton steps, and the longest of them (the total mRNA may be another by orders of magnitude).
N_STEPS, LONGEST = 12, 1.0


def place(model: Model, past: Past, points: Array, log_odds: Array | None, priors: dict, log_mrna: float) -> Past:
    """Past cells where they belong given the genes, at ``points`` (see ``Genes.points``) and ``log_odds``."""
    shift = np.asarray(_shift(model, past._replace(batch=None, cell_total=None), points, log_odds, priors, log_mrna))
    return past._replace(nodes=past.nodes + shift[:, None])


def beside(past: Past, log_nu: np.ndarray, cell_total: np.ndarray) -> Past:
    """Past cells on the scale of others, at ``log_nu``: both have the same nu for a count."""
    seen = cell_total > 0
    if not seen.any() or not past.cell_total.any():
        return past
    here = np.mean(log_nu[seen] - np.log(cell_total[seen]))
    mean = np.sum(past.node_cells * past.nodes) / past.node_cells.sum()
    there = mean - np.mean(np.log(np.maximum(past.cell_total, 0.5)))
    return past._replace(nodes=past.nodes + here - there)


@partial(jax.jit, static_argnames="model")
def _shift(model: Model, past: Past, points: Array, log_odds: Array | None, priors: dict, log_mrna) -> Array:
    batch = jnp.zeros(0, jnp.int32)

    def at(z: Array, shift: Array) -> Array:
        likelihood = model.likelihood(model.gene_values(z, priors), log_mrna, batch, log_odds)
        per_count, per_detection, all_zero = likelihood.node_functions(past.nodes + shift[:, None])
        found = jnp.sum(past.node_cells * all_zero) + jnp.sum(past.node_counts * per_count)
        return found if per_detection is None else found + jnp.sum(past.node_detected * per_detection)

    slope = jax.grad(lambda shift: jax.lax.map(lambda z: at(z, shift), points).mean())

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
