"""Numbers that users give."""

from collections.abc import Callable

import numpy as np


def check_whole(least: int, *, or_none: bool = False, **numbers: object) -> None:
    """Refuse what is no whole number of at least ``least`` (True and 2.0 are none), nor None where that is allowed.

    Raises
    ------
    ValueError
        Naming the first.
    """
    _check(f"a whole number of at least {least}", numbers, or_none, lambda x: _is(x, int | np.integer) and x >= least)


def check_positive(*, or_none: bool = False, **numbers: object) -> None:
    """Refuse what is no finite positive number, nor None where that is allowed.

    Raises
    ------
    ValueError
        Naming the first.
    """
    _check("a positive number", numbers, or_none, lambda x: _is(x, int | float | np.number) and 0 < x < np.inf)


def _is(value: object, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check(what: str, numbers: dict[str, object], or_none: bool, fits: Callable) -> None:  # noqa: FBT001
    for name, value in numbers.items():
        if not (fits(value) or (value is None and or_none)):
            msg = f"{name}={value!r}: give {what}" + (", or None" if or_none else "")
            raise ValueError(msg)
