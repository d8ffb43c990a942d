"""Genes in groups of cells, before and after ambient counts were removed."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from matplotlib.axes import Axes

#: Area of a dot of all cells, in points squared, and shares that the legend shows.
FULL, SHARES = 190, (0.1, 0.25, 0.5, 1.0)


def denoised(
    adata: "AnnData",
    var_names: "str | Iterable[str]",
    *,
    groupby: str | None = None,
    key: str = "sb",
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Cells of each group that have counts of each gene, before (rings) and after (dots) :func:`scbayes.tl.denoise`.

    Areas are shares of the group's cells; a wide ring around a small dot is a gene that was there as ambient RNA only.
    The colour is the share of the gene's counts in the group that was kept.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.denoise`.
    var_names
        Names of genes, drawn in this order.
    groupby
        Column of `obs`; default: the kinds of cells that ambient counts were found by. Cells without one are left out.
    key
        `key_added` of :func:`scbayes.tl.denoise`.
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
        If there is no such result, gene or column.
    ValueError
        If no gene is named.
    """
    from matplotlib import pyplot as plt

    names, label, group = _chosen(adata, var_names, groupby, key)
    layer = get.contamination(adata, key).attrs["layer"]  # X where None
    before, total = _by_group(adata, names, layer, group)
    after, mean = _by_group(adata, names, f"{key}_denoised", group)
    rows = list(before.index)
    kept = (mean / total.where(total > 0)).to_numpy().ravel()
    width = 1.6 + 0.09 * (6 + max(len(str(row)) for row in rows)) + 0.36 * max(len(names), 5)
    ax, given = axes_or_new(ax, (width, 1.8 + 0.32 * max(len(rows), 4))), ax
    x, y = (at.ravel() for at in np.meshgrid(np.arange(len(names)), np.arange(len(rows))))
    ring = {"facecolors": "none", "edgecolors": "0.45", "linewidths": 1}
    ax.scatter(x, y, s=FULL * before.to_numpy().ravel(), **ring, zorder=3)
    dot = {"cmap": "viridis_r", "vmin": 0, "vmax": 1, "linewidths": 0, "zorder": 2}
    points = ax.scatter(x, y, s=FULL * after.to_numpy().ravel(), c=kept, **dot)
    ax.set_xticks(np.arange(len(names)), names, rotation=90)
    ax.set_yticks(np.arange(len(rows)), [f"{name} ({n:,})" for name, n in group.value_counts()[rows].items()])
    ax.set(xlim=(-0.6, len(names) - 0.4), ylim=(len(rows) - 0.4, -0.6), xlabel="", ylabel=label)
    ax.set_axisbelow(True)
    plt.colorbar(points, ax=ax, location="top", label="share of counts kept", aspect=40, pad=0.02)
    handles = {f"{share:.0%}": ax.scatter([], [], s=FULL * share, color="0.6", lw=0) for share in SHARES}
    handles |= {"before": ax.scatter([], [], s=FULL / 2, **ring), "after": ax.scatter([], [], s=FULL / 2, color="0.6")}
    style = {"frameon": False, "fontsize": "small", "title_fontsize": "small", "labelspacing": 0.8}
    ax.legend(handles.values(), handles, title="cells with counts", loc="upper left", bbox_to_anchor=(1, 1), **style)
    return finish(ax, given, show)


def _chosen(
    adata: "AnnData", var_names: "str | Iterable[str]", groupby: str | None, key: str
) -> tuple[list[str], str, pd.Series]:
    """Genes, each once; what groups are called; the group of each cell."""
    names = list(dict.fromkeys([var_names] if isinstance(var_names, str) else map(str, var_names)))
    if not names:
        msg = "var_names names no gene: give at least one"
        raise ValueError(msg)
    if missing := [name for name in names if name not in adata.var_names]:
        msg = f"var_names={missing[:5]} are not in adata.var_names"
        raise KeyError(msg)
    table = get.contamination(adata, key)
    if groupby is None:
        return names, table.attrs["kinds"].removeprefix("obs['").removesuffix("']"), table["group"]
    if groupby not in adata.obs:
        msg = f"groupby={groupby!r}: no such column of adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    return names, groupby, adata.obs[groupby].astype("category")


def _by_group(
    adata: "AnnData", names: list[str], layer: str | None, group: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share of cells with counts, and mean count: groups x genes."""
    import scanpy as sc

    counts = sc.get.obs_df(adata, names, layer=layer)
    return tuple(table.groupby(group, observed=True).mean() for table in (counts > 0, counts))
