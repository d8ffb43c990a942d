"""Training of networks by minibatches: one loop, an epoch in one compiled scan.

The cells of an epoch and the random key of a step depend on the seed and their number alone, so that a run that was cut
and resumed takes the steps of an uncut one.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm.auto import tqdm

#: Share of the steps over which the step size rises.
RISE = 0.05


class Recipe(NamedTuple):
    """How to train.

    Attributes
    ----------
    n_epochs, batch_size
        Passes over the training set at most; examples per step.
    learning_rate
        Largest step of Adam; it rises over the first steps, then falls as a cosine.
    warmup
        Share of all steps over which the ramp rises from 0 to 1.
    patience
        Epochs without a better validation loss after which it ends; None: it goes on.
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    patience: int | None


class State(NamedTuple):
    """All that is needed to go on: a pytree of arrays.

    Attributes
    ----------
    params, optimizer
        Where the optimisation stands.
    best, best_loss, best_epoch
        Parameters of the epoch with the lowest validation loss, the loss, and the epoch.
    n_rejected
        Steps that were not finite and were not taken.
    """

    params: object
    optimizer: object
    best: object
    best_loss: Array
    best_epoch: Array
    n_rejected: Array


class Trained(NamedTuple):
    """What a run gave.

    Attributes
    ----------
    params
        Parameters of the best epoch; of the last one without validation.
    state
        State to go on from.
    history
        ``(n_epochs, 2, n_parts)``: mean of each part over training and validation examples.
    done, converged
        Whether there is nothing to go on with: all epochs were done, or the validation loss had stopped falling; and
        whether it was the latter (without a validation set or patience: whether all epochs were done).
    interrupted
        The user stopped it (KeyboardInterrupt).
    """

    params: object
    state: State
    history: np.ndarray
    best_epoch: int
    n_rejected: int
    done: bool
    converged: bool
    interrupted: bool


def train_epochs(
    parts: Callable,
    loss: Callable,
    params,
    data,
    sets: tuple[np.ndarray, np.ndarray],
    recipe: Recipe,
    *,
    seed: int,
    state: State | None = None,
    history: np.ndarray | None = None,
    show: Callable[[np.ndarray], str] | None = None,
) -> Trained:
    """Minimise a mean loss over examples.

    Parameters
    ----------
    parts
        ``(params, data, ids, key, training) -> NamedTuple of (len(ids),)``, hashable.
    loss
        ``(parts, ramp) -> (len(ids),)``, hashable; the ramp rises from 0 to 1.
    params, data
        Pytrees; ``data`` is handed to ``parts`` as it is.
    sets
        Indices of examples that train and that validate; the latter may be empty.
    state, history
        Of an earlier run, to go on from.
    show
        What the progress bar says of the last row of the history; None: no bar.
    """
    train, validate = (np.asarray(ids, np.int32) for ids in sets)
    size = min(recipe.batch_size, len(train))
    n_steps = len(train) // size
    run = _compiled(parts, loss, _optimizer(recipe, n_steps), int(np.ceil(recipe.warmup * n_steps * recipe.n_epochs)))
    state = first_state(params, recipe, len(train)) if state is None else state
    rows = [] if history is None else list(history)
    key, interrupted = jax.random.key(seed), False
    padded = _in_blocks(validate, size)
    bar = tqdm(total=recipe.n_epochs, initial=len(rows), desc="fit", unit="epoch", disable=show is None)
    try:
        while len(rows) < recipe.n_epochs and not _stopped(state, len(rows), len(validate), recipe):
            epoch = len(rows)
            order = np.random.default_rng([seed, epoch]).permutation(train)[: n_steps * size].reshape(n_steps, size)
            after, row = run(state, data, order, padded, jax.random.fold_in(key, epoch), np.int32(epoch))
            with_it = [*rows, np.asarray(row, float)]  # waits: interrupted here, the epoch is not kept
            state, rows = after, with_it
            bar.update()
            if show is not None:
                bar.set_postfix_str(show(rows[-1]))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    if not rows:
        raise KeyboardInterrupt("stopped before the first epoch: there is nothing to store")
    stopped = _stopped(state, len(rows), len(validate), recipe)
    done = len(rows) >= recipe.n_epochs or stopped
    watched = len(validate) > 0 and recipe.patience is not None
    best = state.best if len(validate) and np.isfinite(state.best_loss) else state.params
    best_epoch = int(state.best_epoch) if len(validate) else len(rows) - 1
    history = np.array(rows).reshape(len(rows), 2, -1)
    converged = stopped if watched else done
    return Trained(best, state, history, best_epoch, int(state.n_rejected), done, converged, interrupted)


def _stopped(state: State, n_epochs: int, n_validate: int, recipe: Recipe) -> bool:
    """Whether patience has run out; it starts when the ramp is at 1: before, another loss is made small."""
    if not n_validate or recipe.patience is None:
        return False
    since = max(int(state.best_epoch), int(np.ceil(recipe.warmup * recipe.n_epochs)) - 1)
    return n_epochs - 1 - since >= recipe.patience


def _in_blocks(ids: np.ndarray, size: int) -> np.ndarray:
    """Indices in rows of ``size``, -1 behind the last."""
    n = -(-len(ids) // size)
    return np.append(ids, np.full(n * size - len(ids), -1, ids.dtype)).reshape(n, size)


def first_state(params, recipe: Recipe, n_train: int) -> State:
    """The state before the first step."""
    params = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    optimizer = _optimizer(recipe, n_train // min(recipe.batch_size, n_train)).init(params)
    none = jnp.array(0, jnp.int32)
    return State(params, optimizer, params, jnp.array(np.inf, jnp.float32), none, none)


@lru_cache(maxsize=8)
def _optimizer(recipe: Recipe, n_steps: int) -> optax.GradientTransformation:
    total = n_steps * recipe.n_epochs
    rise = min(max(int(RISE * total), 1), total - 1)
    rate = recipe.learning_rate
    if total > 1:
        rate = optax.warmup_cosine_decay_schedule(rate / 10, rate, rise, total, rate / 100)
    return optax.adam(rate, b2=0.99)


@lru_cache(maxsize=8)
def _compiled(parts: Callable, loss: Callable, optimizer, warmup: int) -> Callable:
    """One epoch: steps over the rows of ``order``, then the parts of the validation set."""

    def mean_loss(params, data, ids, key, ramp):
        found = parts(params, data, ids, key, True)  # noqa: FBT003
        return loss(found, ramp).mean(), jnp.stack([part.mean() for part in found])

    def step(data, key, carry, ids):
        state, number = carry
        ramp = jnp.minimum((number + 1) / warmup, 1.0) if warmup else jnp.ones(())
        value = jax.value_and_grad(mean_loss, has_aux=True)
        (at, means), gradient = value(state.params, data, ids, jax.random.fold_in(key, number), ramp)
        change, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        fine = jnp.isfinite(at) & jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
        moved = state._replace(params=optax.apply_updates(state.params, change), optimizer=optimizer_state)
        state = jax.tree.map(partial(jnp.where, fine), moved, state)
        return (state._replace(n_rejected=state.n_rejected + ~fine), number + 1), means

    def validate(params, data, key, ids):
        found = parts(params, data, jnp.maximum(ids, 0), jax.random.fold_in(key, ids[0]), False)  # noqa: FBT003
        inside = ids >= 0
        sums = jnp.stack([jnp.where(inside, part, 0).sum() for part in found])
        return sums, jnp.where(inside, loss(found, jnp.ones(())), 0).sum()

    @jax.jit
    def epoch(state: State, data, order, held, key, number):
        (state, _), means = jax.lax.scan(partial(step, data, key), (state, number * len(order)), order)
        if not held.size:
            return state, jnp.stack([means.mean(0), jnp.full(means.shape[1:], jnp.nan)])
        same = jax.random.key(0)  # the same noise at each epoch: what changes is the network
        sums, losses = jax.lax.map(partial(validate, state.params, data, same), held)
        n = (held >= 0).sum()
        at = losses.sum() / n
        better = at < state.best_loss
        best = jax.tree.map(partial(jnp.where, better), state.params, state.best)
        best_loss = jnp.where(better, at, state.best_loss)
        best_epoch = jnp.where(better, number, state.best_epoch).astype(jnp.int32)
        state = state._replace(best=best, best_loss=best_loss, best_epoch=best_epoch)
        return state, jnp.stack([means.mean(0), sums.sum(0) / n])

    return epoch
