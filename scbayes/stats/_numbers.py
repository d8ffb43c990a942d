"""Numbers that users give."""

import numpy as np


def check_whole(least: int, *, or_none: bool = False, **numbers: object) -> None:
    """Refuse what is no whole number of at least ``least`` (True and 2.0 are none), nor None where that is allowed.

    Raises
    ------
    ValueError
        Naming the first.
    """
    for name, value in numbers.items():
        if value is None and or_none:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            msg = f"{name}={value!r}: give a whole number of at least {least}" + (", or None" if or_none else "")
            raise ValueError(msg)


def check_positive(*, or_none: bool = False, **numbers: object) -> None:
    """Refuse what is no finite positive number, nor None where that is allowed.

    Raises
    ------
    ValueError
        Naming the first.
    """
    for name, value in numbers.items():
        if value is None and or_none:
            continue
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not 0 < value < np.inf:
            msg = f"{name}={value!r}: give a positive number" + (", or None" if or_none else "")
            raise ValueError(msg)
