"""Which types of cells are more or less common under a condition, and how sure that is."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scbayes.models._abundance import Samples, abundances
from scbayes.state import check_anndata, read_result
from scbayes.tl._de_groups import categories_of
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData


def abundance(
    adata: "AnnData",
    groupby: str | None,
    condition: str,
    *,
    sample_key: str | None = None,
    reference: str | None = None,
    covariates: "str | Iterable[str]" = (),
    relative_to: str = "unchanged",
    key: str | None = None,
    delta: float = 0.0,
    fdr: float = 0.05,
    key_added: str = "sb_abundance",
    copy: bool = False,
) -> "AnnData | None":
    r"""Differential abundance of types of cells between conditions, with samples as replicates.

    .. math::
        n_u \sim \mathrm{DM}(N_u, A\,\pi_u), \qquad
        \log \pi_{uk} = \alpha_k + \sum_j x_{uj}\beta_{jk} + z_u^T\gamma_k + p_{d(u),k} + \mathrm{const}_u

    where a unit u is a sample under a condition, :math:`n_u` its cells by type, and the concentration :math:`A` how
    much alike samples are; it is integrated. Samples with cells under two or more conditions make the design paired,
    if there are at least two of them: each has a level :math:`p_d` of its own, of a spread that is integrated, too.

    Shares sum to one: if one type grows, the shares of all others shrink. Counts cannot tell more cells of one type
    from fewer of all others, so effects need something that they are relative to:

    - ``"unchanged"``: most types do not change, and which they are is found, and integrated. One type that grows does
      not make the others shrink; of two types, nothing says which one changed;
    - ``"share"``: ratios of shares, without such a belief; every type changes if one does;
    - the name of a type: it does not change.

    As in :func:`scbayes.tl.de`, intervals come from a wide prior of the effect, and probabilities from a point at zero
    and normals of several widths, whose weights are learned over types, with a prior worth four types for zero.

    Parameters
    ----------
    adata
        Cells x genes.
    groupby
        Column of `obs` with types of cells. None: the components of a mixture, see `key`.
    condition
        Column of `obs` with conditions, two or more.
    sample_key
        Column of `obs` with donors or samples, the replicates. It has to be given.
    reference
        Condition with which each other one is compared. Default: the first category with cells.
    covariates
        Columns of `obs` with categories, such as a batch, the same for all cells of a sample under a condition.
    relative_to
        What effects are relative to: ``"unchanged"``, ``"share"``, or a type.
    key
        Without `groupby`: `key_added` of :func:`scbayes.tl.assign`. Probabilities are summed to expected counts, which
        are taken as counts: that cells of one sample are uncertain together is not carried.
    delta
        Types count as changed if the log2 effect is beyond this, in one direction.
    fdr
        Expected share of false calls among those that `is_changed` marks, for each condition.
    key_added
        Where the result goes in `uns`.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.uns[key_added]` : dict
        `columns`, of the table that :func:`scbayes.get.abundance` reads, `counts` of units by type, float64
        ``(n_units, n_types)``, and the `condition` of each unit, int64 ``(n_units,)``.

    Raises
    ------
    TypeError
        If `adata` is no AnnData.
    KeyError
        If a column of `obs`, the reference, the type or the result of ``tl.assign`` do not exist.
    ValueError
        If `sample_key` is missing, fewer than two conditions or types have cells, or a covariate varies in a unit.

    References
    ----------
    Büttner et al. (2021), scCODA is a Bayesian model for compositional single-cell data analysis. Nat Commun.
    Firth & de Menezes (2004), Quasi-variances. Biometrika.
    """
    from scanpy import logging as logg

    check_anndata(adata)
    clock = logg.info(f"comparing abundances by obs[{condition!r}]")
    covariates = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    _check(groupby, key, sample_key, delta, fdr)
    if condition in (groupby, sample_key) or groupby == sample_key:
        msg = f"groupby, condition and sample_key name a column twice: {[groupby, condition, sample_key]}"
        raise ValueError(msg)
    membership = _labels(adata, groupby) if groupby is not None else _probabilities(adata, key)
    units = _units(adata, membership, [condition, sample_key, *covariates], reference)
    relative_to = _relative_to(relative_to, units.types)
    if relative_to == "unchanged" and len(units.types) == 2:
        logg.warning("of two types nothing says which one changed: relative_to='share' compares their shares")
    found = abundances(units.samples, relative_to, delta=delta, fdr=fdr)
    values = {
        ("uns", "columns"): {name: _plain(column) for name, column in found.columns.items()},
        ("uns", "counts"): units.samples.counts,
        ("uns", "condition"): units.samples.level.astype(np.int64),
    }
    n_samples = np.bincount(units.samples.level).tolist()
    facts = {"groupby": groupby, "condition": condition, "sample_key": sample_key, "covariates": list(covariates)}
    facts |= {"key": key, "relative_to": relative_to, "delta": float(delta), "fdr": float(fdr)}
    facts |= {"types": units.types, "conditions": units.conditions, "reference": units.conditions[0]}
    facts |= {"samples": units.names, "n_samples": n_samples, "paired": units.samples.people.shape[1] > 0}
    facts |= {"learned": found.learned}
    return store(adata, "abundance", key_added, values, fit=None, facts=facts, clock=clock, copy=copy, entry=key_added)


class _Membership(NamedTuple):
    """Types, and the probability of each for each cell; ``whole``: the type of each cell instead, -1 for none."""

    types: list[str]
    probability: np.ndarray | None
    whole: np.ndarray | None


class _Units(NamedTuple):
    samples: Samples
    types: list[str]
    conditions: list[str]
    names: list[str]


def _check(groupby: str | None, key: str | None, sample_key: str | None, delta: float, fdr: float) -> None:
    if (groupby is None) == (key is None):
        msg = "give either groupby, a column of obs, or key, a result of sb.tl.assign (with groupby=None)"
        raise ValueError(msg)
    if sample_key is None:
        msg = (
            "sample_key is missing: cells of one donor are alike, so that only donors or samples are replicates; "
            "name the column of obs that has them"
        )
        raise ValueError(msg)
    if not isinstance(delta, int | float | np.number) or not 0 <= delta < np.inf:
        msg = f"delta={delta!r}: give a log2 fold change of at least 0"
        raise ValueError(msg)
    if not isinstance(fdr, int | float | np.number) or not 0 < fdr < 1:
        msg = f"fdr={fdr!r}: give a share between 0 and 1"
        raise ValueError(msg)


def _labels(adata: "AnnData", groupby: str) -> _Membership:
    values = categories_of(adata, groupby)
    return _Membership([str(name) for name in values.cat.categories], None, values.cat.codes.to_numpy())


def _probabilities(adata: "AnnData", key: str) -> _Membership:
    values, facts = read_result(adata, "assign", key)
    return _Membership(list(facts["components"]), np.asarray(values["probabilities"], float), None)


def _units(adata: "AnnData", membership: _Membership, keys: list[str], reference: str | None) -> _Units:
    """Counts of each sample under each condition; cells without one of the columns are left out."""
    if len(set(keys)) < len(keys):
        msg = f"condition, sample_key and covariates name a column twice: {keys}"
        raise ValueError(msg)
    columns = [categories_of(adata, key) for key in keys]
    codes = np.column_stack([column.cat.codes.to_numpy() for column in columns]).astype(int)
    here = (codes >= 0).all(1) & (True if membership.whole is None else membership.whole >= 0)
    codes = codes[here]
    conditions, codes[:, 0] = _conditions(columns[0], codes[:, 0], reference)
    unit, first, place = np.unique(codes[:, :2], axis=0, return_index=True, return_inverse=True)
    place = place.ravel()
    varies = (codes[first][place] != codes).any(0)
    if varies.any():
        k = int(np.flatnonzero(varies)[0])
        name = columns[1].cat.categories[codes[(codes[first][place] != codes)[:, k], 1][0]]
        msg = f"covariate {keys[k]!r} varies among cells of {keys[1]} {name!r}: it has to be one for each sample"
        raise ValueError(msg)
    counts = np.zeros((len(unit), len(membership.types)))
    if membership.whole is None:
        np.add.at(counts, place, membership.probability[here])
    else:
        np.add.at(counts, (place, membership.whole[here]), 1)
    seen = counts.sum(0) > 0
    if seen.sum() < 2:
        msg = "fewer than two types have cells: there is nothing to compare"
        raise ValueError(msg)
    of_covariates = [_dummies(column) for column in codes[first][:, 2:].T]
    design = np.concatenate([np.zeros((len(unit), 0)), *of_covariates], 1)
    samples = Samples(counts[:, seen], unit[:, 0], design, _people(unit[:, 1]))
    types = [name for name, there in zip(membership.types, seen, strict=True) if there]
    return _Units(samples, types, conditions, [str(columns[1].cat.categories[i]) for i in unit[:, 1]])


def _conditions(column: pd.Series, code: np.ndarray, reference: str | None) -> tuple[list[str], np.ndarray]:
    """Conditions that have cells, the reference first, and the place of each cell's among them."""
    names = [str(name) for name in column.cat.categories]
    there = list(np.unique(code))
    if reference is not None and str(reference) not in [names[k] for k in there]:
        msg = f"no cells with {reference!r} in obs[{column.name!r}], which has {[names[k] for k in there]}"
        raise KeyError(msg)
    if len(there) < 2:
        msg = f"obs[{column.name!r}] has cells of {[names[k] for k in there]}: two conditions at least can be compared"
        raise ValueError(msg)
    if reference is not None:
        there.sort(key=lambda k: names[k] != str(reference))
    place = np.zeros(len(names), int)
    place[there] = np.arange(len(there))
    return [names[k] for k in there], place[code]


def _dummies(code: np.ndarray) -> np.ndarray:
    return (code[:, None] == np.unique(code)[1:]).astype(float)


def _people(sample: np.ndarray) -> np.ndarray:
    """Whose each unit is, where two samples or more are under several conditions."""
    names, count = np.unique(sample, return_counts=True)
    paired = (count > 1).sum() > 1
    return (sample[:, None] == names).astype(float) if paired else np.zeros((len(sample), 0))


def _relative_to(relative_to: str, types: list[str]) -> "str | int":
    if relative_to in ("unchanged", "share"):
        return relative_to
    if str(relative_to) not in types:
        msg = f"relative_to={relative_to!r}: give 'unchanged', 'share', or one of the types {types}"
        raise KeyError(msg)
    return types.index(str(relative_to))


def _plain(column: np.ndarray) -> np.ndarray:
    """Without bool, for which not all files have a type."""
    return column.astype(np.uint8) if column.dtype == bool else column
