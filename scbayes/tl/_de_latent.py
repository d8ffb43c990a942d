"""Differential expression through the decoder of a fit with a latent space: arguments, cells, compositions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scbayes.counts import Counts
from scbayes.models._ambient_counts import AmbientCells, Strata
from scbayes.models._decoded_units import Decoder
from scbayes.state import Fit, LatentFit, check_anndata, find_counts, is_latent, read_fit
from scbayes.stats._outliers import outliers
from scbayes.tl._de_design import Cells, Comparison
from scbayes.tl._de_groups import Grouping
from scbayes.tl._latent_ambient import shares_of
from scbayes.tl._latent_reading import LatentReading, read_latent_with_counts

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments that only fits with a latent space know, and their defaults.
OWN = {
    "transform_batch": None,
    "batch_correction": True,
    "use_observed_batches": False,
    "weights": "uniform",
    "filter_outlier_cells": False,
    "fitted": None,
}
WEIGHTS = ("uniform", "importance")


class LatentArguments(NamedTuple):
    """As :func:`scbayes.tl.de` takes them."""

    transform_batch: object
    batch_correction: bool
    use_observed_batches: bool
    weights: "str | np.ndarray"
    filter_outlier_cells: bool
    fitted: "AnnData | None"


def decoder_arguments(adata: "AnnData", key: str | None, given: dict) -> LatentArguments | None:
    """The arguments, if ``key`` names a fit with a latent space; ``given``: those of ``tl.de`` by name.

    Raises
    ------
    ValueError
        If arguments exclude each other, or the fit does not know them.
    """
    own = LatentArguments(**{name: given[name] for name in OWN})
    if own.fitted is not None:
        check_anndata(own.fitted)
    if key is None or not is_latent(adata if own.fitted is None else own.fitted, key):
        foreign = [name for name, default in OWN.items() if given[name] is not default]
        if foreign:
            msg = f"{', '.join(foreign)}: for a fit with a latent space, named by key; there is none"
            raise ValueError(msg)
        return None
    if given["groupby"] is None and given["idx1"] is None:
        msg = f"key={key!r} names a fit with a latent space, whose decoder is read: give groupby or idx1, too"
        raise ValueError(msg)
    if given["statistic"] != "mean":
        msg = f"statistic={given['statistic']!r} is not for a fit with a latent space: leave key out"
        raise ValueError(msg)
    if isinstance(own.weights, str) and own.weights not in WEIGHTS:
        msg = f"unknown weights={own.weights!r}; choose one of {', '.join(WEIGHTS)}, or give numbers, one a cell"
        raise ValueError(msg)
    observed = own.use_observed_batches or not own.batch_correction
    if observed and own.transform_batch is not None:
        name = "use_observed_batches=True" if own.use_observed_batches else "batch_correction=False"
        msg = f"transform_batch names batches to compare cells under, and {name} leaves them in their own: give one"
        raise ValueError(msg)
    return own


@dataclass(frozen=True)
class CellsAndGenes:
    """What is compared: cells with the genes that take part, their counts, and the layer that these are from.

    ``mixture``: key of the fit whose components are compared; ``fit``: what the result rests on.
    """

    adata: "AnnData"
    counts: Counts
    layer: str | None
    mixture: str | None = None
    fit: Fit | LatentFit | None = None

    @property
    def facts(self) -> dict:
        """What is kept of how cells were read."""
        return {"layer": self.layer}

    def grouping(self, grouping: Grouping, part: np.ndarray | None) -> Grouping:
        """Groups of the cells that take part."""
        return grouping

    def joined(self, cells: Cells, pairs: list[Comparison]) -> Cells:
        """Cells with what else is known of them."""
        return cells


@dataclass(frozen=True)
class DecodedCells(CellsAndGenes):
    """The same as a fit with a latent space sees them, and what is asked of its decoder."""

    reading: LatentReading | None = None
    decoder: Decoder | None = None
    given: LatentArguments | None = None

    @property
    def facts(self) -> dict:
        codes, batches = self.decoder.codes, self.reading.fit.batches
        weights = self.given.weights if isinstance(self.given.weights, str) else "given"
        facts = {"under_batches": None if codes is None else [batches[code] for code in codes], "weights": weights}
        return facts | {"layer": self.layer, "filter_outlier_cells": bool(self.given.filter_outlier_cells)}

    def grouping(self, grouping: Grouping, part: np.ndarray | None) -> Grouping:
        """With the weights of cells, and without those that are far from their group, among cells in ``part``."""
        keep = np.ones(len(grouping.cell), bool) if part is None else part[grouping.cell]
        if not isinstance(self.given.weights, str):
            weight = _cell_weights(self.given.weights, self.reading.n_cells)[grouping.cell]
            grouping, keep = grouping._replace(weight=grouping.weight * weight), keep & (weight > 0)
        if self.given.filter_outlier_cells:
            fit = self.reading.fit
            z = np.asarray(fit.model.space(fit.loc[:, : fit.config.n_latent]), float)
            keep &= ~outliers(z[grouping.cell], np.where(keep, grouping.group, -1), seed=self.decoder.seed)
        return grouping._replace(cell=grouping.cell[keep], group=grouping.group[keep], weight=grouping.weight[keep])

    def joined(self, cells: Cells, pairs: list[Comparison]) -> Cells:
        """Cells with the decoder, and with the contamination that a fit with an ambient part has."""
        wanted = np.any([pair.own | pair.other for pair in pairs], 0)
        cells = cells._replace(decoder=self.decoder._replace(wanted=wanted))
        if apart := [pair.name for pair in pairs if _apart(cells, pair)]:
            from scanpy import logging as logg

            logg.warning(
                f"{apart} and what they are compared with have no batch of the fit in common: what tells the batches "
                "themselves apart is taken out, such as a treatment that is the batch_key of the fit; "
                "batch_correction=False leaves it in"
            )
        return cells._replace(ambient=self._ambient()) if self.reading.fit.config.ambient else cells

    def _ambient(self) -> AmbientCells:
        """Each cell's share of ambient counts; the level of all is taken as known, and so is the profile."""
        fit = self.reading.fit
        found = shares_of(fit, self.reading.cells.soup)
        profile = np.exp(np.asarray(fit.fixed["log_ambient"], float)).T
        none = np.zeros(profile.shape[1])
        strata = Strata(profile, 0 * profile, none, none.astype(int), np.arange(len(none)))
        return AmbientCells(found.mean, found.sd, self.reading.cells.soup, strata)


def read_cells(adata: "AnnData", given: dict, seed: int) -> CellsAndGenes:
    """What is compared; ``given``: arguments of :func:`scbayes.tl.de` by name, ``seed``: of draws of latent numbers."""
    key, layer, own = given["key"], given["layer"], decoder_arguments(adata, given["key"], given)
    if own is None:
        source = find_counts(adata, layer, None, None)
        fit = None if key is None else read_fit(adata, key)
        return CellsAndGenes(adata, Counts(source.x, where=source.where), source.layer, key, fit)
    reading = read_latent_with_counts(adata, key, reference=own.fitted, layer=layer)
    fit, cells = reading.fit, reading.cells
    if given["ambient"] is not None and fit.config.ambient:
        msg = f"the fit {key!r} has an ambient part of its own: leave ambient={given['ambient']!r} out"
        raise ValueError(msg)
    importance = isinstance(own.weights, str) and own.weights == "importance"
    codes, wanted = _codes(reading, own), np.ones(0, bool)
    parts = reading.at, fit.loc, fit.scale, cells.batch, codes, importance, seed, fit.sizes.n_batches, wanted
    seen = adata if np.array_equal(fit.genes, adata.var_names) else adata[:, fit.genes]
    layer = fit.facts["layer"] if layer is None and own.fitted is None else layer
    counts = Counts(cells.x, where="the counts of the fit")
    return DecodedCells(seen, counts, layer, None, fit, reading, Decoder(fit.model, *parts), own)


def _apart(cells: Cells, pair: Comparison) -> bool:
    """Whether the arms have no batch in common, and the decoder takes out what differs between their batches."""
    if cells.decoder.codes is None:
        return False
    members = cells.members
    batches = [set(cells.decoder.batch[members.cell[side[members.unit]]]) for side in (pair.own, pair.other)]
    return batches[0].isdisjoint(batches[1])


def cell_columns(cells: Cells, pair: Comparison, n_pairs: int) -> dict[str, np.ndarray]:
    """Columns about random cells of both arms, not about means."""
    members, arms = cells.members, []
    for side in (pair.own, pair.other):
        here = side[members.unit]
        arms.append((members.cell[here], members.weight[here]))
    p = cells.decoder.p_higher(*arms, n_pairs)
    return {"p_cell_up": p, "log_odds_cell_up": np.log(p) - np.log1p(-p)}


def _codes(reading: LatentReading, given: LatentArguments) -> np.ndarray | None:
    if given.transform_batch is not None:
        return np.array(reading.batch_codes(given.transform_batch), np.int32)
    if given.use_observed_batches or not given.batch_correction or len(reading.fit.batches) < 2:
        return None
    return np.arange(len(reading.fit.batches), dtype=np.int32)


def _cell_weights(weights, n_cells: int) -> np.ndarray:
    try:
        found = np.asarray(weights, float)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.shape != (n_cells,) or not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        msg = (
            f"weights has to be one of {', '.join(WEIGHTS)}, or a number from 0 to 1 for each of the {n_cells} cells: "
            "how much it counts"
        )
        raise ValueError(msg)
    return found
