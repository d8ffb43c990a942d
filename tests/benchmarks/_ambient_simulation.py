"""Cells with known ambient counts, with genes that are silent in some types and programmes of genes that vary together.

Beside the simulation of `ambient.py` in a folder of simulators, whose steps and names this follows, here

- `silent`: each type leaves this share of the genes without any native count (none is silent in all types),
- `programmes`: cells differ within a type by this many programmes, each of a tenth of the genes, with loadings of
  sd `strength` on the log scale; the first `like_soup` of them have all genes and lead towards the soup: a cell high in
  one looks as if it held more of it.

`cells.layers["native" | "ambient"]` are the true parts, `varm["true_ambient"]` the profiles of batches,
`varm["true_native"]` the mean profiles of types in batches (type by type, batches inside), `var["theta"]` the sizes of
the negative binomials, `obs["amb_frac"]` the true share of ambient counts. Needs NumPy, SciPy, pandas and anndata.
"""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def simulate(  # noqa: PLR0917
    n_cells=3000,
    n_genes=2000,
    n_types=4,
    seed=0,
    base_sd=1.6,
    depth=4000,
    beta=(2, 14),
    silent=0.3,
    programmes=6,
    like_soup=2,
    strength=0.5,
) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    weights = np.arange(n_types, 0, -1) / np.arange(n_types, 0, -1).sum()
    types, batch = rng.choice(n_types, n_cells, p=weights), rng.choice(2, n_cells)
    log_mean = type_means(rng, n_types, n_genes, base_sd, silent)
    batch_effect = rng.normal(0, 0.25, n_genes)
    soup = soups(rng, log_mean, batch_effect)
    loadings = programme_loadings(rng, log_mean, soup, programmes, like_soup, strength)
    shift = rng.normal(0, 1, (n_cells, programmes)) @ loadings
    profile = np.exp(log_mean[types] + batch[:, None] * batch_effect + shift)
    profile /= profile.sum(1, keepdims=True)
    library = np.exp(rng.normal(np.log(depth), 0.35, n_cells))
    theta = rng.gamma(3.0, 1.5, n_genes) + 0.3
    native = rng.poisson(rng.gamma(theta, 1 / theta, (n_cells, n_genes)) * profile * library[:, None])
    fraction = np.clip(rng.beta(*beta, n_cells), 0.005, 0.6)
    ambient_total = rng.poisson(native.sum(1) * fraction / (1 - fraction))
    ambient = np.vstack([rng.multinomial(n, soup[b]) for n, b in zip(ambient_total, batch, strict=True)])
    total = native + ambient
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"T{t}" for t in types]),
            "batch": pd.Categorical([f"b{b}" for b in batch]),
            "amb_frac": ambient.sum(1) / np.maximum(total.sum(1), 1),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame({"theta": theta}, index=[f"g{i}" for i in range(n_genes)])
    cells = ad.AnnData(sparse.csr_matrix(total.astype(np.float32)), obs=obs, var=var)
    cells.layers["native"] = sparse.csr_matrix(native.astype(np.float32))
    cells.layers["ambient"] = sparse.csr_matrix(ambient.astype(np.float32))
    cells.varm["true_ambient"] = soup.T.copy()
    means = [profile[(types == t) & (batch == b)].mean(0) for t in range(n_types) for b in range(2)]
    cells.varm["true_native"] = np.vstack(means).T.copy()
    return cells


def type_means(rng, n_types: int, n_genes: int, base_sd: float, silent: float) -> np.ndarray:
    """Log means ``(n_types, n_genes)``, -inf where a gene is silent."""
    log_mean = np.tile(rng.normal(0, base_sd, n_genes), (n_types, 1))
    for t in range(n_types):
        g = rng.choice(n_genes, int(0.15 * n_genes), replace=False)
        log_mean[t, g] += np.log(2) * rng.uniform(0.75, 3, g.size) * rng.choice([-1, 1], g.size)
    off = rng.uniform(size=(n_types, n_genes)) < silent
    off[rng.integers(n_types, size=n_genes), np.arange(n_genes)] = False
    return np.where(off, -np.inf, log_mean)


def soups(rng, log_mean: np.ndarray, batch_effect: np.ndarray) -> np.ndarray:
    """Profile of each of two batches ``(2, n_genes)``: a mixture of the types, and RNA that breaks unequally."""
    mix, lysis = rng.dirichlet(np.ones(len(log_mean))), np.exp(rng.normal(0, 0.4, log_mean.shape[1]))
    result = []
    for b in range(2):
        mean = np.exp(log_mean + b * batch_effect)
        soup = (mix @ (mean / mean.sum(1, keepdims=True))) * lysis
        result.append(soup / soup.sum())
    return np.array(result)


def programme_loadings(rng, log_mean, soup, programmes: int, like_soup: int, strength: float) -> np.ndarray:
    n_genes = log_mean.shape[1]
    mean = np.exp(log_mean)
    towards = np.log(soup.mean(0)) - np.log((mean / mean.sum(1, keepdims=True)).mean(0))
    towards = np.clip((towards - towards.mean()) / towards.std(), -3, 3)
    own = rng.normal(0, strength, (programmes, n_genes)) * (rng.uniform(size=(programmes, n_genes)) < 0.1)
    alike = strength * (0.6 * towards + 0.8 * rng.normal(0, 1, (programmes, n_genes)))
    return np.where(np.arange(programmes)[:, None] < like_soup, alike, own)
