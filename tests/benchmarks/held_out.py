"""Which parameterization predicts counts best: log density of held-out molecules on real data.

Every count is split by binomial thinning: each molecule goes to training with probability 0.8, else to the test, so
that test means are a quarter of training means. Models are fitted to the training counts, and each entry (cell, gene)
of the test counts is scored in two ways:

* `counts`: given all that training saw, the entry's own training count u too. The entry's rate is then Gamma(u + r_g),
  so the test count is NB(size u + r_g, odds o_cg / (4 (1 + o_cg))); a gate is shut with the probability that it is,
  given u. This is the predictive density proper, and the one to choose by.
* `parameters`: under the model's own distribution at the fitted parameters, NB(r_g, mean m_cg / 4), gated where the
  model has gates, as if the entry were new.

Figures are the sum over all entries, zeros too, divided by the number of test molecules: nats per held-out count.
Parameters are the posterior means of mu, nu, odds and gate, and the median of r. `Poisson` is the cell's total times
the gene's share, each with half a molecule added. Densities are computed in blocks of cells.
"""

import time

import numpy as np
from _common import data_file, parser, report
from scipy.special import gammaln, xlog1py, xlogy

SETS = ("kang_ifnb", "pancreas", "pbmc_facs", "neurons10k_1kgenes")
FITS = tuple(("nbvcp", p) for p in ("standard", "linked", "odds_ratio", "mean_disp"))
FITS += (("zinbvcp", "standard"), ("zinbvcp", "mean_disp"), ("zinb", "mean_disp"))
TRAIN = 0.8


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data", nargs="+", default=list(SETS), help="names in SCBAYES_DATA, or pancreas (shipped)")
    cli.add_argument("--seeds", type=int, default=1)
    cli.add_argument("--fits", nargs="+", default=[f"{m} {p}" for m, p in FITS], help='such as "nbvcp mean_disp"')
    args = cli.parse_args()
    rows = []
    for name in args.data:
        for seed in range(args.seeds):
            rows += data_set(name, seed, [tuple(fit.split()) for fit in args.fits])
    tables = {f"held_out_given_{given}": wide(rows, given) for given in ("counts", "parameters")}
    report(args, **tables, fits=rows)


def wide(rows: list[dict], given: str) -> list[dict]:
    """One row per data set and seed, one column per fit."""
    result = {}
    for row in rows:
        key = (row["data"], row["seed"])
        result.setdefault(key, {"data": row["data"], "seed": row["seed"]})[row["fit"]] = row[given]
    return list(result.values())


def data_set(name: str, seed: int, fits: list[tuple[str, str]]) -> list[dict]:
    import anndata as ad

    import scbayes as sb

    adata = sb.datasets.pancreas() if name == "pancreas" else ad.read_h5ad(data_file(name))
    train, test = thin(adata.X.tocsr(), np.random.default_rng(seed))
    rows = [{"data": name, "seed": seed, "fit": "Poisson"} | scores(train, test, poisson(train))]
    for model, parameterization in fits:
        fitted = ad.AnnData(train, obs=adata.obs[[]], var=adata.var[[]])
        start = time.perf_counter()
        sb.tl.fit(fitted, model, parameterization=parameterization, progress=False)
        row = {"data": name, "seed": seed, "fit": f"{model} {parameterization}"}
        row |= {"seconds": time.perf_counter() - start, "converged": sb.get.fit(fitted).converged}
        rows.append(row | scores(train, test, parameters(fitted)))
    return rows


def thin(x, rng: np.random.Generator):
    """Training and test counts: CSR matrices that add up to ``x``."""
    train, test = x.copy(), x.copy()
    train.data = rng.binomial(x.data.astype(np.int64), TRAIN).astype(np.float32)
    test.data = (x.data - train.data).astype(np.float32)
    for part in (train, test):
        part.eliminate_zeros()
        part.sort_indices()
    return train, test


def parameters(adata) -> dict[str, np.ndarray | None]:
    """Mean of an entry = mu_g * size_c; r_g; gate_g or None."""
    import scbayes as sb

    found = sb.get.distributions(adata, backend="scipy")
    size = found["nu"].mean() if "nu" in found else np.ones(adata.n_obs)
    gate = found["gate"].mean() if "gate" in found else None
    return {"mu": found["mu"].mean(), "size": size, "r": found["r"].median(), "gate": gate}


def poisson(train) -> dict[str, np.ndarray | None]:
    share = np.asarray(train.sum(0)).ravel() + 0.5
    return {"mu": share / share.sum(), "size": np.asarray(train.sum(1)).ravel() + 0.5, "r": None, "gate": None}


def scores(train, test, values: dict) -> dict[str, float]:
    return {given: score(train, test, values, given == "counts") for given in ("counts", "parameters")}


def score(train, test, values: dict, given_counts: bool) -> float:
    """Nats per test molecule: all entries as if both counts were zero, and the difference where one is not."""
    total, block = 0.0, max(1, 4_000_000 // train.shape[1])
    thinned = (1 - TRAIN) / TRAIN
    for first in range(0, train.shape[0], block):
        cells = slice(first, first + block)
        mean = values["size"][cells, None] * values["mu"]
        total += log_density(0.0, 0.0, mean, values["r"], values["gate"], thinned, given_counts).sum()
        seen = (train[cells] + test[cells]).tocoo()
        u, v = (np.asarray(part[cells][seen.row, seen.col], float).ravel() for part in (train, test))
        r, gate = (None if values[name] is None else values[name][seen.col] for name in ("r", "gate"))
        here = mean[seen.row, seen.col]
        for part, sign in (((u, v), 1), ((0.0, 0.0), -1)):
            total += sign * log_density(*part, here, r, gate, thinned, given_counts).sum()
    return float(total / test.sum())


def log_density(u, v, mean, r, gate, thinned: float, given_counts: bool) -> np.ndarray:
    """Log density of test counts ``v`` where training counts are ``u`` of mean ``mean``."""
    if r is None:
        return xlogy(v, mean * thinned) - mean * thinned - gammaln(v + 1)
    odds = mean / r
    if given_counts:
        later, size = thinned * odds / (1 + odds), r + u
    else:
        later, size = thinned * odds, r
    log_p = -size * np.log1p(later)
    if np.ndim(v):
        log_p = log_p + gammaln(v + size) - gammaln(size) - gammaln(v + 1) + xlogy(v, later) - xlog1py(v, later)
    if gate is None:
        return log_p
    with np.errstate(divide="ignore"):
        shut, opened = np.log(gate), np.log1p(-gate)
    if given_counts:  # a gate is known to be open where u > 0
        opened = opened - r * np.log1p(odds)
        either = np.logaddexp(shut, opened)
        shut, opened = np.where(u > 0, -np.inf, shut - either), np.where(u > 0, 0.0, opened - either)
    return np.where(v > 0, opened + log_p, np.logaddexp(shut, opened + log_p))


if __name__ == "__main__":
    main()
