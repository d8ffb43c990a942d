"""Feature barcodes with known truth: hashtags and guides at about 20 counts a cell.

Beside it: an oracle that knows all parameters and the ambient amount and capture of each cell; the best limit of
counts, chosen by the truth; two normals by feature, as in Cell Ranger; SCAR's ratio at the true ambient rates; hashsolo
of scanpy.
"""

import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
from _common import parser, report
from _docs_table import write_table
from _feature_barcodes import Simulated, best_limit, cell_ranger, oracle, scar_rule, scores, simulate
from scipy import sparse

HASHTAGS = {"n_cells": 5000, "n_features": 8}
GUIDES = {"n_cells": 5000, "n_features": 100, "doublets": 0.03}
MANY = {"n_cells": 20_000, "n_features": 1000, "doublets": 0.03}
SETTINGS = {
    "8 hashtags, 10% ambient": HASHTAGS | {"ambient": 0.1},
    "8 hashtags": HASHTAGS,
    "8 hashtags, 40% ambient": HASHTAGS | {"ambient": 0.4},
    "8 hashtags, r = 2": HASHTAGS | {"size": 2.0},
    "8 hashtags, ambient r = 5": HASHTAGS | {"ambient_size": 5.0},
    "8 hashtags, two batches": HASHTAGS | {"n_batches": 2},
    "8 hashtags, a third at 7 counts": HASHTAGS | {"low": 0.33},
    "8 hashtags, 300 cells": HASHTAGS | {"n_cells": 300},
    "100 guides, one": GUIDES,
    "100 guides, one, 40% ambient": GUIDES | {"ambient": 0.4},
    "100 guides, Poisson(2)": GUIDES | {"moi": 2.0},
    "1,000 guides, one": MANY,
    "1,000 guides, one, two batches": MANY | {"n_batches": 2},
    "1,000 guides, Poisson(2)": MANY | {"moi": 2.0},
    "1,000 guides, Poisson(2), 40 counts": MANY | {"moi": 2.0, "total": 40},
}
CHOSEN = ["balanced accuracy", "at the share", "found", "false", "ECE", "ECE, undecided", "by chance", "undecided"]


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--seeds", type=int, default=3, help="data sets of each setting (%(default)s); means are shown")
    cli.add_argument("--only", default="", help="settings whose name has this")
    cli.add_argument("--docs", action="store_true", help="write the tables into docs/features.md")
    args = cli.parse_args()
    call(simulate(200, 5))  # compiled
    presence, cells, others = [], [], []
    for name, settings in SETTINGS.items():
        if args.only not in name:
            continue
        found = [measure(simulate(**settings, seed=seed), one="moi" not in settings) for seed in range(args.seeds)]
        for rows, i in ((presence, 0), (cells, 1), (others, 2)):
            parts = [part[i] for part in found if part[i]]
            if parts:
                rows.append({"data": name} | {key: float(np.mean([part[key] for part in parts])) for key in parts[0]})
    report(args, presence=presence, cells=cells, others=others)
    if args.docs:
        for name, rows in (("presence", presence), ("cells", cells), ("others", others)):
            shown = [{k: _short(k, v) for k, v in row.items()} for row in rows]
            print(write_table("features.md", name, shown, f"means of {args.seeds} data sets"))  # noqa: T201


def measure(simulated: Simulated, *, one: bool) -> tuple[dict, dict, dict]:
    adata, seconds = call(simulated, doublets=one)
    probability = np.asarray(adata.layers["sb_feature_probability"].data, float)
    best = scores(simulated, oracle(simulated))
    row = {name: value for name, value in scores(simulated, probability).items() if name in CHOSEN}
    row |= {"oracle": best["balanced accuracy"], "oracle, at the share": best["at the share"], "seconds": seconds}
    rules = {"oracle": best, "call_features": scores(simulated, probability)}
    rules["SCAR's ratio"] = scores(simulated, scar_rule(simulated))
    if simulated.x.shape[1] <= 100:  # it takes minutes for more
        rules["normals"] = scores(simulated, cell_ranger(simulated))
    other = {f"{name}: balanced": max(own["balanced accuracy"], own["at the share"]) for name, own in rules.items()}
    other |= {f"{name}: F1": own["F1"] for name, own in rules.items()}
    other |= {f"best limit: {name}": value for name, value in best_limit(simulated).items()}
    return row, of_cells(simulated, adata) if one else {}, other


def call(simulated: Simulated, **settings) -> tuple[ad.AnnData, float]:
    import scbayes as sb

    n_cells, n_features = simulated.x.shape
    obs = pd.DataFrame({"lane": simulated.batch.astype(str)}, index=[f"cell{i}" for i in range(n_cells)])
    adata = ad.AnnData(sparse.csr_matrix(simulated.x, dtype=np.float32), obs=obs)
    adata.var_names = [f"f{i}" for i in range(n_features)]
    start = time.perf_counter()
    several = simulated.batch.max() > 0
    sb.tl.call_features(adata, batch_key="lane" if several else None, **settings)
    return adata, time.perf_counter() - start


def of_cells(simulated: Simulated, adata: ad.AnnData) -> dict:
    """Singlets with their feature, doublets and negative cells: by native counts, which is what can be known."""
    detected = np.diff(simulated.native.indptr)
    first = np.full(len(detected), -1)
    first[detected > 0] = simulated.native.indices[simulated.native.indptr[:-1][detected > 0]]
    label = adata.obs["sb_feature"].astype(str).to_numpy()
    row = _rates(detected, first, label)
    several, none = adata.obs["sb_doublet_probability"].to_numpy(), adata.obs["sb_negative_probability"].to_numpy()
    row |= {"expected doublets": several.mean(), "true doublets": (detected > 1).mean()}
    row |= {"expected negatives": none.mean(), "true negatives": (detected == 0).mean()}
    if simulated.x.shape[1] <= 20:
        solo = hashsolo(adata)
        row |= {f"hashsolo: {name}": value for name, value in _rates(detected, first, solo).items()}
    return row


def _rates(detected: np.ndarray, first: np.ndarray, label: np.ndarray) -> dict[str, float]:
    own = label == np.array([f"f{i}" for i in first])
    parts = {"singlets": own[detected == 1], "doublets": (label == "doublet")[detected > 1]}
    return {name: part.mean() for name, part in (parts | {"negatives": (label == "negative")[detected == 0]}).items()}


def hashsolo(adata: ad.AnnData) -> np.ndarray:
    import warnings

    import scanpy as sc
    import scanpy.external as sce

    table = sc.get.obs_df(adata, list(adata.var_names))
    other = ad.AnnData(obs=table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sce.pp.hashsolo(other, list(table.columns), priors=(0.05, 0.87, 0.08))
    label = other.obs["Classification"].astype(str)
    return label.replace({"Negative": "negative", "Doublet": "doublet"}).to_numpy()


def _short(name: str, value) -> str:
    if name == "data":
        return value
    return f"{value:.0f}" if name == "undecided" else f"{value:.1f}" if name == "seconds" else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
