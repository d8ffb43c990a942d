"""Every picture of `sb.pl` on the shipped pancreas, on one sheet, and the same in grey: are they legible?

`python docs/pictures.py --out pictures.png` writes pictures.png and pictures-grey.png, and each picture alone with
`--each FOLDER`. Fits take a few minutes on two cores.
"""

# ruff: noqa: T201

import argparse
import io
from pathlib import Path
from time import perf_counter

import matplotlib as mpl

mpl.use("Agg")

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont
from scipy import sparse

import scbayes as sb

MARKERS = ["INS", "GCG", "SST", "PPY", "REG1A", "SPP1", "COL1A1"]  # stand in for hashtags
GENES = ["INS", "GCG", "REG1A", "SPP1"]
#: What is drawn, as a user would write it.
PICTURES = [
    "sb.pl.loss(adata)",
    "sb.pl.loss(adata, ['sb', 'zinb', 'mix'])",
    "sb.pl.latent(adata, color=['cell_type', 'donor', 'INS'])",
    "sb.pl.latent(adata, method='tsne', color='cell_type', names=True)",
    "sb.pl.latent(adata, method=None, color='cell_type')",
    "sb.pl.loss(adata, 'vae')",
    "sb.pl.loss(adata, ['vae', 'narrow'])",
    "sb.pl.correlation(adata, key='vae')",
    f"sb.pl.correlation(adata, {MARKERS}, 'vae')",
    "sb.pl.imputation(adata, 'vae')",
    "sb.pl.imputation(adata, 'narrow')",
    "sb.pl.choose_components(adata)",
    "sb.pl.lfc_volcano(adata, 'beta')",
    "sb.pl.abundance(adata)",
    "sb.pl.lfc_volcano(adata, 'beta', y='p_de')",
    "sb.pl.ma(adata, 'beta')",
    "sb.pl.lfc_forest(adata, 'beta')",
    "sb.pl.lfc_forest(adata, ['beta', 'alpha'], genes=['INS', 'GCG', 'IAPP', 'TTR', 'ACTB'])",
    "sb.pl.compare(adata)",
    "sb.pl.compare(adata, by='gene')",
    "sb.pl.calibration(adata)",
    "sb.pl.calibration(adata, 'mix')",
    "sb.pl.calibration(adata, 'mix', bin='high')",
    "sb.pl.assignments(adata, 'mix')",
    "sb.pl.assignments(adata, 'mix', groupby='cell_type')",
    "sb.pl.assignments(adata, 'typed', groupby='cell_type')",
    "sb.pl.entropy(adata, 'mix')",
    "sb.pl.entropy(adata, 'typed', groupby='cell_type')",
    "sb.pl.composition(adata)",
    "sb.pl.composition(adata, 'mix', n_genes=12)",
    "sb.pl.composition(adata, 'typed', genes=['INS', 'GCG', 'SST', 'PPY', 'GHRL', 'TTR'])",
    "sb.pl.barcode_rank(adata)",
    "sb.pl.ambient(adata)",
    "sb.pl.contamination(adata)",
    "sb.pl.contamination(adata, groupby='donor')",
    f"sb.pl.denoised(adata, {MARKERS})",
    "sb.pl.features(adata)",
    "sb.pl.ppc(adata)",
    "sb.pl.ppc(adata, 'mix')",
    "sb.pl.ppc(adata, kind=['mean', 'total', 'detected'])",
    f"sb.pl.ppc(adata, genes={GENES})",
    f"sb.pl.ppc(adata, 'mix', genes={GENES})",
    "sb.pl.residuals(adata)",
    "sb.pl.residuals(adata, 'mix')",
    "sb.pl.residuals(adata, kind='shared', genes=['INS', 'GCG'])",
    "sb.pl.residuals(adata, kind='zeros_excess')",
    "sb.pl.residuals(adata, kind='mean')",
    "sb.pl.residuals(adata, kind='variance_ratio')",
    "sb.pl.residuals(adata, kind='ks')",
    "sb.pl.residuals(adata, kind='uniform')",
    f"sb.pl.residuals(adata, kind='uniform', genes={GENES})",
]
WIDTH, GAP, DPI = 2600, 36, 110


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--out", type=Path, default=Path("pictures.png"), help="the sheet (%(default)s)")
    cli.add_argument("--each", type=Path, metavar="FOLDER", help="also save each picture here")
    args = cli.parse_args()
    missing = set(sb.pl.__all__) - {picture.split("(")[0].removeprefix("sb.pl.") for picture in PICTURES}
    if missing:
        raise SystemExit(f"PICTURES leaves out {sorted(missing)}")
    start = perf_counter()
    adata = prepared()
    print(f"computed in {perf_counter() - start:.0f} s", flush=True)
    drawn = [(code, draw(code, adata)) for code in PICTURES]
    if args.each:
        args.each.mkdir(parents=True, exist_ok=True)
        for i, (_, image) in enumerate(drawn):
            image.save(args.each / f"{i:02d}.png")
    sheet = put_together(drawn)
    sheet.save(args.out, optimize=True)
    sheet.convert("L").save(grey := args.out.with_stem(args.out.stem + "-grey"), optimize=True)
    print(f"{len(drawn)} pictures in {args.out} and {grey}, {perf_counter() - start:.0f} s in all")


def prepared():
    """All that is drawn, computed."""
    sc.settings.verbosity = "warning"
    adata = sb.datasets.pancreas()
    sb.pp.prepare_counts(adata, n_top_genes=1500)
    quiet = {"progress": False}
    sb.tl.fit(adata, **quiet)
    expression = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
    adata.obsm["X_sb"] = sc.pp.pca(expression, n_comps=10, copy=True).obsm["X_pca"]
    sb.tl.fit(adata, "zinb", key_added="zinb", **quiet)
    sb.tl.fit(adata, n_components=10, key_added="mix", **quiet)
    sb.tl.fit(adata, labels_key="cell_type", key_added="typed", **quiet)
    sb.tl.fit(adata, "vae", key_added="vae", **quiet)
    sb.tl.fit(adata, "vae", key_added="narrow", config={"n_latent": 3, "n_hidden": 32, "max_epochs": 20}, **quiet)
    sb.tl.correlation(adata, "vae")
    sb.tl.impute(adata, "vae")
    sb.tl.impute(adata, "narrow", corruption="binomial")
    sb.tl.choose_components(adata, (1, 2, 4, 8), **quiet)
    sb.tl.compare(adata, ["sb", "zinb", "mix"], n_samples=50, n_cells=700, **quiet)
    sb.tl.de(adata, "cell_type", ["beta", "alpha"], sample_key="donor")
    sb.tl.abundance(adata, "cell_type", "donor", sample_key="library")
    sb.pp.ambient_profile(adata, with_empty_droplets(adata))
    sb.tl.denoise(adata, groupby="cell_type", **quiet)
    adata.var["feature_types"] = np.where(adata.var_names.isin(MARKERS), "marker", "gene")
    sb.tl.call_features(adata, feature_types="marker")
    for key in ("sb", "mix"):
        sb.tl.calibrate(adata, key, n_simulations=4, max_cells=500, max_genes=300, **quiet)
        sb.tl.predict(adata, key, n_samples=50, genes=GENES, **quiet)
        sb.tl.residuals(adata, key, genes=GENES)
    for key in ("sb", "mix", "typed"):
        sb.tl.normalize_counts(adata, key)
    sb.tl.assign(adata, "mix", temperature=20.0, **quiet)
    sb.tl.entropy(adata, "mix", assigned="mix", **quiet)
    sb.tl.assign(adata, "typed", calibrate="cell_type", unknown=0.02, **quiet)
    sb.tl.entropy(adata, "typed", assigned="typed", **quiet)
    return adata


def with_empty_droplets(adata):
    """The cells, and droplets with a soup of them."""
    rng = np.random.default_rng(0)
    profile = np.asarray(adata.layers["counts"].sum(0), float).ravel() ** 0.9
    totals = rng.lognormal(np.log(60), 0.6, 10_000).astype(int)
    empty = sparse.vstack([sparse.csr_matrix(rng.multinomial(n, profile / profile.sum())) for n in totals])
    cells = sparse.csr_matrix(adata.layers["counts"])
    names = [*adata.obs_names, *(f"empty{i}" for i in range(len(totals)))]
    return ad.AnnData(sparse.vstack([cells, empty], format="csr"), pd.DataFrame(index=names), adata.var[[]])


def draw(code: str, adata) -> Image.Image:
    """One picture, as it comes out where nothing else is said."""
    eval(code[:-1] + ", show=False)", {"sb": sb, "adata": adata})
    buffer = io.BytesIO()
    plt.gcf().savefig(buffer, dpi=DPI)
    plt.close("all")
    return Image.open(buffer).convert("RGB")


def put_together(drawn: list[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures from left to right and top to bottom, each under the code that draws it."""
    font = ImageFont.load_default(size=20)
    places, x, y, height = [], GAP, GAP, 0
    for code, image in drawn:
        wide = max(image.width, int(font.getlength(code)))
        if x > GAP and x + wide + GAP > WIDTH:
            x, y, height = GAP, y + height + GAP, 0
        places.append((x, y))
        x, height = x + wide + GAP, max(height, image.height + 30)
    sheet = Image.new("RGB", (WIDTH, y + height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for (code, image), (x, y) in zip(drawn, places, strict=True):
        pen.text((x, y), code, fill="black", font=font)
        sheet.paste(image, (x, y + 30))
    return sheet


if __name__ == "__main__":
    main()
