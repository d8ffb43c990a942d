"""Differential expression between types of cells, cells as replicates, with ambient counts among their own.

Cells of two types of the `ambient.py` in `--simulators FOLDER`, at `delta` 0.25: all cells, and draws of 10, 30 and 300
of each type. A call is false where the true log2 fold change is not beyond delta. The truth is that of mean shares of
the total, less its median over genes, which is what fold changes are relative to (`shift` is this median).

Coverage is that of the truth without ambient counts, which pull fold changes towards zero: take them out first where
sizes matter. `null`: halves of one type; median P(change) over genes, and the number of calls.
"""

import time
from pathlib import Path

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _donors import simulator
from de import FDR

DELTA = 0.25
NUMBERS = (10, 30, 300)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--simulators", type=Path, required=True, help="folder with ambient.py")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--draws", type=int, default=10)
    cli.add_argument("--docs", action="store_true", help="write the table into docs/de.md")
    args = cli.parse_args()
    import scanpy as sc

    sc.settings.verbosity = "error"
    rows, nulls, facts = [], [], []
    for seed in range(args.seeds):
        cells, _ = simulator(args.simulators, "ambient")(seed=seed, n_empty=100)
        truth = np.log2(np.divide(*cells.varm["true_mean_rho"][:, :2].T))
        shift = float(np.median(truth))
        rng = np.random.default_rng(seed)
        for n in (*NUMBERS, None):
            found = [judged(drawn(cells, n, rng), truth - shift) for _ in range(args.draws if n else 1)]
            mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
            rows.append({"seed": seed, "cells of each": n or "all", "draws": len(found), "shift": shift} | mean)
        nulls += [{"seed": seed} | null(cells, n, args.draws, rng) for n in NUMBERS]
        facts.append({"seed": seed} | pairs(cells))
    report(args, ambient=rows, null=nulls, pairs=facts)
    if args.docs:
        shown = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        note = f"{cells.n_vars} genes, delta {DELTA} (log2), nominal FDR {FDR:.0%}, cells as replicates"
        print(write_table("de.md", "de ambient", shown, note))  # noqa: T201


def drawn(cells, n: int | None, rng: np.random.Generator):
    """``n`` cells of each of the first two types."""
    own = [np.flatnonzero(cells.obs["cell_type"] == kind) for kind in ("T0", "T1")]
    return cells[np.concatenate([part if n is None else rng.choice(part, n, replace=False) for part in own])].copy()


def judged(cells, truth: np.ndarray) -> dict[str, float]:
    import scbayes as sb

    sb.tl.de(cells, "cell_type", ["T0"], reference="T1", delta=DELTA, fdr=FDR)
    table = sb.get.de(cells, "T0").set_index("names").loc[cells.var_names]
    called, changed = table["is_de"].to_numpy(), np.abs(truth) > DELTA
    covered = (table["ci_low"] <= truth) & (truth <= table["ci_high"])
    share = {"FDR": np.sum(called & ~changed) / max(called.sum(), 1)}
    share |= {"power": np.sum(called & changed) / changed.sum(), "calls": called.sum()}
    return share | {"coverage": covered.mean(), "of changed": covered[changed].mean()}


def null(cells, n: int, draws: int, rng: np.random.Generator) -> dict:
    import scbayes as sb

    p, calls = [], []
    for _ in range(draws):
        part = cells[rng.choice(np.flatnonzero(cells.obs["cell_type"] == "T0"), 2 * n, replace=False)].copy()
        part.obs["half"] = np.repeat(["x", "y"], n)
        sb.tl.de(part, "half", ["x"], reference="y", delta=DELTA, fdr=FDR)
        table = sb.get.de(part, "x")
        p.append(table["p_de"].median())
        calls.append(int(table["is_de"].sum()))
    return {
        "cells of each": n,
        "draws": draws,
        "median P": np.mean(p),
        "calls": np.mean(calls),
        "most calls": max(calls),
    }


def pairs(cells) -> dict:
    """Seconds of all pairs of types, with compilation and again; whether two runs say the same."""
    import scbayes as sb

    kinds, seconds, tables = list(cells.obs["cell_type"].cat.categories), [], []
    for _ in range(2):
        start = time.perf_counter()
        for k, kind in enumerate(kinds[:-1]):
            sb.tl.de(
                cells, "cell_type", kinds[k + 1 :], reference=kind, delta=DELTA, key_added=f"of {kind}", progress=False
            )
        seconds.append(time.perf_counter() - start)
        tables.append(sb.get.de(cells, key=f"of {kinds[0]}"))
    same = tables[0].equals(tables[1])
    return {
        "pairs": len(kinds) * (len(kinds) - 1) // 2,
        "first s": seconds[0],
        "again s": seconds[1],
        "same": str(same),
    }


if __name__ == "__main__":
    main()
