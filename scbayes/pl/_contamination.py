"""Share of ambient counts in cells, with intervals."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Intervals drawn in each group, evenly among its cells.
N_SHOWN = 400
BAND, LEVEL = "#a9cce8", "#c03028"


def contamination(
    adata: "AnnData",
    key: str = "sb",
    *,
    groupby: str | None = None,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Share of ambient counts of the cells of each group, from the lowest to the highest, with their intervals.

    In each row cells go up from the least to the most contaminated: a point for the posterior mean, a line for the
    interval. A diamond is the level that the cells of a group or sample have in common, with its interval; it is
    hollow, and the sample named, where the level is not identified: there all shares may be too high or too low
    together. Of more than 400 cells of a group, 400 are drawn.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.denoise`.
    key
        Its `key_added`.
    groupby
        Column of `obs`. Default: the samples, where there are several; else the kinds of cells that the shares were
        found by. Only these have levels. Cells without a group are left out.
    ax
        Axes; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown.

    Raises
    ------
    KeyError
        As :func:`scbayes.get.contamination`; if there is no such column.
    """
    table = get.contamination(adata, key)
    label, group, levels = _groups(adata, table, key, groupby)
    names = list(group.categories)
    given, ax = ax, axes_or_new(ax, (5.5, 1.3 + 0.45 * len(names)))
    numbers = table[["contamination", "low", "high"]].to_numpy()
    for row in range(len(names)):
        own = numbers[(group.codes == row) & np.isfinite(numbers[:, 0])]
        ax.annotate(f"n = {len(own):,}", (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize="small")
        _draw_cells(ax, own[np.argsort(own[:, 0], kind="stable")], row)
    width = table.attrs["interval"]
    if levels is not None:
        _draw_levels(ax, levels.loc[levels.index.isin(names)], names, width)
    for edge in np.arange(len(names) - 1) + 0.5:
        ax.axhline(edge, color="0.9", lw=0.6, zorder=0)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), ylabel=label, xlim=(0, None))
    ax.set_xlabel(f"share of ambient counts (mean, {width:.0%} interval)")
    unsure = [name for name, one in table.attrs["samples"].items() if not one["identified"]]
    if unsure:
        of = "" if unsure == ["all"] else " of " + ", ".join(unsure[:4]) + (", ..." if len(unsure) > 4 else "")
        ax.set_title(f"level{of} not identified", fontsize="medium")
    return finish(ax, given, show)


def _groups(
    adata: "AnnData", table: pd.DataFrame, key: str, groupby: str | None
) -> tuple[str, pd.Categorical, pd.DataFrame | None]:
    """What groups are called, the group of each cell, and levels by name of group."""
    facts = table.attrs
    if groupby is not None and groupby not in adata.obs:
        msg = f"groupby={groupby!r}: no such column of adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    if len(facts["samples"]) > 1 and groupby in (None, facts["sample_key"]):
        levels = pd.DataFrame.from_dict(facts["samples"], orient="index")
        return facts["sample_key"], pd.Categorical(table["sample"]), levels
    if groupby is not None and groupby != f"{key}_denoise_group" and facts["kinds"] != f"obs[{groupby!r}]":
        return groupby, pd.Categorical(adata.obs[groupby].astype(str).where(adata.obs[groupby].notna())), None
    levels = {}
    for name, own in get.contamination(adata, key, by="group").groupby("group"):
        # errors are common to samples and batches for the most part: means, and not smaller for being many
        level, sd = np.average(own[["level", "level_sd"]], axis=0, weights=own["n_cells"])
        levels[name] = {"level": level, "level_sd": sd, "identified": own["identified"].all()}
    label = facts["kinds"].removeprefix("obs['").removesuffix("']")
    return label, table["group"].array, pd.DataFrame.from_dict(levels, orient="index")


def _draw_cells(ax: "Axes", own: np.ndarray, row: int) -> None:
    """Means and intervals of cells in this order, from the bottom of the row to its top."""
    y = row + 0.38 - 0.76 * (np.arange(len(own)) + 0.5) / max(len(own), 1)
    shown = np.unique(np.linspace(0, max(len(own) - 1, 0), min(N_SHOWN, len(own))).astype(int))
    mean, low, high = own[shown].T
    ax.hlines(y[shown], low, high, color=BAND, lw=0.6, rasterized=True, zorder=1)
    ax.plot(mean, y[shown], ".", ms=2.5, color="0.1", mew=0, rasterized=True, zorder=2)


def _draw_levels(ax: "Axes", levels: pd.DataFrame, names: list[str], width: float) -> None:
    level, known = levels["level"].to_numpy(float), levels["identified"].to_numpy(bool)
    reach = ndtri((1 + width) / 2) * levels["level_sd"].to_numpy(float)
    row = np.array([names.index(name) for name in levels.index])
    ax.hlines(row, np.maximum(level - reach, 0), np.minimum(level + reach, 1), color=LEVEL, lw=1.6, zorder=3)
    for own, face, said in ((known, LEVEL, "common level"), (~known, "white", "common level, not identified")):
        if own.any():
            ax.plot(level[own], row[own], "D", ms=5, mfc=face, mec=LEVEL, mew=1.2, zorder=4, label=said)
    if len(levels):
        ax.legend(frameon=False, fontsize="small", loc="lower right")
