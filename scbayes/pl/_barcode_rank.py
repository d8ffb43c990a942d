"""Droplets by rank of their totals: where cells end and empty droplets begin."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")


def barcode_rank(
    adata: "AnnData",
    key: str | None = None,
    *,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Total of each droplet over its rank, coloured by the share of cells among droplets of this total.

    Marks on the line are the knee (triangle) and the total up to which droplets are empty without a test (square);
    the grey line across is the split between the two humps of totals. Batches have lines of different styles.

    Parameters
    ----------
    adata
        After :func:`scbayes.pp.ambient_profile` or :func:`scbayes.pp.call_cells`.
    key
        As in :func:`scbayes.get.barcode_rank`.
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
        As :func:`scbayes.get.barcode_rank`.
    """
    from matplotlib import pyplot as plt

    table = get.barcode_rank(adata, key)
    facts = table.attrs
    drawn = axes_or_new(ax, (5.6, 4))
    points, handles, marks = None, {}, {}
    for b, (batch, part) in enumerate(table.groupby("batch", sort=False, dropna=False)):
        rank, total = part["rank"].to_numpy(), part["total"].to_numpy()
        (line,) = drawn.plot(rank, total, color="0.6", lw=1.2, ls=STYLES[b % len(STYLES)], zorder=1)
        share = (part["cells"] / part["droplets"]).to_numpy()
        points = drawn.scatter(rank, total, c=share, cmap="viridis_r", vmin=0, vmax=1, s=9, lw=0, zorder=2)
        if facts["batches"] != [None]:
            handles[str(batch)] = line
        for name, marker in (("knee", "^"), ("sure", "s")):
            if name in facts:
                at = np.interp(facts[name][b], total[::-1], rank[::-1])
                mark = drawn.plot(at, facts[name][b], marker, mfc="white", mec="black", ms=7, zorder=3)[0]
                marks["knee" if name == "knee" else "surely empty below"] = mark
        marks["split"] = drawn.axhline(facts["split"][b], color="0.5", lw=0.8, ls=STYLES[b % len(STYLES)], zorder=0)
    drawn.set(xscale="log", yscale="log", xlabel="rank of the droplet", ylabel="counts of the droplet")
    said = "probability of a cell" if "expected_cells" in facts else "share that is cells by name"
    plt.colorbar(points, ax=drawn, label=said)
    handles |= marks
    drawn.legend(handles.values(), handles, frameon=False, fontsize="small", loc="lower left")
    return finish(drawn, ax, show)
