"""Fold changes of a few genes, with their intervals."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from scbayes.pl._de_parts import direction, effect_label, set_title, tables_of
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

MARKERS = "osD^vP*Xph<>d8H"


def lfc_forest(
    adata: "AnnData",
    group: "str | list[str] | None" = None,
    key: str = "sb_de",
    *,
    genes: "str | Iterable[str] | None" = None,
    n_genes: int = 20,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    r"""Log2 fold changes of genes with their intervals, groups side by side.

    Thick: the interval of the mean effect. Thin, where donors are the replicates: of a new pair of donors, mean
    :math:`\pm z \sqrt{\mathrm{sd}^2 + 2\tau^2}` with `lfc_sd` and :math:`\tau` = `donor_sd`. Genes that are not called
    have hollow markers.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.de`.
    group
        A group that was compared, or several; the first if None.
    key
        Name of the result in `uns`.
    genes
        Names of genes, drawn in this order. Default: the surest large effects of these groups.
    n_genes
        How many, where `genes` is None.
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
        As :func:`scbayes.get.de`; KeyError for a gene that is not there; ValueError if no gene or group is named.
    """
    import seaborn as sns

    tables = tables_of(adata, group, key)
    facts = next(iter(tables.values())).attrs
    names = _top(tables, n_genes) if genes is None else _known(genes, tables, key)
    height = 1.4 + len(names) * max(0.2, 0.12 * len(tables) + 0.06)
    given, ax = ax, axes_or_new(ax, (5.5, height))
    shades, step = sns.color_palette("viridis", len(tables)), 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        part = table.set_index("names").loc[names]
        y = np.arange(len(names)) + (i - (len(tables) - 1) / 2) * step
        kinds = direction(part) if len(tables) == 1 else [(np.ones(len(part), bool), shades[i], name)]
        for where, colour, label in kinds:
            if where.any():
                style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "label": label}
                _draw(ax, y[where], part[where], facts, style)
    ax.axvline(0, color="0.7", lw=1, zorder=0)
    for edge in np.arange(len(names) - 1) + 0.5 if len(tables) > 1 else ():
        ax.axhline(edge, color="0.9", lw=0.6, zorder=0)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    thin = "" if facts["descriptive"] else "; thin: of new donors"
    ax.set(xlabel=f"{effect_label(facts)}, {facts['level'][0]:.0%} interval{thin}", ylabel="")
    set_title(ax, list(tables), facts)
    ax.legend(frameon=False, fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return finish(ax, given, show)


def _draw(ax: "Axes", y: np.ndarray, part: "pd.DataFrame", facts: dict, style: dict) -> None:
    mean, colour = part["lfc_mean"].to_numpy(), style["color"]
    if not facts["descriptive"]:
        # as `p_sign_new_donor`: both donors of a pair deviate
        spread = np.sqrt(part["lfc_sd"] ** 2 + 2 * part["donor_sd"] ** 2).to_numpy()
        reach = ndtri((1 + facts["level"][0]) / 2) * spread
        ax.hlines(y, mean - reach, mean + reach, color=colour, lw=0.6, zorder=1)
    ax.hlines(y, part["ci_low"], part["ci_high"], color=colour, lw=2, zorder=2)
    called = part["is_de"].to_numpy()
    points = {"ls": "", "ms": 5, "mec": colour, "zorder": 3}
    ax.plot(mean, y, **points, **style)
    ax.plot(mean[~called], y[~called], mfc="white", **points, **(style | {"label": None}))


def _top(tables: "dict[str, pd.DataFrame]", n_genes: int) -> list[str]:
    """Genes that are the first of any group, then the second of any, and so on."""
    if n_genes < 1:
        msg = f"n_genes={n_genes!r}: give a whole number of at least 1"
        raise ValueError(msg)
    in_turn = np.stack([table["names"].to_numpy(str)[:n_genes] for table in tables.values()], 1).ravel()
    return list(dict.fromkeys(in_turn))[:n_genes]


def _known(genes: "str | Iterable[str]", tables: "dict[str, pd.DataFrame]", key: str) -> list[str]:
    """Names, each once, that the result has."""
    names = list(dict.fromkeys([genes] if isinstance(genes, str) else map(str, genes)))
    if not names:
        msg = "genes names no gene: give at least one, or None"
        raise ValueError(msg)
    if missing := sorted(set(names) - set(next(iter(tables.values()))["names"])):
        msg = f"genes={missing[:5]} are not in the result {key!r}"
        raise KeyError(msg)
    return names
