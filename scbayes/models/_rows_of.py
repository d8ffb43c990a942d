"""Rows of a table for each cell."""

import jax.numpy as jnp
from jax import Array


def rows_of(table: Array, weight: Array) -> Array:
    """Row of ``table`` ``(n, n_genes)`` that each cell has: ``weight @ table``, with indicators ``(B, n)`` as weights.

    As a matrix product, its gradient is one, too: the sum over cells that indexing gives is several times slower.
    """
    return jnp.matmul(weight, table, precision="highest")
