"""Held-out density against the number of components."""

from typing import TYPE_CHECKING

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def choose_components(
    adata: "AnnData", key: str = "sb", *, ax: "Axes | None" = None, show: bool | None = None
) -> "Axes | None":
    """Held-out log density per cell of mixtures, relative to the best, with the suggested number of components.

    Bars are one standard error of the paired difference to the best over held-out cells. The suggested number, a
    filled square, is the smallest within one standard error.

    Parameters
    ----------
    adata
        Cells x genes, with the result of :func:`scbayes.tl.choose_components`.
    key
        Its prefix.
    ax
        Where to draw; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    table = get.choose_components(adata, key)
    given, ax = ax, axes_or_new(ax, (4.5, 3.2))
    at, height = table["n_components"], table["difference"]
    style = {"fmt": "o-", "color": "0.2", "mfc": "white", "capsize": 3, "lw": 1}
    ax.errorbar(at, height, table["se"], **style, label="± 1 standard error")
    chosen = table[table["suggested"]]
    label = f"suggested: {int(chosen['n_components'].iloc[0])}"
    ax.plot(chosen["n_components"], chosen["difference"], "s", color="0.2", ms=9, zorder=4, label=label)
    ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    ax.set(xlabel="number of components", ylabel="held-out log density per cell,\nrelative to the best (nats)")
    ax.set_xticks(at)
    ax.legend(frameon=False, loc="lower right")
    return finish(ax, given, show)
