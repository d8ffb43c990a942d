"""How probable the counts are under a fit."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp, xlogy

from scbayes.counts import Counts
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells, score_genes
from scbayes.state import is_latent
from scbayes.tl._families import check_family
from scbayes.tl._gene_weights import gene_weights
from scbayes.tl._log_likelihood_latent import log_likelihood_latent
from scbayes.tl._probabilities import check_draws
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments that a fit with a latent space does not know.
NEVER_LATENT = ("by", "components", "weights", "weight_type", "temperature")


def log_likelihood(
    adata: "AnnData",
    key: str = "sb",
    *,
    by: str = "cell",
    components: bool = False,
    kind: str | None = None,
    n_samples: int | None = None,
    weights: "np.ndarray | str | None" = None,
    weight_type: str = "multiplicative",
    temperature: float = 1.0,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    r"""Log probability of the counts of each cell, or of each gene, given all parameters.

    **With a latent space** (``model="vae"``, ``"factors"``), of each cell, with its latent numbers v (library size and
    contamination included, where they are latent) integrated out:

    .. math::
        \text{marginal} = \ln \frac{1}{S} \sum_s \frac{p(u \mid v_s)\, p(v_s)}{r(v_s)}, \qquad
        \text{reconstruction} = \frac{1}{S} \sum_s \ln p(u \mid v_s), \qquad
        \text{elbo} = \text{reconstruction} - \mathrm{KL}(q \,\|\, p).

    The S draws are from q, the divergence is exact; those of the marginal are from r, a Student's t around the mode of
    the cell's posterior, with the curvature there. All are log likelihoods: higher is better. The expected marginal of
    S draws is a lower bound of :math:`\ln p(u)` that rises with S (Burda et al. 2016). Its standard error is about
    :math:`(1/\mathrm{ESS} - 1/S)^{1/2}` nats; where Pareto k-hat is above 0.7 it is not known.

    **The others.** With :math:`l_{ckg}` the log probability of a count under component k (one without a mixture, of
    weight 1), at the cell's :math:`\nu_c`, temperature T and gene weights :math:`a`,

    .. math::
        s_{ckg} = \frac{a_{kg}\, l_{ckg}}{T} \text{ or } \frac{l_{ckg} + a_{kg}}{T}, \qquad
        L_c = \ln \sum_k w_k \exp \sum_g s_{ckg} = \sum_g \sum_k \gamma_{ck} \left(s_{ckg} +
        \frac{1}{G} \ln \frac{w_k}{\gamma_{ck}}\right),

    with the responsibilities :math:`\gamma_{ck} \propto w_k \exp \sum_g s_{ckg}`. A cell has :math:`L_c`; a gene has
    the sum over cells of its term on the right. So cells and genes add up to the same total, also in a mixture.

    This is the density given the cell's own :math:`\nu_c`, which was inferred from the same counts. To compare fits,
    use :func:`scbayes.tl.compare`.

    Parameters
    ----------
    adata
        Cells x genes, with a fit; cells of another data set with `reference`.
    key
        The fit to read.
    by
        ``"cell"`` or ``"gene"``.
    kind
        Of a fit with a latent space: ``"marginal"`` (default), ``"elbo"`` or ``"reconstruction"``; `by`, `components`,
        `weights` and `temperature` are of the others.
    components
        Also the part of each component: of a cell :math:`\ln w_k + \sum_g s_{ckg}`, whose logsumexp is :math:`L_c`; of
        a gene the term of k in the sum, so that components add up.
    n_samples
        Number of draws S from the posterior. Default: at its centre; with a latent space 1,000 for the marginal, else
        100.
    weights
        Of genes :math:`a_g`, ``(n_genes,)``, or of genes in each component, ``(n_genes, n_components)``; in the order
        of `adata.var`. Or a column of `adata.var`. A pooled gene has the mean
        weight of the genes that were pooled (additive: 0).
    weight_type
        ``"multiplicative"``: weights multiply log probabilities. ``"additive"``: they are added to them.
    temperature
        T, positive; above 1 it flattens the responsibilities.
    reference
        AnnData with the fit, if `adata` has other cells. Genes are matched by name; nu is inferred.
    layer
        Layer with the counts. Default: that of the fit; of new cells, as ``tl.fit`` would choose.
    rng
        Seed or generator of draws.
    key_added
        Prefix of the slots. Default: `key`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets, float64 and in nats, with ``obs`` and ``obsm`` for cells, ``var`` and ``varm`` for genes
    (NaN for genes that were not fitted on their own)

    `adata.obs[key_added + "_log_likelihood"]` : `(n,)`
        At the centre, or the mean over draws; with a latent space, what `kind` says.
    `adata.obs[key_added + "_log_likelihood_ess"]`, `..._log_likelihood_k_hat` : `(n,)`
        Of a marginal: effective number of draws, and Pareto k-hat of their weights.
    `adata.obsm[key_added + "_log_likelihood_draws"]` : `(n, S)`
        With `n_samples`.
    `adata.obsm[key_added + "_log_likelihood_components"]` : `(n, K)`, or `(n, S, K)` with `n_samples`
        With `components`.
    `adata.uns[key_added + "_log_likelihood_cell"]`, or `"_gene"` : dict
        How it was computed. The part of a gene into which others were pooled, which is in that of cells, is there; with
        a latent space the `mean` over cells.

    Raises
    ------
    KeyError
        If there is no such fit.
    ValueError
        If the fit cannot be read, or an argument cannot be used.
    """
    given = dict(locals())
    from scanpy import logging as logg

    if by not in ("cell", "gene"):
        msg = f"by={by!r}: choose 'cell' or 'gene'"
        raise ValueError(msg)
    check_draws(n_samples, temperature)
    latent = is_latent(adata if reference is None else reference, key)
    check_family(given, log_likelihood, latent=latent, only_latent=("kind",), never_latent=NEVER_LATENT)
    if latent:
        return log_likelihood_latent(adata, given)
    key_added = key if key_added is None else key_added
    clock = logg.info(f"log likelihood of {key!r} by {by}")
    reading = read_with_counts(adata, key, reference=reference, layer=layer)
    scheme = gene_weights(adata, reading, weights, weight_type, by_component=True)
    score = _Score(by == "gene", None if scheme is None else scheme.T, weight_type == "additive", temperature)
    draws = [reading.fit.centre()] if n_samples is None else reading.fit.draws(n_samples, np.random.default_rng(rng))
    found = [score.of(draw.parameters, reading.counts) for draw in draws]
    total = np.stack([value for value, _ in found], 1)
    parts = np.stack([part for _, part in found], 1) if components else None
    facts = {"by": by, "n_samples": n_samples, "temperature": float(temperature), "weighted": weights is not None}
    facts |= {"weight_type": weight_type, "components": components, "pooled": 0.0}
    if by == "gene":
        n = len(reading.columns)
        facts["pooled"] = float(total[n:].sum(0).mean())
        total = reading.for_all_genes(total)
        parts = None if parts is None else reading.for_all_genes(parts)
    frame, array = ("obs", "obsm") if by == "cell" else ("var", "varm")
    values = {(frame, "log_likelihood"): total.mean(1)}
    if n_samples is not None:
        values[array, "log_likelihood_draws"] = total
    if parts is not None:
        values[array, "log_likelihood_components"] = parts[:, 0] if n_samples is None else parts
    how = {"fit": reading.fit, "facts": facts, "clock": clock, "copy": copy}
    return store(adata, f"log_likelihood_{by}", key_added, values, **how)


class _Score(NamedTuple):
    """What is asked of each draw; ``weights`` are ``(n_components, n_genes)`` or None."""

    by_gene: bool
    weights: np.ndarray | None
    additive: bool
    temperature: float

    def of(self, parameters: Parameters, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
        """Log likelihood ``(n,)`` of cells or genes, and its parts by component ``(n, n_components)``."""
        scores = self._cells(parameters, counts)
        with np.errstate(divide="ignore"):
            log_w = np.log(parameters.weights)
        if not self.by_gene:
            joint = scores / self.temperature + log_w
            return logsumexp(joint, axis=1), joint
        log_gamma = log_responsibilities(scores, parameters.weights, self.temperature)
        gamma = np.exp(log_gamma)
        genes = score_genes(parameters, counts, gamma)
        if self.weights is not None:
            genes = genes + self.weights * gamma.sum(0)[:, None] if self.additive else genes * self.weights
        prior = np.sum(xlogy(gamma, parameters.weights) - xlogy(gamma, gamma), 0)
        parts = genes.T / self.temperature + prior / counts.n_genes
        return parts.sum(1), parts

    def _cells(self, parameters: Parameters, counts: Counts) -> np.ndarray:
        if self.weights is None:
            return score_cells(parameters, counts).value
        if self.additive:
            return score_cells(parameters, counts).value + self.weights.sum(1)
        parts = [score_cells(parameters.component(k), counts, weight).value for k, weight in enumerate(self.weights)]
        return np.concatenate(parts, 1)
