import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def locate(name: str) -> Path:
    """Return the path of a shipped file: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "data" / name, package.parent / "data" / name]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"the data file {name!r} is in none of {[str(place.parent) for place in places]}: reinstall scbayes, "
        "or rebuild the file with data/build.py of the source tree"
    )


def read_counts(name: str) -> "AnnData":
    """Read one data set written by data/build.py as AnnData."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    with np.load(locate(name), allow_pickle=False) as file:
        stored = dict(file)
    n_cells, n_genes = len(stored["cells"]), len(stored["genes"])
    indptr = np.concatenate([[0], np.cumsum(stored["cells_per_gene"], dtype=np.int32)])
    # Every gene starts anew at cell 0, so the running sum up to its first entry is taken off again.
    walked = np.cumsum(_join(stored, "gap"), dtype=np.int64)
    before = np.concatenate([[0], walked])[indptr[:-1]]
    rows = walked - np.repeat(before, stored["cells_per_gene"])
    counts = _join(stored, "count").astype(np.float32)
    columns = sp.csc_matrix((counts, rows.astype(np.int32), indptr.astype(np.int32)), shape=(n_cells, n_genes))
    obs = {
        column: pd.Categorical.from_codes(stored[f"obs_{column}_codes"], stored[f"obs_{column}_categories"].tolist())
        for column in stored["obs"].tolist()
    }
    return ad.AnnData(
        columns.tocsr(),
        obs=pd.DataFrame(obs, index=stored["cells"].tolist()),
        var=pd.DataFrame(index=stored["genes"].tolist()),
        uns={"provenance": json.loads(stored["provenance"].item())},
    )


def _join(stored: dict[str, np.ndarray], name: str) -> np.ndarray:
    return stored[f"{name}_low"] + (stored[f"{name}_high"].astype(np.uint16) << 8)
