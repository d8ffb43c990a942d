"""The nbvcp model, mean_disp, as a NumPyro user writes it: dense counts, SVI with AutoNormal, Adam.

Populations of log mu and log r are latent, where `sb.tl.fit` learns them by marginal likelihood; nu has the median 1
and takes the scale that mu leaves open.
"""

import numpy as np

#: Adam's step, constant, and how many of them; chosen so that held-out densities stop rising.
STEP_SIZE, N_STEPS = 0.01, 5000


def program(u) -> None:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    n_cells, n_genes = u.shape
    loc = {name: numpyro.sample(f"{name}_loc", dist.Normal(0, 5)) for name in ("mu", "r")}
    scale = {name: numpyro.sample(f"{name}_scale", dist.HalfNormal(3)) for name in ("mu", "r")}
    with numpyro.plate("genes", n_genes):
        mu = numpyro.sample("mu", dist.LogNormal(loc["mu"], scale["mu"]))
        r = numpyro.sample("r", dist.LogNormal(loc["r"], scale["r"]))
    with numpyro.plate("cells", n_cells):
        nu = numpyro.sample("nu", nu_prior())
        numpyro.sample("u", dist.NegativeBinomial2(nu[:, None] * mu, jnp.broadcast_to(r, u.shape)).to_event(1), obs=u)


def nu_prior():
    import numpyro.distributions as dist

    return dist.LogNormal(0.0, 1.0)


def fit(x, *, seconds: float, n_steps: int = N_STEPS, seed: int = 0) -> dict:
    """SVI on dense float32 counts: at most so many seconds, in runs of 100 compiled steps.

    Returns
    -------
    Parameters of the guide, steps taken, and the time of a step once compiled.
    """
    import time

    import jax
    import jax.numpy as jnp
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.infer.initialization import init_to_median
    from numpyro.optim import Adam

    u = jnp.asarray(x.toarray(), jnp.float32)
    guide = AutoNormal(program, init_loc_fn=init_to_median())
    svi = SVI(program, guide, Adam(STEP_SIZE), Trace_ELBO())
    start = time.perf_counter()
    state = svi.init(jax.random.key(seed), u)
    run = jax.jit(lambda state, n: jax.lax.fori_loop(0, n, lambda _, s: svi.update(s, u)[0], state))
    state = jax.block_until_ready(run(state, 1))
    compiled, cpu, taken = time.perf_counter(), time.process_time(), 1
    while taken < n_steps and (taken == 1 or time.perf_counter() - start < seconds):
        at = time.perf_counter()
        more = min(n_steps - taken, 100 if taken > 1 else 5)
        state = jax.block_until_ready(run(state, more))
        taken += more
        if (time.perf_counter() - at) * 20 > seconds and taken < n_steps:  # a hundred steps would take too long
            break
    step, cpu = (time.perf_counter() - compiled) / (taken - 1), (time.process_time() - cpu) / (taken - 1)
    return {"params": svi.get_params(state), "steps": taken, "seconds a step": step, "cpu s a step": cpu}


def parameters(found: dict, n_cells: int):
    """As `_predictive_density` wants them: posterior means of mu, medians of r."""
    from scbayes.models._parameters import Parameters

    params = {name: np.asarray(value, float) for name, value in found["params"].items()}
    log_mu = params["mu_auto_loc"] + params["mu_auto_scale"] ** 2 / 2
    log_r = params["r_auto_loc"]
    return Parameters(np.exp(log_r)[None, None], (log_mu - log_r)[None, None], None, np.ones(1), np.zeros(n_cells))


def intervals(found: dict, level: float = 0.95) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals of r, of the composition (2,000 draws of all mu), and of nu x sum(mu)."""
    from scipy.stats import norm

    params = {name: np.asarray(value, float) for name, value in found["params"].items()}
    rng, width = np.random.default_rng(0), norm.ppf((1 + level) / 2)
    loc, scale = params["mu_auto_loc"], params["mu_auto_scale"]
    mu = np.exp(loc + scale * rng.standard_normal((2000, len(loc))))
    tail = (1 - level) / 2
    result = {"composition": np.quantile(mu / mu.sum(1, keepdims=True), [tail, 1 - tail], axis=0)}
    for name, shift in (("r", 0.0), ("nu", np.log(np.exp(loc + scale**2 / 2).sum()))):
        at, spread = params[f"{name}_auto_loc"] + shift, params[f"{name}_auto_scale"]
        result[name] = np.exp(at - width * spread), np.exp(at + width * spread)
    return result
