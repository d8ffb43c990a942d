"""Intervals of native expression by `sb.tl.fit(ambient=)`, beside fits to raw, denoised and truly native counts.

Simulated cells come from a folder with `ambient.py` (`--simulators FOLDER`). Of each gene with at least ten native
counts the log share in native expression is compared with that of its cells' population.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
from _common import parser, report
from _docs_table import write_table
from scipy import stats

import scbayes as sb

SEEDS = (0, 1)
HOW = {"native": {"layer": "native"}, "raw": {}, "denoised": {"layer": "sb_denoised"}, "ambient": {"ambient": "sb"}}
#: Genes by the share of ambient counts among theirs.
GENES = {"below 20%": (0, 0.2), "20% and more": (0.2, 1)}
Z90 = stats.norm.ppf(0.95)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--simulators", type=Path, required=True, metavar="FOLDER", help="folder with ambient.py")
    cli.add_argument("--docs", action="store_true", help="write the table into docs/ambient.md")
    args = cli.parse_args()
    spec = importlib.util.spec_from_file_location("ambient", args.simulators / "ambient.py")
    simulator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulator)
    parts = []
    for seed in SEEDS:
        cells, raw = simulator.simulate(seed=seed)
        sb.pp.ambient_profile(cells, raw, batch_key="batch")
        sb.tl.denoise(cells, groupby="cell_type", progress=False)
        for kind in ("T0", "all"):
            own = cells if kind == "all" else cells[cells.obs["cell_type"] == kind].copy()
            parts += scores(own, kind)
    table = pd.DataFrame(parts).groupby(["cells", "ambient", "fit"], sort=False).mean().reset_index()
    table["n_genes"] = (table["n_genes"] * len(SEEDS)).astype(int)
    report(args, fit=table.to_dict("records"))
    if args.docs:
        shown = [
            {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in table.to_dict("records")
        ]
        print(write_table("ambient.md", "fit", shown))  # noqa: T201


def scores(adata, kind: str) -> list[dict]:
    """Rows of the table for these cells."""
    weight = adata.obs["cell_type"].value_counts(normalize=True).sort_index().to_numpy()
    codes = [int(str(name)[1:]) for name in adata.obs["cell_type"].cat.categories]
    truth = np.log(adata.varm["true_mean_rho"][:, codes] @ weight)
    native, observed = (np.asarray(x.sum(0)).ravel() for x in (adata.layers["native"], adata.X))
    share, rows, sizes = 1 - native / np.maximum(observed, 1), [], {}
    for name, how in HOW.items():
        sb.tl.fit(adata, progress=False, key_added=name, **how)
        found = sb.get.fit(adata, name).canonical
        loc, scale, sizes[name] = found["composition"].loc[0], found["composition"].scale[0], found["r"].loc[0]
        for genes, (low, high) in GENES.items():
            here = (native >= 10) & (share >= low) & (share < high)
            error = (loc - truth)[here]
            row = {"cells": "one type" if kind != "all" else "all types", "ambient": genes, "fit": name}
            row |= {"n_genes": int(here.sum()), "bias": error.mean(), "rmse": np.sqrt(np.mean(error**2))}
            row |= {"in 90%": np.mean(np.abs(error) < Z90 * scale[here]), "sd": np.median(scale[here])}
            rows.append(row | {"ln r": np.median((sizes[name] - sizes["native"])[here])})
    return rows


if __name__ == "__main__":
    main()
