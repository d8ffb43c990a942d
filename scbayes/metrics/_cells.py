"""Arrays of cells: checked, without those that lack a label, and their nearest neighbours."""

import numpy as np
import pandas as pd

#: Memory in which distances between all pairs of cells are computed, MiB.
WORKING_MEMORY = 128


def check_cells(latent: np.ndarray, **groups: object) -> tuple[np.ndarray, ...]:
    """A latent space, and which group of each kind its cells are of; cells without one (None, NaN) are left out.

    Parameters
    ----------
    latent
        ``(n_cells, n_latent)``.
    groups
        For each kind of groups, by its name in error messages, ``n_cells`` values.

    Returns
    -------
    The latent space, float64, and for each kind integers from 0 on, all of which occur.

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers that are not finite, or fewer than two groups of a kind.
    """
    z = np.asarray(latent, np.float64)
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"latent must be (n_cells, n_latent), neither 0; it is {z.shape}")
    columns = {name: check_column(values, name, len(z)) for name, values in groups.items()}
    known = np.ones(len(z), bool)
    for column in columns.values():
        known &= column.notna().to_numpy()
    if len(bad := np.flatnonzero(known & ~np.isfinite(z).all(1))):
        raise ValueError(f"latent has NaN or infinite numbers in {len(bad)} cells, the first in row {bad[0]}")
    codes = []
    for name, column in columns.items():
        code, values = pd.factorize(column[known])
        if len(values) < 2:
            raise ValueError(f"{name} has {'no value' if not len(values) else f'one value, {values[0]!r}'}: needs two")
        codes.append(code)
    return z[known], *codes


def check_column(values: object, name: str, n_cells: int) -> pd.Series:
    """One value for each cell, without an index.

    Raises
    ------
    ValueError
        If there are more or fewer.
    """
    if np.shape(values) != (n_cells,):
        raise ValueError(f"{name} must have one value for each of {n_cells} cells; its shape is {np.shape(values)}")
    return pd.Series(values).reset_index(drop=True)  # a list with NaN beside strings keeps it


def neighbours(z: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of the nearest cells, exact, Euclidean; a cell is not its own neighbour.

    Returns
    -------
    float64 and integers, ``(n_cells, n_neighbors)``, in the order of distances.

    Raises
    ------
    ValueError
        If there are too few cells.
    """
    from sklearn.neighbors import NearestNeighbors

    if not 1 <= n_neighbors < len(z):
        raise ValueError(f"{n_neighbors} neighbours of each of {len(z)} cells: give at least 1, and fewer than cells")
    return NearestNeighbors(n_neighbors=n_neighbors).fit(z).kneighbors()


def shares(group: np.ndarray, n_groups: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Share of each group among the neighbours of each cell: ``(n_cells, n_groups)``.

    Parameters
    ----------
    group
        Group of each neighbour, ``(n_cells, n_neighbors)``.
    weight
        Of each neighbour; sums to 1 over those of a cell. None: all equal.
    """
    n, k = group.shape
    bins = (group + n_groups * np.arange(n)[:, None]).ravel()
    weights = None if weight is None else weight.ravel()
    found = np.bincount(bins, weights, minlength=n * n_groups).reshape(n, n_groups)
    return found / k if weight is None else found


def silhouettes(z: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Silhouette of each cell, (b - a) / max(a, b), float64.

    a is the mean distance to the other cells of its group, b that to the cells of the nearest other group; 0 for a
    cell that is alone in its group (Rousseeuw 1987).

    Raises
    ------
    ValueError
        If each cell is a group of its own.
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    if group.max() + 1 == len(z):
        raise ValueError(f"each of {len(z)} cells has a label of its own: silhouettes need labels that cells share")
    with config_context(working_memory=WORKING_MEMORY):
        return silhouette_samples(z, group)
