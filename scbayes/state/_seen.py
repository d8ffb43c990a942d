"""What a fit remembers of its counts, so that new cells can be added to it without them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbayes.counts import Past, Summary
from scbayes.state._names import fingerprints
from scbayes.state._read import read_manifest

if TYPE_CHECKING:
    from anndata import AnnData

#: Integers are stored in half the space where they fit.
LARGEST = np.iinfo(np.int32).max
#: Parts of `Past` that are stored as they are.
SUMS = ("nodes", "node_cells", "node_counts", "node_detected")


class Seen(NamedTuple):
    """The cells of a fit.

    Attributes
    ----------
    genes, cells
        Fingerprints of the names of all genes and cells, uint64.
    fitted
        Which of the genes were fitted on their own, bool.
    summary
        Of the counts of all cells.
    past
        The cells as they are seen by genes where the summary alone does not say, else None.
    nu
        Posterior of nu of all cells where `past` is needed, ``(n_cells, 2)``; else None.
    """

    genes: np.ndarray
    cells: np.ndarray
    fitted: np.ndarray
    summary: Summary
    past: Past | None = None
    nu: np.ndarray | None = None


def name_ids(names) -> np.ndarray:
    """Fingerprints of names that are the same in all fits: uint64, shape ``(n,)``."""
    return fingerprints(names, "seen")[:, 0]


def pack_seen(seen: Seen) -> dict[str, np.ndarray]:
    """Arrays to store."""
    summary = seen.summary
    arrays = {
        "genes": seen.genes,
        "cells": seen.cells,
        "fitted": seen.fitted.astype(np.uint8),
        "sizes": np.array([summary.n_genes, summary.n_batches]),
    }
    for name in ("batch", "cell_total", "cell_detected", "count"):
        arrays[name] = _small(getattr(summary, name))
    batch, gene = np.divmod(summary.row, summary.n_genes)
    arrays |= {"pair_gene": _small(gene), "pair_batch": _small(batch), "pair_cells": _small(summary.cells)}
    if seen.past is not None:
        arrays |= {name: getattr(seen.past, name) for name in SUMS}
        arrays["nu"] = seen.nu
    return arrays


def read_seen(adata: "AnnData", key: str) -> Seen:
    """What the fit under ``key`` remembers.

    Raises
    ------
    KeyError
        If there is no fit under ``key``.
    ValueError
        If it remembers nothing, or not what was stored.
    """
    shapes = read_manifest(adata, key).get("seen")
    if shapes is None:
        msg = (
            f"the fit {key!r} keeps no summary of its cells (those of mixtures may move between components): "
            "fit all cells together, without update=True"
        )
        raise ValueError(msg)
    stored = adata.uns[key].get("seen", {})
    if {name: list(np.shape(value)) for name, value in stored.items()} != shapes:
        msg = f"the fit {key!r} is damaged: uns[{key!r}]['seen'] is missing or has changed shape; fit again"
        raise ValueError(msg)
    part = {name: np.asarray(value) for name, value in stored.items()}
    n_genes, n_batches = (int(size) for size in part["sizes"])
    row = part["pair_batch"].astype(np.int64) * n_genes + part["pair_gene"]
    integers = (part[name].astype(np.int64) for name in ("cell_total", "cell_detected"))
    pairs = (part[name].astype(np.int64) for name in ("count", "pair_cells"))
    summary = Summary(n_genes, n_batches, part["batch"].astype(np.int32), *integers, row, *pairs)
    past, nu = None, None
    if "nodes" in part:
        sums = (part[name] for name in SUMS)
        past, nu = Past(summary.batch, summary.cell_total, *sums), part["nu"]
    return Seen(part["genes"], part["cells"], part["fitted"].astype(bool), summary, past, nu)


def _small(value: np.ndarray) -> np.ndarray:
    return value.astype(np.int32) if value.max(initial=0) <= LARGEST else value
