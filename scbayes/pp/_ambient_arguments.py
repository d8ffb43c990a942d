"""Arguments of `ambient_profile` and `call_cells`: refused where they are out of range."""

import numpy as np


def check_whole(**numbers) -> None:
    """Refuse what is no whole number from 1."""
    for name, value in numbers.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            msg = f"{name}={value!r}: give a whole number from 1"
            raise ValueError(msg)


def check_share(least: float = 0.0, **numbers) -> None:
    """Refuse what is no number between ``least`` and 1."""
    for name, value in numbers.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not 0 < value < 1 or value < least:
            msg = f"{name}={value!r}: give a number between {least:g} and 1"
            raise ValueError(msg)


def check_range(empty_range) -> tuple[float, float] | None:
    """The smallest and the largest total of empty droplets, or None."""
    if empty_range is None:
        return None
    try:
        low, high = (float(end) for end in empty_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not 0 < low <= high < np.inf:
        msg = f"empty_range={empty_range!r}: give the smallest and the largest total of empty droplets"
        raise ValueError(msg)
    return low, high
