"""Whether an argument is an integer as users give them: Python's or NumPy's, and not a bool."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np


def is_integer(value: object, least: int | None = None) -> TypeGuard[int]:
    """Whether `value` is an integer, of `least` or more where that is given."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return least is None or int(value) >= least
