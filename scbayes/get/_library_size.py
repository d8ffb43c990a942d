"""Library sizes that ``sb.tl.latent`` wrote, by batch."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import batch_codes, read_result

if TYPE_CHECKING:
    from anndata import AnnData


def library_size(adata: "AnnData", key: str = "sb") -> pd.DataFrame:
    r"""Library sizes of the cells of each batch, in counts (or as the size factors that were given).

    The prior of an encoded library size l is :math:`\ln l \sim N(m, s^2)` in each batch: mean :math:`e^{m + s^2/2}`,
    standard deviation that times :math:`\sqrt{e^{s^2} - 1}`.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.latent`.
    key
        Its `key_added`.

    Returns
    -------
    DataFrame
        A row for each batch that cells are of, or one, ``"all"``, of a fit without batches: ``n_cells``; ``mean``,
        ``median`` and ``sd`` over cells of their library sizes; ``uncertainty``, the mean over cells of its posterior
        standard deviation; and, where it is encoded, ``prior_mean`` and ``prior_sd``.

    Raises
    ------
    KeyError
        If there is no such result, or the column of `obs` with the batches is gone.
    ValueError
        If the fit was replaced since.
    """
    values, facts = read_result(adata, "latent", key)
    code = batch_codes(adata, facts, key)
    cells = pd.DataFrame({name: np.asarray(values[name], float) for name in ("library", "library_sd")})
    groups = cells.groupby(code)
    table = groups["library"].agg(["size", "mean", "median", "std"])
    table.columns = ["n_cells", "mean", "median", "sd"]
    table["uncertainty"] = groups["library_sd"].mean()
    if facts["log_library_prior"] is not None:
        mean, sd = np.array(facts["log_library_prior"])[table.index].T
        table["prior_mean"] = np.exp(mean + sd**2 / 2)
        table["prior_sd"] = table["prior_mean"] * np.sqrt(np.expm1(sd**2))
    names = np.array(facts["batches"] or ["all"], object)
    return table.set_index(pd.Index(names[table.index], name="batch"))
