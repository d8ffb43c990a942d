"""Double precision for our own sums over millions of terms, without touching the user's JAX settings."""

from contextlib import AbstractContextManager


def double() -> AbstractContextManager:
    """Context in which JAX computes in float64; what is outside keeps its precision."""
    import jax

    return jax.enable_x64(True)
