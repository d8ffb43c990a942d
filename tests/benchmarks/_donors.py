"""Cells of donors in two conditions, with effects that are known."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def donors(
    n_donors: int = 4,
    n_genes: int = 800,
    n_cells: int = 100,
    *,
    changed: float = 0.1,
    effect_sd: float = 0.6,
    donor_sd: float = 0.15,
    paired: bool = False,
    heavy_tails: bool = False,
    set_size: int = 0,
    together: float = 0.0,
    changed_sets: float = 0.0,
    seed: int = 0,
) -> ad.AnnData:
    """Counts NB(s_c mu_g exp(effect_g x_c + donor_gd)) of size 1.5; `var` has `lfc` (log2) and `donor_sd`.

    In `paired` data each donor is in both conditions, with a level of its own. With `set_size`, each so many genes are
    a set, whose deviation in each donor has the spread `together`; `changed_sets` is the share of sets with an effect.
    """
    rng = np.random.default_rng(seed)
    mu = gene_means(n_genes, rng)
    effect = np.where(rng.random(n_genes) < changed, rng.normal(0, effect_sd, n_genes), 0.0)
    place = np.arange(n_genes) // (set_size or n_genes)
    if set_size:
        changed_set = rng.random(place[-1] + 1) < changed_sets
        effect += np.where(changed_set, rng.normal(0, effect_sd, len(changed_set)), 0.0)[place]
    spread = donor_sd * np.exp(rng.normal(0, 0.5, n_genes))
    shared = (place, together) if set_size else None
    how = {"n_donors": n_donors, "n_cells": n_cells, "paired": paired, "heavy_tails": heavy_tails, "shared": shared}
    return cells_with(effect, spread, rng, mu, **how)


def gene_means(n_genes: int, rng: np.random.Generator) -> np.ndarray:
    mu = np.exp(rng.normal(-1, 1.2, n_genes))
    return mu * 2000 / mu.sum()


def cells_with(
    effect: np.ndarray,
    spread: np.ndarray,
    rng: np.random.Generator,
    mu: np.ndarray,
    *,
    n_donors: int,
    n_cells: int,
    paired: bool = False,
    heavy_tails: bool = False,
    shared: tuple[np.ndarray, float] | None = None,
) -> ad.AnnData:
    """Cells with these effects and spreads of donors (natural log).

    ``shared``: set of each gene, and the spread of what its genes share in each donor.
    """
    n_genes = len(effect)
    people = rng.normal(size=(n_donors, n_genes)) * spread
    blocks, obs = [], []
    for condition in range(2):
        for donor in range(n_donors):
            noise = rng.standard_t(3, n_genes) / np.sqrt(3) if heavy_tails else rng.normal(size=n_genes)
            level = effect * condition + spread * noise + (people[donor] if paired else 0)
            if shared is not None:
                level += rng.normal(0, shared[1], shared[0][-1] + 1)[shared[0]]
            mean = np.exp(rng.normal(0, 0.35, n_cells))[:, None] * mu * np.exp(level)
            blocks.append(sparse.csr_matrix(rng.poisson(rng.gamma(1.5, mean / 1.5)).astype(np.float32)))
            name = f"d{donor}" if paired else f"d{condition}{donor}"
            obs += [(f"c{condition}", name)] * n_cells
    frame = pd.DataFrame(obs, columns=["condition", "donor"], index=[f"cell{i}" for i in range(len(obs))])
    var = pd.DataFrame({"lfc": effect / np.log(2), "donor_sd": spread}, index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(sparse.vstack(blocks, format="csr"), obs=frame, var=var)


def sets_of(adata: ad.AnnData, set_size: int) -> dict[str, list[str]]:
    """Names of the genes of each set."""
    return {
        f"set {k}": list(adata.var_names[k * set_size : (k + 1) * set_size]) for k in range(adata.n_vars // set_size)
    }


def simulator(folder: Path, name: str) -> Callable:
    """`simulate` of a file in another folder."""
    spec = importlib.util.spec_from_file_location(f"simulator of {name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate
