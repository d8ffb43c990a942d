"""Whether cells have the same neighbours in two spaces."""

import numpy as np
import pandas as pd

from scbayes.metrics._cells import check_cells, neighbours


def nn_overlap(latent1: np.ndarray, latent2: np.ndarray, *, n_neighbors: int = 100) -> pd.Series:
    r"""How many of their nearest cells cells share in two spaces, such as of RNA and of proteins.

    Of :math:`n k` neighbours in each space, the share :math:`s` is common to both. By chance it is :math:`k / n`:
    `fold_enrichment` is :math:`s / (k / n)`, and `spearman` is :math:`(s - k / n) / (1 - k / n)`. The latter is the
    rank correlation of all entries of the two n x n matrices that say who is whose neighbour (entries of 0 and 1 have
    tied ranks, and so it is their phi coefficient), which need not be made. As scVI's score (Xu et al. 2021).

    Parameters
    ----------
    latent1, latent2
        The same cells x dimensions of two spaces, shapes ``(n_cells, n_1)`` and ``(n_cells, n_2)``.
    n_neighbors
        Nearest cells k to look at, by Euclidean distance in each space; a cell is not its own neighbour.

    Returns
    -------
    Series `spearman`, at most 1, and `fold_enrichment`, between 0 and n / k; no overlap beyond chance: 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, or too few cells.
    """
    spaces = []
    for name, latent in (("latent1", latent1), ("latent2", latent2)):
        try:
            spaces += check_cells(latent)
        except ValueError as error:
            raise ValueError(str(error).replace("latent", name, 1)) from None
    if len(spaces[0]) != len(spaces[1]):
        raise ValueError(f"latent1 has {len(spaces[0])} cells and latent2 {len(spaces[1])}: give the same cells")
    # what is in both rows, each of which has no index twice, stands twice in a row of both
    both = np.sort(np.hstack([neighbours(z, n_neighbors)[1] for z in spaces]), 1)
    share, chance = np.mean(np.sum(both[:, 1:] == both[:, :-1], 1)) / n_neighbors, n_neighbors / len(both)
    return pd.Series({"spearman": (share - chance) / (1 - chance), "fold_enrichment": share / chance}, dtype=float)
