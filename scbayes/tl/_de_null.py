"""What a comparison finds where labels are shuffled."""

import numpy as np

from scbayes.counts import Counts
from scbayes.models._contrast import Arms, Table, compare_arms
from scbayes.models._question import Question
from scbayes.tl._de_design import Cells, Comparison, arms_of
from scbayes.tl._de_units import unit_sums

#: Shuffles after which there are no other labels.
TRIALS = 200


def shuffled_tables(
    counts: Counts,
    cells: Cells,
    comparison: Comparison,
    arms: Arms,
    question: Question,
    n: int,
    rng: np.random.Generator,
):
    """``n`` tables of the comparison, each with other labels.

    Samples exchange arms; those of people in both arms only with the person's own other one. Without samples, cells
    exchange arms with others of the same covariates.
    """
    question = question._replace(sets=None)
    for _ in range(n):
        if cells.replicated:
            yield compare_arms(_mislabelled(arms, comparison.name, rng), question)
        else:
            mixed = _with_shuffled_cells(cells, comparison, rng)
            yield compare_arms(arms_of(mixed, unit_sums(counts, mixed, question.statistic), comparison), question)


def summary_of(tables: "list[Table]", table: Table) -> tuple[dict, np.ndarray]:
    """Numbers of calls, as facts, and for each gene the share of shuffled genes with as large an effect over its sd."""
    null = np.sort(np.concatenate([_size(one) for one in tables]))
    p = (len(null) - np.searchsorted(null, _size(table)) + 1) / (len(null) + 1)
    called = [int(one.columns["is_de"].sum()) for one in tables]
    return {"n_called": called, "median_p_de": [float(np.median(one.columns["p_de"])) for one in tables]}, p


def _size(table: Table) -> np.ndarray:
    return np.abs(table.columns["lfc_mean"]) / table.columns["lfc_sd"]


def _mislabelled(arms: Arms, name: str, rng: np.random.Generator) -> Arms:
    """With labels that are neither the right ones nor all exchanged."""
    for _ in range(TRIALS):
        shuffled = _with_shuffled_samples(arms, rng)
        if 0 < np.sum(shuffled.arm != arms.arm) < len(arms.arm):
            return shuffled
    msg = f"n_permutations: the {len(arms.arm)} samples of {name!r} have no other labels than their own"
    raise ValueError(msg)


def _with_shuffled_samples(arms: Arms, rng: np.random.Generator) -> Arms:
    arm = arms.arm.copy()
    pairs = [np.flatnonzero(person) for person in arms.people.T if len(np.unique(arm[person > 0])) == 2]
    for pair in pairs:
        if rng.random() < 0.5:
            arm[pair] = 1 - arm[pair]
    single = np.setdiff1d(np.arange(len(arm)), np.concatenate(pairs)) if pairs else np.arange(len(arm))
    arm[single] = rng.permutation(arm[single])
    return arms._replace(arm=arm, design=np.column_stack([arms.design[:, :-1], arm - 0.5]))


def _with_shuffled_cells(cells: Cells, comparison: Comparison, rng: np.random.Generator) -> Cells:
    members = cells.members
    part = comparison.own | comparison.other
    stratum = cells.table.groupby(comparison.covariates).ngroup().to_numpy() if comparison.covariates else 0 * part
    unit, weight = members.unit.copy(), members.weight.copy()
    for one in np.unique(stratum[part]):
        entries = np.flatnonzero((part & (stratum == one))[members.unit])
        order = rng.permutation(entries)
        unit[entries], weight[entries] = members.unit[order], members.weight[order]
    return cells._replace(members=members._replace(unit=unit, weight=weight))
