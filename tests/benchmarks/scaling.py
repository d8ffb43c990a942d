"""How the time of a fit grows with cells and with genes: passes over the counts, and all that comes after.

Counts are simulated (nbvcp with a size for each gene, few counts a cell) once per shape, and fitted in a process of
its own, twice: cold, with compilation, and warm. `pass s` is the time in passes over the non-zeros: the summary, and
in models whose odds differ between genes the projections of counts on nodes. `after s` is the rest of the fit: it
should grow no faster than its input, the distinct (gene, count) pairs and the cells, which `us each` says: processor
time of the second fit after the passes, in microseconds, over pairs + cells.
"""

import json
import sys
import tempfile
import time
from argparse import SUPPRESS
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from _common import parser, report
from _process import Work, alone, updated
from scipy import sparse

#: Genes where cells grow, and cells where genes grow.
FIXED = 500, 10_000
CELLS, GENES = (10_000, 100_000, 1_000_000), (500, 2000, 8000, 32_000)
#: Methods of `Counts` that read the non-zeros.
PASSES = ("summarise", "weigh", "tally", "gather", "scatter", "score_cells", "score_genes")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--cells", type=int, nargs="*", default=list(CELLS), help=f"with {FIXED[0]} genes")
    cli.add_argument("--genes", type=int, nargs="*", default=list(GENES), help=f"with {FIXED[1]} cells")
    cli.add_argument("--fits", nargs="+", default=["nbvcp mean_disp", "nbvcp standard"])
    cli.add_argument("--gpu", action="store_true", help="on a GPU, if JAX finds one; else nothing is run")
    cli.add_argument("--update", action="store_true", help="keep other rows of --json")
    cli.add_argument("--child", nargs=2, help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(child(*args.child)) + "\n")
        return
    if args.gpu and not on_gpu():
        sys.stderr.write("skipped: JAX finds no GPU\n")
        return
    shapes = dict.fromkeys([(c, FIXED[0]) for c in args.cells] + [(FIXED[1], g) for g in args.genes])
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "counts.npz"
            simulate(*shape, path)
            for fit in args.fits:
                rows.append({"cells": shape[0], "genes": shape[1], "fit": fit} | alone(__file__, "--child", fit, path))
                sys.stderr.write(f"{rows[-1]}\n")
    report(args, scaling=updated(args, "scaling", rows, "cells", "genes", "fit"))


def on_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def simulate(n_cells: int, n_genes: int, path: Path) -> None:
    """Counts by the gamma-Poisson mixture, in blocks of cells: about 0.15 a gene and cell."""
    rng = np.random.default_rng(0)
    mu, r = np.exp(rng.normal(-3, 1.5, n_genes)), np.exp(rng.normal(0, 1, n_genes))
    blocks = []
    while n_cells:
        n = min(n_cells, max(1, 5_000_000 // n_genes))
        nu = rng.lognormal(0, 0.3, n)
        blocks.append(sparse.csr_array(rng.poisson(rng.standard_gamma(r, (n, n_genes)) * (mu / r) * nu[:, None])))
        blocks[-1].data = blocks[-1].data.astype(np.float32)
        n_cells -= n
    sparse.save_npz(path, sparse.vstack(blocks, format="csr").astype(np.float32), compressed=False)


def child(fit: str, path: str) -> dict:
    import anndata as ad
    import jax

    adata = ad.AnnData(sparse.load_npz(path))
    cold = measured(adata, fit)
    memory = {name: cold.pop(name) for name in ("peak MB", "MB above data")}
    facts = {"device": jax.default_backend(), "nonzeros": int(adata.X.nnz), "pairs": pairs(adata.X)} | memory
    facts |= {f"cold {name}": value for name, value in cold.items()}
    warm = measured(adata, fit)
    facts |= {name: warm[name] for name in ("seconds", "pass s", "after s", "pass cpu s", "after cpu s", "steps")}
    return facts | {"us each": 1e6 * warm["after cpu s"] / (facts["pairs"] + adata.n_obs)}


def measured(adata, fit: str) -> dict:
    import scbayes as sb

    model, parameterization = fit.split()
    work = Work()
    with passes() as spent:
        sb.tl.fit(adata, model, parameterization=parameterization, progress=False)
    row = work.done()
    seconds, cpu = np.sum(spent, axis=0)
    row |= {"pass s": seconds, "after s": row["seconds"] - seconds}
    row |= {"pass cpu s": cpu, "after cpu s": row["cpu s"] - cpu}
    return row | {"steps": sb.get.fit(adata).facts["convergence"]["n_steps"]}


def pairs(x) -> int:
    """Number of distinct (gene, count) pairs."""
    code = x.indices.astype(np.int64) * (int(x.data.max()) + 1) + x.data.astype(np.int64)
    return len(np.unique(code))


@contextmanager
def passes():
    """Seconds and processor seconds of each pass over the counts meanwhile; what a pass calls is within it."""
    from scbayes.counts import Counts

    spent, inside = [], []

    def timed(method):
        def run(*args, **kwargs):
            if inside:
                return method(*args, **kwargs)
            inside.append(True)
            start, cpu = time.perf_counter(), time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent.append((time.perf_counter() - start, time.process_time() - cpu))
                inside.clear()

        return run

    methods = {name: getattr(Counts, name) for name in PASSES if hasattr(Counts, name)}
    try:
        for name, method in methods.items():
            setattr(Counts, name, timed(method))
        yield spent
    finally:
        for name, method in methods.items():
            setattr(Counts, name, method)


if __name__ == "__main__":
    main()
