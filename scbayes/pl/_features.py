"""Counts of feature barcodes in cells, in the order of their calls."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Cells drawn at most, and the share of the width that a group needs for its name.
N_SHOWN, NAMED = 2000, 0.025


def features(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_features: int = 20,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Counts of each feature barcode (rows) in each cell (columns), cells in groups by what they were called.

    Of cells with several features, those with the same likeliest one are neighbours. Where not all features are drawn,
    cells are those that have one which is. More than 2,000 cells are thinned out evenly.

    Parameters
    ----------
    adata
        After :func:`scbayes.tl.call_features`.
    key
        Its `key_added`.
    n_features
        Features to draw: those in the largest numbers of cells, in the order of `adata`.
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
        As :func:`scbayes.get.features`.
    """
    import scanpy as sc
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    table = get.features(adata, key)
    common = table.groupby("feature", sort=False)["cells"].sum().nlargest(n_features).index
    names = [name for name in adata.var_names if name in set(common)]
    order, edges, groups, n_cells = _order(adata, key, names, everything=len(names) == table["feature"].nunique())
    layer = table.attrs["layer"]  # X where None
    counts = sc.get.obs_df(adata[order], names, layer=layer).to_numpy(float).T
    drawn = axes_or_new(ax, (7.5, 1.4 + 0.22 * max(len(names), 6)))
    colors = plt.get_cmap("magma_r").with_extremes(bad="white")
    top = max(counts.max(), 2)
    image = drawn.imshow(
        np.ma.masked_less(counts, 1), cmap=colors, norm=LogNorm(1, top), aspect="auto", interpolation="none"
    )
    centre, wide = (edges[1:] + edges[:-1]) / 2 - 0.5, np.diff(edges) > NAMED * edges[-1]
    for edge in edges[1:-1][wide[1:] | wide[:-1]]:
        drawn.axvline(edge - 0.5, color="0.75", lw=0.6)
    drawn.set_xticks(centre[wide], np.array(groups)[wide], rotation=45, ha="right", rotation_mode="anchor")
    drawn.set_yticks(np.arange(len(names)), names)
    drawn.tick_params(length=0)
    thinned = f", {len(order):,} of {n_cells:,}" if len(order) < n_cells else ""
    drawn.set(xlabel=f"cells by call{thinned}", ylabel="feature")
    plt.colorbar(image, ax=drawn, label="counts (white: none)")
    return finish(drawn, ax, show)


def _order(
    adata: "AnnData", key: str, names: list[str], *, everything: bool
) -> tuple[np.ndarray, np.ndarray, list[str], int]:
    """Cells to draw, where groups of them begin and end, the names of these, and of how many cells they are."""
    probability = adata.layers[f"{key}_feature_probability"][:, adata.var_names.get_indexer(names)]
    first = np.asarray(probability.argmax(1)).ravel()
    label = adata.obs[f"{key}_feature"].astype(str)
    kinds = [*names, "several", "negative"]
    code = pd.Categorical(label.where(label.isin([*names, "negative"]), "several"), kinds).codes
    order = np.lexsort((-adata.obs[f"{key}_call_probability"].to_numpy(), first, code))
    if not everything:
        order = order[np.diff(sparse.csr_array(probability > 0.5).indptr)[order] > 0]
    n_cells = len(order)
    order = order[np.unique(np.linspace(0, max(n_cells - 1, 0), min(N_SHOWN, n_cells)).astype(int))]
    there, begin = np.unique(code[order], return_index=True)
    return order, np.append(begin, len(order)), [kinds[i] for i in there], n_cells
