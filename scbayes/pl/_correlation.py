"""Correlation of genes: a heat map, genes that go together side by side."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from matplotlib.axes import Axes
    from pandas import DataFrame


def correlation(
    adata: "AnnData",
    genes: "Iterable[str] | None" = None,
    key: str = "sb",
    *,
    n_genes: int = 30,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Correlation of genes over cells, ordered by average-linkage clustering on 1 - correlation.

    Lightness rises with the correlation, so that signs are told apart without colours. The scale ends at the largest
    absolute correlation of two genes.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.correlation`.
    genes
        Names of genes. Default: the `n_genes` whose squared correlations with all others sum to most.
    key
        `key_added` of :func:`scbayes.tl.correlation`.
    n_genes
        How many genes are drawn where none are named, at least 2.
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
        As :func:`scbayes.get.correlation`.
    ValueError
        If fewer than two genes that vary are to be drawn.
    """
    from matplotlib import pyplot as plt

    table = _chosen(get.correlation(adata, key, genes=genes), n_genes if genes is None else None)
    order = _clustered(table.to_numpy(float))
    value, names = table.to_numpy(float)[np.ix_(order, order)], table.index[order]
    n = len(names)
    np.fill_diagonal(value, np.nan)  # 1 by definition
    top = np.nanmax(np.abs(value))
    given, ax = ax, axes_or_new(ax, (2.6 + 0.17 * max(n, 10), 1.6 + 0.17 * max(n, 10)))
    colours = plt.get_cmap("cividis").with_extremes(bad="white")
    image = ax.imshow(np.ma.masked_invalid(value), cmap=colours, vmin=-top, vmax=top, interpolation="none")
    ax.set_xticks(np.arange(n), names, rotation=90, fontsize="x-small")
    ax.set_yticks(np.arange(n), names, fontsize="x-small")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    facts = table.attrs
    label = f"{facts['method'].capitalize()} correlation\nover {facts['n_cells']:,} cells"
    plt.colorbar(image, ax=ax, label=label, shrink=min(1, max(0.5, 12 / n)), aspect=25, pad=0.03)
    return finish(ax, given, show)


def _chosen(table: "DataFrame", n_genes: int | None) -> "DataFrame":
    """Genes that vary, and of these the most correlated."""
    varies = ~np.isnan(np.diag(table))
    names = table.index[varies].drop_duplicates()
    if n_genes is not None:
        square = (table.loc[names, names].to_numpy(float) ** 2).sum(1)
        names = names[np.sort(np.argsort(-square, kind="stable")[: max(n_genes, 0)])]
    if len(names) < 2:
        msg = "fewer than two genes that vary: name others, or raise n_genes"
        raise ValueError(msg)
    return table.loc[names, names]


def _clustered(value: np.ndarray) -> np.ndarray:
    """Order of the leaves of a tree in which neighbours are as alike as can be."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = np.maximum(1 - (value + value.T) / 2, 0)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=len(value) <= 500))
