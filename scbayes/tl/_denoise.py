"""Counts without ambient RNA."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from scbayes.models._contamination import N_ROUNDS, find_contamination
from scbayes.models._native_counts import ROUNDINGS, divide_counts
from scbayes.state import is_latent
from scbayes.tl._denoise_arguments import PRIOR, codes_of, counts_in_memory, kinds_of, profiles_of, samples_of
from scbayes.tl._denoise_latent import denoise_latent
from scbayes.tl._denoise_slots import slots_of
from scbayes.tl._families import check_family
from scbayes.tl._storing import store

if TYPE_CHECKING:
    from anndata import AnnData

#: Arguments of a fit with a latent space, and those that such a fit has an answer to.
OF_LATENT = ("reference", "n_samples")
NEVER_LATENT = ("ambient", "prior", "sample_key", "batch_key")


def denoise(  # noqa: PLR0913
    adata: "AnnData",
    *,
    ambient: "str | np.ndarray | pd.Series | pd.DataFrame" = "sb_ambient",
    groupby: str | None = None,
    key: str | None = None,
    prior: tuple[float, float] = PRIOR,
    sample_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    reference: "AnnData | None" = None,
    n_samples: int | None = None,
    interval: float = 0.9,
    rounding: str = "ranked",
    key_added: str = "sb",
    rng: int | np.random.Generator = 0,
    progress: bool = True,
    copy: bool = False,
) -> "AnnData | None":
    r"""Share of ambient counts in each cell, with an interval, and counts without them.

    .. math::
        x_{cg} = \mathrm{native} + \mathrm{ambient}, \qquad
        \mathrm{ambient} \sim \mathrm{Poisson}(N_c\, \rho_c\, a_g), \qquad
        E[\mathrm{native}] = N_c (1 - \rho_c)\, p_{k(c)\,g}

    The profile :math:`a` is given. Cells of one group k vary in :math:`\rho_c` along the line from the group's mean to
    a: how far a cell lies along it is estimated by generalised least squares, with the native variance of each gene and
    the programmes of each kind of cells learned, so that genes that a group does not express count most. Where on that
    line :math:`\rho = 0` lies, the level of a group, is a parameter of its own: it is known from the distribution of
    :math:`\rho` (none is negative) and from genes that a group does not express, and integrated. Where it is
    not identified, the log and the result say so, and intervals are wide.

    With `key` of a fit with a latent space z, whose native and ambient means :math:`m_{cg}` and :math:`\lambda_{cg}`
    are decoded for each cell, each count is divided by its exact posterior given z: of a negative binomial and a
    Poisson number (``"nb"``, ``"zinb"``), or :math:`\mathrm{Binomial}(x, m / (m + \lambda))` (``"poisson"``, ``"b"``).
    The fit has the profile and the level, so that `ambient`, `prior`, `sample_key` and `batch_key` are not for it;
    `groupby` are the kinds within which counts are made whole. Genes that the fit left out stay as they are, and
    `removed` is NaN.

    Parameters
    ----------
    adata
        Cells x genes, after :func:`scbayes.pp.ambient_profile`.
    ambient
        The profile: its name in `varm`; or shares, ``(n_genes,)`` or ``(n_genes, n_batches)``, of which a Series or
        DataFrame is matched by name of gene, and its columns are batches.
    groupby
        Column of `obs` with kinds of cells.
    key
        A fit with components: each cell is of its most probable one. With neither, cells are grouped by clusters that
        are plainly apart. Or a fit of ``model="vae"`` with ``ambient=``, which has both shares and native expression of
        each cell, see below.
    prior
        Median of a sample's share of ambient counts, and standard deviation of its logarithm.
    sample_key
        Column of `obs`: each sample has a level of its own. None: groups differ from one common level as far as they
        show.
    batch_key
        Column of `obs` that tells which of several profiles a cell has; a profile of
        :func:`scbayes.pp.ambient_profile` knows it.
    layer
        Layer with the counts; `X` where None, or as :func:`scbayes.pp.prepare_counts` left them.
    reference
        Where the fit with a latent space is, if `adata` has other cells.
    n_samples
        Draws of the latent numbers that the division of each count is averaged over; None: at their mean.
    interval
        Probability of the interval.
    rounding
        How native counts are made whole. ``"ranked"``: of each gene, each group of cells loses as many counts as are
        expected to be ambient, those that are likeliest so. ``"stochastic"``: posterior means are rounded up or down at
        random. ``"draw"``: a draw from the posterior, of shares and counts.
    key_added
        Prefix of what is written.
    rng
        Seed or generator.
    progress
        Show a progress bar.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. It sets

    `adata.obs[key_added + "_contamination"]`, `"..._contamination_low"`, `"..._contamination_high"` : float64
        :math:`\rho` of each cell: posterior mean and ends of the interval; NaN in cells without counts.
    `adata.obs[key_added + "_denoise_group"]` : categorical
        Kind of cells that each was taken for.
    `adata.layers[key_added + "_native_probability"]` : CSR, float32
        On the non-zeros: the posterior mean of native counts is the count times it.
    `adata.layers[key_added + "_denoised"]` : CSR, dtype of the counts
        Native counts, whole, never above the observed.
    `adata.var[key_added + "_removed"]` : float64
        Share of the gene's counts that is expected to be ambient; NaN without counts.
    `adata.uns[key_added + "_denoise"]` : dict
        How it was made, and the level of each sample; `"levels"` of each group, see :func:`scbayes.get.contamination`.

    Raises
    ------
    KeyError
        If the profile, the fit, a layer or a column does not exist.
    ValueError
        If an argument is out of range, profiles do not fit genes and batches, or values are no counts.
    """
    given = dict(locals())
    from scanpy import logging as logg

    _check(prior, interval, rounding)
    latent = key is not None and is_latent(adata if reference is None else reference, key)
    check_family(given, denoise, latent=latent, only_latent=OF_LATENT, never_latent=NEVER_LATENT)
    if latent:
        return denoise_latent(adata, given)
    clock = logg.info("contamination with ambient RNA")
    profiles = profiles_of(adata, ambient, batch_key)
    batch = codes_of(adata, profiles.batch_key, profiles.batches)
    source, counts = counts_in_memory(adata, layer, batch, len(profiles.batches))
    rng = np.random.default_rng(rng)
    kinds = kinds_of(adata, counts, groupby=groupby, key=key, seed=int(rng.integers(2**31)))
    sample, names = samples_of(adata, sample_key)
    with tqdm(total=N_ROUNDS + 1, desc="denoise", disable=not progress, leave=False) as bar:
        settings = {"prior": prior, "width": interval, "rng": rng, "said": bar.update}
        found = find_contamination(counts, kinds.code, sample, profiles.value, **settings)
        share = found.drawn(sample, rng) if rounding == "draw" else found.mean
        native, whole = divide_counts(counts.x, found.groups, share, rounding=rounding, rng=rng)
        bar.update()
    samples = {}
    for s, level in found.levels.items():
        samples[names[s]] = {"level": level.mean, "level_sd": level.sd, "identified": level.identified}
    unsure = [name for name, one in samples.items() if not one["identified"]]
    if unsure:
        logg.warning(
            f"the level of contamination is not identified in {', '.join(map(repr, unsure))}: cells are in order, but "
            "all shares may be too high or too low together; a prior= would decide"
        )
    levels, batches = found.table(kinds.names, names), profiles.batches or ["all"]
    levels.insert(2, "batch", [batches[batch[group.cells[0]]] for group in found.groups])
    values = slots_of(counts.x, native, whole, found) | {
        ("obs", "denoise_group"): pd.Categorical.from_codes(kinds.code, kinds.names),
        ("uns", "levels"): levels,
    }
    if profiles.name is None:
        values["varm", "denoise_ambient"] = profiles.value
    facts = {
        "ambient": profiles.name or f"{key_added}_denoise_ambient",
        "batch_key": profiles.batch_key,
        "sample_key": sample_key,
        "layer": source.layer,
        "kinds": kinds.source,
        "prior": [float(value) for value in prior],
        "interval": float(interval),
        "rounding": rounding,
        "samples": samples,
    }
    said = f"{np.nanmean(found.mean):.1%} of the counts of a cell are ambient"
    return store(adata, "denoise", key_added, values, fit=None, facts=facts, clock=clock, copy=copy, said=said)


def _check(prior, interval, rounding) -> None:
    ok = np.shape(prior) == (2,) and all(isinstance(v, int | float | np.number) for v in prior)
    if not ok or not 0 < prior[0] < 1 or not 0 < prior[1] < np.inf:
        msg = f"prior={prior!r}: give the median share of ambient counts, within 0 and 1, and the sd of its logarithm"
        raise ValueError(msg)
    if not isinstance(interval, int | float | np.number) or not 0 < interval < 1:
        msg = f"interval={interval!r}: give a probability between 0 and 1"
        raise ValueError(msg)
    if rounding not in ROUNDINGS:
        msg = f"rounding={rounding!r}: choose one of {', '.join(map(repr, ROUNDINGS))}"
        raise ValueError(msg)
