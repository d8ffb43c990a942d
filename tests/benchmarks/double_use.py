"""Groups found in the counts that they are tested in, and in the other part of split counts.

`one population`: cells of one kind, cut into two clusters. No gene differs; a 95% interval should miss zero in 5%.

`two types`: 10% of the genes differ between them. Four clusters are found, so that at least one type is cut in two:
false calls are counted between the two largest clusters of one type, power between the largest of each. What matters
is whose dispersion splits the counts: of a fit to all cells, of a mixture, or of the types themselves.

Clusters are those of k-means on five principal components of log-normalised counts; tests are those of `sb.tl.de` with
cells as replicates, which is right here, as there are no donors.

`--real`: control cells of one type of kang_ifnb, cut into two clusters. What differs is not known here; but whether the
parts of a count depend on each other, given the depth of its cell, can be seen.
"""

import time

import numpy as np
import pandas as pd
from _common import data_file, parser, report
from _docs_table import write_table
from scipy import sparse

#: What the dispersion is multiplied by, and what that is called.
WRONG = {0.5: "half the size", 2.0: "twice the size"}
REAL = ("B cells", "CD4 T cells", "CD14+ Monocytes")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--runs", type=int, default=10)
    cli.add_argument("--genes", type=int, default=300)
    cli.add_argument("--cells", type=int, default=1000)
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/double_use.md")
    cli.add_argument("--real", nargs="*", metavar="TYPE", help="instead: control cells of these types of kang_ifnb")
    args = cli.parse_args()
    import scanpy as sc

    sc.settings.verbosity = "error"
    if args.real is not None:
        report(args, kang_ifnb=[row for kind in args.real or REAL for row in real(kind)])
        return
    tables = {}
    for name, one in (("one population", one_population), ("two types", two_types)):
        runs = [one(args.genes, args.cells, seed) for seed in range(args.runs)]
        tables[name] = pd.concat(runs).groupby("counts", sort=False).mean().reset_index().to_dict("records")
        print(pd.DataFrame(tables[name]).to_string(), flush=True)  # noqa: T201
    report(args, **tables)
    if args.docs:
        note = f"{args.runs} data sets of {args.cells} cells x {args.genes} genes"
        for name, rows in tables.items():
            shown = [{k: v if isinstance(v, str) else f"{v:.3g}" for k, v in row.items()} for row in rows]
            print(write_table("double_use.md", name, shown, note))  # noqa: T201


# --- data -------------------------------------------------------------------------------------------------------------


def simulated(n_genes: int, n_cells: int, seed: int, n_types: int):
    """NB counts of cells of different depth; 10% of the genes differ between types by N(0, 1.5) in log2."""
    import anndata as ad

    rng = np.random.default_rng(seed)
    mean = rng.lognormal(1, 0.5, n_genes)
    size = rng.lognormal(0, 0.3, n_genes)
    kind = rng.integers(n_types, size=n_cells)
    effect = np.where(rng.random((n_types, n_genes)) < 0.1, rng.normal(0, 1.5, (n_types, n_genes)), 0)
    effect[0] = 0
    m = rng.lognormal(0, 0.3, n_cells)[:, None] * mean * 2.0 ** effect[kind]
    u = rng.negative_binomial(size, size / (size + m))
    adata = ad.AnnData(sparse.csr_matrix(u.astype(np.float32)))
    adata.obs_names, adata.var_names = ([f"{of}{i}" for i in range(n)] for of, n in zip("cg", u.shape, strict=True))
    adata.obs["type"] = pd.Categorical([f"type{k}" for k in kind])
    adata.var["size"], adata.var["changed"] = size, effect[-1] != 0
    return adata


def clusters(adata, layer: str | None, k: int) -> np.ndarray:
    """Names of k clusters."""
    import anndata as ad
    import scanpy as sc
    from sklearn.cluster import KMeans

    x = adata.X if layer is None else adata.layers[layer]
    own = ad.AnnData(sparse.csr_matrix(x, dtype=np.float32, copy=True))
    sc.pp.normalize_total(own)
    sc.pp.log1p(own)
    sc.pp.pca(own, n_comps=5, random_state=0)
    return np.array([f"cluster{k}" for k in KMeans(k, n_init=4, random_state=0).fit_predict(own.obsm["X_pca"])])


def with_sizes(adata, key: str, size: np.ndarray) -> None:
    """Set the sizes of a fit, as if these had been found."""
    import scbayes as sb

    names = [name for name, _ in sb.get.fit(adata, key).model.columns]
    adata.varm[f"{key}_loc"][:, names.index("r")] = np.log(size)


def tested(adata, layer: str | None, names: np.ndarray, pair: tuple[str, str]) -> pd.DataFrame:
    """The table of one cluster over another, genes in the order of adata."""
    import scbayes as sb

    adata.obs["found"] = pd.Categorical(names)
    sb.tl.de(adata, "found", [pair[1]], reference=pair[0], layer=layer)
    return sb.get.de(adata, pair[1]).set_index("names").loc[adata.var_names]


def beyond_zero(table: pd.DataFrame) -> np.ndarray:
    """Whether the 95% interval misses zero."""
    return ((table["ci_low"] > 0) | (table["ci_high"] < 0)).to_numpy()


# --- questions --------------------------------------------------------------------------------------------------------


def one_population(n_genes: int, n_cells: int, seed: int) -> pd.DataFrame:
    import scbayes as sb

    adata = simulated(n_genes, n_cells, seed, 1)
    sb.tl.fit(adata, progress=False)
    fitted = sb.get.distributions(adata, backend="scipy")["r"].median()
    sizes = {"split, fitted dispersion": fitted, "split, true dispersion": adata.var["size"].to_numpy()}
    sizes |= {f"split, {name}": factor * adata.var["size"].to_numpy() for factor, name in WRONG.items()}
    ways: dict[str, str | None] = {"the same": None, "binomial split": "binomial"}
    sb.pp.split_counts(adata, key=None, rng=seed, key_added="binomial")
    for name, size in sizes.items():
        with_sizes(adata, "sb", size)
        sb.pp.split_counts(adata, rng=seed, key_added=name)
        ways[name] = name
    rows = []
    for name, split in ways.items():
        found = clusters(adata, split and f"{split}_train", 2)
        table = tested(adata, split and f"{split}_test", found, ("cluster0", "cluster1"))
        rows.append({"counts": name, "called": table["is_de"].sum(), "intervals beyond 0": beyond_zero(table).mean()})
    return pd.DataFrame(rows)


def two_types(n_genes: int, n_cells: int, seed: int) -> pd.DataFrame:
    from sklearn.metrics import adjusted_rand_score

    import scbayes as sb

    adata = simulated(n_genes, n_cells, seed, 2)
    sb.tl.fit(adata, progress=False, key_added="all")
    sb.tl.fit(adata, progress=False, n_components=2, key_added="mix")
    sb.tl.fit(adata, progress=False, labels_key="type", key_added="types")
    ways = {"the same": None, "binomial split": "binomial", "split, fit to all cells": "all"}
    ways |= {"split, mixture of two": "mix", "split, fit to the types": "types"}
    truth = adata.var["changed"].to_numpy()
    rows = []
    for name, key in ways.items():
        layers = None, None
        if key is not None:
            sb.pp.split_counts(adata, key=None if key == "binomial" else key, rng=seed, key_added="split")
            layers = "split_train", "split_test"
        found = clusters(adata, layers[0], 4)
        table = pd.crosstab(adata.obs["type"], found)
        largest = table.columns[table.sum().argsort()[::-1]]
        own = {kind: [c for c in largest if table[c].idxmax() == kind] for kind in table.index}
        within = max(own.values(), key=len)[:2]
        false = tested(adata, layers[1], found, tuple(within))
        across = tested(adata, layers[1], found, tuple(of[0] for of in own.values()))
        rows.append(
            {
                "counts": name,
                "called within a type": false["is_de"].sum(),
                "intervals beyond 0 within a type": beyond_zero(false).mean(),
                "changed genes called between types": across["is_de"][truth].mean(),
                "two clusters: ARI": adjusted_rand_score(adata.obs["type"], clusters(adata, layers[0], 2)),
            }
        )
    return pd.DataFrame(rows)


def real(kind: str) -> list[dict]:
    """Control cells of one type of kang_ifnb: do the parts depend on each other, given depth; and what is called."""
    import anndata as ad

    import scbayes as sb

    adata = ad.read_h5ad(data_file("kang_ifnb"))
    adata = adata[(adata.obs["cell_type_derived"] == kind) & (adata.obs["condition"] == "ctrl")].copy()
    sb.pp.prepare_counts(adata, min_cells=10)
    sb.tl.fit(adata, progress=False)
    often = np.flatnonzero(adata.var["mean_counts"] >= 0.5)
    nu, mu = (sb.get.map(adata)[name] for name in ("nu", "mu"))
    expected = nu[:, None] * mu[often] / 2
    rows = []
    for name, key in (("the same", None), ("binomial split", None), ("split, fitted dispersion", "sb")):
        layers, seconds, correlation = (None, None), 0.0, np.ones(len(often))
        if name != "the same":
            start = time.perf_counter()
            sb.pp.split_counts(adata, key=key)
            layers, seconds = ("split_train", "split_test"), time.perf_counter() - start
            parts = [np.asarray(adata.layers[layer][:, often].todense()) - expected for layer in layers]
            correlation = np.mean(parts[0] * parts[1], 0) / np.sqrt(np.prod([np.mean(p**2, 0) for p in parts], 0))
        found = clusters(adata, layers[0], 2)
        table = tested(adata, layers[1], found, ("cluster0", "cluster1"))
        rows.append(
            {
                "cells": f"{adata.n_obs} {kind}",
                "counts": name,
                "median correlation of the parts": float(np.median(correlation)),
                "called": int(table["is_de"].sum()),
                "intervals beyond 0": float(beyond_zero(table).mean()),
                "seconds": seconds,
            }
        )
    return rows


if __name__ == "__main__":
    main()
