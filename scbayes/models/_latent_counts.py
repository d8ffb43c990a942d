"""Counts given latent numbers: negative binomial, with excess zeros, Poisson or binomial; with an ambient part."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

#: Shares of the counts nearer to 1 than this are taken as this.
MOST = 1 - 1e-6
#: Log odds of an excess zero below the negative of this are taken as that: single precision has room for the odds.
LEAST = 60.0
#: Smallest mean whose log is taken.
TINY = 1e-30
#: Log of a size above which counts are taken as Poisson.
MOST_SIZE = 14.0


class Decoded(NamedTuple):
    """What the decoder says of cells ``(..., B)`` and genes ``(..., B, G)``.

    Attributes
    ----------
    log_share, share
        Log of the native composition, and the composition, which sums to 1 over the genes. Both are kept: exponentials
        of all genes in all cells are much of the time that a likelihood takes.
    log_size
        Log of the library size (or size factor), ``(..., B)``.
    log_theta
        Log of the size of the negative binomial, broadcastable to ``(..., B, G)``; None without dispersion.
    gate_logit
        Log odds of an excess zero; None without.
    contamination_logit, log_ambient
        Log odds that a count of the cell is ambient, ``(..., B)``, and log of the ambient profile of its batch,
        ``(..., B, G)``; None without an ambient part.
    """

    log_share: Array
    share: Array
    log_size: Array
    log_theta: Array | None
    gate_logit: Array | None
    contamination_logit: Array | None = None
    log_ambient: Array | None = None

    @property
    def log_native(self) -> Array:
        """Log of the mean of native counts."""
        log_native = self.log_size[..., None] + self.log_share
        if self.contamination_logit is None:
            return log_native
        return log_native + jax.nn.log_sigmoid(-self.contamination_logit)[..., None]

    @property
    def log_background(self) -> Array:
        """Log of the mean of ambient counts."""
        return (self.log_size + jax.nn.log_sigmoid(self.contamination_logit))[..., None] + self.log_ambient

    @property
    def mean(self) -> Array:
        """Mean of all counts (those of a gate's excess zeros aside)."""
        if self.contamination_logit is None:
            return jnp.exp(self.log_size)[..., None] * self.share
        native = jnp.exp(self.log_size + jax.nn.log_sigmoid(-self.contamination_logit))[..., None] * self.share
        return native + jnp.exp(self.log_background)

    @property
    def log_mean(self) -> Array:
        """Log of :attr:`mean`."""
        if self.contamination_logit is None:
            return self.log_native
        return jnp.log(jnp.maximum(self.mean, TINY))

    @property
    def log_theta_of_sum(self) -> Array:
        r"""Log of the size of native and ambient counts together.

        Native counts are negative binomial of size :math:`\theta`, ambient ones Poisson: the variance of their sum is
        :math:`\mu + \mathrm{native}^2/\theta`, that of a negative binomial of size
        :math:`\theta\,(\mu/\mathrm{native})^2`, which stands for the sum.
        """
        if self.contamination_logit is None:
            return self.log_theta
        return jnp.minimum(self.log_theta + 2 * (self.log_mean - self.log_native), MOST_SIZE)


class LatentCounts(dist.Distribution):
    r"""Counts of the genes of a cell, independent given the latent numbers.

    ``"nb"``: :math:`\mathrm{NB}(\mu, \theta)`, variance :math:`\mu + \mu^2/\theta`; ``"zinb"``: zero with probability
    `gate` on top; ``"poisson"``; ``"b"``: binomial with the cell's `total` and probability :math:`\mu` / total.
    """

    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, likelihood: str, decoded: Decoded, total: Array) -> None:
        self.likelihood, self.decoded, self.total = likelihood, decoded, total
        shape = decoded.log_mean.shape
        super().__init__(shape[:-1], shape[-1:])

    def log_prob(self, value: Array) -> Array:
        """Log probability of the counts of each cell, nats: ``(..., B)``."""
        return self.by_gene(value).sum(-1)

    def by_gene(self, value: Array) -> Array:
        """Log probability of each count: ``(..., B, G)``."""
        return self.by_mean(value) + self.constant(value)

    def constant(self, value: Array) -> Array:
        """Part of :meth:`by_gene` that does not depend on the means: ``(..., B, G)``, 0 where the count is 0."""
        same = log_factorial(value)
        if self.likelihood == "poisson":
            return -same
        if self.likelihood == "b":
            return log_rising(value, self.total[..., None] - value + 1) - same
        if self.decoded.contamination_logit is not None:  # the size of the sum depends on the means
            return -same
        return log_rising(value, jnp.exp(self.decoded.log_theta)) - same

    def by_mean(self, value: Array) -> Array:
        """The other part of :meth:`by_gene`."""
        decoded, log_mean = self.decoded, self.decoded.log_mean
        if self.likelihood == "poisson":
            return value * log_mean - decoded.mean
        if self.likelihood == "b":
            total = self.total[..., None]
            share = jnp.minimum(decoded.mean / total, MOST)
            return value * (log_mean - jnp.log(total)) + (total - value) * jnp.log1p(-share)
        log_theta = decoded.log_theta_of_sum
        ratio = jnp.log1p(decoded.mean * jnp.exp(-log_theta))
        log_zero = -jnp.exp(log_theta) * ratio
        positive = value * (log_mean - log_theta - ratio) + log_zero
        if decoded.contamination_logit is not None:
            positive = positive + log_rising(value, jnp.exp(log_theta))
        if decoded.gate_logit is None:
            return positive
        gate = jnp.maximum(decoded.gate_logit, -LEAST)
        against = jnp.exp(-gate)  # odds against an excess zero; logaddexp costs twice as much, mostly in its gradient
        zero = jnp.log1p(against * jnp.exp(log_zero))
        return jnp.where(value > 0, positive - gate, zero) - jnp.log1p(against)

    def sample(self, key: Array, sample_shape: tuple = ()) -> Array:
        """Draw counts."""
        decoded = self.decoded
        shape = sample_shape + self.batch_shape + self.event_shape
        mean = jnp.broadcast_to(decoded.mean, shape)
        key, of_rate, of_gate = jax.random.split(key, 3)
        if self.likelihood == "b":
            total = jnp.broadcast_to(self.total[..., None], shape)
            return jax.random.binomial(key, total, jnp.clip(mean / total, 0, MOST), shape)
        if self.likelihood != "poisson":
            theta = jnp.broadcast_to(jnp.exp(decoded.log_theta_of_sum), shape)
            mean = mean * jax.random.gamma(of_rate, theta, shape) / theta
        value = jax.random.poisson(key, mean, shape).astype(jnp.float32)
        if decoded.gate_logit is None:
            return value
        return jnp.where(jax.random.bernoulli(of_gate, jax.nn.sigmoid(decoded.gate_logit), shape), 0.0, value)


def log_factorial(x: Array) -> Array:
    """``ln x!``."""
    return log_rising(x, jnp.ones((), jnp.float32))


@jax.custom_jvp
def log_rising(x: Array, a: Array) -> Array:
    r"""``ln Gamma(x + a) - ln Gamma(a)`` for x >= 0, to about 1e-6 of its size in single precision.

    Stirling's series three steps up, where it has converged, with differences taken before they cancel:
    :math:`\ln\frac{\Gamma(b)}{\Gamma(a)} = (a' - \tfrac12)\ln\frac{b'}{a'} + x (\ln b' - 1) + s(b') - s(a')
    - \ln\frac{b(b+1)(b+2)}{a(a+1)(a+2)}`, with :math:`b = a + x`, :math:`a' = a + 3`, :math:`b' = a' + x`,
    :math:`s(y) = \frac{1}{12y} - \frac{1}{360y^3}`. What depends on a alone is computed in its own shape.
    """
    up = a + 3
    steps = jnp.log(_three(a + x) / _three(a))
    series = _series(1 / (up + x)) - _series(1 / up)
    ratio = jnp.log1p(x / up)  # ln(b' / a')
    return (up - 0.5) * ratio + x * (jnp.log(up) + ratio - 1) + series - steps


@log_rising.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Derivatives are digamma functions: of a + x, and its difference to that of a. Theirs are derived from these."""
    x, a = primals
    up, b = a + 3, a + x
    at_far = _digamma_series(1 / (up + x)) - _harmonic(b)
    log_up, ratio = jnp.log(up), jnp.log1p(x / up)
    by_a = ratio + at_far - (_digamma_series(1 / up) - _harmonic(a))
    return log_rising(x, a), (log_up + ratio + at_far) * tangents[0] + by_a * tangents[1]


def _three(y: Array) -> Array:
    """``y (y + 1) (y + 2)``."""
    return y * (y + 1) * (y + 2)


def _harmonic(y: Array) -> Array:
    """``1 / y + 1 / (y + 1) + 1 / (y + 2)``."""
    return (3 * y * (y + 2) + 2) / _three(y)


def _series(inverse: Array) -> Array:
    """Terms of ln Gamma(y) that vanish as y grows, from 1 / y."""
    return inverse * (1 / 12 - inverse**2 / 360)


def _digamma_series(inverse: Array) -> Array:
    """``digamma(y) - ln y``, likewise."""
    return -inverse * (1 / 2 + inverse * (1 / 12 - inverse**2 / 120))
