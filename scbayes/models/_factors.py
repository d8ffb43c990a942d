r"""A linear factor model of counts: a latent space without a network.

.. math::
    x_{cg} \sim \mathrm{NB}(\text{mean } N_c\, \rho_{cg}, \text{size } \theta_g), \qquad
    \rho_c = \mathrm{softmax}_g(b_{g\beta(c)} + W_g^T z_c), \qquad z_c \sim N(0, I_K)

with :math:`N_c` the cell's total and :math:`\beta(c)` its batch. Rounds alternate between the cells, whose posteriors
are normal around their modes (:mod:`scbayes.models._factor_cells`), and the genes, which take a Newton step each
(:mod:`scbayes.models._factor_genes`): variational EM, with the likelihood expanded to second order. Each round the
factors are also scaled to what was found of the cells, which plain EM does slowly (parameter expansion, Liu, Rubin & Wu
1998).

The likelihood does not know a rotation of the factors. They are turned such that the cells' average precision is
diagonal, sorted by it, and the largest loading of each is positive.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts import Counts
from scbayes.models._factor_cells import Genes, climb, deviation, visit
from scbayes.models._factor_genes import GeneState, Pairs, Priors, Sums, pairs_of
from scbayes.models._factor_start import blocks, padded, start_cells, start_log_theta, start_offset

#: With more cells, the first rounds read about so many of them, drawn at random.
FEW = 4096
#: Newton steps of a cell at most: in a round of a fit, and from the prior's mean to its mode.
ROUND_STEPS, ALL_STEPS = 3, 50
#: A cell is at its mode when its step is below this (a priori standard deviations).
AT_MODE = 1e-3
#: Variances of offsets between batches and of loadings before the first round.
FIRST_OFFSET, FIRST_LOADINGS = 0.25, 0.1


class FactorParams(NamedTuple):
    """Genes of a factor model, float64.

    Attributes
    ----------
    loadings
        W, change in log share for one a priori standard deviation of each factor, shape ``(n_genes, n_latent)``.
    offset
        b, log share up to a constant where z is 0, shape ``(n_genes, n_batches)``.
    log_theta
        Log size of the negative binomial, shape ``(n_genes,)``; infinite: Poisson.
    """

    loadings: np.ndarray
    offset: np.ndarray
    log_theta: np.ndarray


class FactorFit(NamedTuple):
    """A fitted factor model.

    Attributes
    ----------
    params
        The genes.
    loc, scale
        Mode and standard deviations of each cell's factors, float64, shape ``(n_cells, n_latent)`` each.
    information
        What a cell says on average about each factor, in units of the prior's precision (which is 1), ``(n_latent,)``,
        descending. An inactive factor has about 0.
    history
        Expected log likelihood and divergence from the prior per cell (nats) before each round's step of the genes,
        ``(n_rounds, 2)``; their difference is the ELBO. The first `n_few` rounds read `FEW` cells only.
    n_few
        Number of those rounds, 0 where all cells were read from the start.
    converged
        Whether the ELBO had stopped rising.
    """

    params: FactorParams
    loc: np.ndarray
    scale: np.ndarray
    information: np.ndarray
    history: np.ndarray
    n_few: int
    converged: bool


def fit_factors(
    counts: Counts,
    log_size: np.ndarray | None = None,
    *,
    n_latent: int = 10,
    likelihood: str = "nb",
    seed: int = 0,
    n_rounds: int = 40,
    tolerance: float = 3e-4,
    on_round: Callable[[int, float], object] | None = None,
) -> FactorFit:
    """Fit the model to counts, batches as in ``counts``.

    Parameters
    ----------
    counts
        Cells x genes with the batch of each cell.
    log_size
        Log of the expected total of each cell, ``(n_cells,)``; the observed total if None. ``-inf`` is an empty cell.
    n_latent
        Number of factors.
    likelihood
        ``"nb"`` or ``"poisson"``.
    seed
        Of the start, and of the choice of cells for the first rounds.
    n_rounds
        Rounds over few cells, and over all of them, at most.
    tolerance
        The rounds end when two of them together have raised the ELBO by less than this fraction.
    on_round
        Called after each round with its number from 0 and the ELBO per cell; if it returns something true, the fit
        ends there, at parameters that can be used.

    Returns
    -------
    Parameters, cells, and how it went. The same seed gives the same result on the same machine.

    Raises
    ------
    ValueError
        If ``n_latent`` or ``n_rounds`` is below 1, or the likelihood is another.
    """
    if n_latent < 1 or n_rounds < 1:
        msg = f"n_latent and n_rounds must be at least 1, not {n_latent} and {n_rounds}"
        raise ValueError(msg)
    if likelihood not in ("nb", "poisson"):
        msg = f"likelihood must be 'nb' or 'poisson', not {likelihood!r}"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    size = counts.totals().astype(float) if log_size is None else np.exp(np.asarray(log_size, float))
    history: list[tuple[float, float]] = []

    def tell(value: float, divergence: float) -> bool:
        history.append((value, divergence))
        return on_round is not None and bool(on_round(len(history) - 1, value - divergence))

    some, own = counts, slice(None)
    if counts.n_cells > FEW:
        own = np.zeros(counts.n_cells, bool)
        own[rng.choice(counts.n_cells, FEW, replace=False)] = True
        some = counts.pick(own)
    rounds = _Rounds(some, size[own], n_latent, likelihood, rng)
    ended = rounds.run(n_rounds, tolerance, tell)
    n_few = 0
    if some is not counts:
        n_few = len(history)
        rounds.take(counts, size)
        ended = rounds.run(1 if ended is None else n_rounds, tolerance, tell)
    information = rounds.turn(np.eye(n_latent))
    state = rounds.state
    params = FactorParams(state.loadings, state.offset, state.log_theta)
    loc, scale = modes(params, counts, size, rounds.loc)
    return FactorFit(params, loc, scale, information, np.array(history), n_few, bool(ended))


def _genes(params: FactorParams | GeneState) -> list[Genes]:
    """Genes as the blocks of each batch see them."""
    loadings, inverse = (jnp.asarray(part, jnp.float32) for part in (params.loadings, np.exp(-params.log_theta)))
    return [Genes(jnp.asarray(offset, jnp.float32), loadings, inverse) for offset in params.offset.T]


def modes(params: FactorParams, counts: Counts, size: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode of each cell's factors and standard deviation around it, both shaped as the ``start`` of the search."""
    loc, scale = np.empty_like(start), np.empty_like(start)
    with jax.enable_x64(False):
        genes = _genes(params)
        for block in blocks(counts):
            own, n = block.cells, len(block.x)
            at = climb(block.x, padded(size[own], n), genes[block.batch], padded(start[own], n), ALL_STEPS, AT_MODE)
            loc[own], scale[own] = (np.asarray(part)[: len(own)] for part in (at.z, deviation(at)))
    return loc, scale


class _Rounds:
    """Rounds of cells and genes over some counts; ``state`` are the genes, ``loc`` and ``scale`` the cells."""

    state: GeneState
    pairs: Pairs
    sums: Sums

    def __init__(self, counts: Counts, size: np.ndarray, n_latent: int, likelihood: str, rng) -> None:
        self.counts, self.size = counts, size
        summary = counts.summarise()
        self.pairs = pairs_of(summary)
        offset = start_offset(summary, size)
        n_genes = len(offset)
        log_theta = start_log_theta(summary, size, offset) if likelihood == "nb" else np.full(n_genes, np.inf)
        priors = Priors(FIRST_OFFSET, np.full(n_latent, FIRST_LOADINGS))
        self.state = GeneState(offset, np.zeros((n_genes, n_latent)), log_theta, priors)
        with jax.enable_x64(False):
            self.loc = start_cells(counts, size, _genes(self.state), n_latent, rng)
        self.scale = np.ones_like(self.loc)
        self._centre()
        self.n_steps = 0  # the start's cells go with loadings that are not there yet

    def take(self, counts: Counts, size: np.ndarray) -> None:
        """Go on with other cells."""
        self.counts, self.size = counts, size
        self.pairs = pairs_of(counts.summarise())
        self.loc, self.scale = np.zeros((2, counts.n_cells, self.loc.shape[1]))
        self.n_steps = ALL_STEPS

    def run(self, n_rounds: int, tolerance: float, tell: Callable[[float, float], bool]) -> bool | None:
        """Rounds until the ELBO hardly rises: whether it came to that; None if ``tell`` ended them.

        Cells and sums are those of the genes.
        """
        values: list[float] = []
        while True:
            with jax.enable_x64(False):
                value, divergence = self._visit()
            values.append(value - divergence)
            if tell(value, divergence):
                return None
            if len(values) > 3 and values[-1] - values[-3] < tolerance * abs(values[-1]):
                return True
            if len(values) > n_rounds:
                return False
            self.state.step(self.sums, self.pairs)
            self._expand()

    def _visit(self) -> tuple[float, float]:
        """Cells at the genes, sums of what they say; expected log likelihood and divergence from the prior per cell."""
        counts = self.counts
        self.sums = Sums(counts.n_genes, counts.n_batches, self.loc.shape[1])
        genes, constant = _genes(self.state), 0.0
        for block in blocks(counts):
            own, n, rows = block.cells, len(block.cells), len(block.x)
            start = padded(self.loc[own], rows)
            found = visit(block.x, padded(self.size[own], rows), genes[block.batch], start, self.n_steps)
            self.loc[own], self.scale[own] = np.asarray(found.loc)[:n], np.asarray(found.scale)[:n]
            constant += np.asarray(found.constant, float)[:n].sum()
            self.sums.add(block.batch, found)
        self.n_steps = ROUND_STEPS
        n = max(counts.n_cells, 1)
        return self.state.log_likelihood(self.sums, self.pairs) / n, -constant / n

    def _centre(self) -> None:
        """Put the mean of each batch's cells into its offset."""
        for b in range(self.counts.n_batches):
            own = self.counts.batch == b
            if own.any():
                mean = self.loc[own].mean(0)
                self.loc[own] -= mean
                self.state.offset[:, b] += self.state.loadings @ mean

    def _expand(self) -> None:
        """Centre the cells in each batch, and scale the factors so that their second moments are those of the prior."""
        self._centre()
        second = self.loc.T @ self.loc / max(len(self.loc), 1) + np.diag((self.scale**2).mean(0))
        values, vectors = np.linalg.eigh(second)
        self.turn(vectors * np.sqrt(values) @ vectors.T)

    def turn(self, root: np.ndarray) -> np.ndarray:
        """Scale z by the inverse of ``root`` (K, K), then turn it to the gauge; the information on each new factor."""
        told, turn = np.linalg.eigh(root @ self.sums.precision @ root)
        told, turn = told[::-1], turn[:, ::-1]
        back = root @ turn
        loadings = self.state.loadings @ back
        largest = loadings[np.abs(loadings).argmax(0), np.arange(len(told))]
        back = back * np.where(largest < 0, -1.0, 1.0)
        self.state.loadings = self.state.loadings @ back
        self.state.priors.loadings = (back**2).T @ self.state.priors.loadings
        self.loc = np.linalg.solve(back, self.loc.T).T
        return told / max(self.counts.n_cells, 1)
