"""Data of latent.py, and the arrays that every method reads.

One folder for each set:

    counts.npz    CSR float32, cells x genes
    cells.npz     batch, label       codes (n_cells,), the names in about.json
                  train, validation  indices of cells, 90% and 10%
                  profile            share of each gene in ambient RNA (n_genes,), where it is known
                  rho                true share of ambient counts of each cell, likewise; for scores alone
    native.npz    CSR, true native counts, where known; for scores alone
    about.json    sizes, and names of batches, labels and genes
"""

import importlib.util
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _common import data_file
from scipy import sparse

VALIDATION = 0.1


def ambient(simulators: Path | None) -> ad.AnnData:
    """Simulated cells with ambient counts, two batches: 3,000 cells x 2,000 genes."""
    if simulators is None:
        raise SystemExit("the data set 'ambient' needs --simulators, the folder with ambient.py")
    spec = importlib.util.spec_from_file_location("ambient", simulators / "ambient.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cells = module.simulate(seed=0, n_empty=100)[0]  # empty droplets are drawn after the cells
    cells.obs["label"], cells.obs["rho"] = cells.obs["cell_type"], cells.obs["amb_frac"]
    totals = pd.Series(np.asarray(cells.X.sum(1)).ravel()).groupby(cells.obs["batch"].to_numpy()).sum()
    cells.varm["profile"] = cells.varm["true_ambient"] @ (totals / totals.sum()).to_numpy()[:, None]
    return cells


def scmix(simulators: Path | None) -> ad.AnnData:
    """Three cell lines by two protocols: single cells, genes of both without spike-ins."""
    parts = {}
    for name in ("celseq2", "dropseq"):
        cells = ad.read_h5ad(data_file(f"scmix_sc_{name}"))
        cells = cells[cells.obs["demuxlet_cls"] == "SNG", ~cells.var["ercc"].to_numpy(bool)].copy()
        cells.obs = cells.obs[["cell_line"]].astype(str)
        parts[name] = cells
    both = ad.concat(parts, label="batch", join="inner", index_unique="-")
    both.obs["label"] = both.obs["cell_line"]
    return both[:, np.asarray(both.X.sum(0)).ravel() > 0].copy()


def kang(simulators: Path | None) -> ad.AnnData:
    """Blood cells, 8 donors with and without interferon, 16 samples: the 2,000 genes that vary most within samples."""
    import scanpy as sc

    cells = ad.read_h5ad(data_file("kang_ifnb"))
    cells = cells[(cells.obs["donor"] != "NA").to_numpy()].copy()
    cells.obs["batch"], cells.obs["label"] = cells.obs["sample"].astype(str), cells.obs["cell_type_derived"]
    flavor = {"flavor": "pearson_residuals", "n_top_genes": 2000, "batch_key": "batch"}
    sc.experimental.pp.highly_variable_genes(cells, **flavor)
    return cells[:, cells.var["highly_variable"].to_numpy()].copy()


SETS = {"ambient": ambient, "scmix": scmix, "kang": kang}


def prepare(name: str, folder: Path, simulators: Path | None, seed: int = 0) -> None:
    """Write the arrays of one set, unless they are there."""
    if (folder / "about.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    cells = SETS[name](simulators)
    x = sparse.csr_matrix(cells.X, dtype=np.float32)
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    n_validation = round(VALIDATION * cells.n_obs)
    of_cells = {"validation": np.sort(order[:n_validation]), "train": np.sort(order[n_validation:])}
    names = {}
    for key in ("batch", "label"):
        column = pd.Categorical(cells.obs[key].astype(str))
        of_cells[key], names[f"{key} names"] = column.codes.astype(np.int32), list(column.categories)
    if "profile" in cells.varm:
        of_cells |= {"profile": cells.varm["profile"][:, 0], "rho": cells.obs["rho"].to_numpy()}
        sparse.save_npz(folder / "native.npz", sparse.csr_matrix(cells.layers["native"], dtype=np.float32))
    sparse.save_npz(folder / "counts.npz", x)
    np.savez_compressed(folder / "cells.npz", **of_cells)
    about = {"data": name, "cells": x.shape[0], "genes": x.shape[1], "non-zeros": int(x.nnz)}
    about |= names | {"genes names": list(map(str, cells.var_names))}
    (folder / "about.json").write_text(json.dumps(about) + "\n")


def read(folder: Path) -> ad.AnnData:
    """The arrays as AnnData: `obs["batch", "label", "split"]`, `varm["profile"]` where there is one."""
    about, of_cells = json.loads((folder / "about.json").read_text()), dict(np.load(folder / "cells.npz"))
    obs = {key: pd.Categorical.from_codes(of_cells[key], about[f"{key} names"]) for key in ("batch", "label")}
    split = np.where(np.isin(np.arange(about["cells"]), of_cells["validation"]), "validation", "train")
    obs = pd.DataFrame(obs | {"split": pd.Categorical(split)}, index=[f"cell{i}" for i in range(about["cells"])])
    adata = ad.AnnData(sparse.load_npz(folder / "counts.npz"), obs=obs, var=pd.DataFrame(index=about["genes names"]))
    if "profile" in of_cells:
        adata.varm["profile"] = of_cells["profile"][:, None]
    return adata
