"""What a latent space of several batches keeps of biology, and how well batches mix in it."""

import numpy as np
import pandas as pd

from scbayes.metrics._cells import check_cells
from scbayes.metrics._clustering_scores import clustering_scores
from scbayes.metrics._graph_connectivity import graph_connectivity
from scbayes.metrics._lisi import lisi
from scbayes.metrics._silhouette_batch import silhouette_batch

#: Weights of the two means in the total, those of scib.
BIOLOGY, MIXING = 0.6, 0.4


def integration_scores(
    latent: np.ndarray,
    batch: np.ndarray,
    labels: np.ndarray,
    *,
    perplexity: float = 30,
    n_init: int = 20,
    rng: int | np.random.Generator = 0,
) -> pd.Series:
    """Scores of a latent space of several batches, each from 0 to 1, more is better; after scib (Luecken et al. 2022).

    ====================  =======================================================================================
    `nmi`, `ari`          k-means with as many clusters as labels, :func:`scbayes.metrics.clustering_scores`
    `silhouette_label`    (1 + mean silhouette of labels) / 2
    `clisi`               (L - median of :func:`scbayes.metrics.lisi` of labels) / (L - 1), of L labels
    `bio_conservation`    mean of these four
    `silhouette_batch`    :func:`scbayes.metrics.silhouette_batch`
    `ilisi`               (median of :func:`scbayes.metrics.lisi` of batches - 1) / (B - 1), of B batches
    `graph_connectivity`  :func:`scbayes.metrics.graph_connectivity`
    `batch_mixing`        mean of these three
    `total`               0.6 `bio_conservation` + 0.4 `batch_mixing`
    ====================  =======================================================================================

    Chance is not 0 for all of them, and `ari` may fall a little below 0: compare latent spaces of the same cells. scib
    has more scores (isolated labels, kBET, principal component regression): totals of papers are of other parts.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    batch, labels
        Batch and label of each cell, any values. Cells that lack one (None, NaN) are left out.
    perplexity
        Of :func:`scbayes.metrics.lisi`.
    n_init
        Starts of k-means, of which the best is taken.
    rng
        Seed or generator of k-means.

    Returns
    -------
    Series, float64, in the order of the table.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two batches or labels, no label of several batches, each
        cell a label of its own, or too few cells.
    """
    z, b, code = check_cells(latent, batch=batch, labels=labels)
    n_batches, n_labels = b.max() + 1, code.max() + 1
    mixing = {
        "silhouette_batch": silhouette_batch(z, b, code),
        "ilisi": (np.median(lisi(z, b, perplexity=perplexity)) - 1) / (n_batches - 1),
        "graph_connectivity": graph_connectivity(z, code),
    }
    clusters = clustering_scores(z, code, n_init=n_init, rng=rng)
    biology = {
        "nmi": clusters["nmi"],
        "ari": clusters["ari"],
        "silhouette_label": (1 + clusters["asw"]) / 2,
        "clisi": (n_labels - np.median(lisi(z, code, perplexity=perplexity))) / (n_labels - 1),
    }
    means = [float(np.mean(list(part.values()))) for part in (biology, mixing)]
    total = BIOLOGY * means[0] + MIXING * means[1]
    parts = biology | {"bio_conservation": means[0]} | mixing | {"batch_mixing": means[1], "total": total}
    return pd.Series(parts, dtype=float)
