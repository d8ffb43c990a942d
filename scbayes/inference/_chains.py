"""Markov chain Monte Carlo: the no-U-turn sampler on any energy, chains side by side in threads.

Draws come to the host window by window; a chain's keys depend on its number alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

#: Draws between looks at the progress bar.
WINDOW = 20
#: Step size that a standard normal of n dimensions takes, times the fourth root of n.
STEP = 1.45
#: Acceptance probability that the step size is adapted to.
ACCEPT = 0.8


class Chains(NamedTuple):
    """What the chains gave.

    Attributes
    ----------
    draws
        Positions after warm-up, float32, shape ``(n_chains, n_draws, n)``.
    energy
        Shape ``(n_chains, n_draws)``.
    n_divergent
        Number of trajectories that left the energy's level, after warm-up.
    n_steps
        Mean number of gradients per draw, after warm-up.
    step_size, accepted
        Of each chain: step after adaptation, and mean acceptance probability.
    interrupted
        The user stopped it: draws are those that all chains had by then.
    """

    draws: np.ndarray
    energy: np.ndarray
    n_divergent: int
    n_steps: float
    step_size: np.ndarray
    accepted: np.ndarray
    interrupted: bool


def run_chains(
    energy: Callable,
    target,
    size: int,
    *,
    n_draws: int,
    n_warmup: int,
    n_chains: int,
    seed: int,
    show: bool = False,
) -> Chains:
    """Draw from ``exp(-energy(position, target))``, where positions are nearly standard normal.

    Parameters
    ----------
    energy
        Function of a position ``(size,)`` and of ``target``, a pytree; hashable, since compiled code is kept for it.
    n_draws
        Draws of each chain after ``n_warmup``, in which the step size is found.
    """
    x64 = jax.config.jax_enable_x64
    bar = tqdm(total=n_chains * (n_warmup + n_draws), desc="sample", unit="draw", disable=not show)
    stop: list[bool] = []

    def chain(number: int) -> list:
        with jax.enable_x64(x64):  # this setting belongs to the thread
            start, window = _compiled(energy, n_warmup)
            state = start(jax.random.fold_in(jax.random.key(seed), number), target, size)
            return _run(lambda now: window(now, target), state, n_warmup, n_draws, bar, stop)

    with ThreadPoolExecutor(n_chains) as pool:
        jobs = [pool.submit(chain, number) for number in range(n_chains)]
        try:
            found = [job.result() for job in jobs]
        except KeyboardInterrupt:
            stop.append(True)
            found = [job.result() for job in jobs]
        finally:
            stop.append(True)
            bar.close()
    return _gather(found, interrupted=len(stop) > 1)


def _run(window: Callable, state, n_warmup: int, n_draws: int, bar, stop: list) -> list:
    """One chain: its position, energy, divergence, steps, acceptance and step size at each draw."""
    size = len(state.z)
    windows, left = [], n_warmup + n_draws
    while left > 0 and not stop:
        state, trace = window(state)
        windows.append(jax.tree.map(np.asarray, trace))
        bar.update(min(WINDOW, left))
        left -= WINDOW
    if not windows:
        return [np.zeros((0, size), np.float32), *[np.zeros(0)] * 5]
    return [np.concatenate(part)[n_warmup : n_warmup + n_draws] for part in zip(*windows, strict=True)]


def _gather(found: list, *, interrupted: bool) -> Chains:
    shortest = min(len(part[0]) for part in found)
    draws, energy, divergent, steps, accepted, size = (
        np.stack([part[:shortest] for part in parts]) for parts in zip(*found, strict=True)
    )
    last = size[:, -1] if shortest else np.full(len(found), np.nan)
    mean = float(steps.mean()) if shortest else float("nan")
    rate = accepted.mean(1) if shortest else last
    return Chains(draws, energy, int(divergent.sum()), mean, last, rate, interrupted)


@lru_cache(maxsize=8)
def _compiled(energy: Callable, n_warmup: int) -> tuple[Callable, Callable]:
    """Start of a chain, and a window of its draws."""
    from numpyro.infer.hmc import hmc

    init, sample = hmc(potential_fn_gen=lambda target: lambda position: energy(position, target), algo="NUTS")

    @partial(jax.jit, static_argnames="size")
    def start(key, target, size: int):
        first, walk = jax.random.split(key)
        step = STEP * size**-0.25
        return init(
            jax.random.normal(first, (size,)),
            n_warmup,
            step_size=step,
            adapt_mass_matrix=False,
            target_accept_prob=ACCEPT,
            # Never more than once around: a trajectory that comes back to its start looks as if it had not turned, and
            # the sampler would go round for as long as it may.
            max_tree_depth=max(int(np.log2(2 * np.pi / step)), 1),
            model_args=(target,),
            rng_key=walk,
        )

    @jax.jit
    def window(state, target):
        def step(state, _):
            state = sample(state, (target,), {})
            adapted = state.adapt_state.step_size
            trace = state.diverging, state.num_steps, state.accept_prob, adapted
            return state, (state.z.astype(jnp.float32), state.potential_energy, *trace)

        return jax.lax.scan(step, state, None, WINDOW)

    return start, window
