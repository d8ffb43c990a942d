"""The profile of ambient RNA beside the mean of the cells."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import finish, write_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


def ambient(
    adata: "AnnData",
    key: str = "sb_ambient",
    *,
    layer: str | None = None,
    n_genes: int = 10,
    ax: "Axes | Iterable[Axes] | None" = None,
    show: bool | None = None,
) -> "Axes | np.ndarray | None":
    r"""Share of each gene in the ambient RNA over its share in the counts of the cells, a panel for each batch.

    Lines are one posterior standard deviation up and down. Genes far above the diagonal come from cells that are not
    there, broken or filtered out. Those named have the largest ratio of shares that is sure: of the lower end of the
    share in ambient RNA, two standard deviations down, to the upper end of that in cells.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.pp.ambient_profile`.
    key
        Its `key_added`.
    layer
        Layer with the counts of the cells; `X` where None, or as :func:`scbayes.pp.prepare_counts` left them.
    n_genes
        How many genes to name, in each panel.
    ax
        Where to draw, one for each batch; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown; an array of them where there are several batches.

    Raises
    ------
    KeyError
        As :func:`scbayes.get.ambient_profile`.
    ValueError
        As there; if there are too few axes, or `n_genes` is negative.
    """
    from matplotlib import pyplot as plt

    if n_genes < 0:
        msg = f"n_genes={n_genes!r}: give a whole number, at least 0"
        raise ValueError(msg)
    table = get.ambient_profile(adata, key, cells=True, layer=layer)
    parts = list(table.groupby("batch", sort=False, dropna=False))
    if ax is None:
        n_columns = min(len(parts), 3)
        n_rows = -(-len(parts) // n_columns)
        figure = plt.figure(figsize=(4.4 * n_columns, 4.4 * n_rows), layout="constrained")
        axes = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(len(parts))]
    else:
        axes = list(np.ravel(ax))[: len(parts)]
        if len(axes) < len(parts):
            msg = f"{len(parts)} batches and {len(axes)} axes: give one each in ax="
            raise ValueError(msg)
    source = "the mean of the cells" if table.attrs["source"] == "cells" else "ambient RNA"
    for panel, (batch, part) in zip(axes, parts, strict=True):
        _draw(panel, part, n_genes)
        panel.set(xlabel="share of the gene in cells", ylabel=f"share of the gene in {source}")
        if len(parts) > 1:
            panel.set_title(str(batch), fontsize="medium")
    return finish(axes[0] if len(parts) == 1 else np.array(axes), ax, show)


def _draw(ax: "Axes", part: "pd.DataFrame", n_genes: int) -> None:
    """Genes of one batch; those that no cell has are at the left edge, hollow."""
    mean, sd, cells = (part[name].to_numpy() for name in ("mean", "sd", "in_cells"))
    there, seen = mean > 0, cells > 0
    smallest = cells[seen].min(initial=1.0)
    x = np.where(seen, cells, smallest / 2)
    order = _in_excess(part)
    order = order[there[order]]
    low, high = np.maximum(mean - sd, mean / 10), mean + sd
    known = there & np.isfinite(sd)
    ax.vlines(x[known], low[known], high[known], color="0.85", lw=0.6, rasterized=True, zorder=1)
    ax.plot(x[there & seen], mean[there & seen], ".", ms=3.5, color="0.35", mew=0, rasterized=True, zorder=2)
    if (hidden := there & ~seen).any():
        ax.plot(x[hidden], mean[hidden], "o", ms=3, mfc="white", mec="0.35", mew=0.6, zorder=2, label="in no cell")
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    named = order[:n_genes]
    ax.plot(x[named], mean[named], "o", ms=5, color="tab:red", mew=0, zorder=3)
    ax.set(xscale="log", yscale="log")
    ends = np.array([x[there].min(initial=1.0) / 1.5, max(x[there].max(initial=0.0), mean.max(initial=0.0)) * 1.5])
    ax.set(xlim=ends, ylim=(min(ends[0], mean[there].min(initial=1.0) / 1.5), ends[1]))
    ax.axline((ends[1], ends[1]), (ends[1] / 10, ends[1] / 10), color="0.6", lw=0.8, ls="--", zorder=0)
    names = part["gene"].to_numpy(str)[order[: 3 * n_genes]]
    write_names(ax, x[order[: 3 * n_genes]], mean[order[: 3 * n_genes]], names, n_genes)


def _in_excess(part: "pd.DataFrame") -> np.ndarray:
    """Rows of genes, those first whose share is most surely larger in ambient RNA than in cells."""
    count = part["count"].to_numpy()
    # two standard deviations of a Poisson number, and the upper end of one that is 0
    most = (count + 2 * np.sqrt(count) + 3) / max(count.sum(), 1)
    least = part["mean"] - 2 * part["sd"].fillna(0)
    return np.argsort(-(least.to_numpy() / most), kind="stable")
