"""What can be known of ambient counts by someone who knows all but the counts' parts.

A count is x = native + ambient, native ~ NB(mean (1 - rho) N p, size s), ambient ~ Poisson(rho N a): a Delaporte
distribution P. The oracle knows the profiles p of types in batches, the sizes s and the soup a; N is the cell's total.

    E[ambient | x] = lambda P(x - 1) / P(x)            lambda = rho N a, with the true share rho
    p(rho | x) proportional to Beta(rho) prod_g P(x_g)  over a grid, for what can be known of rho

It knows no programmes within types, so that where these are strong its p(rho | x) is too sure, and may be wrong.

Integers are drawn from Binomial(x, E[native | x] / x) or ranked: the likeliest ambient ones of all molecules of a gene
in a group and batch are taken out, as many as are expected there.
"""

import numba
import numpy as np
from scipy import sparse
from scipy.interpolate import CubicSpline
from scipy.special import gammaln
from scipy.stats import beta as beta_distribution

#: Shares at which likelihoods are computed, and between which they are interpolated.
NODES = 1 / (1 + np.exp(-np.linspace(-7.5, 1.5, 40)))
FINE = 1 / (1 + np.exp(-np.linspace(-7.5, 1.5, 1500)))


@numba.njit(inline="always")
def delaporte_terms(x, ambient, native, size, log_factor, terms):
    """Terms k = 0 .. x of P(x), Poisson(k) NB(x - k), up to the factor in the returned logarithm; and their sum.

    `log_factor` is ln Gamma(x + size) - ln Gamma(size) - ln x!.
    """
    if native <= 0.0 or ambient <= 0.0:
        for k in range(x + 1):
            terms[k] = 0.0
        terms[x if native <= 0.0 else 0] = 1.0
        return 1.0
    odds = (native + size) / native
    total = terms[0] = 1.0
    for k in range(x):
        terms[k + 1] = terms[k] * ambient / (k + 1.0) * (x - k) / (x - k - 1.0 + size) * odds
        total += terms[k + 1]
        if total > 1e200:
            for j in range(k + 2):
                terms[j] *= 1e-200
            total *= 1e-200
    return total


@numba.njit
def log_delaporte(x, ambient, native, size, log_factor):
    """Log P(x) for x > 0."""
    if native <= 1e-12:
        return x * np.log(max(ambient, 1e-300)) - ambient - log_gamma(x + 1.0)
    log_first = log_factor + x * np.log(native / (native + size)) - size * np.log1p(native / size) - ambient
    odds = (native + size) / native
    term = total = 1.0
    log_scale = 0.0
    for k in range(x):
        term *= ambient / (k + 1.0) * (x - k) / (x - k - 1.0 + size) * odds
        total += term
        if total > 1e200:
            term *= 1e-200
            total *= 1e-200
            log_scale += 200 * np.log(10.0)
        if term < 1e-17 * total and k > ambient:
            break
    return log_first + np.log(total) + log_scale


@numba.njit
def log_gamma(x):
    shift = 0.0
    while x < 8:
        shift -= np.log(x)
        x += 1
    return shift + (x - 0.5) * np.log(x) - x + 0.9189385332046727 + 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)


@numba.njit
def _means(indptr, indices, data, factor, ambient, native, size, soup, of_soup, profile, of_profile):  # noqa: PLR0917
    """E[native | x] of each count, and P(ambient >= k | x) of its molecules k = 1 .. x."""
    start = np.concatenate((np.zeros(1, np.int64), np.cumsum(data)))
    mean, unit = np.zeros(len(data)), np.zeros(start[-1])
    terms = np.zeros(data.max() + 2)
    for c in range(len(indptr) - 1):
        for i in range(indptr[c], indptr[c + 1]):
            g, x = indices[i], data[i]
            lam, mu = ambient[c] * soup[g, of_soup[c]], native[c] * profile[g, of_profile[c]]
            total = delaporte_terms(x, lam, mu, size[g], factor[i], terms)
            above = 0.0
            for k in range(x, 0, -1):
                above += terms[k] / total
                unit[start[i] + k - 1] = above
                mean[i] += above
            mean[i] = x - mean[i]
    return mean, unit


@numba.njit
def _log_likelihood(indptr, indices, data, factor, total, nodes, size, soup, of_soup, profile, of_profile):  # noqa: PLR0917
    result = np.zeros((len(indptr) - 1, len(nodes)))
    n_genes = len(size)
    for c in range(len(indptr) - 1):
        a, p = soup[of_soup[c]], profile[of_profile[c]]
        for j in range(len(nodes)):
            ambient, native, s = nodes[j] * total[c], (1 - nodes[j]) * total[c], 0.0
            for g in range(n_genes):  # as if all were zero
                s -= size[g] * np.log1p(native * p[g] / size[g]) + ambient * a[g]
            for i in range(indptr[c], indptr[c + 1]):
                g = indices[i]
                mu, lam = native * p[g], ambient * a[g]
                s += log_delaporte(data[i], lam, mu, size[g], factor[i]) + size[g] * np.log1p(mu / size[g]) + lam
            result[c, j] = s
    return result


def knowing(cells) -> tuple:
    """Counts, sizes, soups and profiles of ``cells`` (see _ambient_data.py), as the functions above take them."""
    x = sparse.csr_matrix(cells.X)
    x.sort_indices()
    data, size = x.data.astype(np.int64), cells.var["size"].to_numpy(np.float64)
    factor = gammaln(data + size[x.indices]) - gammaln(size[x.indices]) - gammaln(data + 1.0)
    soup, profile = cells.varm["profile"], cells.varm["native_profile"]
    batch = cells.obs["batch"].cat.codes.to_numpy(np.int64)
    place = cells.obs["group"].cat.codes.to_numpy(np.int64) * soup.shape[1] + batch
    total = np.asarray(x.sum(1), np.float64).ravel()
    return x, (x.indptr, x.indices, data, factor), total, size, soup, batch, profile, place


def native_mean(cells, rho: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Posterior mean of the native counts given each cell's rho, and P(ambient) of each molecule."""
    x, counts, total, size, soup, batch, profile, place = knowing(cells)
    mean, unit = _means(*counts, rho * total, (1 - rho) * total, size, soup, batch, profile, place)
    return sparse.csr_matrix((mean, x.indices, x.indptr), shape=x.shape), unit


def ranked(cells, mean: sparse.csr_matrix, unit: np.ndarray) -> sparse.csr_matrix:
    """Integers: of the molecules of a gene in a group and batch, the likeliest ambient ones are taken out."""
    x, (_, _, data, _), _, _, _, _, _, place = knowing(cells)
    n_places = place.max() + 1
    cell = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    bin_of = x.indices.astype(np.int64) * n_places + place[cell]
    expected = np.round(np.bincount(bin_of, data - mean.data, minlength=n_places * x.shape[1])).astype(np.int64)
    entry = np.repeat(np.arange(len(data)), data)
    order = np.lexsort((-unit, bin_of[entry]))
    bins = bin_of[entry][order]
    first = np.searchsorted(bins, np.arange(len(expected)))
    taken = order[np.arange(len(bins)) - first[bins] < expected[bins]]
    removed = np.bincount(entry[taken], minlength=len(data))
    return sparse.csr_matrix(((data - removed).astype(np.float64), x.indices, x.indptr), shape=x.shape)


def posterior_of_rho(cells) -> dict[str, np.ndarray]:
    """Posterior mean and ends of the 90% interval of each cell's rho."""
    _, counts, total, size, soup, batch, profile, place = knowing(cells)
    of_cells = [np.ascontiguousarray(part.T) for part in (soup, profile)]
    found = _log_likelihood(*counts, total, NODES, size, of_cells[0], batch, of_cells[1], place)
    a, b = cells.uns["prior"]
    log_odds = np.log(FINE / (1 - FINE))  # the grid is even in these: density times rho (1 - rho)
    prior = beta_distribution(a, b).logpdf(FINE) + np.log(FINE * (1 - FINE))
    log_post = CubicSpline(np.log(NODES / (1 - NODES)), found, axis=1)(log_odds) + prior
    weight = np.exp(log_post - log_post.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    below = np.cumsum(weight, 1)
    low, high = (FINE[np.minimum((below < q).sum(1), len(FINE) - 1)] for q in (0.05, 0.95))
    return {"rho": weight @ FINE, "low": low, "high": high}
