"""Counts in 10x's HDF5 files, to be read a block of droplets at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

#: Columns of `var` by their names in the file, since Cell Ranger 3 and before.
FEATURES = {"name": "name", "gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
GENES = {"name": "gene_names", "gene_ids": "genes"}


class StoredRows:
    """Features x droplets by columns, which are the rows of droplets x features: as AnnData's `CSRDataset`."""

    format = "csr"

    def __init__(self, group) -> None:
        self.group, self.dtype = group, group["data"].dtype
        self.shape = len(group["indptr"]) - 1, int(group["shape"][0])


@contextmanager
def opened_tenx(path: Path) -> Iterator[tuple[StoredRows, pd.Index, pd.DataFrame]]:
    """Counts, barcodes, and `var` of a file, which is closed at the end.

    Raises
    ------
    ValueError
        If it is no such file, or has several genomes (Cell Ranger 2).
    """
    import h5py

    if not h5py.is_hdf5(path):
        msg = f"{str(path)!r} is no HDF5 file"
        raise ValueError(msg)
    with h5py.File(path) as file:
        groups = [name for name in file if isinstance(file[name], h5py.Group) and "indptr" in file[name]]
        if "matrix" not in groups and len(groups) != 1:
            msg = f"{str(path)!r} is no matrix of 10x, or has several genomes: its groups are {list(file)}"
            raise ValueError(msg)
        group = file["matrix" if "matrix" in groups else groups[0]]
        there, names = (group["features"], FEATURES) if "features" in group else (group, GENES)
        var = pd.DataFrame({column: _text(there[name]) for column, name in names.items() if name in there})
        yield StoredRows(group), pd.Index(_text(group["barcodes"])), var.set_index("name")


def _text(dataset) -> np.ndarray:
    return dataset.asstr()[...].astype(object)
