from typing import TYPE_CHECKING

import numpy as np

from ._check import check_count, check_generator, check_number, check_pair
from ._draw import draw_batch_effects, draw_cells, draw_counts, draw_genes, exp

if TYPE_CHECKING:
    from anndata import AnnData

MODELS = ("nbdm", "zinb", "nbvcp", "zinbvcp")
SHARED_ODDS = ("standard", "linked", "odds_ratio")


def simulate(
    model: str = "nbvcp",
    *,
    n_cells: int = 3000,
    n_genes: int = 2000,
    n_components: int = 1,
    n_batches: int = 1,
    parameterization: str = "standard",
    p: float = 0.9,
    log_mean: tuple[float, float] = (0.5, 1.6),
    capture: tuple[float, float] = (6, 54),
    gate: tuple[float, float] = (1, 9),
    dispersion: tuple[float, float] | None = None,
    component_lfc: tuple[float, float] = (0.2, 0.8),
    batch_sd: float = 0.3,
    rng: int | np.random.Generator = 0,
) -> "AnnData":
    r"""Draw counts from a model of the negative-binomial family, with the truth kept beside them.

    Cell c of component k and batch b, gene g:

    .. math::
        u_{cg} \sim \pi_{gk} \delta_0 + (1 - \pi_{gk}) \, \mathrm{NB}(r_{gkb}, \text{mean } m_{cg}), \qquad
        m_{cg} = \nu_c \mu_{gk} e^{\beta_{gb}}, \qquad
        \mathrm{NB}(r, m) = \mathrm{Poisson}(\mathrm{Gamma}(r) \, m / r)

    With shared odds :math:`m_{cg} = r_{gkb} \nu_c p / (1-p)` for every gene, that is
    :math:`r_{gkb} = \mu_{gk} e^{\beta_{gb}} (1-p) / p`; with gene-wise dispersion (`"mean_disp"`) :math:`r_g` is free.
    Capture probabilities are :math:`\nu_c = 1` but in `nbvcp` and `zinbvcp`, gates are :math:`\pi_{gk} = 0` but in
    `zinb` and `zinbvcp`. Counts are drawn in blocks of cells: no dense cells x genes array is ever made.

    Parameters
    ----------
    model
        "nbdm", "zinb", "nbvcp", "zinbvcp", or one of them with "_mix", which asks for `n_components` of 2 or more
    n_cells, n_genes
        shape of the result
    n_components
        number of mixture components K; weights ~ Dirichlet(5, ..., 5)
    n_batches
        number of batches B; every cell falls into each with probability 1/B
    parameterization
        "standard", "linked" and "odds_ratio" are coordinates of one model, shared odds, and draw the same counts;
        "mean_disp" has gene-wise dispersion
    p
        success probability in (0, 1), shared odds only; odds are p/(1-p)
    log_mean
        mean and standard deviation of log :math:`\mu_g`, counts per cell at full capture
    capture
        the a, b of :math:`\nu_c` ~ Beta(a, b), for `nbvcp` and `zinbvcp`
    gate
        the a, b of :math:`\pi_{gk}` ~ Beta(a, b), the probability of an excess zero, for `zinb` and `zinbvcp`
    dispersion
        mean and standard deviation of log :math:`r_g` for "mean_disp" only; (0, 1) by default
    component_lfc
        with K > 1: share of (gene, component) pairs that leave the common mean, standard deviation of the natural
        log fold change by which they do
    batch_sd
        with B > 1: standard deviation of :math:`\beta_{gb}`, the log effects of batches, which sum to 0 in every gene
    rng
        seed or numpy Generator; the same seed gives the same counts

    Returns
    -------
    AnnData of shape (n_cells, n_genes) with

    `X`
        counts, CSR, float32
    `obs["component"]`, `obs["batch"]`
        "0" to "K-1", "0" to "B-1", categorical
    `obs["nu"]`, `obs["odds"]`
        capture probability; odds :math:`\nu_c p / (1-p)`, with shared odds only. float64
    `varm["mu"]`, `varm["r"]`, `varm["gate"]`
        (n_genes, K) float64: mean at full capture, size, gate. Without the effect of batches, which multiplies `mu`
        and with shared odds `r` by its exponential
    `varm["batch_effect"]`
        (n_genes, B) float64, log scale, written if B > 1
    `uns["truth"]`
        dict: model (without "_mix"), parameterization, n_components, n_batches, weights (K,) float64, and the
        arguments that were used

    Raises
    ------
    ValueError
        if an argument is unknown, of the wrong kind or out of range, or does not apply to the model; if counts grow
        beyond 16,777,216, which float32 no longer holds exactly

    References
    ----------
    Svensson (2020), Droplet scRNA-seq is not zero-inflated, Nature Biotechnology 38, 147-150, for the counts of one
    gene; Grün, Kester & van Oudenaarden (2014), Validation of noise models for single-cell transcriptomics, Nature
    Methods 11, 637-640, for capture that varies between cells.

    Examples
    --------
    >>> import scbayes as sb
    >>> adata = sb.datasets.simulate("zinbvcp_mix", n_components=3, n_cells=500, n_genes=100, rng=1)
    >>> adata.varm["gate"].shape
    (100, 3)
    """
    import anndata as ad
    import pandas as pd

    sizes = {"n_cells": n_cells, "n_genes": n_genes, "n_components": n_components, "n_batches": n_batches}
    n_cells, n_genes, n_components, n_batches = (check_count(name, value) for name, value in sizes.items())
    base = _base_model(model, n_components)
    shared = _has_shared_odds(parameterization, dispersion)
    normal = {"meaning": "(mean, sd) with sd >= 0", "low": (-np.inf, 0)}
    beta = {"meaning": "the (a, b) of a Beta, both positive", "low": (0, 0), "closed": False}
    share_and_sd = {"meaning": "(share in [0, 1], sd >= 0)", "low": (0, 0), "high": (1, np.inf)}
    settings = {
        "p": check_number("p", p, low=0, high=1),
        "log_mean": check_pair("log_mean", log_mean, **normal),
        "capture": check_pair("capture", capture, **beta),
        "gate": check_pair("gate", gate, **beta),
        "dispersion": check_pair("dispersion", (0, 1) if dispersion is None else dispersion, **normal),
        "component_lfc": check_pair("component_lfc", component_lfc, **share_and_sd),
        "batch_sd": check_number("batch_sd", batch_sd, low=0, closed=True),
    }
    applies = {
        "p": shared,
        "dispersion": not shared,
        "capture": base.endswith("vcp"),
        "gate": base.startswith("zi"),
        "component_lfc": n_components > 1,
        "batch_sd": n_batches > 1,
    }
    used = {name: value for name, value in settings.items() if applies.get(name, True)}
    rng = check_generator(rng)

    weights = rng.dirichlet(np.full(n_components, 5.0))
    genes = draw_genes(rng, n_genes, n_components, used)
    cells = draw_cells(rng, n_cells, n_batches, weights, used)
    effect = draw_batch_effects(rng, n_genes, n_batches, used)
    counts = draw_counts(rng, **genes, **cells, factor=exp("batch_sd", effect), shared_odds=shared)

    obs = {
        "component": pd.Categorical.from_codes(cells["component"], [str(k) for k in range(n_components)]),
        "batch": pd.Categorical.from_codes(cells["batch"], [str(b) for b in range(n_batches)]),
        "nu": cells["nu"],
    }
    if shared:
        obs["odds"] = cells["nu"] * settings["p"] / (1 - settings["p"])
    truth = {"model": base, "parameterization": parameterization, "n_components": n_components, "n_batches": n_batches}
    truth |= {name: np.array(value) if isinstance(value, tuple) else value for name, value in used.items()}
    return ad.AnnData(
        counts,
        obs=pd.DataFrame(obs, index=[f"cell{c}" for c in range(n_cells)]),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(n_genes)]),
        varm=genes | ({"batch_effect": effect} if n_batches > 1 else {}),
        uns={"truth": truth | {"weights": weights}},
    )


def _base_model(model: str, n_components: int) -> str:
    names = [*MODELS, *(f"{name}_mix" for name in MODELS)]
    if model not in names:
        raise ValueError(f"model={model!r} is unknown: choose one of {', '.join(names)}")
    if model.endswith("_mix") and n_components == 1:
        raise ValueError(f"model={model!r} is a mixture but n_components=1: pass n_components=2 or more")
    return model.removesuffix("_mix")


def _has_shared_odds(parameterization: str, dispersion: tuple[float, float] | None) -> bool:
    known = (*SHARED_ODDS, "mean_disp")
    if parameterization not in known:
        raise ValueError(f"parameterization={parameterization!r} is unknown: choose one of {', '.join(known)}")
    shared = parameterization in SHARED_ODDS
    if shared and dispersion is not None:
        raise ValueError(
            f"dispersion={dispersion!r} does not apply: with shared odds r follows from log_mean and p; "
            "leave it out or pass parameterization='mean_disp'"
        )
    return shared
