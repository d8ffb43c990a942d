"""Weights of a mixture by expectation and maximisation."""

from functools import partial

import numpy as np

from scbayes.stats._jit import jit


@partial(jit, fastmath={"reassoc"})
def expected_members(likely: np.ndarray, weight: np.ndarray, found: np.ndarray) -> None:
    """Expected number of members of each part, into ``found`` ``(n_parts,)``.

    ``likely`` is ``(n_members, n_parts)``, up to a constant of each row.
    """
    found[:] = 0
    for g in range(likely.shape[0]):
        total = 0.0
        for k in range(likely.shape[1]):
            total += likely[g, k] * weight[k]
        scale = 1 / total
        for k in range(likely.shape[1]):
            found[k] += likely[g, k] * scale
    found *= weight
