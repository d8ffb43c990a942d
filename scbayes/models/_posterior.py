"""The approximate posterior as arrays: normal on log and logit coordinates."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Posterior(NamedTuple):
    """Normal distributions of all sampled parameters on their unconstrained coordinates (log or logit).

    Attributes
    ----------
    gene_loc, gene_tril, gene_factor
        Parameters of :class:`~scbayes.models._coupled_normal.CoupledNormal`: shapes ``(n_genes, K)``,
        ``(n_genes, K, K)`` and ``(n_genes, K, Q)``. The K coordinates are those of ``Model.columns``.
    global_loc, global_scale
        Shape ``(n_global,)``: one per global parameter and batch that has its own.
    cell_loc, cell_scale
        Shape ``(n_cells,)`` with capture, else ``(0,)``.
    """

    gene_loc: Array
    gene_tril: Array
    gene_factor: Array
    global_loc: Array
    global_scale: Array
    cell_loc: Array
    cell_scale: Array


def no_change(start: Posterior) -> dict[str, Array]:
    """Parameters of the guide that leave ``start`` as it is."""
    return {
        "gene_loc": jnp.zeros_like(start.gene_loc),
        "gene_tril": jnp.zeros_like(start.gene_tril),
        "gene_factor": jnp.zeros_like(start.gene_factor[0, 0]),
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
    return Posterior(
        gene_loc=start.gene_loc + jnp.einsum("gkl,gl->gk", start.gene_tril, change["gene_loc"]),
        gene_tril=jnp.einsum("gkl,glm->gkm", start.gene_tril, tril),
        gene_factor=start.gene_factor * jnp.exp(change["gene_factor"]),
        global_loc=start.global_loc + start.global_scale * change["global_loc"],
        global_scale=start.global_scale * jnp.exp(change["global_scale"]),
        cell_loc=start.cell_loc + start.cell_scale * change["cell_loc"],
        cell_scale=start.cell_scale * jnp.exp(change["cell_scale"]),
    )
