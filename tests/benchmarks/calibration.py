"""Simulation-based calibration of all models: are posteriors right where parameters come from the priors?

Each data set is drawn from the priors that the fit is given, in shallow, typical and deep counts. Ranks of the true
parameters among draws of the posterior must be uniform: of each data set, one gene or cell at random of each third by
observed total gives one rank, and the ECDF of these is held against bands that uniform ranks stay within, as a whole,
with probability 0.99. Coverage is that of central intervals, pooled over all genes or cells of all data sets.

Data sets that are in `--out` already are not done again, so that a run can be made in parts; `--table` only reads. Name
a new file after the package was changed.
"""

# ruff: noqa: T201

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _sbc import LEVELS, N_DRAWS, SETTINGS, Design, judge, simulate
from scipy.stats import binom

MODELS = [
    (model, parameterization, 1)
    for model in ("nbdm", "zinb", "nbvcp", "zinbvcp")
    for parameterization in ("mean_disp", "standard")
]
MODELS += [("nbvcp", "mean_disp", 2)]
NAMES = [f"{model}{'_mix' if k > 1 else ''}/{parameterization}" for model, parameterization, k in MODELS]
#: Those outside are named in the table: bands of ranks; pooled coverage of 90% intervals; scalars.
BANDS, POOLED, SCALARS = 0.01, (0.88, 0.92), 0.999


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--models", nargs="+", default=NAMES, choices=NAMES, metavar="MODEL", help=" ".join(NAMES))
    cli.add_argument("--settings", nargs="+", default=["shallow", "typical", "deep"], choices=[*SETTINGS])
    cli.add_argument("--simulations", type=int, default=200)
    cli.add_argument("--jobs", type=int, default=1, help="processes")
    cli.add_argument("--out", type=Path, default=Path("calibration.jsonl"), help="one line per data set (%(default)s)")
    cli.add_argument("--table", action="store_true", help="only read what is there")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/calibration.md")
    args = cli.parse_args()
    wanted = [
        (name, setting, seed) for name in args.models for setting in args.settings for seed in range(args.simulations)
    ]
    if not args.table:
        run(wanted, args.out, args.jobs)
    place = {key: i for i, key in enumerate(wanted)}
    records = sorted((record for record in read(args.out) if key_of(record) in place), key=lambda r: place[key_of(r)])
    summaries = summarise(records)
    report(args, calibration=wide(summaries), what_fails=[row for row in summaries if row["fails"]])
    if args.docs:
        n = sum(key.startswith("p ") for row in summaries for key in row)
        note = f"{n} ECDFs, of which bands of 99% would lose {BANDS * n:.0f} if all posteriors were exact"
        print(write_table("calibration.md", "calibration", wide(summaries), note))


def design_of(name: str, setting: str) -> Design:
    model, parameterization, k = MODELS[NAMES.index(name)]
    return Design(model, parameterization, setting, k)


def key_of(record: dict) -> tuple[str, str, int]:
    return record["model"], record["setting"], record["seed"]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run(wanted: list[tuple], path: Path, jobs: int) -> None:
    done = {key_of(record) for record in read(path)}
    todo = [key for key in wanted if key not in done]
    print(f"{len(todo)} data sets to do, {len(wanted) - len(todo)} done", flush=True)
    with path.open("a") as out:
        for i, record in enumerate(in_processes(todo, jobs)):
            out.write(json.dumps(record) + "\n")
            out.flush()
            if (i + 1) % 50 == 0:
                print(f"{i + 1} of {len(todo)}", flush=True)


def in_processes(todo: list[tuple], jobs: int):
    if jobs == 1:
        yield from map(one, todo)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(one, todo, chunksize=20)


_last: list = []


def one(key: tuple[str, str, int]) -> dict:
    import jax
    import scanpy as sc

    sc.settings.verbosity = "error"
    name, setting, seed = key
    if _last != [name, setting]:  # code compiled for other shapes would take gigabytes
        jax.clear_caches()
        _last[:] = [name, setting]
    return {"model": name, "setting": setting, "seed": seed} | judge(simulate(design_of(name, setting), seed))


def summarise(records: list[dict]) -> list[dict]:
    """A row for each model, setting and functional."""
    from scbayes.stats._ecdf_bands import judge_ranks

    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["model"], record["setting"]), []).append(record)
    rows = []
    for (model, setting), group in groups.items():
        for name, of_strata in group[0]["ranks"].items():
            row = {"model": model, "setting": setting, "what": name, "n": len(group)}
            p = {s: judge_ranks(np.array([g["ranks"][name][s] for g in group]), N_DRAWS).p for s in of_strata}
            row |= {f"p {s}": value for s, value in p.items()}
            fails = ["ranks"] if min(p.values()) < BANDS else []
            if name == "assignment":
                row["error"] = calibration_error(group)
            else:
                row |= coverage(group, name)
                fails += failures(row, scalar=list(p) == ["all"])
            rows.append(row | {"fails": ", ".join(fails)})
    return rows


def coverage(group: list[dict], name: str) -> dict[str, float]:
    """Coverage by draws and by `get.distributions`, and the standard error between data sets of the first at 90%."""
    held = np.array([np.sum(list(g["held"][name].values()), 0) for g in group], float)
    found = {f"{level:.0%}": float(held[:, i + 1].sum() / held[:, 0].sum()) for i, level in enumerate(LEVELS)}
    found["se of 90%"] = float(np.std(held[:, 2] / held[:, 0], ddof=1) / np.sqrt(len(held)))
    if name in group[0]["intervals"]:
        of_fit = np.array([g["intervals"][name] for g in group], float).sum(0)
        found["90% of get.distributions"] = float(of_fit[2] / of_fit[0])
    return found


def failures(row: dict, *, scalar: bool) -> list[str]:
    found = []
    for name in ("90%", "90% of get.distributions"):
        low, high = POOLED
        if scalar:
            low, high = np.array(binom.interval(SCALARS, row["n"], 0.9)) / row["n"]
        if name in row and not low <= row[name] <= high:
            found.append("coverage" if name == "90%" else "distributions")
    return found


def calibration_error(group: list[dict]) -> float:
    """Expected calibration error of the most probable component, all cells of all data sets in one."""
    n, confidence, right = np.sum([g["assignment"]["bins"] for g in group], 0)
    return float(np.abs(right - confidence).sum() / n.sum())


def wide(rows: list[dict]) -> list[dict]:
    """A row for each model and setting: coverage of 90% intervals, in brackets what fails."""
    found: dict[tuple, dict] = {}
    for row in rows:
        line = found.setdefault(
            (row["model"], row["setting"]), {"model": row["model"], "counts": row["setting"], "n": row["n"]}
        )
        value = f"error {row['error']:.3f}" if "error" in row else f"{row['90%']:.3f}"
        line[row["what"]] = f"{value} ({row['fails']})" if row["fails"] else value
    return list(found.values())


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
