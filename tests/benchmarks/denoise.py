"""Ambient counts taken out of cells, beside an oracle, other packages and what is simple, where the truth is known.

Data (`_ambient_data.py`): cells of the `ambient.py` in `--simulators FOLDER`; the same with genes that are silent in
some types and programmes of genes that vary within them (`_ambient_simulation.py`); real cells with added soup of known
shares in two batches; cells of two species with one soup; 20,000 simulated cells x 20,000 genes, for time and memory
of ours alone. Methods (`_ambient_methods.py`): nothing (raw counts), a flat subtraction at the true mean, an EM that
knows the types, the oracle (`_ambient_oracle.py`), SoupX, DecontX, scvi-tools' SCAR (on few data: it takes minutes) and
`sb.tl.denoise`, with and without the types. All get the true profile. Measures: `_ambient_scores.py`.

What a method returned is kept in `--folder`, and so are its scores; what is there is not run again. `--again` runs ours
again, `--rescore` scores all again.

Of real cells, the share of ambient counts is scored against 1 - (1 - added) (1 - what the method finds in cells of the
same kind to which nothing was added), and the counts against those before soup was added. `short` is how much less is
removed than the oracle's posterior means do, where as much is kept. `in 90%` is the share of cells whose interval holds
the truth; `constant` the error of one share for all cells, the true mean.
"""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
from _ambient_data import cases
from _ambient_methods import ELSEWHERE, HERE, load, rounded, save
from _ambient_scores import Truth, at_same, count_scores, rho_scores
from _common import parser, report
from _docs_table import write_table
from _process import Work, environment

#: Data that SCAR is run on.
FOR_SCAR = ("sim seed=0", "pbmc_facs", "scmix_sc_celseq2", "scmix_sc_dropseq")
PEERS = {"ambient": ("pysoupx", "decontx-scanpy"), "scvi": ("scvi-tools",)}
OURS = ("ours", "ours, types known")
SCRIPT = Path(__file__).with_name("_ambient_methods.py")
#: Columns of the page.
RHO = ("mean rho", "corr", "ratio", "in 90%", "RMSE rho", "constant", "flagged", "seconds", "peak MB")
COUNTS = ("kept", "removed", "removed/true", "short", "RMSE", "LFC error", "r log1p", "new markers", "above zero")
#: Methods that the page leaves out.
NOT_SHOWN = ("oracle, binomial", "DecontX, no soup", "ours, types known")
SPECIES = ("foreign removed", "own kept")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="where results and scores are kept")
    cli.add_argument("--simulators", type=Path, metavar="FOLDER", help="folder with ambient.py")
    cli.add_argument("--seeds", type=int, default=5, help="of each simulation")
    cli.add_argument("--only", nargs="+", default=[""], help="data whose names start with one of these")
    cli.add_argument("--methods", nargs="+", default=[*HERE, *ELSEWHERE])
    cli.add_argument("--minutes", type=float, default=60, help="that a method of another package gets")
    cli.add_argument("--install", action="store_true", help="make the environments of other packages")
    cli.add_argument("--again", action="store_true", help="run ours again")
    cli.add_argument("--rescore", action="store_true", help="score all again")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/ambient.md")
    args = cli.parse_args()
    pythons = {None: Path(sys.executable)}
    pythons |= {name: environment(name, *packages, install=args.install) for name, packages in PEERS.items()}
    scores = {}
    for name, make in cases(args.simulators, args.seeds).items():
        if name.startswith(tuple(args.only)):
            scores[name] = Case(name, make, args, pythons).scores()
            sys.stderr.write(f"{name}: {', '.join(scores[name])}\n")
    tables = {"share": rho_rows(scores), "counts": count_rows(scores, "mean")}
    tables |= {"integers": count_rows(scores, "integers"), "same": same_rows(scores)}
    report(args, **tables)
    if args.docs:
        for name, rows in tables.items():
            rows = [row for row in rows if row["method"] not in NOT_SHOWN and not row["data"].startswith("harder ")]
            shown = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
            print(write_table("ambient.md", f"denoise {name}", shown))  # noqa: T201


class Case:
    """Data with known truth, made when something has to be run or scored."""

    def __init__(self, name: str, make, args, pythons: dict) -> None:
        self.name, self.make, self.args, self.pythons = name, make, args, pythons
        self.folder = args.folder / name.replace(" ", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._cells = self._truth = None

    @property
    def cells(self) -> ad.AnnData:
        if self._cells is None:
            self._cells = self.make()
        return self._cells

    @property
    def truth(self) -> Truth:
        if self._truth is None:
            self._truth = Truth(self.cells)
        return self._truth

    def scores(self) -> dict[str, dict]:
        """Scores of each method that could be run."""
        found = {}
        for method in self.args.methods:
            if method.startswith("SCAR") and self.name not in FOR_SCAR:
                continue
            if self.name == "large" and method not in OURS:
                continue
            result, kept = self.folder / f"{method}.npz", self.folder / f"{method}.json"
            if (self.args.again and method in OURS) or not result.is_file():
                facts = self.run(method, result)
                if facts is None:
                    continue
                kept.write_text(json.dumps({"facts": facts}))
            row = json.loads(kept.read_text())
            if "rho" not in row or self.args.rescore:
                row = {"facts": row["facts"]} | self.scored(load(result))
                kept.write_text(json.dumps(row, default=float))
            found[method] = row
        return found

    def run(self, method: str, result: Path) -> dict | None:
        """Run one method and keep what it returns; None if it cannot be run, or fails."""
        if method in HERE:
            work = Work()
            batch = self.cells.obs["batch"].cat.codes.to_numpy(np.int64)
            found = HERE[method](self.cells, self.cells.varm["profile"], batch)
            facts = work.done()
            save(result, found)
            return {"seconds": facts["seconds"]}  # memory is that of the data and all that was run before
        python = self.pythons[ELSEWHERE[method][1]]
        if python is None or (method in OURS and not there()):
            sys.stderr.write(f"{self.name}: {method} is left out, it is not installed\n")
            return None
        source = self.folder / "cells.h5ad"
        if not source.is_file():
            visible = ad.AnnData(self.cells.X, obs=self.cells.obs[["group", "batch"]], var=self.cells.var[[]])
            visible.varm["profile"] = self.cells.varm["profile"]
            visible.write_h5ad(source)
        command = [python, SCRIPT, method, source, result]
        try:
            limit = 60 * self.args.minutes
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{self.name}: {method} failed: {error}\n")
            return None
        return json.loads(done.stdout.splitlines()[-1])

    def scored(self, found: dict) -> dict:
        if "native" not in self.cells.layers:
            return {"rho": rho_scores(self.cells, found)}
        integers = found["integers"] if "integers" in found else rounded(found["native_mean"])
        row = {"rho": rho_scores(self.cells, found)}
        row["mean"] = count_scores(self.truth, found["native_mean"], integers=False)
        row["integers"] = count_scores(self.truth, integers, integers=True)
        row["curve"] = self.truth.curve(self.truth.on_observed(found["native_mean"]))
        return row


def there() -> bool:
    import scbayes as sb

    return hasattr(sb.tl, "denoise")


def setting(name: str) -> str:
    """Name of the data without the seed."""
    return name.split(" seed=", maxsplit=1)[0]


def averaged(scores: dict, row_of) -> list[dict]:
    """A row for each setting and method: means over seeds; `flagged` and `valid` as counts."""
    rows = []
    for one in dict.fromkeys(map(setting, scores)):
        runs = [found for name, found in scores.items() if setting(name) == one]
        for method in dict.fromkeys(method for run in runs for method in run):
            values = [row_of(run, method) for run in runs if method in run]
            values = [value for value in values if value]
            if values:
                rows.append({"data": one, "method": method, "n": len(values)} | combined(values))
    return rows


def combined(values: list[dict]) -> dict:
    row = {}
    for key in dict.fromkeys(key for value in values for key in value):
        there = [value[key] for value in values if key in value]
        if isinstance(there[0], bool):
            row[key] = f"{sum(there)} of {len(there)}"
        else:
            row[key] = float(np.mean(there))
    return row


def rho_rows(scores: dict) -> list[dict]:
    def row_of(run, method):
        found = dict(run[method]["rho"])
        if not found:
            return None
        found = {{"coverage": "in 90%", "RMSE constant": "constant"}.get(k, k): v for k, v in found.items()}
        facts = run[method]["facts"]
        found |= {"seconds": facts["seconds"]} | ({"peak MB": facts["peak MB"]} if "peak MB" in facts else {})
        return {key: found[key] for key in (*RHO, "width", "mean of unspiked", "RMSE added") if key in found}

    return averaged(scores, row_of)


def count_rows(scores: dict, kind: str) -> list[dict]:
    def row_of(run, method):
        if kind not in run[method]:
            return None
        found = dict(run[method][kind])
        if "oracle" in run:
            found["short"] = at_same(run["oracle"]["curve"], (found["kept"], found["removed"]))[1] - found["removed"]
        return {key: found[key] for key in (*COUNTS, *SPECIES, "valid") if key in found}

    return averaged(scores, row_of)


def same_rows(scores: dict) -> list[dict]:
    """Ours at each other method's share removed, and the other at the share that our integers remove."""

    def row_of(run, method):
        if "ours" not in run or method in {*OURS, "raw"} or "mean" not in run[method]:
            return None
        its, our_integers = run[method]["mean"], run["ours"]["integers"]
        row = {"removed": its["removed"], "kept": its["kept"]}
        row["ours keeps there"] = at_same(run["ours"]["curve"], (its["kept"], its["removed"]))[0]
        at = at_same(run[method]["curve"], (our_integers["kept"], our_integers["removed"]))[0]
        return row | {"our integers keep": our_integers["kept"], "it keeps there": at}

    return averaged(scores, row_of)


if __name__ == "__main__":
    main()
