"""Rebuild the shipped data from the wheel of the package `came` 0.1.13 (MIT).

    pip download --no-deps came==0.1.13
    python data/build.py came-0.1.13-py3-none-any.whl

The same wheel gives the same arrays; `scbayes/datasets/_shipped.py` reads what is written here.
"""

import argparse
import gzip
import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

WHEEL_SHA256 = "7fdb1a65006ca668e0cab51576a09bf540f074346e5f120ec654cd4f91627f7d"
MIN_CELLS = 3
OBS = {  # our column: theirs
    "cell_type": "cell_type1",
    "donor": "donor",
    "library": "library",
    "organism": "organism",
    "cell_ontology_class": "cell_ontology_class",
    "cell_ontology_id": "cell_ontology_id",
}
LABELS = {"t_cell": "T_cell"}  # human and mouse spell this type differently
CELLS = {
    "human": "2,142 of the study's 8,569 human cells: the subsample that came ships, all four donors",
    "mouse": "all 1,886 mouse cells of the study, both donors",
}


def write_npz(path, arrays):
    """Write an .npz that np.load reads, LZMA inside and without time stamps (the same input gives the same bytes)."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            file.writestr(entry, buffer.getvalue())


def bytes_of(name, values):
    """Split 16-bit integers into two planes of bytes: the high one is nearly all zero and compresses to nothing."""
    if values.min() < 0 or values.max() >= 2**16:
        raise ValueError(f"{name}: {values.min()} to {values.max()} does not fit in 16 bits")
    return {f"{name}_low": (values & 255).astype(np.uint8), f"{name}_high": (values >> 8).astype(np.uint8)}


def pancreas(raw, species):
    """Encode one data set: gene after gene, the gaps between the cells that express it and their counts."""
    n_cells = np.bincount(raw.X.nonzero()[1], minlength=raw.n_vars)
    adata = raw[:, n_cells >= MIN_CELLS]
    counts = adata.X.tocsc()
    counts.sort_indices()
    values = counts.data.astype(np.int64)
    if not np.array_equal(values, counts.data) or values.min() < 1:
        raise ValueError(f"{species}: X holds something else than positive integer counts")
    rows = counts.indices.astype(np.int64)
    gaps = np.diff(rows, prepend=0)
    starts = counts.indptr[:-1]
    gaps[starts] = rows[starts]
    arrays = bytes_of("gap", gaps) | bytes_of("count", values)
    arrays |= {
        "cells_per_gene": np.diff(counts.indptr).astype(np.uint16),
        "genes": adata.var_names.to_numpy(dtype=str),
        "cells": adata.obs_names.to_numpy(dtype=str),
        "obs": np.array(list(OBS)),
    }
    obs = pd.DataFrame({ours: adata.obs[theirs].astype(str) for ours, theirs in OBS.items()})
    obs["cell_type"] = obs["cell_type"].replace(LABELS)
    obs["library"] = obs["donor"] + "_" + obs["library"]  # "lib1" alone means another library in every donor
    for name, column in obs.items():
        categories, codes = np.unique(column.to_numpy(dtype=str), return_inverse=True)
        arrays |= {f"obs_{name}_categories": categories, f"obs_{name}_codes": codes.astype(np.uint8)}
    provenance = {
        "citation": "Baron et al. (2016), A single-cell transcriptomic map of the human and mouse pancreas reveals "
        "inter- and intra-cell population structure, Cell Systems 3, 346-360, doi:10.1016/j.cels.2016.08.011",
        "accession": "GSE84133",
        "platform": "inDrop, UMI counts",
        "source": f"came 0.1.13 (PyPI), came/sample_data.zip, raw-Baron_{species}.h5ad",
        "license": "MIT (came; Copyright (c) 2021 Cynthia), see LICENSE-came.txt",
        "cells": CELLS[species],
        "filter": f"genes with a count in at least {MIN_CELLS} of these cells: {adata.n_vars:,} of {raw.n_vars:,}",
        "changes": "cell_type is their cell_type1 with t_cell spelled T_cell; library carries the donor's name",
    }
    return arrays | {"provenance": json.dumps(provenance)}


def orthologs(table):
    """Keep the two symbols and Ensembl's type; drop pairs that repeat (several Ensembl genes, one symbol)."""
    table = table.iloc[:, :3].set_axis(["human", "mouse", "type"], axis=1)
    table["type"] = table["type"].str.removeprefix("ortholog_")
    return table.drop_duplicates(["human", "mouse"])


def main():
    parser = argparse.ArgumentParser(description="Rebuild the shipped data from the wheel of came 0.1.13.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    found = hashlib.sha256(args.wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(f"{args.wheel} has sha256 {found}, not {WHEEL_SHA256}: this is not the wheel of came 0.1.13")
    with zipfile.ZipFile(args.wheel) as wheel, tempfile.TemporaryDirectory() as folder:
        (args.out / "LICENSE-came.txt").write_bytes(wheel.read("came-0.1.13.dist-info/LICENSE"))
        with zipfile.ZipFile(io.BytesIO(wheel.read("came/sample_data.zip"))) as sample:
            for species in ("human", "mouse"):
                raw = ad.read_h5ad(sample.extract(f"raw-Baron_{species}.h5ad", folder))
                write_npz(args.out / f"pancreas_{species}.npz", pancreas(raw, species))
            # A gene may be called "NA" or "NaN": read names as they stand.
            with sample.open("gene_matches_human2mouse.csv") as file:
                table = orthologs(pd.read_csv(file, keep_default_na=False, dtype=str))
    text = table.to_csv(index=False, lineterminator="\n").encode()
    (args.out / "orthologs_human_mouse.csv.gz").write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
