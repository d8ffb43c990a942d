r"""What a decoder says of units of cells: compositions under chosen batches, and how counts relate to them.

The decoder gives cell c the composition :math:`\rho_{cg}(z_c, b)` in batch b. That of unit u is the mean over its cells,
all of them under the same batches :math:`\mathcal B`, with :math:`z_c` drawn from its posterior:

.. math:: \bar\rho_{ug} = \frac{1}{|u|\,|\mathcal B|} \sum_{c \in u} \sum_{b \in \mathcal B} \rho_{cg}(z_c, b).

Counts are seen in the cells' own batches. With native means :math:`n_{cg} = l_c\,\rho_{cg}(z_c, b_c)`, counts of unit u
whose composition is :math:`e^{\eta_{ug}}` instead of the decoder's have the mean :math:`E_{ug}\, e^{\eta_{ug}}`,

.. math:: E_{ug} = \sum_b S_{ub}\, k_{ubg}, \qquad
    k_{ubg} = \frac{\sum_{c \in u, b} n_{cg}}{\sum_{c \in u, b} \sum_h n_{ch}} \Big/ \bar\rho_{ubg}

with the size factors :math:`S_{ub}` of the unit's cells in batch b. So the decoder translates between batches, and
counts say what :math:`\eta` is: where the decoder is wrong about a gene in the same way in all batches, k is right.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm

from scbayes.counts._by_unit import Members
from scbayes.models._latent_model import Inputs, LatentModel

#: Cells of a unit and batch that are decoded in each draw, at most; draws; proposals of each with importance weights.
N_CELLS, N_DRAWS, N_PROPOSALS = 128, 8, 25
#: Shares below this are as good as none.
FAINT = 1e-12


class DecodedUnits(NamedTuple):
    """Sums over the cells of units.

    Attributes
    ----------
    exposure
        E at each draw of the latent numbers, ``(n_units, n_draws, n_genes)``.
    share
        Sum over cells of the compositions, ``(n_units, n_genes)``.
    """

    exposure: np.ndarray
    share: np.ndarray

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> "DecodedUnits":
        """With a function of each of the sums."""
        return DecodedUnits(*map(function, self))

    def scaled(self, factor: np.ndarray) -> "DecodedUnits":
        """With size factors times ``factor``."""
        return self._replace(exposure=self.exposure * factor[:, None, None].astype(np.float32))

    def variance(self) -> np.ndarray:
        """Of log E between draws: what is not known of the latent numbers, ``(n_units, n_genes)``."""
        mean = np.maximum(self.exposure.mean(1), FAINT)
        return self.exposure.var(1, ddof=1) / mean**2


class Decoder(NamedTuple):
    """A decoder, and where the cells are.

    Attributes
    ----------
    model
        The model.
    inputs
        Its inputs for cells at some positions.
    loc, scale
        Of q of all cells, ``(n_cells, D)``.
    batch
        Code of each cell.
    codes
        Batches under which all cells are compared; None: each cell in its own.
    importance
        Whether latent numbers are drawn from the posterior, by importance resampling, instead of q.
    seed
        Of the draws.
    wanted
        Units that are asked for; the others are left as their size factors say. None: all.
    """

    model: LatentModel
    inputs: Callable[[np.ndarray], Inputs]
    loc: np.ndarray
    scale: np.ndarray
    batch: np.ndarray
    codes: np.ndarray | None
    importance: bool
    seed: int
    wanted: np.ndarray | None = None

    def by_unit(self, members: Members, size: np.ndarray) -> DecodedUnits:
        """Sums over the cells of units; ``size``: size factor of each cell."""
        n_genes = self.model.sizes.n_genes
        exposure = np.zeros((members.n_units, N_DRAWS, n_genes), np.float32)
        share = np.zeros((members.n_units, n_genes))
        rng = np.random.default_rng(self.seed)
        for unit, cells, weight in self._strata(members):
            own_size = float(weight @ size[cells])
            if self.wanted is not None and not self.wanted[unit]:
                exposure[unit] += own_size
                continue
            for s in range(N_DRAWS):
                chosen = rng.permutation(len(cells))[:N_CELLS]
                native, shared = self._sums(cells[chosen], weight[chosen], rng)
                exposure[unit, s] += own_size * (native + FAINT) / (shared + FAINT)
                share[unit] += weight.sum() / N_DRAWS * shared
        return DecodedUnits(exposure, share)

    def p_higher(self, own: tuple, other: tuple, n_pairs: int) -> np.ndarray:
        """P(expression of a random cell of one arm > that of a random cell of the other), of each gene.

        ``own``, ``other``: positions of cells and their weights. Both cells of a pair are decoded under one batch.
        """
        rng = np.random.default_rng(self.seed)
        left, right = (rng.choice(cells, n_pairs, p=weight / weight.sum()) for cells, weight in (own, other))
        code = None if self.codes is None else np.resize(self.codes, n_pairs)
        won = np.zeros(self.model.sizes.n_genes)
        for first in range(0, n_pairs, N_CELLS):
            here = np.minimum(np.arange(first, first + N_CELLS), n_pairs - 1)
            counted = jnp.asarray(np.arange(first, first + N_CELLS) < n_pairs, jnp.float32)
            shares = []
            for cells in (left[here], right[here]):
                inputs = self.inputs(cells)
                v = self._drawn(inputs, cells, rng)
                shares.append(_log_shares(self.model)(inputs, v, None if code is None else jnp.asarray(code[here])))
            won += np.asarray(counted @ (shares[0] > shares[1]))
        return (won + 0.5) / (n_pairs + 1)

    def _strata(self, members: Members) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Units by batch: number of the unit, positions of cells, and their weights."""
        cell = members.cell
        order = np.lexsort((self.batch[cell], members.unit))
        label = np.stack([members.unit, self.batch[cell]])[:, order]
        for part in np.split(order, np.flatnonzero(np.diff(label).any(0)) + 1):
            yield int(members.unit[part[0]]), cell[part], members.weight[part]

    def _sums(self, cells: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Native means in the cells' own batches, and compositions under the chosen ones; each sums to 1 over genes."""
        more = N_CELLS - len(cells)
        cells, weight = np.pad(cells, (0, more), mode="edge"), np.pad(weight, (0, more))
        inputs = self.inputs(cells)
        codes = None if self.codes is None else jnp.asarray(self.codes)
        found = _sums(self.model)(inputs, self._drawn(inputs, cells, rng), jnp.asarray(weight, jnp.float32), codes)
        native, shared = (np.asarray(part, float) for part in found)
        return native / native.sum(), shared / shared.sum()

    def _drawn(self, inputs: Inputs, cells: np.ndarray, rng: np.random.Generator) -> Array:
        """A draw of the latent numbers of each cell."""
        key, loc, scale = jax.random.key(rng.integers(2**31)), jnp.asarray(self.loc[cells]), jnp.asarray(self.scale[cells])
        return _resampled(self.model)(inputs, loc, scale, key) if self.importance else _drawn(loc, scale, key)


@jax.jit
def _drawn(loc: Array, scale: Array, key: Array) -> Array:
    return loc + scale * jax.random.normal(key, loc.shape)


@lru_cache(maxsize=32)
def _resampled(model: LatentModel):
    @jax.jit
    def draw(inputs: Inputs, loc: Array, scale: Array, key: Array) -> Array:
        r"""One of the proposals from q, with probabilities :math:`\propto p(u \mid v)\,p(v)/q(v)`."""
        propose, choose = jax.random.split(key)
        prior_loc, prior_scale = model.prior(inputs)

        def proposal(key: Array) -> tuple[Array, Array]:
            v = loc + scale * jax.random.normal(key, loc.shape)
            prior = norm.logpdf(v, prior_loc, prior_scale).sum(-1)
            return v, model.counts(inputs, v).log_prob(inputs.cells.counts) + prior - norm.logpdf(v, loc, scale).sum(-1)

        v, log_weight = jax.lax.map(proposal, jax.random.split(propose, N_PROPOSALS))
        chosen = jax.random.categorical(choose, log_weight, axis=0)
        return v[chosen, jnp.arange(len(loc))]

    return draw


@lru_cache(maxsize=32)
def _log_shares(model: LatentModel):
    @jax.jit
    def decode(inputs: Inputs, v: Array, code: Array | None) -> Array:
        """Log compositions, ``(B, n_genes)``; in batches of their own, or in those given."""
        return model.decode(_under(inputs, code), v).log_share

    return decode


@lru_cache(maxsize=32)
def _sums(model: LatentModel):
    @jax.jit
    def decode(inputs: Inputs, v: Array, weight: Array, codes: Array | None) -> tuple[Array, Array]:
        """Weighted sums over cells of native means in their own batch, and of compositions over ``codes``."""
        own = model.decode(inputs, v)
        native = weight @ jnp.exp(own.log_native)
        if codes is None:
            return native, weight @ jnp.exp(own.log_share)
        of_batch = jax.lax.map(lambda code: weight @ jnp.exp(model.decode(_under(inputs, code), v).log_share), codes)
        return native, of_batch.sum(0)

    return decode


def _under(inputs: Inputs, code: Array | None) -> Inputs:
    """The cells as if they were of other batches: one for all, or one for each."""
    if code is None:
        return inputs
    batch = jnp.broadcast_to(code, inputs.cells.batch.shape).astype(inputs.cells.batch.dtype)
    return inputs._replace(cells=inputs.cells._replace(batch=batch))
