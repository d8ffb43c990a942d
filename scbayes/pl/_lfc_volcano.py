"""Differential expression of one group."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish, write_names

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Probabilities below this are drawn at it.
SMALLEST = 1e-50


def lfc_volcano(
    adata: "AnnData",
    group: str | None = None,
    key: str = "sb_de",
    *,
    n_names: int = 12,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Log2 fold changes of all genes against how sure their sign is.

    Genes that are called have colours, one for each direction; those that are named have their 95% interval.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.de`.
    group
        A group that was compared; the first if None.
    key
        Name of the result in `uns`.
    n_names
        How many genes are named, surest large effects first.
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
        As :func:`scbayes.get.de`.
    """
    import seaborn as sns

    facts = get.de(adata, group, key).attrs
    group = facts["groups"][0] if group is None else str(group)
    table = get.de(adata, group, key)
    given, ax = ax, axes_or_new(ax, (5, 4))
    colours = sns.color_palette("colorblind")
    sure = -np.log10(np.maximum(table["lfsr"], SMALLEST))
    called, up = table["is_de"], table["lfc_mean"] > 0
    for where, colour, label in (
        (~called, "0.8", f"not called ({(~called).sum()})"),
        (called & up, colours[3], f"higher ({(called & up).sum()})"),
        (called & ~up, colours[0], f"lower ({(called & ~up).sum()})"),
    ):
        ax.scatter(table["lfc_mean"][where], sure[where], s=8, color=colour, lw=0, label=label, rasterized=True)
    named = table[called].head(n_names)
    low, high = named["lfc_mean"] - named["ci_low"], named["ci_high"] - named["lfc_mean"]
    ax.errorbar(named["lfc_mean"], sure[named.index], xerr=[low, high], fmt="none", ecolor="0.3", lw=0.7, zorder=3)
    ax.axvline(0, color="0.7", lw=1, zorder=0)
    against = "all others" if facts["reference"] == "rest" else facts["reference"]
    unit = "; cells as replicates: descriptive" if facts["descriptive"] else ""
    ax.set_title(f"{group} over {against}{unit}", fontsize="medium")
    ax.set(
        xlabel="log2 fold change", ylabel="-log10 local false sign rate", ylim=(0, 1.08 * max(float(sure.max()), 1.0))
    )
    write_names(ax, named["lfc_mean"], sure[named.index], named["names"], n_names)
    ax.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return finish(ax, given, show)
