"""Which model predicts counts best: log density of held-out molecules of real data, and what it took.

Every count is split by binomial thinning: each molecule goes to training with probability 0.8, else to the test.
Models are fitted to the training counts, and score each cell's test counts given its training counts, jointly, with
all integrated out that is the cell's own: its component, its nu, and the gamma rates of its genes; SCVI's latent z by
importance sampling. `_predictive_density.py` and `_scvi.py` have the formulas. Figures are nats per test molecule,
zeros included; higher is better.

Each fit has a process of its own, from a cold start: seconds are those of the fit, with compilation and without
scoring. SCVI runs in an environment of its own (`--install` makes it), with its defaults but for one thread
(`--scvi-threads`; two are slower where the machine does anything else) and the minutes that it is given; it is scored
on the way, and its seconds exclude that.
"""

import json
import sys
import tempfile
from argparse import SUPPRESS
from pathlib import Path

import numpy as np
from _common import data_file, parser, report
from _predictive_density import of_fit, of_poisson
from _process import Work, alone, scvi_environment, updated
from _thinning import nats_per_count, thin
from scipy import sparse

SETS = ("pancreas", "pbmc_facs", "kang_ifnb")
MODELS = ("nbdm", "zinb", "nbvcp", "zinbvcp", "nbvcp_mix")
FITS = tuple(f"{model} {parameterization}" for model in MODELS for parameterization in ("standard", "mean_disp"))


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data", nargs="+", default=list(SETS), help="names in SCBAYES_DATA, or pancreas (shipped)")
    cli.add_argument("--fits", nargs="*", default=list(FITS), help='such as "nbvcp mean_disp"')
    cli.add_argument("--components", type=int, default=10, help="of mixtures")
    cli.add_argument("--seed", type=int, default=0, help="of the split")
    cli.add_argument("--scvi-minutes", type=float, default=5, help="for each data set; 0: leave SCVI out")
    cli.add_argument("--scvi-threads", type=int, default=1)
    cli.add_argument("--install", action="store_true", help="make SCVI's environment if it is not there")
    cli.add_argument("--update", action="store_true", help="keep other rows of --json")
    cli.add_argument("--child", nargs=2, help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(child(*args.child, args.components)) + "\n")
        return
    python = scvi_environment(install=args.install) if args.scvi_minutes else None
    fits, curve = [], []
    for name in args.data:
        with tempfile.TemporaryDirectory() as folder:
            rows, points = data_set(name, Path(folder), python, args)
        fits += rows
        curve += points
    fits = updated(args, "fits", fits, "data", "fit")
    report(args, held_out=wide(fits), fits=fits, scvi_curve=updated(args, "scvi_curve", curve, "data"))


def wide(rows: list[dict]) -> list[dict]:
    """One row per model; density and seconds of each data set."""
    result = {}
    for row in rows:
        line = result.setdefault(row["fit"], {"fit": row["fit"]})
        line |= {row["data"]: row["density"]} | ({f"{row['data']} s": row["seconds"]} if "seconds" in row else {})
    return list(result.values())


def data_set(name: str, folder: Path, python: Path | None, args) -> tuple[list[dict], list[dict]]:
    """Rows of all models, and those of SCVI on the way."""
    import anndata as ad

    import scbayes as sb

    adata = sb.datasets.pancreas() if name == "pancreas" else ad.read_h5ad(data_file(name))
    train, test = thin(adata.X.tocsr(), np.random.default_rng(args.seed))
    for part, x in (("train", train), ("test", test)):
        sparse.save_npz(folder / f"{part}.npz", x, compressed=False)
    about = {"data": name, "cells": train.shape[0], "genes": train.shape[1], "test counts": float(test.sum())}
    rows = [about | {"fit": "Poisson", "density": nats_per_count(of_poisson(train, test), test)}]
    for fit in args.fits:
        found = alone(__file__, "--components", args.components, "--child", fit, folder)
        rows.append(about | {"fit": fit} | found)
        sys.stderr.write(f"{rows[-1]}\n")
    if python is None:
        return rows, []
    given = "--minutes", args.scvi_minutes, "--threads", args.scvi_threads
    row, points = of_scvi(alone(Path(__file__).with_name("_scvi.py"), folder, *given, python=python))
    return [*rows, about | row], [about | point for point in points]


def of_scvi(found: dict) -> tuple[dict, list[dict]]:
    """What SCVI reached, and its way there: importance sampling is its figure, and the encoder's q beside it."""
    points = found.pop("curve")
    points = [row | {"density": row.pop("weighted"), "density by q": row.pop("sampled")} for row in points]
    return {"fit": "SCVI"} | found | {name: points[-1][name] for name in ("density", "density by q")}, points


def child(fit: str, folder: str, n_components: int) -> dict:
    import anndata as ad

    import scbayes as sb

    train, test = (sparse.load_npz(Path(folder) / f"{part}.npz").tocsr() for part in ("train", "test"))
    adata = ad.AnnData(train)
    model, parameterization = fit.split()
    mixed = {"n_components": n_components} if model.endswith("_mix") else {}
    work = Work()
    sb.tl.fit(adata, model, parameterization=parameterization, progress=False, **mixed)
    row = work.done() | {"converged": sb.get.fit(adata).converged}
    scoring = Work()
    density = of_fit(adata, train, test)
    return row | {"density": nats_per_count(density, test), "scoring s": scoring.done()["seconds"]}


if __name__ == "__main__":
    main()
