r"""Draws of native counts, with all that is not known of the ambient ones: the data of multiple imputation.

A draw begins with the share of ambient counts :math:`\rho_c` (the error of a sample's level, which its cells have in
common, and each cell's own), and the profile :math:`a`. Of gene g in a group of cells then

.. math:: \Lambda_g = \max\Big(0,\; T_g + \sqrt{T_g + \phi_g \textstyle\sum_c m_{cg}^2}\;\varepsilon_g
          - a_g \sum_c N_c \rho_c\Big), \qquad \varepsilon_g \sim \mathrm{N}(0, 1)

native counts are expected, of :math:`T_g` observed ones. Without :math:`\varepsilon` draws would vary by less than the
doubt: they would take the expected number of native counts for known. Each count is then divided by its posterior.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.special import ndtri

from scbayes.counts import Counts
from scbayes.models._ambient_counts import AmbientCells
from scbayes.models._ambient_group import AmbientGroup, make_groups
from scbayes.models._native_counts import draw_ambient, native_size
from scbayes.models._native_noise import dispersion

#: No cell has more ambient counts than this share.
MOST = 0.98


def native_draws(
    counts: Counts, kind: np.ndarray, ambient: AmbientCells, n_draws: int, rng: np.random.Generator
) -> Iterator[sparse.csr_array]:
    """Draws of the native part of ``counts``, whole numbers, one at a time.

    Parameters
    ----------
    counts
        In memory, CSR; its batches are the strata of ``ambient``.
    kind
        Of each cell, integers: cells of one kind, sample and stratum express a gene alike.
    """
    strata = ambient.strata
    groups = make_groups(counts, kind, strata.sample[counts.batch], strata.profile, level=0.0)
    for group in groups:
        group.level = float(group.total @ ambient.fraction[group.cells] / group.exposure)
    deltas = [(ambient.fraction[g.cells] - g.level) / (1 - g.level) for g in groups]
    spread = dispersion(groups, deltas)
    for group in groups:
        group.dispersion = spread
    levels = _normal_scores(n_draws, strata.sample.max() + 1, rng)
    for i in range(n_draws):
        errors = rng.normal(size=(strata.batch.max() + 1, counts.n_genes))[strata.batch].T
        profile = np.maximum(strata.profile + errors * strata.profile_sd, 0.0)
        common = (1 + strata.level_sd * levels[strata.sample, i])[ambient.stratum]
        share = ambient.fraction * common + ambient.sd * rng.normal(size=counts.n_cells)
        share = np.clip(share, 0.0, MOST)
        whole = counts.x.data.astype(np.float64)
        for group in groups:
            _divide(counts, group, share, profile[:, counts.batch[group.cells[0]]], whole, rng)
        drawn = sparse.csr_array((whole, counts.x.indices.copy(), counts.x.indptr.copy()), shape=counts.x.shape)
        drawn.eliminate_zeros()
        yield drawn


def _divide(
    counts: Counts, group: AmbientGroup, share: np.ndarray, profile: np.ndarray, whole: np.ndarray, rng
) -> None:
    """Take a draw of the ambient counts of a group from ``whole``."""
    rate = group.total * share[group.cells]
    own = group.total - rate
    native = group.native(group.mean)
    error = np.sqrt(group.sums + group.dispersion * native**2 * (group.total @ group.total))
    expected = group.sums + error * rng.normal(size=len(error)) - profile * rate.sum()
    tables = rate, own, profile, np.maximum(expected, 0.0) / own.sum(), native_size(group)
    x = counts.x
    draw_ambient(x.indptr, x.indices, x.data, group.cells, *tables, whole, rng)


def _normal_scores(n: int, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of ``n`` numbers with mean 0 and variance 1 that cover a normal distribution evenly, in random order.

    What all genes have in common is so as wide among few draws as it should be, and not by chance.
    """
    score = ndtri((np.arange(n) + 0.5) / n)
    return rng.permuted(np.tile(score / score.std(ddof=1), (n_rows, 1)), axis=1)
