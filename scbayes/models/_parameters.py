r"""One value of every parameter, and what counts score under it.

Shapes: batches B, components K (one where there is no mixture), genes G, cells C, interpolation nodes M. Cell c of
component k and batch b has counts of gene g with size :math:`r_{bkg}`, odds :math:`\nu_c e^{b_{bkg}}`, and an excess
zero with probability :math:`\pi_{bkg}`.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from scbayes.counts import Counts
from scbayes.stats._chebyshev import Chebyshev, chebyshev

#: Distance of the nearest singularity of a gene's log probability of zero from the real line (in ln nu).
POLE = {False: np.pi, True: 0.5}
#: Beyond the outermost cells, since derivatives are least accurate at the ends.
MARGIN = 0.25
#: Numbers in a block of genes x nodes.
BLOCK = 2_000_000


class Parameters(NamedTuple):
    r"""One value of every parameter that the distribution of the counts reads.

    Attributes
    ----------
    size
        :math:`r`, float64 ``(B, K, G)``.
    log_odds
        :math:`b`, the log odds at :math:`\nu = 1`, float64 ``(B, K, G)``.
    gate
        :math:`\\pi`, probability of an excess zero, float64 ``(B, K, G)``; None without zero inflation.
    weights
        Weight of each component, float64 ``(K,)``, sum 1.
    log_nu
        :math:`\ln\nu`, float64 ``(C,)``; all zero without capture.
    """

    size: np.ndarray
    log_odds: np.ndarray
    gate: np.ndarray | None
    weights: np.ndarray
    log_nu: np.ndarray

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self.size.shape[1]

    @property
    def mean(self) -> np.ndarray:
        r"""Expected counts at :math:`\nu = 1` and without excess zeros, :math:`r e^b`: ``(B, K, G)``."""
        return self.size * np.exp(self.log_odds)

    def component(self, k: int) -> "Parameters":
        """Those of one component alone."""
        gate = None if self.gate is None else self.gate[:, k : k + 1]
        return self._replace(
            size=self.size[:, k : k + 1], log_odds=self.log_odds[:, k : k + 1], gate=gate, weights=np.ones(1)
        )

    def genes(self, index) -> "Parameters":
        """Those of some genes."""
        gate = None if self.gate is None else self.gate[:, :, index]
        return self._replace(size=self.size[:, :, index], log_odds=self.log_odds[:, :, index], gate=gate)

    def log_zero(self, log_nu: np.ndarray) -> np.ndarray:
        """Log probability of a zero at each of ``log_nu`` (M,): float64 ``(B, K, G, M)``."""
        size = self.size[..., None]
        log_fail = -size * np.logaddexp(0, self.log_odds[..., None] + log_nu)
        if self.gate is None:
            return log_fail
        gate = self.gate[..., None]
        return np.log(gate + (1 - gate) * np.exp(log_fail))


class Scores(NamedTuple):
    """Log likelihood of each cell under each component, and its first two derivatives in ln nu: ``(C, K)`` each."""

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


def score_cells(parameters: Parameters, counts: Counts, gene_weights: np.ndarray | None = None) -> Scores:
    """Log likelihood of each cell under each component, at ``parameters.log_nu``.

    Parameters
    ----------
    gene_weights
        Multiplies the log probability of each gene, ``(G,)``.
    """
    log_nu = parameters.log_nu
    found = counts.score_cells(*_tables(parameters), np.exp(log_nu), gene_weights)
    grid = grid_over(log_nu, gate=parameters.gate is not None)
    zero = sum_of_log_zeros(parameters, grid.nodes, gene_weights)[counts.batch]  # (C, K, M)
    for order, weights in enumerate(interpolations(grid, log_nu)):
        found[..., order] += np.einsum("ckm,cm->ck", zero, weights)
    return Scores(found[..., 0], found[..., 1], found[..., 2])


def score_genes(parameters: Parameters, counts: Counts, responsibilities: np.ndarray) -> np.ndarray:
    """Log likelihood of each gene, cells weighted by ``responsibilities`` (C, K): float64 ``(K, G)``."""
    log_nu = parameters.log_nu
    found = np.moveaxis(counts.score_genes(*_tables(parameters), np.exp(log_nu), responsibilities), -1, 1)
    grid = grid_over(log_nu, gate=parameters.gate is not None)
    weights = grid.weights(log_nu)
    for b in range(counts.n_batches):
        cells = counts.batch == b
        on_nodes = responsibilities[cells].T @ weights[cells]  # (K, M)
        for genes in _blocks(parameters, len(grid.nodes)):
            zero = parameters.genes(genes).log_zero(grid.nodes)[b]
            found[b][:, genes] += np.einsum("kgm,km->kg", zero, on_nodes)
    return found.sum(0)


def log_responsibilities(scores: np.ndarray, weights: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log probability of each component given the cell, from log likelihoods ``(C, K)``."""
    with np.errstate(divide="ignore"):
        joint = scores / temperature + np.log(weights)
    return joint - logsumexp(joint, axis=1, keepdims=True)


def grid_over(log_nu: np.ndarray, *, gate: bool) -> Chebyshev:
    """Interpolation nodes that cover ``log_nu``."""
    low, high = float(np.min(log_nu)), float(np.max(log_nu))
    return chebyshev(low - MARGIN, high + MARGIN, pole=POLE[gate], tolerance=1e-9)


def interpolations(grid: Chebyshev, x: np.ndarray) -> list[np.ndarray]:
    """Weights ``(n, M)`` of the nodes in the value, the slope and the second derivative at each ``x``."""
    basis, turn = grid.basis(x), grid.derivative
    return [basis @ grid.transform, basis @ turn @ grid.transform, basis @ turn @ turn @ grid.transform]


def sum_of_log_zeros(parameters: Parameters, log_nu: np.ndarray, gene_weights: np.ndarray | None = None) -> np.ndarray:
    """Log probability that a cell has no counts at all, at each of ``log_nu`` (M,): ``(B, K, M)``."""
    if parameters.gate is None and gene_weights is None and shares_odds(parameters):
        return -parameters.size.sum(-1)[..., None] * np.logaddexp(0, parameters.log_odds[..., :1] + log_nu)
    total = np.zeros((*parameters.size.shape[:2], len(log_nu)))
    for genes in _blocks(parameters, len(log_nu)):
        zero = parameters.genes(genes).log_zero(log_nu)
        total += zero.sum(2) if gene_weights is None else np.einsum("bkgm,g->bkm", zero, gene_weights[genes])
    return total


def shares_odds(parameters: Parameters) -> bool:
    """Whether all genes have the same odds."""
    log_odds = parameters.log_odds
    return log_odds.shape[-1] > 1 and bool(np.all(log_odds == log_odds[..., :1]))


def _blocks(parameters: Parameters, n_nodes: int) -> list[slice]:
    n_batches, n_components, n_genes = parameters.size.shape
    step = max(1, BLOCK // (n_batches * n_components * n_nodes))
    return [slice(first, first + step) for first in range(0, n_genes, step)]


def _tables(parameters: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Size, odds (of one gene where all share them) and gate with components last, as the kernels read them."""
    gate = None if parameters.gate is None else np.moveaxis(parameters.gate, 1, -1)
    odds = np.exp(parameters.log_odds[..., :1] if shares_odds(parameters) else parameters.log_odds)
    return np.moveaxis(parameters.size, 1, -1), np.moveaxis(odds, 1, -1), gate
