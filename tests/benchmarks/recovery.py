"""Simulated counts with known parameters: errors relative to an oracle, and coverage of 95% intervals.

Oracles (nbvcp, standard). For r: per gene the mean of log r under its conditional posterior given every odds_c, with
the true population of log r as prior (`--oracle max`: its maximum; `--oracle mle`: without the prior). For log odds_c:
digamma(U_c) - digamma(R), the posterior mean given every r_g. Composition: the oracle's r, normalised.
Errors over genes with >= 50 counts, coverage over genes and cells with >= 20.
"""

import time

import numpy as np
from _common import parser, report
from scipy.special import digamma, gammaln

P, LOG_MEAN, CAPTURE = 0.9, (0.5, 1.6), (6, 54)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--model", default="nbvcp", choices=["nbvcp", "zinbvcp", "nbdm", "zinb"])
    cli.add_argument("--parameterization", default="standard")
    cli.add_argument("--seeds", type=int, default=4)
    cli.add_argument("--cells", type=int, default=3000)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--oracle", default="mean", choices=["mean", "max", "mle"])
    args = cli.parse_args()

    rows, hits = [], []
    for seed in range(args.seeds):
        adata = simulate(args, seed)
        seconds, found = fit(adata, args)
        truth = true_values(adata, found, args.parameterization)
        total = np.asarray(adata.X.sum(0)).ravel()
        row = {"seed": seed, "seconds": seconds, "converged": converged(adata)}
        if args.model == "nbvcp" and args.parameterization != "mean_disp":
            row |= errors(adata, found, truth, total, args.oracle)
        hits.append(coverage(adata, found, truth, total))
        rows.append(row | {name: float(hit.mean()) for name, hit in hits[-1].items()})
    pooled = {"seed": "all", "seconds": float(np.median([row["seconds"] for row in rows]))}
    pooled["converged"] = all(row["converged"] for row in rows)
    for name in rows[0]:
        if name.startswith("ratio"):
            pooled[name] = float(np.mean([row[name] for row in rows]))
        elif name.startswith("in "):
            pooled[name] = float(np.concatenate([hit[name] for hit in hits]).mean())
    report(args, recovery=[*rows, pooled])


def simulate(args, seed: int):
    import scbayes as sb

    own = args.parameterization == "mean_disp"
    return sb.datasets.simulate(
        args.model,
        n_cells=args.cells,
        n_genes=args.genes,
        parameterization="mean_disp" if own else "standard",
        log_mean=LOG_MEAN,
        rng=seed,
        **({} if own else {"p": P}),
        **({"capture": CAPTURE} if args.model.endswith("vcp") else {}),
    )


def fit(adata, args) -> tuple[float, dict]:
    """Seconds (with compilation in the first seed) and the posterior by parameter."""
    import scbayes as sb

    start = time.perf_counter()
    sb.tl.fit(adata, args.model, parameterization=args.parameterization, progress=False)
    return time.perf_counter() - start, sb.get.distributions(adata, backend="scipy")


def converged(adata) -> bool:
    import scbayes as sb

    return sb.get.fit(adata).converged


def true_values(adata, found: dict, parameterization: str) -> dict[str, np.ndarray]:
    """What the data were drawn from, for the parameters that data identify."""
    r, mu = np.ravel(adata.varm["r"]), np.ravel(adata.varm["mu"])
    share = mu if parameterization == "mean_disp" else r
    truth = {"r": r, "composition": share / share.sum()}
    if "gate" in found:
        truth["gate"] = np.ravel(adata.varm["gate"])
    if "odds" in found:
        odds = adata.obs["odds"].to_numpy()
        truth["odds"] = odds if np.ndim(found["odds"].median()) else odds[:1]
    elif "nu" in found:  # a cell's size factor; its scale is a matter of convention, so it is given the fit's
        truth["nu"] = adata.obs["nu"].to_numpy() * mu.sum() / found["mu"].mean().sum()
    return truth


def errors(adata, found: dict, truth: dict, total: np.ndarray, oracle: str) -> dict[str, float]:
    """Root mean square errors on the log scale, ours and those of the oracles, and their ratios."""
    odds, cell_total = adata.obs["odds"].to_numpy(), np.asarray(adata.X.sum(1)).ravel()
    log_r = oracle_log_r(adata.X, odds, oracle)
    best = {
        "r": log_r,
        "composition": log_r - np.log(np.exp(log_r).sum()),
        "odds": digamma(cell_total) - digamma(truth["r"].sum()),
    }
    row = {}
    for name, guess in best.items():
        keep = (cell_total if name == "odds" else total) >= (1 if name == "odds" else 50)
        ours, theirs = (rmse(x, np.log(truth[name]), keep) for x in (np.log(found[name].median()), guess))
        row |= {f"rmse {name}": ours, f"ratio {name}": ours / theirs}
    return row


def rmse(estimate: np.ndarray, truth: np.ndarray, keep: np.ndarray) -> float:
    return float(np.sqrt(np.mean((estimate - truth)[keep] ** 2)))


def oracle_log_r(x, odds: np.ndarray, kind: str) -> np.ndarray:
    """Estimate of each log r given the true odds of every cell: on a grid of log r around a crude estimate."""
    seen, columns = np.log1p(odds).sum(), x.tocsc()
    centre, width = LOG_MEAN[0] + np.log((1 - P) / P), LOG_MEAN[1]
    result = np.empty(x.shape[1])
    for g in range(x.shape[1]):
        counts = columns.data[columns.indptr[g] : columns.indptr[g + 1]].astype(float)
        value, cells = np.unique(counts, return_counts=True)
        middle, half = np.log((counts.sum() + 0.5) / odds.sum()), 6.0
        for _ in range(5):  # ever finer: 16 standard deviations in the end
            z = middle + np.linspace(-half, half, 201)
            r = np.exp(z)[:, None]
            log_p = ((gammaln(value + r) - gammaln(r)) * cells).sum(1) - r[:, 0] * seen
            log_p -= 0 if kind == "mle" else 0.5 * ((z - centre) / width) ** 2
            weight = np.exp(log_p - log_p.max())
            mean = np.average(z, weights=weight)
            sd = np.sqrt(np.average((z - mean) ** 2, weights=weight))
            middle, half = mean, np.clip(8 * sd, half / 50, 6)
        result[g] = mean if kind == "mean" else z[log_p.argmax()]
    return result


def coverage(adata, found: dict, truth: dict, total: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the 95% interval holds the truth: genes and cells with >= 20 counts, and the 100 highest genes."""
    cell_total = np.asarray(adata.X.sum(1)).ravel()
    highest = np.argsort(total)[-100:]
    result = {}
    for name, value in truth.items():
        low, high = found[name].interval(0.95)
        inside = np.atleast_1d((low <= value) & (value <= high))
        if len(inside) == len(total):
            result[f"in {name}"], result[f"in {name} top"] = inside[total >= 20], inside[highest]
        else:
            result[f"in {name}"] = inside[cell_total >= 20] if len(inside) > 1 else inside
    return result


if __name__ == "__main__":
    main()
