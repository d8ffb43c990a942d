"""Cells that lie far from the others of their group in the latent space."""

import numpy as np

#: A group needs so many cells for each coordinate, to tell which are far.
CELLS_PER_COORDINATE = 5


def far_cells(z: np.ndarray, seed: int) -> np.ndarray:
    """Mask of the tenth of cells that is farthest out: Mahalanobis distance by a robust covariance (Rousseeuw 1999).

    Parameters
    ----------
    z
        Coordinates of the cells of one group, ``(n_cells, n_latent)``. None is far in groups that are too small.
    seed
        Of the random subsets of the minimum covariance determinant.
    """
    from sklearn.covariance import EllipticEnvelope

    if len(z) < CELLS_PER_COORDINATE * z.shape[1]:
        return np.zeros(len(z), bool)
    return EllipticEnvelope(random_state=seed).fit(z).predict(z) < 0
