"""Cells of donors in two conditions, with known changes of means and of overdispersions."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse


def variable_donors(
    n_donors: int = 4,
    n_genes: int = 800,
    n_cells: tuple[int, int] = (200, 200),
    *,
    changed: float = 0.1,
    effect: float = 1.0,
    donor_sd: float = 0.2,
    paired: bool = False,
    kinds: tuple[float, ...] = (0.0,),
    seed: int = 0,
) -> ad.AnnData:
    """Negative binomial counts whose overdispersion 1 / r falls with the mean, and differs between genes and donors.

    Of the genes, ``changed`` have 1 / r halved or doubled (`effect` in log2) in the second condition at the same mean,
    and as many have their means halved or doubled, with 1 / r as the trend says; `var` has the columns `ratio` and
    `mean_ratio` (log2). ``donor_sd`` is the spread of log 1 / r over donors; that of log means is 0.15. ``n_cells`` are
    those of each donor in the two conditions, and of each of the `kinds` of cells, in which the mean of each gene is
    multiplied by a factor of its own, of sd ``kinds`` in log.
    """
    rng = np.random.default_rng(seed)
    mu = np.exp(rng.normal(-1, 1.2, n_genes))
    mu *= 2000 / mu.sum()
    log_alpha = np.log(0.5) - 0.15 * (np.log(mu) - np.log(mu).mean()) + rng.normal(0, 0.5, n_genes)
    kind = rng.choice(3, n_genes, p=[1 - 2 * changed, changed, changed])
    sign = rng.choice([-1, 1], n_genes) * np.log(2)
    ratio, mean_ratio = np.where(kind == 1, effect * sign, 0.0), np.where(kind == 2, sign, 0.0)
    people = donor_sd * rng.normal(size=(n_donors, n_genes))
    of_kinds = [np.exp(spread * rng.normal(size=n_genes)) for spread in kinds]
    of_kinds = [factor * mu.sum() / (factor @ mu) for factor in of_kinds]  # totals stay
    blocks, obs = [], []
    for condition in range(2):
        for donor in range(n_donors):
            level = mean_ratio * condition + 0.15 * rng.normal(size=n_genes)
            own = ratio * condition + donor_sd * rng.normal(size=n_genes) + (people[donor] if paired else 0)
            name = f"d{donor}" if paired else f"d{condition}{donor}"
            for k, factor in enumerate(of_kinds):
                alpha = np.exp(log_alpha + own - 0.15 * (mean_ratio * condition + np.log(factor)))
                size = np.exp(rng.normal(0, 0.35, n_cells[condition]))[:, None]
                mean = rng.gamma(1 / alpha, alpha, (len(size), n_genes)) * size * mu * factor * np.exp(level)
                blocks.append(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
                obs += [(f"c{condition}", name, f"k{k}")] * len(size)
    frame = pd.DataFrame(obs, columns=["condition", "donor", "kind"], index=[f"cell{i}" for i in range(len(obs))])
    var = pd.DataFrame({"ratio": ratio / np.log(2), "mean_ratio": mean_ratio / np.log(2), "mu": mu})
    var.index = [f"g{i}" for i in range(n_genes)]
    return ad.AnnData(sparse.vstack(blocks, format="csr"), obs=frame, var=var)
