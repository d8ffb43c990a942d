"""Numba's compiler, with the machine code kept on disk where the installation allows it."""

from collections.abc import Callable

import numba


def jit[F: Callable](function: F) -> F:
    """Compile ``function`` with Numba, releasing the GIL; cached beside the code or in the user's cache folder.

    A read-only installation without a home folder has no place for the cache: there it is compiled in each process.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba found no folder it may write to
        return numba.njit(nogil=True)(function)
