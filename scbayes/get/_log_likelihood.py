"""Log likelihoods, read back."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from anndata import AnnData


def log_likelihood(
    adata: "AnnData", key: str = "sb", *, by: str = "cell", draws: bool = False
) -> "pd.DataFrame | np.ndarray":
    """What :func:`scbayes.tl.log_likelihood` computed.

    Parameters
    ----------
    adata
        Cells x genes, with the result.
    key
        Its prefix.
    by
        ``"cell"`` or ``"gene"``.
    draws
        The values at each draw instead.

    Returns
    -------
    DataFrame with the cells or the fitted genes as index and the column `log_likelihood`, in nats (of draws, the mean);
    where components were asked for, also a column `component_k` for each; of a marginal over a latent space, also `ess`
    and `k_hat`. ``attrs`` says how it was computed. With `draws`, float64 ``(S, n)``, or
    ``(S, n, n_components)`` where components were asked for.

    Raises
    ------
    KeyError
        If it was not computed.
    ValueError
        If the fit was replaced since, `by` is unknown, or there are no draws.
    """
    if by not in ("cell", "gene"):
        msg = f"by={by!r}: choose 'cell' or 'gene'"
        raise ValueError(msg)
    try:
        values, facts = read_result(adata, f"log_likelihood_{by}", key)
    except KeyError as error:
        msg = f"no log likelihood {key!r} by {by}: run sb.tl.log_likelihood(adata, by={by!r}) first"
        raise KeyError(msg) from error
    total = np.asarray(values["log_likelihood"])
    parts = values.get("log_likelihood_components")
    there = ~np.isnan(total)
    if draws:
        if "log_likelihood_draws" not in values:
            how = "is of a latent space: only its sum over draws is kept"
            if "kind" not in facts:
                how = "was computed at the centre: pass n_samples= to tl.log_likelihood"
            msg = f"the log likelihood {key!r} by {by} {how}"
            raise ValueError(msg)
        found = np.asarray(values["log_likelihood_draws"] if parts is None else parts)
        return np.swapaxes(found[there], 0, 1)
    names = adata.obs_names if by == "cell" else adata.var_names
    frame = pd.DataFrame({"log_likelihood": total[there]}, index=names[there])
    for what in ("ess", "k_hat"):
        if f"log_likelihood_{what}" in values:
            frame[what] = np.asarray(values[f"log_likelihood_{what}"])[there]
    frame.attrs |= facts
    if parts is not None:
        parts = np.asarray(parts)[there]
        parts = parts if parts.ndim == 2 else parts.mean(1)
        for k in range(parts.shape[1]):
            frame[f"component_{k}"] = parts[:, k]
    return frame
