"""Cells to components: labels for half of the cells, types that were left out, and components found without labels.

halves: pbmc_facs, cells with known types. A mixture is fitted with the labels of a random half of the cells; accuracy
and expected calibration error (15 bins) on the others, without and with calibration, beside logistic regression with
balanced classes on the principal components of scanpy's standard pipeline (which sees all cells).

unknown: pbmc_facs, half of the cells labelled and one type left out of the fit. Share of that type's cells, and of the
other half of the known types, that are called unknown.

clusters: adjusted Rand index of components found without labels, beside Leiden with as many clusters.
"""

import time

import numpy as np
import pandas as pd
from _common import data_file, parser, report

LEFT_OUT = ("CD14+ Monocyte", "CD56+ NK", "CD8+ Cytotoxic T", "CD4+/CD45RO+ Memory", "CD4+/CD25 T Reg")


def main() -> None:
    cli = parser(__doc__)
    parts = ["halves", "unknown", "clusters"]
    cli.add_argument("--only", nargs="+", choices=parts, default=parts)
    cli.add_argument("--seeds", type=int, default=3)
    cli.add_argument("--alpha", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    args = cli.parse_args()
    tables = {}
    if "halves" in args.only:
        tables["halves"] = [half(seed) for seed in range(args.seeds)]
    if "unknown" in args.only:
        tables["unknown"] = [unknown(name, args.alpha) for name in LEFT_OUT]
    if "clusters" in args.only:
        tables["clusters"] = [row for name in ("scmix_sc_celseq2", "scmix_sc_dropseq") for row in lines(name)] + facs()
    report(args, **tables)


def labelled(seed: int):
    """pbmc_facs with obs["half"]: the types of a random half of the cells."""
    import anndata as ad

    adata = ad.read_h5ad(data_file("pbmc_facs"))
    known = np.random.default_rng(seed).permutation(adata.n_obs) < adata.n_obs // 2
    adata.obs["half"] = adata.obs["celltype"].astype(str).where(known)
    return adata, known


def half(seed: int) -> dict:
    from sklearn.linear_model import LogisticRegression

    import scbayes as sb

    adata, known = labelled(seed)
    start = time.perf_counter()
    sb.tl.fit(adata, labels_key="half", progress=False)
    fitted = time.perf_counter()
    code = pd.Categorical(adata.obs["celltype"].astype(str), categories=sb.get.fit(adata).components).codes.astype(int)
    row = {"half": seed, "fit s": fitted - start}
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    pcs = standard(adata).obsm["X_pca"]
    row |= scores("logistic", model.fit(pcs[known], code[known]).predict_proba(pcs[~known]), code[~known])
    sb.tl.assign(adata)
    row |= scores("plain", adata.obsm["sb_probabilities"][~known], code[~known])
    start = time.perf_counter()
    sb.tl.assign(adata, calibrate="half")
    row["calibrate s"] = time.perf_counter() - start
    return row | scores("calibrated", adata.obsm["sb_probabilities"][~known], code[~known])


def scores(name: str, p: np.ndarray, code: np.ndarray) -> dict:
    import scbayes as sb

    error = sb.metrics.calibration_error(p, code)
    return {f"{name} accuracy": float(np.mean(p.argmax(1) == code)), f"{name} ECE": error}


def unknown(name: str, alphas: list[float]) -> dict:
    import scbayes as sb

    adata, known = labelled(0)
    left_out = (adata.obs["celltype"] == name).to_numpy()
    fitted, new = adata[known & ~left_out].copy(), adata[~known | left_out].copy()
    sb.tl.fit(fitted, labels_key="half", progress=False)
    sb.tl.assign(new, reference=fitted, unknown=0.5)
    surprise, strange = new.obs["sb_surprise"].to_numpy(), (new.obs["celltype"] == name).to_numpy()
    row = {"left out": name, "cells": int(strange.sum())}
    for alpha in alphas:
        called = surprise < alpha
        row |= {f"{alpha}: left out": float(called[strange].mean()), f"{alpha}: known": float(called[~strange].mean())}
    return row


def lines(name: str) -> list[dict]:
    """Three cell lines; doublets, as far as demuxlet called them, apart."""
    import anndata as ad
    from sklearn.metrics import adjusted_rand_score

    import scbayes as sb

    adata = ad.read_h5ad(data_file(name))
    if "ercc" in adata.var:  # spike-ins are not of the cells
        adata = adata[:, ~adata.var["ercc"].to_numpy(bool)].copy()
    calls = adata.obs.get("demuxlet_cls", pd.Series("SNG", adata.obs_names)).astype(str)
    single = (calls == "SNG").to_numpy()
    rows = []
    for seed in range(3):
        start = time.perf_counter()
        sb.tl.fit(adata, n_components=3, rng=seed, progress=False)
        seconds = time.perf_counter() - start
        sb.tl.assign(adata)
        found = [
            adjusted_rand_score(adata.obs["cell_line"][cells], adata.obs["sb_assignment"][cells]) if cells.any() else ""
            for cells in (single, ~single)
        ]
        row = {"data": name, "start": f"kmeans, rng {seed}", "K": 3, "ARI": found[0], "seconds": seconds}
        rows.append(row | {"doublets": int((~single).sum()), "ARI of doublets": found[1]})
    return rows


def facs() -> list[dict]:
    import anndata as ad
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score

    import scbayes as sb

    adata = ad.read_h5ad(data_file("pbmc_facs"))
    small = standard(adata)
    sc.pp.neighbors(small)
    low, high, resolution, n = 0.0, None, 1.0, 0
    while n != 10:
        sc.tl.leiden(small, resolution, flavor="igraph", n_iterations=2, directed=False)
        n = small.obs["leiden"].nunique()
        low, high = (resolution, high) if n < 10 else (low, resolution)
        resolution = 2 * low if high is None else (low + high) / 2
    truth = adata.obs["celltype"]
    ari = adjusted_rand_score(truth, small.obs["leiden"])
    rows = [{"data": "pbmc_facs", "start": "Leiden itself", "K": 10, "ARI": ari}]
    adata.obs["its clusters"] = small.obs["leiden"]
    for start in ("its clusters", "leiden", "kmeans"):
        clock = time.perf_counter()
        sb.tl.fit(adata, n_components=10, init=start, progress=False)
        seconds = time.perf_counter() - clock
        sb.tl.assign(adata)
        found = adjusted_rand_score(truth, adata.obs["sb_assignment"])
        rows.append({"data": "pbmc_facs", "start": start, "K": 10, "ARI": found, "seconds": seconds})
    return rows


def standard(adata):
    """scanpy's standard pipeline up to principal components."""
    import anndata as ad
    import scanpy as sc

    small = ad.AnnData(adata.X.copy(), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(small, target_sum=1e4)
    sc.pp.log1p(small)
    sc.pp.highly_variable_genes(small, n_top_genes=2000)
    sc.pp.pca(small, mask_var="highly_variable")
    return small


if __name__ == "__main__":
    main()
