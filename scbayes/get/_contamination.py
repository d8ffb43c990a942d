"""What ``sb.tl.denoise`` learned about contamination with ambient RNA."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData

BYS = ("cell", "group")


def contamination(adata: "AnnData", key: str = "sb", *, by: str = "cell") -> "pd.DataFrame":
    r"""Share of ambient counts, of each cell or each group of cells.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.denoise`.
    key
        Its `key_added`.
    by
        ``"cell"`` or ``"group"``.

    Returns
    -------
    DataFrame. ``attrs`` says how it was made; ``attrs["samples"]`` has the `level` of each sample, `level_sd`, and
    whether it is `identified`.

    With ``by="cell"`` a row for each cell of `adata`, by name:

    contamination, low, high : float
        :math:`\rho`, posterior mean and ends of the interval; NaN in cells without counts. ``attrs["interval"]`` is the
        probability of the interval.
    group : categorical
        Kind of cells that the cell was taken for.
    sample : str
        ``"all"`` where there was no `sample_key`.

    With ``by="group"`` a row for each group that there was, whatever cells `adata` has now:

    group, sample, batch : str
        Kind of cells, sample, and batch of the profile; ``"all"`` where there are none.
    n_cells : int
        Cells of the group.
    level, level_sd : float
        Common level of :math:`\rho` in the group: posterior mean and standard deviation. Most of the error is common to
        the groups of a sample.
    noise : float
        How many times the native variance is what that of single genes and their programmes say.
    identified : bool
        Whether the level of the sample is.

    Raises
    ------
    KeyError
        If there is no such result, or the column with samples is gone.
    ValueError
        If `by` is unknown.
    """
    if by not in BYS:
        msg = f"unknown by={by!r}; choose one of {', '.join(map(repr, BYS))}"
        raise ValueError(msg)
    values, facts = read_result(adata, "denoise", key)
    table = _cells(adata, values, facts, key) if by == "cell" else _groups(values, facts)
    table.attrs |= facts
    return table


def _cells(adata: "AnnData", values: dict, facts: dict, key: str) -> "pd.DataFrame":
    columns = {"contamination": "contamination", "low": "contamination_low", "high": "contamination_high"}
    table = pd.DataFrame({to: np.array(values[what], float) for to, what in columns.items()}, index=adata.obs_names)
    table["group"] = pd.Categorical(values["denoise_group"])
    sample = facts["sample_key"]
    if sample is not None and sample not in adata.obs:
        msg = f"{key!r} needs obs[{sample!r}], its samples, which is not there"
        raise KeyError(msg)
    table["sample"] = "all" if sample is None else adata.obs[sample].astype(str).to_numpy(object)
    return table


def _groups(values: dict, facts: dict) -> "pd.DataFrame":
    table = values["levels"].rename(columns={"kind": "group"}).reset_index(drop=True)
    for name in ("group", "sample", "batch"):
        table[name] = table[name].astype(str).astype(object)
    known = {name: one["identified"] for name, one in facts["samples"].items()}
    table["identified"] = table["sample"].map(known).astype(bool)
    return table
