"""What ``sb.tl.cell_abundance`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def cell_abundance(
    adata: "AnnData",
    key: str = "sb",
    *,
    samples: "Iterable[str] | None" = None,
    against: "Iterable[str] | None" = None,
) -> "pd.DataFrame | pd.Series":
    r"""Log density of each sample at each cell, or where some samples have more cells than others.

    .. math:: r_c = \ln \frac{1}{|A|} \sum_{s \in A} q_s(m_c) - \ln \frac{1}{|B|} \sum_{s \in B} q_s(m_c)

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.cell_abundance`.
    key
        Its prefix.
    samples, against
        Samples A and B, of which to return the log ratio: ``adata.obs["ratio"] = sb.get.cell_abundance(adata,
        samples=["s1", "s2"], against=["s3"])``. Without `against`, B are all the others.

    Returns
    -------
    DataFrame of cells x samples, nats; ``attrs`` says how it was made. With `samples`, a Series with the ratio of each
    cell: positive where A has more.

    Raises
    ------
    KeyError
        If it was not computed, or there is no such sample.
    ValueError
        If the fit was replaced since, or A or B is empty.
    """
    values, facts = read_result(adata, "cell_abundance", key)
    table = pd.DataFrame(np.asarray(values["abundance"], float), adata.obs_names, facts["samples"])
    table.attrs |= facts
    if samples is None and against is None:
        return table
    if samples is None:
        msg = "against= is what samples= are compared with: give samples"
        raise ValueError(msg)
    first = _known(samples, facts["samples"])
    rest = [name for name in facts["samples"] if name not in first]
    second = rest if against is None else _known(against, facts["samples"])
    if not first or not second:
        msg = f"samples={first} against={second}: give at least one of each"
        raise ValueError(msg)
    ratio = _log_mean(table[first].to_numpy()) - _log_mean(table[second].to_numpy())
    return pd.Series(ratio, adata.obs_names, name="log_ratio")


def _known(names: "Iterable[str]", known: list[str]) -> list[str]:
    names = [names] if isinstance(names, str | int) else list(names)
    names = [str(name) for name in names]
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = f"no sample {unknown[0]!r}: there are {known}"
        raise KeyError(msg)
    return names


def _log_mean(log_values: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(log_values, axis=1) - np.log(log_values.shape[1])
