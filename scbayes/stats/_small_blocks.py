"""Linear algebra on many small blocks at once, unrolled over their size: faster than one LAPACK call per block."""

import jax.numpy as jnp
from jax import Array


def solve_lower(tril: Array, value: Array) -> Array:
    """Solve ``tril[g] x[..., g] = value[..., g]`` by forward substitution: shapes ``(n, K, K)`` and ``(..., n, K)``."""
    solved: list[Array] = []
    for k in range(tril.shape[-1]):
        known = sum(tril[..., k, j] * solved[j] for j in range(k))
        solved.append((value[..., k] - known) / tril[..., k, k])
    return jnp.stack(solved, -1)


def solve_upper(tril: Array, value: Array) -> Array:
    """Solve ``tril[g].T x[g] = value[g]`` by back substitution."""
    size = tril.shape[-1]
    solved: list[Array] = [value] * size
    for k in reversed(range(size)):
        known = sum(tril[..., j, k] * solved[j] for j in range(k + 1, size))
        solved[k] = (value[..., k] - known) / tril[..., k, k]
    return jnp.stack(solved, -1)


def cholesky(matrix: Array, smallest: float = 0.0) -> Array:
    """Lower Cholesky factors ``(n, K, K)`` of symmetric blocks; pivots are made positive and at least ``smallest``."""
    size = matrix.shape[-1]
    entry: dict[tuple[int, int], Array] = {}
    for j in range(size):
        pivot = matrix[:, j, j] - sum(entry[j, k] ** 2 for k in range(j))
        entry[j, j] = jnp.sqrt(jnp.maximum(jnp.abs(pivot), smallest))
        for i in range(j + 1, size):
            entry[i, j] = (matrix[:, i, j] - sum(entry[i, k] * entry[j, k] for k in range(j))) / entry[j, j]
    zero = jnp.zeros_like(matrix[:, 0, 0])
    return jnp.stack([jnp.stack([entry.get((i, j), zero) for j in range(size)], -1) for i in range(size)], -2)


def inverse(tril: Array) -> Array:
    """Inverses of the blocks whose lower Cholesky factors are ``tril``."""
    columns = [solve_upper(tril, solve_lower(tril, column)) for column in _unit_vectors(tril)]
    return jnp.stack(columns, -1)


def _unit_vectors(tril: Array) -> list[Array]:
    return [jnp.zeros_like(tril[..., 0]).at[..., k].set(1.0) for k in range(tril.shape[-1])]
