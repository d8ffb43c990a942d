from typing import TYPE_CHECKING

from ._shipped import read_counts

if TYPE_CHECKING:
    from anndata import AnnData


def pancreas() -> "AnnData":
    """Human pancreas: UMI counts of 2,142 cells and 15,085 genes from four donors.

    The cells are the subsample of the 8,569 human cells of the study that the package `came` ships; genes
    with a count in fewer than 3 of them are left out. Shipped with scbayes, no download.

    Returns
    -------
    AnnData of shape (2142, 15085) with

    `X`
        raw counts, CSR, float32
    `obs["cell_type"]`
        the authors' 14 cell types (categorical), spelled as in :func:`pancreas_mouse`
    `obs["donor"]`, `obs["library"]`
        4 donors; the 12 libraries within them, the finest batch (categorical)
    `obs["organism"]`, `obs["cell_ontology_class"]`, `obs["cell_ontology_id"]`
        "Homo sapiens"; the cell type in the Cell Ontology, in words and as an id (categorical)
    `var_names`
        gene symbols
    `uns["provenance"]`
        dict of str: citation, accession, source, licence, filter

    Raises
    ------
    FileNotFoundError
        if the data file is missing from the installation

    References
    ----------
    Baron et al. (2016), A single-cell transcriptomic map of the human and mouse pancreas reveals inter- and
    intra-cell population structure, Cell Systems 3, 346-360. GEO: GSE84133.

    Examples
    --------
    >>> import scbayes as sb
    >>> sb.datasets.pancreas().shape
    (2142, 15085)
    """
    return read_counts("pancreas_human.npz")
