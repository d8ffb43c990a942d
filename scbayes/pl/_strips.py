"""Distributions of a number over groups of cells, one row each."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Points drawn per group, a random choice of more.
N_POINTS = 2000


def height_of(n_groups: int) -> float:
    """Height of a figure with so many rows, inches."""
    return 1.1 + 0.32 * n_groups


def draw_strips(ax: "Axes", value: np.ndarray, group: "pd.Categorical") -> None:
    """Points of each cell, the middle half of a group as a bar, its median as a ring; n of each on the right."""
    rng = np.random.default_rng(0)
    names = list(group.categories)
    for row in range(len(names)):
        own = np.asarray(value)[group.codes == row]
        ax.annotate(f"n = {len(own):,}", (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize="small")
        if not len(own):
            continue
        low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
        shown = own if len(own) <= N_POINTS else rng.choice(own, N_POINTS, replace=False)
        jitter = row + rng.uniform(-0.3, 0.3, len(shown))
        ax.plot(shown, jitter, ".", ms=3.5, color="0.45", alpha=0.35, mew=0, rasterized=True, zorder=1)
        ax.plot([low, high], [row, row], "-", lw=4, color="tab:blue", solid_capstyle="butt", zorder=2)
        ax.plot(middle, row, "o", ms=6, mfc="white", mec="0.1", mew=1.2, zorder=3, clip_on=False)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_ylabel("")
