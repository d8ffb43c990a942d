"""Effects that users define: a function of the mean expression in both arms, on draws from the posterior."""

import numpy as np

from scbayes.models._effects import Effects
from scbayes.models._question import Question, interval_columns

#: Values that a block of draws has at most.
VALUES = 4_000_000


def custom_columns(found: Effects, question: Question, delta: float, scale: np.ndarray) -> dict[str, np.ndarray]:
    """The effect's posterior under the wide prior, and the probability of a change under the learned one.

    ``scale`` ``(n_genes,)``: means are so many times those of the model.
    """
    rng = np.random.default_rng(question.seed)
    n_genes = len(found.weight)
    size = max(VALUES // max(question.n_samples, question.n_pairs or 0), 1)
    parts = [
        _columns(found, slice(first, first + size), question, delta, scale, rng) for first in range(0, n_genes, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(found: Effects, genes: slice, question: Question, delta: float, scale: np.ndarray, rng) -> dict:
    effect = _drawn(found, genes, question, scale, rng, wide=True, n_pairs=question.n_pairs)
    columns = {"effect_mean": effect.mean(0), "effect_sd": effect.std(0), "effect_median": np.median(effect, 0)}
    columns |= {name: np.quantile(effect, q, axis=0) for name, q in interval_columns(question.levels, "effect")}
    # pairs made anew would differ in level, also where there is no effect
    effect = _drawn(found, genes, question, scale, rng, wide=False, n_pairs=None)
    inside = np.abs(effect) > delta if question.in_region is None else question.in_region(effect)
    inside = np.asarray(inside)
    if inside.shape != effect.shape or inside.dtype != bool:
        found_shape = f"shape {inside.shape}, {inside.dtype}"
        msg = f"in_region_fn must return true or false for each effect, shape {effect.shape}: it returned {found_shape}"
        raise ValueError(msg)
    up, down = (inside & (effect > 0)).mean(0), (inside & (effect < 0)).mean(0)
    p, n = inside.mean(0), len(effect)
    odds = np.log(n * p + 0.5) - np.log(n * (1 - p) + 0.5)  # finite where all draws agree
    return columns | {"p_up": up, "p_down": down, "p_de": p, "lfsr": 1 - p, "log_bayes_factor": odds}


def _drawn(
    found: Effects, genes: slice, question: Question, scale: np.ndarray, rng, *, wide: bool, n_pairs: int | None
) -> np.ndarray:
    change, level = found.draw(question.n_samples, genes, rng, wide=wide)
    log_1, log_2 = level + change / 2, level - change / 2
    if n_pairs is not None:
        log_1, log_2 = (part[rng.integers(len(part), size=n_pairs)] for part in (log_1, log_2))
    if question.change is None:
        return (log_1 - log_2) / np.log(2)
    mean_1, mean_2 = (scale[genes] * np.exp(part) for part in (log_1, log_2))
    effect = np.asarray(question.change(mean_1, mean_2), float)
    if effect.shape != mean_1.shape or not np.isfinite(effect).all():
        wrong = f"shape {effect.shape}" if effect.shape != mean_1.shape else "values that are not finite"
        msg = f"change_fn must return a finite effect for each draw, shape {mean_1.shape}: it returned {wrong}"
        raise ValueError(msg)
    return effect
