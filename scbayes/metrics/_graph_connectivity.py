"""Whether the cells of a label hang together."""

import numpy as np

from scbayes.metrics._cells import check_cells, neighbours


def graph_connectivity(latent: np.ndarray, labels: np.ndarray, *, n_neighbors: int = 14) -> float:
    r"""Share of a label's cells that are in its largest connected part, mean over labels.

    :math:`\frac{1}{L} \sum_l |\mathrm{LCC}(G_l)| / n_l`, where :math:`G_l` links two cells of label :math:`l` if one of
    them is among the `n_neighbors` nearest of the other (scib, Luecken et al. 2022, whose 15 neighbours count the cell
    itself). 1: batches of a label are linked to each other, though perhaps by few cells only.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    labels
        Label of each cell, any values. Cells without one (None, NaN) are left out.
    n_neighbors
        Nearest cells, by Euclidean distance; a cell is not its own neighbour.

    Returns
    -------
    The share, within 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two labels, or too few cells.
    """
    from scipy import sparse

    z, code = check_cells(latent, labels=labels)
    index = neighbours(z, n_neighbors)[1]
    cell, nth = np.nonzero(code[index] == code[:, None])
    links = sparse.coo_array((np.ones(len(cell), bool), (cell, index[cell, nth])), shape=(len(z), len(z)))
    part = sparse.csgraph.connected_components(links, directed=False)[1]
    # no part has cells of two labels
    first = np.unique(part, return_index=True)[1]
    largest = np.zeros(code.max() + 1)
    np.maximum.at(largest, code[first], np.bincount(part))
    return float(np.mean(largest / np.bincount(code)))
