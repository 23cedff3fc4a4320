"""Arrays in files that have no name: larger than the memory, and gone once nobody uses them.

What is touched of a mapped file counts as memory of the process until it is let go of. Whoever goes
through a whole one does so by `spans`, and calls `release` after each.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

PART_BYTES = 1 << 24


def zeros(shape: tuple[int, ...], dtype: str, folder: Path) -> np.ndarray:
    """Zeros in a file of a folder: its name is gone at once, its bytes once the array is.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    with tempfile.TemporaryFile(dir=folder, prefix="tables-") as file:
        _reserve(file, prod(shape) * np.dtype(dtype).itemsize)
        # As an array of the plain class: what is computed from it is in memory.
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def spans(length: int, item_bytes: int) -> Iterator[slice]:
    """Consecutive parts of `length` items, each of at most `PART_BYTES` or of one item."""
    step = max(PART_BYTES // item_bytes, 1)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def release(array: np.ndarray) -> None:
    """Lets go of the memory that parts of a mapped file take, which stay in the file."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and isinstance(base.base, mmap.mmap):
            # What was written to a copy of a file ("c") is nowhere else.
            if base.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
                base.base.madvise(mmap.MADV_DONTNEED)
            return
        base = base.base


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk: a process that writes to a map without room is ended."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for span in spans(size, 1):
        file.write(bytes(span.stop - span.start))
    file.flush()
