"""Rows that lie far from the others of their group."""

import numpy as np

#: Rows for each dimension that a group needs for a robust covariance.
ROWS = 5


def outliers(z: np.ndarray, group: np.ndarray, *, contamination: float = 0.1, seed: int = 0) -> np.ndarray:
    """Which rows are outliers of their group: an ellipsoid around the robust centre holds the others.

    The centre and the covariance are those of the half of the rows that has the smallest determinant (Rousseeuw & Van
    Driessen 1999). Groups with fewer than 5 rows for each dimension have no outliers.

    Parameters
    ----------
    z
        ``(n, D)``; dimensions that are constant in a group do not count there.
    group
        Code of each row; -1: in none.
    contamination
        Share of outliers in each group, above 0, at most a half.
    """
    from sklearn.covariance import EllipticEnvelope

    found = np.zeros(len(z), bool)
    for code in np.unique(group[group >= 0]):
        rows = np.flatnonzero(group == code)
        some = np.asarray(z[rows], float)
        some = some - some.mean(0)
        spread = some.std(0)
        some = some[:, spread > 0] / spread[spread > 0]
        if some.shape[1] and len(rows) >= ROWS * some.shape[1]:
            envelope = EllipticEnvelope(contamination=contamination, random_state=seed)
            found[rows] = envelope.fit_predict(some) < 0
    return found
