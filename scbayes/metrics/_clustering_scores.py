"""Whether clusters of a latent space are the labels."""

import numpy as np
import pandas as pd

from scbayes.metrics._cells import check_cells, silhouettes

METHODS = ("kmeans", "gmm")


def clustering_scores(
    latent: np.ndarray,
    labels: np.ndarray,
    *,
    prediction: str | np.ndarray = "kmeans",
    n_init: int = 20,
    rng: int | np.random.Generator = 0,
) -> pd.Series:
    r"""How well labels are told apart in a latent space, and how well as many clusters as labels agree with them.

    =======  ==================================================  =========  ==============================
    score    definition                                          range      chance
    =======  ==================================================  =========  ==============================
    `asw`    mean silhouette of the labels, without clusters     -1 to 1    about 0 or below
    `nmi`    :math:`2 I(y, k) / (H(y) + H(k))`                   0 to 1     0, more with few cells
    `ari`    Rand index, adjusted for chance                     -0.5 to 1  0
    `uca`    share of cells that are right, if each cluster is   0 to 1     share of the commonest label
             named after one label, no two after the same, in
             the best way (Hungarian algorithm)
    =======  ==================================================  =========  ==============================

    As scVI's (Lopez et al. 2018), whose k-means starts 200 times.

    Parameters
    ----------
    latent
        Cells x latent dimensions, shape ``(n_cells, n_latent)``.
    labels
        Label of each cell, any values. Cells without one (None, NaN) are left out.
    prediction
        ``"kmeans"``, ``"gmm"`` (Gaussian mixture, full covariances), both with as many clusters as labels; or the
        cluster of each cell, found otherwise, in any number.
    n_init
        Starts of ``"kmeans"`` and ``"gmm"``, of which the best is taken.
    rng
        Seed or generator of the starts.

    Returns
    -------
    Series `asw`, `nmi`, `ari` and `uca`, float64.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN in `latent`, fewer than two labels or clusters, each cell a label of its own, or an
        unknown `prediction`.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    if isinstance(prediction, str):
        if prediction not in METHODS:
            raise ValueError(f"prediction={prediction!r}: choose {' or '.join(METHODS)}, or give clusters of cells")
        z, code = check_cells(latent, labels=labels)
        asw = silhouettes(z, code).mean()
        cluster = _clusters(z, code.max() + 1, prediction, n_init, rng)
    else:
        z, code, cluster = check_cells(latent, labels=labels, prediction=prediction)
        asw = silhouettes(z, code).mean()
    n_both = contingency_matrix(code, cluster)
    right = n_both[linear_sum_assignment(n_both, maximize=True)].sum()
    nmi, ari = normalized_mutual_info_score(code, cluster), adjusted_rand_score(code, cluster)
    return pd.Series({"asw": asw, "nmi": nmi, "ari": ari, "uca": right / len(z)}, dtype=float)


def _clusters(z: np.ndarray, n_clusters: int, method: str, n_init: int, rng: int | np.random.Generator) -> np.ndarray:
    """Cluster of each cell."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if n_init < 1:
        raise ValueError(f"n_init is {n_init}, it must be at least 1")
    seed = int(np.random.default_rng(rng).integers(2**31))
    model = KMeans if method == "kmeans" else GaussianMixture
    return model(n_clusters, n_init=n_init, random_state=seed).fit_predict(z)
