"""Counts in two parts that are independent: one to find groups, one to test them."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scbayes.counts._check import check_counts, check_shape
from scbayes.pp._sums import steps
from scbayes.state import Fit, actual, find_counts, read_fit, stored_source, write_result

if TYPE_CHECKING:
    from anndata import AnnData


def split_counts(
    adata: "AnnData",
    share: float = 0.5,
    *,
    key: str | None = "sb",
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "split",
    copy: bool = False,
) -> "AnnData | None":
    r"""Split each count into a training and a test count, which are independent if the dispersion is right.

    Groups that were found in counts differ in those counts, even where there is nothing to find. Find them in one part
    and test them in the other. Of a count :math:`u \sim \mathrm{NB}(\text{mean } m, \text{size } r)`,

    .. math::
        s \sim \mathrm{Beta}(\varepsilon r, (1 - \varepsilon) r), \qquad
        u_\text{train} \sim \mathrm{Binomial}(u, s), \qquad u_\text{test} = u - u_\text{train}

    are independent, :math:`u_\text{train} \sim \mathrm{NB}(\varepsilon m, \varepsilon r)` and :math:`u_\text{test} \sim
    \mathrm{NB}((1 - \varepsilon) m, (1 - \varepsilon) r)`, with :math:`\varepsilon` = `share`. Whatever m is, it need
    not be known: r does. Where it is taken to be :math:`\hat r`, the parts of a cell of known m have the covariance

    .. math:: \varepsilon (1 - \varepsilon)\, m^2\, \frac{\hat r - r}{r\, (\hat r + 1)},

    so that too large an :math:`\hat r` leaves some of the double use, and too small a one takes away real differences.

    Parameters
    ----------
    adata
        Cells x genes, with a fit to all of these genes. May be backed, or hold dask arrays: what is written is in
        memory.
    share
        Expected share of each count that goes to training, between 0 and 1.
    key
        The fit whose sizes r are taken (posterior medians): of the cell's batch where batches have their own, and in
        mixtures of the cell's most probable component. None: no fit, binomial splitting (the limit of large r), whose
        parts are independent only if counts are Poisson.
    layer
        Layer with the counts. Default: that of the fit; without one, as in :func:`scbayes.tl.fit`.
    rng
        Seed or generator.
    key_added
        Prefix of the layers, and name of the entry in `uns`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.layers[key_added + "_train"]`, `adata.layers[key_added + "_test"]` : CSR matrices, int32
        Their sum is the counts. They stay when the fit is removed or replaced.
    `adata.uns[key_added]` : dict
        How they were made.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If there is no such fit or layer.
    ValueError
        If `share` is out of range; if genes were not fitted on their own, and so have no r; if the fit has zero
        inflation, whose excess zeros both parts would share; if the counts are not counts.

    References
    ----------
    Neufeld, Dharamshi, Gao & Witten (2024), Data thinning for convolution-closed distributions. JMLR 25. Neufeld,
    Popp, Gao, Battle & Witten (2023), Negative binomial count splitting for single-cell RNA sequencing data.
    arXiv:2307.12985. Hivert, Agniel, Thiébaut & Hejblum (2024), Practical limitations for real-life application of data
    fission and data thinning in post-clustering differential analysis. arXiv:2405.13591.
    """
    from scanpy import logging as logg

    if not isinstance(share, int | float | np.number) or not 0 < share < 1:
        msg = f"share={share!r}: give a number between 0 and 1"
        raise ValueError(msg)
    clock = logg.info("splitting counts" if key is None else f"splitting counts by the dispersion of {key!r}")
    fit = None if key is None else read_fit(adata, key)
    if fit is not None:
        _check_fit(fit)
    own = fit is not None and layer is None
    source = stored_source(adata, key) if own else find_counts(adata, layer, None, None)
    train, test = _split(source.x, source.where, float(share), fit, rng)
    if fit is None:
        logg.warning("no dispersion is known (key=None): parts of overdispersed counts depend on each other")

    out = adata.copy() if copy else adata
    actual(out)
    facts = {"share": float(share), "layer": source.layer, "key": key, "fit": None if fit is None else fit.id}
    values = {("layers", "train"): train, ("layers", "test"): test}
    # of no fit, for which it would be deleted with it: the parts are data, and a fit to one of them may take its place
    slots = write_result(out, "split_counts", key_added, values, fit=None, facts=facts, entry=key_added)
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))
    return out if copy else None


def _check_fit(fit: Fit) -> None:
    if fit.config.gate:
        msg = (
            f"the fit {fit.key!r} has zero inflation ({fit.config.model}): an excess zero is one in both parts, which "
            "would depend on each other; fit a model without it, such as 'nbvcp'"
        )
        raise ValueError(msg)
    if not fit.fitted.all():
        msg = (
            f"{(~fit.fitted).sum()} of {len(fit.fitted)} genes were not fitted on their own in {fit.key!r} and have no "
            "dispersion: fit all genes, or leave these out first: adata[:, sb.get.fit(adata).fitted].copy()"
        )
        raise ValueError(msg)


def _split(x, where: str, share: float, fit: Fit | None, rng) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Training and test counts, a few cells at a time."""
    check_shape(x, where)
    # a generator each for shares and molecules: then it does not matter how many cells come at a time
    shares, molecules = (np.random.default_rng(seed) for seed in np.random.default_rng(rng).integers(2**63, size=2))
    sizes = _Sizes(fit)
    parts = []
    for first, block in steps(x, where):
        check_counts(block, where)
        u = block.data.astype(np.int64)
        s = share
        if fit is not None:
            r = sizes.of(first, block)
            s = shares.beta(share * r, (1 - share) * r)
        train = molecules.binomial(u, s)
        parts.append([_like(block, values) for values in (train, u - train)])
    train, test = (sparse.csr_matrix(sparse.vstack(part, format="csr")) for part in zip(*parts, strict=True))
    return train, test


class _Sizes:
    """Size r of each count: its gene's, in the batch and the component of its cell."""

    def __init__(self, fit: Fit | None) -> None:
        if fit is None:
            return
        table = np.exp(np.asarray(fit.canonical["r"].loc))  # medians, (copies, [components,] genes)
        self.table = table.reshape(table.shape[0], fit.config.n_components, -1)
        self.copy = fit.batch if len(table) > 1 else np.zeros(len(fit.cells), int)
        mixture = fit.config.mixture
        self.component = fit.posterior.responsibilities.argmax(1) if mixture else np.zeros(len(fit.cells), int)

    def of(self, first: int, block: sparse.csr_array) -> np.ndarray:
        """Those of the non-zeros of a block that begins with the cell ``first``."""
        cell = first + np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        return self.table[self.copy[cell], self.component[cell], block.indices]


def _like(block: sparse.csr_array, values: np.ndarray) -> sparse.csr_array:
    """``values`` in the places of the non-zeros of ``block``."""
    # a copy: zeros are removed in place, and the block may share its arrays with the user's matrix
    part = sparse.csr_array((values.astype(np.int32), block.indices, block.indptr), shape=block.shape, copy=True)
    part.eliminate_zeros()
    return part
