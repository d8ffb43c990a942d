r"""How many of several things are present, and which: sums over all subsets, in the time of one pass.

Thing i is present with weight :math:`b_i` and absent with :math:`a_i`, independently but for a factor
:math:`t_K` that the number K of present ones brings:

.. math::
    w(z) = t_{|z|} \prod_i b_i^{z_i} a_i^{1 - z_i}, \qquad
    \sum_{|z| = k} \prod_i b_i^{z_i} a_i^{1 - z_i} = \prod_i a_i \cdot e_k(b_1/a_1, b_2/a_2, \dots)

The sums over subsets of k are elementary symmetric polynomials, found by adding one thing after the other. The last
number stands for "so many or more". All terms are positive: nothing cancels.
"""

import numpy as np

from scbayes.stats._jit import jit


@jit
def add_up(absent: np.ndarray, present: np.ndarray, n: int, sums: np.ndarray) -> None:
    """Sums over the subsets of the first i things, for each i up to ``n`` and each number, ``(>= n + 1, K + 1)``.

    ``sums`` has zeros at the beginning, or what was left here: of i things, no more than i are present.
    """
    last = sums.shape[1] - 1
    sums[0, 0] = 1.0
    for i in range(n):
        sums[i + 1, 0] = sums[i, 0] * absent[i]
        for k in range(1, min(i + 1, last) + 1):
            sums[i + 1, k] = sums[i, k] * absent[i] + sums[i, k - 1] * present[i]
        if i >= last:
            sums[i + 1, last] += sums[i, last] * present[i]


@jit
def split_up(
    absent: np.ndarray,
    present: np.ndarray,
    n: int,
    factor: np.ndarray,
    sums: np.ndarray,
    with_it: np.ndarray,
    without_it: np.ndarray,
) -> float:
    """Total weight, and in it the part of the subsets with each thing and without it.

    Parameters
    ----------
    absent, present
        Weights of the things, of which the first ``n`` count.
    factor
        Of each number, ``(K + 1,)``.
    sums
        What :func:`add_up` left.
    with_it, without_it
        Filled, ``(n,)``: they add up to the total.
    """
    last = len(factor) - 1
    rest = factor.copy()  # sums over subsets of the things behind, by the number before them
    total = 0.0
    for k in range(min(n, last) + 1):
        total += sums[n, k] * factor[k]
    for i in range(n - 1, -1, -1):
        inside, outside = 0.0, 0.0
        for k in range(min(i, last) + 1):
            inside += sums[i, k] * rest[min(k + 1, last)]
            outside += sums[i, k] * rest[k]
        with_it[i] = inside * present[i]
        without_it[i] = outside * absent[i]
        for k in range(min(i, last - 1) + 1):
            rest[k] = rest[k] * absent[i] + rest[k + 1] * present[i]
        rest[last] *= absent[i] + present[i]
    return total


def of_each(present: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Probability of each thing, where things have the probabilities ``present`` but for ``factor``."""
    n = len(present)
    sums, inside, outside = np.zeros((n + 1, len(factor))), np.zeros(n), np.zeros(n)
    add_up(1 - present, present, n, sums)
    return inside / split_up(1 - present, present, n, factor, sums, inside, outside)


def of_numbers(present: np.ndarray, most: int) -> np.ndarray:
    """Probability of each number from 0 to ``most`` or more, things being independent: ``(most + 1,)``."""
    sums = np.zeros((len(present) + 1, most + 1))
    add_up(1 - present, present, len(present), sums)
    return sums[-1]
