"""Latent spaces beside scvi-tools: how well counts are described, what it takes, and what the space keeps.

Data (`_latent_data.py`), written once into `--folder` as arrays that every method reads, with one split of the cells:
`ambient` (simulated, two batches, known ambient counts), `scmix` (three cell lines by two protocols) and `kang` (blood
of eight donors with and without interferon, 16 batches). Methods: principal components of log counts, scvi-tools' SCVI
and SCAR (`_scvi_latent.py`, in an environment of its own); `sb.tl.fit` with `vae`, also with an ambient part, and with
`factors`; `sb.tl.denoise` (`_latent_methods.py`). Sizes are those of scvi-tools (10 latent, 128 hidden units,
minibatches of 128 cells); where a name has a number of epochs, the KL term has its full weight at the last of them, and
that one is taken, with scvi-tools' 400 epochs likewise. `vae` without a number has its defaults: it stops early.

Each run has a process of its own. What it found is kept in FOLDER/DATA, and not run again; `--again` runs ours again:

    RUN.json             epochs, seconds and processor seconds of training (scvi-tools': validation left out), also of
                         an epoch without compilation, peak MB after training, threads, load; of `validation` and
                         `all` cells: elbo, reconstruction, marginal (means), S of the marginal and its seconds
    RUN.npz              latent (cells x dimensions); elbo, reconstruction and marginal of cells, `_validation` in the
                         order of that part of cells.npz and `_all`; epoch_seconds, epoch_cpu; X_history at X_epochs;
                         of ambient parts rho
    RUN.native_mean.npz, RUN.integers.npz   CSR, native counts as expected and as whole numbers, likewise

Scores of latent spaces and of native counts: `_latent_scores.py`. Figures of likelihood are nats per cell. S differs
between data: compare marginals of one data set only.
"""

import json
import os
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import numpy as np
from _common import parser, report
from _docs_table import write_table
from _latent_data import SETS, prepare, read
from _latent_methods import run
from _latent_scores import native_scores, space_scores
from _process import scvi_environment
from scipy import sparse

#: Arguments of _scvi_latent.py.
FEWER = "--epochs", 100, "--warmup", 100
SCVI = {"SCVI": (), "SCVI, 100 epochs": FEWER}
SCAR = {f"SCAR {kind}, 100 epochs": ("--model", "SCAR", "--likelihood", kind, *FEWER) for kind in ("b", "nb")}
PEERS = SCVI | SCAR


def epochs(n: int, **config) -> tuple:
    return "vae", {"max_epochs": n, "kl_warmup": 1.0, "early_stopping": False} | config, None


#: Of ours: model, config, name of the ambient profile; where no epochs are given, defaults.
OURS = {
    "vae": ("vae", {}, None),
    "vae zinb": ("vae", {"likelihood": "zinb"}, None),
    "vae, 100 epochs": epochs(100),
    "vae zinb, 100 epochs": epochs(100, likelihood="zinb"),
    "vae, 400 epochs": epochs(400),
    "vae zinb, 400 epochs": epochs(400, likelihood="zinb"),
    "factors": ("factors", {}, None),
    "vae ambient nb": ("vae", {}, "profile"),
    "vae ambient b": ("vae", {"likelihood": "b"}, "profile"),
    "denoise": "denoise",
}
METHODS = ("PCA", *PEERS, *OURS)
#: What each set is for. 400 epochs of SCVI on kang take half an hour.
AT_400 = "vae, 400 epochs", "vae zinb, 400 epochs"
AT_100 = "vae, 100 epochs", "vae zinb, 100 epochs"
RUNS = {
    "ambient": METHODS,
    "scmix": ("PCA", "SCVI", "vae", "vae zinb", *AT_400, "factors"),
    "kang": ("PCA", "SCVI, 100 epochs", "vae", "vae zinb", *AT_100, "factors"),
}
#: Draws of z for the marginal: of each validation cell, and of every cell. SCAR, which takes one a pass, gets a tenth.
SAMPLES = {"ambient": (1000, 100), "scmix": (100, 10), "kang": (100, 10)}
EPOCHS = (10, 25, 50, 100, 200, 300, 400)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="where arrays and results are kept")
    cli.add_argument("--simulators", type=Path, metavar="FOLDER", help="folder with ambient.py")
    cli.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    cli.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--install", action="store_true", help="make SCVI's environment if it is not there")
    cli.add_argument("--again", action="store_true", help="run ours again")
    cli.add_argument("--kept", action="store_true", help="run nothing: tables of what is there")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/latent.md")
    cli.add_argument("--child", nargs=2, help=SUPPRESS)
    args = cli.parse_args()
    if args.child:
        child(*args.child, args)
        return
    python = scvi_environment(install=args.install) if set(args.methods) & set(PEERS) else None
    found = []
    for name in args.data:
        folder = args.folder / name
        prepare(name, folder, args.simulators)
        for method in RUNS[name]:
            if method in args.methods and there(method, folder, python, args):
                found.append((name, method, folder))
                sys.stderr.write(f"{name}: {method}\n")
    tables = {"likelihood": table(found, likelihood), "time": table(found, cost), "curve": table(found, curve)}
    tables |= {"spaces": table(found, space), "native": table(found, native)}
    tables = {name: rows for name, rows in tables.items() if rows}
    report(args, **tables)
    if args.docs:
        for name, rows in tables.items():
            shown = [{key: figure(value) for key, value in row.items()} for row in rows]
            print(write_table("latent.md", f"latent {name}", shown))  # noqa: T201


# --- runs ------------------------------------------------------------------------------------------------------------


def stem(folder: Path, method: str) -> str:
    """Path of what a method found, without its ending."""
    return str(folder / method.replace(",", "").replace(" ", "_"))


def there(method: str, folder: Path, python: Path | None, args) -> bool:
    """Whether there are results of a method, after it was run where it had to be and could be."""
    result = Path(f"{stem(folder, method)}.json")
    if result.is_file() and not (args.again and method in OURS):
        return True
    if args.kept or (method in PEERS and python is None):
        sys.stderr.write(f"{folder.name}: {method} is left out, it is not there\n")
        return False
    if method in PEERS:
        samples = [n // 10 if method in SCAR else n for n in SAMPLES[folder.name]]
        given = "--samples", *samples, "--threads", args.threads, *PEERS[method]
        script = Path(__file__).with_name("_scvi_latent.py")
        command = [python, script, folder, stem(folder, method), *given]
    else:
        command = [sys.executable, __file__, "--folder", args.folder, "--child", folder.name, method]
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return True


def child(name: str, method: str, args) -> None:
    """Run a method of this environment and keep what it found."""
    folder = args.folder / name
    load = os.getloadavg()[0]
    facts, arrays = run(read(folder), OURS.get(method, method), SAMPLES[name])
    facts |= {"load": [load, os.getloadavg()[0]]}
    for part in ("native_mean", "integers"):
        if part in arrays:
            sparse.save_npz(f"{stem(folder, method)}.{part}.npz", sparse.csr_matrix(arrays.pop(part)))
    np.savez_compressed(f"{stem(folder, method)}.npz", **arrays)
    Path(f"{stem(folder, method)}.json").write_text(json.dumps(facts, indent=2, default=float) + "\n")


# --- tables ----------------------------------------------------------------------------------------------------------


def figure(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 100 else f"{round(value, 6):.3g}"


def table(found: list[tuple[str, str, Path]], row_of) -> list[dict]:
    rows = []
    for name, method, folder in found:
        facts = json.loads(Path(f"{stem(folder, method)}.json").read_text())
        row = row_of(folder, method, facts)
        if row:
            rows.append({"data": name, "method": method} | row)
    return rows


def likelihood(folder: Path, method: str, facts: dict) -> dict | None:
    if "all" not in facts:
        return None
    row = {"epochs": facts["epochs"]}
    for part in ("all", "validation"):
        row |= {f"{score}, {part}": facts[part][score] for score in ("elbo", "reconstruction", "marginal")}
        row[f"S, {part}"] = facts[part]["samples"]
    return row


def cost(folder: Path, method: str, facts: dict) -> dict:
    row = {"epochs": facts.get("epochs", "")}
    names = ("seconds an epoch", "cpu s an epoch", "seconds", "cpu s", "peak MB", "MB above data", "threads")
    row |= {name: facts.get(name, "") for name in names}
    if "all" in facts:  # seconds of one draw of z for a thousand cells
        draws = facts["all"]["samples"] * json.loads((folder / "about.json").read_text())["cells"] / 1000
        row["marginal, ms a draw of 1,000 cells"] = 1000 * facts["all"]["marginal cpu s"] / draws
    return row | {"load": "-".join(f"{load:.1f}" for load in facts["load"])}


def curve(folder: Path, method: str, facts: dict) -> dict | None:
    """ELBO of validation cells after so many epochs."""
    with np.load(f"{stem(folder, method)}.npz") as kept:
        if "elbo_validation_history" not in kept:
            return None
        at = dict(zip(kept["elbo_validation_epochs"].tolist(), -kept["elbo_validation_history"], strict=True))
    return {f"epoch {epoch}": float(at[epoch - 1]) for epoch in EPOCHS if epoch - 1 in at}


def space(folder: Path, method: str, facts: dict) -> dict | None:
    kept = Path(f"{stem(folder, method)}.scores.json")
    result = Path(f"{stem(folder, method)}.npz")
    if "latent" not in np.load(result):
        return None
    if not kept.is_file() or kept.stat().st_mtime < result.stat().st_mtime:
        of_cells, found = np.load(folder / "cells.npz"), np.load(result)
        kept.write_text(json.dumps(space_scores(found["latent"], of_cells["batch"], of_cells["label"])) + "\n")
    return json.loads(kept.read_text())


def native(folder: Path, method: str, facts: dict) -> dict | None:
    if not Path(f"{stem(folder, method)}.native_mean.npz").is_file():
        return None
    parts = [sparse.load_npz(f"{stem(folder, method)}.{part}.npz") for part in ("native_mean", "integers")]
    x, truth = (sparse.load_npz(folder / f"{part}.npz") for part in ("counts", "native"))
    rho, true_rho = np.load(f"{stem(folder, method)}.npz")["rho"], np.load(folder / "cells.npz")["rho"]
    return native_scores(x, truth, *parts, rho, true_rho)


if __name__ == "__main__":
    main()
