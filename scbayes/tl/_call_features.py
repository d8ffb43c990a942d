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
    several = 1 - calls.cells.number[:, :2].sum(1)
    if doublets and several.mean() > MANY_DOUBLETS:
        logg.warning(f"{several.mean():.0%} of the cells have several features: pass doublets=False if they may")

    values = _of_cells(calls, features, adata.var_names[features.chosen].to_numpy(), doublets=doublets)
    values |= _of_features(calls, features) | {("uns", "number"): calls.features.number}
    learned = calls.features
    facts = {"layer": source.layer, "batch_key": batch_key, "batches": batches, "feature_types": feature_types}
    facts["feature_types"] = (
        [feature_types] if isinstance(feature_types, str) else feature_types and list(feature_types)
    )
    facts |= {"ambient": ambient if isinstance(ambient, str) else None if ambient is None else "given"}
    facts |= {"doublets": bool(doublets), "n_features": features.x.shape[1], "n_learned": calls.n_learned}
    facts |= {"rounds": len(calls.changes), "last_change": calls.changes[-1], "coupling": learned.coupling}
    of_batches = {"amount": np.exp(learned.amount), "spread": learned.spread, "ambient_size": learned.ambient_size}
    facts |= {name: value.tolist() for name, value in of_batches.items()}
    said = (
        f"{np.mean(calls.cells.number[:, 0]):.1%} of the cells are negative, {several.mean():.1%} have several features"
    )
    return store(adata, "call_features", key_added, values, fit=None, facts=facts, clock=clock, copy=copy, said=said)


def _of_cells(calls: Calls, features: FeatureCounts, names: np.ndarray, *, doublets: bool) -> dict:
    x, cells, sets = features.x, calls.cells, calls.sets
    where = np.flatnonzero(features.chosen)
    odds = cells.log_odds - prior_odds(calls.features)[np.repeat(features.source.batch, np.diff(x.indptr)), x.indices]
    shape = x.shape[0], len(features.chosen)
    matrix = lambda data: sparse.csr_matrix((data.astype(np.float32), where[x.indices], x.indptr), shape)
    none, several = cells.number[:, 0], np.clip(1 - cells.number[:, :2].sum(1), 0, 1)
    in_order, begin = names[x.indices[sets.order]], x.indptr[:-1]
    if doublets:
        first = np.full(len(none), "negative", object)
        first[np.diff(x.indptr) > 0] = in_order[begin[np.diff(x.indptr) > 0]]
        states = np.stack([none, sets.single, several], 1)
        best = states.argmax(1)
        label = np.choose(best, [np.full(len(best), "negative", object), first, np.full(len(best), "doublet", object)])
        probability = states.max(1)
    else:
        place = {name: i for i, name in enumerate(names)}
        chosen = [sorted(in_order[b : b + k], key=place.get) for b, k in zip(begin, sets.size, strict=True)]
        label = np.array(["+".join(own) or "negative" for own in chosen], object)
        probability = sets.probability
    n_features = np.add.reduceat(np.append(expit(cells.log_odds), 0.0), begin) * (np.diff(x.indptr) > 0)
    values = {("layers", "feature_probability"): matrix(expit(cells.log_odds))}
    values |= {("layers", "log_bayes_factor"): matrix(odds), ("obs", "feature"): pd.Categorical(label)}
    values |= {("obs", "call_probability"): probability, ("obs", "n_features"): n_features}
    values |= {("obs", "negative_probability"): none, ("obs", "ambient_counts"): calls.amount}
    return values | ({("obs", "doublet_probability"): several} if doublets else {})


def _of_features(calls: Calls, features: FeatureCounts) -> dict:
    learned = calls.features
    parts = {"feature_ambient": learned.profile, "native_mean": learned.mean, "native_size": learned.size}
    parts["prevalence"] = expit(prior_odds(learned))
    values = {}
    for name, own in parts.items():
        values["varm", name] = np.full((len(features.chosen), len(own)), np.nan)
        values["varm", name][features.chosen] = own.T
    return values
