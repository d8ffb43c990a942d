"""The fit itself."""

from typing import TYPE_CHECKING

from scbayes.state import Fit, LatentFit, read_any_fit

if TYPE_CHECKING:
    from anndata import AnnData


def fit(adata: "AnnData", key: str = "sb") -> Fit | LatentFit:
    """A fit, with its model, inputs, slots and convergence: ``print(sb.get.fit(adata))``.

    Parameters
    ----------
    adata
        Cells x genes, with a fit: all that was fitted, or any part of it.
    key
        The fit to read.

    Returns
    -------
    :class:`~scbayes.state.Fit` of the cells and genes that `adata` has, or :class:`~scbayes.state.LatentFit`.

    Raises
    ------
    KeyError
        If there is no such fit (the message lists those that exist), or a part of it is missing.
    ValueError
        If its parts disagree with each other, with the names of cells and genes, or with this version of scbayes.
    """
    return read_any_fit(adata, key)
