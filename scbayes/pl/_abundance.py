"""Shares of types of cells in samples, and how conditions change them."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import finish

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

MARKERS = "os^Dv*PX"


def abundance(
    adata: "AnnData",
    key: str = "sb_abundance",
    *,
    ax: "Iterable[Axes] | None" = None,
    show: bool | None = None,
) -> "np.ndarray | None":
    """Share of each type in each sample, and beside it the effect of each condition with its 95% interval.

    Filled effects are called. Lines join samples that are under several conditions. Types are from top to bottom by
    their mean share.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.abundance`.
    key
        Its `key_added`.
    ax
        Two axes, for shares and effects; a new figure if None.
    show
        Show the figure. Default: as ``scanpy.settings.autoshow`` says, and not where `ax` is given.

    Returns
    -------
    Array of the two axes, unless the figure is shown.

    Raises
    ------
    KeyError
        As :func:`scbayes.get.abundance`.
    ValueError
        If `ax` is not two axes.
    """
    import seaborn as sns
    from matplotlib import pyplot as plt

    effects, samples = get.abundance(adata, key), get.abundance(adata, key, what="samples")
    facts = effects.attrs
    conditions = facts["conditions"]
    shares = samples.groupby("label")["share"].mean().sort_values(ascending=False, kind="stable")
    names = list(shares.index)
    if ax is None:
        height = 1.3 + len(names) * max(0.28, 0.16 * len(conditions))
        axes = plt.figure(figsize=(8, height), layout="constrained").subplots(1, 2, sharey=True)
    else:
        axes = np.ravel(ax)
        if len(axes) != 2:
            msg = f"{len(axes)} axes: give two, for shares and effects"
            raise ValueError(msg)
    palette = sns.color_palette("colorblind")
    colours = ["0.45", *(palette[k % len(palette)] for k in (3, 0, 2, 4, 1, 5, 6, 8))]
    style = {name: (colours[k % len(colours)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(conditions)}
    _shares(axes[0], samples, names, style)
    _effects(axes[1], effects, names, style)
    for panel in axes:
        for edge in np.arange(len(names) - 1) + 0.5:
            panel.axhline(edge, color="0.9", lw=0.6, zorder=0)
        panel.set_yticks(np.arange(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
    if ax is None:
        axes[1].tick_params(labelleft=False)
    return finish(axes, ax, show)


def _places(style: dict) -> dict[str, float]:
    """Where each condition is, around the place of a type."""
    step = 0.8 / len(style)
    return {name: (k - (len(style) - 1) / 2) * step for k, name in enumerate(style)}


def _shares(ax: "Axes", samples: "pd.DataFrame", names: list[str], style: dict) -> None:
    smallest = samples.loc[samples["share"] > 0, "share"].min()
    y = samples["label"].map({name: k for k, name in enumerate(names)}) + samples["condition"].map(_places(style))
    samples = samples.assign(y=y, x=np.where(samples["share"] > 0, samples["share"], smallest / 2))
    if samples.attrs["paired"]:
        for _, own in samples.groupby(["sample", "label"], sort=False):
            ax.plot(own["x"], own["y"], color="0.8", lw=0.6, zorder=1)
    for condition, part in samples.groupby("condition", sort=False):
        colour, marker = style[condition]
        there = part["share"] > 0
        look = {"ls": "", "marker": marker, "ms": 4.5, "color": colour, "mew": 0.8, "alpha": 0.8}
        ax.plot(part["x"][there], part["y"][there], **look, label=condition)
        ax.plot(part["x"][~there], part["y"][~there], **(look | {"mfc": "white"}))
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    empty = ", hollow: none" if (samples["share"] == 0).any() else ""
    ax.set(xlabel=f"share of the cells of a {samples.attrs['sample_key']}\n(log scale{empty})", ylabel="")


def _effects(ax: "Axes", effects: "pd.DataFrame", names: list[str], style: dict) -> None:
    facts, at = effects.attrs, _places(style)
    handles = {}
    for condition, part in effects.groupby("condition", sort=False):
        colour, marker = style[condition]
        y = part["label"].map({name: k for k, name in enumerate(names)}).to_numpy() + at[condition]
        ax.hlines(y, part["ci_low"], part["ci_high"], color=colour, lw=1.4)
        for called in (False, True):
            own = (part["is_changed"] == called).to_numpy()
            fill = {} if called else {"mfc": "white"}
            ax.plot(part["lfc_mean"][own], y[own], ls="", marker=marker, ms=6, color=colour, **fill)
    for condition, (colour, marker) in style.items():
        handles[condition] = ax.plot([], [], ls="", marker=marker, color=colour)[0]
    ax.axvline(0, color="0.5", lw=1, zorder=0)
    to = {"share": "of shares", "unchanged": "beside unchanged types"}
    relative = to.get(facts["relative_to"], f"beside {facts['relative_to']}")
    ax.set(xlabel=f"log2 fold change over {facts['reference']},\n{relative} (filled: called)", ylabel="")
    ax.legend(handles.values(), handles, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
