"""Refuse what is not a matrix of raw counts, and say what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scbayes.stats._jit import jit

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

MAX_COUNT = 2**31 - 1
"""Largest count accepted: the largest signed 32-bit integer."""

_LOG_MAX = 20.0  # log1p of 485 million: no log-normalised value reaches it


def check_shape(x, where: str = "X") -> None:
    """Refuse a matrix without cells or without genes.

    One cell or one gene is accepted here; whether it can be fitted is for the model to say.

    Parameters
    ----------
    x
        Matrix of any kind that has a `shape`, cells x genes.
    where
        Name of the matrix in messages, such as ``"X"`` or ``"layer 'counts'"``.

    Raises
    ------
    TypeError
        If `x` has no shape.
    ValueError
        If `x` is not two-dimensional, an extent is unknown, or there are 0 cells or 0 genes.
    """
    shape = getattr(x, "shape", None)
    if shape is None:
        msg = f"{where} is not a matrix but {type(x).__name__}"
        raise TypeError(msg)
    if len(shape) != 2:
        msg = f"{where} must have 2 dimensions (cells x genes), not {len(shape)}"
        raise ValueError(msg)
    if any(np.isnan(n) for n in shape):  # dask writes nan for an extent it has not computed
        msg = f"{where} has chunks of unknown size: call its .compute_chunk_sizes() first"
        raise ValueError(msg)
    for n, axis in zip(shape, ("cells", "genes"), strict=True):
        if n == 0:
            msg = f"{where} has 0 {axis} (shape {tuple(shape)}): there is nothing to count"
            raise ValueError(msg)


def check_dtype(dtype: DTypeLike, where: str = "X") -> None:
    """Refuse values that are not real numbers.

    Booleans are refused too: a binarised matrix no longer holds the counts that the models describe.

    Parameters
    ----------
    dtype
        Type of the values.
    where
        Name of the matrix in messages.

    Raises
    ------
    TypeError
        If `dtype` is not a signed integer, an unsigned integer or a floating-point type.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        msg = (
            f"{where} is boolean, which says whether a gene was seen, not how often. Pass the raw UMI counts, "
            "or convert with .astype('int32') if 0 and 1 really are the counts"
        )
        raise TypeError(msg)
    if dtype.kind not in "iuf":
        msg = f"{where} holds values of type {dtype}, not numbers. Pass the raw UMI counts as integers or floats"
        raise TypeError(msg)


def check_counts(block, where: str = "X") -> None:
    """Refuse values that cannot be raw counts: negative, NaN, infinite, fractional or above `MAX_COUNT`.

    One pass over the stored values.

    Parameters
    ----------
    block
        Sparse matrix (its stored values are checked) or NumPy array of any shape.
    where
        Name of the matrix in messages, such as ``"X"`` or ``"layer 'counts'"``.

    Raises
    ------
    TypeError
        If the values are not real numbers (see `check_dtype`).
    ValueError
        If a value is not a count. The message shows one such value and the likely remedy.
    """
    values = block if isinstance(block, np.ndarray) else block.data
    check_dtype(values.dtype, where)
    values = values.reshape(-1).astype(holdable(values.dtype), copy=False)
    if not _all_counts(values):
        raise ValueError(_diagnose(values, where))


def holdable(dtype: np.dtype) -> np.dtype:
    """Return `dtype`, or the nearest one that SciPy's sparse matrices (and compiled code) can hold."""
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


@jit
def _all_counts(values):
    bad = 0
    for i in range(len(values)):  # without a way out, so that it runs on vectors
        v = values[i]
        bad += not (v >= 0 and v <= MAX_COUNT and np.trunc(v) == v)  # false for a NaN
    return bad == 0


def _diagnose(values: np.ndarray, where: str) -> str:
    """Say what is wrong with `values`; slow, and only called when something is."""
    nan = np.isnan(values)
    if nan.any():
        return f"{where} has {nan.sum()} NaN: fill them with 0 only if they mean 'not seen', or pass the raw UMI counts"
    infinite = np.isinf(values)
    if infinite.any():
        return f"{where} has {infinite.sum()} infinite values: pass layer='counts' with the raw UMI counts"
    fraction = values != np.trunc(values)
    negative = values < 0
    if negative.any():
        example = f"{where} has negative values, for example {values[negative][0]:.6g}"
        if fraction.any():
            return f"{example}: it looks scaled or corrected. Pass layer='counts' with the raw UMI counts"
        return f"{example}: was a background subtracted? Pass layer='counts' with the raw UMI counts"
    if fraction.any():
        example = f"{where} has fractional values, for example {values[fraction][0]:.6g}"
        if values.max() < _LOG_MAX:
            return f"{example}: it looks log-normalised. Pass layer='counts' with the raw UMI counts"
        return f"{example}: denoised or scaled? Round them if they are nearly counts, or pass the raw UMI counts"
    return f"{where} has counts above 2**31 - 1, for example {values.max():.10g}: these are not UMI counts"
