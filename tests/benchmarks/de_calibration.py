"""Simulation-based calibration of differential expression: fold changes, and false sign rates.

Counts of cells of donors, from `sb.tl.de` to its table. Ranks: effects of two thirds of the genes are drawn from the
wide prior, the spread of donors of each gene from its prior, and of each data set one changed gene of each third by
counts gives one rank of its true effect among 19 quantiles of its posterior; these must be uniform (bands of 99%). Fold
changes are relative to the other genes, which do not change. Rates: effects come from a point at zero (80%) and normals
of several widths, with fold changes relative to the typical gene, and what `lfsr` claims is held against how often the
sign was wrong, over all genes.
"""

# ruff: noqa: T201

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _donors import cells_with, gene_means

from scbayes.stats._ecdf_bands import judge_ranks

DESIGNS = {
    "3 v 3": {"n_donors": 3},
    "8 v 8": {"n_donors": 8},
    "4 v 4 paired": {"n_donors": 4, "paired": True},
    "2 v 2": {"n_donors": 2},
    "cells": {"n_donors": 1},
}
#: Ends of central intervals that cut the posterior into twenty parts.
LEVELS = [round(0.1 * k, 1) for k in range(9, 0, -1)]
CLAIMED = (0.01, 0.05, 0.1, 0.2)
BINS = ((0, 0.01), (0.01, 0.05), (0.05, 0.2), (0.2, 0.5))
#: Spread of donors, natural log: that of the package's prior.
TAU, TAU_WIDTH = 0.2, 0.6
WIDE = 2.0


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--designs", nargs="+", default=[*DESIGNS], choices=[*DESIGNS])
    cli.add_argument("--simulations", type=int, default=200)
    cli.add_argument("--genes", type=int, default=450)
    cli.add_argument("--cells", type=int, default=60, help="of each donor and condition")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/de.md")
    args = cli.parse_args()
    ranks, rates = [], []
    for name in args.designs:
        design = {"n_cells": args.cells * (4 if name == "cells" else 1)} | DESIGNS[name]
        ranks.append({"donors": name} | ranked(design, args.genes, args.simulations, replicated=name != "cells"))
        rates.append({"donors": name} | rated(design, args.genes, args.simulations // 4, replicated=name != "cells"))
        print(ranks[-1], rates[-1], sep="\n", flush=True)
    report(args, ranks_of_fold_changes=ranks, false_sign_rates=rates)
    if args.docs:
        write_table("de.md", "de ranks", [shown(row) for row in ranks], f"{args.simulations} data sets a row")
        note = f"{args.simulations // 4} data sets of {args.genes} genes a row"
        print(write_table("de.md", "de rates", [shown(row) for row in rates], note))


def shown(row: dict) -> dict:
    return {key: value if isinstance(value, str) else f"{value:.3f}" for key, value in row.items()}


def compared(adata, *, replicated: bool, **settings):
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    how = {"reference": "c0", "sample_key": "donor" if replicated else None, "progress": False}
    sb.tl.de(adata, "condition", ["c1"], **how, **settings)
    return sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]


def spreads(rng: np.random.Generator, n: int, *, replicated: bool) -> np.ndarray:
    return np.clip(TAU * np.exp(rng.normal(0, TAU_WIDTH, n)), 0.02, 1.2) if replicated else np.zeros(n)


def ranked(design: dict, n_genes: int, n: int, *, replicated: bool) -> dict:
    """P of uniform ranks in each third by counts, and coverage of intervals over all changed genes."""
    ranks, inside = [], {0.5: [], 0.9: []}
    for seed in range(n):
        rng = np.random.default_rng([seed, 1])
        changed = np.arange(n_genes) % 3 > 0
        effect = np.where(changed, rng.normal(0, WIDE, n_genes), 0.0)
        spread = spreads(rng, n_genes, replicated=replicated)
        adata = cells_with(effect, spread, rng, gene_means(n_genes, rng), **design)
        adata.var["same"] = ~changed
        table = compared(adata, replicated=replicated, relative_to="same", level=LEVELS)[changed]
        truth = adata.var["lfc"][changed].to_numpy()
        names = ["", *(f"_{100 * level:g}" for level in LEVELS[1:])]
        ends = [f"ci_{end}{name}" for end in ("low", "high") for name in names]
        below = (table[[*ends, "lfc_median"]].to_numpy() < truth[:, None]).sum(1)
        for level, covered in inside.items():
            name = names[LEVELS.index(level)]
            covered.append(((table[f"ci_low{name}"] <= truth) & (truth <= table[f"ci_high{name}"])).to_numpy())
        order = np.argsort(np.asarray(adata.X.sum(0)).ravel()[changed], kind="stable")
        ranks.append([below[rng.choice(part)] for part in np.array_split(order, 3)])
    p = {
        f"p {which}": judge_ranks(part, 2 * len(LEVELS) + 1).p
        for which, part in zip(("low", "middle", "high"), np.array(ranks).T, strict=True)
    }
    return p | {f"in {100 * level:g}%": float(np.mean(part)) for level, part in inside.items()}


def rated(design: dict, n_genes: int, n: int, *, replicated: bool) -> dict:
    """Share of wrong signs: by what `lfsr` claims, and among the genes that are called at several rates."""
    claimed, wrong, false, called = [], [], dict.fromkeys(CLAIMED, 0), dict.fromkeys(CLAIMED, 0)
    for seed in range(n):
        rng = np.random.default_rng([seed, 2])
        width = np.where(rng.random(n_genes) < 0.8, 0.0, rng.choice([0.2, 0.4, 0.8, 1.6], n_genes))
        effect, spread = width * rng.normal(size=n_genes), spreads(rng, n_genes, replicated=replicated)
        adata = cells_with(effect, spread, rng, gene_means(n_genes, rng), **design)
        table, truth = compared(adata, replicated=replicated), adata.var["lfc"].to_numpy()
        up = (table["p_up"] > table["p_down"]).to_numpy()
        error = ~np.where(up, truth > 0, truth < 0)
        claimed.append(table["lfsr"].to_numpy())
        wrong.append(error)
        for rate in CLAIMED:
            here = (table["fsr"] <= rate).to_numpy()
            false[rate] += (here & error).sum()
            called[rate] += here.sum()
    claimed, wrong = np.concatenate(claimed), np.concatenate(wrong)
    row = {}
    for low, high in BINS:
        here = (claimed > low) & (claimed <= high)
        row[f"lfsr {low:g}-{high:g}"] = f"{claimed[here].mean():.3f}: {wrong[here].mean():.3f}" if here.any() else ""
    return row | {f"FDR at {rate:g}": float(false[rate] / max(called[rate], 1)) for rate in CLAIMED}


if __name__ == "__main__":
    main()
