"""Cells of donors in two conditions, with effects that are known."""

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
    seed: int = 0,
) -> ad.AnnData:
    """Counts NB(s_c mu_g exp(effect_g x_c + donor_gd)) of size 1.5; `var` has `lfc` (log2) and `donor_sd`.

    In `paired` data each donor is in both conditions, with a level of its own.
    """
    rng = np.random.default_rng(seed)
    mu = np.exp(rng.normal(-1, 1.2, n_genes))
    mu *= 2000 / mu.sum()
    effect = np.where(rng.random(n_genes) < changed, rng.normal(0, effect_sd, n_genes), 0.0)
    spread = donor_sd * np.exp(rng.normal(0, 0.5, n_genes))
    people = rng.normal(size=(n_donors, n_genes)) * spread
    blocks, obs = [], []
    for condition in range(2):
        for donor in range(n_donors):
            noise = rng.standard_t(3, n_genes) / np.sqrt(3) if heavy_tails else rng.normal(size=n_genes)
            level = effect * condition + spread * noise + (people[donor] if paired else 0)
            mean = np.exp(rng.normal(0, 0.35, n_cells))[:, None] * mu * np.exp(level)
            blocks.append(sparse.csr_matrix(rng.poisson(rng.gamma(1.5, mean / 1.5)).astype(np.float32)))
            name = f"d{donor}" if paired else f"d{condition}{donor}"
            obs += [(f"c{condition}", name)] * n_cells
    frame = pd.DataFrame(obs, columns=["condition", "donor"], index=[f"cell{i}" for i in range(len(obs))])
    var = pd.DataFrame({"lfc": effect / np.log(2), "donor_sd": spread}, index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(sparse.vstack(blocks, format="csr"), obs=frame, var=var)
