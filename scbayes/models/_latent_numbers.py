"""Numbers of each gene and cell that follow from latent numbers: expression, parameters of counts, counts."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scbayes.models._latent_counts import MOST, Decoded
from scbayes.models._latent_model import Inputs, LatentModel

#: By name, from what the decoder says of cells and the totals of their counts.
NUMBERS: dict[str, Callable[[Decoded, Array], Array]] = {
    "share": lambda decoded, _: decoded.share,
    "native": lambda decoded, _: jnp.exp(decoded.log_native),
    "mean": lambda decoded, _: decoded.mean,
    "size": lambda decoded, _: jnp.exp(decoded.log_theta_of_sum),
    "native_size": lambda decoded, _: jnp.exp(decoded.log_theta),
    "gate": lambda decoded, _: jax.nn.sigmoid(decoded.gate_logit),
    "probability": lambda decoded, total: jnp.minimum(decoded.mean / total[:, None], MOST),
    "native_probability": lambda decoded, total: jnp.minimum(jnp.exp(decoded.log_native) / total[:, None], MOST),
}
#: Parameters of the distribution of a count under each likelihood.
PARAMETERS = {
    "nb": ("mean", "size"),
    "zinb": ("mean", "size", "gate"),
    "poisson": ("mean",),
    "b": ("mean", "probability"),
}
#: Counts beyond are cut: they say that the model is broken, not how much.
LARGEST = 2**31 - 1


@lru_cache(maxsize=64)
def numbers_of(model: LatentModel, names: tuple[str, ...], *, each: bool) -> Callable[..., list[Array]]:
    """Compiled function from latent numbers to ``names``, averaged over batches and, unless ``each``, over draws.

    It takes :class:`Inputs` of B cells, the batches to decode them in ``(C, B)``, positions of genes ``(k,)`` (None:
    all) and latent numbers ``(S, B, D)``, and returns ``(S, B, k)`` for each name, ``(1, B, k)`` without ``each``.
    A draw and a batch are decoded at a time: no more than cells x genes of one block are in memory.
    """

    def of_batch(inputs: Inputs, genes, v: Array, batch: Array) -> list[Array]:
        decoded = model.decode(inputs._replace(cells=inputs.cells._replace(batch=batch)), v)
        decoded = decoded if genes is None else _take(decoded, genes)
        shape = decoded.log_share.shape
        return [jnp.broadcast_to(NUMBERS[name](decoded, inputs.cells.total), shape) for name in names]

    def of_draw(inputs: Inputs, batches: Array, genes, v: Array) -> list[Array]:
        if len(batches) == 1:
            return of_batch(inputs, genes, v, batches[0])
        return _mean(lambda batch: of_batch(inputs, genes, v, batch), batches)

    def run(inputs: Inputs, batches: Array, genes, v: Array) -> list[Array]:
        def one(draw: Array) -> list[Array]:
            return of_draw(inputs, batches, genes, draw)

        if each:
            return jax.lax.map(one, v)
        return [value[None] for value in _mean(one, v)]

    return jax.jit(run)


def _mean(function: Callable, values: Array) -> list[Array]:
    """Mean of the results of a function over the first axis of its argument, one at a time."""

    def add(total: list[Array], value: Array) -> tuple[list[Array], None]:
        return jax.tree.map(jnp.add, total, function(value)), None

    total, _ = jax.lax.scan(add, function(values[0]), values[1:])
    return jax.tree.map(lambda value: value / len(values), total)


def _take(decoded: Decoded, genes: Array) -> Decoded:
    """Some of the genes; shares stay those of all."""
    shape = decoded.log_share.shape

    def of(value: Array | None) -> Array | None:
        return None if value is None else jnp.broadcast_to(value, shape)[..., genes]

    of_genes = ("log_share", "share", "log_theta", "gate_logit", "log_ambient")
    return decoded._replace(**{name: of(getattr(decoded, name)) for name in of_genes})


def draw_counts(numbers: dict[str, np.ndarray], total: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts of their distribution, as :class:`scbayes.models._latent_counts.LatentCounts` defines it.

    NumPy draws some 20 times faster than JAX on a CPU.

    Parameters
    ----------
    numbers
        ``mean`` ``(B, G)`` and, of the likelihoods that have them, ``size``, ``gate``, ``probability``.
    total
        Observed totals of the cells, ``(B,)``.
    """
    if "probability" in numbers:
        return rng.binomial(total.astype(np.int64)[:, None], numbers["probability"])
    rate = draw_rates(numbers, rng) if "size" in numbers else numbers["mean"]
    drawn = np.minimum(rng.poisson(np.minimum(rate, LARGEST)), LARGEST)
    if "gate" in numbers:
        drawn[rng.random(drawn.shape, np.float32) < numbers["gate"]] = 0
    return drawn


def draw_rates(numbers: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    r"""Rates of negative binomial counts, :math:`w \sim \mathrm{Gamma}(\theta)\, \mu / \theta`."""
    size = np.asarray(numbers["size"], float)
    return rng.standard_gamma(size) * (numbers["mean"] / size)
