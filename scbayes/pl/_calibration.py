"""Coverage of intervals against the nominal one."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

MARKERS = "osD^vP*X"
BINS = ("all", "low", "middle", "high")


def calibration(
    adata: "AnnData", key: str = "sb", *, bin: str = "all", ax: "Axes | None" = None, show: bool | None = None
) -> "Axes | None":
    """Coverage of intervals in data simulated from a fit, less the nominal coverage, by parameter.

    Bars are 95% intervals that take simulations as the independent units. Above the line intervals are too wide, below
    it too narrow. Of mixtures also the share of right ones among cells whose most probable component has about the
    probability on the axis (``assignment``), less that probability.

    Parameters
    ----------
    adata
        Cells x genes, with the result of :func:`scbayes.tl.calibrate`.
    key
        Its prefix.
    bin
        ``"all"``, or the third of genes or cells with the fewest (``"low"``), ``"middle"`` or most (``"high"``)
        counts.
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
        As :func:`scbayes.get.calibration`; ValueError for an unknown `bin`.
    """
    import seaborn as sns

    if bin not in BINS:
        msg = f"bin={bin!r}: choose one of {', '.join(BINS)}"
        raise ValueError(msg)
    table = get.calibration(adata, key)
    table = table[table["bin"] == bin]
    calls = table[table["parameter"] == "assignment"]
    intervals = table.drop(calls.index)
    levels, names = sorted(intervals["level"].unique()), list(intervals["parameter"].unique())
    given, ax = ax, axes_or_new(ax, (4 + 0.25 * len(names) + 0.4 * len(calls), 3.2))
    colours = sns.color_palette("colorblind")
    for i, name in enumerate(names):
        at = np.arange(len(levels)) + 0.75 * ((i + 0.5) / len(names) - 0.5)
        style = {"color": colours[i % len(colours)], "marker": MARKERS[i % len(MARKERS)]}
        # every second one is hollow
        _draw(ax, at, intervals[intervals["parameter"] == name], name, style | ({"mfc": "white"} if i % 2 else {}))
    at = len(levels) - 0.2 + 0.6 * np.arange(len(calls))
    if len(calls):
        _draw(ax, at, calls, "assignment", {"color": "black", "marker": "x"})
    ax.axhline(0, color="0.4", lw=1, zorder=0)
    for edge in np.arange(1, len(levels) + (len(calls) > 0)) - 0.5:
        ax.axvline(edge, color="0.85", lw=0.8, zorder=0)
    ticks = [f"{level:.0%}" for level in (*levels, *calls["level"])]
    ax.set_xticks([*range(len(levels)), *at], ticks)
    which = "" if bin == "all" else f", {bin} third by counts"
    of_calls = "  |  probability of a cell's component" if len(calls) else ""
    ax.set(
        xlabel=f"nominal coverage{which}{of_calls}", ylabel="share in simulations,\nless nominal (percentage points)"
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(ax, given, show)


def _draw(ax: "Axes", at: np.ndarray, part: "pd.DataFrame", label: str, style: dict) -> None:
    height = 100 * (part["coverage"] - part["level"]).to_numpy()
    error = 100 * np.abs(part[["low", "high"]].sub(part["coverage"], axis=0)).to_numpy().T
    ax.errorbar(at, height, error, ls="none", lw=1.2, ms=6, capsize=2, label=label, **style)
