"""Whether batches lie apart within labels."""

import numpy as np

from scbayes.metrics._cells import check_cells, silhouettes


def silhouette_batch(latent: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> float:
    r"""One minus the absolute silhouette of batches: mean over the cells of each label, then over labels.

    :math:`\frac{1}{L} \sum_l \frac{1}{n_l} \sum_{c: y_c = l} (1 - |s_c|)`, where :math:`s_c` is the silhouette of the
    batch of :math:`c` among the cells of its label (scib, Luecken et al. 2022). 1: batches lie on each other. Labels
    that are in one batch only, or that have one cell of each batch, are left out.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    batch, labels
        Batch and label of each cell, any values. Cells that lack one (None, NaN) are left out.

    Returns
    -------
    The score, within 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two batches or labels, or no label of several batches.
    """
    z, b, code = check_cells(latent, batch=batch, labels=labels)
    scores = []
    for label in range(code.max() + 1):
        own = np.flatnonzero(code == label)
        names, group = np.unique(b[own], return_inverse=True)
        if 1 < len(names) < len(own):
            scores.append(np.mean(1 - np.abs(silhouettes(z[own], group))))
    if not scores:
        raise ValueError("no label has cells of several batches: labels and batches cannot be told apart")
    return float(np.mean(scores))
