"""Numba's compiler, with the machine code kept on disk where the installation allows it."""

from collections.abc import Callable

import numba


def jit[F: Callable](function: F, **flags: object) -> F:
    """Compile ``function`` with Numba, releasing the GIL; cached beside the code or in the user's cache folder.

    ``flags`` are more of Numba's, such as ``fastmath={"reassoc"}`` where sums may be taken in any order. A read-only
    installation without a home folder has no place for the cache: there it is compiled in each process.
    """
    try:
        return numba.njit(cache=True, nogil=True, **flags)(function)
    except RuntimeError:  # Numba found no folder it may write to
        return numba.njit(nogil=True, **flags)(function)
