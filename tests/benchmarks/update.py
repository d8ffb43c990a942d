"""Cells added to a fit, beside a fit of all cells: how far apart genes are, and what it took.

Some cells are fitted, the others added by `sb.tl.fit(update=True)` without them, and all are fitted together. Distances
are in posterior standard deviations of the fit of all cells: quantiles over genes of the means' distance after and
before the update, and of the ratio of the standard deviations. `--by-type`: the cells that are added are of other
types.
"""

import time

import numpy as np
from _common import data_file, parser, report

FITS = (
    "nbvcp mean_disp",
    "nbvcp standard",
    "zinbvcp mean_disp",
    "zinbvcp standard",
    "nbdm mean_disp",
    "zinb mean_disp",
)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data", default="pancreas", help="name in SCBAYES_DATA, or pancreas (shipped)")
    cli.add_argument("--fits", nargs="+", default=FITS, help='such as "nbvcp mean_disp"')
    cli.add_argument("--genes", type=int, default=2000, help="those with most counts")
    cli.add_argument("--added", type=float, default=0.4, help="share of the cells that are added")
    cli.add_argument("--by-type", metavar="COLUMN", help="column of obs: every second type, largest first, is fitted")
    args = cli.parse_args()
    adata = counts(args)
    if args.by_type:
        kind = adata.obs[args.by_type].astype(str)
        old = kind.isin(kind.value_counts().index[::2]).to_numpy()
    else:
        old = np.random.default_rng(0).random(adata.n_obs) >= args.added
    report(args, update=[row for fit in args.fits for row in compare(adata, old, fit)])


def counts(args):
    import anndata as ad

    import scbayes as sb

    adata = sb.datasets.pancreas() if args.data == "pancreas" else ad.read_h5ad(data_file(args.data))
    most = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[: args.genes]
    return adata[:, np.sort(most)].copy()


def compare(adata, old: np.ndarray, fit: str) -> list[dict]:
    """A row for each gene-wise parameter."""
    import scbayes as sb

    model, parameterization = fit.split()
    before, together, new = adata[old].copy(), adata.copy(), adata[~old].copy()
    seconds = {}
    for name, cells in (("before", before), ("together", together)):
        start = time.perf_counter()
        sb.tl.fit(cells, model, parameterization=parameterization, progress=False)
        seconds[name] = time.perf_counter() - start
    new.uns["sb"] = before.uns["sb"]
    start = time.perf_counter()
    sb.tl.fit(new, update=True, progress=False)
    about = {"fit": fit, "cells": len(old), "added": int((~old).sum()), "update s": time.perf_counter() - start}
    about |= {"together s": seconds["together"]}
    first, expected, found = (sb.get.fit(cells).canonical for cells in (before, together, new))
    rows = []
    for name, truth in expected.items():
        if truth.axis == "gene":
            missed, moved = (np.abs(part[name].loc - truth.loc) / truth.scale for part in (found, first))
            low, high = np.quantile(found[name].scale / truth.scale, [0.025, 0.975])
            row = {
                "parameter": name,
                "50%": np.median(missed),
                "95%": np.quantile(missed, 0.95),
                "largest": missed.max(),
            }
            rows.append(about | row | {"95% before": np.quantile(moved, 0.95), "sd 2.5%": low, "sd 97.5%": high})
    return rows


if __name__ == "__main__":
    main()
