"""Posterior of our fit against dense stochastic variational inference of 50,000 steps, by their ELBO.

500 cells x 300 genes simulated as in recovery.py. Both posteriors are of one family (`Model.sample_posterior`: normal
on log and logit coordinates, genes coupled by one factor in `standard`; the dense one has every entry of its loadings
free, ours only their scale) and are scored by the same draws of the dense program with the priors of our fit, in
float64. The dense run is numpyro.infer.SVI with Trace_ELBO and Adam, from the centre of the priors with scales of 0.1,
in float32; its step size stays for 40% of the steps, then falls a thousandfold.
"""

import time

import numpy as np
from _common import cast, parser, report


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--parameterizations", nargs="+", default=["standard", "mean_disp"])
    cli.add_argument("--model", default="nbvcp")
    cli.add_argument("--truth", default="standard", help="parameterization that the counts are simulated from")
    cli.add_argument("--cells", type=int, default=500)
    cli.add_argument("--genes", type=int, default=300)
    cli.add_argument("--steps", type=int, default=50_000)
    cli.add_argument("--step-sizes", type=float, nargs="+", default=[0.01, 0.003])
    cli.add_argument("--draws", type=int, default=1000)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    rows = []
    for parameterization in args.parameterizations:
        rows += compare(args, parameterization)
    report(args, elbo=rows)


def compare(args, parameterization: str) -> list[dict]:
    """Rows of our fit and of each dense run; differences are ours minus theirs, with their Monte Carlo error."""
    import jax
    import jax.numpy as jnp

    import scbayes as sb
    from scbayes.models._model import Inputs

    shape = {"n_cells": args.cells, "n_genes": args.genes}
    adata = sb.datasets.simulate(args.model, **shape, parameterization=args.truth, rng=args.seed)
    start = time.perf_counter()
    sb.tl.fit(adata, args.model, parameterization=parameterization, progress=False)
    seconds = time.perf_counter() - start
    fit = sb.get.fit(adata)
    dense = adata.X.todense()
    with jax.enable_x64(True):
        posterior = jax.tree.map(jnp.asarray, fit.posterior)
        log_mrna = jnp.log(fit.facts["total_mrna"]["median"])
        inputs = Inputs(jnp.asarray(dense, float), fit.priors, log_mrna, jnp.asarray(fit.batch), posterior)
        ours = score(fit.model, posterior, inputs, args)
    name = {"model": f"{args.model} {parameterization}"}
    rows = [
        name | {"posterior": "sb.tl.fit", "steps": len(fit.losses), "seconds": seconds} | mean_and_error(ours),
    ]
    for size in args.step_sizes:
        start = time.perf_counter()
        reached = dense_svi(fit.model, inputs, size, args)
        seconds = time.perf_counter() - start
        with jax.enable_x64(True):
            theirs = score(fit.model, reached, inputs, args)
        row = name | {"posterior": f"dense SVI, step {size:g}", "steps": args.steps, "seconds": seconds}
        row |= mean_and_error(theirs)
        apart = mean_and_error(ours - theirs)  # the same keys drew both
        rows.append(row | {"ours - dense": apart["elbo"], "its error": apart["error"]})
    return rows


def mean_and_error(value: np.ndarray) -> dict[str, float]:
    return {"elbo": float(value.mean()), "error": float(value.std(ddof=1) / len(value) ** 0.5)}


def score(model, posterior, inputs, args) -> np.ndarray:
    """Log density of the dense program minus that of the posterior at each of its draws."""
    import jax
    from numpyro.handlers import seed, substitute, trace
    from numpyro.infer.util import log_density

    @jax.jit
    def run(keys, posterior, inputs):
        def one(key):
            def guide():
                return model.sample_posterior(posterior, inputs)

            drawn = trace(seed(guide, key)).get_trace()
            values = {name: site["value"] for name, site in drawn.items() if site["type"] == "sample"}
            log_q = sum(site["fn"].log_prob(site["value"]).sum() for site in drawn.values() if site["type"] == "sample")
            seen = {site: values[site] for site in model.config.sites}
            log_p, _ = log_density(substitute(model.program, data=seen), (inputs,), {}, seen)
            return log_p - log_q

        return jax.lax.map(one, keys)

    return np.asarray(run(jax.random.split(jax.random.key(args.seed + 1), args.draws), posterior, inputs))


def dense_svi(model, inputs, step_size: float, args):
    """Posterior that NumPyro finds from a start that knows nothing of the data."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import optax
    from numpyro.infer import SVI, Trace_ELBO

    single = cast(inputs, np.float32)
    shape = single.start
    centre = {site: float(centre_of(model, site, inputs.priors)) for site in model.config.sites}
    gene = jnp.asarray([centre[site] for site, _ in model.columns], jnp.float32)
    positive = numpyro.distributions.constraints.positive
    start = shape._replace(
        gene_loc=jnp.tile(gene, (shape.gene_loc.shape[0], 1)),
        gene_tril=jnp.tile(jnp.log(0.1) * jnp.eye(len(gene)), (shape.gene_loc.shape[0], 1, 1)),
        gene_factor=jnp.full_like(shape.gene_factor, 0.01),
        global_loc=jnp.asarray([centre[site] for site in model.config.global_sites], jnp.float32),
        cell_loc=jnp.full_like(shape.cell_loc, centre.get("nu", 0.0)),
    )

    def guide(inputs):
        param = {name: numpyro.param(name, getattr(start, name)) for name in ("gene_loc", "gene_factor", "global_loc")}
        param["cell_loc"] = numpyro.param("cell_loc", start.cell_loc)
        for name in ("global_scale", "cell_scale"):
            value = jnp.full_like(getattr(start, name), 0.1)
            param[name] = numpyro.param(name, value, constraint=positive) if value.size else value
        raw = numpyro.param("gene_tril", start.gene_tril)
        diagonal = jnp.exp(jnp.diagonal(raw, axis1=1, axis2=2))[:, :, None] * jnp.eye(len(gene))
        posterior = type(start)(**param, gene_tril=jnp.tril(raw, -1) + diagonal)
        model.sample_posterior(posterior, inputs)
        return posterior

    hold = int(0.4 * args.steps)
    rate = optax.exponential_decay(step_size, args.steps - hold, 1e-3, transition_begin=hold)
    svi = SVI(model.program, guide, optax.adam(rate), Trace_ELBO())
    state = svi.init(jax.random.key(args.seed), single)
    state = jax.jit(lambda s: jax.lax.fori_loop(0, args.steps, lambda _, s: svi.update(s, single)[0], s))(state)
    found = svi.get_params(state)
    reached = numpyro.handlers.substitute(numpyro.handlers.seed(guide, 0), data=found)(single)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), reached)


def centre_of(model, site: str, priors):
    """Median of a prior on the log or logit scale, from draws."""
    import jax
    import jax.numpy as jnp

    draws = priors[site].sample(jax.random.key(0), (1001,))
    return jnp.median(draws if model.config.unconstrained else model.transform(site, priors).inv(draws))


if __name__ == "__main__":
    main()
