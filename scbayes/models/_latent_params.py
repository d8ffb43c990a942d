"""Parameters of a network as plain named arrays, and back."""

import jax
import numpy as np


def flatten_params(params) -> dict[str, np.ndarray]:
    """Arrays of a pytree by their path, e.g. ``"encoder.layers.linear.0.weight"``."""
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def unflatten_params(like, arrays: dict[str, np.ndarray]):
    """The pytree that :func:`flatten_params` took apart.

    Parameters
    ----------
    like
        A pytree of the same structure, of arrays or of their shapes.

    Raises
    ------
    KeyError, ValueError
        If an array is missing or has another shape.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    found = []
    for path, leaf in leaves:
        name = _name(path)
        if name not in arrays:
            raise KeyError(name)
        value = np.asarray(arrays[name])
        if value.shape != leaf.shape:
            msg = f"{name} has shape {value.shape}, not {tuple(leaf.shape)}"
            raise ValueError(msg)
        found.append(value.astype(leaf.dtype))
    return tree.unflatten(found)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
