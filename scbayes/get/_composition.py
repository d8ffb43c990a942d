"""Compositions that ``sb.tl.normalize_counts`` wrote."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.state import read_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

WHATS = ("interval", "samples", "sizes", "concentrations", "distributions")
BACKENDS = ("numpyro", "scipy")


def composition(
    adata: "AnnData",
    key: str = "sb",
    *,
    what: str = "interval",
    genes: "str | Iterable[str] | None" = None,
    backend: str = "numpyro",
) -> "pd.DataFrame | np.ndarray | object":
    r"""Compositions of the components of a fit: shares of all genes that were fitted.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.tl.normalize_counts`.
    key
        Its `key_added`.
    what
        ``"interval"``: posterior mean and interval of the mean composition. The others are about the composition of a
        cell, and were stored on request: ``"samples"`` (`store_samples`), ``"sizes"``, the draws of r
        (`store_sizes`), ``"concentrations"`` and ``"distributions"`` (`fit_dirichlet`).
    genes
        Names of genes. Default: all that were fitted on their own.
    backend
        Of ``"distributions"``: ``"numpyro"`` or ``"scipy"``.

    Returns
    -------
    interval
        DataFrame with a row for each gene in each batch and component, columns `gene`, `batch`, `component`, `mean`,
        `lower` and `upper`; without `batch` where batches share everything, without `component` where there is one.
        ``attrs["interval"]`` is the probability of the interval.
    samples
        float64 ``(n_samples, [n_batches,] [n_components,] n_genes[, n_samples_dirichlet])``, the last axis where there
        is more than one.
    sizes
        float64 ``(n_samples, [n_batches,] [n_components,] n_genes)``.
    concentrations
        float64 ``([n_batches,] [n_components,] n_genes)``.
    distributions
        A Dirichlet distribution, or a list of one per component, or lists of them per batch. Where genes are missing or
        pooled, its last element stands for the sum of all of these: that is again a Dirichlet distribution.

    Raises
    ------
    KeyError
        If there is no such result, it was not asked to store this, or a gene is not in `adata`.
    ValueError
        If `what` or `backend` is unknown, a gene was not fitted on its own, or the fit was replaced since.
    """
    _check(what, backend)
    values, facts = read_result(adata, "normalize_counts", key)
    if "composition_mean" not in values:
        raise KeyError(f"{key!r} is of a fit with a latent space, which has expression of cells: sb.get.expression")
    rows = _rows(adata, values["composition_mean"], genes, key)
    shape = [len(facts[name]) for name in ("batches", "components") if facts[name]]
    if what == "interval":
        return _table(adata, values, facts, rows)
    part = {"samples": "samples", "sizes": "sizes"}.get(what, "concentration")
    if f"composition_{part}" not in values:
        argument = {"samples": "store_samples", "sizes": "store_sizes"}.get(what, "fit_dirichlet")
        raise KeyError(f"{key!r} holds no {what}: run sb.tl.normalize_counts(adata, {argument}=True)")
    value = np.asarray(values[f"composition_{part}"])[rows]  # genes, profiles, ...
    if what == "distributions":
        found = _with_rest(value, np.asarray(values["precision"])).reshape(*shape, -1)
        return _dirichlets(found, _numpyro if backend == "numpyro" else _scipy)
    value = np.moveaxis(value, 0, 1)
    if part == "concentration":
        return value.reshape(*shape, len(rows))
    value = np.moveaxis(value, 2, 0)
    value = value.reshape(value.shape[0], *shape, *value.shape[2:])
    return value[..., 0] if what == "samples" and value.shape[-1] == 1 else value


def _check(what: str, backend: str) -> None:
    for name, value, known in (("what", what, WHATS), ("backend", backend, BACKENDS)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")


def _rows(adata: "AnnData", mean: np.ndarray, genes, key: str) -> np.ndarray:
    """Rows of ``adata.var`` of the genes, those that were fitted."""
    fitted = np.isfinite(np.asarray(mean)[:, 0])
    if genes is None:
        return np.flatnonzero(fitted)
    names = [genes] if isinstance(genes, str) else list(genes)
    rows = adata.var_names.get_indexer(names)
    if (rows < 0).any():
        raise KeyError(f"no gene {names[int(np.argmin(rows))]!r} in adata.var_names")
    if not fitted[rows].all():
        raise ValueError(f"{names[int(np.argmin(fitted[rows]))]!r} was not fitted on its own in {key!r}")
    return rows


def _table(adata: "AnnData", values: dict, facts: dict, rows: np.ndarray) -> pd.DataFrame:
    names = [facts["batches"] or [None], facts["components"] or [None]]
    parts = []
    for i, (batch, component) in enumerate((b, k) for b in names[0] for k in names[1]):
        columns = {"gene": adata.var_names[rows], "batch": batch, "component": component}
        columns |= {x: np.asarray(values[f"composition_{x}"])[rows, i] for x in ("mean", "lower", "upper")}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    for name, known in zip(("batch", "component"), names, strict=True):
        if known == [None]:
            table = table.drop(columns=name)
        else:
            table[name] = pd.Categorical(table[name], known)
    table.attrs["interval"] = facts["interval"]
    return table


def _with_rest(value: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Concentrations ``(n_profiles, n_genes)``, then that of all other genes together if there are any."""
    rest = precision - value.sum(0)
    value = value.T
    return np.concatenate([value, rest[:, None]], 1) if np.any(rest > 1e-9 * precision) else value


def _dirichlets(value: np.ndarray, make) -> object:
    return make(value) if value.ndim == 1 else [_dirichlets(part, make) for part in value]


def _numpyro(value: np.ndarray) -> object:
    import numpyro.distributions as dist

    return dist.Dirichlet(value)


def _scipy(value: np.ndarray) -> object:
    from scipy import stats

    return stats.dirichlet(value)
