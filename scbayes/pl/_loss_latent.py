"""How a fit with a latent space went: its ELBO, epoch by epoch."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.pl._frame import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What tells fits apart without colours, at the best epoch.
MARKERS = "osD^v"


def has_elbo(fit) -> bool:
    """Whether a fit has a latent space, and so an ELBO for each epoch."""
    return hasattr(fit, "table")


def draw_elbo(fits: list, ax: "Axes | None") -> "Axes":
    """ELBO of training and validation (left), KL divergence (right, dotted), and the best epoch of each fit."""
    import seaborn as sns

    ax = axes_or_new(ax, (5.6, 3.7 + 0.3 * (len(fits) - 1)))
    right = ax.twinx()
    late = []
    for i, (fit, colour) in enumerate(zip(fits, sns.color_palette("colorblind", len(fits)), strict=True)):
        table = fit.table
        how = fit.facts["convergence"]
        watched = "validation" if table["validation_elbo"].notna().any() else "train"
        ax.plot(table.index, table["train_elbo"], "--", lw=1.2, color=colour)
        ax.plot(table.index, table["validation_elbo"], "-", lw=1.5, color=colour)
        right.plot(table.index, table[f"{watched}_kl"], ":", lw=1.5, color=colour)
        best = how["best_epoch"]
        at = table.loc[best, f"{watched}_elbo"]
        style = {"marker": MARKERS[i % len(MARKERS)], "ls": "", "ms": 6, "mfc": "white", "color": colour}
        ax.plot([best], [at], **style, label=f"{fit.key}: {fit.config.model}, {_verdict(fit, at)}", zorder=4)
        settled = table[["train_elbo", "validation_elbo"]].iloc[min(2, len(table) // 4) :].to_numpy()
        late += [*settled[np.isfinite(settled)], at]
    span = max(late) - min(late) or 1
    ax.set(xlabel="epoch", ylabel="ELBO (nats per cell)", ylim=(min(late) - 0.05 * span, max(late) + 0.08 * span))
    right.set(ylabel="KL divergence (nats per cell)")
    right.set_ylim(bottom=0)
    sns.despine(ax=right, right=False)
    right.grid(visible=False)
    kinds = [("-", "validation"), ("--", "train"), (":", "KL")]
    for line, name in kinds:
        ax.plot([], [], line, color="0.3", lw=1.5, label=name)
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def _verdict(fit, elbo: float) -> str:
    how = fit.facts["convergence"]
    state = "converged" if how["converged"] else "all epochs done" if how["done"] else "NOT done"
    active = f"{fit.facts['active_units']} of {fit.config.n_latent} dimensions active"
    return f"{state}, {how['n_epochs']} epochs\nELBO {elbo:.1f} at epoch {how['best_epoch']}, {active}"
