"""Fit a model of the negative binomial family to all counts."""

from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING

import numpy as np

from scbayes.models import Model, ModelConfig
from scbayes.state import (
    Fit,
    Source,
    actual,
    find_counts,
    stored_source,
    write_fit,
)
from scbayes.stats._precision import double
from scbayes.tl._draw_slots import write_draws
from scbayes.tl._fit_ambient import check_ambient, draws_of, with_ambient
from scbayes.tl._fit_arguments import (
    as_seed,
    check_arguments,
    check_method,
    check_target,
    component_settings,
    is_mixture,
)
from scbayes.tl._fit_latent import fit_latent
from scbayes.tl._latent_arguments import means_latent
from scbayes.tl._methods import Found, Settings
from scbayes.tl._run import Run, as_fit, counts_of, resume_run, seen_by, start_run
from scbayes.tl._start_components import ComponentSettings, start_components
from scbayes.tl._update import check_settings, update_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

#: Default coordinates: the best held-out density on real data, see docs/models.md.
DEFAULT_PARAMETERIZATION = "mean_disp"


def fit(  # noqa: PLR0913
    adata: "AnnData",
    model: str = "nbvcp",
    *,
    parameterization: str | None = None,
    unconstrained: bool = False,
    n_components: int | None = None,
    init: str = "kmeans",
    n_init: int = 4,
    labels_key: str | None = None,
    label_trust: float = 1.0,
    priors: dict | None = None,
    layer: str | None = None,
    mask_var: str | None = None,
    batch_key: str | None = None,
    per_batch: tuple[str, ...] | None = None,
    covariates: "str | Iterable[str]" = (),
    size_factor_key: str | None = None,
    ambient: str | None = None,
    config: dict | None = None,
    method: str = "svi",
    n_samples: int = 1000,
    optimizer: object = None,
    loss: object = None,
    n_steps: int = 2000,
    stable_update: bool = True,
    resume: bool = False,
    update: bool = False,
    rng: int | np.random.Generator = 0,
    key_added: str = "sb",
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Posterior of a negative binomial model of all counts.

    Counts of gene :math:`g` in cell :math:`c` follow a negative binomial distribution of size :math:`r_g` and mean
    :math:`\nu_c \mu_g`, with capture probability :math:`\nu_c` (``nbvcp``, ``zinbvcp``; 1 without) and, in ``zinb`` and
    ``zinbvcp``, a probability `gate` of an excess zero. The parameterization chooses what is sampled, and whether
    :math:`r_g` is free (``mean_disp``) or all genes of a cell share their odds :math:`\mu_g \nu_c / r_g` (the others).

    The likelihood is evaluated on sufficient statistics, exactly or by interpolation (1e-6 nats per gene on real data):
    a step costs about the number of distinct (gene, count) pairs. Newton's method on one to three numbers per gene and
    one per cell finds the posterior; stochastic variational inference refines it until the loss stops falling. The
    models page has the formulas, what is identified, and how good the approximations are.

    Parameters
    ----------
    adata
        Cells x genes, with raw UMI counts in `layer`.
    model
        ``"nbdm"``, ``"zinb"``, ``"nbvcp"`` or ``"zinbvcp"``; with ``"_mix"`` after it, a mixture. ``"vae"`` and
        ``"factors"`` have a latent space instead, see below.
    parameterization
        ``"mean_disp"`` (mu, r; the default), ``"standard"`` (r, and p without capture), ``"linked"`` (mu, p) or
        ``"odds_ratio"`` (mu, phi).
    unconstrained
        Priors are normal on log and logit scales instead of distributions of the parameters.
    n_components
        Number of components of a mixture, each with its own gene-wise parameters; a cell belongs to one of them.
        Components are sorted, heaviest first, or as the categories of `labels_key`. None: no mixture, or as many as
        `init` or `labels_key` give.
    init
        Where components start: ``"kmeans"`` or ``"leiden"`` on principal components of log-normalised counts (scanpy's
        standard pipeline; Leiden needs ``scbayes[leiden]``), or a column of `obs` with groups.
    n_init
        Starts of k-means; the one with the highest likelihood after a few rounds is taken.
    labels_key
        Column of `obs` with known components; missing for cells whose component is to be found.
    label_trust
        Probability that a label is right; 1: labelled cells stay where they are.
    priors
        Sampled parameter -> scalar numpyro distribution, e.g. ``{"gate": dist.Beta(1, 9)}``. Defaults: p
        Beta(1, 1), phi BetaPrime(1, 1), gate Beta(1, 9); r, mu and nu log-normal, centre and width learned from the
        data. ``"total_mrna"``, molecules per cell at capture, sets the scale of nu and mu: a number, or a LogNormal
        whose spread their intervals then carry. Default: 200,000, or twice the largest total of a cell if that is
        more. ``"weights"`` of a mixture: a Dirichlet, or one concentration for all components; default 1.
    layer
        Layer with the counts. Default: the one that :func:`scbayes.pp.prepare_counts` kept, else `X`.
    mask_var
        Bool column of `var` with the genes to fit; the others are pooled into one. Default: the mask that
        `prepare_counts` wrote, else all genes.
    batch_key
        Column of `obs` with batches.
    per_batch
        Sampled gene-wise or global parameters that each batch has its own of; default with `batch_key`: the abundance
        (mu, or r in ``standard``). All others are shared.
    covariates
        Columns of `obs`, with categories or numbers, that the expression of a cell may depend on beside its latent
        numbers (``"vae"``).
    size_factor_key
        Column of `obs` with size factors, for ``config={"library": "size_factor"}``.
    ambient
        It means two things. Here: the prefix of a result of :func:`scbayes.tl.denoise`, such as ``"sb"``. The fit is of
        native expression, and what is not known of ambient counts is in its posterior, by multiple imputation. What
        reads the fit reads the counts without ambient ones, ``layers[ambient + "_denoised"]``. For ``"vae"``: the name
        of an ambient profile in `varm`, such as ``"sb_ambient"``, see below.
    config
        Settings of a model with a latent space, e.g. ``{"n_latent": 20, "likelihood": "zinb"}``; the latent page lists
        them.
    method
        ``"svi"``: the best normal posterior by stochastic variational inference, then each gene's own moments by
        importance sampling. ``"laplace"``: the genes' mode and curvature, cells integrated out; the fastest.
        ``"nuts"``: Markov chains (the no-U-turn sampler) on the density of all counts; draws are kept beside the fit,
        and its normals have their moments. A gradient costs about the distinct (gene, count) pairs where all genes of a
        cell share its odds or cells are alike, else the non-zeros. Not for mixtures.
    n_samples
        Draws of ``"nuts"``, of two chains together.
    optimizer
        An optax transformation or numpyro optimizer, in units of posterior standard deviations. Default: Adam with
        a step of 0.02 that falls.
    loss
        A numpyro ELBO. Default: ``Trace_ELBO()``.
    n_steps
        Steps at most. Windows of 50 steps are compared, and the fit ends when their mean losses agree within 1e-3
        nats per latent number, or within two standard errors if these are small.
    stable_update
        Reject steps with a loss or gradient that is not finite; they are counted and reported.
    resume
        Go on with the unfinished fit under `key_added`, with its settings; give the same optimizer and loss.
        It ends where an uninterrupted fit ends.
    update
        Add the cells of `adata` that the fit under `key_added` has not seen, without counting the others again. These
        need not be in `adata`, which needs ``uns[key_added]`` of the fit and all its genes. Model, layer, genes,
        batches and priors are those of the fit; a batch may be new. What does not converge is not stored. Where the
        likelihood reads cells through their summary alone (no capture; or shared odds and no zero inflation) this is
        the fit of all cells together. Else the old cells' nu move together, batch by batch: the genes' means are then
        within about a tenth of a standard deviation of that fit, and less close where new cells are of other types than
        old ones. Not for mixtures.
    rng
        Seed, or generator from which one is drawn; the seed is recorded.
    key_added
        Name of the fit, and prefix of its slots.
    progress
        Show a progress bar.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. With `K` numbers per gene, it sets (float64 where not said; in mixtures `varm` has a second axis
    of components)

    `adata.varm[key_added + "_loc"]` : `(n_genes, K)`
        Mean of each gene's log or logit parameters; NaN for genes that were pooled.
    `adata.varm[key_added + "_tril"]` : `(n_genes, K, K)`
        Cholesky factor of their covariance.
    `adata.varm[key_added + "_factor"]` : `(n_genes, K, Q)`
        Loadings on what couples the genes (``standard`` only).
    `adata.obsm[key_added + "_nu"]` : `(n_cells, 2)`
        Mean and standard deviation of the log of nu (models with capture).
    `adata.obsm[key_added + "_responsibilities"]` : `(n_cells, n_components)`
        Probability of each component given the cell (mixtures).
    `adata.varm[key_added + "_gene_id"]`, `adata.obsm[key_added + "_cell_id"]` : uint64 `(n, 1)`
        Fingerprints of the names.
    `adata.uns[key_added]` : dict
        `manifest` (JSON: model, priors, inputs, convergence, versions, slots), `loss`, `global`, `rest`, `total`;
        `seen`, the summary of the counts, for `update`; and, if the fit did not converge, what is needed to go on.

    ``model="vae"`` (needs ``scbayes[latent]``) and ``"factors"`` describe each cell by a few latent numbers z, found by
    minibatches; genes outside of `mask_var` are left out. Of the arguments above they know `layer`, `mask_var`,
    `batch_key`, `labels_key` (cells with a label train a classifier of z), `covariates`, `size_factor_key`, `config`,
    `resume`, `rng`, `key_added`, `progress` and `copy`. ``"vae"`` also knows `ambient`, the name of an ambient profile
    in `varm`, as :func:`scbayes.pp.ambient_profile` leaves it; of several columns, its batches or those of `batch_key`.
    Observed counts are then native plus ambient ones, with a share of ambient counts for each cell; their mean share is
    that which the method of :func:`scbayes.tl.denoise` finds, since the likelihood hardly tells it.
    ``sb.tl.denoise(adata, key=...)`` divides the counts. They set

    `adata.obsm[key_added + "_latent"]` : float32 `(n_cells, 2 * D)`
        Mean and standard deviation of the D latent numbers; :func:`scbayes.tl.latent` gives those of z.
    `adata.obs[key_added + "_split"]` : categories
        Set of each cell: train, validation, test.
    `adata.obsm[key_added + "_cell_id"]`, `adata.uns[key_added]`
        As above; `uns` has the networks' parameters, the names of the genes, and the history of training.

    With ``method="nuts"`` also the slots of :func:`scbayes.tl.posterior_samples`, draws in the order of the chains.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, the counts are no matrix of numbers, `priors` is no dict, or `optimizer` or `loss`
        is none.
    KeyError
        If `layer`, `mask_var`, `batch_key`, `init`, `labels_key`, the result `ambient` or, with `resume` or `update`,
        the fit do not exist.
    ImportError
        If `init` is ``"leiden"`` and igraph is not installed, or `model` is ``"vae"`` and equinox is not.
    ValueError
        If the counts are not counts, the settings do not fit the model, the key is taken by something else, or a
        fit cannot be resumed or updated, as one with `ambient` cannot.
    RuntimeError
        If an update has not converged.

    References
    ----------
    Lopez, Regier, Cole, Jordan, Yosef (2018), Deep generative modeling for single-cell transcriptomics. Nat Methods.
    """
    given = dict(locals())
    from scanpy import logging as logg

    again = "resuming" if resume else "updating" if update else None
    clock = logg.info(f"fitting {model}" if again is None else f"{again} {key_added!r}")
    check_target(adata, key_added, copy=copy, again=again is not None)
    if means_latent(adata, given, signature(fit)):
        return fit_latent(adata, given | {"seed": as_seed(rng)}, clock)
    check_ambient(adata, given)
    if update:
        check_settings(adata, key_added, given)
    check_arguments(n_steps, priors, optimizer, loss)
    components = component_settings(init, n_init, labels_key, label_trust)
    mixture = is_mixture(model, n_components, components)
    check_method(method, n_samples, mixture=mixture, resume=resume, update=update)
    settings = Settings(method, optimizer, loss, n_steps, n_samples, stable_update, progress)
    seen = None
    with double():
        if resume:
            run = resume_run(adata, key_added, stored_source(adata, key_added), settings)
            if run is None:
                return _say_done(adata, key_added, clock, copy=copy)
        elif update:
            run, seen = update_run(adata, key_added, as_seed(rng), settings)
        else:
            run = _run_anew(adata, given, settings, components if mixture else None)
        result = as_fit(run, key_added, adata)
    out = adata.copy() if copy else adata
    actual(out)
    slots = write_fit(out, result, run.found.unfinished, seen or seen_by(run, adata))
    if run.found.drawn is not None:
        slots += write_draws(out, result, run.found.drawn.draws(result.law, run.facts["seed"]), len(result.losses))
    _report(logg, clock, result, slots)
    _say_interrupted(run.found, resumable=method == "svi" and ambient is None, copy=copy)
    return out if copy else None


def _run_anew(adata: "AnnData", given: dict, settings: Settings, components: ComponentSettings | None) -> Run:
    """Fit from the beginning, with the arguments that :func:`fit` was given; ``components`` of a mixture."""
    ambient, start = given["ambient"], None
    layer, seed = given["layer"], as_seed(given["rng"])
    if ambient is not None:
        layer, drawn = f"{ambient}_denoised", draws_of(adata, ambient, seed)
    source = find_counts(adata, layer, given["mask_var"], given["batch_key"])
    names = ("model", "parameterization", "per_batch")
    config = _config(*[given[name] for name in names], source, unconstrained=given["unconstrained"])
    if components is not None:
        start = start_components(adata, counts_of(source), given["n_components"], components, seed)
        config = replace(config, n_components=start.membership.shape[1])
    run = start_run(Model.of(config), source, dict(given["priors"] or {}), seed, settings, start)
    return run if ambient is None else with_ambient(run, drawn, key=ambient, settings=settings, components=start)


def _config(model: str, parameterization: str | None, per_batch, source: Source, *, unconstrained: bool) -> ModelConfig:
    parameterization = parameterization or DEFAULT_PARAMETERIZATION
    n_batches = max(len(source.batches), 1)
    if per_batch is None:
        per_batch = () if n_batches == 1 else ("r" if parameterization == "standard" else "mu",)
    per_batch = (per_batch,) if isinstance(per_batch, str) else tuple(per_batch)
    return ModelConfig(model.removesuffix("_mix"), parameterization, unconstrained, n_batches, per_batch)


def _report(logg, clock, result: Fit, slots: list[str]) -> None:
    how, mcmc = result.facts["convergence"], result.facts.get("mcmc")
    if mcmc is not None:
        _report_chains(logg, result.key, mcmc, converged=how["converged"])
    elif not how["converged"] and result.facts["method"] == "svi":
        change = "" if how["drift"] is None else f" (last change {how['drift']:.3g} nats)"
        goes_on = "raise n_steps"
        if "ambient" not in result.facts:
            goes_on = "go on with sb.tl.fit(adata, resume=True, n_steps=...)"
        logg.warning(f"the fit {result.key!r} has not converged in {how['n_steps']} steps{change}: {goes_on}")
    for warning in result.facts.get("components", {}).get("warnings", []):
        logg.warning(warning)
    if how["n_rejected"]:
        logg.warning(f"{how['n_rejected']} of {how['n_steps']} steps were not finite and were not taken")
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))


def _say_done(adata: "AnnData", key: str, clock, *, copy: bool) -> "AnnData | None":
    from scanpy import logging as logg

    logg.info(f"    {key!r} had converged: nothing to resume", time=clock)
    return adata.copy() if copy else None


def _say_interrupted(found: Found, *, resumable: bool, copy: bool) -> None:
    if not found.interrupted:
        return
    goes_on = "; go on with fit(..., resume=True)" if resumable else ""
    raise KeyboardInterrupt("nothing is stored, since copy=True" if copy else f"the fit so far is stored{goes_on}")


def _report_chains(logg, key: str, mcmc: dict, *, converged: bool) -> None:
    if not converged:
        worst = {name: f"{of['r_hat']:.3f}" for name, of in mcmc["agreement"].items()}
        logg.warning(f"the chains of {key!r} do not agree yet, R-hat {worst}: draw more with n_samples=")
    if mcmc["n_divergent"]:
        logg.warning(f"{mcmc['n_divergent']} trajectories of {key!r} diverged: intervals may be too narrow")
