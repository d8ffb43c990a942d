"""A fit of a model with a latent space, in memory."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models._latent_config import LatentConfig, latent_config_to_json
from scbayes.models._latent_kinds import latent_model
from scbayes.models._latent_model import LatentModel, Sizes

if TYPE_CHECKING:
    from anndata import AnnData

#: Names of the two sets in the history, and of the parts of each row.
SETS, COLUMNS = ("train", "validation"), ("reconstruction", "kl", "label")


@dataclass(frozen=True)
class LatentFit:
    """One fitted model with a latent space.

    Attributes
    ----------
    key
        Name under which it is stored.
    config, sizes
        The model, and what its networks' shapes depend on.
    params, fixed
        Learned numbers, and those that were given: pytrees of arrays, see :class:`scbayes.models._latent_model.Inputs`.
    genes
        Names of the genes that the model is of, in its order.
    cells
        Names of the cells.
    loc, scale
        Mean and standard deviation of the latent numbers of the cells, float32 ``(n_cells, D)``.
    split
        Set of each cell: train, validation, test.
    history
        ``(n_epochs, 2, 3)``: see ``table``.
    facts
        What was run and how it went (plain values).
    slots
        Where AnnData holds it.
    """

    key: str
    config: LatentConfig
    sizes: Sizes
    params: dict
    fixed: dict
    genes: np.ndarray
    cells: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    split: pd.Categorical
    history: np.ndarray
    facts: dict
    slots: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Tells a fit from others: a hash of its settings, of its data, and of how it went."""
        text = json.dumps([latent_config_to_json(self.config), self.facts])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def model(self) -> LatentModel:
        """The model: decoder, encoder, NumPyro program and guide."""
        return latent_model(self.config, self.sizes)

    @property
    def converged(self) -> bool:
        """Whether the ELBO had stopped rising: of cells that do not train, where these are watched."""
        return bool(self.facts["convergence"]["converged"])

    @property
    def verdict(self) -> str:
        """How training ended, in words."""
        how = self.facts["convergence"]
        if how["converged"]:
            return f"converged, {how['n_epochs']} epochs, best {how['best_epoch']}"
        if how["done"]:
            return f"all {how['n_epochs']} epochs done, best {how['best_epoch']}: more (max_epochs) may help"
        return f"NOT done, {how['n_epochs']} epochs: fit(..., resume=True) goes on"

    @property
    def batches(self) -> list[str]:
        """Names of the batches, by code."""
        return list(self.facts["batches"])

    @property
    def labels(self) -> list[str]:
        """Names of the labels, by code."""
        return list(self.facts["labels"])

    @property
    def table(self) -> pd.DataFrame:
        """History: for each epoch, mean over cells of the ELBO and its parts, nats, of both sets."""
        columns = {}
        for i, name in enumerate(SETS):
            part = dict(zip(COLUMNS, self.history[:, i].T, strict=True))
            columns[f"{name}_elbo"] = part["reconstruction"] - part["kl"]
            columns |= {f"{name}_{what}": value for what, value in part.items() if what != "label" or self.labels}
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(self.history) + 1, name="epoch"))

    def to_anndata(self) -> "AnnData":
        """The fit without its cells, to store or to give away: pass it as ``reference`` with other cells."""
        from anndata import AnnData

        from scbayes.state._latent_store import write_latent_fit

        empty = AnnData(
            np.zeros((0, len(self.genes)), np.float32), var=pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        )
        write_latent_fit(empty, self, without_cells=True)
        return empty

    def __str__(self) -> str:
        facts, how = self.facts, self.facts["convergence"]
        source = "X" if facts["layer"] is None else f"layers[{facts['layer']!r}]"
        batches = "" if facts["batch_key"] is None else f", {len(self.batches)} batches of obs[{facts['batch_key']!r}]"
        levels = ", ".join(f"{name} {value:.2f}" for name, value in how["elbo"].items() if value is not None)
        rejected = f", {how['n_rejected']} steps rejected" if how["n_rejected"] else ""
        accuracy = ", ".join(f"{name} {value:.3f}" for name, value in (facts["accuracy"] or {}).items())
        dimensions = f"{self.config.n_latent} latent dimensions ({facts['active_units']} active)"
        lines = [
            f"scbayes fit {self.key!r}: {self.config.model}, {self.config.likelihood}, {dimensions}",
            f"    counts       {source}, {facts['n_cells']} cells x {facts['n_genes']} genes{batches}",
            *([f"    ambient      varm[{facts['ambient']['name']!r}]"] if facts["ambient"] else []),
            *([f"    labels       obs[{facts['labels_key']!r}], accuracy {accuracy}"] if self.labels else []),
            f"    here         {len(self.cells)} cells",
            f"    convergence  {self.verdict}{rejected}",
            f"    ELBO         {levels} nats per cell",
            "    slots        " + ", ".join(sorted(set(self.slots.values()))),
        ]
        return "\n".join(lines)

    __repr__ = __str__
