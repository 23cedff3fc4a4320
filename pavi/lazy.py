"""Arrays that are read by rows, when a step asks for them: memory maps, Zarr, xarray of either.

Neither Zarr nor xarray is imported: their arrays are used by what they can do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from pavi.errors import DataError

Index: TypeAlias = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """An array that is not in memory.

    Attributes:
        shape: its shape.
        dtype: its dtype.
        kind: what it is, in words.
        reader: from one index for each of the leading axes, distinct and in order, to the rows
            there, `[*len of each index, *the axes that have none]`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    reader: Callable[[Index], Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def read(self, index: Index) -> np.ndarray:
        """The rows at an index for each of the leading axes, an array in memory."""
        return np.asarray(self.reader(index))

    def transposed(self, order: tuple[int, ...]) -> Source:
        """The same array with its axes in another order."""
        if order == tuple(range(self.ndim)):
            return self

        def read(index: Index) -> np.ndarray:
            of = dict(zip(order, index, strict=False))
            # An axis behind those asked for may lie before them in the array itself.
            own = tuple(of.get(axis, np.arange(n)) for axis, n in enumerate(self.shape))
            return np.transpose(self.read(own), order)

        return Source(tuple(self.shape[axis] for axis in order), self.dtype, self.kind, read)

    def __repr__(self) -> str:
        return f"{self.kind} {self.dtype}{list(self.shape)}"


Value: TypeAlias = np.ndarray | Source


def as_value(name: str, value: Any) -> Value:
    """What is given for a variable: a source where it is not in memory, else an array."""
    if isinstance(value, Source):
        return value
    if hasattr(value, "get_orthogonal_selection"):
        return _of_zarr(value)
    if hasattr(value, "isel") and hasattr(value, "variable"):
        # Where xarray does not tell, the array is read: right, if not sparing.
        if not getattr(value.variable, "_in_memory", True):
            return _of_xarray(value)
        value = value.data
    array = as_array(name, value)
    return _of_map(array) if is_mapped(array) else array


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array: a view where it is one, masked and None as NaN."""
    if np.ma.is_masked(value):
        return np.where(np.ma.getmaskarray(value), np.nan, np.ma.getdata(value))
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The value of {name!r} cannot be made an array: {error} Give a rectangular array; "
            f"for groups of differing sizes, a flat one with a membership index."
        ) from error
    if array.dtype == object:
        return _from_objects(array)
    return array


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a view of a file, which may be larger than the memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        # What is computed from a memory map is of its class, but in memory.
        if isinstance(base, np.memmap) and getattr(base, "_mmap", None) is not None:
            return True
        base = base.base
    return isinstance(base, mmap)


def _of_map(array: np.ndarray) -> Source:
    def read(index: Index) -> np.ndarray:
        spans = [_compact(rows) for rows in index]
        # Slices first: they are views, and what is taken of them is read alone.
        part = array[tuple(s if isinstance(s, slice) else slice(None) for s in spans)]
        scattered = [axis for axis, span in enumerate(spans) if not isinstance(span, slice)]
        if not scattered:
            return np.array(part)
        if len(scattered) == 1:
            return np.take(part, index[scattered[0]], scattered[0])
        places = [
            rows if axis in scattered else np.arange(len(rows)) for axis, rows in enumerate(index)
        ]
        return np.array(part[np.ix_(*places)])

    return Source(array.shape, array.dtype, "memory map", read)


def _of_zarr(array: Any) -> Source:
    def read(index: Index) -> Any:
        return array.get_orthogonal_selection(tuple(_compact(rows) for rows in index) or ...)

    return Source(tuple(array.shape), np.dtype(array.dtype), "Zarr array", read)


def _of_xarray(array: Any) -> Source:
    def read(index: Index) -> Any:
        spans = (_compact(rows) for rows in index)
        return array.isel(dict(zip(array.dims, spans, strict=False))).values

    return Source(tuple(array.shape), np.dtype(array.dtype), "xarray array", read)


def _compact(index: np.ndarray) -> slice | np.ndarray:
    """Distinct positions in order as a slice, where there is no gap between them."""
    if len(index) and int(index[-1]) - int(index[0]) + 1 == len(index):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Floats from objects, None and NA as NaN; unchanged where there is anything else."""
    out = np.empty(array.shape)
    for i, item in enumerate(array.ravel()):
        if isinstance(item, Real):
            out.flat[i] = float(item)
        elif item is None or type(item).__name__ == "NAType":
            out.flat[i] = np.nan
        else:
            return array
    return out
