r"""Native counts behind the observed ones, given the share of ambient counts of each cell.

.. math:: x_{cg} = \text{native} + \text{ambient}, \qquad \text{ambient} \sim \mathrm{Poisson}(N_c \rho_c a_g), \qquad
          \text{native} \sim \mathrm{NB}(N_c (1 - \rho_c)\, p_g,\ r_g)

with p of the cell's group. The posterior of the division of each count is exact (:mod:`scbayes.stats._delaporte`).
"""

import numpy as np
from scipy import sparse

from scbayes.models._ambient_group import AmbientGroup
from scbayes.stats._delaporte import divide
from scbayes.stats._jit import jit

#: Bounds of the size r, and classes of probability in which single molecules are ranked.
SIZES = (0.05, 1e4)
N_CLASSES = 256
#: How native counts are made whole.
ROUNDINGS = ("ranked", "stochastic", "draw")


def native_profile(group: AmbientGroup) -> np.ndarray:
    """Share p of each gene in native counts, drawn to 0 where it may be all ambient, ``(n_genes,)``."""
    mean = group.expected()
    above = group.native(mean)
    error = np.sqrt(mean / group.exposure + (0.1 * group.level * group.profile) ** 2)
    above = above**2 / (above + error)
    return above / max(above.sum(), 1e-300)


def native_size(group: AmbientGroup) -> np.ndarray:
    """Size r of native counts, of their overdispersion: programmes are part of it, ``(n_genes,)``."""
    dispersion = np.clip(group.dispersion, 1 / SIZES[1], 1 / SIZES[0])
    return np.ascontiguousarray(np.broadcast_to(1 / dispersion, group.profile.shape))


def divide_counts(
    x: sparse.csr_array, groups: list[AmbientGroup], share: np.ndarray, *, rounding: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    r"""Posterior mean and a whole number of native counts for each stored value of ``x``, both ``(n_stored,)``.

    Parameters
    ----------
    x
        Cells x genes; what is in no group stays as it is.
    share
        :math:`\rho` of each cell.
    rounding
        ``"ranked"``: of each gene in each group as many counts are taken as are expected to be ambient, where they are
        likeliest ambient. ``"stochastic"``: means rounded up or down at random. ``"draw"``: from the posterior.
    """
    native = x.data.astype(np.float32)  # whole numbers up to 2^24 are exact
    whole = native.copy()
    for group in groups:
        n = x.shape[1]
        rate = group.total * share[group.cells]
        tables = (rate, group.total - rate, group.profile, native_profile(group), native_size(group))
        seen, taken = np.zeros((n, N_CLASSES), np.int64), np.zeros(n)
        order = rng.permutation(len(group.cells))
        cells, vectors = group.cells[order], (x.indptr, x.indices, x.data)
        tables = (tables[0][order], tables[1][order], *tables[2:])
        _divide(*vectors, cells, *tables, native, seen, taken)
        if rounding == "ranked":
            extra = taken - np.floor(taken)
            least, left = _limits(seen, np.floor(taken) + (rng.random(n) < extra))
            _take(*vectors, cells, *tables, whole, least, left)
        elif rounding == "draw":
            draw_ambient(*vectors, cells, *tables, whole, rng)
    if rounding == "stochastic":
        low = np.floor(native)
        whole = low + (rng.random(len(native)) < native - low)
    return native, whole


def _limits(seen: np.ndarray, take: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class above which all molecules of a gene are taken, and how many more of that class."""
    above = np.cumsum(seen[:, ::-1], axis=1)[:, ::-1]  # molecules of this class and higher
    least = np.sum(above > take[:, None], axis=1) - 1
    beyond = np.where(least < 0, 0, np.take_along_axis(above, np.clip(least + 1, 0, N_CLASSES - 1)[:, None], 1)[:, 0])
    beyond = np.where(least + 1 >= N_CLASSES, 0, beyond)
    return least, np.where(least < 0, 0, np.round(take) - beyond).astype(np.int64)


@jit
def _class(probability):
    """Classes are finer towards 1, where most molecules that are taken lie."""
    return min(int(probability * N_CLASSES), N_CLASSES - 1)


@jit
def _longest(indptr, data, cells):
    longest = 1.0
    for c in cells:
        for k in range(indptr[c], indptr[c + 1]):
            longest = max(longest, data[k])
    return int(longest)


@jit
def _divide(indptr, indices, data, cells, ambient, own, profile, share, size, native, seen, taken):  # noqa: PLR0917
    tail = np.empty(_longest(indptr, data, cells))
    for i in range(len(cells)):
        for k in range(indptr[cells[i]], indptr[cells[i] + 1]):
            g = indices[k]
            mean = divide(data[k], ambient[i] * profile[g], own[i] * share[g], size[g], tail)
            native[k] = max(data[k] - mean, 0.0)
            taken[g] += mean
            for j in range(int(data[k])):
                seen[g, _class(tail[j])] += 1


@jit
def _take(indptr, indices, data, cells, ambient, own, profile, share, size, whole, least, left):  # noqa: PLR0917
    tail = np.empty(_longest(indptr, data, cells))
    for i in range(len(cells)):
        for k in range(indptr[cells[i]], indptr[cells[i] + 1]):
            g = indices[k]
            divide(data[k], ambient[i] * profile[g], own[i] * share[g], size[g], tail)
            for j in range(int(data[k])):
                one = _class(tail[j])
                if one > least[g]:
                    whole[k] -= 1
                elif one == least[g] and left[g] > 0:
                    whole[k] -= 1
                    left[g] -= 1


@jit
def draw_ambient(indptr, indices, data, cells, ambient, own, profile, share, size, whole, rng):  # noqa: PLR0917
    """Take a draw of the ambient part of each count from ``whole``."""
    tail = np.empty(_longest(indptr, data, cells))
    for i in range(len(cells)):
        for k in range(indptr[cells[i]], indptr[cells[i] + 1]):
            g = indices[k]
            divide(data[k], ambient[i] * profile[g], own[i] * share[g], size[g], tail)
            u = rng.random()
            for j in range(int(data[k])):
                if tail[j] > u:
                    whole[k] -= 1
