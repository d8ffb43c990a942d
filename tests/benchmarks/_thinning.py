"""Counts split molecule by molecule into those to fit and those to predict; needs NumPy and SciPy only."""

import numpy as np
from scipy.special import gammaln

#: Share of the molecules that go to training.
TRAIN = 0.8
#: By this, expected counts of training and test together exceed those of training.
WHOLE = 1 / TRAIN


def thin(x, rng: np.random.Generator):
    """Training and test counts: CSR matrices that add up to ``x``."""
    train, test = x.copy(), x.copy()
    train.data = rng.binomial(x.data.astype(np.int64), TRAIN).astype(np.float32)
    test.data = (x.data - train.data).astype(np.float32)
    for part in (train, test):
        part.eliminate_zeros()
        part.sort_indices()
    return train, test


def log_split(train, test) -> np.ndarray:
    """Log probability that each cell's molecules fall into training and test as they did: ``(n_cells,)``.

    Sum over genes of ln Binomial(v; u + v, 1 - TRAIN) for u molecules in training and v in the test.
    """
    both = train + test
    log_p = test.sum(1) * np.log1p(-TRAIN) + train.sum(1) * np.log(TRAIN)
    for part, sign in ((both, 1), (train, -1), (test, -1)):
        factorials = part.astype(np.float64)  # ln u! of float32 counts would have its precision
        factorials.data = gammaln(factorials.data + 1)
        log_p = log_p + sign * factorials.sum(1)
    return np.asarray(log_p, np.float64).ravel()


def nats_per_count(log_density: np.ndarray, test) -> float:
    """Sum of the cells' log densities over the number of test molecules."""
    return float(log_density.sum() / test.sum(dtype=np.float64))
