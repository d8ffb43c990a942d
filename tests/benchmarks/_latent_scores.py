"""Scores of what latent.py keeps: of latent spaces, and of native counts where they are known.

Of a latent space, with labels and batches of the cells: `sb.metrics.integration_scores`, and

    knn purity     `sb.metrics.knn_purity`, 30 neighbours
    batch entropy  `sb.metrics.entropy_batch_mixing`, 50 neighbours, nats, mean over all cells
    most           that of the batches' shares of all cells: what perfect mixing has
"""

import numpy as np
from scipy import sparse


def space_scores(latent: np.ndarray, batch: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Scores of a latent space; `batch` and `label` are codes from 0 on."""
    import scbayes as sb

    row = sb.metrics.integration_scores(latent, batch, label).to_dict()
    row |= {"knn purity": sb.metrics.knn_purity(latent, label, n_neighbors=30)}
    share = np.bincount(batch) / len(batch)
    row |= {"batch entropy": sb.metrics.entropy_batch_mixing(latent, batch, n_neighbors=50)}
    return row | {"most": float(-np.sum(share * np.log(share)))}


def native_scores(x, native, native_mean, integers, rho, true_rho) -> dict[str, float]:
    """Errors of native counts over all entries, nothing clipped, and how far `rho` is that of the cells."""
    row = {"mean rho": np.mean(rho), "true": np.mean(true_rho), "corr": np.corrcoef(rho, true_rho)[0, 1]}
    row |= {"RMSE": rmse(native_mean, native), "RMSE integers": rmse(integers, native), "RMSE raw": rmse(x, native)}
    row["above observed"] = (sparse.csr_matrix(integers) > sparse.csr_matrix(x)).nnz / np.prod(x.shape)
    return {name: float(value) for name, value in row.items()}


def rmse(a, b) -> float:
    difference = (sparse.csr_matrix(a, dtype=np.float64) - sparse.csr_matrix(b, dtype=np.float64)).data
    return np.sqrt(np.sum(difference**2) / np.prod(a.shape))
