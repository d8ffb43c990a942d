"""Simulation-based calibration: parameters from the priors, counts from the parameters, ranks of the parameters.

Where parameters are drawn from the very priors that a fit is given, their ranks among draws of an exact posterior are
uniform (Cook, Gelman, Rubin 2006; Talts et al. 2018), also given anything that is computed from the counts. Formulas
of the models are written out anew, in NumPy, from docs/models.md.
"""

from time import perf_counter
from typing import NamedTuple

import anndata as ad
import numpy as np
import numpyro.distributions as dist

import scbayes as sb

N_CELLS, N_GENES = 250, 60
#: Draws of each posterior: 200 places for a rank, of which 180 are the central 90%.
N_DRAWS = 199
LEVELS = (0.5, 0.9, 0.95)
#: Molecules per cell; larger than any total of a cell.
TOTAL_MRNA = 1e6
#: Mean total of a cell, and standard deviation of log mu; "overlap" has components that are hard to tell apart.
SETTINGS = {"shallow": (100, 1.0), "typical": (1000, 1.0), "deep": (10_000, 1.0), "overlap": (100, 0.3)}
#: Mean and standard deviation of log r, by parameterization.
LOG_R = {"mean_disp": (0.5, 1.0), "standard": (0.0, 1.2)}
#: Bins of the probability of a cell's component.
N_BINS = 15


class Design(NamedTuple):
    """A model in a setting: what is drawn, and what is fitted."""

    model: str
    parameterization: str
    setting: str
    n_components: int = 1
    n_cells: int = N_CELLS
    n_genes: int = N_GENES

    @property
    def capture(self) -> bool:
        return self.model.endswith("vcp")

    @property
    def gate(self) -> bool:
        return self.model.startswith("zi")

    @property
    def shared(self) -> bool:
        return self.parameterization == "standard"

    def priors(self) -> dict[str, tuple]:
        """Parameter -> two numbers: of a log-normal; of a Beta for p and gate; of a Dirichlet for weights."""
        depth, spread = SETTINGS[self.setting]
        found = {"r": LOG_R[self.parameterization]}
        if not self.shared:
            per_gene = (TOTAL_MRNA if self.capture else depth) / self.n_genes
            found["mu"] = (np.log(per_gene) - spread**2 / 2, spread)
        elif not self.capture:
            centre, width = found["r"]
            found["p"] = (20 * depth / (self.n_genes * np.exp(centre + width**2 / 2)), 20.0)
        if self.capture:
            found["nu"] = (np.log(depth / TOTAL_MRNA), 0.4)
        if self.gate:
            found["gate"] = (1.0, 9.0)
        if self.n_components > 1:
            found["weights"] = (5.0,) * self.n_components
        return found


class Truth(NamedTuple):
    """Parameters by name, shaped as in a draw of a fit without its axis of batches, and each cell's component."""

    sites: dict[str, np.ndarray]
    component: np.ndarray


def draw(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Parameters from the priors, and dense counts ``(n_cells, n_genes)``."""
    priors, k = design.priors(), design.n_components
    genes = (k, design.n_genes)
    weights = rng.dirichlet(priors["weights"]) if k > 1 else np.ones(1)
    z = rng.choice(k, design.n_cells, p=weights)
    r = np.exp(rng.normal(*priors["r"], genes))
    nu = np.exp(rng.normal(*priors["nu"], design.n_cells)) if design.capture else np.ones(design.n_cells)
    if "mu" in priors:
        mu = np.exp(rng.normal(*priors["mu"], genes))
        odds = mu / r
    elif design.capture:
        odds = np.broadcast_to(TOTAL_MRNA / r.sum(1, keepdims=True), genes)
    else:
        p = rng.beta(*priors["p"])
        odds = np.full(genes, p / (1 - p))
    mu = r * odds
    counts = rng.poisson(rng.gamma(r[z]) * odds[z] * nu[:, None])
    sites = {"r": r, "mu": mu, "composition": mu / mu.sum(1, keepdims=True), "nu": nu, "weights": weights}
    if design.gate:
        sites["gate"] = rng.beta(*priors["gate"], genes)
        counts = counts * (rng.random(counts.shape) >= sites["gate"][z])
    return counts, Truth(sites, z)


def as_distributions(priors: dict[str, tuple]) -> dict:
    """Priors as a fit is given them."""
    kind = {"p": dist.Beta, "gate": dist.Beta, "weights": lambda *values: dist.Dirichlet(np.array(values))}
    return {site: kind.get(site, dist.LogNormal)(*values) for site, values in priors.items()}


def fitted(design: Design, counts: np.ndarray, seed: int) -> ad.AnnData:
    adata = ad.AnnData(counts.astype(np.float32))
    priors = as_distributions(design.priors()) | ({"total_mrna": TOTAL_MRNA} if design.capture else {})
    sb.tl.fit(
        adata,
        design.model,
        parameterization=design.parameterization,
        n_components=design.n_components if design.n_components > 1 else None,
        priors=priors,
        rng=seed,
        progress=False,
    )
    return adata


def functionals(design: Design, sites: dict[str, np.ndarray], z: np.ndarray) -> dict[str, np.ndarray]:
    """What users read and data identify; genes ``(K, G)``, cells ``(C,)``, scalars ``()``.

    With capture, mu and nu move together with the total mRNA, which no count tells: they are left out, and what data
    tell of them are the composition and the total that a cell is expected to have (without excess zeros).
    """
    found = {name: sites[name] for name in ("r", "composition", "gate") if name in sites}
    total = sites["mu"].sum(-1)  # (K,)
    if design.capture:
        found["cell total"] = sites["nu"] * total[z]
        found["mean total"] = np.exp(np.mean(np.log(found["cell total"])))
    else:
        found["mu"] = sites["mu"]
        found["mean total"] = total[0]
    if design.shared:  # sum r: what couples the genes; odds: total / sum r
        found["sum r"] = sites["r"].sum(-1)[0]
        odds = (sites["mu"] / sites["r"])[:, 0]
        found["odds"] = sites["nu"] * odds[z] if design.capture else odds[0]
    if design.n_components > 1:
        found["weights"] = sites["weights"][0]
    return found


class Simulation(NamedTuple):
    """One data set and draws from the posterior of its fit: logs of functionals, draws first."""

    design: Design
    counts: np.ndarray
    truth: Truth
    adata: ad.AnnData
    order: np.ndarray | None
    draws: dict[str, np.ndarray]
    seconds: float


def simulate(design: Design, seed: int) -> Simulation:
    """Draw a data set and fit it."""
    rng = np.random.default_rng([seed, *"/".join(map(str, design)).encode()])
    counts, truth = draw(design, rng)
    start = perf_counter()
    adata = fitted(design, counts, seed)
    seconds = perf_counter() - start
    fit = sb.get.fit(adata)
    order = _matched(fit, truth)
    drawn = [functionals(design, _like_truth(one.sites, order), truth.component) for one in fit.draws(N_DRAWS, rng)]
    draws = {name: np.log([one[name] for one in drawn]) for name in drawn[0]}
    return Simulation(design, counts, truth, adata, order, draws, seconds)


def judge(simulation: Simulation, shrink: float = 1.0) -> dict:
    """Ranks, intervals that hold the truth, and probabilities of components, as plain values.

    Parameters
    ----------
    shrink
        Draws are moved towards their mean by this factor, on the log scale: wrong posteriors must be found.
    """
    design, counts, truth, adata, order, draws, seconds = simulation
    rng = np.random.default_rng(int(counts.sum()))
    fit, marginals = sb.get.fit(adata), sb.get.distributions(adata, backend="scipy")
    groups = {"gene": _thirds(counts.sum(0)), "cell": _thirds(counts.sum(1))}
    ranks, held, intervals = {}, {}, {}
    for name, value in functionals(design, truth.sites, truth.component).items():
        drawn = draws[name].mean(0) + shrink * (draws[name] - draws[name].mean(0))
        rank = np.sum(drawn < np.log(value), 0)
        within = _within((rank + 0.5) / (N_DRAWS + 1))
        ranks[name], held[name] = {}, {}
        for stratum, chosen in _strata(np.shape(value), groups).items():
            ranks[name][stratum] = int(rng.choice(rank[chosen].ravel()))
            held[name][stratum] = [int(rank[chosen].size), *[int(x[chosen].sum()) for x in within]]
        if name in marginals:
            inside = _within(_place(marginals[name], name, value, truth, order))
            intervals[name] = [int(np.size(value)), *[int(x.sum()) for x in inside]]
    found = {"seconds": seconds, "converged": fit.converged, "ranks": ranks, "held": held, "intervals": intervals}
    if order is not None:
        found["assignment"] = _assignment(fit.posterior.responsibilities[:, order], truth.component, rng)
        ranks["assignment"] = {"all": found["assignment"].pop("rank")}
    return found


def _place(marginal, name: str, value: np.ndarray, truth: Truth, order: np.ndarray | None) -> np.ndarray:
    """Place of the truth in the posterior that `get.distributions` gives, 0 to 1."""
    if order is None:
        return marginal.cdf(value)
    back = np.argsort(order)
    return marginal.cdf(truth.sites["weights"][back])[order[0]] if name == "weights" else marginal.cdf(value[back])


def _like_truth(sites: dict, order: np.ndarray | None) -> dict:
    """Sites of a draw with axes (components, genes), components in the order of the truth; nu of ones if absent."""
    found = {}
    for name, value in sites.items():
        if name in ("r", "mu", "composition", "gate"):
            value = np.asarray(value)[0]
            found[name] = value[None] if order is None else value[order]
        elif name == "weights":
            found[name] = value[order]
        elif name == "nu":
            found[name] = value
    return {"nu": np.ones(1)} | found


def _matched(fit, truth: Truth) -> np.ndarray | None:
    """Component of the fit that each true component is: those that share most cells."""
    if not fit.config.mixture:
        return None
    from scipy.optimize import linear_sum_assignment

    shared = np.eye(len(truth.sites["weights"]))[truth.component].T @ fit.posterior.responsibilities
    return linear_sum_assignment(-shared)[1]


def _thirds(total: np.ndarray) -> np.ndarray:
    """Low, middle or high third by observed total, 0 to 2."""
    return np.argsort(np.argsort(total, kind="stable")) * 3 // len(total)


def _strata(shape: tuple[int, ...], groups: dict[str, np.ndarray]) -> dict[str, object]:
    if not shape:
        return {"all": ...}
    third = groups["gene"] if len(shape) == 2 else groups["cell"]
    chosen = {name: third == i for i, name in enumerate(("low", "middle", "high"))}
    return {name: (slice(None), mask) if len(shape) == 2 else mask for name, mask in chosen.items()}


def _within(u: np.ndarray) -> list[np.ndarray]:
    """Whether the central interval of each level holds the truth, whose place in the posterior is ``u``."""
    return [np.abs(np.asarray(u) - 0.5) < level / 2 for level in LEVELS]


def _assignment(p: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> dict:
    """Calls in bins of their probability: number, sum of probabilities, right ones; and the rank of one cell's z."""
    best = p.argmax(1)
    confidence, right = p.max(1), best == z
    place = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    bins = [np.bincount(place, w, N_BINS).tolist() for w in (np.ones(len(z)), confidence, right)]
    c = int(rng.integers(len(z)))  # u uniform between the two sums of probabilities that enclose z
    u = p[c, : z[c]].sum() + rng.random() * p[c, z[c]]
    return {"bins": bins, "rank": min(int(u * (N_DRAWS + 1)), N_DRAWS)}
