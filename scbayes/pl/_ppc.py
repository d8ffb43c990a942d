"""Posterior predictive checks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes import get
from scbayes.pl._frame import finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

GENES, CELLS = ("mean", "variance", "zeros"), ("total", "detected")
LABEL = {
    "mean": "mean count",
    "variance": "variance",
    "zeros": "share of zeros",
    "total": "total of counts",
    "detected": "genes detected",
}
BAND, INSIDE, OUTSIDE = "0.82", "0.45", "black"


def ppc(
    adata: "AnnData",
    key: str = "sb",
    *,
    genes: str | Iterable[str] | None = None,
    kind: str | Iterable[str] = ("variance", "zeros"),
    ax: "Axes | Iterable[Axes] | None" = None,
    show: bool | None = None,
) -> "Axes | np.ndarray | None":
    """Posterior predictive checks: what was observed on the bands of what the model predicts.

    Without `genes`, one panel per statistic, and in it all genes, ordered by their observed mean, or all cells, ordered
    by their observed total: the band of each in light grey, what was observed as a dot inside it or as a black cross
    outside. With `genes`, one panel per gene: how many cells have each count, as bars, with the band and the mean of
    the replicates.

    Of a model that is right, bands from 5% to 95% hold about 90% of the values of new data, and nearly all of those of
    the data that were fitted, see :func:`scbayes.tl.predict`.

    Parameters
    ----------
    adata
        Cells x genes, with the result of :func:`scbayes.tl.predict`.
    key
        Its prefix.
    genes
        Genes whose counts are drawn; ``tl.predict`` must have been given them.
    kind
        Without `genes`: which statistics, of ``"mean"``, ``"variance"``, ``"zeros"`` (all genes), ``"total"`` and
        ``"detected"`` (all cells).
    ax
        Where to draw, one per panel; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown: of one gene or kind given by name, the axes; else an array of them.

    Raises
    ------
    KeyError
        If there is no such result, or it has no histograms of these genes.
    ValueError
        If `kind` is not known, what was predicted is not observed (as with ``biological=True``), or there are too few
        axes.
    """
    from matplotlib import pyplot as plt

    one = isinstance(kind if genes is None else genes, str)
    panels = [kind if genes is None else genes] if one else list(kind if genes is None else genes)
    draw = _all_kinds(adata, key, panels) if genes is None else _all_genes(adata, key, panels)
    if ax is None:
        n_columns = min(len(panels), 4)
        n_rows = -(-len(panels) // n_columns)
        figure = plt.figure(figsize=(3.6 * n_columns, 3.2 * n_rows), layout="constrained")
        axes = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(len(panels))]
    else:
        axes = list(np.ravel(ax))
        if len(axes) < len(panels):
            msg = f"{len(panels)} panels and {len(axes)} axes: give one each in ax="
            raise ValueError(msg)
    for panel, where in zip(panels, axes, strict=False):
        draw(where, panel)
    return finish(axes[0] if one else np.array(axes[: len(panels)]), ax, show)


def _all_kinds(adata: "AnnData", key: str, kinds: list[str]):
    """Function that draws one statistic of all genes or cells."""
    unknown = [kind for kind in kinds if kind not in GENES + CELLS]
    if unknown or not kinds:
        msg = f"kind names {unknown[:1] or 'nothing'}: choose from {', '.join(GENES + CELLS)}"
        raise ValueError(msg)
    tables = {what: get.predictive(adata, key, what=what) for what in ("genes", "cells")}
    for table in tables.values():
        _check_observed(table, key)

    def draw(ax: "Axes", kind: str) -> None:
        whole = tables["genes" if kind in GENES else "cells"]
        first = "mean" if kind in GENES else "total"
        x = whole.loc[whole["statistic"] == first, "observed"].to_numpy()
        _statistic(ax, kind, x, whole[whole["statistic"] == kind], f"observed {LABEL[first]} of a {whole.columns[0]}")

    return draw


def _all_genes(adata: "AnnData", key: str, genes: list[str]):
    """Function that draws the histogram of one gene."""
    table = get.predictive(adata, key, what="histogram")
    _check_observed(table, key)
    missing = [gene for gene in genes if gene not in set(table["gene"])]
    if missing or not genes:
        msg = f"no histogram of {missing[:5] or 'no gene'} under {key!r}: run sb.tl.predict with genes=[...]"
        raise KeyError(msg)
    return lambda ax, gene: _histogram(ax, gene, table[table["gene"] == gene])


def _check_observed(table: pd.DataFrame, key: str) -> None:
    if "observed" not in table:
        msg = (
            f"{key!r} was predicted with biological=True, transform_batch or rna_size_factor: "
            "that is not observed, there is no check"
        )
        raise ValueError(msg)


def _band(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, str]:
    """Lowest and highest quantile, and how to call what lies between."""
    names = [name for name in table if name[:1] == "q" and name[1:2].isdigit()]
    low, high = names[0], names[-1]
    share = 100 * (float(high[1:]) - float(low[1:]))
    return table[low].to_numpy(), table[high].to_numpy(), f"{share:g}%"


def _statistic(ax: "Axes", kind: str, x: np.ndarray, table: pd.DataFrame, label: str) -> None:
    from matplotlib.collections import LineCollection

    low, high, share = _band(table)
    y = table["observed"].to_numpy()
    order = np.argsort(x, kind="stable")
    order = order[x[order] > 0]  # what was never seen has no place on a log scale
    x, y, low, high = x[order], y[order], low[order], high[order]
    out = (y < low) | (y > high)
    if kind not in ("zeros", "detected"):
        smallest = np.min(y[y > 0], initial=1.0)
        low = np.maximum(low, smallest / 2)
        ax.set_yscale("log")
    ax.set_xscale("log")
    lines = np.stack([np.stack([x, low], 1), np.stack([x, high], 1)], 1)
    n, what = len(x), "genes" if kind in GENES else "cells"
    ax.add_collection(LineCollection(lines, colors=BAND, lw=1, zorder=1, rasterized=True, label=f"{share} predicted"))
    ax.plot(x[~out], y[~out], ".", ms=2, color=INSIDE, zorder=2, rasterized=True, label="observed, inside")
    outside = f"observed, outside:\n{out.sum()} of {n} {what} ({100 * out.mean():.2g}%)"
    size = 3 if out.sum() < 500 else 2
    ax.plot(x[out], y[out], "x", ms=size, mew=size / 5, color=OUTSIDE, zorder=3, rasterized=True, label=outside)
    ax.autoscale_view()
    ax.set(xlabel=label, ylabel=LABEL[kind])
    where = "lower left" if kind == "zeros" else "upper left"  # where such panels are empty
    ax.legend(frameon=False, fontsize="x-small", markerscale=1.5, loc=where)


def _histogram(ax: "Axes", gene: str, table: pd.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high, share = _band(table)
    seen = table["observed"].to_numpy()
    left, width = table["low"].to_numpy(), int((table["high"] - table["low"]).iloc[0]) + 1
    last = np.flatnonzero((seen > 0) | (high >= 1))[-1] + 1  # beyond it, only rare draws
    edges = np.append(left[:last], left[last - 1] + width) - 0.5
    ax.stairs(seen[:last], edges, fill=True, color="0.85", zorder=1, label="observed")
    ax.stairs(seen[:last], edges, color="0.6", lw=0.8, zorder=1)
    middle, mean = (edges[1:] + edges[:-1]) / 2, table["mean"].to_numpy()[:last]
    bars = ax.vlines(middle, low[:last], high[:last], color="black", lw=1.2, zorder=3, label=f"{share} predicted")
    bars.set_capstyle("butt")
    ax.plot(middle, mean, "_", ms=5, color="black", zorder=3)
    ax.set_yscale("symlog", linthresh=1)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylim(bottom=0)
    ax.set(title=gene, xlabel="count" if width == 1 else f"count, {width} a bar", ylabel="cells")
    ax.legend(frameon=False, fontsize="x-small", loc="upper right")
