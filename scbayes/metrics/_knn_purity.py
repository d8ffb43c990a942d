"""Whether neighbours have the same label."""

import numpy as np

from scbayes.metrics._cells import check_cells, neighbours


def knn_purity(latent: np.ndarray, labels: np.ndarray, *, n_neighbors: int = 30) -> float:
    r"""Share of a cell's neighbours that have its label: mean over the cells of each label, then over labels.

    :math:`\frac{1}{L} \sum_l \frac{1}{n_l} \sum_{c: y_c = l} \frac{|\{d \in N_c: y_d = l\}|}{k}` with the
    :math:`k` nearest cells :math:`N_c`, the cell itself not among them (scVI, Xu et al. 2021). Rare labels weigh as
    much as common ones; a label of :math:`n_l \le k` cells cannot reach 1, but :math:`(n_l - 1) / k`.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    labels
        Label of each cell, any values. Cells without one (None, NaN) are left out.
    n_neighbors
        Nearest cells to look at, by Euclidean distance.

    Returns
    -------
    The purity, within 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two labels, or too few cells.
    """
    z, code = check_cells(latent, labels=labels)
    same = np.mean(code[neighbours(z, n_neighbors)[1]] == code[:, None], 1)
    return float(np.mean(np.bincount(code, same) / np.bincount(code)))
