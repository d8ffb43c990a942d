"""How well each gene fits."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Marker, size, and lightness from black to light grey of each verdict; colours are added to that.
STYLES = {
    "fits": (".", 6, "#b8b8b8"),
    "excess zeros: likely a missing group": ("^", 22, "#7a0403"),
    "likely a missing group": ("o", 14, "#e08214"),
    "excess zeros": ("v", 22, "#08306b"),
    "overdispersed": ("s", 14, "#1b7837"),
    "underdispersed": ("D", 14, "#5aae61"),
    "other misfit": ("x", 20, "#000000"),
}
#: What is expected where the model holds, by column of the table of genes.
EXPECTED = {"mean": 0, "variance": 1, "shared": 0, "variance_ratio": 1}
LABELS = {
    "mean": "mean of residuals",
    "variance": "variance of residuals",
    "shared": "variance shared with other genes",
    "variance_ratio": "variance of counts, observed / expected",
    "ks": "Kolmogorov-Smirnov distance",
    "zeros_excess": "zeros, observed - expected fraction",
}
LINES = ("-", "--", ":", "-.")
N_BARS, N_STEPS = 64, 20


def residuals(
    adata: "AnnData",
    key: str = "sb",
    *,
    kind: str = "variance",
    genes: str | list[str] | None = None,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """A number of each gene against its mean counts, with the verdicts; or the distribution of uniform residuals.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.residuals`.
    key
        Prefix under which the residuals are stored.
    kind
        ``"variance"`` of the residuals, ``"shared"``, ``"zeros_excess"`` (observed less expected fraction),
        ``"mean"``, ``"variance_ratio"`` or ``"ks"``, one point per gene; or ``"uniform"``: how often each value of the
        residuals occurs on the uniform scale, 1 where the model holds, with a band of two standard errors.
    genes
        With ``"uniform"``: draw these, whose residuals must be stored, instead of all. Else: write the names of these.
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
        As :func:`scbayes.get.residuals`; KeyError for a gene that is not there; ValueError for another `kind`.
    """
    if kind != "uniform" and kind not in LABELS:
        msg = f"kind={kind!r}: choose one of {', '.join([*LABELS, 'uniform'])}"
        raise ValueError(msg)
    names = [] if genes is None else [genes] if isinstance(genes, str) else list(genes)
    table = get.residuals(adata, key, by="value" if kind == "uniform" and names else "gene")
    if missing := [name for name in names if name not in (table.columns if kind == "uniform" else table.index)]:
        msg = f"genes={missing[:5]} have no residuals under {key!r}: run sb.tl.residuals with genes={missing[:5]}"
        raise KeyError(msg)
    pooled = get.residuals(adata, key, by="uniform")["n"].to_numpy()
    given, ax = ax, axes_or_new(ax, (5.5, 3.8))
    if kind != "uniform":
        _points(ax, table.assign(zeros_excess=table["zeros"] - table["zeros_expected"]), kind, names)
    elif names:
        _steps(ax, table[names])
    else:
        _bars(ax, pooled)
    return finish(ax, given, show)


def _points(ax: "Axes", table, kind: str, names: list[str]) -> None:
    seen = table[table["mean_counts"] > 0]
    for order, (verdict, (marker, size, colour)) in enumerate(STYLES.items()):
        part = seen[seen["verdict"] == verdict]
        if not len(part):
            continue
        edge = {} if marker in ".x" else {"edgecolors": "black", "linewidths": 0.4}
        ax.scatter(
            part["mean_counts"],
            part[kind],
            s=size,
            marker=marker,
            color=colour,
            label=f"{verdict} ({len(part)})",
            zorder=2 + order,
            rasterized=True,
            **edge,
        )
    ax.axhline(EXPECTED.get(kind, 0), color="black", lw=0.8, zorder=1)
    for name in names:
        ax.annotate(name, seen.loc[name, ["mean_counts", kind]], xytext=(4, 4), textcoords="offset points", zorder=20)
    ax.set(xscale="log", xlabel="mean counts per cell", ylabel=LABELS[kind])
    # below the axes: above points it would hide some
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)


def _bars(ax: "Axes", n: np.ndarray) -> None:
    wide = n.reshape(N_BARS, -1).sum(1)
    expected = n.sum() / N_BARS
    edges = np.linspace(0, 1, N_BARS + 1)
    ax.stairs(wide / expected, edges, baseline=1, fill=True, color="#909090")
    _expected(ax, expected, f"all: {n.sum():,} residuals")
    reach = 1.2 * max(np.abs(wide / expected - 1).max(), 2 / np.sqrt(expected), 0.01)
    ax.set_ylim(1 - reach, 1 + reach)


def _steps(ax: "Axes", values) -> None:
    import seaborn as sns
    from scipy.special import ndtr

    expected = len(values) / N_STEPS
    for i, name in enumerate(values):
        n, edges = np.histogram(ndtr(values[name]), N_STEPS, (0, 1))
        colour = sns.cubehelix_palette(len(values.columns), dark=0, light=0.6)[-1 - i]
        line = {"color": colour, "ls": LINES[i % len(LINES)], "lw": 1.5}
        ax.stairs(n / expected, edges, baseline=None, label=name, **line)
    _expected(ax, expected, None)
    ax.set_ylim(bottom=0)


def _expected(ax: "Axes", expected: float, title: str | None) -> None:
    """Band of two standard errors about 1."""
    error = 2 / np.sqrt(expected)
    ax.axhspan(1 - error, 1 + error, color="#2166ac", alpha=0.25, lw=0, label="expected, 2 s.e.")
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xlim=(0, 1), xlabel="residual on the uniform scale", ylabel="observed / expected")
    ax.legend(frameon=False, fontsize="small", title=title, title_fontsize="small")
