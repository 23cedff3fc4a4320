"""Floating dtypes on JAX: float64 needs x64 enabled around every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Enables 64-bit arrays inside the block for a float64 run; leaves other runs alone."""
    if dtype == "float64":
        with jax.enable_x64(True):
            yield
    else:
        yield
