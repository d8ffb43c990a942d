"""Seconds and memory of a fit from disk over growing numbers of cells, beside just reading the file.

Simulates nbvcp counts of `--cells` x `--genes`, about 3% of them non-zero, a block of cells at a time into `--folder`
(kept, and used again by the next run). Each task runs in a process of its own: `read` walks over the file in blocks of
rows through AnnData and sums the genes, the others are `sb.tl.fit` of the backed file with a parameterization. `work`
leaves out importing and opening; compilation is in it. Files: `h5ad` (not compressed, AnnData's default), `gzip` (h5ad
with compression="gzip"), `zarr` (its default, zstd).
"""

import json
import resource
import subprocess
import sys
import time
from argparse import SUPPRESS
from pathlib import Path

import numpy as np
from _common import parser, report

TASKS = ("read", "standard", "mean_disp")
#: Cells that are simulated, or read, at a time.
BLOCK = 10_000


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    cli.add_argument("--genes", type=int, default=20_000)
    cli.add_argument("--format", default="gzip", choices=("h5ad", "gzip", "zarr"))
    cli.add_argument("--folder", type=Path, required=True, help="where files go; a million cells take 2-5 GB")
    cli.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    cli.add_argument("--child", help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(child(args.child, Path(args.folder))) + "\n")
        return
    rows = []
    for n_cells in args.cells:
        path = simulated(args.folder, n_cells, args.genes, args.format)
        found = {name: process(path, name) for name in args.tasks}
        for name, run in found.items():
            row = {"cells": n_cells, "task": name} | run
            if name != "read" and "read" in found:
                row["work/read"] = run["work s"] / found["read"]["work s"]
            rows.append(row)
    report(args, scale=rows)


def process(path: Path, name: str) -> dict:
    """One task in a process of its own, what it says of itself."""
    command = [sys.executable, __file__, "--folder", str(path), "--child", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, path: Path) -> dict:
    """Run a task on the file."""
    adata = opened(path)
    found = {}
    if name != "read":
        import scbayes as sb

        _ = sb.tl.fit  # imports are not counted
    start, cpu = time.perf_counter(), time.process_time()
    if name == "read":
        total = np.zeros(adata.n_vars)
        for first in range(0, adata.n_obs, BLOCK):
            total += np.asarray(adata.X[first : first + BLOCK].sum(0)).ravel()
    else:
        sb.tl.fit(adata, "nbvcp", parameterization=name, progress=False)
        how = sb.get.fit(adata).facts["convergence"]
        found = {"steps": how["n_steps"], "converged": how["converged"]}
    work, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"non-zeros": adata.X.group["data"].shape[0], "work s": work, "cpu s": cpu, "peak MB": peak} | found


def opened(path: Path):
    """The file as AnnData, its counts on disk."""
    import anndata as ad
    import zarr

    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    root = zarr.open_group(path, mode="r")
    frames = {name: ad.io.read_elem(root[name]) for name in ("obs", "var")}
    return ad.AnnData(X=ad.io.sparse_dataset(root["X"]), **frames)


def simulated(folder: Path, n_cells: int, n_genes: int, kind: str) -> Path:
    """Simulate the counts, unless the file is there."""
    import anndata as ad
    import h5py
    import pandas as pd
    import zarr

    path = folder / f"{n_cells}x{n_genes}-{kind}.{'zarr' if kind == 'zarr' else 'h5ad'}"
    if path.exists():
        return path
    part = path.with_name("unfinished-" + path.name)
    folder.mkdir(parents=True, exist_ok=True)
    root = zarr.open_group(part, mode="w") if kind == "zarr" else h5py.File(part, "w")
    ad.io.write_elem(
        root,
        "/",
        ad.AnnData(
            obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]),
            var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
        ),
    )
    rng = np.random.default_rng(0)
    size = np.exp(rng.normal(-2, 1.5, n_genes))
    for first in range(0, n_cells, BLOCK):
        block = counts(rng, size, min(BLOCK, n_cells - first))
        if first == 0:
            how = {"compression": "gzip"} if kind == "gzip" else {}
            ad.io.write_elem(root, "X", block, dataset_kwargs=how)
            x = ad.io.sparse_dataset(root["X"])
        else:
            x.append(block)
    if kind != "zarr":
        root.close()
    return part.rename(path)


def counts(rng: np.random.Generator, size: np.ndarray, n_cells: int):
    """Negative binomial counts of some cells: Poisson many clumps of molecules, whose sizes have a logarithmic law."""
    from scipy import sparse

    total = size.sum()
    odds = np.exp(rng.normal(np.log(0.033 * len(size) / total), 0.4, n_cells))
    clumps = rng.poisson(total * np.log1p(odds))
    cell = np.repeat(np.arange(n_cells), clumps)
    gene = np.searchsorted(np.cumsum(size) / total, rng.random(len(cell)))
    molecules = rng.logseries(odds[cell] / (1 + odds[cell])).astype(np.float32)
    return sparse.coo_matrix((molecules, (cell, gene)), shape=(n_cells, len(size))).tocsr()


if __name__ == "__main__":
    main()
