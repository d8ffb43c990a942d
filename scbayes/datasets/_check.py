import numbers

import numpy as np


def check_count(name: str, value: object) -> int:
    """Return a positive int, or say which argument is none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} is not a count: pass an int of 1 or more")
    return int(value)


def check_number(name: str, value: object, *, low: float, high: float = np.inf, closed: bool = False) -> float:
    """Return a float between low and high, the ends included if `closed`."""
    if not _inside(value, low, high, closed=closed):
        ends = "[]" if closed else "()"
        raise ValueError(f"{name}={value!r} is out of range: pass a finite number in {ends[0]}{low}, {high}{ends[1]}")
    return float(value)


def check_pair(
    name: str,
    value: object,
    *,
    meaning: str,
    low: tuple[float, float],
    high: tuple[float, float] = (np.inf, np.inf),
    closed: bool = True,
) -> tuple[float, float]:
    """Return two floats, each in its own range."""
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a pair: pass {meaning}") from None
    if not (_inside(first, low[0], high[0], closed=closed) and _inside(second, low[1], high[1], closed=closed)):
        raise ValueError(f"{name}={value!r} is out of range: pass {meaning}, both finite")
    return float(first), float(second)


def check_generator(rng: object) -> np.random.Generator:
    """Return a numpy Generator from a seed or a Generator."""
    if isinstance(rng, np.random.Generator):
        return rng
    if not isinstance(rng, numbers.Integral) or isinstance(rng, bool) or rng < 0:
        raise ValueError(
            f"rng={rng!r} is neither a seed nor a Generator: pass an int >= 0 or numpy.random.default_rng()"
        )
    return np.random.default_rng(int(rng))


def _inside(value: object, low: float, high: float, *, closed: bool) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not np.isfinite(value):
        return False
    return low <= value <= high if closed else low < value < high
