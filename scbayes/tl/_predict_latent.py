"""Posterior predictive data sets from a latent space: what ``tl.predict`` does for ``vae`` and ``factors``."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from scipy import sparse
from tqdm.auto import tqdm

from scbayes.counts import Counts
from scbayes.models._latent_numbers import PARAMETERS, draw_counts, draw_rates, numbers_of
from scbayes.models._predictive import Sums, observed
from scbayes.stats._numbers import check_positive
from scbayes.tl._fit_arguments import as_seed
from scbayes.tl._latent_numbers import draw_latent, without_counts
from scbayes.tl._latent_reading import Block, LatentReading, read_latent_with_counts
from scbayes.tl._predicted_tables import (
    check_size,
    chosen_names,
    histogram_table,
    histograms,
    stacked,
    tables,
)
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: What stands for what in draws of native counts.
NATIVE = {"native": "mean", "native_probability": "probability", "native_size": "size"}


def predict_latent(adata: "AnnData", given: dict, clock) -> "AnnData | None":
    """Draw, sum up and write; ``given`` are the arguments of ``tl.predict``."""
    key, n_samples, rna_size_factor = given["key"], given["n_samples"], given["rna_size_factor"]
    check_positive(rna_size_factor=rna_size_factor, or_none=True)
    reading = read_latent_with_counts(adata, key, reference=given["reference"], layer=given["layer"])
    fit = reading.fit
    names = chosen_names(fit.genes, given["genes"], key, store_counts=given["store_counts"])
    batches = reading.batch_codes(given["transform_batch"])
    keep = np.flatnonzero(np.isin(fit.genes, names))
    whole = given["biological"] or rna_size_factor is not None
    seen = observed(Counts(reading.cells.x), len(fit.genes), keep)
    if given["store_counts"]:
        check_size(len(names) * adata.n_obs if whole else seen.kept.nnz, n_samples)
    drawer = _Drawer(reading, batches, keep, given)
    drawn, bars, kept = [], [], []
    for _ in tqdm(range(n_samples), desc="predict", unit="data set", disable=not given["progress"]):
        one = drawer.replicate()
        drawn.append((one.of_genes, one.of_cells))
        bars += [histograms(one)] if rna_size_factor is None else []
        kept += [one.kept] if given["store_counts"] else []
    seen = None if whole or batches != [None] else seen
    order = [list(fit.genes[keep]).index(name) for name in names]
    of_genes, of_cells = (np.stack(part) for part in zip(*drawn, strict=True))
    columns = adata.var_names.get_indexer(fit.genes)
    values = tables(adata, columns, of_genes, of_cells, seen, given["quantiles"])
    if names and rna_size_factor is None:
        values["uns", "histogram"] = histogram_table(names, order, bars, seen, given["quantiles"])
    if given["store_counts"]:
        values["obsm", "predicted_counts"] = stacked(kept, order)
    facts = {
        "n_samples": int(n_samples),
        "use": given["use"],
        "biological": bool(given["biological"]),
        "genes": names,
        "quantiles": list(given["quantiles"]),
        "rng": int(given["rng"]) if np.isscalar(given["rng"]) else None,
        "transform_batch": [None if code is None else fit.batches[code] for code in batches],
        "rna_size_factor": None if rna_size_factor is None else float(rna_size_factor),
    }
    how = {"fit": fit, "facts": facts, "clock": clock, "copy": given["copy"]}
    return store(adata, "predict", given["key_added"], values, **how)


class _Drawer:
    """Draws data sets of the cells of a reading, a block of cells at a time.

    Parameters
    ----------
    batches
        Codes of the batches that cells are drawn under; [None]: their own.
    keep
        Genes whose counts are returned.
    given
        Arguments of ``tl.predict``.
    """

    def __init__(self, reading: LatentReading, batches: list[int | None], keep: np.ndarray, given: dict) -> None:
        self.blocks = [without_counts(block) for block in reading.blocks()]
        self.batches, self.keep, self.total = batches, keep, reading.cells.total
        self.centre, self.factor = given["use"] == "centre", given["rna_size_factor"]
        self.rng = np.random.default_rng(as_seed(given["rng"]))
        needed = PARAMETERS[reading.fit.config.likelihood]
        if self.factor is not None:  # the rate without its measurement
            needed = ("share", *["native_size" for name in needed if name == "size"])
        elif given["biological"]:
            needed = tuple(f"native_{name}" if name != "mean" else "native" for name in needed if name != "gate")
        self.names, self.function = needed, numbers_of(reading.model, needed, each=True)
        self.n_genes = len(reading.fit.genes)

    def replicate(self) -> Sums:
        """One data set, summed up."""
        of_genes, of_cells, kept = np.zeros((3, self.n_genes)), [], []
        for block in self.blocks:
            value = self._drawn(block)
            positive = value > 0
            of_genes += value.sum(0, dtype=float), np.einsum("cg,cg->g", value, value, dtype=float), positive.sum(0)
            of_cells.append((value.sum(1), positive.sum(1)))
            kept.append(sparse.csr_array(value[:, self.keep]))
        total, detected = (np.concatenate(part) for part in zip(*of_cells, strict=True))
        return Sums(*of_genes, total, detected, sparse.csr_array(sparse.vstack(kept).T))

    def _drawn(self, block: Block) -> np.ndarray:
        """Counts, int32, or rates, float32: ``(cells of the block, n_genes)``."""
        v = block.loc[None] if self.centre else draw_latent(block, 1, self.rng)
        found = self.function(block.inputs, self._batch(block)[None], None, v)
        numbers = {name: block.cut(value[0]) for name, value in zip(self.names, found, strict=True)}
        numbers = {NATIVE.get(name, name): value for name, value in numbers.items()}
        if self.factor is None:
            return draw_counts(numbers, self.total[block.cells], self.rng).astype(np.int32)
        numbers["mean"] = self.factor * numbers["share"]
        value = draw_rates(numbers, self.rng) if "size" in numbers else numbers["mean"]
        return value.astype(np.float32)

    def _batch(self, block: Block) -> jnp.ndarray:
        own = block.inputs.cells.batch
        if self.batches == [None]:
            return own
        return jnp.asarray(self.rng.choice(np.array(self.batches, np.int32), len(own)))
