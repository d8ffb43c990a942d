"""Differential expression of donors with known effects, beside PyDESeq2 and a moderated t-test.

Donors in two conditions, 3 v 3 to 8 v 8, nested or paired, normal or heavy-tailed (`_donors.py`, or the `donors.py` in
`--simulators FOLDER`). All see the same counts: `sb.tl.de` with `sample_key`, the same without (cells as replicates),
the moderated t-test of `de.py`, and PyDESeq2 on the sums of donors' cells, with its defaults (`--install` makes its
environment).

Each run keeps its scores in a file of `--folder`; runs that are there are not run again, so that a long series can be
stopped and gone on with. `--again` runs ours again and keeps PyDESeq2's scores of the same counts. FDR is the mean
share of false calls (genes without an effect) over runs, at nominal 5%; power the mean share of changed genes that are
called; coverage that of 95% intervals.

Methods with different realised FDRs are compared at the same one, each with its own order of genes (ours: `lfsr`;
PyDESeq2: p): `power at 5%` with the threshold of scores, one for all runs of a design, at which the realised FDR is 5%;
`power at its FDR` is ours at the FDR that PyDESeq2 has at its own nominal 5%.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from _common import parser, report
from _deseq2 import Peer
from _docs_table import write_table
from _donors import donors, simulator
from _process import environment
from de import FDR, judged, moderated_t
from scipy import sparse, stats

DESIGNS = [(n, paired, heavy) for heavy in (False, True) for paired in (False, True) for n in (3, 4, 8)]
#: Columns that the page leaves out.
UNSHOWN = ("DESeq2 all genes: FDR", "DESeq2 all genes: power", "DESeq2: of changed", "seconds", "DESeq2: s")
#: What a run keeps of PyDESeq2.
PEER = ("p", "padj", "peer lfc", "peer sd", "peer seconds")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="where the scores of each run are kept")
    cli.add_argument("--runs", type=int, default=20)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--donors", type=int, nargs="+", default=[3, 4, 8], help="in each condition")
    cli.add_argument("--simulators", type=Path, help="folder with another donors.py, whose var['lfc'] is natural log")
    cli.add_argument("--install", action="store_true", help="make PyDESeq2's environment if it is not there")
    cli.add_argument("--again", action="store_true", help="run ours again where PyDESeq2's scores are kept")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/de.md")
    args = cli.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    designs = [design for design in DESIGNS if design[0] in args.donors]
    python = environment("pydeseq2", "pydeseq2", install=args.install)
    peer = None if python is None else Peer(python)
    for seed in range(args.runs):
        for design in designs:
            path = kept(args.folder, design, seed)
            old = dict(np.load(path)) if path.is_file() else {}
            if args.again or not old:
                old = {name: old[name] for name in PEER if name in old}
                np.savez_compressed(path, **one(*design, seed=seed, args=args, peer=peer, old=old))
    nominal, matched = [], []
    for design in designs:
        runs = [dict(np.load(path)) for seed in range(args.runs) if (path := kept(args.folder, design, seed)).is_file()]
        n, paired, heavy = design
        about = {"donors": f"{n} v {n}", "paired": "yes" if paired else "no", "tails": "heavy" if heavy else "normal"}
        nominal.append(about | at_nominal(runs))
        if "p" in runs[0]:
            matched.append(about | at_same(runs))
    report(args, nominal=nominal, matched=matched)
    if args.docs:
        note = f"{args.runs} data sets a row of {args.genes} genes, nominal FDR {FDR:.0%}"
        for name, rows in (("de peers", nominal), ("de matched", matched)):
            short = [{key: value for key, value in row.items() if key not in UNSHOWN} for row in rows]
            shown = [{k: v if isinstance(v, str) else f"{v:.3f}" for k, v in row.items()} for row in short]
            print(write_table("de.md", name, shown, note))  # noqa: T201


def kept(folder: Path, design: tuple, seed: int) -> Path:
    n, paired, heavy = design
    return folder / f"{n}-{'paired' if paired else 'nested'}-{'heavy' if heavy else 'normal'}-{seed}.npz"


def one(n: int, paired: bool, heavy: bool, *, seed: int, args, peer: Peer | None, old: dict) -> dict[str, np.ndarray]:
    """Scores of all methods on one data set; PyDESeq2's from ``old`` if they are there."""
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    drawn = {"paired": paired, "heavy_tails": heavy, "seed": seed}
    if args.simulators:
        adata = simulator(args.simulators, "donors")(n, args.genes, **drawn)
        adata.obs, truth = adata.obs.astype(str), adata.var["lfc"].to_numpy() / np.log(2)
    else:
        adata = donors(n, args.genes, 220, **drawn)
        truth = adata.var["lfc"].to_numpy()
    start = time.perf_counter()
    sb.tl.de(adata, "condition", ["c1"], reference="c0", sample_key="donor", fdr=FDR)
    seconds = time.perf_counter() - start
    table = sb.get.de(adata, "c1").set_index("names").loc[adata.var_names]
    names = ("lfsr", "p_de", "lfc_mean", "lfc_sd", "ci_low", "ci_high", "is_de", "donor_sd")
    result = {"truth": truth, "seconds": seconds} | {name: table[name].to_numpy() for name in names}
    sb.tl.de(adata, "condition", ["c1"], reference="c0", fdr=FDR, key_added="cells")
    result["cells"] = sb.get.de(adata, "c1", "cells").set_index("names").loc[adata.var_names, "is_de"].to_numpy()
    result["t"] = moderated_t(adata, paired=paired)
    if not old and peer is not None:
        found = peer(args.folder, *sums(adata, "condition", "donor"), paired=paired)
        old = {name: found[name.removeprefix("peer ")] for name in PEER}
    return result | old


def sums(adata, condition: str, donor: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts summed over the cells of each donor in each condition, with both."""
    units = pd.MultiIndex.from_frame(adata.obs[[condition, donor]].astype(str))
    place, names = pd.factorize(units, sort=True)
    of_units = sparse.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))))
    total = (of_units @ adata.X).toarray()
    return total, names.get_level_values(0).to_numpy(str), names.get_level_values(1).to_numpy(str)


def at_nominal(runs: list[dict]) -> dict[str, float]:
    """What each method says at its own 5%."""

    def mean(called) -> tuple[float, float]:
        return tuple(np.mean([judged(called(run), run["truth"]) for run in runs], 0))

    def covered(low, high, which) -> float:
        return np.mean([np.mean((low(r) <= r["truth"]) & (r["truth"] <= high(r)), where=which(r)) for r in runs])

    ours, cells, t = (mean(called) for called in (lambda r: r["is_de"], lambda r: r["cells"], lambda r: r["t"] <= FDR))
    ends = (lambda r: r["ci_low"], lambda r: r["ci_high"])
    row = {"FDR": ours[0], "power": ours[1], "coverage": covered(*ends, lambda r: np.isfinite(r["truth"]))}
    row |= {"of changed": covered(*ends, lambda r: r["truth"] != 0)}
    row |= {"cells: FDR": cells[0], "t: FDR": t[0], "t: power": t[1]}
    if "p" not in runs[0]:
        return row
    found, plain = mean(lambda r: r["padj"] <= FDR), mean(lambda r: adjusted(r["p"]) <= FDR)
    wald = (lambda r: r["peer lfc"] - 1.96 * r["peer sd"], lambda r: r["peer lfc"] + 1.96 * r["peer sd"])
    row |= {"DESeq2: FDR": found[0], "DESeq2: power": found[1]}
    row |= {"DESeq2 all genes: FDR": plain[0], "DESeq2 all genes: power": plain[1]}
    row |= {"DESeq2: coverage": covered(*wald, lambda r: np.isfinite(r["peer sd"]))}
    row |= {"DESeq2: of changed": covered(*wald, lambda r: np.isfinite(r["peer sd"]) & (r["truth"] != 0))}
    return row | {
        "seconds": np.median([r["seconds"] for r in runs]),
        "DESeq2: s": np.median([r["peer seconds"] for r in runs]),
    }


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over all genes with a p."""
    result, there = np.ones(len(p)), np.isfinite(p)
    result[there] = stats.false_discovery_control(p[there])
    return result


def at_same(runs: list[dict]) -> dict[str, float]:
    """Power of both orders of genes at the same realised FDR."""
    ours, theirs = ([(score(run), run["truth"]) for run in runs] for score in (lambda r: r["lfsr"], p_of))
    its_fdr, its_power = np.mean([judged(run["padj"] <= FDR, run["truth"]) for run in runs], 0)
    row = {"at 5%": power_at(ours, FDR), "DESeq2 at 5%": power_at(theirs, FDR)}
    return row | {"DESeq2's own FDR": its_fdr, "at that": power_at(ours, its_fdr), "DESeq2 there": its_power}


def p_of(run: dict) -> np.ndarray:
    return np.where(np.isfinite(run["p"]), run["p"], 1.0)


def power_at(runs: list[tuple[np.ndarray, np.ndarray]], fdr: float) -> float:
    """Mean power at the largest threshold, the same in all runs, with a mean realised FDR of at most ``fdr``."""
    thresholds = np.unique(np.concatenate([np.sort(score)[: len(score) // 2] for score, _ in runs]))
    thresholds = thresholds[:: max(len(thresholds) // 4000, 1)]
    shares = []
    for score, truth in runs:
        order = np.argsort(score, kind="stable")
        called = np.searchsorted(score[order], thresholds, "right")
        false = np.concatenate([[0], np.cumsum(truth[order] == 0)])[called]
        shares.append((false / np.maximum(called, 1), (called - false) / np.sum(truth != 0)))
    realised, power = np.mean(shares, 0)
    return float(power[np.flatnonzero(realised <= fdr)].max(initial=0))


if __name__ == "__main__":
    main()
