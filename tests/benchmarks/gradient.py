"""One gradient of the log density in all parameters: on the summary, and by the dense NumPyro program.

The same program (`Model.program`: priors and likelihood) on the same cells and genes, compiled, median of repeats in
the same process. The summary is evaluated in float64, as `sb.tl.fit` does; the dense program in float32 (cheaper:
ratios are given for it) and in float64 (values and gradients are compared with it, away from the maximum).
Gradients are compared in units of 1 / posterior sd: the change of log density along one sd, in nats.
"""

import time

import numpy as np
from _common import cast, data_file, parser, report

CASES = {
    "nbvcp standard": ("nbvcp", "standard"),
    "nbvcp mean_disp": ("nbvcp", "mean_disp"),
    "zinbvcp mean_disp": ("zinbvcp", "mean_disp"),
}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data", default="kang_ifnb")
    cli.add_argument("--cells", type=int, default=0, help="0: all")
    cli.add_argument("--genes", type=int, default=1500, help="spread over those expressed; 0: all")
    cli.add_argument("--seconds", type=float, default=10, help="time given to the repeats of each evaluation")
    cli.add_argument("--summary-only", action="store_true", help="for data too large for the dense program")
    args = cli.parse_args()
    import jax

    x = block(args)
    with jax.enable_x64(True):
        rows = [compare(name, *CASES[name], x, args) for name in CASES]
    report(args, **{f"gradient_of_{x.shape[0]}_cells_x_{x.shape[1]}_genes": rows})


def block(args):
    """Counts of some cells and genes: those expressed, in the file's order, evenly spaced."""
    import anndata as ad

    x = ad.read_h5ad(data_file(args.data)).X.tocsr()
    x = x[: args.cells or None]
    x = x[:, np.asarray((x > 0).sum(0)).ravel() >= 3]
    genes = np.unique(np.linspace(0, x.shape[1] - 1, args.genes or x.shape[1]).astype(int))
    return x[:, genes].tocsr()


def compare(name: str, model: str, parameterization: str, x, args) -> dict:
    import jax.numpy as jnp

    inputs, z, sd = setting(model, parameterization, x)
    function = log_density(model, parameterization, inputs)
    result = {"model": name, "parameters": sum(value.size for value in z.values())}
    seconds, (value, gradient) = timed(function, z, inputs.counts, args.seconds)
    result["summary ms"] = 1e3 * seconds
    if args.summary_only:
        return result
    dense = np.asarray(x.todense())
    for dtype in (jnp.float32, jnp.float64):
        at = cast(z, dtype)
        function = log_density(model, parameterization, cast(inputs, dtype))
        seconds, (dense_value, dense_gradient) = timed(function, at, jnp.asarray(dense, dtype), args.seconds)
        result[f"dense {dtype.dtype.name} s"] = seconds
        if dtype is jnp.float32:
            result["ratio (f32)"] = seconds / (result["summary ms"] / 1e3)
    result["ratio (f64)"] = seconds / (result["summary ms"] / 1e3)
    result["log density"] = float(dense_value)
    result["difference, nats"] = abs(float(value - dense_value))
    apart = [np.abs(np.asarray(gradient[site] - dense_gradient[site]) * sd[site]).max() for site in z]
    size = [np.abs(np.asarray(dense_gradient[site]) * sd[site]).max() for site in z]
    return result | {"gradient, largest": float(max(size)), "gradient, difference": float(max(apart))}


def setting(model: str, parameterization: str, x):
    """Program's inputs on a summary, coordinates near the posterior's mean where it is evaluated, and sds."""
    import jax
    import jax.numpy as jnp

    from scbayes.counts import Counts
    from scbayes.models import Model, ModelConfig
    from scbayes.models._at_posterior import evidence_at
    from scbayes.models._model import Inputs
    from scbayes.models._priors import default_priors
    from scbayes.models._warm_start import warm_start

    made = Model.of(ModelConfig(model, parameterization))
    counts = Counts(x)
    summary = counts.summarise()
    log_mrna = np.log(2e5)
    start = warm_start(made, counts, summary, default_priors(made.config), set(), log_mrna)
    here = start.posterior
    keys = iter(jax.random.split(jax.random.key(0), 2))
    here = here._replace(
        gene_loc=here.gene_loc + 0.1 * jax.random.normal(next(keys), here.gene_loc.shape),
        gene_tril=0 * here.gene_tril,
        gene_factor=0 * here.gene_factor,
        cell_loc=here.cell_loc + 0.1 * jax.random.normal(next(keys), here.cell_loc.shape),
        cell_scale=0 * here.cell_scale,
    )
    evidence = evidence_at(made, counts, summary, start.priors, here, log_mrna)
    batch = jnp.asarray(summary.batch)
    inputs = Inputs(evidence, start.priors, jnp.asarray(log_mrna), batch, here)
    z = made.split(here.gene_loc, here.global_loc, here.cell_loc)
    width = jnp.sqrt((start.posterior.gene_tril**2).sum(-1))
    sd = made.split(width, start.posterior.global_scale, start.posterior.cell_scale)
    return inputs, z, {site: np.asarray(value) for site, value in sd.items()}


def log_density(model: str, parameterization: str, inputs):
    """Log density of the program and its gradient in log and logit coordinates, given these and the counts."""
    import jax
    from numpyro.infer.util import log_density as of_program

    from scbayes.models import Model, ModelConfig

    made = Model.of(ModelConfig(model, parameterization))

    def function(z, counts):
        values = {site: made.transform(site, inputs.priors)(value) for site, value in z.items()}
        return of_program(made.program, (inputs._replace(counts=counts),), {}, values)[0]

    return jax.jit(jax.value_and_grad(function))


def timed(function, z, counts, seconds: float):
    """Median seconds of a compiled call, and what it returned."""
    import jax

    result = jax.block_until_ready(function(z, counts))
    times, stop = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 1000):
        start = time.perf_counter()
        jax.block_until_ready(function(z, counts))
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


if __name__ == "__main__":
    main()
