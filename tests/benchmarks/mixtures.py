"""Mixtures: recovery of simulated components, and known mixes of RNA.

simulated: K components (nbvcp, standard). Errors of log r per component over genes with >= 50 counts in it, relative to
an oracle that knows each cell's component and odds; weights against the realised fractions; adjusted Rand index; and
how far fits from different seeds are apart.

rna: wells with known mixes of three RNAs (SCBAYES_DATA). One component per mix; the 90% interval of its composition
against the sum of the pure wells' compositions in its proportions, and rank correlation of odds_c with the amount.
"""

import time

import numpy as np
from _common import data_file, parser, report
from recovery import LOG_MEAN, P, oracle_log_r, rmse
from scipy.stats import norm, spearmanr


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--only", nargs="+", choices=["simulated", "rna"], default=["simulated", "rna"])
    cli.add_argument("--data-seeds", type=int, default=1)
    cli.add_argument("--fit-seeds", type=int, default=3)
    cli.add_argument("--cells", type=int, default=5000)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--components", type=int, default=5)
    cli.add_argument("--parameterization", default="standard")
    cli.add_argument("--oracle", default="mean", choices=["mean", "max", "mle"])
    args = cli.parse_args()
    tables = {}
    if "simulated" in args.only:
        tables["simulated"] = [row for seed in range(args.data_seeds) for row in simulated(args, seed)]
    if "rna" in args.only:
        tables["rna"] = [row for name in ("standard", "mean_disp") for row in rna(name)]
    report(args, **tables)


def simulated(args, seed: int) -> list[dict]:
    from sklearn.metrics import adjusted_rand_score

    import scbayes as sb

    adata = sb.datasets.simulate(
        "nbvcp", n_cells=args.cells, n_genes=args.genes, n_components=args.components, p=P, log_mean=LOG_MEAN, rng=seed
    )
    truth = adata.obs["component"].cat.codes.to_numpy()
    best = oracle(adata, truth, args.oracle)
    rows, first = [], None
    for fit_seed in range(args.fit_seeds):
        start = time.perf_counter()
        settings = {"n_components": args.components, "parameterization": args.parameterization}
        sb.tl.fit(adata, "nbvcp", **settings, rng=fit_seed, progress=False)
        seconds = time.perf_counter() - start
        fit = sb.get.fit(adata)
        shares = fit.posterior.responsibilities
        code, log_r = shares.argmax(1), np.log(fit.centre().sites["r"][0])
        row = {"data": seed, "rng": fit_seed, "seconds": seconds, "converged": fit.converged}
        row["ARI"] = adjusted_rand_score(truth, code)
        order = [int(np.bincount(truth[code == k], minlength=args.components).argmax()) for k in range(args.components)]
        realised = np.bincount(truth, minlength=args.components) / len(truth)
        row["weights off"] = float(np.abs(fit.posterior.weights / fit.posterior.weights.sum() - realised[order]).max())
        for k, own in enumerate(order):
            total = np.asarray(adata.X[truth == own].sum(0)).ravel()
            log_truth = np.log(adata.varm["r"][:, own])
            ours, theirs = (rmse(x, log_truth, total >= 50) for x in (log_r[k], best[own]))
            row[f"r {k} / oracle"] = ours / theirs
        first = log_r if first is None else first
        row["log r from first"] = float(np.abs(log_r - first).max())
        rows.append(row)
    return rows


def oracle(adata, truth: np.ndarray, kind: str) -> list[np.ndarray]:
    """Estimates of log r of each component given every cell's component and odds."""
    odds = adata.obs["odds"].to_numpy()
    groups = [truth == k for k in range(truth.max() + 1)]
    return [oracle_log_r(adata.X[cells], odds[cells], kind) for cells in groups]


def rna(parameterization: str) -> list[dict]:
    """One row per mix: share of genes (>= 50 counts) whose 90% interval holds the expectation.

    The expectation is itself an estimate, about as uncertain as the mix: "with its error" counts both. RNA was mixed by
    mass, and lines differ in molecules per mass: pure wells tell by how much.
    """
    import anndata as ad

    import scbayes as sb

    adata = ad.read_h5ad(data_file("scmix_RNAmix_celseq2"))
    parts = adata.obs[["H2228_prop", "H1975_prop", "HCC827_prop"]].to_numpy(float)
    adata.obs["mix"] = ["/".join(f"{x:.2f}" for x in row) for row in parts]
    sb.tl.fit(adata, parameterization=parameterization, labels_key="mix", progress=False)
    fit = sb.get.fit(adata)
    mixes = [np.array(name.split("/"), float) for name in fit.components]
    found = fit.canonical["composition"]
    loc, scale = found.loc[0], found.scale[0]
    pure = [next(k for k, mix in enumerate(mixes) if mix[j] > 0.9) for j in range(3)]
    mean = np.exp(loc[pure] + scale[pure] ** 2 / 2)
    variance = mean**2 * np.expm1(scale[pure] ** 2)
    per_mass = molecules_per_mass(adata, [fit.components[k] for k in pure])
    amount = spearmanr(np.asarray(odds_of_cells(fit)), adata.obs["mRNA_amount"].astype(float)).statistic
    rows, z = [], norm.ppf(0.95)
    for k, mix in enumerate(mixes):
        if k in pure:
            continue
        share = mix * per_mass / np.sum(mix * per_mass)
        expected = share @ mean
        own = np.sqrt(share**2 @ variance) / expected
        total = np.asarray(adata.X[(adata.obs["mix"] == fit.components[k]).to_numpy()].sum(0)).ravel()
        off, seen = np.abs(np.log(expected) - loc[k]), total >= 50
        ideal = 2 * norm.cdf(z / np.sqrt(1 + (own / scale[k]) ** 2)) - 1  # if all there is were these two errors
        row = {"parameterization": parameterization, "mix": fit.components[k], "genes": int(seen.sum())}
        row["holds it"] = float((off <= z * scale[k])[seen].mean())
        row["could hold it"] = float(ideal[seen].mean())
        row["holds it, with its error"] = float((off <= z * np.hypot(scale[k], own))[seen].mean())
        rows.append(row | {"Spearman(odds, amount)": float(amount)})
    return rows


def molecules_per_mass(adata, names: list[str]) -> np.ndarray:
    """Counts of the pure wells relative to each other, at equal amounts of RNA."""
    log_total = adata.obs.assign(value=np.log(np.asarray(adata.X.sum(1)).ravel()))
    table = log_total.groupby(["mRNA_amount", "mix"], observed=True)["value"].mean().unstack()[names]
    weight = np.exp(table.sub(table.mean(axis=1), axis=0).mean(axis=0).to_numpy())
    return weight / weight.sum()


def odds_of_cells(fit) -> np.ndarray:
    """Odds of each cell, of its own component; nu where odds belong to genes."""
    found = fit.canonical["odds" if "odds" in fit.canonical else "nu"].loc
    return found if found.ndim == 1 else np.sum(found * fit.posterior.responsibilities.T, 0)


if __name__ == "__main__":
    main()
