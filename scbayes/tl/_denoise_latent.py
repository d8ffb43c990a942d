"""Counts without ambient ones, from a fit with a latent space: what ``tl.denoise`` does with its ``key``."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm.auto import tqdm

from scbayes.counts import Counts
from scbayes.models._latent_native import rates, rounded
from scbayes.stats._numbers import check_whole
from scbayes.tl._denoise_arguments import PRIOR, kinds_of
from scbayes.tl._denoise_slots import slots_of
from scbayes.tl._latent_ambient import Shares, shares_of
from scbayes.tl._latent_reading import LatentReading, latent_source, read_latent_with_counts
from scbayes.tl._quick_groups import groups_apart
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData


def denoise_latent(adata: "AnnData", given: dict) -> "AnnData | None":
    """Divide, write, report; ``given`` are the arguments of ``tl.denoise``."""
    from scanpy import logging as logg

    key, reference, n_samples = given["key"], given["reference"], given["n_samples"]
    check_whole(1, n_samples=n_samples, or_none=True)
    clock = logg.info(f"counts without ambient ones, from {key!r}")
    reading = read_latent_with_counts(adata, key, reference=reference, layer=given["layer"])
    fit = reading.fit
    if not fit.config.ambient:
        msg = f"the fit {key!r} has no ambient part: fit with sb.tl.fit(adata, model='vae', ambient='sb_ambient')"
        raise ValueError(msg)
    source = latent_source(adata, key, given["layer"], new=reference is not None and reference is not adata)
    x = _in_memory(source)
    rng = np.random.default_rng(given["rng"])
    kind, names, origin = _kinds(adata, given, reading, int(rng.integers(2**31)))
    shares = shares_of(fit, reading.cells.soup, given["interval"])
    native, whole = _divided(adata, reading, x, n_samples, rng, given, kind)
    ambient = fit.facts["ambient"]
    values = slots_of(x, native, whole, shares) | {
        ("obs", "denoise_group"): pd.Categorical.from_codes(kind, names),
        ("uns", "levels"): _levels(kind, names, reading, shares),
    }
    values["var", "removed"] = np.where(
        pd.Index(fit.genes).get_indexer(adata.var_names) < 0, np.nan, values["var", "removed"]
    )
    level = {name: ambient[name] for name in ("level", "level_sd", "identified")}
    facts = {
        "ambient": ambient["name"],
        "batch_key": ambient["batch_key"],
        "sample_key": None,
        "layer": source.layer,
        "kinds": origin,
        "prior": list(PRIOR),
        "interval": float(given["interval"]),
        "rounding": given["rounding"],
        "n_samples": n_samples,
        "samples": {"all": level},
    }
    said = f"{shares.mean.mean():.1%} of the counts of a cell are ambient"
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": given["copy"], "said": said}
    return store(adata, "denoise", given["key_added"], values, **how)


def _in_memory(source) -> sparse.csr_array:
    """Checked counts, without stored zeros."""
    counts = Counts(source.x, where=source.where)
    x = counts.pick(np.ones(source.x.shape[0], bool)).x
    x.eliminate_zeros()
    x.sort_indices()
    return x


def _kinds(adata: "AnnData", given: dict, reading: LatentReading, seed: int) -> tuple[np.ndarray, list[str], str]:
    """Kind of each cell, their names, and where they come from."""
    if given["groupby"] is not None:
        return kinds_of(adata, None, groupby=given["groupby"], key=None, seed=seed)
    z = np.asarray(reading.model.space(reading.fit.loc[:, : reading.fit.config.n_latent]))
    code = groups_apart(z, seed)
    return code, [str(k) for k in range(code.max() + 1)], f"latent space of {reading.fit.key!r}"


def _divided(
    adata: "AnnData", reading: LatentReading, x, n_samples, rng, given: dict, kind
) -> tuple[np.ndarray, np.ndarray]:
    """Expected and whole native part of each stored count, both float64 ``(n_stored,)``."""
    place = pd.Index(reading.fit.genes).get_indexer(adata.var_names)
    decode, draw = rates(reading.model), given["rounding"] == "draw"
    native, whole = x.data.astype(float), x.data.astype(float)
    with tqdm(total=reading.n_cells, desc="denoise", disable=not given["progress"], leave=False) as bar:
        for block in reading.blocks():
            first, stop = x.indptr[block.cells.start], x.indptr[block.cells.stop]
            column = place[x.indices[first:stop]]
            n = block.cells.stop - block.cells.start
            row = np.repeat(np.arange(n), np.diff(x.indptr[block.cells.start : block.cells.stop + 1]))
            known = column >= 0
            entry, row, column = np.flatnonzero(known) + first, row[known], column[known]
            counts, found = x.data[entry].astype(float), []
            for s in range(n_samples or 1):
                v = block.loc if n_samples is None else _drawn(block, rng)
                of = decode(block.inputs, v).at(row, column)
                found.append(of.expected(counts))
                if draw and s == 0:
                    of = of if n_samples is not None else decode(block.inputs, _drawn(block, rng)).at(row, column)
                    whole[entry] = of.drawn(counts, rng)
            native[entry] = np.mean(found, 0)
            bar.update(n)
    if given["rounding"] == "stochastic":
        low = np.floor(native)
        whole = low + (rng.random(len(native)) < native - low)
    elif not draw:
        n_profiles = int(reading.cells.soup.max()) + 1
        row = np.repeat(kind * n_profiles + reading.cells.soup, np.diff(x.indptr))
        whole = rounded(x.data.astype(float), native, x.indices, row, rng)
    return native, whole


def _drawn(block, rng: np.random.Generator):
    return block.loc + block.scale * rng.standard_normal(block.loc.shape, np.float32)


def _levels(kind: np.ndarray, names: list[str], reading: LatentReading, shares: Shares) -> pd.DataFrame:
    """Mean share of each kind of cells and profile, with what is not known of the level."""
    ambient = reading.fit.facts["ambient"]
    relative, batches = ambient["level_sd"] / ambient["level"], ambient["batches"] or ["all"]
    rows = []
    for k, soup in sorted({*zip(kind.tolist(), reading.cells.soup.tolist(), strict=True)}):
        mean = shares.mean[(kind == k) & (reading.cells.soup == soup)]
        level = float(mean.mean())
        rows.append((names[k], "all", batches[soup], len(mean), level, level * relative, 1.0))
    return pd.DataFrame(rows, columns=["kind", "sample", "batch", "n_cells", "level", "level_sd", "noise"])
