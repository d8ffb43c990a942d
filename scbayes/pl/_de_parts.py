"""What pictures of differential expression have in common: the table, the title, the colours of called genes."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes import get

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


def tables_of(adata: "AnnData", group: "str | list[str] | None", key: str) -> "dict[str, pd.DataFrame]":
    """Table of each of these groups, by name; of the first if None."""
    if group is None:
        group = get.de(adata, None, key).attrs["groups"][0]
    names = [group] if isinstance(group, str) or not np.iterable(group) else list(group)
    if not names:
        msg = "group is an empty list: name a group"
        raise ValueError(msg)
    return {str(name): get.de(adata, name, key) for name in names}


def set_title(ax: "Axes", groups: list[str], facts: dict) -> None:
    """What is compared, and what the result cannot say."""
    against = "all others" if facts["all_others"] else facts["reference"]
    compared = f"{groups[0]} over {against}" if len(groups) == 1 else f"over {against}"
    limits = ["cells as replicates: descriptive"] if facts["descriptive"] else []
    limits += ["groups from these counts"] if facts.get("double_use") else []
    ax.set_title("\n".join([compared, "; ".join(limits)] if limits else [compared]), fontsize="medium")


def effect_label(facts: dict) -> str:
    """What `lfc_mean` is."""
    return "log2 ratio of the overdispersion" if facts.get("statistic") == "dispersion" else "log2 fold change"


def direction(table: "pd.DataFrame") -> list[tuple[np.ndarray, object, str]]:
    """Which genes are not called, higher and lower; with the colour of each, and what the legend says."""
    import seaborn as sns

    colours = sns.color_palette("colorblind")
    called, up = table["is_de"].to_numpy(), (table["lfc_mean"] > 0).to_numpy()
    parts = (~called, "0.75", "not called"), (called & up, colours[3], "higher"), (called & ~up, colours[0], "lower")
    return [(where, colour, f"{said} ({where.sum():,})") for where, colour, said in parts]


def scatter_genes(ax: "Axes", table: "pd.DataFrame", x: np.ndarray, y: np.ndarray) -> None:
    """A point for each gene, called ones in the colour of their direction; markers tell them apart in grey."""
    for (where, colour, label), marker in zip(direction(table), "o^v", strict=True):
        size = 6 if marker == "o" else 14
        ax.scatter(x[where], y[where], s=size, color=colour, marker=marker, lw=0, label=label, rasterized=True)
    ax.legend(frameon=False, fontsize="x-small", markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))


def named_genes(table: "pd.DataFrame", n_names: int) -> np.ndarray:
    """Rows of the genes to name: those that are called, surest large effects first."""
    return np.flatnonzero(table["is_de"].to_numpy())[:n_names]


def beyond_mean(table: "pd.DataFrame", rows: np.ndarray) -> np.ndarray:
    """How far the interval of each of these rows reaches below and above the mean: ``(2, n)``."""
    mean = table["lfc_mean"].to_numpy()
    both = np.stack([mean - table["ci_low"].to_numpy(), table["ci_high"].to_numpy() - mean])
    return np.maximum(both[:, rows], 0)
