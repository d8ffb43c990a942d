"""One component of a mixture as a fit of its own."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import Fit, read_fit

if TYPE_CHECKING:
    from anndata import AnnData


def component(adata: "AnnData", k: int | str, key: str = "sb") -> Fit:
    """One component of a mixture, as a fit without a mixture.

    Parameters
    ----------
    adata
        Cells x genes, with a fitted mixture.
    k
        Its number, from 0 in the order of ``sb.get.fit(adata).components``, or its name. A string is a name.
    key
        The fit to read.

    Returns
    -------
    :class:`~scbayes.state.Fit` with the posterior of that component's genes, and of nu of all cells.

    Raises
    ------
    KeyError
        If there is no such fit or no such component.
    ValueError
        If the fit has no components, or cannot be read.
    """
    fit = read_fit(adata, key)
    if not fit.config.mixture:
        msg = f"the fit {key!r} has no components: fit with n_components=2 or more, or with labels_key"
        raise ValueError(msg)
    names = fit.components
    if isinstance(k, str) and k in names:
        return fit.component(names.index(k))
    if isinstance(k, int | np.integer) and not isinstance(k, bool) and 0 <= k < len(names):
        return fit.component(int(k))
    msg = f"no component {k!r} in {key!r}: give a number from 0 to {len(names) - 1}, or one of {names}"
    raise KeyError(msg)
