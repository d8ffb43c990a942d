"""How undecided cells and genes are between components."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.models._assignment import averaged
from scbayes.state import read_any_fit, read_result
from scbayes.stats._entropy import entropy as entropy_of
from scbayes.tl._probabilities import check_components, check_draws, probabilities
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Under this name each is kept: one does not replace the other.
VERBS = {"cell": "entropy", "gene": "gene_entropy"}


def entropy(
    adata: "AnnData",
    key: str = "sb",
    *,
    by: str = "cell",
    n_samples: int | None = None,
    temperature: float = 1.0,
    normalize: bool = False,
    assigned: str | None = None,
    keep_draws: bool = False,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Entropy of the probabilities of a mixture's components: 0 for one that is certain, :math:`\ln K` for none known.

    .. math:: H = -\sum_k p_k \ln p_k, \qquad 0 \le H \le \ln K \text{ nats, exactly.}

    By cell, :math:`p_k = p(k \mid u_c)` as in :func:`scbayes.tl.assign`: is the cell between components? With
    thousands of genes most cells have an entropy of nearly 0, whether they are assigned correctly or not; `assigned`
    takes probabilities that were calibrated.

    By gene, :math:`p_k \propto \prod_c p(u_{cg} \mid k)`: if all cells were of component k, how well would it explain
    the gene's counts? Weights do not enter, and components are compared at equal expected totals of each cell. A gene
    in which components do not differ has :math:`\ln K`. The product is over thousands of cells and mostly decides for
    the component nearest to the average; with `normalize`, the mean over cells instead of the sum, genes can be
    compared: the lower, the more it differs between components.

    Parameters
    ----------
    adata
        Cells x genes, with a fitted mixture; cells of another data set with `reference`.
    key
        The fit to read.
    by
        ``"cell"`` or ``"gene"``.
    n_samples
        Draws over which entropies are averaged. None: the centre of the posterior.
    temperature
        Divides log probabilities; above 1, entropies are higher.
    normalize
        Divide log likelihoods by the number of genes (by cell) or of cells (by gene) before all else.
    assigned
        Prefix of a result of :func:`scbayes.tl.assign` whose probabilities are taken instead; by cell only, and without
        `n_samples`, `temperature` and `normalize`.
    keep_draws
        Keep the entropy of each draw.
    reference
        Where the fit is, if `adata` has other cells: genes are matched by name, nu is inferred.
    layer
        Layer with the counts of new cells. Default: as ``tl.fit`` would choose.
    rng
        Seed or generator of the draws.
    key_added
        Prefix of the slots. Default: `key`.
    progress
        Show a progress bar over draws.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. By cell it sets, float64 (by gene the same in `var` and `varm`; NaN for genes that were pooled)

    `adata.obs[key_added + "_entropy"]`
        Entropy in nats; with draws, the mean of the draws' entropies.
    `adata.obs[key_added + "_entropy_of_mean"]`
        Entropy of the probabilities averaged over draws (with `n_samples`). What it has more is uncertainty of the
        posterior: draws that are sure of different components.
    `adata.obsm[key_added + "_entropy_draws"]` : `(n_cells, n_samples)`
        With `keep_draws`.
    `adata.uns[key_added + "_entropy"]` (by gene: `"_gene_entropy"`) : dict
        How they were made.

    :func:`scbayes.get.entropy` reads them.

    Raises
    ------
    KeyError
        If there is no such fit or result.
    ValueError
        If the fit has no components, or settings exclude each other.
    """
    from scanpy import logging as logg

    key_added = key if key_added is None else key_added
    clock = logg.info(f"entropy by {by} of the components of {key!r}")
    check_draws(n_samples, temperature)
    _check(by, assigned, n_samples, keep_draws=keep_draws, plain=temperature == 1 and not normalize)
    if assigned is not None:
        fit = read_any_fit(adata if reference is None else reference, key)
        draws = [np.asarray(read_result(adata, "assign", assigned).values["probabilities"])]
    else:
        reading = read_with_counts(adata, key, reference=reference, layer=layer)
        fit = reading.fit
        check_components(fit)
        settings = {"by": by, "temperature": temperature, "normalize": normalize, "progress": progress}
        draws = probabilities(reading, n_samples, rng, **settings)
    found = averaged(draws, "entropy" if keep_draws else None)
    parts = {"entropy": found.entropy}
    if n_samples is not None:
        parts["entropy_of_mean"] = entropy_of(found.mean)
    if found.draws is not None:
        parts["entropy_draws"] = found.draws
    if by == "gene":
        parts = {what: reading.for_all_genes(value) for what, value in parts.items()}
    axis = "obs" if by == "cell" else "var"
    values = {(axis if value.ndim == 1 else axis + "m", what): value for what, value in parts.items()}
    facts = {
        "n_samples": None if n_samples is None else int(n_samples),
        "temperature": float(temperature),
        "normalize": bool(normalize),
        "assigned": assigned,
        "largest": float(np.log(found.mean.shape[1])),
    }
    return store(adata, VERBS[by], key_added, values, fit=fit, facts=facts, clock=clock, copy=copy)


def _check(by: str, assigned: str | None, n_samples: int | None, *, keep_draws: bool, plain: bool) -> None:
    if by not in VERBS:
        msg = f"by={by!r}: choose 'cell' or 'gene'"
        raise ValueError(msg)
    if assigned is not None and (by != "cell" or n_samples is not None or not plain):
        msg = (
            "assigned takes the probabilities of cells as they are: leave by, n_samples, temperature and normalize out"
        )
        raise ValueError(msg)
    if keep_draws and n_samples is None:
        msg = "keep_draws is about draws: pass n_samples"
        raise ValueError(msg)
