"""What an array is known by: a digest of its shape and its values, whatever dtype they are in."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from pavi.mapped import release

# Up to so many elements an array enters a digest whole, else by so many evenly spaced ones.
WHOLE = 1 << 23
SAMPLE = 1 << 20


def digest(array: np.ndarray, dtype: str) -> str:
    """SHA-256 of an array's shape and of its values in `dtype`; of a large one's by a sample."""
    found = sha256(repr(array.shape).encode())
    # + 0 makes -0.0 the 0.0 that it equals
    found.update((_sampled(array).astype(dtype) + np.zeros((), dtype)).tobytes())
    release(array)
    return found.hexdigest()


def _sampled(array: np.ndarray) -> np.ndarray:
    if array.size <= WHOLE:
        return np.ascontiguousarray(array)
    positions = np.linspace(0, array.size - 1, SAMPLE).astype(np.int64)
    return np.asarray(array[np.unravel_index(positions, array.shape)])
