"""Differential expression on counts with known effects: false calls, power and coverage, beside a moderated t-test.

Donors in two conditions, 10% of the genes with effects (`_donors.py`): nested or paired, normal or heavy-tailed. The
moderated t-test is that of limma (Smyth 2004) on log counts per million of the donors' sums, Benjamini-Hochberg at the
same level. `cells` is `sb.tl.de` without `sample_key`: cells as replicates.

`--null`: real counts without a difference instead, control cells of the eight donors of kang_ifnb in all 35 ways of
four against four, type by type.
"""

import time
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from _common import data_file, parser, report
from _docs_table import write_table
from _donors import donors
from scipy import sparse, stats
from scipy.special import polygamma

FDR = 0.05
DESIGNS = [(n, paired, heavy) for heavy in (False, True) for paired in (False, True) for n in (3, 4, 8)]


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=20)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--cells", type=int, default=220, help="of each donor and condition")
    cli.add_argument("--docs", action="store_true", help="write the table into docs/de.md")
    cli.add_argument("--null", nargs="*", metavar="TYPE", help="types of cells; default: the two largest")
    args = cli.parse_args()
    if args.null is not None:
        report(args, null=list(null(args.null)))
        return
    rows = []
    for n, paired, heavy in DESIGNS:
        runs = [one(n, args, paired=paired, heavy=heavy, seed=seed) for seed in range(args.runs)]
        about = {"donors": f"{n} v {n}", "paired": "yes" if paired else "no", "tails": "heavy" if heavy else "normal"}
        rows.append(about | {name: float(np.mean([run[name] for run in runs])) for name in runs[0]})
        print(rows[-1], flush=True)  # noqa: T201
    report(args, de=rows)
    if args.docs:
        shown = [
            {name: value if isinstance(value, str) else f"{value:.3f}" for name, value in row.items()} for row in rows
        ]
        note = (
            f"{args.runs} data sets a row of {args.genes} genes and {args.cells} cells a donor, nominal FDR {FDR:.0%}"
        )
        print(write_table("de.md", "de", shown, note))  # noqa: T201


def one(n: int, args, *, paired: bool, heavy: bool, seed: int) -> dict[str, float]:
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    adata = donors(n, args.genes, args.cells, paired=paired, heavy_tails=heavy, seed=seed)
    truth = adata.var["lfc"].to_numpy()
    start = time.perf_counter()
    sb.tl.de(adata, "condition", ["c1"], reference="c0", sample_key="donor", fdr=FDR)
    seconds = time.perf_counter() - start
    table = sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]
    covered = ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).to_numpy()
    found = judged(table["is_de"].to_numpy(), truth)
    row = {
        "FDR": found[0],
        "power": found[1],
        "coverage": covered.mean(),
        "coverage of changed": covered[truth != 0].mean(),
    }
    found = judged(moderated_t(adata, paired=paired) <= FDR, truth)
    row |= {"t: FDR": found[0], "t: power": found[1]}
    sb.tl.de(adata, "condition", ["c1"], reference="c0", fdr=FDR, key_added="cells")
    cells = sb.get.de(adata, "c1", "cells").set_index("names").loc[adata.var_names, "is_de"].to_numpy()
    return row | {"cells: FDR": judged(cells, truth)[0], "seconds": seconds}


def null(types: list[str], statistic: str = "mean") -> Iterator[dict]:
    """Number of called genes over all splits of the control donors."""
    import anndata as ad
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    adata = ad.read_h5ad(data_file("kang_ifnb"))
    adata = adata[(adata.obs["condition"] == "ctrl") & ~adata.obs["shared_barcode"].astype(bool)].copy()
    first, *others = sorted(adata.obs["donor"].astype(str).unique())
    for kind in types or adata.obs["cell_type_derived"].value_counts().index[:2]:
        cells, called = adata[adata.obs["cell_type_derived"] == kind].copy(), []
        for three in combinations(others, 3):
            cells.obs["arm"] = np.where(cells.obs["donor"].isin([first, *three]), "x", "y")
            sb.tl.de(cells, "arm", ["x"], reference="y", sample_key="donor", statistic=statistic, fdr=FDR)
            called.append(int(sb.get.de(cells, "x")["is_de"].sum()))
        about = {"type": kind, "cells": cells.n_obs, "splits": len(called)}
        yield about | {"median": np.median(called), "mean": np.mean(called), "largest": max(called)}


def judged(called: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Share of false calls, and of the changed genes that are called."""
    false = called & (truth == 0)
    return false.sum() / max(called.sum(), 1), (called & (truth != 0)).sum() / (truth != 0).sum()


def moderated_t(adata, *, paired: bool) -> np.ndarray:
    """Adjusted p of each gene."""
    unit = (adata.obs["condition"] + "|" + adata.obs["donor"]).to_numpy()
    names, place = np.unique(unit, return_inverse=True)
    of_units = sparse.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))))
    sums = np.asarray((of_units @ adata.X).todense())
    y = np.log2((sums + 0.5) / (sums.sum(1, keepdims=True) + 1) * 1e6)
    condition = np.array([name.startswith("c1") for name in names], float)
    columns = [np.ones(len(names)), condition]
    if paired:
        person = np.array([name.split("|")[1] for name in names])
        columns += [(person == name).astype(float) for name in np.unique(person)[1:]]
    design = np.stack(columns, 1)
    df = len(names) - design.shape[1]
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    variance = np.sum((y - design @ coefficients) ** 2, 0) / df
    prior_df, prior_variance = squeezed(variance, df)
    shrunk = (prior_df * prior_variance + df * variance) / (prior_df + df) if np.isfinite(prior_df) else prior_variance
    unscaled = np.linalg.inv(design.T @ design)[1, 1]
    p = 2 * stats.t.sf(np.abs(coefficients[1]) / np.sqrt(shrunk * unscaled), min(prior_df + df, 1e6))
    return stats.false_discovery_control(p)


def squeezed(variance: np.ndarray, df: float) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior, by the moments of log variances (Smyth 2004)."""
    z = np.log(np.maximum(variance, 1e-12))
    e = z - polygamma(0, df / 2) + np.log(df / 2)
    excess = e.var(ddof=1) - polygamma(1, df / 2)
    if excess <= 0:
        return np.inf, float(np.exp(e.mean()))
    half = 0.5 + 1 / excess
    for _ in range(50):  # Newton's method for trigamma(x) = excess
        step = polygamma(1, half) * (1 - polygamma(1, half) / excess) / polygamma(2, half)
        half += step
    return 2 * half, float(np.exp(e.mean() + polygamma(0, half) - np.log(half)))


if __name__ == "__main__":
    main()
