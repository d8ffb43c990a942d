"""Cells to components."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scbayes.models._assignment import Averaged, GeneWeights, averaged
from scbayes.state import is_latent
from scbayes.stats._dirichlet import fit_dirichlet_with_mean
from scbayes.tl._assign_latent import assign_latent
from scbayes.tl._families import check_family
from scbayes.tl._gene_weights import gene_weights
from scbayes.tl._known_cells import Compared, calibrated, compare_with_known, known_cells
from scbayes.tl._probabilities import check_components, check_draws, probabilities
from scbayes.tl._reading import read_with_counts
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

UNKNOWN = "unknown"
#: Arguments that classifiers do not have.
OF_MIXTURES = ("weights", "weight_type", "calibrate", "unknown", "fit_dirichlet")


def assign(  # noqa: PLR0913
    adata: "AnnData",
    key: str = "sb",
    *,
    n_samples: int | None = None,
    temperature: float = 1.0,
    weights: "np.ndarray | str | None" = None,
    weight_type: str = "multiplicative",
    calibrate: str | None = None,
    unknown: float | None = None,
    fit_dirichlet: bool = False,
    keep_draws: bool = False,
    reference: "AnnData | None" = None,
    layer: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Probability of each component of a mixture, for each cell.

    .. math:: p(k \mid u_c) \propto \Big[ w_k \int p(u_c \mid k, \nu)\, p(\nu)\, d\nu \Big]^{1/T}

    (A fit of ``model="vae"`` with labels has a classifier instead, :math:`p(k \mid u_c) = E_q[p(k \mid z)]`, over 50
    draws or `n_samples`, and knows `temperature`, `keep_draws`, `reference` and `layer` of what follows.)

    at the centre of the posterior, or averaged over draws from it. It is what the counts say: labels that the fit was
    given are left out, so that a labelled cell may be assigned elsewhere.

    **Probabilities that hold.** Thousands of genes are taken as independent, and cells as no more variable than their
    component; the plain probabilities are far too sure for that, whatever the posterior. With `calibrate`, they are
    made to fit labels instead:

    .. math:: p(k \mid u_c) = (1 - \lambda)\,\mathrm{softmax}_k\big(l_{ck} / T_c + b_k\big) + \lambda\,\pi_k, \qquad
        T_c = T\,(U_c / \bar U)^a,

    with log likelihoods :math:`l_{ck}` of negative binomials whose means are estimated from the labelled cells, and
    :math:`T`, :math:`a`, :math:`b` and the rate of lapses :math:`\lambda` learned on labelled cells that were not used
    for these means (five folds). A labelled cell is scored by the folds without it, an unlabelled one by all labelled
    cells, so that none has been seen. :math:`b` and :math:`\pi` hold how common the labels are.

    **Unknown cells.** `unknown` is the share of a component's own cells that may be called unknown. Two numbers are
    compared with those of the component's known cells (labelled ones with `calibrate`, else those the fit put there),
    each scored by estimates without its fold: the log likelihood per count beyond what is expected at the cell's
    :math:`\nu_c`, and the share of the expected log likelihood ratio to all components as one. The *surprise* is the
    rank of the lower one of the two, a conformal p-value under the component that explains the cell best. So a type of
    cell that the fit has not seen shows if it is as different as the known types are from each other. A component with
    n known cells cannot give less than 1 / (n + 1).

    Parameters
    ----------
    adata
        Cells x genes, with a fitted mixture (or a classifier); cells of another data set with `reference`.
    key
        The fit to read.
    n_samples
        Draws over which probabilities are averaged. None: the centre of the posterior.
    temperature
        T; above 1, probabilities are less sure. Not with `calibrate`, which learns it.
    weights
        Weights of the genes, shape ``(n_genes,)``, or a column of `var` with them. Not with `calibrate`.
    weight_type
        ``"multiplicative"``: weights multiply log probabilities, at the :math:`\nu` that all genes give; 0 leaves a
        gene out. ``"additive"``: they are added, which changes something only if they differ by component, shape
        ``(n_genes, n_components)``.
    calibrate
        Column of `obs` (of `reference`, if that is given) with names of components, missing where unknown; at least
        two cells of each component.
    unknown
        Cells with a surprise below this are assigned to ``"unknown"``, such as 0.05. None: none.
    fit_dirichlet
        Fit a Dirichlet distribution to each cell's draws, with their exact mean.
    keep_draws
        Keep the probabilities of each draw.
    reference
        Where the fit is, if `adata` has other cells: genes are matched by name, nu is inferred.
    layer
        Layer with the counts of new cells. Default: as ``tl.fit`` would choose.
    rng
        Seed or generator, of draws and folds.
    key_added
        Prefix of the slots. Default: `key`.
    progress
        Show a progress bar over draws.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets, with S draws and K components, float64 where not said

    `adata.obs[key_added + "_assignment"]` : categorical
        Name of the most probable component, or ``"unknown"``.
    `adata.obs[key_added + "_confidence"]`
        Its probability; of unknown cells, that of the component they would go to.
    `adata.obs[key_added + "_surprise"]`
        Probability that a cell of the best component looks so untypical (with `unknown`).
    `adata.obsm[key_added + "_probabilities"]` : `(n_cells, K)`
        In the order of ``sb.get.fit(adata).components``.
    `adata.obsm[key_added + "_concentrations"]` : `(n_cells, K)`
        Of the Dirichlet distributions (with `fit_dirichlet`).
    `adata.obsm[key_added + "_probability_draws"]` : `(n_cells, S, K)`
        With `keep_draws`.
    `adata.uns[key_added + "_assign"]` : dict
        How they were made, and the calibration.

    :func:`scbayes.get.assignments` reads them.

    Raises
    ------
    KeyError
        If there is no such fit or column.
    ValueError
        If the fit has no components, settings exclude each other, or labels are not names of components.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks. ICML.
    Vovk, Gammerman, Shafer (2005), Algorithmic Learning in a Random World. Springer.
    """
    key_added = key if key_added is None else key_added
    given = dict(locals())
    from scanpy import logging as logg

    clock = logg.info(f"assigning cells to the components of {key!r}")
    check_draws(n_samples, temperature)
    if is_latent(adata if reference is None else reference, key):
        check_family(given, assign, latent=True, never_latent=OF_MIXTURES)
        return assign_latent(adata, given, clock)
    _check(n_samples, temperature, weights, calibrate, unknown, draws=fit_dirichlet or keep_draws)
    reading = read_with_counts(adata, key, reference=reference, layer=layer)
    fit = reading.fit
    check_components(fit)
    names = fit.components
    if unknown is not None and UNKNOWN in names:
        msg = f"a component is called {UNKNOWN!r}, as cells that belong to none would be: leave unknown out"
        raise ValueError(msg)
    folds = np.random.default_rng(rng if isinstance(rng, int | np.integer) else rng.integers(2**31))
    additive, compared, learned = weight_type == "additive", None, None
    if calibrate is not None or unknown is not None:
        known = known_cells(adata, key, reading, reference, calibrate)
        compared = compare_with_known(reading.counts, known, len(names), folds, judge=unknown is not None)
    if calibrate is None:
        scheme = _scheme(gene_weights(adata, reading, weights, weight_type, by_component=additive), additive=additive)
        draws = probabilities(reading, n_samples, rng, temperature=temperature, weights=scheme, progress=progress)
        found = averaged(draws, "probabilities" if keep_draws else None)
    else:
        p, learned = calibrated(compared)
        learned["labels"] = calibrate
        found = averaged([p])
    values = _values(found, names, compared, unknown, dirichlet=fit_dirichlet)
    facts = {
        "components": names,
        "n_samples": None if n_samples is None else int(n_samples),
        "temperature": float(temperature),
        "weight_type": None if weights is None else weight_type,
        "unknown": None if unknown is None else float(unknown),
        "calibration": learned,
    }
    _report(logg, values, facts)
    return store(adata, "assign", key_added, values, fit=fit, facts=facts, clock=clock, copy=copy)


def _check(n_samples, temperature, weights, calibrate, unknown, *, draws: bool) -> None:
    if calibrate is not None and (n_samples is not None or temperature != 1 or weights is not None):
        msg = "calibrate has estimates and a temperature of its own: leave n_samples, temperature and weights out"
        raise ValueError(msg)
    if draws and n_samples is None:
        msg = "fit_dirichlet and keep_draws are about draws: pass n_samples"
        raise ValueError(msg)
    if unknown is not None and not 0 < unknown < 1:
        msg = f"unknown={unknown!r}: give a probability such as 0.05, or None"
        raise ValueError(msg)


def _scheme(weights: np.ndarray | None, *, additive: bool) -> GeneWeights | None:
    """How weights ``(n_genes, n_components)`` act on the scores of cells."""
    if weights is None:
        return None
    return GeneWeights(shift=weights.sum(0)) if additive else GeneWeights(factor=weights[:, 0])


def _values(found: Averaged, names: list[str], compared: Compared | None, unknown, *, dirichlet: bool) -> dict:
    """The slots."""
    p = found.mean
    best = p.argmax(1)
    categories, code = list(names), best.copy()
    values = {}
    if unknown is not None:
        categories.append(UNKNOWN)
        code[compared.surprise < unknown] = len(names)
        values["obs", "surprise"] = compared.surprise
    values["obs", "assignment"] = pd.Categorical.from_codes(code, categories)
    values["obs", "confidence"] = p[np.arange(len(p)), best]
    values["obsm", "probabilities"] = p
    if dirichlet:
        values["obsm", "concentrations"] = fit_dirichlet_with_mean(p, found.mean_log)
    if found.draws is not None:
        values["obsm", "probability_draws"] = found.draws
    return values


def _report(logg, values: dict, facts: dict) -> None:
    learned = facts["calibration"]
    if learned is not None:
        logg.info(
            f"    calibrated on {learned['n_labels']} labelled cells, unseen: accuracy {learned['accuracy']:.3f}, "
            f"calibration error {learned['error']:.3f} (before: {learned['error_before']:.3f})"
        )
    if facts["unknown"] is not None:
        n = int((values["obs", "assignment"] == UNKNOWN).sum())
        logg.info(f"    {n} of {len(values['obs', 'assignment'])} cells are unknown")
