"""What :func:`scbayes.tl.de` is given: checked, before anything is computed."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scbayes.models._question import Question
from scbayes.state import fit_behind, read_manifest, split_partner, stored_fits
from scbayes.stats._numbers import check_whole
from scbayes.tl._de_groups import Grouping, by_column, by_components, by_sets

if TYPE_CHECKING:
    from anndata import AnnData

STATISTICS = ("mean", "dispersion")
MODES = ("change", "vanilla")
RELATIVE = ("median", "clr", "total")


def grouping_of(adata: "AnnData", groupby: str | None, key: str | None, idx1, idx2, *, layer: str | None) -> Grouping:
    """The groups, given in exactly one way.

    The part of the counts that was split off for tests is not used twice if the groups come from the other part; where
    scanpy made them, this is taken for granted.
    """
    given = [name for name, value in (("groupby", groupby), ("key", key), ("idx1", idx1)) if value is not None]
    if len(given) != 1:
        msg = f"say what to compare by one of groupby, key and idx1: {' and '.join(given) or 'none of them'} was given"
        raise ValueError(msg)
    if idx2 is not None and idx1 is None:
        msg = "idx2 needs idx1, the cells that it is compared with"
        raise ValueError(msg)
    if idx1 is not None:
        return by_sets(adata, idx1, idx2)
    found = by_column(adata, groupby) if key is None else by_components(adata, key)
    other, fit = split_partner(adata, layer), key or fit_behind(adata, groupby)
    if other is not None and (fit not in stored_fits(adata) or read_manifest(adata, fit)["facts"]["layer"] == other):
        return found._replace(double_use=False)
    return found


def as_question(
    adata: "AnnData", relative_to: str | Iterable[str], level: float | Iterable[float], **asked
) -> Question:
    """What is asked about the effects; ``asked``: the other fields of a question."""
    mode, delta, fdr = asked["mode"], asked["delta"], asked["fdr"]
    if asked["statistic"] not in STATISTICS:
        msg = f"unknown statistic {asked['statistic']!r}; choose one of {', '.join(STATISTICS)}"
        raise ValueError(msg)
    if mode not in MODES:
        msg = f"unknown mode {mode!r}; choose one of {', '.join(MODES)}"
        raise ValueError(msg)
    if delta != "auto" and (not _number(delta) or not 0 <= delta < np.inf):
        msg = f"delta={delta!r}: give a log2 fold change of at least 0, or 'auto'"
        raise ValueError(msg)
    if not _number(fdr) or not 0 < fdr < 1:
        msg = f"fdr={fdr!r}: give a share between 0 and 1"
        raise ValueError(msg)
    levels = tuple([level] if _number(level) else level)
    if not levels or not all(_number(one) and 0 < one < 1 for one in levels):
        msg = f"level={level!r}: give one or more probabilities between 0 and 1"
        raise ValueError(msg)
    custom = [f"{name}_fn" for name in ("change", "in_region") if asked[name] is not None]
    if mode == "vanilla" and (custom or delta != 0):
        msg = f"mode='vanilla' asks for directions only: leave {' and '.join(custom) or 'delta'} out"
        raise ValueError(msg)
    asked |= {"fdr": float(fdr), "delta": delta if delta == "auto" else float(delta)}
    n_samples, n_pairs = asked["n_samples"], asked["n_pairs"]
    if n_pairs is not None and not custom:
        msg = "n_pairs pairs draws for change_fn or in_region_fn, and neither was given"
        raise ValueError(msg)
    check_whole(100, n_samples=n_samples)
    check_whole(100, n_pairs=n_pairs, or_none=True)
    levels = tuple(float(one) for one in levels)
    return Question(**asked, levels=levels, relative_to=_relative(adata, relative_to))


def _number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _relative(adata: "AnnData", relative_to: str | Iterable[str]) -> str | np.ndarray:
    """A kind of size factor, or a mask of genes."""
    if isinstance(relative_to, str):
        if relative_to in RELATIVE:
            return relative_to
        if relative_to not in adata.var or adata.var[relative_to].dtype != bool:
            msg = (
                f"unknown relative_to={relative_to!r}; choose one of {', '.join(RELATIVE)}, a boolean column of "
                "adata.var, or names of genes"
            )
            raise ValueError(msg)
        mask = adata.var[relative_to].to_numpy()
    else:
        names = list(relative_to)
        absent = [name for name in names if name not in adata.var_names]
        if absent:
            msg = f"relative_to: no gene {absent[0]!r} in adata.var_names"
            raise KeyError(msg)
        mask = np.isin(adata.var_names, names)
    if not mask.any():
        msg = "relative_to names no gene"
        raise ValueError(msg)
    return mask
