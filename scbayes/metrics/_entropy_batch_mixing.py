"""How well batches mix among neighbours, as an entropy."""

import numpy as np

from scbayes.metrics._cells import check_cells, neighbours, shares


def entropy_batch_mixing(
    latent: np.ndarray,
    batch: np.ndarray,
    *,
    n_neighbors: int = 50,
    n_pools: int | None = None,
    n_cells: int = 100,
    rng: int | np.random.Generator = 0,
) -> float:
    r"""Mean entropy of the batches among the neighbours of a cell, in nats: 0 if no two batches meet.

    :math:`\frac{1}{n} \sum_c H_c, \quad H_c = -\sum_b f_{cb} \ln f_{cb}`, where :math:`f_{cb}` is the share of batch
    :math:`b` among the `n_neighbors` nearest cells of :math:`c`, the cell itself not among them. At most the logarithm
    of the number of batches; where they are of different sizes, batches that mix perfectly have the entropy of their
    shares of all cells, which is less.

    By default over all cells. scVI (Lopez et al. 2018) averages over pools of cells drawn with replacement, of two
    batches only: that is this number and noise. ``n_pools=50`` does the same.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    batch
        Batch of each cell, any values. Cells without one (None, NaN) are left out.
    n_neighbors
        Nearest cells to look at, by Euclidean distance.
    n_pools, n_cells
        Number of pools, and cells that each of them draws with replacement. None: all cells, once.
    rng
        Seed or generator of the draws.

    Returns
    -------
    The entropy, nats.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two batches, or too few cells.
    """
    z, code = check_cells(latent, batch=batch)
    if n_pools is not None and min(n_pools, n_cells) < 1:
        raise ValueError(f"n_pools={n_pools}, n_cells={n_cells}: give at least one of each")
    share = shares(code[neighbours(z, n_neighbors)[1]], code.max() + 1)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), 1)
    if n_pools is not None:
        entropy = entropy[np.random.default_rng(rng).integers(len(z), size=(n_pools, n_cells))]
    return float(entropy.mean())
