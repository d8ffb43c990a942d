"""Counts on the device as they are stored, made dense a few cells at a time inside compiled code."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import sparse


class DeviceCounts(NamedTuple):
    """CSR vectors on the device.

    Attributes
    ----------
    values, columns
        Counts above zero and their genes, row after row: uint16 (float32 where they are larger), and int32.
    start
        Where each row begins, ``(n_cells + 1,)``.
    gene
        ``arange(n_genes)``; its length is known to compiled code.
    place
        ``arange`` of the longest row.
    """

    values: Array
    columns: Array
    start: Array
    gene: Array
    place: Array

    @classmethod
    def of(cls, x: sparse.csr_array) -> "DeviceCounts":
        """Counts of a canonical CSR matrix."""
        if x.nnz > np.iinfo(np.int32).max:
            msg = f"{x.nnz} counts above zero are more than a device takes here: leave genes or cells out"
            raise ValueError(msg)
        longest = int(np.diff(x.indptr).max(initial=1))
        small = x.nnz == 0 or x.data.max() < 2**16
        values = np.append(x.data, 0).astype(np.uint16 if small else np.float32)  # one more: none is ever empty
        columns, start = np.append(x.indices, 0).astype(np.int32), x.indptr.astype(np.int32)
        return cls(*map(jnp.asarray, (values, columns, start)), jnp.arange(x.shape[1]), jnp.arange(longest))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.start.shape[0] - 1

    def rows(self, cells: Array) -> Array:
        """Counts of some cells, float32 ``(len(cells), n_genes)``."""
        first, n = self.start[cells], self.start[cells + 1] - self.start[cells]
        inside = self.place < n[:, None]
        at = jnp.where(inside, first[:, None] + self.place, 0)
        columns = jnp.where(inside, self.columns[at], len(self.gene))  # beyond the last gene: dropped
        return jax.vmap(self._row)(columns, self.values[at].astype(jnp.float32))

    def _row(self, columns: Array, values: Array) -> Array:
        return jnp.zeros(len(self.gene), jnp.float32).at[columns].set(values, mode="drop")
