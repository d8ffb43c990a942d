"""Posterior distributions as objects of NumPyro or SciPy."""

from typing import TYPE_CHECKING

import numpy as np

from scbayes.state import Marginal, read_fit

if TYPE_CHECKING:
    from anndata import AnnData

BACKENDS = ("numpyro", "scipy")


def distributions(
    adata: "AnnData", key: str = "sb", *, backend: str = "numpyro", split: bool = False, canonical: bool = True
) -> dict[str, object]:
    """Posterior distribution of each parameter on its own.

    Positive parameters are log-normal, gates Beta-distributed and other probabilities logit-normal (gates, too, where
    priors are on the logit scale).

    Parameters
    ----------
    adata
        Cells x genes, with a fit.
    key
        The fit to read.
    backend
        ``"numpyro"``: ``LogNormal``, ``Beta``, or a ``TransformedDistribution`` of ``Normal``. ``"scipy"``: frozen
        ``scipy.stats.lognorm`` or ``scipy.stats.beta``, or a frozen logit-normal with the same methods.
    split
        Lists of scalar distributions instead of one distribution of arrays (nested, batches first, for parameters
        that each batch has its own of).
    canonical
        Also p, r, mu, odds and composition where they follow from what was sampled.

    Returns
    -------
    dict
        Parameter -> distribution, of shape ``(n_genes,)``, ``(n_cells,)`` or ``()``, with a first axis of batches for
        parameters that each batch has its own of; or lists of them. Genes that were pooled are left out. In mixtures,
        genes have an axis of components before them, and each of the weights a Beta distribution, ``(n_components,)``.

    Raises
    ------
    KeyError, ValueError
        As :func:`scbayes.get.fit`; ValueError for an unknown `backend`.
    """
    if backend not in BACKENDS:
        msg = f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}"
        raise ValueError(msg)
    fit = read_fit(adata, key)
    make = _numpyro if backend == "numpyro" else _scipy
    result = {}
    for name, marginal in (fit.canonical if canonical else fit.sampled_parameters).items():
        loc, scale = fit.squeeze(name, marginal.loc), fit.squeeze(name, marginal.scale)
        result[name] = _split(make, marginal, loc, scale) if split and loc.ndim else make(marginal, loc, scale)
    if fit.config.mixture:
        own = fit.posterior.weights
        others = own.sum() - own
        beta = _beta(backend)
        result["weights"] = [beta(a, b) for a, b in zip(own, others, strict=True)] if split else beta(own, others)
    return result


def _beta(backend: str):
    """The Beta distribution: what one of the weights of a Dirichlet distribution follows."""
    if backend == "numpyro":
        import numpyro.distributions as dist

        return dist.Beta
    from scipy import stats

    return stats.beta


def _split(make, marginal: Marginal, loc: np.ndarray, scale: np.ndarray) -> list:
    if loc.ndim == 0:
        return make(marginal, loc, scale)
    return [_split(make, marginal, a, b) for a, b in zip(loc, scale, strict=True)]


def _numpyro(marginal: Marginal, loc: np.ndarray, scale: np.ndarray):
    import numpyro.distributions as dist

    if marginal.link == "beta":
        return dist.Beta(*marginal._replace(loc=loc, scale=scale).concentrations)
    if marginal.link == "log":
        return dist.LogNormal(loc, scale)
    return dist.TransformedDistribution(dist.Normal(loc, scale), dist.transforms.SigmoidTransform())


def _scipy(marginal: Marginal, loc: np.ndarray, scale: np.ndarray):
    from scipy import stats

    if marginal.link == "beta":
        return stats.beta(*marginal._replace(loc=loc, scale=scale).concentrations)
    if marginal.link == "log":
        return stats.lognorm(s=scale, scale=np.exp(loc))
    return _logit_normal()(loc, scale)


def _logit_normal():
    from scipy import stats
    from scipy.special import expit, logit

    class LogitNormal(stats.rv_continuous):
        """``expit(z)`` with ``z ~ N(m, s)``: a SciPy distribution with shapes m and s on (0, 1)."""

        def _argcheck(self, m, s):
            return np.isfinite(m) & (s > 0)

        def _logpdf(self, x, m, s):
            inside = (x > 0) & (x < 1)
            x = np.where(inside, x, 0.5)
            return np.where(inside, stats.norm.logpdf(logit(x), m, s) - np.log(x) - np.log1p(-x), -np.inf)

        def _pdf(self, x, m, s):
            return np.exp(self._logpdf(x, m, s))

        def _cdf(self, x, m, s):
            return stats.norm.cdf(logit(x), m, s)

        def _sf(self, x, m, s):
            return stats.norm.sf(logit(x), m, s)

        def _ppf(self, q, m, s):
            return expit(stats.norm.ppf(q, m, s))

        def _rvs(self, m, s, size=None, random_state=None):
            return expit(random_state.normal(m, s, size))

        def _stats(self, m, s):
            x, weight = np.polynomial.hermite_e.hermegauss(32)
            value = expit(np.asarray(m)[..., None] + np.asarray(s)[..., None] * x)
            mean = (value * weight).sum(-1) / weight.sum()
            return mean, (value**2 * weight).sum(-1) / weight.sum() - mean**2, None, None

    return LogitNormal(a=0, b=1, name="logitnormal", shapes="m, s")
