"""The demo, `python -m scbayes demo`: fit real counts, say what was found and how sure it is, draw and save it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import scbayes as sb

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from pandas import DataFrame

HORMONES = ["INS", "GCG", "SST", "PPY", "GHRL", "IAPP", "TTR"]
BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart with any colour vision (Okabe & Ito)
CONCLUSION = """
Share is that of a cell's mRNA molecules, on average over the cells. r is the size of the negative binomial:
variance = mean + mean^2 / r, so a small r says that few cells hold most of a gene's molecules; the third table has
genes with {expressed} counts a cell or more. Intervals take cells as independent draws, whatever their donor.

How sure: for {sure} of {genes} genes the ends of the interval of the share are within a factor of 1.5; these genes
hold {held:.1%} of the counts. The others have too few counts to be known so well.

Capture: the median cell shows {middle:.1%} of its mRNA, and 90% of the cells {low:.1%} to {high:.1%}, if each has
{total:,.0f} molecules: that number is set, not learned, and only moves all cells together. The ends of the median
cell's interval are within a factor of {width:.2f}.

Does it fit? {zeros:.2%} of all entries are zero, and the fit expects {expected:.2%}, without zero inflation. In 95%
of the genes, expected and observed zeros differ by less than {off:.2f} percentage points. See check.png.
"""


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m scbayes", description="Bayesian analysis of single-cell counts.")
    parser.add_argument("--version", action="version", version=f"scbayes {sb.__version__}")
    about = "fit the shipped human pancreas counts, print what was found, and save pictures and the fitted data"
    command = parser.add_subparsers(dest="command", required=True).add_parser("demo", help=about, description=about)
    command.add_argument("--out", type=Path, default=Path("scbayes-demo"), help="folder to write to (%(default)s)")
    demo(parser.parse_args().out)


def demo(out: Path) -> None:
    """Run all steps and say how long each takes."""
    import anndata as ad

    start = perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    print(f"scbayes {sb.__version__}: human pancreas, Baron et al. (2016)\n")
    with step("1/5  load and check counts: sb.pp.prepare_counts"):
        adata = sb.datasets.pancreas()
        sb.pp.prepare_counts(adata)
    with step("2/5  fit all cells and genes: sb.tl.fit"):
        sb.tl.fit(adata, model="nbvcp", progress=False)
    with step("3/5  read the posterior: sb.get.distributions"):
        genes = gene_table(adata)
    with step("4/5  draw pictures: sb.pl.loss and matplotlib"):
        pictures = draw(adata, genes, out)
    with step("5/5  save the fitted data, and read them again"):
        adata.write_h5ad(out / "pancreas.h5ad", compression="gzip")
        if not gene_table(ad.read_h5ad(out / "pancreas.h5ad")).equals(genes):
            raise SystemExit("the file does not hold what was written: please report this")
    report(adata, genes)
    print(f"Saved in {out}: {', '.join(pictures)}, and pancreas.h5ad, which read again gives exactly these numbers.")
    print(f"{perf_counter() - start:.0f} s in all.")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, then how long it took."""
    print(f"{what:<50}", end="", flush=True)
    start = perf_counter()
    yield
    print(f"{perf_counter() - start:5.1f} s", flush=True)


def quantiles(adata: "AnnData", name: str, column: str) -> dict:
    """Median and ends of the 95% interval of a parameter, as columns of a table."""
    found = sb.get.distributions(adata, backend="scipy")[name].ppf([[0.5], [0.025], [0.975]])
    return dict(zip((column, f"{column}_low", f"{column}_high"), found, strict=True))


def gene_table(adata: "AnnData") -> "DataFrame":
    """Per gene: share of the mRNA and size r with intervals, and its counts as observed and as the fit expects them."""
    import numpy as np
    import pandas as pd

    counts, mean = adata.layers["counts"], adata.var["mean_counts"].to_numpy()
    found = quantiles(adata, "composition", "share") | quantiles(adata, "r", "r")
    zeros, variance = expected(quantiles(adata, "mu", "mu")["mu"], found["r"], quantiles(adata, "nu", "nu")["nu"])
    seen = {"mean": mean, "zeros": adata.var["pct_dropout_by_counts"].to_numpy() / 100, "zeros_expected": zeros}
    seen["variance"] = np.asarray(counts.multiply(counts).mean(0)).ravel() - mean**2
    return pd.DataFrame(found | seen | {"variance_expected": variance}, index=adata.var_names)


def expected(mu, r, nu) -> tuple:
    """Fraction of zeros and variance of each gene; zeros at 64 quantiles of the capture probability."""
    import numpy as np

    zeros = (1 + np.quantile(nu, (np.arange(64) + 0.5) / 64) * (mu / r)[:, None]) ** -r[:, None]
    return zeros.mean(1), mu * nu.mean() + mu**2 * ((nu**2).mean() * (1 + 1 / r) - nu.mean() ** 2)


def report(adata: "AnnData", genes: "DataFrame", expressed: float = 0.5) -> None:
    """Print what was found, and how sure it is."""
    import numpy as np

    fit, nu = sb.get.fit(adata), quantiles(adata, "nu", "nu")
    print(f"\n{fit}")
    show(adata, "The most abundant genes", genes.nlargest(8, "share"))
    show(adata, "Hormones of the islet, and TTR", genes.loc[HORMONES])
    show(adata, "The most variable genes", genes[genes["mean"] >= expressed].nsmallest(8, "r"))
    sure = genes["share_high"] < 1.5 * genes["share_low"]
    low, middle, high = np.quantile(nu["nu"], [0.05, 0.5, 0.95])
    off = 100 * (genes["zeros"] - genes["zeros_expected"]).abs().quantile(0.95)
    facts = {"expressed": expressed, "sure": sure.sum(), "genes": len(genes), "off": off}
    facts |= {"held": genes["mean"][sure].sum() / genes["mean"].sum(), "total": fit.facts["total_mrna"]["median"]}
    facts |= {"low": low, "middle": middle, "high": high, "width": np.median(nu["nu_high"] / nu["nu_low"])}
    facts |= {"zeros": genes["zeros"].mean(), "expected": genes["zeros_expected"].mean()}
    print(CONCLUSION.format(**facts))


def show(adata: "AnnData", title: str, genes: "DataFrame") -> None:
    """Print one table of genes."""
    import scanpy as sc

    types = sc.get.aggregate(adata[:, genes.index], by="cell_type", func="mean", layer="counts")
    highest = types.obs_names[types.layers["mean"].argmax(0)]
    print(f"\n{title:<34}{'counts a cell':>13}  {'share, 95% interval':^27}  {'r, 95% interval':^24}  highest in")
    for gene, where in zip(genes.itertuples(), highest, strict=True):
        share = f"{100 * gene.share:#.3g}% ({100 * gene.share_low:#.3g} - {100 * gene.share_high:#.3g}%)"
        r = f"{gene.r:#.3g} ({gene.r_low:#.3g} - {gene.r_high:#.3g})"
        print(f"    {gene.Index:<30}{gene.mean:13.2f}  {share:>27}  {r:>24}  {where}")


def draw(adata: "AnnData", genes: "DataFrame", out: Path) -> list[str]:
    """Save the pictures; returns their names."""
    import seaborn as sns
    from matplotlib.figure import Figure

    loss, found, check = (Figure(size, layout="constrained", dpi=100) for size in ((5.5, 3.6), (10, 4.2), (10, 4.2)))
    sb.pl.loss(adata, ax=loss.subplots())
    left, right = found.subplots(1, 2, width_ratios=[1, 1.5])
    draw_shares(genes.nlargest(14, "share"), left)
    draw_sizes(genes, right)
    left, right = check.subplots(1, 2)
    draw_check(genes, "zeros", left, title="Fraction of cells without a count")
    draw_check(genes, "variance", right, title="Variance of the counts", xscale="log", yscale="log")
    pictures = {"loss.png": loss, "genes.png": found, "check.png": check}
    for name, figure in pictures.items():
        sns.despine(figure)
        figure.savefig(out / name, pil_kwargs={"optimize": True})
    return list(pictures)


def draw_shares(genes: "DataFrame", ax: "Axes") -> None:
    """Draw the share of each gene with its interval."""
    ax.errorbar(genes["share"], genes.index, xerr=ends(genes, "share"), fmt="o", ms=4, capsize=2, color=BLUE)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="share of a cell's mRNA, 95% interval", title="The most abundant genes")
    ax.set_xticks([0.005, 0.01, 0.02, 0.05], ["0.5%", "1%", "2%", "5%"])
    ax.minorticks_off()


def draw_sizes(genes: "DataFrame", ax: "Axes") -> None:
    """Draw size against mean: colour says how well r is known; hormones are named, with their intervals."""
    from matplotlib.colors import LogNorm

    style = {"xscale": "log", "yscale": "log", "gridsize": (70, 40), "cmap": "viridis_r", "norm": LogNorm(0.7, 32)}
    grid = ax.hexbin(genes["mean"], genes["r"], genes["r_high"] / genes["r_low"], lw=0, antialiased=False, **style)
    bar = ax.figure.colorbar(grid, ax=ax, extend="max", label="upper / lower end of the 95% interval of r (mean)")
    bar.set_ticks([1, 2, 4, 8, 16, 32], labels=["1", "2", "4", "8", "16", "32"])
    bar.minorticks_off()
    bar.ax.set_ylim(1, 32)
    named, offset = genes.loc[HORMONES], {"INS": (-6, 8), "SST": (4, -12), "IAPP": (-27, -10), "TTR": (-10, 8)}
    ax.errorbar(named["mean"], named["r"], yerr=ends(named, "r"), fmt="o", ms=4, capsize=2, color=ORANGE)
    for name, x, y in named[["mean", "r"]].itertuples():
        ax.annotate(name, (x, y), offset.get(name, (6, -2)), textcoords="offset points", size=9)
    ax.set(xlabel="counts per cell", ylabel="size r", title="Small r: most molecules are in few cells")


def ends(genes: "DataFrame", name: str) -> "DataFrame":
    """Distances of the ends of intervals from the median, as matplotlib takes them."""
    return genes[[f"{name}_low", f"{name}_high"]].sub(genes[name], axis=0).abs().T


def draw_check(genes: "DataFrame", what: str, ax: "Axes", **settings: str) -> None:
    """Draw what was observed against what the fit expects, one dot a gene."""
    ax.plot(genes[f"{what}_expected"], genes[what], ".", ms=2, color=BLUE, alpha=0.4, rasterized=True)
    ax.axline((0.5, 0.5), (0.6, 0.6), color=ORANGE, lw=1, label="as expected")
    ax.set(xlabel="expected under the fit", ylabel="observed", **settings)
    ax.legend(frameon=False)


if __name__ == "__main__":
    main()
