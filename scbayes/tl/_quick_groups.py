"""Groups of cells that are plainly apart, for steps that need kinds of cells and were given none."""

import numpy as np

from scbayes.counts import Counts
from scbayes.tl._start_components import principal_components

#: Components, and small clusters to start with.
N_PCS, N_CLUSTERS = 20, 25
#: Clusters are one group if their centres lie less than this many standard deviations apart on the line between them.
APART = 4.0
#: Smaller groups join the nearest.
MIN_CELLS = 40


def quick_groups(counts: Counts, seed: int) -> np.ndarray:
    """Group of each cell, integers from 0, shape ``(n_cells,)``.

    K-means of principal components into more clusters than there are kinds, then the two nearest clusters are joined as
    long as two normal distributions at their places would not have two humps with a gap between them. A gradient, as of
    shares of ambient RNA, stays one group.
    """
    if counts.n_cells < 2 * MIN_CELLS:
        return np.zeros(counts.n_cells, int)
    return groups_apart(principal_components(counts, seed)[0][:, :N_PCS], seed)


def groups_apart(pcs: np.ndarray, seed: int) -> np.ndarray:
    """As :func:`quick_groups`, of cells with these coordinates ``(n_cells, n)``."""
    from sklearn.cluster import KMeans

    if len(pcs) < 2 * MIN_CELLS or not np.ptp(pcs):
        return np.zeros(len(pcs), int)
    n = min(len(pcs) // MIN_CELLS, N_CLUSTERS)
    code = KMeans(n, n_init=3, random_state=seed).fit_predict(pcs)
    while code.max() > 0:
        distance = _distances(pcs, code)
        size = np.bincount(code)
        small = size < MIN_CELLS
        if small.any():
            one = int(np.argmin(size))
            other = int(np.argmin(distance[one]))
        else:
            one, other = np.unravel_index(np.argmin(distance), distance.shape)
            if distance[one, other] >= APART:
                break
        code = np.where(code == max(one, other), min(one, other), code)
        code = np.unique(code, return_inverse=True)[1]
    return code


def _distances(pcs: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Distance of the centres of clusters in standard deviations along the line between them; infinite to itself."""
    n = code.max() + 1
    size = np.bincount(code)
    centre = np.stack([np.bincount(code, pc, n) / size for pc in pcs.T], axis=1)
    spread = [np.atleast_2d(np.cov(pcs[code == k].T, bias=True)) for k in range(n)]
    found = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(i):
            line = centre[i] - centre[j]
            length = np.linalg.norm(line)
            line = line / max(length, 1e-12)
            sd = (np.sqrt(line @ spread[i] @ line) + np.sqrt(line @ spread[j] @ line)) / 2
            found[i, j] = found[j, i] = length / max(sd, 1e-12)
    return found
