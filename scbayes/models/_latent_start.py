"""Where the training of a variational autoencoder starts, from moments of the counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import sparse
from scipy.optimize import brentq

from scbayes.models._latent_model import KEPT, LatentModel

#: Sizes of the negative binomial that moments may give at the start.
SIZES = (0.05, 100.0)
#: Log odds of an excess zero at the start.
FIRST_GATE = -3.0


class Moments(NamedTuple):
    """Moments of the counts of each gene: log composition of each batch ``(n_batches, n_genes)``, and log size.

    With an ambient part, the composition is the native one, and `contamination` mean and log sd of the log odds.
    """

    log_share: np.ndarray
    log_theta: np.ndarray
    contamination: np.ndarray | None = None


def moments(x: sparse.csr_array, size: np.ndarray, batch: np.ndarray, n_batches: int) -> Moments:
    """Moments of counts given library sizes; a pseudocount of a half keeps logs finite."""
    size, x = size.astype(float), x.astype(float)
    share, expected, excess = [], 0.0, 0.0
    for rows, s in ((x[batch == k], size[batch == k]) for k in range(n_batches)):
        total = rows.sum(0) + 0.5
        of_batch = total / total.sum()
        # sum over cells of (u - m)^2 - m with m = size * share: only u^2 and u m need the non-zeros
        expected = expected + of_batch**2 * (s @ s)
        excess = excess + rows.power(2).sum(0) - 2 * of_batch * (s @ rows) + of_batch**2 * (s @ s) - of_batch * s.sum()
        share.append(of_batch)
    theta = np.clip(expected / np.maximum(excess, 1e-12), *SIZES)
    share = np.stack(share)
    return Moments(np.log(share).astype(np.float32), np.log(theta).astype(np.float32))


def native_moments(found: Moments, cells, fixed: dict) -> Moments:
    """Moments of native counts; ``cells`` has `batch`, `soup` and `total`, ``fixed`` that of the model."""
    share = np.exp(found.log_share)
    rho, spread = fixed["contamination"][cells.soup].mean(0)
    weight = np.zeros((len(share), len(fixed["log_ambient"])))
    np.add.at(weight, (cells.batch, cells.soup), cells.total * fixed["contamination"][cells.soup, 0])
    total = np.bincount(cells.batch, cells.total, len(share))
    expected = weight / np.maximum(total, 1)[:, None] @ np.exp(fixed["log_ambient"])
    native = np.maximum(share - expected, KEPT * share)
    log_share = np.log(native / native.sum(1, keepdims=True)).astype(np.float32)
    return Moments(log_share, found.log_theta, np.log([rho / (1 - rho), spread]).astype(np.float32))


def hidden_shares(logit: np.ndarray, soup: np.ndarray, level: np.ndarray) -> np.ndarray:
    r"""What is hidden of each profile in native expression, h, float32 ``(n_profiles,)``.

    .. math:: \operatorname{mean}_c\, \max\Big(\frac{s_c - h}{1 - h}, 0\Big) = \text{level}

    Parameters
    ----------
    logit
        Log odds of s, of the cells.
    soup
        Profile of each cell.
    level
        Mean share of ambient counts of each profile's cells.
    """
    share = 1 / (1 + np.exp(-logit.astype(float)))
    hidden = np.zeros(len(level), np.float32)
    for k in np.unique(soup):
        own = share[soup == k]
        hidden[k] = brentq(lambda h: np.maximum((own - h) / (1 - h), 0).mean() - level[k], -100, own.max() - 1e-9)  # noqa: B023
    return hidden


def library_moments(total: np.ndarray, batch: np.ndarray, n_batches: int) -> np.ndarray:
    """Mean and standard deviation of the log totals of each batch, float32 ``(n_batches, 2)``."""
    log_total = np.log(total.astype(float))
    n = np.bincount(batch, minlength=n_batches)
    mean = np.bincount(batch, log_total, n_batches) / np.maximum(n, 1)
    spread = np.bincount(batch, (log_total - mean[batch]) ** 2, n_batches) / np.maximum(n, 1)
    return np.stack([mean, np.maximum(np.sqrt(spread), 0.01)], 1).astype(np.float32)


def first_params(model: LatentModel, found: Moments, seed: int) -> dict:
    """Parameters to start from: networks at random, gene-wise numbers from moments."""
    import equinox as eqx

    from scbayes.models._network import Classifier, Decoder, Encoder

    config, sizes = model.config, model.sizes
    keys = jax.random.split(jax.random.key(seed), 3)
    n_extra = sizes.n_covariates + (sizes.n_batches if sizes.n_batches > 1 else 0)
    shape = config.n_hidden, config.n_layers
    into = n_extra if config.encode_covariates else 0
    heads = ("scale", *["gate"] * (config.likelihood == "zinb"), *["log_theta"] * (config.dispersion == "gene-cell"))
    offset = _offset(model, jnp.asarray(found.log_share))
    decoder = Decoder(config.n_latent, n_extra, offset, heads, *shape, key=keys[1])
    biases = {"gate": jnp.full(sizes.n_genes, FIRST_GATE), "log_theta": jnp.asarray(found.log_theta)}
    for name in heads[1:]:
        decoder = eqx.tree_at(lambda module, name=name: module.heads[name].bias, decoder, biases[name])
    params = {
        "encoder": Encoder(sizes.n_genes, into, len(model.names), *shape, key=keys[0]),
        "decoder": decoder,
    }
    copies = {"gene-batch": sizes.n_batches, "gene-label": max(sizes.n_labels, 1), "gene": 1}
    if config.likelihood in {"nb", "zinb"} and config.dispersion in copies:
        params["log_theta"] = jnp.tile(jnp.asarray(found.log_theta), (copies[config.dispersion], 1))
    if sizes.n_labels:
        params["classifier"] = Classifier(config.n_latent, sizes.n_labels, config.n_hidden, key=keys[2])
    if config.ambient:
        params["contamination"] = jnp.zeros(2) if found.contamination is None else jnp.asarray(found.contamination)
    return params


def _offset(model: LatentModel, log_share: Array) -> Array:
    """Activations at which the decoder gives the mean composition."""
    if model.config.scale_activation == "softmax":
        return log_share
    level = jnp.exp(log_share) * log_share.shape[1]  # 1 on average
    return jnp.log(jnp.expm1(jnp.clip(level, 1e-3, 50) + model.threshold))
