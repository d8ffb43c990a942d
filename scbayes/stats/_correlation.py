"""Correlations between many rows: of values that come block by block, and of ranks."""

import numpy as np


class Moments:
    """Means and products of the columns of blocks ``(B, G)`` float32, for their correlations; sums are float64.

    Sums are about the means of the first block, so that large means do not cancel small variances.
    """

    def __init__(self) -> None:
        self.n, self.shift = 0, None

    def add(self, block: np.ndarray) -> None:
        """Take a block, ``(B, G)``."""
        if self.shift is None:
            self.shift = block.mean(0, dtype=np.float64)
            self.sum = np.zeros_like(self.shift)
            self.products = np.zeros((len(self.shift), len(self.shift)))
        part = (block - self.shift).astype(np.float32)
        self.n += len(part)
        self.sum += part.sum(0, dtype=np.float64)
        self.products += part.T @ part

    def correlation(self) -> np.ndarray:
        """Pearson correlations ``(G, G)``; NaN where a column does not vary."""
        mean = self.sum / self.n
        covariance = self.products / self.n - np.outer(mean, mean)
        variance = np.diag(covariance)
        rounding = (1e-6 * self.shift) ** 2  # what single precision makes of no variance
        sd = np.sqrt(np.where(variance > rounding, variance, np.nan))
        return np.clip(covariance / np.outer(sd, sd), -1, 1)


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks within each row of ``(G, n)``, ties averaged, centred and of length 1: float32; NaN where all are tied.

    Products of two such rows are Spearman's correlation.
    """
    n = values.shape[1]
    ranks = np.empty(values.shape, np.float32)
    for row, out in zip(values, ranks, strict=True):
        order = np.argsort(row)
        there = row[order]
        first = np.flatnonzero(np.concatenate([[True], there[1:] != there[:-1]]))
        size = np.diff(first, append=n)
        middle = first + (size - 1) / 2 - (n - 1) / 2  # exactly 0 where all are tied
        length = np.sqrt((size * middle**2).sum())
        out[order] = np.repeat(middle / length if length > 0 else np.full(1, np.nan), size)
    return ranks
