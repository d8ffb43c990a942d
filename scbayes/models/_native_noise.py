r"""How native expression varies between cells of a group: learned, so that it is not taken for ambient RNA."""

import numpy as np
from scipy import sparse

from scbayes.counts._leave_out import leave_out_sums
from scbayes.models._ambient_group import FLOOR, AmbientGroup
from scbayes.models._ambient_scores import anchored, gene_weights

#: Programmes of a kind of cells at most, and how far above noise their variance must be.
N_PROGRAMMES, ABOVE_NOISE = 4, 1.15
#: Counts of information that the median over genes is worth in the dispersion of one.
PRIOR_INFORMATION = 20.0
#: Halves of the genes of like information that are compared, and weight of "as expected" in the noise of a single cell.
N_HALVES, PRIOR_HALVES = 12, 4.0
#: Native variance is at most this often what was modelled.
LARGEST_NOISE = 1000.0
#: Weights follow the noise up to one more time for each so many cells of a kind: with few cells it is not known well
#: enough which genes they do not express. What is left of it widens the likelihood of each cell, by this power.
CELLS_A_TIME, POWER_OF_REST = 60, 0.5
#: Cells whose halves differ this often as much (squared) as they should are no such cells.
ODD = 2.5
#: Squared distances beyond this many medians count as that.
OUTLYING = 4.5
N_ITERATIONS = 4


def dispersion(groups: list[AmbientGroup], deltas: list[np.ndarray]) -> np.ndarray:
    r"""Squared coefficient of variation :math:`\phi_g` of native expression, by moments over all groups.

    .. math:: E \sum_c (x_{cg} - N_c\mu_{cg})^2 = \sum_c N_c \mu_{cg} + \phi_g \sum_c (N_c p_{cg})^2

    drawn to the median over genes where the second sum is small.
    """
    excess, square = 0.0, 0.0
    for group, delta in zip(groups, deltas, strict=True):
        mean, n = group.mean, group.total
        along = group.profile - mean
        by_delta = group.x.T @ (n * delta)
        between = mean * group.by_total + along * by_delta
        n2, n2d, n2dd = n @ n, n @ (n * delta), (n * delta) @ (n * delta)
        expected = mean**2 * n2 + 2 * mean * along * n2d + along**2 * n2dd
        excess = excess + group.squares - 2 * between + expected - mean * n.sum() - along * (n @ delta)
        square = square + group.native(mean) ** 2 * np.sum((n * (1 - delta)) ** 2)
    excess = np.maximum(excess, 0.0)
    known = square > PRIOR_INFORMATION
    typical = np.median(excess[known] / square[known]) if known.any() else 0.3
    return (excess + typical * PRIOR_INFORMATION) / (square + PRIOR_INFORMATION)


def find_programmes(groups: list[AmbientGroup], rng: np.random.Generator) -> None:
    """Set the programmes of the groups of one kind: principal components of standardized native residuals.

    Components are sought at right angles to the ambient direction, on genes as far as they are native. What a programme
    has along the ambient direction follows from how its scores vary together with those of the ambient direction.
    """
    scales = [_scale(group) for group in groups]
    native = [group.native(mean) / mean for group in groups for mean in [group.expected()]]
    filters = [share / scale for share, scale in zip(native, scales, strict=True)]
    rows = [sparse.diags_array(1 / group.total) @ group.x for group in groups]
    means = [group.mean for group in groups]
    along = np.linalg.qr(
        np.column_stack([(g.profile - m) * f for g, m, f in zip(groups, means, filters, strict=True)])
    )[0]
    observed = [group.sums / group.exposure for group in groups]

    def forward(vectors: np.ndarray) -> np.ndarray:
        pairs = zip(rows, observed, filters, strict=True)
        return np.vstack([x @ (vectors * f[:, None]) - m @ (vectors * f[:, None]) for x, m, f in pairs])

    def back(scores: np.ndarray) -> np.ndarray:
        found, first = 0.0, 0
        for x, m, f in zip(rows, observed, filters, strict=True):
            own = scores[first : first + x.shape[0]]
            found, first = found + (x.T @ own - np.outer(m, own.sum(0))) * f[:, None], first + x.shape[0]
        return found - along @ (along.T @ found)

    n_genes, n_cells = len(means[0]), sum(len(group.cells) for group in groups)
    share2 = np.mean(np.square(native), axis=0)
    width = min(N_PROGRAMMES + 8, n_cells, n_genes)
    vectors = rng.normal(size=(n_genes, width))
    vectors = np.linalg.qr(vectors - along @ (along.T @ vectors))[0]
    for _ in range(N_ITERATIONS):
        vectors = np.linalg.qr(back(forward(vectors)))[0]
    scores = forward(vectors)
    value, turn = np.linalg.eigh(scores.T @ scores / n_cells)
    value, vectors = value[::-1], vectors @ turn[:, ::-1]
    # the largest variance of pure noise (Marchenko & Pastur), and variances without what noise adds (spiked model)
    floor = np.maximum(share2 @ vectors**2, 1e-12)
    ratio = share2.sum() ** 2 / max(np.sum(share2**2), 1e-300) / n_cells
    n = min(N_PROGRAMMES, int(np.sum(value / floor > ABOVE_NOISE * (1 + np.sqrt(ratio)) ** 2)))
    above = value[:n] / floor[:n] + 1 - ratio
    signal = floor[:n] * ((above + np.sqrt(np.maximum(above**2 - 4 * value[:n] / floor[:n], 0))) / 2 - 1)
    vectors, loads = vectors[:, :n], np.sqrt(np.maximum(signal, 1e-12))
    scores = forward(vectors)
    first = 0
    for group, x, m, mean, scale, share in zip(groups, rows, observed, means, scales, native, strict=True):
        own = scores[first : first + len(group.cells)]
        first += len(group.cells)
        direction = (group.profile - mean) / scale
        direction /= max(np.linalg.norm(direction), 1e-300)
        found = vectors * loads
        if n:
            soup = x @ (direction / scale) - m @ (direction / scale)
            together = soup @ own / len(own)
            r2 = np.sum(together**2 / value[:n]) / max(np.mean(soup**2), 1e-300)
            sure = max(0.0, 1 - n / len(own) * (1 - r2) / max(r2, 1e-9))  # what is left after chance correlations
            missing = sure * together / loads - direction @ found
            found = found + np.outer(direction * share, missing / max(direction**2 @ share, 1e-9))
        group.programmes = found * scale[:, None]


def _scale(group: AmbientGroup) -> np.ndarray:
    """Standard deviation of the share of each gene in a cell."""
    mean = np.maximum(group.expected(), 0.02 * group.profile)
    return np.sqrt(mean * np.mean(1 / group.total) + group.native_variance(group.expected()))


def find_noise(groups: list[AmbientGroup]) -> list[np.ndarray]:
    r"""Set how noisy native expression of one kind is, and return how much noisier than that each cell is.

    :math:`\delta` is estimated from two halves of the genes: of like information, and those that are mostly ambient
    beside those that are mostly native. They differ by Poisson noise and by native variance: how many times the native
    variance is what was modelled follows. A cell whose halves differ far more than in others is no such cell, and says
    less.
    """
    seen = []
    for group in groups:
        typical = 1 / np.mean(1 / group.total)
        weight, change = gene_weights(group, 0.0, typical)
        mean = group.expected()
        halves = _halves(np.maximum(weight * (group.profile - mean), 0), group.profile / mean)
        weights, changes = weight[:, None] * halves, change[:, None] * halves
        average, rise = anchored(group, weights, changes)
        both = np.repeat((rise > 0).reshape(-1, 2).all(1), 2)  # a half that knows nothing has no other to differ from
        rise = np.where(both, rise, np.inf)
        sums = leave_out_sums(group.x, group.total, weights, changes, group.sums / group.exposure)
        delta = (sums / group.total[:, None] - average) / rise
        each = weights / rise
        each = each[:, ::2] - each[:, 1::2]
        poisson = np.maximum(mean, FLOOR * group.profile) @ each**2
        native = group.native_variance(mean) @ each**2 + np.sum((group.programmes.T @ each) ** 2, axis=0)
        seen.append((delta[:, ::2] - delta[:, 1::2], np.outer(1 / group.total, poisson), native))
    total = np.zeros((3, N_HALVES + 1))
    for difference, poisson, native in seen:
        limit = OUTLYING * np.median(np.abs(difference), axis=0)
        square = np.minimum(np.abs(difference), limit)
        total += np.stack([np.sum(square**2, 0), poisson.sum(0), len(square) * native])
    times = (total[0] - total[1]) / np.maximum(total[2], 1e-300)
    noise = float(np.clip(max(times[0], times[1:].mean()), 1.0, LARGEST_NOISE))
    followed = min(noise, 1 + sum(len(group.cells) for group in groups) / CELLS_A_TIME)
    for group in groups:
        group.noise, group.unexplained = followed, noise
    ratios = [d**2 / np.maximum(poisson + noise * native, 1e-300) for d, poisson, native in seen]
    found = [(PRIOR_HALVES + r.sum(1)) / (PRIOR_HALVES + r.shape[1]) for r in ratios]
    return [np.where(each > ODD, each, 1.0) * (noise / followed) ** POWER_OF_REST for each in found]


def _halves(information: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Halves of the genes in pairs of columns: first by how ambient they are, then of like information.

    The latter are Walsh functions of the rank by information, so that they do not depend on the order of the genes.
    """
    order = np.argsort(-ratio, kind="stable")
    summed = np.cumsum(information[order])
    ambient = np.zeros(len(ratio), bool)
    ambient[order[summed < summed[-1] / 2]] = True
    rank = np.empty(len(ratio), np.int64)
    rank[np.argsort(-information, kind="stable")] = np.arange(len(ratio))
    firsts = [ambient, *(np.bitwise_count(rank & code) % 2 == 1 for code in range(1, N_HALVES + 1))]
    return np.column_stack([half for first in firsts for half in (first, ~first)]).astype(float)
