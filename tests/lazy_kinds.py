"""The same data in memory, in files and from a function, and a count of the rows that are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from pavi import Data, PlateGraph
from pavi.lazy import Index, Source, as_value

KINDS = ("memory map", "zarr", "xarray", "xarray of a map", "function")


class Counted:
    """An array that counts what is read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.reads = array, list[tuple[int, ...]]()

    @property
    def source(self) -> Source:
        return Source(self.array.shape, self.array.dtype, "counted array", self._read)

    @property
    def rows(self) -> int:
        return sum(int(np.prod(read)) for read in self.reads)

    def _read(self, index: Index) -> np.ndarray:
        for positions in index:
            assert (np.diff(positions) > 0).all(), "distinct and in order"
        self.reads.append(tuple(map(len, index)))
        return np.asarray(self.array[np.ix_(*index)] if index else self.array)


def memory_map(folder: Path, name: str, array: np.ndarray) -> np.ndarray:
    path = folder / f"{name}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def zarr_array(folder: Path, name: str, array: np.ndarray) -> Any:
    chunks = tuple(max(1, (n + 2) // 3) for n in array.shape)
    out = zarr.create_array(
        str(folder / f"{name}.zarr"),
        shape=array.shape,
        chunks=chunks,
        dtype=array.dtype,
        overwrite=True,
    )
    out[...] = array
    return out


def answering(graph: PlateGraph, values: Mapping[str, np.ndarray]) -> Callable[..., Any]:
    """A function that gives rows of arrays."""

    def rows(indices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = {}
        for name, array in values.items():
            plates = graph.variables[name].plates
            assert set(plates) <= indices.keys()
            out[name] = array[np.ix_(*(indices[p] for p in plates))] if plates else array
        return out

    return rows


def dataset(graph: PlateGraph, values: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Arrays with their dimensions in another order than the graph's: the plates backwards."""
    variables = {}
    for name, array in values.items():
        plates = graph.variables[name].plates
        dims = [*plates, *(f"{name}_{i}" for i in range(array.ndim - len(plates)))]
        order = [*range(len(plates) - 1, -1, -1), *range(len(plates), array.ndim)]
        variables[name] = ([dims[i] for i in order], np.transpose(array, order))
    return xr.Dataset(variables)


def of_kind(kind: str, graph: PlateGraph, data: Data, folder: Path) -> Data:
    """`data`, whose values are in memory, with values of another kind."""
    values = {name: np.asarray(value) for name, value in data.values.items()}
    given: dict[str, Any]
    if kind == "function":
        sizes = data.bind(graph).sizes
        return Data({}, data.members, sizes, rows=answering(graph, values))
    if kind == "xarray":
        path = str(folder / "dataset.zarr")
        stored = dataset(graph, values)
        stored.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
        read = Data.from_xarray(xr.open_zarr(path, chunks=None, consolidated=False))
        return Data(read.values, data.members, data.sizes, dims=read.dims)
    if kind == "memory map":
        given = {name: memory_map(folder, name, array) for name, array in values.items()}
    elif kind == "zarr":
        given = {name: zarr_array(folder, name, array) for name, array in values.items()}
    else:
        given = {
            name: xr.DataArray(memory_map(folder, name, array)) for name, array in values.items()
        }
    assert all(isinstance(as_value(name, value), Source) for name, value in given.items())
    return Data(given, data.members, data.sizes)
