"""Arrays that are not in memory: each kind gives the rows asked for, and reads no others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from lazy_kinds import Counted, memory_map, zarr_array

from pavi.lazy import Source, as_value

ARRAY = np.arange(7 * 5 * 2, dtype=np.float32).reshape(7, 5, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


def positions(size: int) -> st.SearchStrategy[np.ndarray]:
    chosen = st.sets(st.integers(0, size - 1), min_size=1)
    return chosen.map(lambda found: np.array(sorted(found)))


@lru_cache
def stored(folder: Path) -> dict[str, Any]:
    """Every kind of array, and of what is computed from it without being read."""
    written = xr.Dataset({"y": (("a", "b", "c"), ARRAY)})
    path = str(folder / "dataset.zarr")
    written.to_zarr(path, zarr_format=3, consolidated=False)
    opened = xr.open_zarr(path, chunks=None, consolidated=False)["y"]
    backwards = memory_map(folder, "backwards", np.ascontiguousarray(ARRAY.T))
    return {
        "memory map": memory_map(folder, "y", ARRAY),
        "view of a map": np.asarray(memory_map(folder, "y", ARRAY)),
        "transposed map": backwards.T,
        "zarr": zarr_array(folder, "y", ARRAY),
        "xarray of zarr": opened,
        "transposed xarray": opened.transpose("c", "b", "a").transpose("a", "b", "c"),
        "xarray of a map": xr.DataArray(memory_map(folder, "y", ARRAY)),
        "transposed source": _source(zarr_array(folder, "b", np.moveaxis(ARRAY, 0, 1))).transposed(
            (1, 0, 2)
        ),
    }


def _source(value: Any) -> Source:
    source = as_value("y", value)
    assert isinstance(source, Source)
    return source


@given(first=positions(7), second=positions(5), axes=st.integers(0, 2))
def test_every_kind_gives_the_rows_asked_for(
    folder: Path, first: np.ndarray, second: np.ndarray, axes: int
) -> None:
    index = (first, second)[:axes]
    wanted = ARRAY[np.ix_(*index)] if index else ARRAY
    for kind, value in stored(folder).items():
        source = _source(value)
        assert source.shape == ARRAY.shape
        assert source.dtype == ARRAY.dtype
        rows = source.read(index)
        assert type(rows) is np.ndarray, kind
        np.testing.assert_array_equal(rows, wanted, err_msg=kind)


def test_what_is_in_memory_is_no_source(folder: Path) -> None:
    mapped = memory_map(folder, "m", ARRAY)
    for value in (ARRAY, mapped + 1.0, mapped.copy(), xr.DataArray(ARRAY), [1.0, 2.0]):
        assert isinstance(as_value("y", value), np.ndarray)


def test_a_loaded_xarray_is_in_memory(folder: Path) -> None:
    assert isinstance(as_value("y", stored(folder)["xarray of zarr"].copy().load()), np.ndarray)


def test_zarr_reads_the_chunks_that_hold_the_rows_alone(folder: Path) -> None:
    """A chunk that is gone is noticed by whoever reads it, and by nobody else."""
    path = folder / "chunks.zarr"
    array = zarr.create_array(str(path), shape=(9,), chunks=(3,), dtype="f8", fill_value=-1.0)
    array[...] = np.arange(9.0)
    (path / "c" / "1").write_bytes(b"no chunk")
    source = _source(zarr.open_array(str(path), mode="r"))
    np.testing.assert_array_equal(source.read((np.array([0, 8]),)), [0.0, 8.0])
    with pytest.raises(Exception, match=r"."):
        source.read((np.array([0, 4]),))


def test_a_transposed_source_reads_no_other_rows() -> None:
    counted = Counted(ARRAY)
    turned = counted.source.transposed((1, 2, 0))
    assert turned.shape == (5, 2, 7)
    rows = turned.read((np.array([1, 3]),))
    np.testing.assert_array_equal(rows, ARRAY.transpose(1, 2, 0)[[1, 3]])
    assert counted.reads == [(7, 2, 2)]
    assert counted.source.transposed((0, 1, 2)).shape == ARRAY.shape
    assert repr(turned) == "counted array float32[5, 2, 7]"
