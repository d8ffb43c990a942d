"""Numbers of genes and cells from a latent space: drawn for blocks of cells, and summed up over draws."""

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from scbayes.models._latent_numbers import numbers_of
from scbayes.tl._latent_reading import BLOCK, Block, LatentReading
from scbayes.tl._predicted_tables import MOST

#: Numbers in the draws of a block of cells at most.
ENTRIES = 2**24


def numbers_by_block(
    reading: LatentReading,
    names: tuple[str, ...],
    genes: np.ndarray,
    *,
    batches: list[int | None],
    n_samples: int,
    rng: np.random.Generator,
    each: bool,
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Numbers of the ``genes`` of all cells for draws of their latent numbers, as in :func:`numbers_of`.

    Draws of a cell depend on the seed and its position only: they are the same for all genes and batches.
    """
    size = int(np.clip(ENTRIES // (n_samples * len(genes)), 1, BLOCK)) if each else BLOCK
    function, chosen = numbers_of(reading.model, names, each=each), jnp.asarray(genes)
    for block in reading.blocks(size):
        v = draw_latent(block, n_samples, rng)
        found = function(without_counts(block).inputs, batches_of(block, batches), chosen, v)
        n = block.cells.stop - block.cells.start
        yield block.cells, {name: np.asarray(value)[:, :n] for name, value in zip(names, found, strict=True)}


def draw_latent(block: Block, n_samples: int, rng: np.random.Generator) -> jnp.ndarray:
    """Draws of the latent numbers of the cells of a block, ``(n_samples, B, D)``."""
    n, (size, width) = block.cells.stop - block.cells.start, block.loc.shape
    noise = rng.standard_normal((n, n_samples, width), np.float32)
    noise = noise[np.minimum(np.arange(size), n - 1)]
    return block.loc + block.scale * jnp.asarray(noise.transpose(1, 0, 2))


def without_counts(block: Block) -> Block:
    """A block to decode: counts, which are dense, are let go."""
    return block._replace(inputs=block.inputs._replace(cells=block.inputs.cells._replace(counts=None)))


def batches_of(block: Block, codes: list[int | None]) -> jnp.ndarray:
    """Batches to decode a block in, ``(C, B)``; None stands for its own."""
    own = block.inputs.cells.batch
    return jnp.stack([own if code is None else jnp.full_like(own, code) for code in codes])


def summarise(
    blocks: Iterable[tuple[slice, dict[str, np.ndarray]]],
    shape: tuple[int, int, int],
    *,
    interval: float | None = None,
    store_samples: bool = False,
) -> dict[str, np.ndarray]:
    """Means over draws; with standard deviations and intervals, and draws, where asked.

    Parameters
    ----------
    blocks
        As :func:`numbers_by_block` makes them.
    shape
        ``(n_cells, k, n_samples)``.

    Returns
    -------
    float32: ``name`` and, with ``interval``, ``name_sd``, ``name_lower`` and ``name_upper``, each ``(k, n_cells)``;
    ``name_samples`` ``(n_cells, k, n_samples)``.
    """
    n_cells, k, _ = shape
    found: dict[str, np.ndarray] = {}
    for cells, numbers in blocks:
        for name, value in numbers.items():
            parts = {name: value.mean(0)}
            if interval is not None:
                lower, upper = np.quantile(value, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
                parts |= {f"{name}_sd": value.std(0), f"{name}_lower": lower, f"{name}_upper": upper}
            for what, part in parts.items():
                found.setdefault(what, np.empty((k, n_cells), np.float32))[:, cells] = part.T
            if store_samples:
                whole = found.setdefault(f"{name}_samples", np.empty(shape, np.float32))
                whole[cells] = value.transpose(1, 2, 0)
    return found


def check_size(n_numbers: int, argument: str, *, n_samples: int | None = None) -> None:
    """Refuse results of more than 2 GB: 8 bytes for each entry of a layer, 4 for each draw."""
    size = 8 * n_numbers if n_samples is None else 4 * n_numbers * n_samples
    if size > MOST:
        what = "they" if n_samples is None else f"{n_samples} draws of them"
        msg = (
            f"numbers of all cells for these genes are dense: {what} take {size / 1e9:.1f} GB, and more than "
            f"{MOST / 1e9:g} GB are not stored: name fewer genes in {argument}="
        )
        raise ValueError(msg + ("" if n_samples is None else " or lower n_samples="))


def positions_of(reading: LatentReading, names: list[str], var_names: Iterable[str], argument: str) -> np.ndarray:
    """Where genes are among those of the model.

    Raises
    ------
    KeyError
        If a gene is not in ``var_names``.
    ValueError
        If it is, and the model does not have it.
    """
    known = {name: i for i, name in enumerate(reading.fit.genes)}
    everything = set(var_names)
    if absent := [name for name in names if name not in everything]:
        msg = f"{argument} names {len(absent)} genes that are not in adata.var_names, first {absent[0]!r}"
        raise KeyError(msg)
    if foreign := [name for name in names if name not in known]:
        msg = f"{argument} names {len(foreign)} genes that {reading.fit.key!r} is not of, first {foreign[0]!r}"
        raise ValueError(msg + ": leave them out, or fit with a mask that has them")
    return np.array([known[name] for name in names])
