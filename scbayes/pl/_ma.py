"""Differential expression of one group: fold changes at each abundance."""

from typing import TYPE_CHECKING

from scbayes.pl._de_parts import beyond_mean, effect_label, named_genes, scatter_genes, set_title, tables_of
from scbayes.pl._frame import axes_or_new, finish, write_names

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def ma(
    adata: "AnnData",
    group: str | None = None,
    key: str = "sb_de",
    *,
    n_names: int = 12,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Log2 fold changes of all genes against the mean of both arms, on a log scale.

    Genes that are called have colours and triangles, one for each direction; those that are named have their interval.
    Genes without a count in either arm have no place on the axis and are left out.

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
    ((group, table),) = tables_of(adata, group if group is None else str(group), key).items()
    given, ax = ax, axes_or_new(ax, (6, 4.2))
    facts, table = table.attrs, table[table["mean_1"] + table["mean_2"] > 0]
    mean = ((table["mean_1"] + table["mean_2"]) / 2).to_numpy()
    lfc = table["lfc_mean"].to_numpy()
    ax.axhline(0, color="0.7", lw=1, zorder=0)
    ax.set_xscale("log")
    scatter_genes(ax, table, mean, lfc)
    rows = named_genes(table, n_names)
    ax.errorbar(mean[rows], lfc[rows], yerr=beyond_mean(table, rows), fmt="none", ecolor="0.3", lw=0.7, zorder=3)
    ends = 1.2 * lfc.min(initial=-1), 1.2 * lfc.max(initial=1)  # with room for names
    ax.set(xlabel="mean of both arms (counts per 10,000)", ylabel=effect_label(facts), ylim=ends)
    set_title(ax, [group], facts)
    write_names(ax, mean[rows], lfc[rows], table["names"].to_numpy()[rows], n_names)
    return finish(ax, given, show)
