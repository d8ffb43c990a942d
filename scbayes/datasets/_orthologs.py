from typing import TYPE_CHECKING

from ._shipped import locate

if TYPE_CHECKING:
    from pandas import DataFrame


def orthologs(*, one_to_one: bool = False) -> "DataFrame":
    """Pairs of human and mouse genes that descend from one ancestor, by symbol.

    Parameters
    ----------
    one_to_one
        keep only pairs whose human symbol and whose mouse symbol occur in no other pair of the table

    Returns
    -------
    DataFrame with 23,761 rows (16,601 with `one_to_one`) and the columns

    `human`, `mouse`
        gene symbols (str)
    `type`
        Ensembl's type of the homology, categorical: "one2one", "one2many", "many2many". It speaks of Ensembl
        genes, of which several can share a symbol, so it may differ from `one_to_one`, which speaks of symbols

    Raises
    ------
    FileNotFoundError
        if the data file is missing from the installation

    References
    ----------
    Ensembl BioMart, as shipped with came 0.1.13: Liu et al. (2023), Cross-species cell-type assignment from
    single-cell RNA-seq data by a heterogeneous graph neural network, Genome Research 33, 96-111.
    """
    import pandas as pd

    # A gene may be called "NA" or "NaN": names are read as they stand.
    table = pd.read_csv(locate("orthologs_human_mouse.csv.gz"), keep_default_na=False, dtype=str)
    table["type"] = pd.Categorical(table["type"], ["one2one", "one2many", "many2many"])
    if one_to_one:
        shared = table["human"].duplicated(keep=False) | table["mouse"].duplicated(keep=False)
        table = table[~shared].reset_index(drop=True)
    return table
