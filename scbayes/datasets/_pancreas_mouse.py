from typing import TYPE_CHECKING

from ._shipped import read_counts

if TYPE_CHECKING:
    from anndata import AnnData


def pancreas_mouse() -> "AnnData":
    """Mouse pancreas: UMI counts of 1,886 cells and 14,465 genes from two mice.

    The mouse half of the study behind :func:`pancreas`, complete; genes with a count in fewer than 3 cells are
    left out. :func:`orthologs` pairs its genes with the human ones. Shipped with scbayes, no download.

    Returns
    -------
    AnnData of shape (1886, 14465) with

    `X`
        raw counts, CSR, float32
    `obs["cell_type"]`
        the authors' 13 cell types (categorical), spelled as in :func:`pancreas`
    `obs["donor"]`, `obs["library"]`
        2 mice; the 6 libraries within them, the finest batch (categorical)
    `obs["organism"]`, `obs["cell_ontology_class"]`, `obs["cell_ontology_id"]`
        "Mus musculus"; the cell type in the Cell Ontology, in words and as an id (categorical)
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
    """
    return read_counts("pancreas_mouse.npz")
