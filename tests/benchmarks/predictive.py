"""Predictive checks where the model is right, and what they cost on kang_ifnb.

bands: 90% bands of gene means, variances and shares of zeros from a fit, against counts drawn anew from the truth.
residuals: mean, variance and Kolmogorov-Smirnov distance of all randomised quantile residuals of a fit to data drawn
from its own model; share of genes with another verdict than "fits".
kang: seconds and memory of 100 predictive data sets, and of residuals.
dirichlet: seconds for the concentrations of 100,000 cells x 10 components.
"""

import resource
import time

import numpy as np
from _common import data_file, parser, report

MODELS = ("nbdm", "zinb", "nbvcp", "zinbvcp")


def main() -> None:
    cli = parser(__doc__)
    parts = {"bands": bands, "residuals": residuals, "kang": kang, "dirichlet": dirichlet}
    cli.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    cli.add_argument("--seeds", type=int, default=3)
    args = cli.parse_args()
    report(args, **{name: parts[name](args) for name in args.only})


def bands(args) -> list[dict]:
    import scbayes as sb

    rows = []
    for model in MODELS:
        hits = {"mean": [], "variance": [], "zeros": []}
        for seed in range(args.seeds):
            # one draw of genes and cells, counted twice: the first half is fitted, the second only compared
            adata = sb.datasets.simulate(model, n_cells=500, n_genes=300, rng=seed)
            sb.tl.fit(adata, model, parameterization="standard", progress=False)
            sb.tl.predict(adata, n_samples=100, rng=seed, progress=False)
            again = counted_again(adata, np.random.default_rng(seed))
            values = {"mean": again.mean(0), "variance": again.var(0, ddof=1), "zeros": (again == 0).mean(0)}
            for name, value in values.items():
                table = adata.varm[f"sb_predicted_{name}"]
                hits[name].append((value >= table["q0.05"]) & (value <= table["q0.95"]))
        rows.append({"model": model} | {name: float(np.concatenate(found).mean()) for name, found in hits.items()})
    return rows


def counted_again(adata, rng: np.random.Generator) -> np.ndarray:
    """New counts of the same cells, from the parameters that `adata` was drawn from."""
    mu, r, gate = (np.ravel(adata.varm[name]) for name in ("mu", "r", "gate"))
    nu = adata.obs["nu"].to_numpy()[:, None]
    counts = rng.poisson(rng.gamma(r, 1.0, (adata.n_obs, len(r))) * nu * mu / r)
    return counts * (rng.random(counts.shape) >= gate)


def residuals(args) -> list[dict]:
    from scipy.stats import kstest, norm

    import scbayes as sb

    rows = []
    for model in MODELS:
        found, other = [], []
        for seed in range(args.seeds):
            adata = sb.datasets.simulate(model, n_cells=2000, n_genes=300, rng=seed)
            sb.tl.fit(adata, model, parameterization="standard", progress=False)
            sb.tl.residuals(adata, genes=list(adata.var_names), rng=seed)
            found.append(np.ravel(sb.get.residuals(adata, by="value").to_numpy()))
            other.append((sb.get.residuals(adata)["verdict"] != "fits").mean())
        z = np.concatenate(found)
        some = np.random.default_rng(0).choice(z, 20_000, replace=False)
        row = {"model": model, "residuals": len(z), "mean": z.mean(), "variance": z.var()}
        row |= {"KS distance": kstest(z, norm.cdf).statistic, "KS p of 20,000": kstest(some, norm.cdf).pvalue}
        rows.append(row | {"genes with a verdict": float(np.mean(other))})
    return rows


def kang(_) -> list[dict]:
    import anndata as ad

    import scbayes as sb

    adata = ad.read_h5ad(data_file("kang_ifnb"))
    sb.tl.fit(adata, progress=False)
    runs = {"predict": lambda: sb.tl.predict(adata, n_samples=100, progress=False)}
    runs |= {"residuals": lambda: sb.tl.residuals(adata)}
    rows = []
    for name, run in runs.items():
        before, start = peak(), time.perf_counter()
        run()
        rows.append({"run": name, "seconds": time.perf_counter() - start, "peak MB": peak(), "peak MB before": before})
    return rows


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dirichlet(_) -> list[dict]:
    from scbayes.stats._dirichlet import fit_dirichlet, fit_dirichlet_with_mean, mean_log

    rng = np.random.default_rng(0)
    concentration = np.exp(rng.normal(0, 2, (100_000, 10)))
    samples = rng.standard_gamma(concentration, (20, 100_000, 10)) + 1e-300
    samples /= samples.sum(-1, keepdims=True)
    logs, mean = mean_log(samples), samples.mean(0)
    rows = []
    for name, run in {
        "free": lambda: fit_dirichlet(logs, mean=mean),
        "mean held": lambda: fit_dirichlet_with_mean(mean, logs),
    }.items():
        start = time.perf_counter()
        run()
        rows.append({"fit": name, "cells": 100_000, "components": 10, "seconds": time.perf_counter() - start})
    return rows


if __name__ == "__main__":
    main()
