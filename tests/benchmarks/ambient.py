"""Profile of ambient RNA and calls of cells, on droplets with known truth.

Simulated droplets come from a folder with `ambient.py` (`--simulators FOLDER`), whose `simulate` returns cells and raw
droplets; real ones are those of pbmc4k_semisynthetic_raw, whose empty droplets were drawn from a measured profile.
scvi-tools' `SCAR.get_ambient_profile` beside them, where it is installed (`peers.py --install`).
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
from _common import data_file, parser, report
from _docs_table import write_table
from _process import peak_mb, scvi_environment
from scipy import sparse

SETTINGS = [{}, {"seed": 1}, {"seed": 2}, {"seed": 1, "depth": 1500}, {"seed": 2, "base_sd": 2.2}]
#: Seconds that SCAR gets. Its blocks of droplets are dense: 25 of them, or the memory of most machines is short.
LONGEST = 240
SCAR = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import anndata as ad
from scvi.external import SCAR
cells, raw = ad.read_h5ad(sys.argv[1]), ad.read_h5ad(sys.argv[2])
start = time.perf_counter()
try:
    SCAR.get_ambient_profile(cells, raw, prob=float(sys.argv[3]), n_batch=25)
    profile = cells.varm["ambient_profile"][:, 0].tolist()
except Exception as error:
    profile = None
print(json.dumps({"profile": profile, "seconds": time.perf_counter() - start}))
"""


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--simulators", type=Path, metavar="FOLDER", help="folder with ambient.py; without it, real data")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/ambient.md")
    args = cli.parse_args()
    profiles, calls = [], []
    raw = ad.read_h5ad(data_file("pbmc4k_semisynthetic_raw"))
    profiles.append(real_profile(raw))
    if args.simulators:
        spec = importlib.util.spec_from_file_location("ambient", args.simulators / "ambient.py")
        simulator = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(simulator)
        profiles += [simulated_profile(simulator.simulate, **settings) for settings in SETTINGS]
        simulated = simulator.simulate(depth=600, seed=3)[1]
        calls.append({"droplets": "depth=600, seed=3"} | called(simulated.X, simulated.obs["is_cell"].to_numpy()))
    calls.append({"droplets": "pbmc4k"} | called(raw.X, raw.obs["is_cell"].to_numpy()))
    calls.append({"droplets": "pbmc4k, overlapping"} | called(*overlapping(raw)))
    report(args, profiles=profiles, calls=calls)
    if args.docs:
        for name, rows in (("profiles", profiles), ("calls", calls)):
            shown = [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
            print(write_table("ambient.md", name, shown))  # noqa: T201


def real_profile(raw: ad.AnnData) -> dict:
    import scbayes as sb

    cell, truth = raw.obs["is_cell"].to_numpy(), raw.var["soup_fraction"].to_numpy()
    cells = raw[cell].copy()
    first = timed(lambda: sb.pp.ambient_profile(cells, raw))
    row = {"droplets": "pbmc4k", "L1": l1(cells.varm["sb_ambient"][:, 0], truth), "true empties": best(raw, truth)}
    row |= {"seconds": timed(lambda: sb.pp.ambient_profile(cells, raw)), "first call": first, "peak MB": peak_mb()}
    sb.pp.ambient_profile(unknown := renamed(cells), raw, key_added="u")
    row["L1, cells unknown"] = l1(unknown.varm["u"][:, 0], truth)
    return row | scar(cells, raw, truth, 0.995)


def simulated_profile(simulate, **settings) -> dict:
    import scbayes as sb

    cells, raw = simulate(**settings)
    empty = raw[~raw.obs["is_cell"].to_numpy()]
    total = np.asarray(empty.X.sum(1)).ravel()
    by_batch = np.array([total[empty.obs["batch"] == name].sum() for name in ("b0", "b1")])
    of_batch = cells.varm["true_ambient"]
    truth = of_batch @ by_batch / by_batch.sum()
    seconds = min(timed(lambda: sb.pp.ambient_profile(cells, raw)) for _ in range(5))
    mean, sd = cells.varm["sb_ambient"][:, 0], cells.varm["sb_ambient_sd"][:, 0]
    row = {"droplets": ", ".join(f"{k}={v}" for k, v in settings.items()) or "simulated"}
    row |= {"L1": l1(mean, truth), "true empties": best(raw, truth), "seconds": seconds}
    row["in 90%"] = float(np.mean(np.abs(mean - truth) < 1.645 * sd))
    sb.pp.ambient_profile(unknown := renamed(cells), raw, key_added="u")
    row["L1, cells unknown"] = l1(unknown.varm["u"][:, 0], truth)
    row["seconds, batches"] = min(timed(lambda: sb.pp.ambient_profile(cells, raw, batch_key="batch")) for _ in range(5))
    mean, sd = cells.varm["sb_ambient"], cells.varm["sb_ambient_sd"]
    row["L1, batches"] = " ".join(f"{l1(mean[:, b], of_batch[:, b]):.4f}" for b in range(2))
    row["batches in 90%"] = float(np.mean(np.abs(mean - of_batch) < 1.645 * sd))
    return row | (scar(cells, raw, truth, 0.96) if not settings else {})


def called(x, truth: np.ndarray) -> dict:
    """Recall, and false calls of all calls, beside the best cut-off on totals with as few false calls as 1%."""
    import scbayes as sb

    raw = ad.AnnData(sparse.csr_matrix(x))
    row = {"cells": int(truth.sum())}
    seconds = 0.0
    for fdr in (0.001, 0.01):
        seconds = timed(lambda fdr=fdr: sb.pp.call_cells(raw, fdr=fdr))
        cell = raw.obs["sb_is_cell"].to_numpy()
        row |= {f"recall, fdr {fdr}": float(cell[truth].mean()), f"false, fdr {fdr}": float((~truth[cell]).mean())}
    row["expected cells"] = float(raw.obs["sb_cell_probability"].sum())
    total = np.asarray(raw.X.sum(1)).ravel()
    order = np.argsort(-total)
    share = np.cumsum(~truth[order]) / np.arange(1, len(order) + 1)
    last = np.flatnonzero(share <= 0.01)
    row["recall, totals at 1%"] = float(truth[order[: last[-1] + 1]].sum() / truth.sum()) if len(last) else 0.0
    return row | {"seconds": seconds}


def overlapping(raw: ad.AnnData) -> tuple[sparse.csr_matrix, np.ndarray]:
    """A third of the cells thinned to 110 to 1,000 counts, and 3,000 empty droplets of 100 to 1,500."""
    rng = np.random.default_rng(0)
    x, cell = sparse.csr_matrix(raw.X, dtype=np.int64), raw.obs["is_cell"].to_numpy()
    total = np.asarray(x.sum(1)).ravel()
    thin = rng.choice(np.flatnonzero(cell), cell.sum() // 3, replace=False)
    target = np.ones(len(cell))
    target[thin] = np.exp(rng.uniform(np.log(110), np.log(1000), len(thin))) / total[thin]
    x.data = rng.binomial(x.data, np.repeat(np.minimum(target, 1), np.diff(x.indptr)))
    profile = raw.var["soup_fraction"].to_numpy()
    n = np.exp(rng.uniform(np.log(100), np.log(1500), 3000)).astype(int)
    empty = sparse.vstack([sparse.csr_matrix(rng.multinomial(k, profile / profile.sum())) for k in n])
    x.eliminate_zeros()
    return sparse.vstack([x, empty], format="csr").astype(np.float32), np.append(cell, np.zeros(3000, bool))


def scar(cells: ad.AnnData, raw: ad.AnnData, truth: np.ndarray, prob: float) -> dict:
    python = scvi_environment(install=False)
    if python is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/cells.h5ad", f"{folder}/raw.h5ad"]
        for part, path in zip((cells, raw), paths, strict=True):
            ad.AnnData(part.X, obs=part.obs[[]], var=part.var[[]]).write_h5ad(path)
        command = [python, "-c", SCAR, *paths, str(prob)]
        try:
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return {"SCAR": f"stopped after {LONGEST} s (prob={prob})"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"SCAR": f"failed, exit {done.returncode} (prob={prob})"}
    found = json.loads(lines[-1])
    level = "refused" if found["profile"] is None else f"{l1(found['profile'], truth):.4f}"
    return {"SCAR": f"{level} in {found['seconds']:.0f} s (prob={prob})"}


def renamed(cells: ad.AnnData) -> ad.AnnData:
    """The cells under names that no droplet has."""
    cells = cells.copy()
    cells.obs_names = [f"unknown{i}" for i in range(cells.n_obs)]
    return cells


def best(raw: ad.AnnData, truth: np.ndarray) -> float:
    pooled = np.asarray(raw.X[~raw.obs["is_cell"].to_numpy()].sum(0)).ravel()
    return l1(pooled / pooled.sum(), truth)


def l1(found, truth) -> float:
    return float(np.abs(np.asarray(found) - truth).sum())


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
