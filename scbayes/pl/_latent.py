"""Cells in their latent space, seen in two dimensions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes import get
from scbayes.pl._frame import finish, write_names

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Names of axes by method, and the fewest cells that one can be drawn of.
METHODS, FEWEST = {"umap": "UMAP", "tsne": "t-SNE", None: "z"}, 5
#: What has no value, names in a column of the legend, and the quantile of numbers that has the last colour.
MISSING, ROWS, TOP = "0.85", 16, 0.99


def latent(
    adata: "AnnData",
    key: str = "sb",
    *,
    color: str | Iterable[str] | None = None,
    method: str | None = "umap",
    dimensions: tuple[int, int] = (1, 2),
    layer: str | None = None,
    n_cells: int | None = 5000,
    n_neighbors: int | None = None,
    names: bool = False,
    size: float | None = None,
    rng: int | np.random.Generator = 0,
    ax: "Axes | Iterable[Axes] | None" = None,
    show: bool | None = None,
) -> "Axes | np.ndarray | None":
    """Latent space of cells in two dimensions, by UMAP or t-SNE, coloured by what is known of the cells.

    The map is computed each time, of random cells where there are more than `n_cells`, and is the same for the same
    `rng`. Cells are drawn in random order, so that no group covers another. UMAP and t-SNE keep neighbours; how far
    apart groups lie, and how large they are, says little. With numbers: :func:`scbayes.metrics.integration_scores`.

    Parameters
    ----------
    adata
        Cells x genes, with a latent space in ``obsm["X_" + key]``.
    key
        Its name.
    color
        Column of `obs` (categories or numbers) or name of a gene; several for a panel each, of one map. Cells without a
        value are grey. Numbers above their 99 % quantile have its colour; whole ones from 0 to above 10 are on a
        logarithmic scale.
    method
        ``"umap"``, ``"tsne"``, or None: two dimensions of the latent space itself.
    dimensions
        With ``method=None``: which, from 1 on.
    layer
        Counts or expression that genes are taken from; X if None.
    n_cells
        Cells drawn at most; None: all.
    n_neighbors
        How many cells are to stay near a cell: `n_neighbors` of UMAP (default 15), perplexity of t-SNE (default 30);
        fewer where there are few cells.
    names
        Write categories beside their cells, at the median of each, and not into a legend: told apart without colours.
    size
        Area of a point in points squared; default: by the number of cells.
    rng
        Seed or generator of the choice of cells and of the map.
    ax
        Where to draw, one for each colour; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    The axes, unless the figure is shown: of several colours an array of them.

    Raises
    ------
    KeyError
        If there is no such latent space, column or gene.
    ValueError
        If `method` is unknown, `dimensions` are not there, there are too few cells or axes, or NaN in the latent space.
    """
    one = color is None or isinstance(color, str)
    colors = [color] if one else list(color)
    table = get.latent(adata, key)
    _check(adata, table, colors, method, dimensions=dimensions, layer=layer, n_neighbors=n_neighbors)
    rng = np.random.default_rng(rng)
    chosen = rng.permutation(len(table))[:n_cells]
    z = table.to_numpy(float)[chosen]
    if len(z) < FEWEST or not np.isfinite(z).all():
        msg = f"the latent space {key!r} has NaN or infinite numbers, or fewer than {FEWEST} cells ({len(z)})"
        raise ValueError(msg)
    values = [_values(adata, name, layer).iloc[chosen] if name else None for name in colors]
    axes = _axes(ax, values, names=names)
    x = z[:, np.array(dimensions) - 1] if method is None else _map(z, method, n_neighbors, rng)
    for where, name, value in zip(axes, colors, values, strict=False):
        points = {"s": size or np.clip(12_000 / len(z), 2, 16), "linewidths": 0, "rasterized": len(z) > 500}
        palette = _palette(adata, name, value)
        _draw(where, x, name, value, points, palette)
        first, second = dimensions if method is None else (1, 2)
        thinned = f" ({len(z):,} of {len(table):,} cells)" if len(z) < len(table) else ""
        gap = "" if method is None else " "
        where.set(xlabel=f"{METHODS[method]}{gap}{first}{thinned}", ylabel=f"{METHODS[method]}{gap}{second}")
        if method is not None:  # no units, and turning the map changes nothing
            where.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        if palette and names:
            _write_categories(where, x, value)
            where.set_title(name, fontsize="small")
        elif palette:
            _legend(where, name, value, palette)
    return finish(axes[0] if one else np.array(axes[: len(colors)]), ax, show)


def _check(
    adata: "AnnData",
    table: pd.DataFrame,
    colors: list,
    method: str | None,
    *,
    dimensions: tuple[int, int],
    layer: str | None,
    n_neighbors: int | None,
) -> None:
    if method not in METHODS:
        msg = f"method={method!r}: choose 'umap', 'tsne' or None"
        raise ValueError(msg)
    outside = method is None and not all(1 <= d <= table.shape[1] for d in dimensions)
    if len(dimensions) != 2 or outside:
        msg = f"dimensions={dimensions}: give two of the {table.shape[1]} of the latent space, from 1 on"
        raise ValueError(msg)
    if layer is not None and layer not in adata.layers:
        msg = f"no layer {layer!r}: adata.layers has {[name for name in adata.layers if name is not None]}"
        raise KeyError(msg)
    if n_neighbors is not None and n_neighbors < 2:
        msg = f"n_neighbors={n_neighbors!r}: give at least 2"
        raise ValueError(msg)
    if not colors:
        msg = "color is an empty list: name a column of obs or a gene"
        raise ValueError(msg)
    if missing := [name for name in colors if not (name is None or name in adata.obs or name in adata.var_names)]:
        msg = f"color={missing[0]!r}: no gene, and no column of adata.obs, which has {list(adata.obs.columns)}"
        raise KeyError(msg)


def _axes(ax: "Axes | Iterable[Axes] | None", values: list, *, names: bool) -> list:
    """Axes for each panel: those that were given, or of a new figure, in which legends have their place."""
    from matplotlib import pyplot as plt

    n_panels = len(values)
    if ax is None:
        n_columns = min(n_panels, 3)
        n_rows = -(-n_panels // n_columns)
        width = 3.6 + max(_beside(value, names=names) for value in values)
        figure = plt.figure(figsize=(width * n_columns, 3.6 * n_rows), layout="constrained")
        return [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n_panels)]
    axes = list(np.ravel(ax))
    if len(axes) < n_panels:
        msg = f"{n_panels} panels and {len(axes)} axes: give one each in ax="
        raise ValueError(msg)
    return axes


def _beside(value: pd.Series | None, *, names: bool) -> float:
    """Width of what is written beside a panel, inches."""
    if value is not None and not isinstance(value.dtype, pd.CategoricalDtype):
        return 0.8
    if value is None or names:
        return 0
    kinds = value.cat.categories
    return -(-len(kinds) // ROWS) * (0.5 + 0.075 * max((len(str(kind)) for kind in kinds), default=0))


def _values(adata: "AnnData", name: str, layer: str | None) -> pd.Series:
    """Values of all cells: numbers as float, all else as categories that occur, in their order."""
    import scanpy as sc

    value = adata.obs[name] if name in adata.obs else sc.get.obs_df(adata, [name], layer=layer)[name]
    if pd.api.types.is_numeric_dtype(value) and not pd.api.types.is_bool_dtype(value):
        return value.astype(float)
    return value.astype("category").cat.remove_unused_categories()


def _palette(adata: "AnnData", name: str | None, value: pd.Series | None) -> dict:
    """Colour of each category: scanpy's, if it keeps some for this column, else those it would choose."""
    from scanpy.plotting import palettes

    if value is None or not isinstance(value.dtype, pd.CategoricalDtype):
        return {}
    kinds = adata.obs[name].astype("category").cat.categories
    stored = adata.uns.get(f"{name}_colors", ())
    lists = (stored, palettes.default_20, palettes.default_28, palettes.default_102)
    colors = next((colors for colors in lists if len(colors) >= len(kinds)), None)
    colors = palettes.default_102 * -(-len(kinds) // 102) if colors is None else colors
    return dict(zip(kinds, colors, strict=False))


def _map(z: np.ndarray, method: str, n_neighbors: int | None, rng: np.random.Generator) -> np.ndarray:
    """Two dimensions that keep neighbours, ``(n_cells, 2)``."""
    seed = int(rng.integers(2**31))
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(n_neighbors or 30, (len(z) - 1) / 3)
        return TSNE(perplexity=perplexity, random_state=seed).fit_transform(z)
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(obs=pd.DataFrame(index=np.arange(len(z)).astype(str)), obsm={"z": z.astype(np.float32)})
    n = min(n_neighbors or 15, len(z) - 1)
    sc.pp.neighbors(cells, n, use_rep="z", transformer="sklearn", random_state=seed)  # exact neighbours
    sc.tl.umap(cells, random_state=seed)
    return cells.obsm["X_umap"]


def _draw(ax: "Axes", x: np.ndarray, name: str | None, value: pd.Series | None, points: dict, palette: dict) -> None:
    """Points of one panel, with what their colours mean."""
    from matplotlib import pyplot as plt
    from matplotlib.colors import Normalize, SymLogNorm

    if value is None:
        ax.scatter(*x.T, color="0.4", **points)
        return
    there = value.notna().to_numpy()
    ax.scatter(*x[~there].T, color=MISSING, **points)
    if isinstance(value.dtype, pd.CategoricalDtype):
        ax.scatter(*x[there].T, c=[palette[kind] for kind in value[there]], **points)
        return
    low, high = (float(value.min()), float(value.quantile(TOP, "higher"))) if there.any() else (0.0, 1.0)
    high = high if high > low else float(value.max())  # of a gene that 1 % of the cells express
    counts = low == 0 and high > 10 and (value[there] % 1 == 0).all()
    norm = SymLogNorm(1, vmin=low, vmax=high, base=10) if counts else Normalize(low, high)
    image = ax.scatter(*x[there].T, c=value[there], cmap="viridis", norm=norm, **points)
    beyond = "max" if value.max() > high else "neither"
    plt.colorbar(image, ax=ax, label=name, extend=beyond, format="%g" if counts else None)


def _write_categories(ax: "Axes", x: np.ndarray, value: pd.Series) -> None:
    """Names of categories at the medians of their cells."""
    centre = pd.DataFrame(x).groupby(value.to_numpy(), observed=True).median()
    write_names(ax, *centre.to_numpy().T, [str(kind) for kind in centre.index], len(centre))


def _legend(ax: "Axes", name: str, value: pd.Series, palette: dict) -> None:
    kinds = {str(kind): palette[kind] for kind in value.cat.categories}
    kinds |= {"no value": MISSING} if value.isna().any() else {}
    handles = [ax.scatter([], [], s=30, color=color, linewidths=0) for color in kinds.values()]
    style = {"frameon": False, "fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    columns = -(-len(kinds) // ROWS)
    ax.legend(handles, kinds, title=name, loc="upper left", bbox_to_anchor=(1, 1), ncols=columns, **style)
