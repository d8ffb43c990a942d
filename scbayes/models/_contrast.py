"""Two arms of units, gene by gene: everything that a table of differential expression says."""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import ndtri

from scbayes.models._custom_effect import custom_columns
from scbayes.models._effect_grid import WIDE, Contrast, on_grid
from scbayes.models._effect_prior import typical_effect
from scbayes.models._effects import Effects, effects
from scbayes.models._gene_sets import set_effects
from scbayes.models._overdispersion import linearised
from scbayes.models._question import Question, interval_columns
from scbayes.models._units import TINY, Units, inverse_sizes, size_factors

LOG2 = np.log(2)
#: What the smallest effect that would be found is found with.
POWER = 0.8
#: Mean counts are given per cell of so many.
PER_CELL = 1e4
#: An automatic threshold is this share of the typical effect, and at least so much (log2).
AUTO_SHARE, AUTO_LEAST = 0.6, 0.1


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

    @property
    def confounded(self) -> bool:
        """Whether covariates say which arm a unit is in."""
        return np.linalg.matrix_rank(self.design) == np.linalg.matrix_rank(self.design[:, :-1])

    def take(self, index: np.ndarray) -> "Arms":
        """Some of the units."""
        parts = {name: getattr(self, name)[index] for name in ("arm", "design", "people")}
        return self._replace(units=self.units.take(index), **parts)


class Table(NamedTuple):
    """A row per gene, by column; fold changes in log2.

    ``learned``: what was learned over genes, plain values. ``sets``: the same of gene sets, where these were asked for.
    """

    columns: dict[str, np.ndarray]
    learned: dict
    sets: dict[str, np.ndarray] | None = None


class Asked(NamedTuple):
    """What is compared: the mean of genes, or how much they vary.

    Attributes
    ----------
    contrast
        Of the genes that data tell about; None where there are none.
    seen
        Which these are.
    scale
        What an effect of zero at a level of zero stands for, in the group and in the reference: ``(2, n_genes)``.
    columns
        Names of columns with the quantity itself in both arms, if the table is to have them.
    """

    contrast: Contrast | None
    seen: np.ndarray
    scale: np.ndarray
    columns: tuple[str, ...] = ()


def compare_arms(arms: Arms, question: Question) -> Table:
    """Effects of all genes, and which of them are called."""
    arms = arms.take(arms.units.exposure > 0)  # without units whose cells are all empty
    units = arms.units.scaled(size_factors(arms.units, question.relative_to))
    asked = (_of_means if question.statistic == "mean" else _of_dispersions)(arms, units)
    seen, n_genes = asked.seen, len(asked.seen)
    columns, learned = {name: np.full(n_genes, value) for name, value in _prior(question).items()}, {}
    columns |= {name: part.copy() for name, part in zip(asked.columns, asked.scale, strict=False)}
    found, delta = None, 0.0
    if seen.any():
        grid, told = on_grid(asked.contrast), asked.contrast.told
        delta = float(question.delta) if question.delta != "auto" else _automatic(effects(grid, told=told))
        found = effects(grid, told=told, delta=delta * LOG2)
        learned = found.learned | {"delta": delta}
        new = _posterior(found, question, delta * LOG2)
        if question.change or question.in_region:
            new |= custom_columns(found, question, delta, np.sqrt(asked.scale.prod(0))[seen])
        new |= _quantities(found, asked)
        for name, value in new.items():
            columns[name][seen] = value
    columns["data_poor"] = ~seen | (columns["lfc_sd"] > WIDE / LOG2 / np.sqrt(2))
    columns["fsr"] = expected_share(columns["lfsr"])
    columns["is_de"] = ~columns["data_poor"] & (columns["fsr"] <= question.fdr)
    columns |= _counted(arms)
    sets = None if question.sets is None else _set_columns(question, columns, asked, found, delta)
    return Table(columns, learned | {"paired": arms.people.shape[1] > 0, "n_units": len(arms.arm)}, sets)


def expected_share(error: np.ndarray) -> np.ndarray:
    """Mean error of the genes with at most this error: the share of false calls if they are called."""
    order = np.argsort(error, kind="stable")
    share = np.empty(len(error))
    share[order] = np.cumsum(error[order]) / np.arange(1, len(error) + 1)
    return share


def _prior(question: Question) -> dict[str, float]:
    """What is said of a gene without counts."""
    sd = WIDE / LOG2
    none = ("lfc_mean", "lfc_median", "p_up", "p_down", "p_de", "log_bayes_factor", "donor_sd", "bound")
    columns = dict.fromkeys(none, 0.0) | {"lfc_sd": sd, "p_sign_new_donor": 0.5, "lfsr": 1.0}
    columns |= {name: sd * ndtri(q) for name, q in interval_columns(question.levels)}
    if question.mode == "vanilla":
        columns |= {"p_up": 0.5, "p_down": 0.5, "p_de": 0.5, "lfsr": 0.5}
    if question.change or question.in_region:
        columns |= dict.fromkeys(("effect_mean", "effect_sd", "effect_median"), 0.0)
        columns |= {name: 0.0 for name, _ in interval_columns(question.levels, "effect")}
    return columns | {"min_detectable_lfc": (ndtri((1 + question.levels[0]) / 2) + ndtri(POWER)) * sd}


def _per_cell(units: Units) -> float:
    return PER_CELL / max(units.native.sum() / max(units.exposure.sum(), TINY), TINY)


def _of_means(arms: Arms, units: Units) -> Asked:
    # what is nowhere tells nothing, of its own effect or of others'; nor does anything where an arm is empty
    seen = (units.total.sum(0) > 0) & (len(np.unique(arms.arm)) == 2)
    scale = np.full((2, len(seen)), _per_cell(units))
    if not seen.any():
        return Asked(None, seen, scale)
    inverse_size = inverse_sizes(units, arms.arm)[arms.arm].T * (units.exposure2 / units.exposure**2)
    exposure = units.exposure
    if units.decoded is not None:
        exposure = np.maximum(units.gene_exposure, TINY).T[seen]
        inverse_size += units.decoded.variance().T  # an error of log E acts as the overdispersion of the sum does
    parts = units.total.T[seen], exposure, inverse_size[seen], arms.design, arms.people, arms.replicated
    contrast = Contrast(*parts)
    if units.ambient is not None:
        contrast = contrast._replace(kind="contaminated", ambient=units.ambient.of_genes(seen))
    return Asked(contrast, seen, scale)


def _of_dispersions(arms: Arms, units: Units) -> Asked:
    """Residual log overdispersions, each unit's likelihood taken as normal, over what is usual at the gene's mean."""
    both = len(np.unique(arms.arm)) == 2
    seen = (units.total.sum(0) > 0) & both & units.overdispersion.information.any((0, 2))
    scale = []
    for which in (1, 0):
        own = arms.arm == which
        scale.append(np.exp(units.overdispersion.trend[own].sum(0) / max(units.cells[own].sum(), TINY)))
    contrast = None
    if seen.any():
        value, variance = (part.T[seen] for part in linearised(units.overdispersion, arms.arm))
        parts = value, units.exposure, variance, arms.design, arms.people, arms.replicated
        contrast = Contrast(*parts, "values")
    return Asked(contrast, seen, np.stack(scale), ("dispersion_1", "dispersion_2"))


def _counted(arms: Arms) -> dict[str, np.ndarray]:
    """What was counted in each arm; where ambient counts are known, means are native, and their share is told."""
    columns = {}
    for which, name in ((1, "1"), (0, "2")):
        own = arms.units._replace(overdispersion=None).take(arms.arm == which)
        total = own.total.sum(0)
        if own.ambient is not None:
            ambient = own.ambient.mean().sum(0)
            columns[f"ambient_{name}"] = np.minimum(ambient / np.maximum(total, TINY), 1.0) * (total > 0)
            total = np.maximum(total - ambient, 0)
        columns[f"mean_{name}"] = total / max(total.sum(), TINY) * PER_CELL
        columns[f"pct_{name}"] = own.detected.sum(0) / max(own.cells.sum(), TINY)
        if own.decoded is not None:
            columns[f"decoded_{name}"] = own.decoded.share() * PER_CELL
    return columns


def _quantities(found: Effects, asked: Asked) -> dict[str, np.ndarray]:
    level, half = np.sum(found.weight * found.grid.level, 1), found.mean() / 2
    parts = zip(asked.columns, asked.scale[:, asked.seen], (half, -half), strict=False)
    return {name: scale * np.exp(level + side) for name, scale, side in parts}


def _set_columns(question: Question, genes: dict, asked: Asked, found: Effects | None, delta: float) -> dict:
    """The same of sets: those of their genes that data tell about."""
    question = question._replace(change=None, in_region=None)
    told = question.sets @ sparse.diags(~genes["data_poor"], dtype=float)  # weights of the others are zero
    told.eliminate_zeros()
    n_genes = np.diff(told.indptr)
    weight = sparse.diags(1 / np.maximum(abs(told).sum(1).A1, TINY)) @ told
    columns = {name: np.full(len(n_genes), value) for name, value in _prior(question).items()}
    columns |= {"n_genes": n_genes, "share_up": np.zeros(len(n_genes))}
    own = n_genes > 0
    if own.any():
        sets = set_effects(asked.contrast, found.spread(), weight[own][:, asked.seen], delta * LOG2)
        for name, value in _posterior(sets, question, delta * LOG2).items():
            columns[name][own] = value
        columns["share_up"] = weight.maximum(0) @ genes["p_up"] + (-weight).maximum(0) @ genes["p_down"]
    columns["fsr"] = expected_share(columns["lfsr"])
    columns["is_de"] = own & (columns["fsr"] <= question.fdr)
    return columns


def _automatic(found: Effects) -> float:
    """Threshold in log2."""
    return max(AUTO_SHARE * typical_effect(found.learned) / LOG2, AUTO_LEAST)


def _posterior(found: Effects, question: Question, delta: float) -> dict[str, np.ndarray]:
    sd = found.std()
    columns = {"lfc_mean": found.mean() / LOG2, "lfc_sd": sd / LOG2, "lfc_median": found.quantile(0.5) / LOG2}
    columns |= {name: found.quantile(q) / LOG2 for name, q in interval_columns(question.levels)}
    columns |= _directions(found) if question.mode == "vanilla" else _changes(found, delta)
    columns |= {
        "donor_sd": found.spread() / LOG2,
        "p_sign_new_donor": found.same_sign(),
        "min_detectable_lfc": (ndtri((1 + question.levels[0]) / 2) + ndtri(POWER)) * sd / LOG2,
    }
    low, high = columns["ci_low"], columns["ci_high"]
    columns["bound"] = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return columns


def _changes(found: Effects, delta: float) -> dict[str, np.ndarray]:
    """Under the learned prior."""
    up, down = found.above(delta), found.below(delta)
    error = found.wrong_sign(delta)
    return {"lfsr": error, "p_up": up, "p_down": down, "p_de": up + down, "log_bayes_factor": found.log_bayes_factor}


def _directions(found: Effects) -> dict[str, np.ndarray]:
    """Under the wide prior, where no effect is exactly zero."""
    up, down = found.positive(), found.negative()
    odds = np.log(np.maximum(up, TINY**30)) - np.log(np.maximum(down, TINY**30))
    return {
        "lfsr": np.minimum(up, down),
        "p_up": up,
        "p_down": down,
        "p_de": np.maximum(up, down),
        "log_bayes_factor": odds,
    }
