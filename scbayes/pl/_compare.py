"""Fits, compared."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish, write_names

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

MARKERS = "osD^vP*X"


def compare(
    adata: "AnnData",
    key: str = "sb",
    *,
    by: str = "model",
    n_names: int = 5,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Differences in expected log predictive density to the best fit, of whole cells or gene by gene.

    Of fits: points with two standard errors of the paired difference, best on top, and the stacking weight of each.
    Of genes: the difference per gene against its standard error, on a scale that is linear below 1 nat. Beyond the
    lines, a difference is larger than three standard errors; genes in grey lie between them.

    Parameters
    ----------
    adata
        Cells x genes, with the result of :func:`scbayes.tl.compare`.
    key
        Its prefix.
    by
        ``"model"`` or ``"gene"``.
    n_names
        How many genes are named: those with the largest differences beyond the lines.
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
        As :func:`scbayes.get.comparison`.
    """
    import seaborn as sns

    if by not in ("model", "gene"):
        msg = f"by={by!r}: choose 'model' or 'gene'"
        raise ValueError(msg)
    models = get.comparison(adata, key)
    genes = get.comparison(adata, key, by="gene") if by == "gene" else None
    size = (5.5, 0.9 + 0.4 * len(models)) if genes is None else (5, 4)
    given, ax = ax, axes_or_new(ax, size)
    if genes is None:
        _draw_models(ax, models)
    else:
        _draw_genes(ax, genes, models, sns.color_palette("colorblind"), n_names)
    return finish(ax, given, show)


def _draw_models(ax: "Axes", models) -> None:
    at = np.arange(len(models))
    ax.axvline(0, color="0.7", lw=1, zorder=0)
    ax.errorbar(models["elpd_diff"], at, xerr=2 * models["diff_se"], fmt="o", color="black", ms=5, capsize=3)
    for y, weight in enumerate(models["weight"]):
        ax.text(1.02, y, f"{weight:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize="small")
    ax.text(1.02, -0.75, "weight", transform=ax.get_yaxis_transform(), va="center", fontsize="small", style="italic")
    ax.set_yticks(at, models.index)
    ax.set(ylim=(len(models) - 0.5, -0.5), xlabel="elpd, difference to the best (nats, ± 2 standard errors)")
    ax.locator_params(axis="x", nbins=5)  # labels may have seven digits


def _draw_genes(ax: "Axes", genes, models, colours, n_names: int) -> None:
    far = np.abs(genes["z"]) > 3
    for i, (name, part) in enumerate(genes.groupby("key", sort=False)):
        marker, colour, beyond = MARKERS[i % len(MARKERS)], colours[i % len(colours)], far[part.index]
        near = part[~beyond]
        ax.scatter(near["elpd_diff"], near["se"], s=8, marker=marker, color="0.8", lw=0, rasterized=True)
        face = "none" if i % 2 else colour  # every second one is hollow
        label = f"{name} ({int(beyond.sum())} of {len(part)} genes beyond)"
        style = {"s": 20, "marker": marker, "facecolors": face, "edgecolors": colour, "lw": 0.8, "label": label}
        ax.scatter(part["elpd_diff"][beyond], part["se"][beyond], **style)
    se = np.geomspace(genes["se"].min() / 1.5, genes["se"].max() * 1.5, 200)
    for side in (-3, 3):
        ax.plot(side * se, se, color="0.4", lw=1, ls="--")
    ax.axvline(0, color="0.7", lw=1, zorder=0)
    ax.set_xscale("symlog", linthresh=1)
    reach = 1.5 * max(float(genes["elpd_diff"].abs().max()), 1.0)
    ax.set(xlim=(-reach, reach), yscale="log", ylim=(se[0], se[-1]))
    largest = genes[far].sort_values("elpd_diff", key=np.abs, ascending=False, kind="stable")
    names = largest.drop_duplicates("gene")
    ax.set(xlabel=f"elpd of the gene, difference to {models.index[0]} (nats)", ylabel="standard error (nats)")
    ax.legend(frameon=False, fontsize="x-small", loc="lower left", bbox_to_anchor=(0, 1))
    write_names(ax, names["elpd_diff"], names["se"], names["gene"], n_names)
