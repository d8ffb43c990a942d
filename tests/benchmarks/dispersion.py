"""Differential variability on counts with known changes of overdispersion: false calls, power and coverage.

Donors in two conditions; 1 / r is halved or doubled in 10% of the genes at the same mean, and the mean in another 10%
with 1 / r on its trend (`_variable_donors.py`). `rich` are genes with a mean of at least 1 count a cell; `cells` is
`sb.tl.de` without `sample_key`.

`--null`: real counts without a difference instead, as `de.py --null`.
"""

import time

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _variable_donors import variable_donors
from de import FDR, judged, null

DESIGNS = {
    "3 v 3": {"n_donors": 3},
    "4 v 4": {"n_donors": 4},
    "8 v 8": {"n_donors": 8},
    "4 v 4, paired": {"n_donors": 4, "paired": True},
    "4 v 4, 50 cells": {"n_donors": 4, "n_cells": (50, 50)},
    "4 v 4, 200 against 50 cells": {"n_donors": 4, "n_cells": (200, 50)},
    "4 v 4, 1 / r unchanged": {"n_donors": 4, "effect": 0.0},
}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=20)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--docs", action="store_true", help="write the table into docs/de.md")
    cli.add_argument("--null", nargs="*", metavar="TYPE", help="types of cells; default: the two largest")
    args = cli.parse_args()
    if args.null is not None:
        report(args, null=list(null(args.null, "dispersion")))
        return
    rows = []
    for name, design in DESIGNS.items():
        runs = [one(args.genes, design, seed) for seed in range(args.runs)]
        rows.append({"donors": name} | summed(runs))
        print(rows[-1], flush=True)  # noqa: T201
    report(args, dispersion=rows)
    if args.docs:
        shown = [
            {
                name: value if isinstance(value, str) else f"{value:.3f}".replace("nan", "")
                for name, value in row.items()
            }
            for row in rows
        ]
        note = f"{args.runs} data sets a row of {args.genes} genes, 200 cells a donor, nominal FDR {FDR:.0%}"
        print(write_table("de.md", "dispersion", shown, note))  # noqa: T201


def one(n_genes: int, design: dict, seed: int) -> dict[str, float]:
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    adata = variable_donors(n_genes=n_genes, seed=seed, **design)
    truth = adata.var["ratio"].to_numpy()
    start = time.perf_counter()
    settings = {"reference": "c0", "statistic": "dispersion", "fdr": FDR, "progress": False}
    sb.tl.de(adata, "condition", ["c1"], sample_key="donor", **settings)
    seconds = time.perf_counter() - start
    table = sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]
    covered = ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).to_numpy()
    called, changed, rich = table["is_de"].to_numpy(), truth != 0, adata.var["mu"].to_numpy() > 1
    sb.tl.de(adata, "condition", ["c1"], key_added="cells", **settings)
    cells = sb.get.de(adata, "c1", "cells").set_index("names").loc[adata.var_names, "is_de"].to_numpy()
    return {
        "calls": called.sum(),
        "false": (called & ~changed).sum(),
        "mean changed": (called & (adata.var["mean_ratio"] != 0)).sum(),
        "power": called[changed].mean() if changed.any() else np.nan,
        "power, rich": called[changed & rich].mean() if changed.any() else np.nan,
        "coverage": covered.mean(),
        "coverage, rich": covered[rich].mean(),
        "coverage of changed": covered[changed & rich].mean() if changed.any() else np.nan,
        "data_poor": table["data_poor"].mean(),
        "cells: FDR": judged(cells, truth)[0] if changed.any() else float(cells.any()),
        "seconds": seconds,
    }


def summed(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over runs; calls together, for there are few in one."""
    row = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    return {"FDR": row.pop("false") / max(row["calls"], 1.0)} | row


if __name__ == "__main__":
    main()
