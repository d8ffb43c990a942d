"""What every function that reads a fit with a latent space needs: the fit, and what it is told of the cells."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from scbayes.models._latent_model import Inputs, LatentModel
from scbayes.state import LatentFit, Source, batch_codes, find_counts, read_latent_fit, stored_source
from scbayes.tl._latent_ambient import soup_codes
from scbayes.tl._latent_cells import LatentCells, latent_cells

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells that are encoded or decoded at a time.
BLOCK = 256


class Block(NamedTuple):
    """Some cells: their positions without repeats, and model inputs and q ``(B, D)`` of a fixed number of them."""

    cells: slice
    inputs: Inputs
    loc: jax.Array
    scale: jax.Array

    def cut(self, value) -> np.ndarray:
        """Rows ``(B, ...)`` of the cells, without repeats."""
        return np.asarray(value)[: self.cells.stop - self.cells.start]


class LatentReading(NamedTuple):
    """A fit, with the latent numbers of the cells of ``adata``, and what it is told of these cells."""

    fit: LatentFit
    cells: LatentCells

    @property
    def n_cells(self) -> int:
        return self.cells.n_cells

    @property
    def model(self) -> LatentModel:
        return self.fit.model

    def at(self, ids: np.ndarray, batch: int | None = None) -> Inputs:
        """Inputs of the model for some cells; as if they were of another batch, where one is given."""
        cells = self.cells.at(ids)
        if batch is not None:
            cells = cells._replace(batch=jnp.full_like(cells.batch, batch))
        return Inputs(self.fit.params, self.fit.fixed, cells)

    def blocks(self, size: int = BLOCK, batch: int | None = None) -> Iterator[Block]:
        """All cells, a fixed number at a time, so that code is compiled once."""
        for ids, cells in in_blocks(self.n_cells, size):
            loc, scale = jnp.asarray(self.fit.loc[ids]), jnp.asarray(self.fit.scale[ids])
            yield Block(cells, self.at(ids, batch), loc, scale)

    def select(self, index: np.ndarray) -> "LatentReading":
        """Some of the cells, by position or mask."""
        fit = replace(self.fit, cells=self.fit.cells[index], loc=self.fit.loc[index], scale=self.fit.scale[index])
        return LatentReading(fit, LatentCells(*[value[index] for value in self.cells]))

    def batch_codes(self, transform_batch) -> list[int | None]:
        """Codes of the batches that a user names: one, several, or None, the cells' own.

        Raises
        ------
        ValueError
            If there are no batches, or none of that name.
        """
        if transform_batch is None:
            return [None]
        one = isinstance(transform_batch, str) or not np.iterable(transform_batch)
        names = list(dict.fromkeys([transform_batch] if one else transform_batch))
        unknown = [name for name in names if str(name) not in self.fit.batches]
        if unknown or not names:
            known = f"its batches are {self.fit.batches}" if self.fit.batches else "it was fitted without batch_key"
            msg = f"transform_batch: {self.fit.key!r} does not know {unknown[:5]}; {known}"
            raise ValueError(msg)
        return [self.fit.batches.index(str(name)) for name in names]


def read_latent_with_counts(
    adata: "AnnData", key: str, *, reference: "AnnData | None" = None, layer: str | None = None
) -> LatentReading:
    """The fit under ``key``, and the cells of ``adata`` as it sees them.

    Parameters
    ----------
    reference
        Where the fit is, if ``adata`` has other cells, which are then encoded: genes are found by name.
    layer
        Layer of ``adata`` with the counts. Default: that of the fit; of new cells, as ``tl.fit`` would choose.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit` and ``tl.fit``; ValueError also if genes of the fit are missing.
    """
    new = reference is not None and reference is not adata
    fit = read_latent_fit(reference if new else adata, key)
    source = latent_source(adata, key, layer, new=new)
    cells = cells_of(adata, fit, source)
    if new:
        loc, scale = encode_cells(fit.model, fit.params, fit.fixed, cells)
        fit = replace(fit, cells=np.asarray(adata.obs_names), loc=loc, scale=scale)
    return LatentReading(fit, cells)


def read_latent(
    adata: "AnnData", key: str, *, reference: "AnnData | None" = None, layer: str | None = None
) -> LatentFit:
    """The fit under ``key`` with the latent numbers of the cells of ``adata``; counts are read of new cells only.

    Parameters and errors are those of :func:`read_latent_with_counts`.
    """
    if reference is not None and reference is not adata:
        return read_latent_with_counts(adata, key, reference=reference, layer=layer).fit
    if layer is not None:
        msg = f"layer={layer!r} is for new cells, with reference=: those of {key!r} are not read again"
        raise ValueError(msg)
    return read_latent_fit(adata, key)


def latent_source(adata: "AnnData", key: str, layer: str | None, *, new: bool) -> Source:
    """The counts that a function which reads the fit ``key`` means; ``new``: of other cells than the fit's."""
    if layer is None and not new:
        return stored_source(adata, key)
    return find_counts(adata, layer, None, None, defaults=new)


def cells_of(adata: "AnnData", fit: LatentFit, source: Source) -> LatentCells:
    """What ``fit`` is told of the cells of ``adata``, its genes found by name."""
    columns = pd.Index(adata.var_names).get_indexer(fit.genes)
    absent = fit.genes[columns < 0]
    if len(absent):
        msg = (
            f"{len(absent)} of the {len(fit.genes)} genes of {fit.key!r} are not in adata.var_names, first "
            f"{absent[0]!r}: the network reads all of them; pass adata with all genes (zeros where none was counted)"
        )
        raise ValueError(msg)
    batch, soup = batch_codes(adata, fit.facts, fit.key), soup_codes(adata, fit.facts, fit.key)
    return latent_cells(adata, source, columns, facts=fit.facts, batch=batch, soup=soup)


def encode_cells(model: LatentModel, params, fixed: dict, cells: LatentCells) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the latent numbers of all cells, float32 ``(n_cells, D)``, block by block."""
    encode, found = _encoder(model), []
    for ids, _ in in_blocks(cells.n_cells, BLOCK):
        found.append([np.asarray(value, np.float32) for value in encode(Inputs(params, fixed, cells.at(ids)))])
    loc, scale = zip(*found, strict=True)
    return np.concatenate(loc)[: cells.n_cells], np.concatenate(scale)[: cells.n_cells]


def in_blocks(n: int, size: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Positions from 0 to n in blocks of one size, the last position repeated at the end; and without the repeats.

    Blocks are of one size for any n, so that a few new cells need no compilation of their own.
    """
    for first in range(0, n, size):
        stop = min(first + size, n)
        yield np.minimum(np.arange(first, first + size), n - 1), slice(first, stop)


@lru_cache(maxsize=32)
def _encoder(model: LatentModel):
    return jax.jit(model.encode)
