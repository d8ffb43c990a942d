"""Delete a fit."""

from typing import TYPE_CHECKING

from scbayes.state import actual, read_manifest, remove_fit

if TYPE_CHECKING:
    from anndata import AnnData


def remove(adata: "AnnData", key: str = "sb", *, copy: bool = False) -> "AnnData | None":
    """Delete every slot of a fit, also of one that is incomplete.

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to delete.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy without `uns[key]` and the slots of `varm` and `obsm` that the fit's manifest lists.

    Raises
    ------
    KeyError
        If there is no such fit; the message lists those that exist.
    ValueError
        If `uns[key]` is something else.
    """
    from scanpy import logging as logg

    read_manifest(adata, key, any_version=True)
    adata = adata.copy() if copy else adata
    actual(adata)
    removed = remove_fit(adata, key)
    logg.info(f"removed {', '.join(removed)}")
    return adata if copy else None
