"""Two arms of units, gene by gene: everything that a table of differential expression says."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from scbayes.models._effects import WIDE, Contrast, Effects, effects
from scbayes.models._units import TINY, Units, inverse_sizes, size_factors

LOG2 = np.log(2)
#: What the smallest effect that would be found is found with.
POWER = 0.8
#: Mean counts are given per cell of so many.
PER_CELL = 1e4


class Arms(NamedTuple):
    """Two arms of units.

    Attributes
    ----------
    units
        Sums over the cells of each unit.
    arm
        1 for units of the group, 0 for those of the reference.
    design
        ``(n_units, n_columns)``: intercept first, contrast last, covariates between.
    people
        Whose each unit is, ``(n_units, n_people)``; no columns where people are not in both arms.
    replicated
        Whether units are replicates; else cells stand for themselves.
    """

    units: Units
    arm: np.ndarray
    design: np.ndarray
    people: np.ndarray
    replicated: bool


class Table(NamedTuple):
    """A row per gene, by column; fold changes in log2. ``learned``: what was learned over genes, plain values."""

    columns: dict[str, np.ndarray]
    learned: dict


def compare_arms(arms: Arms, *, delta: float, fdr: float, level: float = 0.95) -> Table:
    """Effects of all genes, and which of them are called with an expected share ``fdr`` of false calls."""
    arms = _with_counts(arms)
    units = arms.units.scaled(size_factors(arms.units))
    # what is nowhere tells nothing, of its own effect or of others'; nor does anything where an arm is empty
    seen = (units.total.sum(0) > 0) & (len(np.unique(arms.arm)) == 2)
    columns, learned = {name: np.full(len(seen), value) for name, value in _prior(level).items()}, {}
    if seen.any():
        found = effects(_contrast(arms, units, seen))
        learned = found.learned
        for name, value in _posterior(found, delta * LOG2, level).items():
            columns[name][seen] = value
    columns["fsr"] = expected_share(columns["lfsr"])
    columns["is_de"] = seen & (columns["fsr"] <= fdr)
    per_cell = PER_CELL / max(units.total.sum() / max(units.exposure.sum(), TINY), TINY)
    for which, name in ((1, "1"), (0, "2")):
        own = units.take(arms.arm == which)
        columns[f"mean_{name}"] = own.total.sum(0) / max(own.exposure.sum(), TINY) * per_cell
        columns[f"pct_{name}"] = own.detected.sum(0) / max(own.cells.sum(), 1)
    columns["data_poor"] = ~seen | (columns["lfc_sd"] > WIDE / LOG2 / np.sqrt(2))
    return Table(columns, learned | {"paired": arms.people.shape[1] > 0, "n_units": len(arms.arm)})


def _with_counts(arms: Arms) -> Arms:
    """Without units whose cells are all empty."""
    filled = arms.units.exposure > 0
    parts = {name: getattr(arms, name)[filled] for name in ("arm", "design", "people")}
    return arms._replace(units=arms.units.take(filled), **parts)


def _prior(level: float) -> dict[str, float]:
    """What :func:`_posterior` says of a gene without counts."""
    sd, half = WIDE / LOG2, ndtri((1 + level) / 2)
    none = ("lfc_mean", "lfc_median", "p_up", "p_down", "p_de", "log_bayes_factor", "donor_sd", "bound")
    wide = {"lfc_sd": sd, "ci_low": -half * sd, "ci_high": half * sd, "min_detectable_lfc": (half + ndtri(POWER)) * sd}
    return dict.fromkeys(none, 0.0) | wide | {"p_sign_new_donor": 0.5, "lfsr": 1.0}


def expected_share(error: np.ndarray) -> np.ndarray:
    """Mean error of the genes with at most this error: the share of false calls if they are called."""
    order = np.argsort(error, kind="stable")
    share = np.empty(len(error))
    share[order] = np.cumsum(error[order]) / np.arange(1, len(error) + 1)
    return share


def _contrast(arms: Arms, units: Units, seen: np.ndarray) -> Contrast:
    inverse_size = inverse_sizes(units, arms.arm)[arms.arm].T * (units.exposure2 / units.exposure**2)
    told = len(arms.arm) > np.linalg.matrix_rank(np.concatenate([arms.design, arms.people], 1))
    parts = units.total.T[seen], units.exposure, inverse_size[seen], arms.design, arms.people
    return Contrast(*parts, arms.replicated, told)


def _posterior(found: Effects, delta: float, level: float) -> dict[str, np.ndarray]:
    p_up, p_down = found.above(delta), found.below(-delta)
    sd = found.std()
    columns = {
        "lfc_mean": found.mean() / LOG2,
        "lfc_sd": sd / LOG2,
        "lfc_median": found.quantile(0.5) / LOG2,
        "ci_low": found.quantile((1 - level) / 2) / LOG2,
        "ci_high": found.quantile((1 + level) / 2) / LOG2,
        "lfsr": found.wrong_sign(delta),
        "p_up": p_up,
        "p_down": p_down,
        "p_de": p_up + p_down,
        "log_bayes_factor": found.log_bayes_factor,
        "donor_sd": found.spread() / LOG2,
        "p_sign_new_donor": found.same_sign(),
        "min_detectable_lfc": (ndtri((1 + level) / 2) + ndtri(POWER)) * sd / LOG2,
    }
    low, high = columns["ci_low"], columns["ci_high"]
    columns["bound"] = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return columns
