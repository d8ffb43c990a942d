"""Intervals of gene sets: do they hold the mean effect of the genes where these vary together between donors?

Sets of 25 genes (`_donors.py`), whose genes vary on their own between donors, or have a deviation in common besides, as
large as their own. A tenth of the sets has an effect. `own errors` are intervals from the results of the same genes,
as if their errors were independent.

`--kang`: monocytes of kang_ifnb, stimulated against control, paired donors, with a few sets.
"""

import time

import numpy as np
from _common import data_file, parser, report
from _docs_table import write_table
from _donors import donors, sets_of

SIZE = 25
DESIGNS = [(n, paired, together) for paired in (False, True) for n in (3, 4, 8) for together in (0.0, 0.15)]
INTERFERON = (
    "ISG15 IFI6 IFIT1 IFIT2 IFIT3 MX1 OAS1 ISG20 LY6E STAT1 IRF7 IFI44 IFI44L RSAD2 CXCL10 IFITM3 OASL DDX58 HERC5 "
    "TNFSF10"
)
CLASS_II = "HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 CD74 HLA-DMA HLA-DMB"


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=8)
    cli.add_argument("--genes", type=int, default=2000)
    cli.add_argument("--cells", type=int, default=60, help="of each donor and condition")
    cli.add_argument("--changed", type=float, default=0.1, help="share of sets with an effect")
    cli.add_argument("--docs", action="store_true", help="write the table into docs/de.md")
    cli.add_argument("--kang", action="store_true")
    args = cli.parse_args()
    if args.kang:
        report(args, kang=kang())
        return
    rows = []
    for n, paired, together in DESIGNS:
        runs = [one(n, args, paired=paired, together=together, seed=seed) for seed in range(args.runs)]
        rows.append({"donors": f"{n} v {n}", "paired": "yes" if paired else "no", "donors shift": what(together)})
        rows[-1] |= summed({name: np.concatenate([run[name] for run in runs]) for name in runs[0]})
        print(rows[-1], flush=True)  # noqa: T201
    report(args, gene_sets=rows)
    if args.docs:
        note = f"{args.runs} data sets a row of {args.genes} genes in sets of {SIZE} and {args.cells} cells a donor"
        print(write_table("de.md", "gene sets", rows, note))  # noqa: T201


def what(together: float) -> str:
    return "genes and sets" if together else "genes"


def one(n: int, args, *, paired: bool, together: float, seed: int) -> dict[str, np.ndarray]:
    """A value for each set."""
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    many = {"changed": 0.0, "set_size": SIZE, "together": together, "changed_sets": args.changed}
    adata = donors(n, args.genes, args.cells, paired=paired, seed=seed, **many)
    sets = sets_of(adata, SIZE)
    start = time.perf_counter()
    sb.tl.de(adata, "condition", ["c1"], reference="c0", sample_key="donor", gene_sets=sets)
    seconds = time.perf_counter() - start
    table = sb.get.de_sets(adata, "c1").set_index("names").loc[list(sets)]
    genes = sb.get.de(adata, "c1").set_index("names")
    truth = np.array([adata.var.loc[names, "lfc"].mean() for names in sets.values()])
    own = [genes.loc[names][~genes.loc[names, "data_poor"]] for names in sets.values()]
    mean = np.array([part["lfc_mean"].mean() for part in own])
    error = np.array([np.sqrt((part["lfc_sd"] ** 2).sum()) / len(part) for part in own])
    return {
        "covered": (table["ci_low"].to_numpy() <= truth) & (truth <= table["ci_high"].to_numpy()),
        "own errors": np.abs(mean - truth) <= 1.96 * error,
        "called": table["is_de"].to_numpy(),
        "changed": truth != 0,
        "sd": table["lfc_sd"].to_numpy(),
        "seconds": np.full(len(sets), seconds),
    }


def summed(sets: dict[str, np.ndarray]) -> dict[str, str]:
    called, changed = sets["called"], sets["changed"]
    return {
        "coverage": f"{sets['covered'].mean():.3f}",
        "coverage by own errors": f"{sets['own errors'].mean():.3f}",
        "FDR": f"{(called & ~changed).sum() / max(called.sum(), 1):.3f}",
        "power": f"{called[changed].mean():.3f}",
        "sd of the effect": f"{sets['sd'].mean():.3f}",
        "seconds": f"{np.median(sets['seconds']):.2f}",
    }


def kang() -> list[dict]:
    """Sets in stimulated monocytes."""
    import anndata as ad

    import scbayes as sb

    adata = ad.read_h5ad(data_file("kang_ifnb"))
    adata = adata[
        (adata.obs["cell_type_derived"] == "CD14+ Monocytes") & ~adata.obs["shared_barcode"].astype(bool)
    ].copy()
    parts = {"ribosomal proteins": ("RPS", "RPL"), "oxidative phosphorylation": ("NDUF", "COX", "ATP5", "UQCR")}
    sets = {"interferon response": INTERFERON.split(), "MHC class II": CLASS_II.split()}
    sets |= {name: [gene for gene in adata.var_names if gene.startswith(start)] for name, start in parts.items()}
    counts = np.asarray(adata.X.sum(0)).ravel()
    rng = np.random.default_rng(0)
    sets |= {f"random {k}": rng.choice(adata.var_names[counts > 200], 30, replace=False) for k in range(3)}
    sb.tl.de(adata, "condition", ["stim"], reference="ctrl", sample_key="donor", gene_sets=sets)
    table = sb.get.de_sets(adata, "stim")
    genes = sb.get.de(adata, "stim").set_index("names")
    rows = []
    for row in table.itertuples():
        own = genes.loc[[gene for gene in sets[row.names] if gene in genes.index]]
        own = own[~own["data_poor"]]
        error = float(np.sqrt((own["lfc_sd"] ** 2).sum()) / len(own))
        shown = {"set": row.names, "genes": row.n_genes, "LFC": row.lfc_mean, "low": row.ci_low, "high": row.ci_high}
        shown |= {"lfsr": row.lfsr, "share up": row.share_up, "donor sd": row.donor_sd, "sd": row.lfc_sd}
        rows.append(shown | {"sd by own errors": error})
    return rows


if __name__ == "__main__":
    main()
