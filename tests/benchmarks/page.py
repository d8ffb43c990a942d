"""Writes docs/benchmarks.md and its pictures from the figures in results/*.json; a part without figures is left out.

python tests/benchmarks/page.py
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from _common import ROOT
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = ROOT / "docs"
#: Colours that differ in lightness too, so that they can be told apart in grey.
DARK, BLUE, ORANGE, LIGHT = "#000000", "#0072b2", "#d55e00", "#b8a000"
#: Marker of a model, colour of a parameterization.
MODELS = {"nbdm": "v", "zinb": "^", "nbvcp": "o", "zinbvcp": "s", "nbvcp_mix": "D"}
PARAMETERIZATIONS = {"standard": "white", "mean_disp": DARK}
RUNS = {
    "scbayes": (DARK, "o", "-"),
    "dense NumPyro": (ORANGE, "s", "--"),
    "SCVI": (BLUE, "^", "-."),
    "scanpy": (LIGHT, "D", ":"),
}
CPU = "seconds of processor time"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--results", type=Path, default=RESULTS)
    cli.add_argument("--docs", type=Path, default=DOCS)
    args = cli.parse_args()
    found = {path.stem: json.loads(path.read_text()) for path in sorted(args.results.glob("*.json"))}
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        parts = [section(found[name], args.docs / "_static") for name, section in SECTIONS.items() if name in found]
    text = "\n\n".join(part.strip() for part in [INTRODUCTION, *parts]) + "\n"
    (args.docs / "benchmarks.md").write_text(text, encoding="utf-8")


INTRODUCTION = """
<!-- Written by tests/benchmarks/page.py from tests/benchmarks/results: change these, not this file. -->

# Benchmarks

What fits cost and how well they predict, beside peers. Every figure comes from one command, which installs the peers
from the package index into environments of their own, and writes this page:

```bash
python tests/benchmarks/run.py          # --quick for minutes instead of an hour, --only for a part
```

What each script does, and how to read its figures, is in `tests/benchmarks/README.md`. Seconds of processor time add
up what all cores did; unlike seconds on the clock they depend little on what else a machine does.
"""


def machine(found: dict) -> str:
    busy = f", while others used them too: load {found['load']:.0f}" if found["load"] > found["cores"] + 0.5 else ""
    return f"{found['date']}, {found['cores']} cores{busy}"


def table(rows: list[dict], columns: dict[str, str]) -> str:
    """Markdown of some columns, each with its format."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (format(row[name], kind) if row.get(name) not in {None, ""} else "" for name, kind in columns.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain(*axes) -> None:
    """Numbers in full on logarithmic axes."""
    for axis in (axis for ax in axes for axis in (ax.xaxis, ax.yaxis) if axis.get_scale() == "log"):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def save(figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)


def held_out(found: dict, folder: Path) -> str:
    """Density against time, one panel for each data set."""
    fits, curve = found["fits"], found["scvi_curve"]
    names = list(dict.fromkeys(row["data"] for row in fits))
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.6), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        _densities(ax, [row for row in fits if row["data"] == name], [row for row in curve if row["data"] == name])
        ax.set(title=name, xscale="log", xlabel=CPU)
    plain(*axes[0])
    axes[0, 0].set_ylabel("held-out density, nats per test count")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save(figure, folder, "benchmarks_held_out")
    return HELD_OUT.format(
        machine=machine(found),
        table=table(_by_model(fits, names), _columns(names)),
        verdict=_verdict(fits, curve, names),
    )


def _densities(ax, fits: list[dict], curve: list[dict]) -> None:
    for row in fits:
        if "cpu s" not in row or row["fit"] == "SCVI":
            continue
        model, parameterization = row["fit"].split()
        look = {"marker": MODELS[model], "mfc": PARAMETERIZATIONS[parameterization], "mec": DARK, "ls": "none"}
        ax.plot(row["cpu s"], row["density"], label=row["fit"], **look)
    if curve:
        ax.plot(*zip(*[(row["cpu s"], row["density"]) for row in curve], strict=True), "x-", color=BLUE, label="SCVI")
        ax.annotate(f"{curve[-1]['epochs']} epochs", (curve[-1]["cpu s"], curve[-1]["density"]), (0, -12), ha="right",
                    textcoords="offset points", color=BLUE, fontsize=8)  # fmt: skip
    ax.margins(0.08, 0.1)


def _by_model(fits: list[dict], names: list[str]) -> list[dict]:
    result = {}
    for row in fits:
        label = row["fit"].replace("nbvcp_mix", "nbvcp, 10 components,")
        line = result.setdefault(label, {"model": label})
        line |= {name: row["density"] for name in names if name == row["data"]}
        if "cpu s" in row:
            line |= {f"{row['data']} s": row["cpu s"]}
        if row["fit"] == "SCVI":
            line[f"{row['data']} epochs"] = row["epochs"]
    scvi = result.get("SCVI")
    if scvi:
        epochs = ", ".join(str(scvi[f"{name} epochs"]) for name in names if f"{name} epochs" in scvi)
        scvi["model"] = f"SCVI, {epochs} epochs"
    return list(result.values())


def _columns(names: list[str]) -> dict[str, str]:
    columns = {"model": ""}
    for name in names:
        columns |= {name: ".4f", f"{name} s": ".0f"}
    return columns


def _verdict(fits: list[dict], curve: list[dict], names: list[str]) -> str:
    """Who is ahead on each data set, and by how much."""
    lines = []
    for name in names:
        here = {row["fit"]: row for row in fits if row["data"] == name and "cpu s" in row}
        scvi = here.pop("SCVI", None)
        if scvi is None or not here:
            continue
        best = max(here, key=lambda fit: here[fit]["density"])
        ahead = here[best]["density"] - scvi["density"]
        who = f"`{best}` is ahead of SCVI" if ahead > 0 else f"SCVI is ahead of `{best}`"
        ratio = scvi["cpu s"] / here[best]["cpu s"]
        of = f"{scvi['epochs']} of its default {scvi['default epochs']} epochs"
        lines.append(f"- **{name}**: {who} by {abs(ahead):.4f} nats per count,")
        stopped = ", at which it was stopped" if scvi["epochs"] < scvi["default epochs"] else ""
        lines.append(f"  after {of}{stopped}, and {ratio:.1f} times the processor time.")
        peak = max((row for row in curve if row["data"] == name), key=lambda row: row["density"])
        if peak["epochs"] < scvi["epochs"]:  # it had begun to learn the training counts by heart
            lines.append(f"  Its best on the way was {peak['density']:.4f}, after {peak['epochs']} epochs.")
    return "\n".join(lines)


HELD_OUT = """
## Held-out density

Each molecule was held out with probability 0.2; models were fitted to the rest, and predict each cell's held-out counts
given its training counts, jointly, with all that is the cell's own integrated out:

$$
p(v_c \\mid u_c) = \\frac{{\\sum_k w_k \\int \\prod_g p(u_{{cg}} + v_{{cg}} \\mid k, \\nu / 0.8)\\, p(\\nu)\\, d\\nu}}
{{\\sum_k w_k \\int \\prod_g p(u_{{cg}} \\mid k, \\nu)\\, p(\\nu)\\, d\\nu}}
\\prod_g \\operatorname{{Binomial}}(v_{{cg}};\\, u_{{cg}} + v_{{cg}},\\, 0.2),
$$

which is the density of $v$ where each gene's rate is $\\mathrm{{Gamma}}(r_g + u_{{cg}})$. SCVI's is the same with its
latent $z$ in place of $k$ and $\\nu$, by importance sampling from its encoder, and the library size of the training
counts. Nats per held-out molecule, zeros included; higher is better.

![Held-out density against processor time, one panel for each data set: points for the models of scbayes, a rising line
for SCVI over its epochs.](_static/benchmarks_held_out.png)

{table}

`s` is processor time of the fit, from a cold start with compilation; of SCVI, with scvi-tools' defaults and one thread,
that of training alone ({machine}).

{verdict}

Why: a mixture gives each cell one of ten profiles, and what differs within a profile has to go into the sizes $r_g$.
SCVI's decoder moves along ten continuous coordinates, which pays where cells differ by degrees and where there are more
kinds of cells than components; it learns this from many passes over the dense counts. Neither integrates over what is
uncertain about the genes: scbayes is scored at posterior means, SCVI at its trained weights.
"""


def peers(found: dict, folder: Path) -> str:
    """Time and memory over cells and genes."""
    rows = found["peers"]
    by = {"cells": _most_common(rows, "genes"), "genes": _most_common(rows, "cells")}
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 6), layout="constrained", sharex="col", sharey="row")
    for column, (axis, (other, fixed)) in enumerate(by.items()):
        here = [row for row in rows if row[other] == fixed]
        for name, (colour, marker, line) in RUNS.items():
            run = sorted((row for row in here if row["run"] == name), key=lambda row: row[axis])
            for ax, what in zip(axes[:, column], ("cpu s", "peak MB"), strict=True):
                at = [row[axis] for row in run]
                ax.plot(at, [row[what] for row in run], line, marker=marker, color=colour, label=name)
                for row in run:
                    if row["extrapolated"] and what == "cpu s":
                        ax.plot(row[axis], row[what], marker, color=colour, mfc="white")
        axes[1, column].set(xlabel=f"{axis} (with {fixed:,} {other})", xscale="log")
    axes[0, 0].set(ylabel=CPU, yscale="log")
    axes[1, 0].set(ylabel="peak memory of the process, MB", yscale="log")
    plain(*axes.flat)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save(figure, folder, "benchmarks_peers")
    columns = {"cells": ",", "genes": ",", "run": "", "cpu s": ".0f", "seconds": ".0f", "second fit s": ".1f"}
    columns |= {"peak MB": ",.0f", "density": ".4f", "in r": ".3f", "in composition": ".3f", "in nu": ".3f"}
    for row in rows:
        row["run"] += "*" if row["extrapolated"] else ""
    return PEERS.format(machine=machine(found), table=table(rows, columns))


def _most_common(rows: list[dict], name: str) -> tuple[str, int]:
    other = "cells" if name == "genes" else "genes"
    values = {row[name]: len({r[other] for r in rows if r[name] == row[name]}) for row in rows}
    return name, max(values, key=values.get)


PEERS = """
## Time, memory and coverage beside peers

Counts simulated from `nbvcp` with a size of its own for each gene. `dense NumPyro` is the same model as a NumPyro
program of the dense counts, 5,000 steps of SVI with `AutoNormal`; SCVI has its defaults; scanpy's pipeline, from
`normalize_total` to `umap`, fits no model and is the yardstick. Every run is a process of its own from a cold start.

![Processor time and peak memory of the four against cells and against genes, on logarithmic
axes.](_static/benchmarks_peers.png)

Open points, and runs with a star, were stopped: their time is that of an epoch or a step times their number.

{table}

({machine}.)

`density` is the held-out density as above; the last three are shares of 95% intervals that hold the truth, of genes and
cells with 20 counts or more. SCVI has no posterior of gene-wise parameters.
"""


def scaling(found: dict, folder: Path) -> str:
    """Seconds in passes and after them, over cells and genes."""
    rows = found["scaling"]
    by = {"cells": _most_common(rows, "genes"), "genes": _most_common(rows, "cells")}
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.8), layout="constrained", sharey=True)
    for ax, (axis, (other, fixed)) in zip(axes, by.items(), strict=True):
        for fit, colour, marker in (("nbvcp mean_disp", DARK, "o"), ("nbvcp standard", ORANGE, "s")):
            run = sorted((r for r in rows if r["fit"] == fit and r[other] == fixed), key=lambda row: row[axis])
            at = [row[axis] for row in run]
            ax.plot(
                at, [row["after cpu s"] for row in run], marker + "-", color=colour, label=f"{fit}: after the passes"
            )
            ax.plot(
                at, [row["pass cpu s"] for row in run], marker + ":", color=colour, mfc="white", label=f"{fit}: passes"
            )
        if run:
            size = [(row["pairs"] + row["cells"]) / (run[0]["pairs"] + run[0]["cells"]) for row in run]
            scale = max(row["after cpu s"] for row in rows if row[axis] == at[0] and row[other] == fixed)
            ax.plot(at, [scale * s for s in size], "--", color=BLUE, label="in proportion to pairs + cells")
        ax.set(xscale="log", yscale="log", xlabel=f"{axis} (with {fixed:,} {other})")
    axes[0].set_ylabel(f"{CPU}, second fit")
    plain(*axes)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    save(figure, folder, "benchmarks_scaling")
    columns = {"cells": ",", "genes": ",", "fit": "", "nonzeros": ",", "pairs": ",", "cold seconds": ".1f"}
    columns |= {"seconds": ".1f", "pass cpu s": ".2f", "after cpu s": ".2f", "steps": "", "us each": ",.1f"}
    columns |= {"MB above data": ".0f"}
    return SCALING.format(machine=machine(found), table=table(rows, columns), device=rows[0]["device"])


SCALING = """
## How a fit grows

One pass over the non-zeros leaves histograms of the genes, (gene, count) pairs, and totals of the cells. What comes
after reads these alone, so that it should grow no faster than pairs + cells; models whose odds differ between genes
(`mean_disp`) make further passes, which are counted as such.

![Processor time of a second fit against cells and against genes: passes over the counts, what comes after, and a line
in proportion to pairs + cells.](_static/benchmarks_scaling.png)

{table}

({machine}; {device}; simulated counts.)

`cold seconds` is the first fit of a process, with compilation, `seconds` the second; `us each` is the processor time of
what comes after the passes, in microseconds per pair and cell: it falls where the fit grows slower than these.
"""


def scale(found: dict, folder: Path) -> str:
    """From disk."""
    columns = {"cells": ",", "task": "", "work s": ".1f", "work/read": ".2f", "peak MB": ",.0f"}
    return SCALE.format(machine=machine(found), table=table(found["scale"], columns))


SCALE = """
## From disk

Simulated counts of 20,000 genes at 3% density in a file; `read` walks over it in blocks of cells and sums the genes,
the others are `sb.tl.fit` of the backed file.

{table}

({machine}.)
"""


def kang(found: dict, folder: Path) -> str:
    """Real data, beside scanpy."""
    columns = {"run": "", "work s": ".1f", "wall s": ".1f", "peak MB": ",.0f"}
    columns |= {"work/scanpy work": ".2f", "wall/scanpy wall": ".2f", "second fit s": ".1f", "compilations": ""}
    return KANG.format(machine=machine(found), table=table(found["kang"], columns))


KANG = """
## Beside scanpy's usual start

kang_ifnb, 13,999 cells x 14,053 genes; `scanpy` is its pipeline from `normalize_total` to `umap`, `read` only opens the
file. Each in a fresh process: `work` is all after reading, with loading of libraries and compilation.

{table}

({machine}.)
"""


def scaling_gpu(found: dict, folder: Path) -> str:
    """The same on a GPU."""
    columns = {"cells": ",", "genes": ",", "fit": "", "cold seconds": ".1f", "seconds": ".1f", "after s": ".2f"}
    return SCALING_GPU.format(machine=machine(found), table=table(found["scaling"], columns))


SCALING_GPU = """
### On a GPU

{table}

({machine}; `run.py --gpu`.)
"""

SECTIONS = {
    "kang": kang,
    "held_out": held_out,
    "peers": peers,
    "scaling": scaling,
    "scaling_gpu": scaling_gpu,
    "scale": scale,
}

if __name__ == "__main__":
    main()
