"""Runs in processes of their own, in this environment or in that of another package."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

#: Where environments of other packages are made, one folder each: gigabytes, so outside the checkout.
PEERS = Path(os.environ.get("SCBAYES_PEERS") or Path.home() / ".cache" / "scbayes-peers")


def alone(script: str, *arguments, python: Path | str = sys.executable) -> dict:
    """What `script` prints as its last line, JSON; its other output is let through."""
    done = subprocess.run([python, script, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def environment(name: str, *packages: str, install: bool) -> Path | None:
    """Python of an environment with other packages, installed from the package index if asked for.

    PyPI's torch for Linux brings the libraries of CUDA: 6 GB on disk.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "installed").is_file() and install:
        sys.stderr.write(f"installing {', '.join(packages)} into {folder}\n")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "installed").write_text("\n".join(packages))
    return python if (folder / "installed").is_file() else None


def scvi_environment(*, install: bool) -> Path | None:
    python = environment("scvi", "scvi-tools", install=install)
    if python is None:
        sys.stderr.write("SCVI is left out: not installed (--install)\n")
    return python


def updated(args, table: str, rows: list[dict], *keys: str) -> list[dict]:
    """With `--update`, the rows that `--json` already has, where these are not measured anew, before ``rows``."""
    if not (args.update and args.json and args.json.is_file()):
        return rows
    new = {tuple(row[key] for key in keys) for row in rows}
    old = json.loads(args.json.read_text()).get(table, [])
    return [row for row in old if tuple(row[key] for key in keys) not in new] + rows


class Work:
    """Seconds, seconds of the processor, and peak memory since the start."""

    def __init__(self) -> None:
        self.at_start = peak_mb()
        self.start, self.cpu = time.perf_counter(), time.process_time()

    def done(self) -> dict[str, float]:
        seconds, cpu, peak = time.perf_counter() - self.start, time.process_time() - self.cpu, peak_mb()
        return {"seconds": seconds, "cpu s": cpu, "peak MB": peak, "MB above data": peak - self.at_start}


def peak_mb() -> float:
    """Peak resident set of this process; the system's own figure may be that of the parent, which it starts from."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
