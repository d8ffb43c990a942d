r"""Effects of a contrast given the spread of replicates, on a grid of it.

Per gene :math:`\eta = X b + Z a + u` (see :mod:`scbayes.stats._mixed_model`); the last column of X is the contrast,
with effect :math:`\beta`. The spread :math:`\tau` of replicates, and how heavy its tails are, lie on a grid.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scbayes.counts._threads import N_THREADS
from scbayes.models._ambient_counts import AmbientCounts
from scbayes.stats._additive_background import Background
from scbayes.stats._mixed_model import Problem, solve, start
from scbayes.stats._precision import double

#: Spreads of replicates (natural log), and degrees of freedom of their distribution.
TAU = np.exp(np.linspace(np.log(0.02), np.log(1.2), 12))
NU = (np.inf, 4.0)
#: Spread of what are no replicates.
NONE = 1e-5
#: Standard deviation of the wide prior of effects, of covariates, of people in both arms (so wide that only differences
#: within them tell), and of the level around its rough value.
WIDE, COVARIATE, PERSON, LEVEL = 2.0, 1.0, 1.5, 4.0
#: Newton steps from the rough start, and from the neighbour on the grid.
FIRST, NEXT = 14, 3
#: Genes are solved so many at a time, and units and people filled up to a multiple: few programs to compile.
BLOCK, SMALL_BLOCK, MULTIPLE = 2048, 128, 4
#: Exposure of units, and variance of values, that only fill up.
NOTHING = 1e-30


class Contrast(NamedTuple):
    """Units of two arms.

    Attributes
    ----------
    y
        Counts, or values with errors: ``(n_genes, n_units)``.
    exposure
        Of counts, ``(n_units,)``; ``(n_genes, n_units)`` where each gene has its own.
    noise
        Inverse sizes of counts, variances of values: ``(n_genes, n_units)``.
    design
        ``(n_units, n_columns)``: intercept first, the contrast last, covariates between.
    people
        Whose each unit is, ``(n_units, n_people)``; no columns where that is nobody's.
    replicated
        Whether units are replicates; else their spread is zero.
    kind
        ``"counts"``, ``"contaminated"`` or ``"values"``.
    ambient
        Of contaminated counts.
    """

    y: np.ndarray
    exposure: np.ndarray
    noise: np.ndarray
    design: np.ndarray
    people: np.ndarray
    replicated: bool
    kind: str = "counts"
    ambient: AmbientCounts | None = None

    def take(self, genes: np.ndarray) -> "Contrast":
        """Some of the genes."""
        ambient = None if self.ambient is None else self.ambient.of_genes(genes)
        exposure = np.broadcast_to(self.exposure, self.y.shape)[genes]
        return self._replace(y=self.y[genes], exposure=exposure, noise=self.noise[genes], ambient=ambient)

    @property
    def told(self) -> bool:
        """Whether the spread of replicates can be told from effects: more units than columns."""
        columns = np.concatenate([self.design, self.people], 1)
        return len(columns) > np.linalg.matrix_rank(columns)

    def rough(self) -> np.ndarray:
        """Level of each gene, roughly."""
        if self.kind == "values":
            return np.average(self.y, 1, 1 / self.noise)
        foreign = 0 if self.ambient is None else self.ambient.mean().sum(0)
        return np.log((np.maximum(self.y.sum(1) - foreign, 0) + 0.5) / self.exposure.sum(-1))


class OnGrid(NamedTuple):
    """At each point of the grid: mean and variance of the effect, of the level, their covariance, and the evidence.

    ``(n_genes, n_points)`` each; ``tau`` is the spread at the points, ``n_nu`` the number of kinds of tails.
    """

    effect: np.ndarray
    variance: np.ndarray
    level: np.ndarray
    level_variance: np.ndarray
    covariance: np.ndarray
    evidence: np.ndarray
    tau: np.ndarray
    n_nu: int


def on_grid(contrast: Contrast) -> OnGrid:
    """The posterior under the wide prior of effects at each point of the grid."""
    tau, nu = (part.ravel() for part in np.meshgrid(TAU, NU)) if contrast.replicated else (np.full(1, NONE), NU[:1])
    n = len(contrast.y)
    size = _block_size(n)
    whole = [np.empty((n, len(tau))) for _ in range(6)]

    def fill(first: int) -> None:
        rows = slice(first, min(first + size, n))
        for t, found in enumerate(_solved(_block(contrast, rows, size), contrast.kind, tau, nu)):
            for to, part in zip(whole, found, strict=True):
                to[rows, t] = np.asarray(part)[: rows.stop - rows.start]

    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(fill, range(0, n, size)))
    return OnGrid(*whole, tau, len(NU) if contrast.replicated else 1)


def responses(contrast: Contrast, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""What each unit says of its own log mean, the variance of its error, and m: ``(n_genes, n_units)`` each.

    For counts, at the joint mode :math:`\tilde\eta` with a spread ``tau`` ``(n_genes,)`` of replicates,

    .. math::
        z = \tilde\eta + \frac{y - \tilde m}{\tilde m} + \frac{1}{2} \operatorname{Var}(\tilde\eta), \qquad
        v = \frac{1}{\tilde m} + \frac{1}{k}, \qquad \tilde m = E\, e^{\tilde\eta}

    With a background of mean B and variance of error s^2, y - B takes the place of y, and v is larger by
    :math:`(B + s^2) / \tilde m^2`.

    The first two terms are the working response that the posterior of each gene rests on: near log(y / E) where the
    count outweighs the spread, and linear in y around what the gene's other units say where it does not. The third is
    what logs of counts fall short on average, more where these are lower (the correction of Firth 1993).
    """
    if contrast.kind == "values":
        return contrast.y, contrast.noise, np.ones_like(contrast.y)
    n, n_units = contrast.y.shape
    size = _block_size(n)
    eta = np.empty((n, n_units))
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        block, at = _block(contrast, rows, size), tau[_filled(rows, size), None]
        with double():
            problem = jax.tree.map(_array, block)
            kind = contrast.kind
            found = solve(problem, jnp.asarray(at), jnp.asarray(np.inf), start(problem, kind), FIRST, kind)
        eta[rows] = np.asarray(found.eta)[: rows.stop - rows.start, :n_units]
    mean = contrast.exposure * np.exp(eta)
    foreign, error = (0.0, 0.0) if (known := contrast.ambient) is None else (known.mean().T, known.variance()[0].T)
    variance = 1 / mean + contrast.noise + (foreign + error) / mean**2
    short = _variance_at_mode(contrast, variance, tau[:, None] ** 2) / 2
    return eta + (contrast.y - foreign) / mean - 1 + short, variance, mean


def _variance_at_mode(contrast: Contrast, variance: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Of each unit's log mean; ``variance`` of its error, ``spread`` the variance of replicates."""
    weight, design, people = 1 / (variance + spread), contrast.design, contrast.people
    own = weight @ people + PERSON**-2
    cross = np.einsum("gd,dp,di->gpi", weight, people, design) / own[..., None]
    precision = np.diag(_prior_sd(design) ** -2) + np.einsum("gd,di,dj->gij", weight, design, design)
    covariance = np.linalg.inv(precision - np.einsum("gpi,gp,gpj->gij", cross, own, cross))
    along = design - np.einsum("dp,gpi->gdi", people, cross)  # people move with the columns
    fixed = np.einsum("gdi,gij,gdj->gd", along, covariance, along) + (1 / own) @ people.T
    return spread * variance * weight + (variance * weight) ** 2 * fixed


def _prior_sd(design: np.ndarray) -> np.ndarray:
    return np.array([LEVEL, *[COVARIATE] * (design.shape[1] - 2), WIDE])


def _solved(problem: Problem, kind: str, tau: np.ndarray, nu: np.ndarray):
    with double():
        problem = jax.tree.map(_array, problem)
        eta, steps = start(problem, kind), FIRST
        for t, n in zip(tau, nu, strict=True):
            *found, eta = solve(problem, jnp.asarray(t), jnp.asarray(n), eta, steps, kind)
            steps = NEXT
            yield found


def _block(contrast: Contrast, rows: slice, size: int) -> Problem:
    """Some genes, the last of them repeated, with units and people filled up by such without weight."""
    n_units, n_people = contrast.people.shape
    units, people = -n_units % MULTIPLE, -n_people % MULTIPLE if n_people else 0
    part = contrast.take(_filled(rows, size))
    noise = 1 / NOTHING if contrast.kind == "values" else 1.0
    prior_mean = np.zeros((size, contrast.design.shape[1]))
    prior_mean[:, 0] = part.rough()
    return Problem(
        np.pad(part.y, ((0, 0), (0, units))),
        np.pad(part.exposure, ((0, 0), (0, units)), constant_values=NOTHING),
        np.pad(part.noise, ((0, 0), (0, units)), constant_values=noise),
        np.pad(contrast.design, ((0, units), (0, 0))),
        prior_mean,
        _prior_sd(contrast.design),
        np.pad(contrast.people, ((0, units), (0, people))),
        PERSON,
        None if part.ambient is None else _background(part.ambient, contrast.design[:, -1] > 0, units),
    )


def _background(ambient: AmbientCounts, arm: np.ndarray, more: int) -> Background:
    """Ambient counts of units, and of so many ``more`` that have none."""
    load, profile, factor = ambient.causes()
    parts = ambient.mean(), *ambient.variance(), load
    *of_units, load = (np.pad(part, ((0, more), (0, 0))) for part in parts)
    return Background(*[part.T for part in of_units], load, profile, factor, np.pad([arm, ~arm], ((0, 0), (0, more))))


def _array(value: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(value, float)


def _block_size(n: int) -> int:
    return BLOCK if n > BLOCK else max(SMALL_BLOCK, 1 << (n - 1).bit_length())


def _filled(rows: slice, size: int) -> np.ndarray:
    """Places of the genes of a block, the last repeated."""
    return np.minimum(np.arange(rows.start, rows.start + size), rows.stop - 1)
