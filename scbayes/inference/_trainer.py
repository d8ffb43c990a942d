"""Stochastic variational inference: one loop for every NumPyro program and guide.

Steps run in compiled windows; the loss comes to the host once a window. Windows lie at fixed step numbers and the
random key of a step depends on its number alone, so a run that was cut and resumed takes the steps of an uncut one.
"""

from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache, partial
from threading import Thread
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm.auto import tqdm

#: Steps between looks at the loss.
WINDOW = 50
#: Nats per latent number: windows whose mean losses differ by less are taken as equal.
TOLERANCE = 1e-3
#: Shapes of arguments for which compiled code is kept, the latest.
KEPT = 4
#: Standard errors up to this many tolerances may decide.
NOISE = 3


class Progress(NamedTuple):
    """All that is needed to go on: NumPyro's optimiser state (a pytree of arrays), and the steps that were rejected."""

    optimizer: object
    n_rejected: Array


class Training(NamedTuple):
    """What a run gave.

    Attributes
    ----------
    params
        Parameters of the guide.
    progress
        State to go on from.
    losses
        Loss of each step in nats, float64, from the first step of all runs.
    n_rejected
        Steps whose loss or gradient was not finite, and which were not taken.
    converged
        The last two windows agree (see :func:`drift`).
    drift
        Mean loss of the last window but one minus that of the last, nats; NaN before there are two.
    interrupted
        The user stopped it (KeyboardInterrupt).
    """

    params: dict[str, Array]
    progress: Progress
    losses: np.ndarray
    n_rejected: int
    converged: bool
    drift: float
    interrupted: bool


def train(
    program: Callable,
    guide: Callable,
    inputs,
    params: dict[str, Array],
    *,
    optimizer=None,
    loss=None,
    n_steps: int = 2000,
    n_latent: int,
    key: Array,
    stable_update: bool = True,
    progress: Progress | None = None,
    losses: np.ndarray | None = None,
    show: bool = False,
) -> Training:
    """Minimise ``loss`` until it stops falling.

    Parameters
    ----------
    program, guide
        NumPyro functions of ``inputs``; hashable, since compiled code is kept for each pair.
    inputs
        Pytree handed to both.
    params
        Initial parameters of the guide, unconstrained.
    optimizer
        An optax transformation or a NumPyro optimiser; None: Adam with a falling step size.
    loss
        A NumPyro ELBO; None: ``Trace_ELBO()``.
    n_steps
        Steps at most, those of earlier runs (``losses``) counted in.
    n_latent
        Number of latent scalars, for the criterion of convergence.
    progress, losses
        State and losses of an earlier run to go on from.
    """
    optimizer = as_optimizer(optimizer)
    loss = _default_loss() if loss is None else loss
    if progress is None:
        progress = _first(optimizer, params)
    losses = np.zeros(0) if losses is None else np.asarray(losses, float)
    run = _compiled(program, guide, optimizer, loss, stable_update=stable_update)
    interrupted = False
    bar = tqdm(total=n_steps, initial=len(losses), desc="fit", unit="step", disable=not show)
    try:
        while len(losses) < n_steps and not _agree(losses, n_latent)[0]:
            steps = np.arange(len(losses), min(n_steps, (len(losses) // WINDOW + 1) * WINDOW))
            # one compiled length: the steps beyond the last are masked out
            number = np.concatenate([steps, np.full(WINDOW - len(steps), -1)])
            progress, new = run(progress, key, number, inputs)
            losses = np.concatenate([losses, np.asarray(new)[: len(steps)]])
            bar.update(len(steps))
            bar.set_postfix(loss=f"{_mean(losses[-WINDOW:]):.6g}")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    converged, moved = _agree(losses, n_latent)
    found = optimizer.get_params(progress.optimizer)
    return Training(found, progress, losses, int(progress.n_rejected), converged, moved, interrupted)


def prepare(
    program: Callable,
    guide: Callable,
    inputs,
    params: dict[str, Array],
    *,
    optimizer=None,
    loss=None,
    stable_update: bool = True,
    key: Array,
) -> None:
    """Start to compile what :func:`train` will need for arguments of these shapes and types, and return at once."""
    optimizer = as_optimizer(optimizer)
    loss = _default_loss() if loss is None else loss
    run = _compiled(program, guide, optimizer, loss, stable_update=stable_update)
    run.prepare(_first(optimizer, params), key, np.full(WINDOW, -1), inputs)


def _first(optimizer, params: dict[str, Array]) -> Progress:
    """Progress before the first step, strongly typed, as it comes back from a file: a resumed run needs no new code."""
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(params))
    return Progress(state, jnp.zeros((), jnp.int32))


def as_optimizer(optimizer):
    """A NumPyro optimiser from optax's, NumPyro's, or None.

    Raises
    ------
    TypeError
        If it is neither.
    """
    import optax
    from numpyro.optim import _NumPyroOptim

    if optimizer is None:
        return _default_optimizer()
    if isinstance(optimizer, _NumPyroOptim):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return _from_optax(optimizer)
    msg = f"optimizer must be an optax transformation or a numpyro optimizer, not {type(optimizer).__name__}"
    raise TypeError(msg)


def _agree(losses: np.ndarray, n_latent: int) -> tuple[bool, float]:
    """Whether the last two whole windows have the same mean loss, and the fall between them.

    Equal is: within ``TOLERANCE`` nats per latent number; or within two standard errors of the difference, if these
    are themselves no more than ``NOISE`` tolerances wide (a guide that does not fit shows in a noisy loss).
    """
    whole = len(losses) // WINDOW
    if whole < 2 or len(losses) % WINDOW:
        return False, float("nan") if whole < 2 else _fall(losses, whole)[0]
    fall, error = _fall(losses, whole)
    tolerance = TOLERANCE * n_latent
    return bool(abs(fall) <= tolerance or abs(fall) <= 2 * error <= NOISE * tolerance), fall


def _fall(losses: np.ndarray, whole: int) -> tuple[float, float]:
    windows = losses[(whole - 2) * WINDOW : whole * WINDOW].reshape(2, WINDOW)
    before, after = (window[np.isfinite(window)] for window in windows)
    if not (before.size and after.size):
        return float("nan"), 0.0
    error = np.sqrt((before.var() + after.var()) / WINDOW)
    return float(before.mean() - after.mean()), float(error)


def _mean(losses: np.ndarray) -> float:
    """Mean of those that are finite; NaN if none is."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if finite.size else float("nan")


@lru_cache(maxsize=32)
def _compiled(program: Callable, guide: Callable, optimizer, loss, *, stable_update: bool) -> Callable:
    """A window of steps, compiled once per program, guide, optimiser and shapes."""

    def step(inputs, key, progress: Progress, number: Array):
        params = optimizer.get_params(progress.optimizer)
        value, gradient = jax.value_and_grad(
            lambda p: loss.loss(jax.random.fold_in(key, number), p, program, guide, inputs)
        )(params)
        state = optimizer.update(gradient, progress.optimizer, value=value)
        finite = jnp.isfinite(value)
        for leaf in jax.tree.leaves(gradient):
            finite &= jnp.all(jnp.isfinite(leaf))
        asked = number >= 0
        take = asked & finite if stable_update else asked
        state = jax.tree.map(lambda new, old: jnp.where(take, new, old), state, progress.optimizer)
        return Progress(state, progress.n_rejected + (asked & ~finite)), value

    @jax.jit
    def run(progress: Progress, key, numbers: Array, inputs):
        return jax.lax.scan(partial(step, inputs, key), progress, numbers)

    return Window(run)


class Window:
    """A compiled function that can be compiled ahead, while its caller still works on the values it will be given."""

    def __init__(self, run: Callable) -> None:
        self.run = run
        self.compiled: dict[object, Future] = {}

    def prepare(self, *args) -> None:
        """Start to compile for arguments of these shapes and types."""
        kind = _kind(args)
        if kind not in self.compiled:
            for old in list(self.compiled)[: 1 - KEPT]:  # code takes tens of MB for each kind
                del self.compiled[old]
            self.compiled[kind] = job = Future()
            Thread(target=self._compile, args=(job, jax.config.jax_enable_x64, args), daemon=True).start()

    def __call__(self, *args):
        self.prepare(*args)
        return self.compiled[_kind(args)].result()(*args)

    def _compile(self, job: Future, double: bool, args) -> None:  # noqa: FBT001
        try:
            with jax.enable_x64(double):  # this setting belongs to the thread
                job.set_result(self.run.lower(*args).compile())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self.compiled.pop(_kind(args), None)
            job.set_exception(error)


def _kind(args) -> object:
    """What a compiled function depends on: structure, shapes and types."""
    leaves, tree = jax.tree.flatten(args)
    kinds = [(jnp.shape(x), getattr(x, "dtype", type(x)), getattr(x, "weak_type", False)) for x in leaves]
    return tree, tuple(kinds)


@lru_cache(maxsize=1)
def _default_optimizer():
    import optax

    # Parameters are in units of posterior standard deviations; the step falls as 1/t so that noise averages out.
    return as_optimizer(optax.adam(lambda count: 0.02 / (1 + count / 100), b1=0.9, b2=0.99))


@lru_cache(maxsize=32)
def _from_optax(optimizer):
    from numpyro.optim import optax_to_numpyro

    return optax_to_numpyro(optimizer)


@lru_cache(maxsize=1)
def _default_loss():
    from numpyro.infer import Trace_ELBO

    return Trace_ELBO()
