"""Time, memory, held-out density and coverage beside peers, over growing cells and genes of simulated counts.

Counts are drawn from nbvcp with a size for each gene, with `sb.datasets.simulate`, and split as in held_out.py. Each
run has a process of its own and starts cold:

* `scbayes`: `sb.tl.fit` with its defaults (nbvcp, mean_disp).
* `dense NumPyro`: the same model on dense counts, SVI with AutoNormal, 5,000 steps of Adam (`_dense.py`).
* `SCVI`: scvi-tools' defaults but for the number of threads, in an environment of its own (`--install` makes it).
* `scanpy`: normalize_total, log1p, highly_variable_genes, pca, neighbors, umap: the yardstick, no model.

A run that would need more than `--minutes` is stopped; its time is then that of an epoch or a step times their number
(`extrapolated`), and it has no density. Coverage is the share of 95% intervals that hold the truth, of genes and cells
with 20 counts or more. SCVI has no posterior of gene-wise parameters.
"""

import json
import sys
import tempfile
from argparse import SUPPRESS
from pathlib import Path

import numpy as np
from _common import parser, report
from _predictive_density import of_fit, of_model, of_poisson
from _process import Work, alone, scvi_environment, updated
from _thinning import TRAIN, nats_per_count, thin
from scipy import sparse

CELLS, GENES = (500, 2000, 8000, 32_000), (500, 2000, 8000)
#: Genes where cells grow, and cells where genes grow.
FIXED = 500, 500
RUNS = ("scbayes", "dense NumPyro", "SCVI", "scanpy")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--cells", type=int, nargs="*", default=list(CELLS), help=f"with {FIXED[0]} genes")
    cli.add_argument("--genes", type=int, nargs="*", default=list(GENES), help=f"with {FIXED[1]} cells")
    cli.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    cli.add_argument("--minutes", type=float, default=0.75, help="for each run of a peer")
    cli.add_argument("--scvi-threads", type=int, default=1)
    cli.add_argument("--install", action="store_true", help="make SCVI's environment if it is not there")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--update", action="store_true", help="keep other rows of --json")
    cli.add_argument("--child", nargs=2, help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(child(*args.child, args)) + "\n")
        return
    python = scvi_environment(install=args.install) if "SCVI" in args.runs else None
    shapes = dict.fromkeys([(c, FIXED[0]) for c in args.cells] + [(FIXED[1], g) for g in args.genes])
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            rows += at_shape(*shape, Path(folder), python, args)
    report(args, peers=updated(args, "peers", rows, "cells", "genes", "run"))


def at_shape(n_cells: int, n_genes: int, folder: Path, python, args) -> list[dict]:
    about = {"cells": n_cells, "genes": n_genes} | simulate(n_cells, n_genes, folder, args.seed)
    rows = []
    for run in args.runs:
        if run == "SCVI" and python is None:
            continue
        if run == "SCVI":
            found = of_scvi(folder, python, args)
        else:
            found = alone(__file__, "--minutes", args.minutes, "--child", run, folder)
        rows.append(about | {"run": run} | found)
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def simulate(n_cells: int, n_genes: int, folder: Path, seed: int) -> dict:
    """Training and test counts and the truth, into `folder`."""
    import scbayes as sb

    shape = {"n_cells": n_cells, "n_genes": n_genes}
    drawn = {"log_mean": (-0.5, 1.6), "capture": (6, 54)}
    adata = sb.datasets.simulate("nbvcp", **shape, parameterization="mean_disp", **drawn, rng=seed)
    train, test = thin(adata.X.tocsr(), np.random.default_rng(seed))
    for part, x in (("train", train), ("test", test)):
        sparse.save_npz(folder / f"{part}.npz", x, compressed=False)
    mu = adata.varm["mu"][:, 0]
    nu = adata.obs["nu"].to_numpy() * mu.sum() * TRAIN  # a cell's expected total
    np.savez(folder / "truth.npz", r=adata.varm["r"][:, 0], composition=mu / mu.sum(), nu=nu)
    poisson = nats_per_count(of_poisson(train, test), test)
    return {"nonzeros": int(train.nnz), "density of Poisson": poisson}


def of_scvi(folder: Path, python: Path, args) -> dict:
    given = "--minutes", args.minutes, "--threads", args.scvi_threads, "--checkpoints", 400
    found = alone(Path(__file__).with_name("_scvi.py"), folder, *given, python=python)
    last, default = found["curve"][-1], found["default epochs"]
    row = {name: found[name] for name in ("seconds", "cpu s", "peak MB", "epochs")}
    if found["epochs"] < default:
        more = default / found["epochs"]
        return row | {"seconds": more * row["seconds"], "cpu s": more * row["cpu s"], "extrapolated": True}
    return row | {"extrapolated": False, "density": last["weighted"]}


def child(run: str, folder: str, args) -> dict:
    import anndata as ad
    import scanpy as sc

    sc.settings.verbosity = "error"
    train, test = (sparse.load_npz(Path(folder) / f"{part}.npz").tocsr() for part in ("train", "test"))
    truth = dict(np.load(Path(folder) / "truth.npz"))
    adata = ad.AnnData(train)
    return {"scbayes": scbayes, "dense NumPyro": dense, "scanpy": scanpy}[run](adata, train, test, truth, args)


def scbayes(adata, train, test, truth, args) -> dict:
    import scbayes as sb

    work = Work()
    sb.tl.fit(adata, progress=False)
    row = work.done()
    again = Work()
    sb.tl.fit(adata, progress=False)
    row |= {"second fit s": again.done()["seconds"], "extrapolated": False}
    found = sb.get.distributions(adata, backend="scipy")
    held = {name: found[name].interval(0.95) for name in ("r", "composition")}
    held["nu"] = [end * found["mu"].mean().sum() for end in found["nu"].interval(0.95)]
    return row | {"density": nats_per_count(of_fit(adata, train, test), test)} | coverage(held, truth, train)


def dense(adata, train, test, truth, args) -> dict:
    import _dense as numpyro_program

    from scbayes.models import Model, ModelConfig

    work = Work()
    found = numpyro_program.fit(train, seconds=60 * args.minutes)
    row = work.done()
    rest = numpyro_program.N_STEPS - found["steps"]
    row |= {"steps": found["steps"], "ms a step": 1e3 * found["seconds a step"], "extrapolated": rest > 0}
    if rest:
        return row | {name: row[name] + rest * found[f"{name} a step"] for name in ("seconds", "cpu s")}
    model, priors = Model.of(ModelConfig("nbvcp", "mean_disp")), {"nu": numpyro_program.nu_prior()}
    log_density = of_model(model, priors, numpyro_program.parameters(found, train.shape[0]), train, test)
    held = numpyro_program.intervals(found)
    return row | {"density": nats_per_count(log_density, test)} | coverage(held, truth, train)


def scanpy(adata, *_) -> dict:
    import scanpy as sc
    from kang import standard_start

    work = Work()
    standard_start(sc, adata)
    return work.done() | {"extrapolated": False}


def coverage(held: dict, truth: dict, train) -> dict[str, float]:
    """Share of intervals that hold the truth."""
    of = {"r": train.sum(0), "composition": train.sum(0), "nu": train.sum(1)}
    result = {}
    for name, (low, high) in held.items():
        seen = np.asarray(of[name]).ravel() >= 20
        result[f"in {name}"] = float(((low <= truth[name]) & (truth[name] <= high))[seen].mean())
    return result


if __name__ == "__main__":
    main()
