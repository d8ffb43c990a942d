"""Where a picture is drawn, and whether it is shown or returned: the same for all."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_or_new(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """``ax``, or the axes of a new figure of this size in inches."""
    from matplotlib import pyplot as plt

    return plt.figure(figsize=size, layout="constrained").subplots() if ax is None else ax


def finish(drawn: "Axes | np.ndarray", given: object, show: bool | None) -> "Axes | np.ndarray | None":  # noqa: FBT001
    """Show the figure, or return what was drawn.

    Parameters
    ----------
    drawn
        Axes, or an array of them.
    given
        What the user passed as `ax`: what is drawn there is not shown unless asked for.
    show
        What the user passed; None: as ``scanpy.settings.autoshow`` says.
    """
    import scanpy as sc
    import seaborn as sns
    from matplotlib import pyplot as plt

    for ax in np.ravel(drawn):
        sns.despine(ax=ax)
    if show is None:
        show = sc.settings.autoshow and given is None
    if not show:
        return drawn
    plt.show()
    return None


def write_names(ax: "Axes", x, y, names, n_names: int) -> None:
    """Names of the first points, none on another: moved apart where adjustText is installed, else left out.

    Everything else must be drawn before, as limits and legends move what must not lie on each other.
    """
    from matplotlib.patheffects import withStroke

    style = {"fontsize": "x-small", "zorder": 5, "path_effects": [withStroke(linewidth=2, foreground="white")]}
    try:
        from adjustText import adjust_text
    except ImportError:
        _write_apart(ax, x, y, names, n_names, style)
        return
    points = list(zip(x, y, names, strict=True))[:n_names]
    if points:
        texts = [ax.text(at_x, at_y, name, **style) for at_x, at_y, name in points]
        # a number of steps and not of seconds: the same picture each time
        line = {"arrowstyle": "-", "color": "0.4", "lw": 0.5}
        adjust_text(texts, ax=ax, iter_lim=500, expand=(1.15, 1.4), force_text=(0.3, 0.5), arrowprops=line)


def _write_apart(ax: "Axes", x, y, names, n_names: int, style: dict) -> None:
    """Names to the right of their points, without those that would lie on another's."""
    placed = []
    for at_x, at_y, name in zip(x, y, names, strict=True):
        if len(placed) == n_names:
            break
        left, middle = ax.transData.transform((at_x, at_y)) * 72 / ax.figure.dpi
        box = left, middle - 4, left + 6 + 4.5 * len(name), middle + 4  # of this font, points
        if all(box[0] > o[2] or o[0] > box[2] or box[1] > o[3] or o[1] > box[3] for o in placed):
            placed.append(box)
            ax.annotate(name, (at_x, at_y), xytext=(5, 0), textcoords="offset points", va="center", **style)
