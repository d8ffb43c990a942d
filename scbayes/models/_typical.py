r"""Whether a cell looks like the component that explains it best.

Two numbers, each of which a cell of the component should get right:

* *excess*, nats per count by which the cell's log likelihood :math:`\ln p(u_c \mid k)` exceeds what the component's own
  cells have on average at the same :math:`\nu_c`: negative where genes are on that the component does not have;
* *gain*, the share of the expected log likelihood ratio :math:`\ln p(u_c \mid k) - \ln p(u_c)` against all components
  as one that the cell reaches: low where genes are off that make the component what it is.

Real cells vary more than the model's. A cell's numbers are therefore ranked among those of cells known to be of the
component, scored by estimates that have not seen them: the rank is a p-value whatever the model misses (a conformal
one), and the model serves to make numbers of small and large cells comparable.
"""

import math
from typing import NamedTuple

import numpy as np

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters, score_cells
from scbayes.stats._chebyshev import chebyshev
from scbayes.stats._jit import jit


class Typicality(NamedTuple):
    """Best component of each cell, and the cell's excess and gain under it: ``(n_cells,)`` each."""

    best: np.ndarray
    excess: np.ndarray
    gain: np.ndarray


def typicality(
    components: Parameters, background: Parameters, scores: np.ndarray, counts: Counts, total: np.ndarray
) -> Typicality:
    """How typical cells with log likelihoods ``scores`` (n_cells, n_components) are of their best component.

    Parameters
    ----------
    background
        All components as one.
    total
        Total of each cell.
    """
    log_nu = components.log_nu
    grid = chebyshev(float(log_nu.min()), float(log_nu.max()), tolerance=1e-5)
    best, cells = scores.argmax(1), np.arange(len(scores))
    tables = expectations(components, background, np.exp(grid.nodes))[:, counts.batch, best]  # (2, cells, nodes)
    expected, ratio = np.einsum("icm,cm->ic", tables, grid.weights(log_nu))
    found = scores[cells, best]
    beyond = found - score_cells(background, counts).value[:, 0]
    return Typicality(best, (found - expected) / np.maximum(total, 1), beyond / np.maximum(ratio, 1e-6))


def surprise(cells: Typicality, known: Typicality, *, same: bool = False) -> np.ndarray:
    """Probability that a cell of its best component looks so untypical of it: ``(n_cells,)``.

    The smaller of the ranks of excess and gain among ``known`` cells with the same best component, ranked again.

    Parameters
    ----------
    same
        ``cells`` are the known ones themselves.
    """
    found = np.ones(len(cells.best))
    for k in np.unique(cells.best):
        mine, theirs = cells.best == k, known.best == k
        ranks = [
            (_rank(b[theirs], b[theirs], self=True), _rank(a[mine], b[theirs], self=same))
            for a, b in zip(cells[1:], known[1:], strict=True)
        ]
        reference, own = (np.minimum(*parts) for parts in zip(*ranks, strict=True))
        found[mine] = _rank(own, reference, self=same)
    return found


def _rank(value: np.ndarray, among: np.ndarray, *, self: bool) -> np.ndarray:
    """Share of ``among`` that is as low as each value; a value that is not among them counts as one more."""
    more = 0 if self else 1
    return (np.searchsorted(np.sort(among), value, side="right") + more) / (len(among) + more)


def expectations(components: Parameters, background: Parameters, nu: np.ndarray) -> np.ndarray:
    """Means of a cell's log likelihood, and of its ratio to the background's, if it is of the component.

    Returns float64 ``(2, n_batches, n_components, len(nu))``. Neither has a gate.
    """
    out = np.zeros((2, *components.size.shape[:2], len(nu)))
    for b in range(len(out[0])):
        own = components.size[b], components.log_odds[b]
        _expect(*own, background.size[b, 0], background.log_odds[b, 0], np.ascontiguousarray(nu), out[:, b])
    return out


@jit
def _expect(size, log_odds, back_size, back_log_odds, nu, out):
    for k in range(size.shape[0]):
        for g in range(size.shape[1]):
            r, s = size[k, g], back_size[g]
            odds, back_odds = math.exp(log_odds[k, g]), math.exp(back_log_odds[g])
            for m in range(len(nu)):
                o, p = nu[m] * odds, nu[m] * back_odds
                q, t = o / (1.0 + o), p / (1.0 + p)
                log_p, back = -r * math.log1p(o), -s * math.log1p(p)
                stop = r * o + 12.0 * math.sqrt(r * o * (1.0 + o)) + 30.0 * (1.0 + o)
                total, mean, ratio, u = 0.0, 0.0, 0.0, 0.0
                while True:
                    here = math.exp(log_p)
                    total += here
                    mean += here * log_p
                    ratio += here * (log_p - back)
                    if total > 1.0 - 1e-9 or u > stop:
                        break
                    log_p += math.log((r + u) * q / (u + 1.0))
                    back += math.log((s + u) * t / (u + 1.0))
                    u += 1.0
                out[0, k, m] += mean
                out[1, k, m] += ratio
