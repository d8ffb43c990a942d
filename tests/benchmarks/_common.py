"""What the benchmarks share: the data folder, the command line, the table at the end."""

# ruff: noqa: T201

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_file(name: str) -> Path:
    """Path of a real data set: in SCBAYES_DATA, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("SCBAYES_DATA") or ROOT.parent / "shared" / "data")
    path = folder / f"{name}.h5ad"
    if not path.is_file():
        raise SystemExit(f"no real data: {path} does not exist; name its folder in SCBAYES_DATA")
    return path


def parser(doc: str) -> argparse.ArgumentParser:
    """Command line with the options that all benchmarks have."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return result


def report(args: argparse.Namespace, **tables: list[dict]) -> None:
    """Print each table in markdown; write all of them to ``args.json`` if that is given."""
    for name, rows in tables.items():
        print(f"\n{name.replace('_', ' ')} ({date.today()}, {os.cpu_count()} cores)\n")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        body = [[_cell(row.get(column, "")) for column in columns] for row in rows]
        width = [max(len(line[i]) for line in [columns, *body]) for i in range(len(columns))]
        for line in [columns, ["-" * w for w in width], *body]:
            print("| " + " | ".join(text.ljust(w) for text, w in zip(line, width, strict=True)) + " |")
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items() if key != "json"}
        facts = {"date": str(date.today()), "cores": os.cpu_count(), "machine": platform.platform()}
        facts["load"] = os.getloadavg()[1]  # of the last five minutes: more than the cores, and seconds are too long
        args.json.write_text(json.dumps(facts | {"settings": settings} | tables, indent=2, default=float) + "\n")


def _cell(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def cast(tree, dtype):
    """``tree`` with all its floating-point leaves as JAX arrays of ``dtype``."""
    import jax
    import jax.numpy as jnp

    def leaf(a):
        return jnp.asarray(a, dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else jnp.asarray(a)

    return jax.tree.map(leaf, tree)
