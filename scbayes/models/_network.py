"""The networks of a variational autoencoder (equinox modules: pytrees of arrays)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from scbayes.models._rows_of import rows_of

#: Standard deviations of q(z) start near this.
FIRST_SCALE = 0.4


class Layers(eqx.Module):
    """Hidden layers; covariates enter each of them. Linear, layer norm, GELU."""

    linear: list[eqx.nn.Linear]
    norm: list[eqx.nn.LayerNorm]

    def __init__(self, n_in: int, n_extra: int, n_hidden: int, n_layers: int, *, key: Array) -> None:
        sizes = [n_in, *[n_hidden] * (n_layers - 1)]
        keys = jax.random.split(key, n_layers)
        self.linear = [eqx.nn.Linear(n + n_extra, n_hidden, key=k) for n, k in zip(sizes, keys, strict=True)]
        self.norm = [eqx.nn.LayerNorm(n_hidden) for _ in sizes]

    def __call__(self, h: Array, extra: Array, *, dropout_rate: float = 0.0, key: Array | None = None) -> Array:
        """``h`` (..., n_in) and covariates ``extra`` (..., n_extra) to (..., n_hidden); dropout where a key is."""
        for i, (linear, norm) in enumerate(zip(self.linear, self.norm, strict=True)):
            if extra.shape[-1]:
                h = jnp.concatenate([h, jnp.broadcast_to(extra, (*h.shape[:-1], extra.shape[-1]))], -1)
            h = jax.nn.gelu(_rows(norm, _affine(linear, h)))
            if key is not None and dropout_rate:
                h = eqx.nn.Dropout(dropout_rate)(h, key=jax.random.fold_in(key, i))
        return h


class Encoder(eqx.Module):
    """Counts to mean and standard deviation of q, a normal for each latent number."""

    layers: Layers
    loc: eqx.nn.Linear
    log_variance: eqx.nn.Linear

    def __init__(self, n_genes: int, n_extra: int, n_out: int, n_hidden: int, n_layers: int, *, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.layers = Layers(n_genes, n_extra, n_hidden, n_layers, key=keys[0])
        self.loc = eqx.nn.Linear(n_hidden, n_out, key=keys[1])
        spread = eqx.nn.Linear(n_hidden, n_out, key=keys[2])
        start = jnp.full(n_out, 2 * jnp.log(FIRST_SCALE))
        self.log_variance = eqx.tree_at(lambda m: (m.weight, m.bias), spread, (spread.weight / 10, start))

    def __call__(self, log_counts: Array, extra: Array, **dropout) -> tuple[Array, Array]:
        """``ln(1 + u)`` of cells (..., n_genes) to (mean, standard deviation), each (..., n_out)."""
        h = self.layers(log_counts, extra, **dropout)
        return _affine(self.loc, h), jnp.exp(0.5 * jnp.clip(_affine(self.log_variance, h), -14, 10))


class Decoder(eqx.Module):
    """Latent numbers to activations of the genes, one set for each of `heads`.

    ``offset`` is each batch's own, ``(n_batches, n_genes)``, added to the first head: the scale.
    """

    layers: Layers
    offset: Array
    heads: dict[str, eqx.nn.Linear]

    def __init__(
        self, n_latent: int, n_extra: int, offset: Array, heads: tuple, n_hidden: int, n_layers: int, *, key: Array
    ) -> None:
        keys = jax.random.split(key, 1 + len(heads))
        n_genes = offset.shape[1]
        self.layers = Layers(n_latent, n_extra, n_hidden, n_layers, key=keys[0])
        self.offset = offset
        self.heads = {
            name: eqx.nn.Linear(n_hidden, n_genes, use_bias=name != "scale", key=k)
            for name, k in zip(heads, keys[1:], strict=True)
        }

    def __call__(self, z: Array, extra: Array, batch: Array) -> dict[str, Array]:
        """``z`` (..., B, n_latent) to activations (..., B, n_genes) by head."""
        h = self.layers(z, extra)
        out = {name: _affine(head, h) for name, head in self.heads.items()}
        return out | {"scale": out["scale"] + rows_of(self.offset, jax.nn.one_hot(batch, len(self.offset)))}


class Classifier(eqx.Module):
    """Latent numbers to log odds of labels."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, n_latent: int, n_labels: int, n_hidden: int, *, key: Array) -> None:
        keys = jax.random.split(key)
        self.hidden = eqx.nn.Linear(n_latent, n_hidden, key=keys[0])
        self.out = eqx.nn.Linear(n_hidden, n_labels, key=keys[1])

    def __call__(self, z: Array) -> Array:
        """``z`` (..., n_latent) to log odds (..., n_labels)."""
        return _affine(self.out, jax.nn.gelu(_affine(self.hidden, z)))


def _affine(linear: eqx.nn.Linear, h: Array) -> Array:
    """A linear layer over any leading axes, as one matrix product."""
    out = h @ linear.weight.T
    return out if linear.bias is None else out + linear.bias


def _rows(norm: eqx.nn.LayerNorm, h: Array) -> Array:
    flat = h.reshape(-1, h.shape[-1])
    return jax.vmap(norm)(flat).reshape(h.shape)
