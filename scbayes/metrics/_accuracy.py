"""How often predicted labels are right."""

import numpy as np
import pandas as pd

from scbayes.metrics._cells import check_column


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> pd.Series:
    r"""Share of cells whose predicted label is right: of all cells, and as the mean over labels.

    `accuracy` is the share of all cells, `balanced` :math:`\frac{1}{L} \sum_l` of the share of the cells of label
    :math:`l`, to which rare labels count as much as common ones.

    Parameters
    ----------
    labels
        True label of each cell, shape ``(n_cells,)``. Cells without one (None, NaN) are left out.
    predicted
        Predicted label, of the same kind of values. Missing ones are wrong.

    Returns
    -------
    Series `accuracy` and `balanced`, within 0 and 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, no label, or labels and predictions of different kinds (1 and "1").
    """
    from sklearn.metrics import accuracy_score, recall_score

    label = check_column(labels, "labels", np.shape(labels)[0] if np.ndim(labels) else 0)
    call = check_column(predicted, "predicted", len(label)).astype(object)[label.notna()]
    label = label.astype(object).dropna()
    if label.empty:
        raise ValueError("labels has no value")
    names = pd.Index(label.unique())
    if not call.isin(names).any() and call.astype(str).isin(names.astype(str)).any():
        raise ValueError(f"labels such as {names[0]!r} are of another type than predictions such as {call.iloc[0]!r}")
    truth, call = names.get_indexer(label), names.get_indexer(call)  # -1 for what is no label
    each = recall_score(truth, call, labels=range(len(names)), average="macro")
    return pd.Series({"accuracy": accuracy_score(truth, call), "balanced": each}, dtype=float)
