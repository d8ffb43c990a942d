r"""Held-out density of a cell's test counts given its training counts: one definition for all models.

Each molecule goes to training with probability 0.8, else to the test (:mod:`_thinning`). With training counts u and
test counts v of one cell, component k and capture nu, and gene-wise parameters theta at their posterior mean (size r:
at its median) given all training counts,

    p(v | u, theta) = p(u, v | theta) / p(u | theta),
    p(u | theta)    = sum_k w_k int prod_g p(u_g | k, nu, theta) p(nu) dnu,
    p(u, v | theta) = sum_k w_k int prod_g p(u_g + v_g | k, nu / 0.8, theta) p(nu) dnu
                      x prod_g Binomial(v_g; u_g + v_g, 0.2).

All that is the cell's own is integrated out given its training counts: its component, its nu (Gauss-Hermite), and
the gamma rate of each gene. The latter is in the ratio: counts of both parts together are of the same family with
odds / 0.8, and for one gene

    NB(u + v; r, o / 0.8) Bin(v; u + v, 0.2) / NB(u; r, o) = NB(v; size r + u, odds o / (4 (1 + o))),

the density of v where the rate is Gamma(r + u). A gate of excess zeros, shut for both parts or open for both, stays
closed under it too. The figure is the sum of ln p(v | u) over cells, divided by the number of test molecules.
"""

import numpy as np
from _thinning import WHOLE, log_split
from scipy.special import gammaln


def of_model(model, priors: dict, parameters, train, test) -> np.ndarray:
    """Log density of each cell's test counts, ``(n_cells,)``.

    Parameters
    ----------
    model, priors
        A `scbayes.models.Model` and the prior of nu, by name.
    parameters
        `scbayes.models._parameters.Parameters` of one batch; its ``log_nu`` are ignored.
    """
    from scbayes.counts import Counts
    from scbayes.models._marginal_likelihood import marginalise

    def log_marginal(x, more: float) -> np.ndarray:
        at = parameters._replace(log_odds=parameters.log_odds + np.log(more), log_nu=np.zeros(x.shape[0]))
        return marginalise(model, priors, at, Counts(x), np.asarray(x.sum(1), float).ravel()).log_density(at)

    return log_marginal(train + test, WHOLE) - log_marginal(train, 1.0) + log_split(train, test)


def of_fit(adata, train, test, key: str = "sb") -> np.ndarray:
    """The same for a fit of ``train`` in ``adata``."""
    import scbayes as sb

    fit = sb.get.fit(adata, key)
    return of_model(fit.model, fit.priors, point(adata, key), train, test)


def point(adata, key: str = "sb"):
    """Parameters of a fit: posterior means of mu, gate and weights, the median of r."""
    import scbayes as sb
    from scbayes.models._parameters import Parameters

    found = sb.get.distributions(adata, key, backend="scipy")
    n_components = sb.get.fit(adata, key).config.n_components
    shape = (1, n_components, adata.n_vars)
    mu, r = found["mu"].mean().reshape(shape), found["r"].median().reshape(shape)
    gate = found["gate"].mean().reshape(shape) if "gate" in found else None
    weights = np.ones(1) if n_components == 1 else np.asarray(found["weights"].mean())
    return Parameters(r, np.log(mu) - np.log(r), gate, weights, np.zeros(adata.n_obs))


def of_poisson(train, test) -> np.ndarray:
    """Of Poisson counts, cell total x gene share, half a molecule added to each: what no model does worse than."""
    share = np.asarray(train.sum(0)).ravel() + 0.5
    mean = (np.asarray(train.sum(1)).ravel() + 0.5) * (WHOLE - 1)
    seen = test.tocoo()
    expected = mean[seen.row] * (share / share.sum())[seen.col]
    log_p = seen.data * np.log(expected) - gammaln(seen.data.astype(float) + 1)
    return np.bincount(seen.row, log_p, minlength=len(mean)) - mean
