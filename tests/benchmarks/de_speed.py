"""Seconds of differential expression: each of the ten types of kang_ifnb against the rest, all genes.

Each run has a process of its own and starts cold: `first s` has the compilation, `again s` is the second call.
`cells`: cells as replicates; `donor`, `sample`: units of 8 donors, or of 16 samples (donor and condition), in both
arms, so paired. `wilcoxon`, `t-test`: `sc.tl.rank_genes_groups` on log-normalised counts, without the seconds of the
normalisation. `cpu s` are those of the second call over all cores, which a busy machine does not change.
"""

import json
import sys
import time
from argparse import SUPPRESS

from _common import data_file, parser, report
from _docs_table import write_table
from _process import Work, alone

RUNS = ("cells", "donor", "sample", "wilcoxon", "t-test")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    cli.add_argument("--docs", action="store_true", help="write the table into docs/de.md")
    cli.add_argument("--child", help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(child(args.child)) + "\n")
        return
    rows = [{"run": run} | alone(__file__, "--child", run) for run in args.runs]
    report(args, speed=rows)
    if args.docs:
        shown = [{k: f"{v:.1f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        print(write_table("de.md", "de speed", shown, "13,999 cells x 14,053 genes, ten groups"))  # noqa: T201


def child(run: str) -> dict:
    import anndata as ad
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    adata = ad.read_h5ad(data_file("kang_ifnb"))
    scanpys = run in ("wilcoxon", "t-test")
    if scanpys:
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    work = Work()
    seconds, cpu = [], 0.0
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        if scanpys:
            sc.tl.rank_genes_groups(adata, "cell_type_derived", method=run)
        else:
            sb.tl.de(adata, "cell_type_derived", sample_key=None if run == "cells" else run)
        seconds.append(time.perf_counter() - start)
        cpu = time.process_time() - cpu
    return {"first s": seconds[0], "again s": seconds[1], "cpu s": cpu, "MB above data": work.done()["MB above data"]}


if __name__ == "__main__":
    main()
