"""Draws of a fit's parameters, put together by parameter."""

from collections.abc import Iterable

import numpy as np

from scbayes.models._draws import Draw
from scbayes.state._fit import Fit
from scbayes.stats._numbers import check_whole

#: Parameters with a value per gene (the last axis), and those with one per cell, in fits with capture.
GENE_SITES = ("mu", "r", "gate", "composition")
CELL_SITES = ("nu", "odds")
#: What is drawn where nothing is said: the rest of the parameters follows from these.
DEFAULT_SITES = ("mu", "r", "p", "phi", "gate", "nu", "weights")
#: Bytes of draws that are refused.
MOST = 2e9


def axis_of(fit: Fit, site: str) -> str:
    """What the last axis of a parameter is: ``"gene"``, ``"cell"`` or ``"global"``."""
    if site in GENE_SITES:
        return "gene"
    return "cell" if site in CELL_SITES and fit.config.capture else "global"


def collect_draws(
    fit: Fit,
    n_samples: int,
    rng: int | np.random.Generator = 0,
    *,
    sites: str | Iterable[str] | None = None,
    genes: np.ndarray | None = None,
    draws: Iterable[Draw] | None = None,
) -> dict[str, np.ndarray]:
    """Draws by parameter: float64 ``(n_samples, [n_batches,] [n_components,] n_genes, n_cells or nothing)``.

    Parameters
    ----------
    sites
        Parameters to return; by default those of ``DEFAULT_SITES`` that the model has.
    genes
        Position of the genes to return among those that were fitted on their own; by default all. They do not change
        what is drawn.
    draws
        The draws to collect; by default they are made from the fit.

    Raises
    ------
    ValueError
        If there are no draws to make, a parameter does not exist, or the draws would be larger than 2 GB.
    """
    check_whole(1, n_samples=n_samples)
    genes = np.arange(int(fit.fitted.sum())) if genes is None else genes
    like = {site: _of(fit, site, value, genes) for site, value in fit.centre().sites.items()}
    names = _names(sites, like, fit)
    size = {site: 8 * n_samples * like[site].size for site in names}
    if sum(size.values()) > MOST:
        parts = ", ".join(f"{site} {value / 1e9:.1f}" for site, value in size.items())
        msg = (
            f"{n_samples} draws take {sum(size.values()) / 1e9:.1f} GB ({parts}), and more than {MOST / 1e9:g} GB are "
            "not made: name fewer in sites= or genes=, or lower n_samples="
        )
        raise ValueError(msg)
    found = {site: np.empty((n_samples, *like[site].shape)) for site in names}
    for i, draw in enumerate(fit.draws(n_samples, np.random.default_rng(rng)) if draws is None else draws):
        for site, values in found.items():
            values[i] = _of(fit, site, draw.sites[site], genes)
    return found


def _of(fit: Fit, site: str, value: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Value of the genes asked for, without the axis of batches where they share it."""
    value = np.asarray(value)
    if site == "weights" or axis_of(fit, site) == "cell":
        return value
    value = value[0] if len(value) == 1 else value
    return value[..., genes] if axis_of(fit, site) == "gene" else value


def _names(sites: str | Iterable[str] | None, known: dict, fit: Fit) -> list[str]:
    if sites is None:
        return [site for site in DEFAULT_SITES if site in known]
    names = [sites] if isinstance(sites, str) else list(dict.fromkeys(sites))
    for name in names:
        if name not in known:
            msg = f"sites names {name!r}, which {fit.config.describe()} does not have; choose from {', '.join(known)}"
            raise ValueError(msg)
    if not names:
        msg = f"sites is empty; choose from {', '.join(known)}"
        raise ValueError(msg)
    return names
