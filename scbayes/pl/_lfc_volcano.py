"""Differential expression of one group: fold changes and how sure they are."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.pl._de_parts import beyond_mean, effect_label, named_genes, scatter_genes, set_title, tables_of
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
    y: str = "lfsr",
    n_names: int = 12,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Log2 fold changes of all genes against how sure they are.

    Genes that are called have colours and triangles, one for each direction; those that are named have their interval.
    Labels are moved apart where adjustText is installed; else those that would lie on another are left out.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.de`.
    group
        A group that was compared; the first if None.
    key
        Name of the result in `uns`.
    y
        ``"lfsr"``: -log10 of the local false sign rate. ``"p_de"``: the probability of a change.
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
        As :func:`scbayes.get.de`; ValueError for another `y`.
    """
    if y not in ("lfsr", "p_de"):
        msg = f"y={y!r}: choose 'lfsr' or 'p_de'"
        raise ValueError(msg)
    ((group, table),) = tables_of(adata, group if group is None else str(group), key).items()
    given, ax = ax, axes_or_new(ax, (6, 4.2))
    lfc, height = table["lfc_mean"].to_numpy(), table[y].to_numpy()
    if y == "lfsr":
        height = -np.log10(np.maximum(height, SMALLEST))
        ax.set(ylabel="-log10 local false sign rate", ylim=(0, 1.15 * max(float(height.max()), 1.0)))
    else:
        ax.set(ylabel="probability of a change, P(DE)", ylim=(-0.02, 1.3))  # with room for names: many are near 1
        ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_xlabel(effect_label(table.attrs))
    ax.axvline(0, color="0.7", lw=1, zorder=0)
    scatter_genes(ax, table, lfc, height)
    rows = named_genes(table, n_names)
    ax.errorbar(lfc[rows], height[rows], xerr=beyond_mean(table, rows), fmt="none", ecolor="0.3", lw=0.7, zorder=3)
    set_title(ax, [group], table.attrs)
    write_names(ax, lfc[rows], height[rows], table["names"].to_numpy()[rows], n_names)
    return finish(ax, given, show)
