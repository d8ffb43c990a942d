"""What ``sb.tl.call_features`` learned about features."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import batch_codes, read_result

if TYPE_CHECKING:
    from anndata import AnnData


def features(adata: "AnnData", key: str = "sb") -> "pd.DataFrame":
    """Feature barcodes: how many cells have each, and what was learned of its native and ambient counts.

    Parameters
    ----------
    adata
        Cells x features, after :func:`scbayes.tl.call_features`.
    key
        Its `key_added`.

    Returns
    -------
    DataFrame with a row for each feature and batch. ``attrs`` says how it was made; ``attrs["number"]`` has a row for
    each batch with the probabilities of 0, 1, ... features.

    feature, batch : str
        `batch` is None where there are none.
    cells : float
        Expected number of cells with native counts of the feature.
    prevalence : float
        Probability of presence in a cell whose counts were not seen.
    native_mean, native_size : float
        Mean m of native counts (zero included) in a cell of a typical ambient amount, and the size r: their variance
        is m + m² / r.
    ambient : float
        Share of the feature in ambient counts.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    values, facts = read_result(adata, "call_features", key)
    batches = facts["batches"]
    ambient = np.asarray(values["feature_ambient"])
    shown = np.isfinite(ambient[:, 0])
    probability = values["feature_probability"]
    codes = batch_codes(adata, facts, key)
    table = pd.DataFrame({"feature": np.tile(adata.var_names[shown].to_numpy(), len(batches))})
    table["batch"] = np.repeat(np.array(batches, object), shown.sum())
    cells = [np.asarray(probability[codes == b].sum(0)).ravel() for b in range(len(batches))]
    table["cells"] = np.concatenate([own[shown] for own in cells])
    for what in ("prevalence", "native_mean", "native_size", "feature_ambient"):
        table[what.removeprefix("feature_")] = np.asarray(values[what])[shown].T.ravel()
    table.attrs |= facts | {"number": np.asarray(values["number"]).tolist()}
    return table
