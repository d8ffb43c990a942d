"""Differential expression where ambient counts are among the cells' own: as they are, and with `ambient=`.

Cells of two types of the `ambient.py` in `--simulators FOLDER`, at `delta` 0.25, cells as replicates: all cells, and
draws of 10, 30 and 300 of each type. A call is false where the true log2 fold change is not beyond delta. The truth is
that of mean shares of the total, less its median over genes, which is what fold changes are relative to (`shift` is
this median). Coverage is that of the truth without ambient counts. With `ambient=` the profile is that of the droplets,
and shares of ambient counts are known. `shares`: all cells, when they are known less well. `null`: halves of one type;
median P(change) over genes, and the number of calls.

`donors`: donors as replicates, each with a soup of its own, and three times as much of it in one condition. Genes that
cells hardly express (`silent`) are in the soup in full.
"""

import time
from pathlib import Path

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _donors import donors, simulator
from _soup import denoised, with_soup
from de import FDR

DELTA = 0.25
NUMBERS = (10, 30, 300)
#: Types that are compared when shares are known less well.
PAIRS = (("T0", "T1"), ("T2", "T0"))
OURS = "as sb.tl.denoise finds them"


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--simulators", type=Path, required=True, help="folder with ambient.py")
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--draws", type=int, default=10)
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/de.md")
    args = cli.parse_args()
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    rows, nulls, facts, known = [], [], [], []
    for seed in range(args.seeds):
        cells, raw = simulator(args.simulators, "ambient")(seed=seed)
        sb.pp.ambient_profile(cells, raw, batch_key="batch", key_added="soup")
        truth, shift = true_effects(cells, "T0", "T1")
        rng = np.random.default_rng(seed)
        for n in (*NUMBERS, None):
            found = [twice(drawn(cells, ("T0", "T1"), n, rng), truth) for _ in range(args.draws if n else 1)]
            rows.append({"seed": seed, "cells of each": n or "all", "draws": len(found), "shift": shift} | mean(found))
        nulls += [{"seed": seed} | null(cells, n, args.draws, rng) for n in NUMBERS]
        facts.append({"seed": seed} | pairs(cells))
        known += [row for pair in PAIRS for row in shares(cells, pair, rng)]
    known = by(known, "shares")
    of_donors = by([row for seed in range(args.draws) for row in donors_with_soup(seed)], "donors", "shares")
    report(args, ambient=rows, null=nulls, pairs=facts, shares=known, donors=of_donors)
    if args.docs:
        of_cells = f"{cells.n_vars} genes, delta {DELTA} (log2), nominal FDR {FDR:.0%}, cells as replicates"
        sets = f"{args.seeds * len(PAIRS)} comparisons a row, "
        note = f"{args.draws} data sets a row of 1500 genes and 100 cells a donor, nominal FDR {FDR:.0%}"
        tables = (("de ambient", rows, of_cells), ("de shares", known, sets + of_cells), ("de soup", of_donors, note))
        for name, table, said in tables:
            shown = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in table]
            print(write_table("de.md", name, shown, said))  # noqa: T201


def mean(rows: list[dict]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def by(rows: list[dict], *names: str) -> list[dict]:
    """Means over the rows that agree in ``names``."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.pop(name) for name in names), []).append(row)
    return [dict(zip(names, group, strict=True)) | mean(own) for group, own in groups.items()]


def true_effects(cells, one: str, two: str) -> tuple[np.ndarray, float]:
    """Log2 fold changes relative to the typical gene, and how far that one moves."""
    kinds = list(cells.obs["cell_type"].cat.categories)
    own, other = (cells.varm["true_mean_rho"][:, kinds.index(kind)] for kind in (one, two))
    truth = np.log2(own / other)
    return truth - np.median(truth), float(np.median(truth))


def drawn(cells, kinds: tuple[str, str], n: int | None, rng: np.random.Generator):
    """``n`` cells of each of two types."""
    own = [np.flatnonzero(cells.obs["cell_type"] == kind) for kind in kinds]
    return cells[np.concatenate([part if n is None else rng.choice(part, n, replace=False) for part in own])].copy()


def table_of(cells, groupby: str, pair: tuple[str, str], **how):
    import scbayes as sb

    sb.tl.de(cells, groupby, [pair[0]], reference=pair[1], fdr=FDR, level=(0.95, 0.9), progress=False, **how)
    return sb.get.de(cells, pair[0]).set_index("names").loc[cells.var_names]


def judged(table, truth: np.ndarray, delta: float = DELTA) -> dict[str, float]:
    called, changed = table["is_de"].to_numpy(), np.abs(truth) > delta
    covered = (table["ci_low"] <= truth) & (truth <= table["ci_high"])
    share = {"FDR": np.sum(called & ~changed) / max(called.sum(), 1)}
    share |= {"power": np.sum(called & changed) / changed.sum(), "calls": called.sum()}
    share |= {"coverage": covered.mean(), "of changed": covered[changed].mean()}
    told = ~table["data_poor"].to_numpy()
    return share | {"slope": np.polyfit(truth[told], table["lfc_mean"][told], 1)[0]}


def twice(cells, truth: np.ndarray) -> dict[str, float]:
    """As they are, and with ambient counts in the mean."""
    found = judged(table_of(cells, "cell_type", ("T0", "T1"), delta=DELTA), truth)
    denoised(cells, cells.obs["amb_frac"], batch_key="batch")
    aware = judged(table_of(cells, "cell_type", ("T0", "T1"), delta=DELTA, ambient="sb"), truth)
    return found | {f"ambient: {name}": aware[name] for name in found}


def shares(cells, pair: tuple[str, str], rng: np.random.Generator) -> list[dict]:
    """All cells of two types, where shares of ambient counts are known more or less well."""
    import scbayes as sb

    truth, _ = true_effects(cells, *pair)
    cells = drawn(cells, pair, None, rng)
    rho = cells.obs["amb_frac"].to_numpy()
    noisy = np.clip(rho + rng.normal(0, 0.03, len(rho)), 0, 0.9)
    # truth is distributed around what is stated, as it is in a posterior
    low, high = rho / 1.15, rho / 0.85
    known = {
        "known": (rho, {}),
        "each with an error of 0.03": (noisy, {"sd": 0.03}),
        "15% too low by the stated sd": (low, {"level_sd": 0.15}),
        "15% too high by the stated sd": (high, {"level_sd": 0.15}),
        "15% too low, not stated": (low, {}),
    }
    found = {"counts as they are": {}, "native counts": {"layer": "native"}}
    rows = []
    for name in (*found, OURS, *known):
        if name == OURS:
            sb.tl.denoise(cells, ambient="soup", progress=False)
        elif name in known:
            denoised(cells, known[name][0], batch_key="batch", **known[name][1])
        table = table_of(cells, "cell_type", pair, delta=DELTA, **found.get(name, {"ambient": "sb"}))
        in_90 = np.mean((table["ci_low_90"] <= truth) & (truth <= table["ci_high_90"]))
        width = np.median(table["ci_high"] - table["ci_low"])
        rows.append({"shares": name} | judged(table, truth) | {"in 90%": in_90, "width": width})
    return rows


def donors_with_soup(seed: int) -> list[dict]:
    """Of one seed: 4 against 4 donors, and 4 in both conditions."""
    rows = []
    for paired in (False, True):
        cells = with_soup(donors(4, 1500, paired=paired, seed=seed), (0.05, 0.15), seed=seed)
        rng = np.random.default_rng(seed)
        truth, silent = cells.var["lfc"].to_numpy(), cells.var["silent"].to_numpy()
        sample, rho = cells.obs["sample"].cat.codes.to_numpy(), cells.obs["rho"].to_numpy()
        in_condition = (cells.obs["condition"] == "c1").to_numpy().astype(int)
        noisy = np.clip(rho + rng.normal(0, 0.03, len(rho)), 0, 0.9)
        error = 1 + 0.15 * np.clip(rng.normal(size=10), -2.5, 2.5)
        known = {
            "known": (rho, {}),
            "each with an error of 0.03": (noisy, {"sd": 0.03}),
            "levels of samples off by 15%": (rho / error[sample], {"level_sd": 0.15, "sample_key": "sample"}),
            "levels of conditions off by 15%": (
                rho / error[8:][in_condition],
                {"level_sd": 0.15, "sample_key": "condition"},
            ),
        }
        found = {"counts as they are": {}, "native counts": {"layer": "native"}}
        for name in (*found, *known):
            if name in known:
                denoised(cells, known[name][0], **known[name][1])
            how = found.get(name, {"ambient": "sb"})
            table = table_of(cells, "condition", ("c1", "c0"), sample_key="donor", **how)
            covered = ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).to_numpy()
            called = table["is_de"].to_numpy()
            of_silent = {
                "false, silent": np.sum(called & silent & (truth == 0)),
                "coverage, silent": covered[silent].mean(),
                "data_poor, silent": table["data_poor"][silent].mean(),
            }
            kind = "4, paired" if paired else "4 v 4"
            rows.append({"donors": kind, "shares": name} | judged(table, truth, 0) | of_silent)
    return rows


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
