"""Droplets by their totals, as ``sb.pp.ambient_profile`` or ``sb.pp.call_cells`` left them."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

#: Where results are looked for.
RESULTS = "sb_ambient", "sb_call_cells"


def barcode_rank(adata: "AnnData", key: str | None = None) -> "pd.DataFrame":
    """Ranks of droplets by their totals.

    Parameters
    ----------
    adata
        After :func:`scbayes.pp.ambient_profile` or :func:`scbayes.pp.call_cells`.
    key
        Name of the entry in `uns`. Default: ``"sb_ambient"`` or ``"sb_call_cells"``, whichever has droplets.

    Returns
    -------
    DataFrame with a row for each batch and distinct total, the largest first. ``attrs`` says how it was made, with
    `knee`, `inflection` and `split` of each batch: the end of the plateau of cells, the steepest point, and the total
    between the humps of cells and of empty droplets.

    batch : str
        None where there is one for all.
    total : int
        Counts of a droplet.
    rank : float
        Mean rank of droplets of this total, from 1.
    droplets : int
        Their number.
    empty : float
        How many of them are empty.
    cells : float
        Sum of their probabilities to be cells, or how many of them are cells by name.

    Raises
    ------
    KeyError
        If there is no such result, or it has no droplets.
    """
    if key is None:
        uns = getattr(adata, "uns", {})
        key = next((name for name in RESULTS if "rank_total" in uns.get(name, ())), RESULTS[0])
    verb = "call_cells" if key.endswith("_call_cells") else "ambient_profile"
    values, facts = read_result(adata, verb, key, key)
    if "rank_total" not in values:
        msg = f"{key!r} was not made from droplets, but from {facts['source']}: it has no ranks"
        raise KeyError(msg)
    column = {name: np.asarray(values[f"rank_{name}"]) for name in ("batch", "total", "droplets")}
    batches = np.array(facts["batches"] if column["batch"].any() else facts["batches"][:1], object)
    table = pd.DataFrame({"batch": batches[column["batch"]], "total": column["total"]})
    first = np.append(0, np.flatnonzero(np.diff(column["batch"])) + 1)
    for b, start in enumerate(first):
        own = slice(start, first[b + 1] if b + 1 < len(first) else None)
        n = column["droplets"][own]
        table.loc[table.index[own], "rank"] = np.cumsum(n) - (n - 1) / 2
    table["droplets"] = column["droplets"]
    table["empty"] = np.asarray(values.get("rank_empty", np.full(len(table), np.nan)))
    table["cells"] = np.asarray(values["rank_cells"] if "rank_cells" in values else values["rank_known"])
    table.attrs |= facts
    return table
