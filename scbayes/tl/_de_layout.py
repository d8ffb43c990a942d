"""Tables of differential expression as scanpy keeps them, and whole beside that."""

import numpy as np

from scbayes.models._contrast import Table

#: Column of the table behind each of scanpy's entries.
ENTRIES = {"scores": "bound", "logfoldchanges": "lfc_mean", "pvals": "lfsr", "pvals_adj": "fsr"}


def as_rank_genes_groups(tables: dict[str, Table], genes: np.ndarray, facts: dict) -> dict[tuple[str, str], object]:
    """Values for `uns`: scanpy's entries with a field per group, and `columns` with a row per group.

    Genes are in the order of each group: by the end of the interval that is nearer to zero, then by the probability of
    a change.
    """
    orders = {name: _order(table) for name, table in tables.items()}
    entries: dict[tuple[str, str], object] = {
        ("uns", "names"): _records({name: genes[o] for name, o in orders.items()}, "U")
    }
    for entry, column in ENTRIES.items():
        kind = "f8" if entry.startswith("pvals") else "f4"
        entries["uns", entry] = _records({name: t.columns[column][orders[name]] for name, t in tables.items()}, kind)
    first = next(iter(tables.values()))
    entries["uns", "columns"] = {
        column: np.stack([_plain(table.columns[column])[orders[name]] for name, table in tables.items()])
        for column in first.columns
    }
    entries["uns", "params"] = {
        "groupby": facts["groupby"] or "",
        "reference": facts["reference"],
        "method": "scbayes",
        "use_raw": False,
        "layer": facts["layer"],
        "corr_method": "expected share of false signs",
    }
    return entries


def as_sets(tables: dict[str, Table], names: list[str]) -> dict[tuple[str, str], object]:
    """Value for `uns`, if there are gene sets: their names, and columns with a row per group."""
    if not names:
        return {}
    columns = next(iter(tables.values())).sets
    stacked = {name: np.stack([_plain(table.sets[name]) for table in tables.values()]) for name in columns}
    return {("uns", "sets"): {"names": np.array(names, object)} | stacked}


def _plain(value: np.ndarray) -> np.ndarray:
    """Without bool, for which not all files have a type."""
    return value.astype(np.uint8) if value.dtype == bool else value


def _order(table: Table) -> np.ndarray:
    """Genes, surest large effects first."""
    columns = table.columns
    return np.lexsort((-np.abs(columns["lfc_mean"]), -columns["p_de"], -np.abs(columns["bound"])))


def _records(columns: dict[str, np.ndarray], kind: str) -> np.recarray:
    if kind == "U":
        columns = {name: np.asarray(values, object) for name, values in columns.items()}
        kind = "O"
    return np.rec.fromarrays(list(columns.values()), dtype=[(name, kind) for name in columns])
