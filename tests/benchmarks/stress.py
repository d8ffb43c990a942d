"""Where intervals break: fits to counts that do not come from the model.

Each data set is simulated as `--help` of `--truths` says, and fitted with defaults. Coverage of 90% intervals of what
users read, the composition (mean expression as a share of the cell's total) and the size r, against what they would be
taken for; genes with 20 counts or more.
"""

# ruff: noqa: T201

import numpy as np
from _common import parser, report
from _docs_table import write_table

LEVEL = 0.9
FEWEST = 20
#: What is simulated -> what it is.
TRUTHS = {
    "model": "negative binomial with capture: the model itself",
    "lognormal": "Poisson-lognormal counts of the same means and variances",
    "depth": "depth that varies (sd of log 0.4), fitted without capture (nbdm)",
    "totals": "capture known wrongly: prior of nu twice too high and ten times too narrow (sd of log 0.04)",
    "bias": "each cell favours long or short genes: log mean + t_c l_g, t ~ N(0, 0.3), l ~ N(0, 1)",
    "subtype": "15% of cells are a hidden subtype: a fifth of the genes differ, sd of log fold change 1.5",
    "donors": "five donors that differ in every gene, sd of log 0.2; the truth is the donors' population",
}


def main() -> None:
    cli = parser(__doc__ + "\n" + "\n".join(f"  {name:10s} {what}" for name, what in TRUTHS.items()))
    cli.add_argument("--truths", nargs="+", default=list(TRUTHS), choices=list(TRUTHS))
    cli.add_argument("--simulations", type=int, default=10)
    cli.add_argument("--cells", type=int, default=1000)
    cli.add_argument("--genes", type=int, default=200)
    cli.add_argument("--parameterization", default="mean_disp")
    cli.add_argument("--docs", action="store_true", help="write the table into docs/calibration.md")
    args = cli.parse_args()
    rows = []
    for truth in args.truths:
        found = [stressed(truth, args, seed) for seed in range(args.simulations)]
        rows.append(summary(truth, found))
        print(truth, flush=True)
    report(args, stress=rows)
    if args.docs:
        print(write_table("calibration.md", "stress", rows, f"{args.simulations} data sets a row"))


def simulate(truth: str, args, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts ``(n_cells, n_genes)``; the composition and size that a user would take the estimates for."""
    rng = np.random.default_rng([seed, *truth.encode()])
    n_cells, n_genes = args.cells, args.genes
    mu, r = np.exp(rng.normal(0, 1.2, n_genes)), np.exp(rng.normal(0.5, 0.8, n_genes))
    nu = np.exp(rng.normal(np.log(1000), 0.4, n_cells))
    effect = np.zeros((n_cells, n_genes))
    if truth == "bias":
        effect = np.outer(rng.normal(0, 0.3, n_cells), rng.normal(0, 1, n_genes))
    elif truth == "subtype":
        change = rng.normal(0, 1.5, n_genes) * (rng.random(n_genes) < 0.2)
        effect = np.outer(rng.random(n_cells) < 0.15, change)
    elif truth == "donors":
        effect = rng.normal(0, 0.2, (5, n_genes))[rng.integers(5, size=n_cells)]
    share = mu * np.exp(effect)
    mean = nu[:, None] * share / mu.sum()
    if truth == "lognormal":
        spread = np.sqrt(np.log1p(1 / r))
        rate = mean * np.exp(rng.normal(-(spread**2) / 2, spread, mean.shape))
    else:
        rate = rng.gamma(r, size=mean.shape) * mean / r
    average = mu if truth == "donors" else share.mean(0)
    return rng.poisson(rate).astype(np.float32), average / average.sum(), r


def stressed(truth: str, args, seed: int) -> dict[str, np.ndarray]:
    """Whether the intervals hold the truth, and errors of the medians on the log scale."""
    import anndata as ad
    import numpyro.distributions as dist
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    counts, composition, r = simulate(truth, args, seed)
    adata = ad.AnnData(counts)
    model, priors = "nbdm" if truth == "depth" else "nbvcp", None
    if truth == "totals":
        priors = {"nu": dist.LogNormal(np.log(2 * 1000 / 2e5), 0.04)}
    sb.tl.fit(adata, model, parameterization=args.parameterization, priors=priors, rng=seed, progress=False)
    marginals = sb.get.distributions(adata, backend="scipy")
    seen = counts.sum(0) >= FEWEST
    found = {}
    for name, value in {"composition": composition, "r": r}.items():
        low, high = marginals[name].interval(LEVEL)
        found[name] = ((low <= value) & (value <= high))[seen]
        found[f"{name} error"] = np.log(marginals[name].median() / value)[seen]
    return found


def summary(truth: str, found: list[dict[str, np.ndarray]]) -> dict:
    pooled = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    scatter = {name: np.std([one[name].mean() for one in found], ddof=1) / np.sqrt(len(found)) for name in found[0]}
    return {
        "truth": TRUTHS[truth],
        "composition": f"{pooled['composition'].mean():.2f} ± {scatter['composition']:.2f}",
        "r": f"{pooled['r'].mean():.2f} ± {scatter['r']:.2f}",
        "composition, typical error": f"{np.median(np.abs(pooled['composition error'])):.1%}",
        "r, estimate / truth": f"{np.exp(np.median(pooled['r error'])):.2f}",
    }


if __name__ == "__main__":
    main()
