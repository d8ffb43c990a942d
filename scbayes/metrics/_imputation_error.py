"""How far imputed counts are from those that were hidden."""

import numpy as np


def imputation_error(
    original: np.ndarray, imputed: np.ndarray, *, cells: np.ndarray | None = None, n_cells: int | None = None
) -> float:
    r"""Median absolute difference of imputed from original counts.

    :math:`\mathrm{median}_i\, |x_i - \hat x_i|`; of draws :math:`\hat x_{si}`, over i and s: the imputation score of
    scVI. With `cells`, the mean over cells of the median within each.

    Parameters
    ----------
    original
        Counts, ``(n,)``.
    imputed
        What they are taken to be, ``(n,)``, or draws of it, ``(S, n)``.
    cells
        Cell of each count, integers from 0, ``(n,)``.
    n_cells
        Number of cells: those without a count here have the error 0, as in scVI's imputation benchmark. Default: the
        mean is over cells that have one.

    Returns
    -------
    The error, counts.

    Raises
    ------
    ValueError
        If shapes do not fit, nothing was imputed, numbers are not finite, or `cells` are no codes within `n_cells`.
    """
    x, y = np.asarray(original, np.float64), np.asarray(imputed, np.float64)
    if x.ndim != 1 or y.ndim not in (1, 2) or y.shape[-1:] != x.shape:
        raise ValueError(f"original must be (n,) and imputed (n,) or (S, n); they are {x.shape} and {y.shape}")
    if not y.size:
        raise ValueError("there are no imputed counts")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("original or imputed has NaN or infinite numbers")
    difference = np.atleast_2d(np.abs(x - y))
    if cells is None:
        if n_cells is not None:
            raise ValueError("n_cells goes with cells, the cell of each count")
        return float(np.median(difference))
    codes = np.asarray(cells)
    if codes.shape != x.shape or not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise ValueError(f"cells must be {len(x)} integers from 0")
    there, code = np.unique(codes, return_inverse=True)
    if n_cells is not None and there[-1] >= n_cells:
        raise ValueError(f"cells holds {there[-1]}, and n_cells is {n_cells}")
    medians = _grouped_medians(difference.ravel(), np.tile(code, len(difference)))
    return float(medians.sum() / (len(there) if n_cells is None else n_cells))


def _grouped_medians(value: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Median of the values of each code; all codes from 0 to the largest are there."""
    value = value[np.lexsort((value, code))]
    size = np.bincount(code)
    first = np.cumsum(size) - size
    return (value[first + (size - 1) // 2] + value[first + size // 2]) / 2
