"""Point estimates."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import point, read_fit

if TYPE_CHECKING:
    from anndata import AnnData


def map(adata: "AnnData", key: str = "sb", *, canonical: bool = True, use_mean: bool = False) -> dict[str, np.ndarray]:
    r"""Most probable value of each parameter, in closed form.

    The mode of each parameter's own posterior: :math:`e^{m - s^2}` for one that is normal :math:`(m, s)` on the log
    scale; the solution of :math:`z = m + s^2 (2\sigma(z) - 1)` on the logit scale; :math:`(a-1)/(a+b-2)` of a gate,
    which is Beta-distributed (0 where :math:`a \le 1`).

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to read.
    canonical
        Also p, r, mu, odds and composition where they follow from what was sampled.
    use_mean
        Means, such as :math:`e^{m + s^2/2}`, instead of modes.

    Returns
    -------
    dict
        Parameter -> float64 of shape ``(n_genes,)``, ``(n_cells,)`` or ``()``, with a first axis of batches for
        parameters that each batch has its own of. In mixtures, genes have an axis of components before them, and
        weights are ``(n_components,)``, the mode of their Dirichlet. Genes that were pooled are left out.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit`.
    """
    fit = read_fit(adata, key)
    marginals = fit.canonical if canonical else fit.sampled_parameters
    result = {name: fit.squeeze(name, point(marginal, mean=use_mean)) for name, marginal in marginals.items()}
    if fit.config.mixture:
        result["weights"] = _weights(fit.posterior.weights, mean=use_mean)
    return result


def _weights(concentration: np.ndarray, *, mean: bool) -> np.ndarray:
    """Mode or mean of a Dirichlet distribution; components of concentration below 1 have their mode at 0."""
    above = concentration if mean else np.maximum(concentration - 1, 0)
    above = above if above.any() else concentration
    return above / above.sum()
