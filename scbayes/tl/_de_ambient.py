"""Contamination of cells with ambient RNA, as ``sb.tl.denoise`` left it, for differential expression."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtri

from scbayes.models._ambient_counts import AmbientCells, Strata
from scbayes.state import read_result
from scbayes.tl._de_groups import column_of

if TYPE_CHECKING:
    from anndata import AnnData

    from scbayes.tl._de_design import Cells

#: The profile sums to one up to this.
CLOSE = 1e-3


def with_ambient(adata: "AnnData", cells: "Cells", key: str | None, statistic: str) -> "Cells":
    """Cells with the contamination that the result ``key`` of ``sb.tl.denoise`` has; None: as they are.

    Raises
    ------
    KeyError
        If there is no such result, or what it was made from is gone.
    ValueError
        If it does not go with the question or with these cells and genes.
    """
    if key is None:
        return cells
    if statistic != "mean":
        msg = (
            f"statistic={statistic!r} does not know of ambient counts: leave ambient out, and compare counts without "
            f"them, layer='{key}_denoised'"
        )
        raise ValueError(msg)
    ambient = ambient_cells(adata, key)
    absent = np.unique(cells.members.cell[adata.obs[f"{key}_contamination"].isna().to_numpy()[cells.members.cell]])
    if len(absent):
        name = adata.obs_names[absent[0]]
        msg = f"{len(absent)} cells have no obs['{key}_contamination'], such as {name!r}: leave them out by subset"
        raise ValueError(msg)
    return cells._replace(ambient=ambient)


def ambient_cells(adata: "AnnData", key: str) -> AmbientCells:
    """Contamination of all cells in the result ``key`` of ``sb.tl.denoise``; none in cells where it is missing.

    Raises
    ------
    KeyError, ValueError
        As :func:`with_ambient`.
    """
    values, facts = read_result(adata, "denoise", key)
    fraction, low, high = (
        np.asarray(values[name], float) for name in ("contamination", "contamination_low", "contamination_high")
    )
    sample, level, level_sd = _samples(adata, facts, key)
    batch, profile, profile_sd = _profile(adata, facts, key)
    pair = pd.DataFrame({"sample": sample, "batch": batch})
    stratum = pair.groupby(["sample", "batch"], sort=True).ngroup().to_numpy()
    first = np.unique(stratum, return_index=True)[1]
    of_level = (level_sd / np.maximum(level, 1e-12))[sample]
    # what is left of each cell's own error beside that of the level
    half = ndtri((1 + facts.get("interval", 0.9)) / 2)
    own = np.sqrt(np.maximum(((high - low) / (2 * half)) ** 2 - (fraction * of_level) ** 2, 0))
    strata = Strata(profile[:, batch[first]], profile_sd[:, batch[first]], of_level[first], sample[first], batch[first])
    fraction, own = (np.nan_to_num(part) for part in (fraction, own))
    return AmbientCells(np.clip(fraction, 0, 1 - 1e-6), own, stratum, strata)


def _samples(adata: "AnnData", facts: dict, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample of each cell, and level of contamination of each sample with its error."""
    from scanpy import logging as logg

    names = list(facts["samples"])
    of = _codes(adata, facts["sample_key"], names, f"samples of {key!r}")
    unknown = [name for name in names if not facts["samples"][name]["identified"]]
    if unknown:
        logg.warning(
            f"the level of contamination is not identified in the samples {unknown}: intervals of genes with ambient "
            "counts are wide"
        )
    level, sd = (np.array([facts["samples"][name][what] for name in names], float) for what in ("level", "level_sd"))
    return of, level, sd


def _profile(adata: "AnnData", facts: dict, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batch of each cell, and profile of ambient RNA of each batch with its error (zero where it is unknown)."""
    name = facts["ambient"]
    if not isinstance(name, str):
        msg = (
            f"the profile of {key!r} was given to sb.tl.denoise as values: keep it by sb.pp.ambient_profile(adata, "
            "profile=...), and run sb.tl.denoise again"
        )
        raise KeyError(msg)
    if name not in adata.varm:
        msg = f"adata.varm[{name!r}], the profile of ambient RNA of {key!r}, is missing: run sb.tl.denoise again"
        raise KeyError(msg)
    profile = np.asarray(adata.varm[name], float)
    sd = np.nan_to_num(np.asarray(adata.varm.get(f"{name}_sd", np.zeros_like(profile)), float))
    if not np.allclose(profile.sum(0), 1, atol=CLOSE):
        msg = (
            f"varm[{name!r}] sums to {profile.sum(0)[0]:.3g} over the genes of adata, not to 1: genes were left out "
            "after sb.tl.denoise; run sb.pp.ambient_profile and sb.tl.denoise again, on these genes"
        )
        raise ValueError(msg)
    column = facts["batch_key"]
    if column is None or profile.shape[1] == 1:
        return np.zeros(adata.n_obs, int), profile[:, :1], sd[:, :1]
    try:
        names = read_result(adata, "ambient_profile", name, name).facts["batches"]
    except KeyError:
        names = sorted(str(batch) for batch in adata.obs[column].unique())
    if len(names) != profile.shape[1]:
        msg = f"varm[{name!r}] has {profile.shape[1]} columns, and obs[{column!r}] the batches {names}"
        raise ValueError(msg)
    return _codes(adata, column, names, f"batches of varm[{name!r}]"), profile, sd


def _codes(adata: "AnnData", column: str | None, names: list, what: str) -> np.ndarray:
    """Place of each cell's value in ``names``."""
    if column is None:
        return np.zeros(adata.n_obs, int)
    values = column_of(adata, column).astype(str)
    place = pd.Index([str(name) for name in names]).get_indexer(values)
    if (place < 0).any():
        msg = f"obs[{column!r}] has {values.iloc[np.argmin(place)]!r}, which is not among the {what}: {names}"
        raise ValueError(msg)
    return place
