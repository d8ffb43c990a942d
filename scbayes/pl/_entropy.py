"""How undecided cells are between components."""

from typing import TYPE_CHECKING

import pandas as pd

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish
from scbayes.pl._strips import draw_strips, height_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def entropy(
    adata: "AnnData",
    key: str = "sb",
    *,
    groupby: str | None = None,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Entropy of the cells of each group, up to ln K: points, median (ring) and middle half (bar).

    The data are those of :func:`scbayes.get.entropy`.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.entropy` by cell.
    key
        Its `key_added`.
    groupby
        Column of `obs` with groups. Default: the components that :func:`scbayes.tl.assign` assigned the cells to, under
        the same key; where it was not run, all cells together.
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
        As :func:`scbayes.get.entropy`; KeyError if there is no such column.
    """
    table = get.entropy(adata, key)
    label, group = _groups(adata, key, groupby)
    given, ax = ax, axes_or_new(ax, (5, height_of(len(group.categories))))
    draw_strips(ax, table["entropy"].to_numpy(), group)
    largest = table.attrs["largest"]
    ax.axvline(largest, color="0.3", ls="--", lw=1, zorder=0)
    ax.annotate("ln K", (largest, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize="small")
    ax.set(xlim=(-0.02 * largest, 1.02 * largest), xlabel="entropy (nats)", ylabel=label)
    return finish(ax, given, show)


def _groups(adata: "AnnData", key: str, groupby: str | None) -> tuple[str, pd.Categorical]:
    """Groups of cells, and what they are."""
    if groupby is None:
        try:
            return "assigned to", pd.Categorical(get.assignments(adata, key)["assignment"])
        except KeyError:
            return "", pd.Categorical(["all cells"] * adata.n_obs)
    if groupby not in adata.obs:
        msg = f"groupby={groupby!r}: no such column of adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    return groupby, pd.Categorical(adata.obs[groupby])
