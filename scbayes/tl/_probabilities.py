"""Probabilities of the components of a fit, at its centre or over draws: what assign and entropy share."""

from collections.abc import Iterator

import numpy as np

from scbayes.models._assignment import (
    GeneWeights,
    cell_probabilities,
    expected_log_total,
    expecting,
    gene_probabilities,
)
from scbayes.state import Fit
from scbayes.stats._numbers import check_positive, check_whole
from scbayes.tl._reading import Reading


def check_components(fit: Fit) -> None:
    """Refuse a fit that is no mixture.

    Raises
    ------
    ValueError
        If it has no components.
    """
    if not fit.config.mixture:
        msg = f"the fit {fit.key!r} has no components: fit with n_components=2 or more, or with labels_key"
        raise ValueError(msg)


def check_draws(n_samples: int | None, temperature: float) -> None:
    """Refuse settings that make no sense.

    Raises
    ------
    ValueError
        If `n_samples` is no number of draws, or `temperature` not positive.
    """
    check_whole(1, n_samples=n_samples, or_none=True)
    check_positive(temperature=temperature)


def probabilities(
    reading: Reading,
    n_samples: int | None,
    rng: int | np.random.Generator,
    *,
    by: str = "cell",
    temperature: float = 1.0,
    normalize: bool = False,
    weights: GeneWeights | None = None,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """Probabilities of the components, ``(n_cells or n_genes, n_components)``: one draw after another, or the centre.

    Parameters
    ----------
    by
        ``"cell"`` or ``"gene"``; the pooled gene is one of the genes.
    normalize
        Divide log likelihoods by the number of genes, or of cells.
    """
    from tqdm.auto import tqdm

    fit, counts = reading.fit, reading.counts
    capture = fit.config.capture
    centre = fit.centre().parameters
    log_total = expected_log_total(centre, counts.batch) if capture else None
    states = iter([centre])
    if n_samples is not None:
        states = (draw.parameters for draw in fit.draws(n_samples, np.random.default_rng(rng)))
    bar = tqdm(states, total=n_samples or 1, desc=by, unit="draw", disable=not progress or n_samples is None)
    for parameters in bar:
        # the cell's nu is integrated out: where it was drawn does not matter
        state = expecting(parameters, log_total, counts.batch) if capture else parameters
        if by == "gene":
            scale = counts.n_cells if normalize else 1.0
            yield gene_probabilities(state, counts, capture=capture, temperature=temperature, scale=scale)
        else:
            yield cell_probabilities(
                state,
                counts,
                fit.priors["nu"] if capture else None,
                unconstrained=fit.config.unconstrained,
                temperature=temperature,
                scale=counts.n_genes if normalize else 1.0,
                weights=weights,
            )
