"""Which feature barcodes (hashtags, guides, antibodies) each cell has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit

from scbayes.models._feature_calls import Calls, call
from scbayes.models._feature_cells import prior_odds
from scbayes.tl._feature_arguments import FeatureCounts, feature_counts, given_profile
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Share of cells with several features above which hashtags are doubted.
MANY_DOUBLETS = 0.4


def call_features(
    adata: "AnnData",
    *,
    ambient: "str | np.ndarray | pd.Series | pd.DataFrame | None" = None,
    feature_types: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    doublets: bool = True,
    max_features: int = 8,
    key_added: str = "sb",
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> "AnnData | None":
    r"""Which feature barcodes (hashtags, guides, antibodies) each cell has, beside those that floated in.

    .. math::
        x_{cf} = A_{cf} + N_{cf}, \qquad A_{cf} \sim \mathrm{NB}(\lambda_c\, a_f, \phi), \qquad
        N_{cf} \sim \begin{cases} 0 & \text{absent} \\
        \mathrm{NB}(m_f (\lambda_c / \bar\lambda)^\gamma, r_f) \text{ without zero} & \text{present} \end{cases}

    A cell has K features with probability :math:`\pi_K`, and which ones in proportion to :math:`\prod p_f / (1 - p_f)`.
    All is learned from the cells: the ambient amounts' distribution, which is integrated over, the profile a, means and
    sizes of native counts, how many features cells have, and how common each is. The sum is over all subsets of the
    features, exactly. With batches each has parameters of its own, drawn to the others' where its cells are few.

    Parameters
    ----------
    adata
        Cells x features, or cells x genes and features (see `feature_types`). Raw counts.
    ambient
        Profile of the ambient counts, the share of each feature: None, learned from the cells; a name in `varm`, such
        as ``"sb_ambient"`` after :func:`scbayes.pp.ambient_profile` (known as well as its empty droplets say); an array
        of shape ``(n_features,)`` or ``(n_features, n_batches)``, a Series or a DataFrame (features x batches, by
        name), which are taken as they are.
    feature_types
        Values of ``adata.var["feature_types"]`` whose features are meant, e.g. ``"CRISPR Guide Capture"``. None: all,
        which must then be of one type.
    batch_key
        Column of `obs`: lanes or pools with a profile and parameters of their own.
    layer
        Layer with the counts; `X` where None, or as :func:`scbayes.pp.prepare_counts` left them.
    doublets
        Whether a cell has one feature, as with hashtags, so that one with several is called a doublet. False: cells may
        have several, as with guides or antibodies, and all are named.
    max_features
        Numbers of features below it have a probability of their own, the last one stands for so many or more.
    key_added
        Prefix of what is written.
    rng
        Seed or generator: of many cells, some are chosen to learn from.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.layers[key_added + "_feature_probability"]` : float32, CSR `(n_cells, n_vars)`
        Probability that some of the counts are native, by non-zero; a count of zero is never native.
    `adata.layers[key_added + "_log_bayes_factor"]` : float32, CSR `(n_cells, n_vars)`
        Natural logarithm of posterior over prior odds of this, by non-zero.
    `adata.obs[key_added + "_feature"]` : category
        ``"negative"``, the name of the feature, or ``"doublet"``; without `doublets`, names joined by ``"+"``: the most
        probable of these.
    `adata.obs[key_added + "_call_probability"]` : float64
        Probability of exactly this.
    `adata.obs[key_added + "_n_features"]` : float64
        Expected number of features.
    `adata.obs[key_added + "_negative_probability"]`, `adata.obs[key_added + "_doublet_probability"]` : float64
        Probability of none, and of several (with `doublets`).
    `adata.obs[key_added + "_ambient_counts"]` : float64
        Expected ambient amount of the cell, :math:`\lambda_c`.
    `adata.varm[key_added + "_feature_ambient"]`, `"_native_mean"`, `"_native_size"`, `"_prevalence"` : float64
        Parameters, `(n_vars, n_batches)`; NaN for other types. Prevalence is the prior probability of presence.
    `adata.uns[key_added + "_call_features"]` : dict
        How they were made. :func:`scbayes.get.features` reads them.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or the counts are no matrix of numbers.
    KeyError
        If a layer, column, type or profile does not exist.
    ValueError
        If an argument is out of range; if values are no counts, or there are none; if a profile does not fit.
    """
    from scanpy import logging as logg

    if not isinstance(max_features, int | np.integer) or max_features < 2:
        msg = f"max_features={max_features!r}: give a whole number from 2"
        raise ValueError(msg)
    clock = logg.info("calling features")
    features = feature_counts(adata, feature_types, layer, batch_key)
    given = given_profile(adata, ambient, features)
    source, batches = features.source, features.source.batches or [None]
    most = min(int(max_features), features.x.shape[1])
    calls = call(features.x, source.batch, len(batches), most, given, np.random.default_rng(rng))
    none, several = calls.cells.number[:, 0].mean(), _several(calls).mean()
    if doublets and several > MANY_DOUBLETS:
        logg.warning(f"{several:.0%} of the cells have several features: pass doublets=False if they may")
    if not calls.converged:
        change = calls.changes[-1]
        logg.warning(f"probabilities still change by {change:.1g} in the mean: are these counts of features?")

    names = adata.var_names[features.chosen].to_numpy()
    values = _of_cells(calls, features, names, doublets=doublets) | _of_features(calls, features)
    values["uns", "number"] = calls.features.number
    kinds = [feature_types] if isinstance(feature_types, str) else feature_types and list(feature_types)
    facts = {"layer": source.layer, "batch_key": batch_key, "batches": batches, "feature_types": kinds}
    facts["ambient"] = ambient if isinstance(ambient, str) else None if ambient is None else "given"
    facts |= {"doublets": bool(doublets)} | _facts(calls)
    said = f"{none:.1%} of the cells are negative, {several:.1%} have several features"
    return store(adata, "call_features", key_added, values, fit=None, facts=facts, clock=clock, copy=copy, said=said)


def _several(calls: Calls) -> np.ndarray:
    """Probability of several features, by cell."""
    return np.clip(1 - calls.cells.number[:, :2].sum(1), 0, 1)


def _facts(calls: Calls) -> dict:
    """Plain values; by batch: ambient amount in the middle, its spread in logarithms, and phi."""
    learned = calls.features
    facts = {"n_features": learned.profile.shape[1], "n_learned": calls.n_learned, "coupling": learned.coupling}
    facts |= {"rounds": len(calls.changes), "converged": calls.converged, "amount": np.exp(learned.amount).tolist()}
    return facts | {"spread": learned.spread.tolist(), "ambient_size": learned.ambient_size.tolist()}


def _of_cells(calls: Calls, features: FeatureCounts, names: np.ndarray, *, doublets: bool) -> dict:
    x, cells = features.x, calls.cells
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    odds = cells.log_odds - prior_odds(calls.features)[features.source.batch[row], x.indices]
    probability = expit(cells.log_odds)
    values = {}
    for name, own in (("feature_probability", probability), ("log_bayes_factor", odds)):
        where = np.flatnonzero(features.chosen)[x.indices]
        shape = x.shape[0], len(features.chosen)
        values["layers", name] = sparse.csr_matrix((own.astype(np.float32), where, x.indptr.copy()), shape)
    label, certainty = (_one if doublets else _all)(calls, x, names)
    values["obs", "feature"], values["obs", "call_probability"] = pd.Categorical(label), certainty
    values["obs", "n_features"] = np.bincount(row, probability, x.shape[0])
    values["obs", "negative_probability"] = cells.number[:, 0].copy()
    if doublets:
        values["obs", "doublet_probability"] = _several(calls)
    values["obs", "ambient_counts"] = calls.amount
    return values


def _one(calls: Calls, x: sparse.csr_array, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest of no feature, the likeliest one alone, and several; and its probability."""
    label = np.full((3, x.shape[0]), "negative", object)
    some = np.diff(x.indptr) > 0
    label[1, some] = names[x.indices[calls.sets.order[x.indptr[:-1][some]]]]
    label[2] = "doublet"
    states = np.stack([calls.cells.number[:, 0], calls.sets.single, _several(calls)])
    best = states.argmax(0)
    return label[best, np.arange(len(best))], states.max(0)


def _all(calls: Calls, x: sparse.csr_array, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest set of features, in their order, and its probability."""
    column = x.indices[calls.sets.order]
    chosen = [np.sort(column[b : b + k]) for b, k in zip(x.indptr[:-1], calls.sets.size, strict=True)]
    return np.array(["+".join(names[own]) or "negative" for own in chosen], object), calls.sets.probability


def _of_features(calls: Calls, features: FeatureCounts) -> dict:
    learned = calls.features
    parts = {"feature_ambient": learned.profile, "native_mean": learned.mean, "native_size": learned.size}
    parts["prevalence"] = expit(prior_odds(learned))
    values = {}
    for name, own in parts.items():
        values["varm", name] = np.full((len(features.chosen), len(own)), np.nan)
        values["varm", name][features.chosen] = own.T
    return values
