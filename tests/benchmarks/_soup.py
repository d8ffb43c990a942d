"""Ambient RNA among the counts of cells, and what `sb.tl.denoise` would say of it if it knew so much."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import ndtri

from scbayes.state import write_result

#: Half of a 90% interval in standard deviations.
HALF = ndtri(0.95)


def with_soup(adata: ad.AnnData, levels: tuple[float, float], *, silent: float = 0.15, seed: int = 0) -> ad.AnnData:
    """The cells with ambient RNA of their own sample (a donor in a condition), on average ``levels`` of their counts.

    Cells hardly express a share ``silent`` of the genes (2% of what they were), which the soup has in full: other types
    of cells made it. `layers["native"]`, `obs["sample"]`, `obs["rho"]` and `varm["soup"]` (by sample, in the order of
    their names) are the truth; effects of genes remain as they were.
    """
    rng = np.random.default_rng(seed)
    whole = np.asarray(adata.X.mean(0)).ravel() + 1e-4
    quiet = rng.random(adata.n_vars) < silent
    native = adata.X.copy()
    thin = quiet[native.indices]
    native.data[thin] = rng.binomial(native.data[thin].astype(int), 0.02)
    native.eliminate_zeros()
    adata.obs["sample"] = pd.Categorical(adata.obs["condition"].astype(str) + " " + adata.obs["donor"].astype(str))
    lysis, soups, rho = np.exp(rng.normal(0, 0.4, adata.n_vars)), [], np.zeros(adata.n_obs)
    rows = np.zeros(adata.shape, np.float32)
    for name in adata.obs["sample"].cat.categories:
        cells = np.flatnonzero(adata.obs["sample"] == name)
        soup = whole * lysis * np.exp(rng.normal(0, 0.25, adata.n_vars))
        soups.append(soup / soup.sum())
        level = levels[int(adata.obs["condition"].iloc[cells[0]] == "c1")] * np.exp(rng.normal(0, 0.3))
        share = rng.beta(20 * level, 20 * (1 - level), len(cells))
        own = native[cells].sum(1).A1
        n = rng.poisson(own * share / (1 - share))
        rho[cells] = n / np.maximum(n + own, 1)
        rows[cells] = [rng.multinomial(k, soups[-1]) for k in n]
    adata.layers["native"], adata.X = native, (native + sparse.csr_matrix(rows)).tocsr()
    adata.obs["rho"], adata.varm["soup"], adata.var["silent"] = rho, np.stack(soups, 1), quiet
    return adata


def denoised(
    adata: ad.AnnData,
    rho: np.ndarray,
    *,
    sd: float = 1e-3,
    level_sd: float = 1e-3,
    sample_key: str | None = None,
    batch_key: str | None = "sample",
    profile: str = "soup",
) -> None:
    """The result "sb" with shares ``rho``, each with an error ``sd`` of its own, and the levels of samples.

    ``level_sd`` is the error of levels as a share of them; ``profile`` a slot of `varm`, with a column for each batch.
    """
    rho = np.asarray(rho, float)
    name = np.full(adata.n_obs, "all") if sample_key is None else adata.obs[sample_key].astype(str).to_numpy()
    samples = {one: {"level": float(rho[name == one].mean()), "identified": True} for one in np.unique(name)}
    for one in samples.values():
        one["level_sd"] = level_sd * one["level"]
    half = HALF * np.sqrt(sd**2 + (rho * level_sd) ** 2)
    values = {"contamination": rho, "contamination_low": rho - half, "contamination_high": rho + half}
    facts = {"ambient": profile, "batch_key": batch_key, "sample_key": sample_key, "layer": None, "samples": samples}
    write_result(adata, "denoise", "sb", {("obs", what): v for what, v in values.items()}, fit=None, facts=facts)
