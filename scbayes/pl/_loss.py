"""How a fit went."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get
from scbayes.pl._frame import axes_or_new, finish
from scbayes.pl._loss_latent import draw_elbo, has_elbo

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: What tells fits apart without colours; every second marker is hollow.
MARKERS, LINES = "osD^v", ("-", "--", ":", "-.")


def loss(
    adata: "AnnData",
    key: str | list[str] = "sb",
    *,
    ax: "Axes | None" = None,
    show: bool | None = None,
) -> "Axes | None":
    """Loss of each step above its final level, the means that are compared, and the verdict.

    The final level is the mean of the last window of 50 steps. A fit has converged when the means of its last two
    windows agree: within the band, 1e-3 nats per latent number, or within their own noise. The legend says how close to
    normal the genes' posteriors are: Pareto k-hat of the typical gene, and the share of genes above 0.7, whose
    intervals are to be taken with care (or found with ``method="nuts"``). For Markov chains, the energy of each draw,
    one chain after the other.

    Of fits with a latent space, the ELBO of training and validation cells at each epoch, its KL divergence (right axis)
    and the epoch whose parameters were kept.

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to draw, or several to compare, all with or all without a latent space.
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
        As :func:`scbayes.get.fit`; ValueError also if no fit is named, one has no loss (``method="laplace"``) or no
        epoch behind it, or some have a latent space and others not.
    """
    import seaborn as sns

    fits = [get.fit(adata, name) for name in ([key] if isinstance(key, str) else key)]
    _check(fits)
    if has_elbo(fits[0]):
        return finish(draw_elbo(fits, ax), ax, show)
    height = 3.2 if len(fits) == 1 else 3 + 0.35 * len(fits)
    given, ax = ax, axes_or_new(ax, (5, height))
    for i, (fit, colour) in enumerate(zip(fits, sns.color_palette("colorblind", len(fits)), strict=True)):
        how = fit.facts["convergence"]
        values = fit.losses - (how["loss"] or 0)  # the mean of the last window; None if no loss there was finite
        n = len(values) // how["window"]
        means = [_mean(part) for part in values[: n * how["window"]].reshape(n, how["window"])]
        mixture = f", {fit.config.n_components} components" if fit.config.mixture else ""
        label = f"{fit.key}: {fit.config.model}, {fit.config.parameterization}{mixture}\n{_verdict(fit)}"
        ax.plot(np.arange(1, len(values) + 1), values, ".", ms=2, color=colour, alpha=0.3, rasterized=True)
        marker, line, face = MARKERS[i % len(MARKERS)], LINES[i % len(LINES)], "white" if i % 2 else colour
        style = {"marker": marker, "ls": line, "ms": 5, "mfc": face, "color": colour, "label": label}
        ax.plot((np.arange(n) + 0.5) * how["window"], means, **style)
        ax.axhspan(-how["tolerance"], how["tolerance"], color=colour, alpha=0.12, lw=0)
    widest = max(fit.facts["convergence"]["tolerance"] for fit in fits)
    ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(widest)), linscale=1.5)  # linear near zero
    ax.set(xlabel="step", ylabel="loss above its final level (nats)")
    if len(fits) == 1:  # the loss falls: the upper right is empty
        ax.legend(frameon=False, fontsize="small", loc="upper right")
    else:
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    return finish(ax, given, show)


def _check(fits: list) -> None:
    if not fits:
        msg = "key is an empty list: name a fit"
        raise ValueError(msg)
    latent = [has_elbo(fit) for fit in fits]
    if any(latent) and not all(latent):
        msg = f"{fits[latent.index(True)].key!r} has an ELBO, {fits[latent.index(False)].key!r} a loss: draw each alone"
        raise ValueError(msg)
    for fit in fits:
        if latent[0] and not len(fit.history):
            msg = f"the fit {fit.key!r} has no epoch behind it: go on with sb.tl.fit(adata, resume=True)"
            raise ValueError(msg)
        if fit.facts.get("method") == "laplace":
            msg = f"the fit {fit.key!r} has no loss to draw: it is Laplace's approximation (method='laplace')"
            raise ValueError(msg)


def _verdict(fit) -> str:
    how, k_hat = fit.facts["convergence"], fit.facts.get("k_hat")
    state = "converged" if fit.converged else "NOT converged"
    normal = f"\nk-hat {k_hat['median']:.2f}, {k_hat['above_0.7']:.1%} of genes above 0.7" if k_hat else ""
    return f"{state}, {how['n_steps']} {'draws' if fit.facts.get('method') == 'nuts' else 'steps'}{normal}"


def _mean(values: np.ndarray) -> float:
    """Mean of those that are finite; NaN if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
