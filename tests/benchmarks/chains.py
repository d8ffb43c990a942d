"""Does the default posterior agree with long Markov chains, and what do chains on all counts cost?

* `agreement`: the most abundant genes of the shipped pancreas, `sb.tl.fit` by its default and by `method="nuts"` on the
  same counts. By parameter: the range that holds 95% of the ratios of standard deviations (fit over chains) and of the
  differences of means in standard deviations of the chains, all on the log scale, and the least effective sample size.
  Their own errors are about 1 / sqrt(2 ESS) and 1 / sqrt(ESS).
* `all of kang_ifnb`: 1,000 draws of two chains on all 13,999 x 14,053 counts, from a cold start; beside it the time
  that as many gradients of the dense program would take, from its gradient on 1,500 genes (float32) in proportion.
"""

import time

import numpy as np
from _common import data_file, parser, report


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--genes", type=int, default=500, help="of the pancreas (%(default)s)")
    cli.add_argument("--draws", type=int, default=3000, help="on the pancreas (%(default)s)")
    cli.add_argument("--parameterization", default="standard")
    cli.add_argument("--only", choices=["agreement", "kang"])
    args = cli.parse_args()
    tables = {}
    if args.only != "kang":
        tables["agreement"] = agreement(args.genes, args.draws, args.parameterization)
    if args.only != "agreement":
        tables["all_of_kang_ifnb"] = [kang()]
    report(args, **tables)


def agreement(n_genes: int, n_draws: int, parameterization: str) -> list[dict]:
    from numpyro.diagnostics import effective_sample_size

    import scbayes as sb

    adata = sb.datasets.pancreas()
    most = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:n_genes]
    adata = adata[:, np.sort(most)].copy()
    how = {"model": "nbvcp", "parameterization": parameterization, "progress": False}
    start = time.perf_counter()
    sb.tl.fit(adata, key_added="fit", **how)
    seconds = [time.perf_counter() - start]
    sb.tl.fit(adata, key_added="chains", method="nuts", n_samples=n_draws, **how)
    seconds.append(time.perf_counter() - start - seconds[0])
    fit, chains = sb.get.fit(adata, "fit"), sb.get.samples(adata, "chains")
    rows = []
    for name, values in functionals(chains, parameterization).items():
        mean, sd = values.mean(0), values.std(0, ddof=1)
        marginal = fit.canonical[name]
        ratio, shift = marginal.scale.ravel() / sd, (marginal.loc.ravel() - mean) / sd
        ess = effective_sample_size(values.reshape(2, -1, values.shape[1]))
        found = {
            f"{what} {q}": float(np.quantile(x, q))
            for what, x in (("sd", ratio), ("mean", shift))
            for q in (0.025, 0.975)
        }
        rows.append({"log of": name, "n": values.shape[1]} | found | {"least ESS": float(ess.min())})
    rows.append({"log of": "seconds, fit and chains", "sd 0.025": seconds[0], "sd 0.975": seconds[1]})
    return rows


def functionals(draws: dict, parameterization: str) -> dict[str, np.ndarray]:
    """Logs of r, composition and, where genes share them, odds of cells (up to a constant: the total mRNA)."""
    found = {"r": np.log(draws["r"]), "composition": np.log(draws["mu"] / draws["mu"].sum(1, keepdims=True))}
    if parameterization != "mean_disp":
        found["odds"] = np.log(draws["nu"] * (draws["mu"] / draws["r"])[:, :1])
    return found


def kang() -> dict:
    import anndata as ad

    import scbayes as sb

    adata = ad.read_h5ad(data_file("kang_ifnb"))
    start = time.perf_counter()
    sb.tl.fit(adata, "nbvcp", parameterization="standard", method="nuts", n_samples=1000, progress=False)
    seconds = time.perf_counter() - start
    mcmc = sb.get.fit(adata).facts["mcmc"]
    scalars = {name: of for name, of in mcmc["agreement"].items() if name not in ("gene", "cell")}
    n_gradients = mcmc["n_gradients"] * (1000 + mcmc["n_chains"] * mcmc["n_warmup"])
    return {
        "seconds": seconds,
        "gradients per draw": mcmc["n_gradients"],
        "diverged": mcmc["n_divergent"],
        "R-hat of scalars": max(of["r_hat"] for of in scalars.values()),
        "least ESS of scalars": min(of["ess"] for of in scalars.values()),
        "R-hat, 99% of genes": mcmc["agreement"]["gene"]["r_hat_q99"],
        "typical ESS of genes": mcmc["agreement"]["gene"]["ess_median"],
        "dense gradient s": (dense := dense_gradient(adata)),
        "dense chains, days": dense * n_gradients / 86400,
    }


def dense_gradient(adata, n_genes: int = 1500) -> float:
    """Seconds of a gradient of the dense program over all genes, in proportion from some."""
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist

    u = jnp.asarray(adata.X[:, :n_genes].toarray(), jnp.float32)

    def energy(z):
        log_r, log_odds = z
        logits = jnp.broadcast_to(log_odds[:, None], u.shape)
        return -dist.NegativeBinomialLogits(jnp.exp(log_r), logits).log_prob(u).sum()

    gradient = jax.jit(jax.grad(energy))
    at = jnp.full(n_genes, -2.0), jnp.full(u.shape[0], -1.0)
    jax.block_until_ready(gradient(at))
    start = time.perf_counter()
    for _ in range(3):
        jax.block_until_ready(gradient(at))
    return (time.perf_counter() - start) / 3 * adata.n_vars / n_genes


if __name__ == "__main__":
    main()
