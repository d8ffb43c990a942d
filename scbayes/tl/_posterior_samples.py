"""Draws of the parameters, kept."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import Fit, collect_draws, read_fit
from scbayes.tl._draw_slots import draw_facts, draw_slots
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def posterior_samples(
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int = 100,
    sites: str | Iterable[str] | None = None,
    genes: Iterable[str] | None = None,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    """Joint draws of the parameters from the posterior, stored beside the fit.

    Draw s of every parameter belongs to draw s of all others: identities such as ``mu = r p / (1 - p)`` hold draw by
    draw. The fit itself is enough to make draws, so they need not be stored to be used:
    ``sb.get.samples(adata, n_samples=100)`` makes the same ones and writes nothing.

    A number takes 8 bytes, and the log says how much all take: 100 draws of mu and r of 14,000 genes and of nu of
    14,000 cells are 34 MB, K times as much for what each of K components has its own of.

    Parameters
    ----------
    adata
        Cells x genes, with a fit; cells of another data set with `reference`.
    key
        The fit to read.
    n_samples
        Number of draws S.
    sites
        Parameters to keep. Default: those of mu, r, p, phi, gate, nu and weights that the model has. composition and
        odds follow from these, and are kept if named.
    genes
        Names of the genes whose parameters are kept. Default: all that were fitted on their own.
    reference
        Where the fit is, if `adata` has other cells: nu is that of these cells, inferred from their counts.
    layer
        Layer with the counts of new cells. Default: as ``tl.fit`` would choose.
    rng
        Seed or generator. The same seed gives the same draws, whatever `sites` and `genes` are.
    key_added
        Prefix of the slots. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets, float64, for each parameter, here r, nu, p; with an axis of B batches where each has its
    own value, and one of K components in mixtures

    `adata.varm[key_added + "_samples_r"]` : `(n_genes, S, [B,] [K])`
        Gene-wise parameters; NaN for genes that were pooled. With `genes`, they lie in `uns` instead.
    `adata.obsm[key_added + "_samples_nu"]` : `(n_cells, S, [K])`
        Cell-wise parameters.
    `adata.uns[key_added + "_posterior_samples"]` : dict
        Global parameters, ``["p"]`` `(S, [B])` and ``["weights"]`` `(S, K)`; with `genes`, their names ``["genes"]``
        and gene-wise parameters ``["r"]`` `(S, [B,] [K,] len(genes))`; and how they were made.

    :func:`scbayes.get.samples` reads them, draws first.

    Raises
    ------
    KeyError
        If there is no such fit, or it has no such genes.
    ValueError
        If the fit cannot be read, has no such parameter, or the draws would be larger than 2 GB.
    """
    from scanpy import logging as logg

    key_added = key if key_added is None else key_added
    clock = logg.info(f"drawing {n_samples} times from the posterior of {key!r}")
    if reference is None or reference is adata:
        fit = read_fit(adata, key)
    else:
        fit = read_with_counts(adata, key, reference=reference, layer=layer).fit
    names = None if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    found = collect_draws(fit, n_samples, rng, sites=sites, genes=None if names is None else _positions(fit, names))
    size = sum(value.nbytes for value in found.values())
    facts = draw_facts(fit, found, int(rng) if np.isscalar(rng) else None)
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": copy, "said": f"{size / 1e6:.1f} MB of draws"}
    return store(adata, "posterior_samples", key_added, draw_slots(fit, found, names), **how)


def _positions(fit: Fit, names: list[str]) -> np.ndarray:
    """Where the genes are among those that were fitted on their own."""
    position = {name: i for i, name in enumerate(fit.genes[fit.fitted])}
    missing = [name for name in names if name not in position]
    if missing or not names:
        msg = f"genes that {fit.key!r} was not fitted to: {missing[:5]}" if missing else "genes is empty"
        raise KeyError(msg)
    return np.array([position[name] for name in names])
