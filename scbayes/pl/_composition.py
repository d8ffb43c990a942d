"""Mean composition of the components of a fit."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from matplotlib.axes import Axes

MARKERS = "osD^vP*Xph<>d8H"


def composition(
    adata: "AnnData",
    key: str = "sb",
    *,
    genes: "str | Iterable[str] | None" = None,
    n_genes: int = 20,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Mean and interval of the mean composition of genes, components and batches side by side, on a log scale.

    The data are those of :func:`scbayes.get.composition`.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.normalize_counts`.
    key
        Its `key_added`.
    genes
        Names of genes, drawn from top to bottom. Default: those with the largest shares, by their largest share.
    n_genes
        How many of these.
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
        As :func:`scbayes.get.composition`; ValueError if `n_genes` is below 1.
    """
    import seaborn as sns

    if n_genes < 1:
        raise ValueError(f"n_genes={n_genes!r}: give a whole number of at least 1")
    table = get.composition(adata, key, genes=genes)
    if genes is None:
        largest = table.groupby("gene", observed=True)["mean"].max()
        names = list(largest.sort_values(ascending=False, kind="stable").index[:n_genes])
    else:
        names = list(dict.fromkeys(table["gene"]))
    by = [name for name in ("batch", "component") if name in table]
    profiles = [(part, group) for part, group in table.groupby(by, observed=True)] if by else [((), table)]
    height = 1.2 + len(names) * max(0.2, 0.09 * len(profiles) + 0.06)
    given, ax = ax, axes_or_new(ax, (6.5 if by else 5, height))
    shades = ["0.15"] if len(profiles) == 1 else sns.color_palette("viridis", len(profiles))
    step = 0.8 / len(profiles)
    for i, (part, group) in enumerate(profiles):
        value = group.set_index("gene").loc[names]
        y = np.arange(len(names)) + (i - (len(profiles) - 1) / 2) * step
        ax.hlines(y, value["lower"], value["upper"], color=shades[i], lw=1.2)
        style = {"marker": MARKERS[i % len(MARKERS)], "ms": 4.5, "mec": "0.15", "mew": 0.5, "ls": ""}
        ax.plot(value["mean"], y, color=shades[i], label=", ".join(map(str, part)), **style)
    for edge in np.arange(len(names) - 1) + 0.5:
        ax.axhline(edge, color="0.9", lw=0.6, zorder=0)
    ax.set_xscale("log")
    _log_ticks(ax)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel=f"share of all fitted genes (mean, {table.attrs['interval']:.0%} interval)", ylabel="")
    if by:
        ax.legend(title=", ".join(by), frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(ax, given, show)


def _log_ticks(ax: "Axes") -> None:
    """Ticks at 1, 2 and 5 where few decades are shown: matplotlib's labels would overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = ax.get_xlim()
    if high < 100 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
