"""Scores of what latent.py keeps: of latent spaces, and of native counts where they are known.

Of a latent space of the cells c with labels y and batches b (definitions of scib and scVI, by scikit-learn):

    nmi, ari            k-means with as many clusters as labels, the best of 20 starts
    silhouette label    (1 + mean silhouette of labels) / 2
    silhouette batch    1 - |silhouette of batches among cells of one label|, mean of each label, then over labels
    knn purity          share of the 30 nearest cells that have the cell's label, mean of each label, then over labels
    batch entropy       entropy of batches among the 50 nearest cells, nats, mean over cells
    most                that of the batches' shares of all cells: what perfect mixing has
"""

import numpy as np
from scipy import sparse


def space_scores(latent: np.ndarray, batch: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Scores of a latent space; `batch` and `label` are codes from 0 on."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    z = np.asarray(latent, np.float64)
    seed = int(np.random.default_rng(0).integers(2**31))
    cluster = KMeans(label.max() + 1, n_init=20, random_state=seed).fit_predict(z)
    row = {"nmi": normalized_mutual_info_score(label, cluster), "ari": adjusted_rand_score(label, cluster)}
    row |= {"silhouette label": (1 + silhouette_score(z, label)) / 2, "silhouette batch": within(z, batch, label)}
    nearest = neighbours(z, 50)
    same = np.mean(label[nearest[:, :30]] == label[:, None], 1)
    row["knn purity"] = np.mean(np.bincount(label, same) / np.bincount(label))
    share = np.mean(batch[nearest][:, :, None] == np.arange(batch.max() + 1), 1)
    row |= {"batch entropy": entropy(share).mean(), "most": entropy(np.bincount(batch) / len(batch))}
    return {name: float(value) for name, value in row.items()}


def within(z: np.ndarray, batch: np.ndarray, label: np.ndarray) -> float:
    """Silhouette of batches among the cells of each label; labels of one batch alone are left out."""
    from sklearn.metrics import silhouette_samples

    found = []
    for one in range(label.max() + 1):
        own = label == one
        if 1 < len(np.unique(batch[own])) < own.sum():
            found.append(np.mean(1 - np.abs(silhouette_samples(z[own], batch[own]))))
    return np.mean(found)


def neighbours(z: np.ndarray, k: int) -> np.ndarray:
    """The nearest cells of each, nearest first, itself left out: cells x k."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)


def entropy(share: np.ndarray) -> np.ndarray:
    return -np.sum(share * np.log(np.where(share > 0, share, 1)), -1)


def native_scores(x, native, native_mean, integers, rho, true_rho) -> dict[str, float]:
    """Errors of native counts over all entries, nothing clipped, and how far `rho` is that of the cells."""
    row = {"mean rho": np.mean(rho), "true": np.mean(true_rho), "corr": np.corrcoef(rho, true_rho)[0, 1]}
    row |= {"RMSE": rmse(native_mean, native), "RMSE integers": rmse(integers, native), "RMSE raw": rmse(x, native)}
    row["above observed"] = (sparse.csr_matrix(integers) > sparse.csr_matrix(x)).nnz / np.prod(x.shape)
    return {name: float(value) for name, value in row.items()}


def rmse(a, b) -> float:
    difference = (sparse.csr_matrix(a, dtype=np.float64) - sparse.csr_matrix(b, dtype=np.float64)).data
    return np.sqrt(np.sum(difference**2) / np.prod(a.shape))
