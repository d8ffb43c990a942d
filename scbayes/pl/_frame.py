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
