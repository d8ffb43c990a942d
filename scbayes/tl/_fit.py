"""Fit a model of the negative binomial family to all counts."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.inference import as_optimizer
from scbayes.models import Model, ModelConfig
from scbayes.state import Fit, Source, actual, check_free, check_is_fit, find_counts, stored_source, write_fit
from scbayes.stats._precision import double
from scbayes.tl._run import Settings, finished, resume_run, start_run

if TYPE_CHECKING:
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
    priors: dict | None = None,
    layer: str | None = None,
    mask_var: str | None = None,
    batch_key: str | None = None,
    per_batch: tuple[str, ...] | None = None,
    optimizer: object = None,
    loss: object = None,
    n_steps: int = 2000,
    stable_update: bool = True,
    resume: bool = False,
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
        ``"nbdm"``, ``"zinb"``, ``"nbvcp"`` or ``"zinbvcp"``.
    parameterization
        ``"mean_disp"`` (mu, r; the default), ``"standard"`` (r, and p without capture), ``"linked"`` (mu, p) or
        ``"odds_ratio"`` (mu, phi).
    unconstrained
        Priors are normal on log and logit scales instead of distributions of the parameters.
    n_components
        Mixtures are not part of this version: None.
    priors
        Sampled parameter -> scalar numpyro distribution, e.g. ``{"gate": dist.Beta(1, 9)}``. Defaults: p
        Beta(1, 1), phi BetaPrime(1, 1), gate Beta(1, 9); r, mu and nu log-normal, centre and width learned from the
        data. ``"total_mrna"``, molecules per cell at capture, sets the scale of nu and mu: a number, or a LogNormal
        whose spread their intervals then carry. Default: 200,000, or twice the largest total of a cell if that is
        more.
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
    None, or the copy. With `K` numbers per gene, it sets (float64 where not said)

    `adata.varm[key_added + "_loc"]` : `(n_genes, K)`
        Mean of each gene's log or logit parameters; NaN for genes that were pooled.
    `adata.varm[key_added + "_tril"]` : `(n_genes, K, K)`
        Cholesky factor of their covariance.
    `adata.varm[key_added + "_factor"]` : `(n_genes, K, Q)`
        Loadings on what couples the genes (``standard`` only).
    `adata.obsm[key_added + "_nu"]` : `(n_cells, 2)`
        Mean and standard deviation of the log of nu (models with capture).
    `adata.varm[key_added + "_gene_id"]`, `adata.obsm[key_added + "_cell_id"]` : uint64 `(n, 1)`
        Fingerprints of the names.
    `adata.uns[key_added]` : dict
        `manifest` (JSON: model, priors, inputs, convergence, versions, slots), `loss`, `global`, `rest`, `total`; and,
        if the fit did not converge, what is needed to go on.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, the counts are no matrix of numbers, `priors` is no dict, or `optimizer` or `loss`
        is none.
    KeyError
        If `layer`, `mask_var`, `batch_key` or, with `resume`, the fit do not exist.
    ValueError
        If the counts are not counts, the settings do not fit the model, the key is taken by something else, or a
        fit cannot be resumed.

    References
    ----------
    Lopez, Regier, Cole, Jordan, Yosef (2018), Deep generative modeling for single-cell transcriptomics. Nat Methods.
    """
    from scanpy import logging as logg

    clock = logg.info(f"resuming {key_added!r}" if resume else f"fitting {model}")
    if resume:
        check_is_fit(adata, key_added)
    check_free(adata, key_added)
    _check_arguments(n_steps, n_components, priors, optimizer, loss)
    source = stored_source(adata, key_added) if resume else find_counts(adata, layer, mask_var, batch_key)
    settings = Settings(optimizer, loss, n_steps, stable_update, progress)
    with double():
        if resume:
            run = resume_run(adata, key_added, source, settings)
            if run is None:
                logg.info(f"    {key_added!r} had converged: nothing to resume", time=clock)
                return adata.copy() if copy else None
        else:
            config = _config(model, parameterization, per_batch, source, unconstrained=unconstrained)
            run = start_run(Model.of(config), source, dict(priors or {}), _seed(rng), settings)
        result, unfinished = finished(run, key_added, adata, source)
    out = adata.copy() if copy else adata
    actual(out)
    slots = write_fit(out, result, unfinished)
    _report(logg, clock, result, slots)
    if run.training.interrupted:
        raise KeyboardInterrupt(
            "nothing is stored, since copy=True"
            if copy
            else "the fit so far is stored; go on with fit(..., resume=True)"
        )
    return out if copy else None


def _config(model: str, parameterization: str | None, per_batch, source: Source, *, unconstrained: bool) -> ModelConfig:
    parameterization = parameterization or DEFAULT_PARAMETERIZATION
    n_batches = max(len(source.batches), 1)
    if per_batch is None:
        per_batch = () if n_batches == 1 else ("r" if parameterization == "standard" else "mu",)
    per_batch = (per_batch,) if isinstance(per_batch, str) else tuple(per_batch)
    return ModelConfig(model, parameterization, unconstrained, n_batches, per_batch)


def _check_arguments(n_steps: int, n_components: int | None, priors, optimizer, loss) -> None:
    from numpyro.infer.elbo import ELBO

    if priors is not None and not isinstance(priors, dict):
        msg = f"priors is a {type(priors).__name__}: give a dict of parameter -> numpyro distribution"
        raise TypeError(msg)
    as_optimizer(optimizer)
    if loss is not None and not isinstance(loss, ELBO):
        msg = f"loss must be a numpyro ELBO such as Trace_ELBO(), not {type(loss).__name__}"
        raise TypeError(msg)
    if n_components not in (None, 1):
        msg = f"n_components={n_components}: mixtures are not part of this version, leave it None"
        raise ValueError(msg)
    if not isinstance(n_steps, int | np.integer) or n_steps < 1:
        msg = f"n_steps={n_steps!r}: give a whole number of at least 1"
        raise ValueError(msg)


def _seed(rng: int | np.random.Generator) -> int:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, int | np.integer) and rng >= 0:
        return int(rng)
    msg = f"rng={rng!r}: give a whole number of at least 0, or a numpy Generator"
    raise ValueError(msg)


def _report(logg, clock, result: Fit, slots: list[str]) -> None:
    how = result.facts["convergence"]
    if not how["converged"]:
        change = "" if how["drift"] is None else f" (last change {how['drift']:.3g} nats)"
        logg.warning(
            f"the fit {result.key!r} has not converged in {how['n_steps']} steps{change}: "
            "go on with sb.tl.fit(adata, resume=True, n_steps=...)"
        )
    if how["n_rejected"]:
        logg.warning(f"{how['n_rejected']} of {how['n_steps']} steps were not finite and were not taken")
    logg.info("    finished", time=clock, deep="added\n    " + "\n    ".join(slots))
