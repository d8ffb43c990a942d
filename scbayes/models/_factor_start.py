"""Where the factor model starts: the leading factors of the residuals of a model without factors."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts, Summary
from scbayes.counts._dense_blocks import dense_blocks
from scbayes.counts._threads import read_ahead
from scbayes.models._factor_cells import Genes

#: Columns beside those that are wanted, and passes: the subspace need only be near.
EXTRA, PASSES = 8, 3
#: Pearson residuals are cut here: single counts of rare genes are no factor.
LARGEST = 10.0
#: Dispersions within which a start is taken.
DISPERSION = (0.01, 10.0)


def start_offset(summary: Summary, size: np.ndarray) -> np.ndarray:
    """Log share of each gene in each batch, ``(G, B)``; half a molecule is added, shared as in all batches."""
    total = summary.gene_total
    exposure = np.bincount(summary.batch, size, summary.n_batches)
    overall = (total.sum(0) + 0.5) / (exposure.sum() + 0.5)
    share = (total + 0.5 * overall / overall.mean()) / (exposure[:, None] + 0.5)
    return np.log(share / share.sum(1, keepdims=True)).T


def start_log_theta(summary: Summary, size: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Log size of each gene without factors, by moments, ``(G,)``; half of the overdispersion is left to factors."""
    pairs = summary.count * (summary.count - 1.0) * summary.cells
    seen = np.bincount(summary.row % summary.n_genes, pairs, summary.n_genes)
    square = np.bincount(summary.batch, size**2, summary.n_batches)
    expected = np.exp(2 * offset) @ square
    usual = np.median((seen / np.maximum(expected, 1e-30))[expected >= np.median(expected)]) - 1
    dispersion = (seen - expected + 5 * max(usual, 0.02)) / (expected + 5)
    return -np.log(np.clip(0.5 * dispersion, *DISPERSION))


def start_cells(counts: Counts, size: np.ndarray, genes: list[Genes], n_latent: int, rng) -> np.ndarray:
    """Scores of the cells on the leading factors of Pearson residuals, unit variance, ``(n_cells, n_latent)``.

    Subspace iteration, a pass over the counts for each step.
    """
    n_columns = min(n_latent + EXTRA, counts.n_genes)
    basis = rng.standard_normal((counts.n_genes, n_columns))
    scores = np.zeros((counts.n_cells, n_columns))
    for _ in range(PASSES):
        basis = np.linalg.qr(basis)[0]
        onto = jnp.asarray(basis, jnp.float32)
        image = np.zeros_like(basis)
        for block in blocks(counts):
            own = padded(size[block.cells], len(block.x))
            found, back = _project(block.x, own, genes[block.batch], onto)
            scores[block.cells] = np.asarray(found)[: len(block.cells)]
            image += np.asarray(back)
        turn = np.linalg.eigh(basis.T @ image)[1]
        scores, basis = scores @ turn[:, ::-1], image @ turn[:, ::-1]
    scores = scores[:, :n_latent]
    scores = np.pad(scores, ((0, 0), (0, n_latent - scores.shape[1])))
    return scores / np.maximum(scores.std(0), 1e-6)


def blocks(counts: Counts) -> Iterator:
    """Dense blocks, the next one made while one is worked on."""
    return read_ahead(dense_blocks(counts))


def padded(values: np.ndarray, n: int) -> np.ndarray:
    """Float32 with zeros up to n rows."""
    out = np.zeros((n, *values.shape[1:]), np.float32)
    out[: len(values)] = values
    return out


@jax.jit
def _project(x, size, genes: Genes, basis):
    mu = size[:, None] * jax.nn.softmax(genes.offset)
    spread = jnp.sqrt(mu * (1 + genes.inverse * mu))
    residual = jnp.clip((x - mu) / jnp.maximum(spread, 1e-12), -LARGEST, LARGEST)
    scores = residual @ basis
    return scores, residual.T @ scores
