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
    cli.add_argument("what", nargs="*", choices=["simulated", "rna"], default=["simulated", "rna"])
    cli.add_argument("--data-seeds", type=int, default=1)
    cli.add_argument("--fit-seeds", type=int, default=3)
    cli.add_argument("--cells", type=int, default=5000)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--components", type=int, default=5)
    cli.add_argument("--parameterization", default="standard")
    cli.add_argument("--oracle", default="mean", choices=["mean", "max", "mle"])
    args = cli.parse_args()
    tables = {}
    if "simulated" in args.what:
        tables["simulated"] = [row for seed in range(args.data_seeds) for row in simulated(args, seed)]
    if "rna" in args.what:
        tables["rna"] = [rna(name) for name in ("standard", "mean_disp")]
    report(args, **tables)


def simulated(args, seed: int) -> list[dict]:
    import scbayes as sb
    from sklearn.metrics import adjusted_rand_score

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


def rna(parameterization: str) -> dict:
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
    z, row, inside = norm.ppf(0.95), {"parameterization": parameterization}, []
    for k, mix in enumerate(mixes):
        if k in pure:
            continue
        expected = mix / mix.sum() @ mean
        total = np.asarray(adata.X[(adata.obs["mix"] == fit.components[k]).to_numpy()].sum(0)).ravel()
        hit = (np.abs(np.log(expected) - loc[k]) <= z * scale[k])[total >= 50]
        row[fit.components[k]] = float(hit.mean())
        inside.append(hit)
    row["all"] = float(np.concatenate(inside).mean())
    odds = fit.canonical["odds"].loc if "odds" in fit.canonical else fit.canonical["nu"].loc
    odds = odds if odds.ndim == 1 else np.sum(odds * fit.posterior.responsibilities.T, 0)
    row["Spearman(odds, amount)"] = float(spearmanr(odds, adata.obs["mRNA_amount"].astype(float)).statistic)
    return row


if __name__ == "__main__":
    main()
