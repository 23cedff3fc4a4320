"""An integer is Python's or NumPy's; a bool, a float and a text are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pavi.integers import is_integer


@given(st.integers(-(2**31), 2**31), st.integers(-(2**31), 2**31))
def test_an_integer_of_either_kind_is_told_from_one_below_the_least(value: int, least: int):
    assert is_integer(value)
    assert is_integer(np.int64(value))
    assert is_integer(value, least) == is_integer(np.int64(value), least) == (value >= least)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.float32(1), "1", None, np.ones(1, int)])
def test_what_only_looks_like_an_integer_is_none(value: object):
    assert not is_integer(value)
    assert not is_integer(value, 0)
