"""Share of ambient counts in each cell, from how cells of a group differ."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scbayes.counts import Counts
from scbayes.models._ambient_group import AmbientGroup, make_groups
from scbayes.models._ambient_scores import FINE, log_likelihood
from scbayes.models._contamination_level import LEVELS, Evidence, Level, find_level, shares_of_cells, steps_of
from scbayes.models._native_noise import dispersion, find_noise, find_programmes
from scbayes.models._silent_genes import level_from_genes

#: Groups of fewer cells say nothing about their cells, which have what is known of the sample.
MIN_CELLS = 20
N_ROUNDS = 3
#: Standard deviation of the error of a group's log level that comes from what the model leaves out: it is larger
#: where native variance is not what was modelled, by this power of how many times it is, up to a limit.
MISFIT, MISFIT_POWER, LARGEST_MISFIT = 0.07, 1 / 3, 0.15
#: Power of the same by which the noise of a cell is larger.
NOISE_POWER = 0.15
#: Largest slope of the share on the logarithm of the total, either way.
SLOPES = (-0.5, 1.2)


class Contamination(NamedTuple):
    """What was found.

    Attributes
    ----------
    mean, low, high
        Share of ambient counts in each cell: posterior mean and ends of the interval, ``(n_cells,)``; NaN in no group.
    groups
        The groups, with their levels.
    levels
        Posterior of each sample, by its number.
    width
        Probability of the interval.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    groups: list[AmbientGroup]
    levels: dict[int, Level]
    width: float

    def table(self, kinds: list[str], samples: list[str]) -> pd.DataFrame:
        """Level of each group, with its standard deviation, for `uns`."""
        rows = []
        seen = dict.fromkeys(self.levels, 0)
        for group in self.groups:
            weight = self.levels[group.sample].groups[seen[group.sample]].sum(1)
            seen[group.sample] += 1
            mean = weight @ LEVELS
            sd = np.sqrt(max(weight @ LEVELS**2 - mean**2, 0))
            rows.append((kinds[group.kind], samples[group.sample], len(group.cells), mean, sd, group.unexplained))
        return pd.DataFrame(rows, columns=["kind", "sample", "n_cells", "level", "level_sd", "noise"])

    def drawn(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A draw of the shares: beta distributions of the same moments, whose errors of the level are common."""
        sd = np.maximum((self.high - self.low) / (2 * stats.norm.isf((1 - self.width) / 2)), 1e-6)
        relative = np.array([self.levels[s].log_sd if s in self.levels else 0.0 for s in range(sample.max() + 1)])
        common = np.clip(relative[sample] * self.mean / sd, 0, 1)
        z = common * rng.normal(size=len(relative))[sample] + np.sqrt(1 - common**2) * rng.normal(size=len(sd))
        total = np.maximum(self.mean * (1 - self.mean) / sd**2 - 1, 1e-3)
        return stats.beta.ppf(stats.norm.cdf(z), self.mean * total, (1 - self.mean) * total)


def find_contamination(
    counts: Counts,
    kind: np.ndarray,
    sample: np.ndarray,
    profiles: np.ndarray,
    *,
    prior: tuple[float, float],
    width: float,
    rng: np.random.Generator,
    said: Callable[[], None] = lambda: None,
) -> Contamination:
    """Posterior of the share of ambient counts in each cell.

    Parameters
    ----------
    counts
        In memory, CSR; its batches are the columns of ``profiles``.
    kind, sample
        Of each cell, integers.
    prior
        Median of a sample's level and standard deviation of its logarithm.
    width
        Probability of the interval.
    said
        Called after each of `N_ROUNDS` rounds.
    """
    groups = make_groups(counts, kind, sample, profiles, level=prior[0])
    deltas = [np.zeros(len(group.cells)) for group in groups]
    silent = [level_from_genes(group.sums, group.exposure, group.profile) for group in groups]
    asked = [group for group in groups if len(group.cells) >= MIN_CELLS]
    for step in range(N_ROUNDS):
        last = step == N_ROUNDS - 1
        spread = dispersion(groups, deltas)
        for group in groups:
            group.dispersion = spread
        excess = _learn_noise(asked, rng, noise=step > 0)
        curves = [
            log_likelihood(group, roughly=not last) if len(group.cells) >= MIN_CELLS else None for group in groups
        ]
        deltas = [np.zeros(len(g.cells)) if c is None else _mode(c) for g, c in zip(groups, curves, strict=True)]
        evidence = [_evidence(*each, excess) for each in zip(groups, curves, silent, strict=True)]
        evidence = _with_slope(groups, deltas, evidence)
        levels = {}
        for s in np.unique([group.sample for group in groups]):
            own = [i for i, group in enumerate(groups) if group.sample == s]
            levels[int(s)] = found = find_level([evidence[i] for i in own], prior)
            for i, weight in zip(own, found.groups, strict=True):
                groups[i].level = float(weight.sum(1) @ LEVELS)
        if not last:
            for group, delta in zip(groups, deltas, strict=True):
                move = float(np.clip(delta, -0.3, 0.6).mean())
                group.shift += move * (1 - group.shift)
        said()
    mean, low, high = (np.full(counts.n_cells, np.nan) for _ in range(3))
    for s, level in levels.items():
        own = [i for i, group in enumerate(groups) if group.sample == s]
        for i, weight in zip(own, level.groups, strict=True):
            cells = groups[i].cells
            mean[cells], low[cells], high[cells] = shares_of_cells(evidence[i], weight, width)
    for group in groups:
        group.x = None  # a copy of the counts, which is not needed any more
    return Contamination(mean, low, high, groups, levels, width)


def _learn_noise(groups: list[AmbientGroup], rng: np.random.Generator, *, noise: bool) -> dict[int, np.ndarray]:
    """Programmes and noise of each kind; how much noisier each cell is, by ``id`` of its group."""
    excess = {}
    for kind in np.unique([group.kind for group in groups]):
        own = [group for group in groups if group.kind == kind]
        find_programmes(own, rng)
        if noise:
            excess |= {id(group): value for group, value in zip(own, find_noise(own), strict=True)}
    return excess


def _mode(curve: np.ndarray) -> np.ndarray:
    return FINE[curve.argmax(1)]


def _evidence(
    group: AmbientGroup, curve: np.ndarray | None, silent: Callable | None, excess: dict[int, np.ndarray]
) -> Evidence:
    n = len(group.cells)
    if curve is None:
        return Evidence(np.ones((n, len(FINE)), np.float32), np.zeros(n, int), np.zeros(len(LEVELS)), MISFIT)
    misfit = min(MISFIT * group.unexplained**MISFIT_POWER, LARGEST_MISFIT)
    curve = curve / (group.unexplained**NOISE_POWER * excess.get(id(group), np.ones(n))[:, None])
    # sums of counts are of the mean before the shift
    before = np.clip((LEVELS - group.shift) / (1 - group.shift), LEVELS[0], LEVELS[-1])
    genes = np.zeros(len(LEVELS)) if silent is None else silent(np.log(before))
    return Evidence(np.exp(curve).astype(np.float32), np.zeros(n, int), genes, misfit)


def _with_slope(groups: list, deltas: list, evidence: list[Evidence]) -> list[Evidence]:
    """Evidence with cells in classes of their totals, from the slope of each sample."""
    found = list(evidence)
    for s in {group.sample for group in groups}:
        own = [i for i, group in enumerate(groups) if group.sample == s and len(group.cells) >= MIN_CELLS]
        if not own:
            continue
        x = np.concatenate([np.log(groups[i].total) - np.log(groups[i].total).mean() for i in own])
        relative = [(1 - groups[i].level) / groups[i].level * np.clip(deltas[i], -0.5, 0.8) for i in own]
        y = np.concatenate([one - one.mean() for one in relative])
        slope = x @ y / max(x @ x, 1e-9)
        error = np.sqrt(np.sum((y - slope * x) ** 2) / max(len(y) - 2, 1) / max(x @ x, 1e-9))
        sure = slope**2 / (slope**2 + error**2) if error > 0 else 0.0
        slope = float(np.clip(-slope * sure, *SLOPES))
        for i in own:
            found[i] = evidence[i]._replace(step=steps_of(groups[i].total, slope))
    return found
