"""Cells and the components they were assigned to."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish
from scbayes.pl._strips import draw_strips, height_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def assignments(
    adata: "AnnData",
    key: str = "sb",
    *,
    groupby: str | None = None,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """How sure the assignments are, by component; or, with `groupby`, where the cells of each group went.

    Without `groupby`: the confidence of each cell, median (ring) and middle half (bar) of each component. With it: the
    percentage of each group's cells that were assigned to each component, 100 to a row. The data are those of
    :func:`scbayes.get.assignments`.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.assign`.
    key
        Its `key_added`.
    groupby
        Column of `obs` with groups. Cells without one are left out.
    ax
        Where to draw; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.assignments`; KeyError if there is no such column.
    """
    table = get.assignments(adata, key)
    if groupby is not None and groupby not in adata.obs:
        msg = f"groupby={groupby!r}: no such column of adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    n = table["assignment"].cat.categories.size
    if groupby is None:
        given, ax = ax, axes_or_new(ax, (5, height_of(n)))
        draw_strips(ax, table["confidence"].to_numpy(), pd.Categorical(table["assignment"]))
        ax.set(xlim=(0, 1), xlabel="probability of the assigned component", ylabel="assigned to")
    else:
        counts = pd.crosstab(adata.obs[groupby], table["assignment"], dropna=False)
        counts = counts.loc[counts.index.notna(), counts.columns.notna()]
        counts = counts[counts.sum(axis=1) > 0]
        given, ax = ax, axes_or_new(ax, (2.6 + 0.45 * counts.shape[1], 1.6 + 0.32 * counts.shape[0]))
        _heat_map(ax, counts)
        ax.set(xlabel=f"assigned to (% of the cells of each {groupby})", ylabel=groupby)
    return finish(ax, given, show)


def _heat_map(ax: "Axes", counts: pd.DataFrame) -> None:
    """Percentages of each row, written where they are at least 1."""
    share = 100 * counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for i, j in np.argwhere(share >= 1):
        ax.text(
            j,
            i,
            f"{share[i, j]:.0f}",
            ha="center",
            va="center",
            fontsize="small",
            color="0.1" if share[i, j] < 60 else "1",
        )
    ax.set_xticks(
        np.arange(share.shape[1]),
        [str(name) for name in counts.columns],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    ax.set_yticks(np.arange(share.shape[0]), [f"{name} ({n:,})" for name, n in counts.sum(axis=1).items()])
    ax.set_xticks(np.arange(share.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(share.shape[0] + 1) - 0.5, minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="1", lw=1)
    ax.tick_params(which="both", length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
