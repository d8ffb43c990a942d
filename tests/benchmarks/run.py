"""Benchmarks with one command: figures to results/NAME.json, and the page that shows them, docs/benchmarks.md.

    python tests/benchmarks/run.py                      those of the page, about an hour on two quiet cores
    python tests/benchmarks/run.py --quick              the same on small data, minutes: printed, and not kept
    python tests/benchmarks/run.py --only scaling peers
    python tests/benchmarks/run.py --gpu                how fits grow, on a GPU; skipped where JAX finds none

SCVI is installed from the package index into an environment of its own (6 GB, under SCBAYES_PEERS or ~/.cache);
`--without-scvi` leaves it out. Real data are found as the README says; without them only what needs none is run.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from _common import data_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
#: Arguments of each benchmark, and those with `--quick`.
BENCHMARKS = {
    "kang": ([], ["--runs", "read", "nbvcp", "scanpy"]),
    "held_out": ([], ["--data", "pancreas", "--fits", "nbvcp standard", "nbvcp mean_disp", "--scvi-minutes", "1"]),
    "peers": ([], ["--cells", "500", "2000", "--genes", "--minutes", "0.3"]),
    "scaling": ([], ["--cells", "10000", "100000", "--genes", "500", "2000"]),
}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    cli.add_argument("--quick", action="store_true")
    cli.add_argument("--gpu", action="store_true")
    cli.add_argument("--without-scvi", action="store_true")
    args = cli.parse_args()
    for name in ["scaling"] if args.gpu else args.only:
        if name == "kang" and not has_data("kang_ifnb"):
            sys.stderr.write("kang is left out: no real data\n")
            continue
        options = BENCHMARKS[name][args.quick] + further(name, args)
        if not args.quick:
            options += ["--json", RESULTS / f"{name}{'_gpu' if args.gpu else ''}.json"]
        start = time.perf_counter()
        subprocess.run([sys.executable, HERE / f"{name}.py", *options], check=True)
        sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
    if not args.quick:
        subprocess.run([sys.executable, HERE / "page.py"], check=True)


def further(name: str, args) -> list[str]:
    """Options that depend on what there is."""
    options = []
    if name == "held_out" and not args.quick and not has_data("kang_ifnb"):
        options += ["--data", "pancreas"]
    if name in ("held_out", "peers"):
        without = {"held_out": ["--scvi-minutes", "0"], "peers": ["--runs", "scbayes", "dense NumPyro", "scanpy"]}
        options += without[name] if args.without_scvi else ["--install"]
    return options + (["--gpu"] if args.gpu else [])


def has_data(name: str) -> bool:
    try:
        return data_file(name).is_file()
    except SystemExit:
        return False


if __name__ == "__main__":
    main()
