"""Expression of cells given their counts, as slots of AnnData."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from scbayes.models._draws import Draw
from scbayes.models._expression import expression_above_zeros, expression_of_gene, expression_of_zeros
from scbayes.models._parameters import Parameters, log_responsibilities, score_cells
from scbayes.tl._reading import Reading


class Cells(NamedTuple):
    """What expression of cells takes, with one batch where batches share all parameters; see models/_expression.py."""

    parameters: Parameters
    batch: np.ndarray
    membership: np.ndarray
    unit: np.ndarray


def read_cells(reading: Reading, scale: float, *, stored: bool) -> Cells:
    """Parameters at the centre of the posterior; components of cells as ``stored`` with the fit, or from counts."""
    fit, centre = reading.fit, reading.fit.centre()
    parameters, batch = centre.parameters, np.asarray(fit.batch)
    unit = scale / _totals(centre)
    if not fit.config.per_batch:
        gate = None if parameters.gate is None else parameters.gate[:1]
        parameters = parameters._replace(size=parameters.size[:1], log_odds=parameters.log_odds[:1], gate=gate)
        batch, unit = np.zeros_like(batch), unit[:1]
    if not fit.config.mixture:
        membership = np.ones((reading.counts.n_cells, 1))
    elif stored:
        membership = np.asarray(fit.posterior.responsibilities)
    else:
        scores = score_cells(centre.parameters, reading.counts).value
        membership = np.exp(log_responsibilities(scores, centre.parameters.weights))
    return Cells(parameters, batch, membership, unit)


def _totals(centre: Draw) -> np.ndarray:
    """Total expression of each batch and component over all genes that were fitted, ``(B, K)``."""
    mean = centre.parameters.mean[..., 0]
    share = centre.sites["composition"][..., 0]
    return mean / share.reshape(len(share), -1)


def expression_of_all(reading: Reading, cells: Cells) -> dict:
    """Slots of the expression of all genes: what counts add to that of a zero, and that of a zero."""
    columns, counts = reading.columns, reading.counts
    n_genes = len(reading.fit.genes)
    above = expression_above_zeros(cells.parameters, counts, *cells[1:])
    above = above[:, : len(columns)]  # the pooled gene is the last
    above = sparse.csr_matrix((above.data, columns[above.indices], above.indptr), shape=(counts.n_cells, n_genes))
    of_cells, of_genes = expression_of_zeros(*cells)
    return {
        ("layers", "normalized_above_zero"): above,
        ("obsm", "normalized_cells"): of_cells,
        ("varm", "normalized_genes"): reading.for_all_genes(of_genes),
    }


def expression_of_chosen(reading: Reading, cells: Cells, names: list[str], interval: float | None) -> dict:
    """Slots of the expression of the genes ``names``, with sd and interval if asked."""
    position = _positions(reading, names)
    parts = [block[:, position] for _, block in reading.counts.blocks()]
    counts = sparse.vstack(parts, format="csc")
    found = {"normalized": np.empty((len(names), counts.shape[0]), np.float32)}
    if interval is not None:
        found |= {f"normalized_{what}": np.empty_like(found["normalized"]) for what in ("sd", "lower", "upper")}
    for i, g in enumerate(position):
        u = np.zeros(counts.shape[0])
        here = slice(*counts.indptr[i : i + 2])
        u[counts.indices[here]] = counts.data[here]
        law = expression_of_gene(cells.parameters.genes([g]), u, *cells[1:])
        found["normalized"][i] = law.mean()
        if interval is not None:
            found["normalized_sd"][i] = law.sd()
            found["normalized_lower"][i] = law.quantile((1 - interval) / 2)
            found["normalized_upper"][i] = law.quantile((1 + interval) / 2)
    columns, n_genes = reading.columns[position], len(reading.fit.genes)
    return {("layers", what): as_columns(value, columns, n_genes) for what, value in found.items()}


def as_columns(value: np.ndarray, columns: np.ndarray, n_genes: int) -> sparse.csc_matrix:
    """Genes x cells as cells x all genes: an entry for every cell in the columns given, none elsewhere."""
    n_cells, order = value.shape[1], np.argsort(columns)
    size = np.zeros(n_genes, np.int64)
    size[columns] = n_cells
    rows = np.tile(np.arange(n_cells, dtype=np.int32), len(columns))
    return sparse.csc_matrix(
        (value[order].ravel(), rows, np.concatenate([[0], np.cumsum(size)])), shape=(n_cells, n_genes)
    )


def _positions(reading: Reading, names: list[str]) -> np.ndarray:
    """Columns of the counts that hold the genes ``names``."""
    known = {name: i for i, name in enumerate(reading.fit.genes[reading.columns])}
    all_names = set(reading.fit.genes)
    if absent := [name for name in names if name not in all_names]:
        raise KeyError(f"expression names {len(absent)} genes that are not in adata.var_names, first {absent[0]!r}")
    if pooled := [name for name in names if name not in known]:
        raise ValueError(
            f"expression names {len(pooled)} genes that were not fitted on their own, first {pooled[0]!r}: "
            "leave them out, or fit with a mask that has them"
        )
    return np.array([known[name] for name in names])
