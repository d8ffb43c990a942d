r"""Abundance of types of cells under conditions: effects on shares, with samples as replicates.

Counts of a sample are Dirichlet-multinomial (see :mod:`scbayes.stats._dirichlet_multinomial`), with log shares
:math:`\eta_k = \alpha_k + x\beta_k + \dots` up to a constant. The concentration is integrated over a grid, and what an
effect is relative to is a choice (see :mod:`scbayes.models._shifted_effects`).
"""

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import log_softmax, softmax

from scbayes.models._contrast import expected_share
from scbayes.models._effect_grid import COVARIATE, LEVEL, WIDE
from scbayes.models._shifted_effects import Shifted, apart, posterior, up_to_a_shift
from scbayes.stats._dirichlet_multinomial import Point, Regression, Solution, regress

LOG2 = np.log(2)
#: Log concentration: its prior's mean and standard deviation, where it is looked for, and where it is integrated.
CENTRE, SPREAD = np.log(50.0), 1.5
COARSE, FINE = np.linspace(np.log(0.5), np.log(5e4), 15), 9
#: Points with less than e to the minus this of the largest weight are left out.
NEGLIGIBLE = 6.0
#: Standard deviations of the levels of people, with equal weights: if fixed and too wide, samples seem to agree more.
PEOPLE = np.array([0.1, 0.25, 0.6, 1.5])
#: Smallest variance and probability that is divided by.
TINY = 1e-300


class Samples(NamedTuple):
    """Counts of types in samples, and what is known of these.

    Attributes
    ----------
    counts
        ``(n_samples, n_types)``, expected ones where cells belong to types with probabilities.
    level
        Condition of each sample: 0 for the reference.
    covariates
        Columns of the design, ``(n_samples, n_columns)``.
    people
        Whose each sample is, ``(n_samples, n_people)``; no columns where people have one sample each.
    """

    counts: np.ndarray
    level: np.ndarray
    covariates: np.ndarray
    people: np.ndarray


class Found(NamedTuple):
    """``columns``: a row per level but the first and a column per type, each; ``learned``: plain values."""

    columns: dict[str, np.ndarray]
    learned: dict


def abundances(
    samples: Samples, relative_to: "str | int", *, delta: float = 0.0, fdr: float = 0.05, level: float = 0.95
) -> Found:
    """Effects of all conditions against the first, relative to what ``relative_to`` says (or to a type's number)."""
    at, solution, evidence = _integrated(samples)
    tables, nulls = [], []
    for j in range(1, samples.level.max() + 1):
        table, null = _compared(solution, evidence, j, relative_to, delta, level)
        table["fsr"] = expected_share(table["lfsr"])
        table["is_changed"] = table["fsr"] <= fdr
        tables.append(table)
        nulls.append(null)
    columns = {name: np.stack([table[name] for table in tables]) for name in tables[0]}
    weight, log = softmax(evidence), np.log(at.concentration)
    mean = weight @ log
    learned = {"concentration": float(np.exp(mean)), "log_concentration_sd": float(np.sqrt(weight @ (log - mean) ** 2))}
    learned |= {"people_sd": float(weight @ at.people_sd) if samples.people.shape[1] else None, "null": nulls}
    share = (columns["share_1"] + columns["share_2"]) / 2
    columns["sample_cv"] = np.sqrt(np.maximum(1 - share, 0) / share / (1 + np.exp(mean)))
    return Found(columns, learned)


def _integrated(samples: Samples) -> tuple[Point, Solution, np.ndarray]:
    """Points, the solution at each, and their log weights: first roughly everywhere, then where it matters."""
    n_levels = samples.level.max() + 1
    dummies = np.eye(n_levels)[:, 1:] - 1 / n_levels
    covariates = samples.covariates - samples.covariates.mean(0)
    design = np.column_stack([np.ones(len(samples.level)), covariates, dummies[samples.level]])
    rows = np.column_stack([np.ones(n_levels), np.zeros((n_levels, covariates.shape[1])), dummies])
    share = samples.counts.sum(0) + 0.5
    prior_mean = np.zeros((design.shape[1], len(share)))
    prior_mean[0] = np.log(share / share.sum())
    prior_sd = np.array([LEVEL, *[COVARIATE] * covariates.shape[1], *[WIDE] * (n_levels - 1)])
    problem = Regression(samples.counts, design, prior_mean, prior_sd, samples.people)

    def evidence(at: Point, solution: Solution) -> np.ndarray:
        return solution.evidence - 0.5 * ((np.log(at.concentration) - CENTRE) / SPREAD) ** 2

    spreads = PEOPLE if samples.people.shape[1] else PEOPLE[:1]
    at = Point(np.tile(np.exp(COARSE), len(spreads)), np.repeat(spreads, len(COARSE)))
    rough = regress(problem, at, rows)
    fine, step = _where_it_matters(evidence(at, rough).reshape(len(spreads), -1), spreads)
    nearest = np.hypot(*(np.log(own[:, None] / grid) for own, grid in zip(fine, at, strict=True))).argmin(1)
    found = regress(problem, fine, rows, Solution(*[part[nearest] for part in rough]))
    return fine, found, evidence(fine, found) + step


def _where_it_matters(log_weight: np.ndarray, spreads: np.ndarray) -> tuple[Point, np.ndarray]:
    """Points where the evidence, ``(n_spreads, n_concentrations)``, is not negligible, and the logs of their steps."""
    between = np.linspace(COARSE[0], COARSE[-1], 600)
    whole = CubicSpline(COARSE, log_weight, axis=1)(between)
    parts = []
    for spread, own in zip(spreads, whole, strict=True):
        matters = between[own > whole.max() - NEGLIGIBLE]
        if len(matters):
            at = np.linspace(matters[0], matters[-1], FINE)
            parts.append((np.exp(at), np.full(FINE, spread), np.full(FINE, np.log(matters[-1] - matters[0] + 1e-3))))
    concentration, people_sd, step = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Point(concentration, people_sd), step


def _compared(
    solution: Solution, evidence: np.ndarray, j: int, relative_to: "str | int", delta: float, level: float
) -> tuple[dict[str, np.ndarray], float]:
    """Columns of condition j against the first, and the share of types that did not change."""
    n_types = solution.loc.shape[2]
    both = np.r_[j * n_types : (j + 1) * n_types, :n_types]
    covariance = solution.covariance[:, both[:, None], both]
    log_share, log_share0 = (log_softmax(solution.loc[:, i], -1) for i in (j, 0))
    # ratios of shares and of odds are nearly linear in log shares
    slope, slope0 = (np.eye(n_types) - np.exp(p)[:, None, :] for p in (log_share, log_share0))
    ratio = log_share - log_share0
    of_share = posterior(apart(ratio, _variance(covariance, slope, slope0), evidence), None)
    rest, rest0 = (np.log(-np.expm1(p)) for p in (log_share, log_share0))
    variance = _variance(covariance, slope / np.exp(rest)[..., None], slope0 / np.exp(rest0)[..., None])
    of_odds = posterior(apart(ratio - rest + rest0, variance, evidence), None)
    if relative_to == "share":
        found = of_share
    else:
        contrast = np.concatenate([np.eye(n_types), -np.eye(n_types)], 1)
        loc = solution.loc[:, j] - solution.loc[:, 0]
        found = posterior(up_to_a_shift(loc, contrast @ covariance @ contrast.T, evidence), relative_to)
    columns = _columns(found, delta * LOG2, level)
    for name, part in (("share_lfc", of_share), ("log_odds", of_odds)):
        columns |= {f"{name}_{what}": column for what, column in _interval(part, level).items()}
    weight = softmax(evidence)
    columns |= {"share_1": weight @ np.exp(log_share), "share_2": weight @ np.exp(log_share0)}
    columns["data_poor"] = columns["lfc_sd"] > WIDE / LOG2 / np.sqrt(2)
    return columns, float(found.share[0])


def _variance(covariance: np.ndarray, slope: np.ndarray, slope0: np.ndarray) -> np.ndarray:
    """Of what rises with log shares by ``slope``, and falls with those of the reference by ``slope0``."""
    both = np.concatenate([slope, -slope0], -1)
    return np.maximum(np.einsum("mki,mij,mkj->mk", both, covariance, both), TINY)


def _interval(found: Shifted, level: float) -> dict[str, np.ndarray]:
    ends = {"ci_low": (1 - level) / 2, "ci_high": (1 + level) / 2}
    return {"mean": found.mean() / LOG2} | {name: found.quantile(q) / LOG2 for name, q in ends.items()}


def _columns(found: Shifted, delta: float, level: float) -> dict[str, np.ndarray]:
    interval = _interval(found, level)
    p_up, p_down = found.above(delta), found.below(delta)
    changed = found.slab_weight.sum((1, 2))
    odds = (changed / (1 - found.share[0])) / np.maximum(found.null / found.share[0], TINY)
    return {
        "lfc_mean": interval["mean"],
        "lfc_sd": found.std() / LOG2,
        "lfc_median": found.quantile(0.5) / LOG2,
        "ci_low": interval["ci_low"],
        "ci_high": interval["ci_high"],
        "lfsr": found.wrong_sign(delta),
        "p_up": p_up,
        "p_down": p_down,
        "p_changed": p_up + p_down,
        "log_bayes_factor": np.log(np.maximum(odds, TINY)),
    }
