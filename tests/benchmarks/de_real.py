"""Differential expression of a few donors, judged by others: interferon against control in monocytes of kang_ifnb.

Eight donors, each in both conditions, without the cells whose barcode is in both. For choices of three donors
(`--choices` of the 56, evenly spaced), `sb.tl.de` sees those, and the other five judge:

* new donors: the counts of each held-out donor, gene by gene, against the prediction of the fit. Given the donor's sum
  n over both conditions, the sum under interferon is Binomial(n, logit^-1(log E_1/E_0 + d)): the log fold change d of
  a new donor is normal around `lfc_mean`, of variance lfc_sd² + 2 donor_sd² (a deviation in each condition) and the
  two sums' own overdispersion, which is that of the fit's cells by moments. Size factors are median ratios to the
  profile of the fit's donors. Figures are the shares of randomised ranks in central intervals, for genes with
  `--counts` of the donor's counts or more. Large effects are those beyond 1 in a fit of all eight donors: chosen by the
  fit of three, they would be smaller in others, and chosen by the held-out five, larger. `no spread` leaves donor_sd
  out.
* concordance: the area under the share of genes common to both lists of the first k, k = 1..500, of the fit of three
  and one of the other five donors (AUCC; Soneson & Robinson 2018), for orders of `sb.get.de` and for PyDESeq2's p, each
  against its own, and each against the other's. `--install` makes PyDESeq2's environment.

`--folder` keeps PyDESeq2's tables, so that a long series can be stopped and gone on with.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import data_file, parser, report
from _deseq2 import Peer
from _docs_table import write_table
from _process import environment
from de_peers import sums
from scipy import stats
from scipy.special import expit, ndtri

LEVELS = (0.5, 0.8, 0.95)
FIRST = 500
NODES = ndtri((np.arange(100) + 0.5) / 100)
#: Genes that every method should have on top.
KNOWN = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "ISG20", "CXCL10", "RSAD2", "OAS1")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="where PyDESeq2's tables are kept")
    cli.add_argument("--type", default="CD14+ Monocytes", help="of obs['cell_type_derived']")
    cli.add_argument("--choices", type=int, default=14, help="of three donors, of 56")
    cli.add_argument("--counts", type=int, default=10, help="of a gene in a held-out donor")
    cli.add_argument("--install", action="store_true", help="make PyDESeq2's environment if it is not there")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/de.md")
    args = cli.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cells = monocytes(args.type)
    python = environment("pydeseq2", "pydeseq2", install=args.install)
    peer = None if python is None else Peer(python)
    donors = sorted(cells.obs["donor"].unique())
    choices = list(combinations(donors, 3))
    choices = [choices[round(k)] for k in np.linspace(0, len(choices) - 1, args.choices)]
    whole, found, areas = fitted(cells, donors), [], []
    large = whole["lfc_mean"].abs() > 1
    for three in choices:
        five = [donor for donor in donors if donor not in three]
        few, many = fitted(cells, three), fitted(cells, five)
        ranked = ranks(cells, three, few, args.counts)
        found.append(ranked.assign(large=ranked["gene"].map(large)))
        both = ((few, three), (many, five))
        lists = [orders(table) | peers(cells, donors, args.folder, peer) for table, donors in both]
        areas.append({(a, b): area(lists[0][a], lists[1][b]) for a in lists[0] for b in lists[1]})
    coverage = list(covered(pd.concat(found)))
    names = list(lists[0])
    concordance = [
        {"three donors by": a} | {f"five by {b}": float(np.mean([found[a, b] for found in areas])) for b in names}
        for a in names
    ]
    known = list(places(orders(whole) | peers(cells, donors, args.folder, peer)))
    report(args, new_donors=coverage, concordance=concordance, known=known)
    if args.docs:
        note = f"{args.type} of kang_ifnb, {cells.n_obs} cells, {len(choices)} choices of three donors of eight"
        for name, rows in (("de new donors", coverage), ("de concordance", concordance)):
            shown = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
            print(write_table("de.md", name, shown, note))  # noqa: T201


def monocytes(kind: str):
    """Cells of a type; obs as text."""
    import anndata as ad

    adata = ad.read_h5ad(data_file("kang_ifnb"))
    adata = adata[~adata.obs["shared_barcode"].astype(bool) & (adata.obs["cell_type_derived"] == kind)].copy()
    adata.obs = adata.obs[["condition", "donor"]].astype(str)
    return adata


def fitted(cells, donors) -> pd.DataFrame:
    import scanpy as sc

    import scbayes as sb

    sc.settings.verbosity = "error"
    part = cells[cells.obs["donor"].isin(donors)].copy()
    sb.tl.de(part, "condition", ["stim"], reference="ctrl", sample_key="donor")
    return sb.get.de(part, "stim").set_index("names")


class Units(NamedTuple):
    """Sums over the cells of donors in a condition: counts, exposure (cells' totals), and squares of both."""

    total: np.ndarray
    exposure: np.ndarray
    squares: np.ndarray
    exposure2: np.ndarray


def units_of(cells, donor: str) -> Units:
    """Of both conditions, control first."""
    parts = []
    for condition in ("ctrl", "stim"):
        x = cells.X[((cells.obs["donor"] == donor) & (cells.obs["condition"] == condition)).to_numpy()]
        size = np.asarray(x.sum(1)).ravel()
        parts.append((np.asarray(x.sum(0)).ravel(), size.sum(), np.asarray(x.power(2).sum(0)).ravel(), (size**2).sum()))
    return Units(*[np.array(part) for part in zip(*parts, strict=True)])


def ranks(cells, three, table: pd.DataFrame, counts: int) -> pd.DataFrame:
    """Randomised ranks of the held-out donors' counts in their predictions, with and without the spread of donors."""
    rng = np.random.default_rng(0)
    units = {donor: units_of(cells, donor) for donor in cells.obs["donor"].unique()}
    fit = Units(*[np.concatenate(part) for part in zip(*[units[donor] for donor in three], strict=True)])
    profile = fit.total.sum(0) / fit.exposure.sum()
    inverse = inverse_size(fit)
    table = table.loc[cells.var_names]
    rows = []
    for donor in sorted(set(units) - set(three)):
        new = units[donor]
        expected = new.exposure[:, None] * profile
        ratio = [np.median(y[e >= 10] / e[e >= 10]) for y, e in zip(new.total, expected, strict=True)]
        offset = np.log(new.exposure[1] * ratio[1]) - np.log(new.exposure[0] * ratio[0])
        n = new.total.sum(0)
        here = np.flatnonzero((n >= counts) & (fit.total.sum(0) > 0))
        own = inverse[here] * np.sum(new.exposure2 / new.exposure**2)
        told, v = table.iloc[here], rng.random(len(here))
        row = {"gene": table.index[here]}
        for name, spread in (("with spread", 2 * told["donor_sd"] ** 2), ("no spread", 0)):
            sd = np.sqrt((told["lfc_sd"] ** 2 + spread) * np.log(2) ** 2 + own).to_numpy()
            p = expit(offset + told["lfc_mean"].to_numpy()[:, None] * np.log(2) + sd[:, None] * NODES)
            y, of = new.total[1, here][:, None], n[here][:, None]
            low, high = (stats.binom.cdf(y - k, of, p).mean(1) for k in (1, 0))
            row[name] = low + v * (high - low)
        rows.append(pd.DataFrame(row))
    return pd.concat(rows)


def inverse_size(units: Units) -> np.ndarray:
    """Overdispersion of cells by moments, each gene on its own where counts tell it, else the median of those."""
    mean2 = (units.total / units.exposure[:, None]) ** 2 - units.total / units.exposure[:, None] ** 2
    chance = np.sum(units.exposure2[:, None] * np.maximum(mean2, 0), 0)
    found = np.sum(units.squares - units.total, 0) / np.maximum(chance, 1e-9) - 1
    return np.clip(np.where(chance > 20, found, np.median(found[chance > 20])), 1e-3, 5)


def covered(found: pd.DataFrame) -> Iterator[dict]:
    for name in ("with spread", "no spread"):
        for genes, part in (("all", found), ("beyond 1", found[found["large"]])):
            shares = {f"{level:.0%}": np.mean(np.abs(part[name] - 0.5) <= level / 2) for level in LEVELS}
            yield {"prediction": name, "genes": genes} | shares | {"pairs": len(part)}


def orders(table: pd.DataFrame) -> dict[str, list[str]]:
    """Genes in the order of the table, and by probabilities."""
    sure = -(table["lfc_mean"] / table["lfc_sd"]).abs()
    by = {"lfsr": table["lfsr"], "p_de": -table["p_de"], "mean / sd": sure}
    sorts = {name: table.index[np.lexsort((sure, score))].tolist() for name, score in by.items()}
    return {"default": table.index.tolist()} | sorts


def peers(cells, donors, folder: Path, peer: Peer | None) -> dict[str, list[str]]:
    """Genes by PyDESeq2's p, and by |z| where p is 0."""
    if peer is None:
        return {}
    path = folder / f"{'-'.join(donors)}.npz"
    if not path.is_file():
        total, condition, person = sums(cells[cells.obs["donor"].isin(donors)], "condition", "donor")
        condition = np.where(condition == "stim", "c1", "c0")
        np.savez_compressed(path, **peer(folder, total, condition, person, paired=True))
    found = np.load(path)
    p = np.where(np.isfinite(found["p"]), found["p"], 2)
    return {"PyDESeq2": cells.var_names[np.lexsort((-np.abs(found["lfc"] / found["sd"]), p))].tolist()}


def area(a: list[str], b: list[str]) -> float:
    """Under the share of common genes among the first k of both."""
    place = {gene: k for k, gene in enumerate(b[:FIRST])}
    both = [max(k, place[gene]) for k, gene in enumerate(a[:FIRST]) if gene in place]
    return float(np.sum(FIRST - np.array(both)) / (FIRST * (FIRST + 1) / 2))


def places(lists: dict[str, list[str]]) -> Iterator[dict]:
    """Where known genes are in the lists of all donors."""
    for name, genes in lists.items():
        yield {"order": name} | {gene: genes.index(gene) + 1 for gene in KNOWN}


if __name__ == "__main__":
    main()
