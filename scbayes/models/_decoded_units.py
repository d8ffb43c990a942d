r"""What a decoder says of units of cells: compositions under chosen batches, and how counts relate to them.

The decoder gives cell c the composition :math:`\rho_{cg}(z_c, b)` in batch b. That of unit u is the mean over its
cells, all of them under the same batches :math:`\mathcal B`, with :math:`z_c` drawn from its posterior:

.. math:: \bar\rho_{ug} = \frac{1}{|u|\,|\mathcal B|} \sum_{c \in u} \sum_{b \in \mathcal B} \rho_{cg}(z_c, b).

Counts are seen in the cells' own batches. With native means :math:`n_{cg} = l_c\,\rho_{cg}(z_c, b_c)`, counts of unit u
whose composition is :math:`e^{\eta_{ug}}` instead of the decoder's have the mean :math:`E_{ug}\, e^{\eta_{ug}}`,

.. math:: E_{ug} = \sum_b S_{ub}\, k_{ubg}, \qquad
    k_{ubg} = \frac{\sum_{c \in u, b} n_{cg}}{\sum_{c \in u, b} \sum_h n_{ch}} \Big/ \bar\rho_{ubg}

with the size factors :math:`S_{ub}` of the unit's cells in batch b. So the decoder translates between batches, and
counts say what :math:`\eta` is: where the decoder is wrong about a gene in the same way in all batches, k is right.
Where translations have errors :math:`\epsilon_{ubg}`, that of :math:`\ln E_{ug}` is
:math:`\sum_b (p_{ub} - w_b)\,\epsilon_{ubg}`, with the unit's shares p of the batches and those, w, that are asked for:
nothing where a unit has cells in all batches as they are asked for. Their variance has two parts: one that counts tell
(:mod:`scbayes.models._translation`), and the variance, between units, of what the decoder says that batches do. It may
be right about that; but it was trained on these counts, and may have taken their noise for it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from scipy.ndimage import uniform_filter1d

from scbayes.counts._by_unit import Members
from scbayes.models._latent_model import Inputs, LatentModel

#: Cells of a unit and batch that are decoded in each draw, at most; draws; proposals of each with importance weights.
N_CELLS, N_DRAWS, N_PROPOSALS = 128, 8, 25
#: Shares below this are as good as none. Genes that are next to each other in expression, and tell what is usual.
FAINT, NEIGHBOURS = 1e-12, 51


class DecodedUnits(NamedTuple):
    """Sums over the cells of units.

    Attributes
    ----------
    exposure
        E at each draw of the latent numbers, ``(n_units, n_draws, n_genes)``.
    under
        Sum over cells of the compositions under each batch, ``(n_units, n_batches, n_genes)``.
    by_batch
        Sum over cells of size factors, ``(n_units, n_batches)``.
    asked
        Weight of each batch among those that cells are compared under, ``(n_batches,)``; None: each cell's own.
    spread
        Of errors of translations between batches, natural log; ``told``: whether units with several batches tell it.
    """

    exposure: np.ndarray
    under: np.ndarray
    by_batch: np.ndarray
    asked: np.ndarray | None
    spread: float = 0.0
    told: bool = True

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> "DecodedUnits":
        """With a function of each of the sums."""
        return DecodedUnits(*map(function, self[:3]), *self[3:])

    def scaled(self, factor: np.ndarray) -> "DecodedUnits":
        """With size factors times ``factor``."""
        exposure = self.exposure * factor[:, None, None].astype(np.float32)
        return self._replace(exposure=exposure, by_batch=self.by_batch * factor[:, None])

    def share(self) -> np.ndarray:
        """Composition of all units together under the batches that are asked for, ``(n_genes,)``; sums to 1."""
        if self.asked is None:  # each unit as its cells are
            weight = self.by_batch.sum(0)
            found = np.einsum("b,ubg->g", weight / max(weight.sum(), FAINT), self.under)
        else:
            found = np.einsum("b,ubg->g", self.asked, self.under)
        return found / max(found.sum(), FAINT)

    def disagreement(self) -> np.ndarray:
        """Variance, between units, of what the decoder says that batches do, ``(n_genes,)``.

        Of each gene, and at least what is usual at its level.
        """
        n_units, n_batches, n_genes = self.under.shape
        if min(n_units, n_batches) < 2:
            return np.zeros(n_genes)
        log = np.log(self.under / np.maximum(self.under.sum(2, keepdims=True), FAINT) + FAINT)
        apart = log - log.mean(0) - log.mean(1, keepdims=True) + log.mean((0, 1))
        own = np.sum(apart**2, (0, 1)) / ((n_units - 1) * (n_batches - 1))
        order = np.argsort(log.mean((0, 1)), kind="stable")
        usual = np.empty(n_genes)
        usual[order] = uniform_filter1d(own[order], min(NEIGHBOURS, n_genes), mode="nearest")
        return np.maximum(own, usual)

    def variance(self) -> np.ndarray:
        """Of log E: between draws of the latent numbers, and of translations, ``(n_units, n_genes)``.

        Errors of translations are in part the same in all units: twice the variance holds, whatever that part is.
        """
        mean = np.maximum(self.exposure.mean(1, dtype=float), FAINT)
        between = self.exposure.var(1, ddof=1, dtype=float) / mean**2
        if self.asked is None:
            return between
        share = self.by_batch / np.maximum(self.by_batch.sum(1, keepdims=True), FAINT)
        off = np.sum((share - self.asked) ** 2, 1, keepdims=True)
        return between + 2 * off * (self.spread**2 + self.disagreement())


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
    n_batches
        Of the model.
    wanted
        Mask of the units that are asked for; the others are left as their size factors say.
    """

    model: LatentModel
    inputs: Callable[[np.ndarray], Inputs]
    loc: np.ndarray
    scale: np.ndarray
    batch: np.ndarray
    codes: np.ndarray | None
    importance: bool
    seed: int
    n_batches: int
    wanted: np.ndarray

    def strata(self, members: Members) -> tuple[Members, np.ndarray]:
        """Units by batch, and which unit each is of."""
        label = members.unit * self.n_batches + self.batch[members.cell]
        known, stratum = np.unique(label, return_inverse=True)
        return members._replace(unit=stratum, n_units=len(known)), known // self.n_batches

    def by_stratum(self, members: Members, unit: np.ndarray, size: np.ndarray) -> DecodedUnits:
        """Sums over the cells of units by batch, of :meth:`strata`; ``size``: size factor of each cell."""
        n_genes = self.model.sizes.n_genes
        exposure = np.zeros((members.n_units, N_DRAWS, n_genes), np.float32)
        by_batch = np.zeros((members.n_units, self.n_batches))
        under = np.zeros((members.n_units, self.n_batches, n_genes), np.float32)
        rng, asked = np.random.default_rng(self.seed), self._asked()
        order = np.argsort(members.unit, kind="stable")
        for k, part in enumerate(np.split(order, np.flatnonzero(np.diff(members.unit[order])) + 1)):
            cells, weight = members.cell[part], members.weight[part]
            exposure[k] = by_batch[k, self.batch[cells[0]]] = weight @ size[cells]
            if not self.wanted[unit[k]]:
                continue
            for s in range(N_DRAWS):
                chosen = rng.permutation(len(cells))[:N_CELLS]
                native, of_batch = self._sums(cells[chosen], weight[chosen], rng)
                shared = of_batch[self.batch[cells[0]]] if asked is None else asked @ of_batch
                exposure[k, s] *= (native + FAINT) / (shared + FAINT)
                under[k] += weight.sum() / N_DRAWS * of_batch
        return DecodedUnits(exposure, under, by_batch, asked)

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

    def _asked(self) -> np.ndarray | None:
        if self.codes is None:
            return None
        return np.bincount(self.codes, minlength=self.n_batches) / len(self.codes)

    def _sums(self, cells: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Native means in the cells' own batches, and compositions under each batch; they sum to 1 over genes."""
        more = N_CELLS - len(cells)
        cells, weight = np.pad(cells, (0, more), mode="edge"), np.pad(weight, (0, more))
        inputs = self.inputs(cells)
        found = _sums(self.model)(inputs, self._drawn(inputs, cells, rng), jnp.asarray(weight, jnp.float32))
        native, of_batch = (np.asarray(part, float) for part in found)
        return native / native.sum(), of_batch / of_batch.sum(1, keepdims=True)

    def _drawn(self, inputs: Inputs, cells: np.ndarray, rng: np.random.Generator) -> Array:
        """A draw of the latent numbers of each cell."""
        key, loc, scale = jax.random.key(rng.integers(2**31)), *map(jnp.asarray, (self.loc[cells], self.scale[cells]))
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
    def decode(inputs: Inputs, v: Array, weight: Array) -> tuple[Array, Array]:
        """Weighted sums over cells of native means in their own batch, and of compositions under each batch."""
        native = weight @ jnp.exp(model.decode(inputs, v).log_native)
        codes = jnp.arange(model.sizes.n_batches)
        return native, jax.lax.map(lambda code: weight @ model.decode(_under(inputs, code), v).share, codes)

    return decode


def _under(inputs: Inputs, code: Array | None) -> Inputs:
    """The cells as if they were of other batches: one for all, or one for each."""
    if code is None:
        return inputs
    batch = jnp.broadcast_to(code, inputs.cells.batch.shape).astype(inputs.cells.batch.dtype)
    return inputs._replace(cells=inputs.cells._replace(batch=batch))
