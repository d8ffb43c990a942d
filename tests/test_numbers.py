"""Numbers that users give."""

import numpy as np
import pytest

from scbayes.stats._numbers import check_positive, check_whole


@pytest.mark.parametrize("value", [1, np.int32(1), 10**9])
def test_whole_numbers(value):
    check_whole(1, n=value)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.nan, [1], np.array([1, 2])])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match=r"^second=.*: give a whole number of at least 1$"):
        check_whole(1, first=1, second=value)


def test_none_where_it_is_allowed():
    check_whole(2, or_none=True, n=None)
    check_positive(or_none=True, x=None)
    with pytest.raises(ValueError, match="n=1: give a whole number of at least 2, or None"):
        check_whole(2, or_none=True, n=1)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(3)])
def test_positive_numbers(value):
    check_positive(x=value)


@pytest.mark.parametrize("value", [0, -1.0, np.inf, np.nan, True, "1", None])
def test_what_is_no_positive_number(value):
    with pytest.raises(ValueError, match=r"^x=.*: give a positive number$"):
        check_positive(x=value)
