"""How a fit went."""

from typing import TYPE_CHECKING

import numpy as np

import scbayes.get as get

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def loss(
    adata: "AnnData",
    key: str | list[str] = "sb",
    *,
    window: int = 50,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Loss of each step, its mean over windows, and the verdict.

    Drawn in nats per cell and gene, comparable over data sets: the fit has converged when the means of the last two
    windows agree.

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to draw, or several to compare.
    window
        Steps over which the loss is averaged.
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
        As :func:`scbayes.get.fit`.
    """
    import scanpy as sc
    import seaborn as sns
    from matplotlib import pyplot as plt

    fits = [get.fit(adata, name) for name in ([key] if isinstance(key, str) else key)]
    show = sc.settings.autoshow and ax is None if show is None else show
    if ax is None:
        ax = plt.figure(figsize=(5, 3.2), layout="constrained").subplots()
    for fit, colour in zip(fits, sns.color_palette("colorblind", len(fits)), strict=True):
        entries = fit.facts["n_cells"] * fit.facts["n_genes"]
        values = fit.losses / entries
        steps = np.arange(1, len(values) + 1)
        n = len(values) // window
        verdict = "converged" if fit.converged else "not converged"
        ax.plot(steps, values, ".", ms=2, color=colour, alpha=0.35, rasterized=True)
        if n:
            means = values[: n * window].reshape(n, window).mean(1)
            label = f"{fit.key}: {fit.config.model}, {verdict} at {means[-1]:.5f}"
            ax.plot((np.arange(n) + 0.5) * window, means, "o-", ms=4, color=colour, label=label)
        else:
            ax.plot([], [], "o-", color=colour, label=f"{fit.key}: {fit.config.model}, {verdict}")
    ax.set(xlabel="step", ylabel="loss (nats per cell and gene)")
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.legend(frameon=False, fontsize="small")
    sns.despine(ax=ax)
    if show:
        plt.show()
        return None
    return ax
