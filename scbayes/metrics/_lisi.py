"""How many groups there are around each cell."""

import numpy as np

from scbayes.metrics._cells import check_cells, neighbours, shares

#: Cells at a time, steps of bisection, and where ln beta lies, beta in units of one over the mean distance.
BLOCK, STEPS, LOW, HIGH = 4096, 45, -10.0, 25.0


def lisi(latent: np.ndarray, groups: np.ndarray, *, perplexity: float = 30) -> np.ndarray:
    r"""Effective number of groups around each cell: the local inverse Simpson index of Korsunsky et al. 2019.

    :math:`1 / \sum_g p_{cg}^2`, where :math:`p_{cg}` is the probability that a neighbour of :math:`c` is of group
    :math:`g`. Neighbours are drawn with weights proportional to :math:`\exp(-\beta_c d_{cd})` of their Euclidean
    distance, from the :math:`3 \times \mathrm{perplexity} - 1` nearest, the cell itself not among them;
    :math:`\beta_c` is such that the entropy of the weights is the logarithm of `perplexity`.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    groups
        Group of each cell, such as its batch, any values. None may be missing.
    perplexity
        Effective number of neighbours, more than 1.

    Returns
    -------
    float64 ``(n_cells,)``, from 1 (neighbours are of one group) to the number of groups (in equal shares).

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, a missing group, fewer than two groups, or too few cells.
    """
    z, code = check_cells(latent, groups=groups)
    if len(z) < len(latent):
        raise ValueError(f"groups misses {len(latent) - len(z)} of {len(latent)} values: leave these cells out")
    if not perplexity > 1:
        raise ValueError(f"perplexity is {perplexity}, it must be more than 1")
    distance, index = neighbours(z, int(3 * perplexity) - 1)
    found = np.empty(len(z))
    for start in range(0, len(z), BLOCK):
        part = slice(start, start + BLOCK)
        p = shares(code[index[part]], code.max() + 1, _weights(distance[part], perplexity))
        found[part] = 1 / np.sum(p**2, 1)
    return found


def _weights(distance: np.ndarray, perplexity: float) -> np.ndarray:
    """Weights exp(-beta d) of each cell's neighbours, which sum to 1 and have the entropy ln(perplexity).

    Where more neighbours than `perplexity` are equally near, no beta has this entropy: they share all the weight.
    """
    d = distance - distance[:, :1]  # weights stay as they are
    d /= np.maximum(d.mean(1, keepdims=True), np.finfo(float).tiny)
    low, high = (np.full((len(d), 1), end) for end in (LOW, HIGH))
    for _ in range(STEPS):
        middle = (low + high) / 2
        weight, entropy = _softmax(d, np.exp(middle))
        wide = entropy > np.log(perplexity)  # the entropy falls with beta
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return weight


def _softmax(d: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and their entropy."""
    weight = np.exp(-beta * d)
    total = weight.sum(1, keepdims=True)
    weight /= total
    return weight, np.log(total) + beta * np.sum(weight * d, 1, keepdims=True)
