r"""The negative binomial family of cells x genes, on dense counts or on their summary.

One convention: size :math:`r_g`, odds :math:`o_{cg} = \nu_c e^{b_g}`, mean :math:`r_g o_{cg}`,

.. math::
    \ln p(u_{cg}) = \ln\Gamma(u+r_g) - \ln\Gamma(r_g) - \ln u! + u \ln o_{cg} - (u + r_g) \ln(1 + o_{cg}),

with probability :math:`\pi_g` of an excess zero: :math:`p(0) = \pi_g + (1-\pi_g)(1+o_{cg})^{-r_g}`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.nn import log_sigmoid, softplus
from jax.scipy.special import gammaln
from numpyro.distributions import constraints

from scbayes.models._evidence import RISE, Evidence


class NegativeBinomialCounts(dist.Distribution):
    r"""Counts of all cells and genes as one draw.

    Parameters
    ----------
    log_size
        :math:`\ln r`, shape ``(n_groups, n_genes)``: a group is a batch, or a component in a batch.
    gene_log_odds
        :math:`b`, shape ``(n_groups, n_genes)``, or ``(n_groups, 1)`` where all genes share it.
    cell_log_odds
        :math:`\ln\nu`, shape ``(n_cells,)``; None where there is no capture (all zero).
    gate_logit
        :math:`\operatorname{logit}\pi`, shape ``(n_groups, n_genes)``; None where there is no zero inflation.
    batch
        Group of each cell, shape ``(n_cells,)``.
    """

    support = constraints.independent(constraints.nonnegative_integer, 2)
    pytree_data_fields = ("log_size", "gene_log_odds", "cell_log_odds", "gate_logit", "batch")

    def __init__(self, log_size, gene_log_odds, cell_log_odds, gate_logit, batch, *, validate_args=None) -> None:
        self.log_size = log_size
        self.gene_log_odds = gene_log_odds
        self.cell_log_odds = cell_log_odds
        self.gate_logit = gate_logit
        self.batch = batch
        super().__init__((), (batch.shape[0], log_size.shape[-1]), validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw dense counts, shape ``sample_shape + (n_cells, n_genes)``."""
        gamma_key, poisson_key, gate_key = jax.random.split(key, 3)
        shape = sample_shape + self.event_shape
        rate = jax.random.gamma(gamma_key, jnp.exp(self.log_size)[self.batch], shape) * jnp.exp(self._log_odds())
        counts = jax.random.poisson(poisson_key, rate)
        if self.gate_logit is None:
            return counts
        kept = jax.random.uniform(gate_key, shape) >= jax.nn.sigmoid(self.gate_logit)[self.batch]
        return counts * kept

    def cell_log_prob(self, value) -> Array:
        """Log density of each cell's dense counts: shape ``(n_cells,)``."""
        return self._dense_log_prob(jnp.asarray(value)).sum(-1)

    def log_prob(self, value) -> Array:
        """Log density of dense counts ``(n_cells, n_genes)`` or of their :class:`Evidence`: a scalar."""
        if isinstance(value, Evidence):
            return self._summary_log_prob(value)
        return self._dense_log_prob(jnp.asarray(value)).sum((-2, -1))

    def _log_odds(self) -> Array:
        log_odds = jnp.broadcast_to(self.gene_log_odds, self.log_size.shape)[self.batch]
        return log_odds if self.cell_log_odds is None else log_odds + self.cell_log_odds[:, None]

    def _dense_log_prob(self, u: Array) -> Array:
        r, log_odds = jnp.exp(self.log_size)[self.batch], self._log_odds()
        u = u.astype(r.dtype)  # ln u! of float32 counts would have its precision
        log_p = gammaln(u + r) - gammaln(r) - gammaln(u + 1.0) + u * log_odds - (u + r) * softplus(log_odds)
        if self.gate_logit is None:
            return log_p
        gate = self.gate_logit[self.batch]
        return jnp.where(
            u == 0, jnp.logaddexp(log_sigmoid(gate), log_sigmoid(-gate) + log_p), log_sigmoid(-gate) + log_p
        )

    def _summary_log_prob(self, evidence: Evidence) -> Array:
        if self.cells_are_exact:
            log_odds = self._cell_log_odds(evidence)
            log_p = self.row_log_prob(evidence).sum()
            per_count = jnp.sum(evidence.membership * (log_odds - softplus(log_odds)), 1)
            return log_p + jnp.sum(evidence.cell_total * per_count) - evidence.constant
        log_p = self.row_log_prob(evidence).sum() - evidence.constant
        if self.cell_log_odds is None:
            return log_p
        # A cell's likelihood around its anchor, as that of a Poisson count: exact in slope and curvature, and skewed
        # like the truth where counts are few.
        step = self.cell_log_odds - evidence.anchor
        return log_p + jnp.sum(evidence.slope * step + evidence.curvature * (step - jnp.expm1(step)))

    @property
    def cells_are_exact(self) -> bool:
        """Genes see cells through one number per batch, whatever nu is; no interpolation is needed."""
        return self.cell_log_odds is not None and self.gate_logit is None and self.gene_log_odds.shape[-1] == 1

    def row_log_prob(self, evidence: Evidence) -> Array:
        r"""Part of the log density that each gene contributes in each group of cells, ``(n_groups, n_genes)``.

        Up to :math:`\sum \ln u!`, and where :attr:`cells_are_exact` up to :math:`\sum_c U_c \ln \hat p_c`.
        """
        r = jnp.exp(self.log_size)
        rise = log_rise(r.reshape(-1), evidence).reshape(r.shape)
        if self.cells_are_exact:
            fail = evidence.membership * softplus(self._cell_log_odds(evidence))
            seen = jax.ops.segment_sum(fail, evidence.batch, evidence.n_batches)
            return rise - r * seen.reshape(-1, 1)
        log_odds = evidence.nodes[:, None, :] + self.gene_log_odds[..., None]
        log_fail = -softplus(log_odds)
        counted = jnp.sum(evidence.node_counts * (log_odds + log_fail), -1)
        cells = evidence.node_cells[:, None, :]
        if self.gate_logit is None:
            return rise + counted + r * jnp.sum(cells * log_fail, -1)
        closed, opened = log_sigmoid(self.gate_logit)[..., None], log_sigmoid(-self.gate_logit)[..., None]
        zero = jnp.logaddexp(closed, opened + r[..., None] * log_fail)
        expressed = evidence.node_detected * (opened + r[..., None] * log_fail)
        return rise + counted + jnp.sum(expressed + (cells - evidence.node_detected) * zero, -1)

    def _cell_log_odds(self, evidence: Evidence) -> Array:
        """Log odds of each cell under each component, where all genes share them: ``(n_cells, n_components)``."""
        of_batch = self.gene_log_odds[:, 0].reshape(evidence.n_batches, -1)
        return self.cell_log_odds[:, None] + of_batch[evidence.batch]

    def node_functions(self, nodes: Array) -> tuple[Array, Array | None, Array]:
        r"""What a cell at each node scores: per count, per expressed gene, and for all genes at zero.

        Parameters
        ----------
        nodes
            Values of ln nu, shape ``(n_batches, n_nodes)``.

        Returns
        -------
        ``per_count`` and ``per_detection`` of shape ``(n_batches, n_genes, n_nodes)`` (one gene where all share the
        odds; the second None without zero inflation) and ``all_zero`` of shape ``(n_batches, n_nodes)``: a cell scores
        :math:`\sum_g u_g A_g + \sum_{g:u_g>0} E_g + Z`.
        """
        gate = None if self.gate_logit is None else self.gate_logit[..., None]
        r = jnp.exp(self.log_size)[..., None]
        per_count, per_detection, zero = _functions(nodes[:, None, :] + self.gene_log_odds[..., None], r, gate)
        return per_count, per_detection, zero.sum(1)

    def entry_functions(self, row: Array, x: Array) -> tuple[Array, Array | None]:
        """``per_count`` and ``per_detection`` of the gene of each ``row`` (group and gene) at its own ln nu ``x``."""
        gate = None if self.gate_logit is None else self.gate_logit.ravel()[row]
        b = jnp.broadcast_to(self.gene_log_odds, self.log_size.shape).ravel()[row]
        return _functions(x + b, jnp.exp(self.log_size).ravel()[row], gate)[:2]


def _functions(log_odds: Array, r: Array, gate_logit: Array | None) -> tuple[Array, Array | None, Array]:
    """What a gene scores at ``log_odds``: per count, for being expressed (None without a gate), and at zero."""
    log_fail = -softplus(log_odds)
    if gate_logit is None:
        return log_odds + log_fail, None, r * log_fail
    closed, opened = log_sigmoid(gate_logit), log_sigmoid(-gate_logit)
    zero = jnp.logaddexp(closed, opened + r * log_fail)
    return log_odds + log_fail, opened + r * log_fail - zero, zero


class MixtureOfCounts(dist.Distribution):
    r"""Counts of cells that each belong to one component: :math:`p(u_c) = \sum_k w_k \prod_g p_k(u_{cg})`.

    Parameters
    ----------
    likelihood
        Of all groups of cells; its ``batch`` is each cell's first group (component 0).
    weights
        Weight of each component, ``(n_components,)``.
    """

    support = constraints.independent(constraints.nonnegative_integer, 2)
    pytree_data_fields = ("likelihood", "weights")

    def __init__(self, likelihood: NegativeBinomialCounts, weights: Array, *, validate_args=None) -> None:
        self.likelihood, self.weights = likelihood, weights
        super().__init__((), likelihood.event_shape, validate_args=validate_args)

    def of_component(self, k) -> NegativeBinomialCounts:
        """Counts given the component of each cell, a number or shape ``(n_cells,)``."""
        likely = self.likelihood
        parts = likely.log_size, likely.gene_log_odds, likely.cell_log_odds, likely.gate_logit
        return NegativeBinomialCounts(*parts, likely.batch + k)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw dense counts, shape ``sample_shape + (n_cells, n_genes)``."""
        n = int(np.prod(sample_shape))
        cells = (self.event_shape[0],)

        def draw(key: Array) -> Array:
            which, what = jax.random.split(key)
            return self.of_component(jax.random.categorical(which, jnp.log(self.weights), shape=cells)).sample(what)

        return jax.vmap(draw)(jax.random.split(key, n)).reshape(sample_shape + self.event_shape)

    def log_prob(self, value) -> Array:
        """Log density of dense counts ``(n_cells, n_genes)``: a scalar."""
        of_cells = [self.of_component(k).cell_log_prob(value) for k in range(len(self.weights))]
        return jax.scipy.special.logsumexp(jnp.stack(of_cells, -1) + jnp.log(self.weights), -1).sum()


def log_rise(r: Array, evidence: Evidence) -> Array:
    r"""Per row, :math:`\sum_{\text{cells}} \ln\Gamma(u+r) - \ln\Gamma(r)`, without special functions."""
    size = r.shape[0]
    low = evidence.rise_cells * jnp.log(r[evidence.rise_row] + evidence.rise_j)
    rise = jax.ops.segment_sum(low, evidence.rise_row, size, indices_are_sorted=True)
    tail_r = r[evidence.tail_row]
    high = evidence.tail_cells * (_stirling(tail_r + evidence.tail_count) - _stirling(tail_r + RISE))
    return rise + jax.ops.segment_sum(high, evidence.tail_row, size, indices_are_sorted=True)


def _stirling(x: Array) -> Array:
    """Log Gamma for x >= 32, up to a constant: absolute error below 1e-15."""
    inverse = 1 / x
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    return (x - 0.5) * jnp.log(x) - x + series
