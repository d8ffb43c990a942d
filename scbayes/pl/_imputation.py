"""What a model says of counts that were hidden from it, against these."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Counts up to here have a column each; beyond, columns are equally wide on the log scale.
APART = 8


def imputation(
    adata: "AnnData", key: str = "sb", *, ax: "Axes | None" = None, show: bool | None = None
) -> "Axes | None":
    """How many hidden counts have which imputed value, on log scales.

    The dashed line is where both are the same; the solid one is a linear regression of the log of the imputed on the
    log of the original count, whose slope the legend has. Above, the median absolute error, that of giving all cells
    the same composition, and that of leaving the corrupted counts as they are.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.impute`.
    key
        `key_added` of :func:`scbayes.tl.impute`.
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
        As :func:`scbayes.get.imputation`.
    """
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    table = get.imputation(adata, key)
    facts = table.attrs
    original, imputed = table["original"].to_numpy(float), np.maximum(table["imputed"].to_numpy(float), 1e-6)
    low = 10 ** np.floor(np.log10(np.quantile(imputed, 0.001)))
    high = 1.3 * max(original.max(), imputed.max())
    wide = _edges(high)
    tall = np.geomspace(low, high, 70)
    density, _, _ = np.histogram2d(original, np.maximum(imputed, low), [wide, tall])
    given, ax = ax, axes_or_new(ax, (5, 4.2))
    shown = np.ma.masked_equal(density.T, 0)
    style = {"cmap": "Blues", "norm": LogNorm(0.5, max(density.max(), 2)), "rasterized": True}
    mesh = ax.pcolormesh(wide, tall, shown, **style)
    ends = np.array([wide[0], high])
    ax.plot(ends, ends, ls="--", lw=1, color="0.3", label="imputed = original")
    if original.min() < original.max():
        slope, level = np.polyfit(np.log(original), np.log(imputed), 1)
        ax.plot(ends, np.exp(level) * ends**slope, lw=1.5, color="C1", label=f"regression, slope {slope:.2f}")
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=(low, high))
    ax.set(xlabel="original (counts)", ylabel=f"imputed (counts, mean of {facts['n_samples']} draws)")
    errors = [f"{facts[name]:.3g}" for name in ("error", "error_of_profile", "error_of_corrupted")]
    title = f"{facts['corruption']} corruption, {facts['n_changed']:,} counts changed\nmedian error {errors[0]}"
    without = f"(cells all alike: {errors[1]}, counts left as they are: {errors[2]})"
    ax.set_title(f"{title} {without}", fontsize="small")
    plt.colorbar(mesh, ax=ax, label="hidden counts", pad=0.02)
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize="small", loc="lower right")
    return finish(ax, given, show)


def _edges(high: float) -> np.ndarray:
    """Edges of columns: between whole numbers, so that none stays empty for want of one."""
    small = np.arange(0.5, min(APART, high) + 1)
    if high <= APART:
        return small
    large = np.floor(np.geomspace(APART + 1, high + 1, max(int(12 * np.log10(high / APART)), 2)))
    return np.concatenate([small, np.unique(large)[1:] + 0.5])
