"""Where the components of a mixture start: from clusters of cells, or from labels."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from scbayes.counts import Counts
from scbayes.models._components import Labels
from scbayes.models._quick_mixture import quick_mixture

#: Genes and principal components in which cells are clustered, as many as scanpy takes by default.
N_GENES, N_PCS = 2000, 50
#: Bins of mean expression in which variances are compared, as many as scanpy has.
N_BINS = 20
#: Cells on which several starts are compared, and rounds that each is given.
N_CELLS, N_ROUNDS = 2000, 5
#: Resolutions tried until Leiden gives the number of clusters asked for.
N_RESOLUTIONS = 25


class Components(NamedTuple):
    """Start of a mixture.

    Attributes
    ----------
    membership
        Component of each cell, float64 ``(n_cells, n_components)``.
    names
        Names of the components; none where they are only numbered.
    labels
        What is known about cells' components; None: nothing.
    """

    membership: np.ndarray
    names: list[str]
    labels: Labels | None


class ComponentSettings(NamedTuple):
    """How components start; see :func:`scbayes.tl.fit`."""

    init: str
    n_init: int
    labels_key: str | None
    label_trust: float


def start_components(adata, counts: Counts, n_components: int | None, how: ComponentSettings, seed: int) -> Components:
    """Start of a mixture of ``counts``, the counts of ``adata``; the number of components may follow from it.

    Raises
    ------
    KeyError
        If a column of obs does not exist.
    ValueError
        If the number of components and that of the groups disagree.
    """
    if n_components is not None and n_components > counts.n_cells:
        msg = f"n_components={n_components}, but there are {counts.n_cells} cells: give at most as many as cells"
        raise ValueError(msg)
    if how.labels_key is not None:
        return _from_labels(adata, counts, n_components, how, seed)
    if how.init in ("kmeans", "leiden"):
        pcs, variable = principal_components(counts, seed)
        if how.init == "leiden":
            code = _leiden(pcs, n_components, seed)
            return Components(_one_hot(code, code.max() + 1), [], None)
        starts = _kmeans(pcs, n_components, how.n_init, seed)
        return Components(_best_of(counts.genes(variable), starts, n_components), [], None)
    code, names = _column(adata, how.init, "init")
    if n_components is not None and len(names) != n_components:
        msg = f"init={how.init!r} has {len(names)} groups, but n_components={n_components}"
        raise ValueError(msg)
    return Components(_one_hot(code, len(names)), [], None)


def _from_labels(adata, counts: Counts, n_components: int | None, how: ComponentSettings, seed: int) -> Components:
    code, names = _column(adata, how.labels_key, "labels_key", missing=True)
    n = len(names) if n_components is None else n_components
    if n < 2:
        msg = f"obs[{how.labels_key!r}] has one label only, {names}: pass n_components=2 or more"
        raise ValueError(msg)
    if n < len(names):
        msg = f"obs[{how.labels_key!r}] has {len(names)} labels, but n_components={n}: give at least as many"
        raise ValueError(msg)
    start, unknown = code.copy(), code < 0
    if unknown.any():  # to the nearest label; clusters of their own where there are more components than labels
        pcs, _ = principal_components(counts, seed)
        if n > len(names):
            start[unknown] = len(names) + _kmeans(pcs[unknown], n - len(names), 1, seed)[0]
        else:
            centres = np.stack([pcs[code == k].mean(0) for k in range(n)])
            start[unknown] = np.argmin(((pcs[unknown, None] - centres) ** 2).sum(2), 1)
    labels = Labels(code, how.label_trust)
    names += [f"new {i}" for i in range(n - len(names))]
    return Components(_one_hot(start, n), names, labels)


def _column(adata, name: str, argument: str, *, missing: bool = False) -> tuple[np.ndarray, list[str]]:
    if name not in adata.obs:
        choices = "'kmeans', 'leiden' or a column of adata.obs" if argument == "init" else "a column of adata.obs"
        msg = f"{argument}={name!r}: give {choices}, which has {list(adata.obs.columns)}"
        raise KeyError(msg)
    column = adata.obs[name]
    codes, names = pd.factorize(column.astype(str).where(column.notna()), sort=True)
    if isinstance(column.dtype, pd.CategoricalDtype):  # keep the order of its categories
        used = column.cat.remove_unused_categories()
        codes, names = used.cat.codes.to_numpy(), used.cat.categories
    if not missing and (codes < 0).any():
        msg = f"obs[{name!r}] is missing for {(codes < 0).sum()} cells: give each a group, or use labels_key"
        raise ValueError(msg)
    if len(names) < 2 - missing:
        msg = f"obs[{name!r}] has {len(names)} group(s): a mixture needs at least {2 - missing}"
        raise ValueError(msg)
    return codes.astype(int), [str(x) for x in names]


def _one_hot(code: np.ndarray, n: int) -> np.ndarray:
    return (code[:, None] == np.arange(n)).astype(float)


def principal_components(counts: Counts, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components ``(n_cells, n)`` of log-normalised counts, and the variable genes they were made of."""
    import anndata as ad
    import scanpy as sc

    blocks = [block for _, block in counts.blocks()]
    x = sparse.csr_matrix(blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr"))
    total = np.maximum(np.asarray(x.sum(1)).ravel().astype(float), 0.5)
    value = (x.data * np.repeat(1e4 / total, np.diff(x.indptr))).astype(np.float32)
    x = sparse.csr_matrix((value, x.indices, x.indptr), shape=x.shape)
    genes = _variable(x)
    if min(x.shape[0], len(genes)) < 2:
        return np.zeros((x.shape[0], 1)), genes
    x = x[:, genes].log1p()
    small = ad.AnnData(x)
    with warnings.catch_warnings(), sc.settings.verbosity.override(0):
        warnings.simplefilter("ignore")  # of empty cells, which are not this step's business
        sc.pp.pca(small, n_comps=min(N_PCS, min(small.shape) - 1), random_state=seed)
    return np.asarray(small.obsm["X_pca"], float), genes


def _variable(x) -> np.ndarray:
    """Genes whose variance over mean is highest among genes of like mean (Satija et al. 2015), of normalised counts."""
    n = x.shape[0]
    mean = np.bincount(x.indices, x.data, x.shape[1]) / n
    variance = np.bincount(x.indices, x.data.astype(float) ** 2, x.shape[1]) / n - mean**2
    seen = np.flatnonzero((mean > 0) & (variance > 0))
    if len(seen) <= N_GENES:
        return seen
    ratio = np.log(variance[seen] / mean[seen])
    like = np.digitize(np.log1p(mean[seen]), np.linspace(0, np.log1p(mean.max()), N_BINS + 1)[1:-1])
    size = np.bincount(like, minlength=N_BINS)
    centre = np.bincount(like, ratio, N_BINS) / np.maximum(size, 1)
    spread = np.sqrt(np.bincount(like, (ratio - centre[like]) ** 2, N_BINS) / np.maximum(size - 1, 1))
    alone = size[like] < 2  # such a gene is compared with none
    score = np.where(alone, 1.0, (ratio - centre[like]) / np.where(alone, 1.0, spread[like]))
    return np.sort(seen[np.argsort(-score, kind="stable")[:N_GENES]])


def _kmeans(pcs: np.ndarray, n: int, n_init: int, seed: int) -> list[np.ndarray]:
    from sklearn.cluster import KMeans

    return [KMeans(n, n_init=1, random_state=seed + i).fit_predict(pcs) for i in range(n_init)]


def _best_of(counts: Counts, starts: list[np.ndarray], n: int) -> np.ndarray:
    """The start whose mixture is likeliest after a few rounds on some of the cells, taken on with all of them."""
    found = [_one_hot(start, n) for start in starts]
    if len(found) > 1:
        some = np.arange(0, counts.n_cells, max(1, counts.n_cells // N_CELLS))
        few = counts.cells(some)
        levels = [quick_mixture(few, start[some], N_ROUNDS)[1] for start in found]
        found = [found[int(np.argmax(levels))]]
    return quick_mixture(counts, found[0], 2 * N_ROUNDS)[0]


def _leiden(pcs: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """Leiden's clusters, at the resolution that gives ``n`` of them (1 where ``n`` is None)."""
    import anndata as ad
    import scanpy as sc

    try:
        import igraph  # noqa: F401
    except ImportError as error:
        msg = "init='leiden' needs igraph: pip install 'scbayes[leiden]'"
        raise ImportError(msg) from error
    small = ad.AnnData(np.zeros((len(pcs), 1), np.float32), obsm={"X_pca": pcs})
    low, high, resolution = 0.0, np.inf, 1.0
    seen = {}
    with warnings.catch_warnings(), sc.settings.verbosity.override(0):
        warnings.simplefilter("ignore")
        sc.pp.neighbors(small, use_rep="X_pca", random_state=seed)
        for _ in range(N_RESOLUTIONS):
            sc.tl.leiden(small, resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
            code = small.obs["leiden"].cat.codes.to_numpy().astype(int)
            found = code.max() + 1
            if n is None or found == n:
                return code
            seen[found] = resolution
            low, high = (resolution, high) if found < n else (low, resolution)
            resolution = 2 * low if np.isinf(high) else (low + high) / 2
    msg = (
        f"Leiden gave {sorted(seen)} clusters at {N_RESOLUTIONS} resolutions, but not n_components={n}: "
        "give one of these numbers, or init='kmeans'"
    )
    raise ValueError(msg)
