"""The approximate posterior as arrays: normal on log and logit coordinates."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Posterior(NamedTuple):
    """Normal distributions of all sampled parameters on their unconstrained coordinates (log or logit).

    Attributes
    ----------
    gene_loc, gene_tril, gene_factor
        Parameters of :class:`~scbayes.models._coupled_normal.CoupledNormal`: shapes ``(n_genes, K)``,
        ``(n_genes, K, K)`` and ``(n_genes, K, Q)``. The K coordinates are those of ``Model.columns``. Mixtures have a
        first axis of components.
    global_loc, global_scale
        Shape ``(n_global,)``: one per global parameter and batch that has its own.
    cell_loc, cell_scale
        Shape ``(n_cells,)`` with capture, else ``(0,)``.
    weights
        Dirichlet concentrations of the weights of the components, ``(n_components,)``; none without a mixture.
    responsibilities
        Probability of each component given the cell, ``(n_cells, n_components)``; none without a mixture.
    """

    gene_loc: Array
    gene_tril: Array
    gene_factor: Array
    global_loc: Array
    global_scale: Array
    cell_loc: Array
    cell_scale: Array
    weights: Array = np.zeros(0)
    responsibilities: Array = np.zeros((0, 0))

    def component(self, k: int) -> "Posterior":
        """That of one component alone."""
        genes = {name: getattr(self, name)[k] for name in ("gene_loc", "gene_tril", "gene_factor")}
        return self._replace(**genes, weights=np.zeros(0), responsibilities=np.zeros((0, 0)))


def no_change(start: Posterior) -> dict[str, Array]:
    """Parameters of the guide that leave ``start`` as it is."""
    return {
        "gene_loc": jnp.zeros_like(start.gene_loc),
        "gene_tril": jnp.zeros_like(start.gene_tril),
        "gene_factor": jnp.zeros(start.gene_factor.shape[-1]),
        "global_loc": jnp.zeros_like(start.global_loc),
        "global_scale": jnp.zeros_like(start.global_scale),
        "cell_loc": jnp.zeros_like(start.cell_loc),
        "cell_scale": jnp.zeros_like(start.cell_scale),
    }


def moved(start: Posterior, change: dict[str, Array]) -> Posterior:
    """``start`` moved by ``change``, which is measured in standard deviations of ``start``: all steps are of one size.

    How genes answer to a shared scalar follows from the likelihood; only that scalar's width changes.
    """
    own = change["gene_tril"]
    diagonal = jnp.exp(jnp.diagonal(own, axis1=-2, axis2=-1))
    tril = jnp.tril(own, -1) + jnp.eye(own.shape[-1]) * diagonal[..., None, :]
    return start._replace(
        gene_loc=start.gene_loc + jnp.einsum("...kl,...l->...k", start.gene_tril, change["gene_loc"]),
        gene_tril=jnp.einsum("...kl,...lm->...km", start.gene_tril, tril),
        gene_factor=start.gene_factor * jnp.exp(change["gene_factor"]),
        global_loc=start.global_loc + start.global_scale * change["global_loc"],
        global_scale=start.global_scale * jnp.exp(change["global_scale"]),
        cell_loc=start.cell_loc + start.cell_scale * change["cell_loc"],
        cell_scale=start.cell_scale * jnp.exp(change["cell_scale"]),
    )
