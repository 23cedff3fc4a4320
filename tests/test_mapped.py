"""Arrays in files that have no names: like any other, and gone without a trace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from mapped_files import grown_by, mapped_in
from numpy.testing import assert_array_equal

from pavi import mapped


def test_an_array_in_a_file_is_like_any_other(tmp_path: Path) -> None:
    array = mapped.zeros((100, 3), "float64", tmp_path)
    assert type(array) is type(array[1:]) is np.ndarray
    assert not array.any()
    array[7] = 1.5
    mapped.release(array)
    array[[3, 5], 1] += 2.0
    expected = np.zeros((100, 3))
    expected[7], expected[[3, 5], 1] = 1.5, 2.0
    assert_array_equal(array, expected)
    assert type(array + 1.0) is np.ndarray


def test_its_file_has_no_name_and_goes_with_it(tmp_path: Path) -> None:
    array = mapped.zeros((4096,), "float32", tmp_path)
    assert list(tmp_path.iterdir()) == []
    part = array[5:]
    assert mapped_in(tmp_path) == 1
    del array
    assert mapped_in(tmp_path) == 1
    del part
    assert mapped_in(tmp_path) == 0


def test_its_place_on_the_disk_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # As on systems that cannot take it without writing
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert not mapped.zeros((3, 5), "float32", tmp_path).any()
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space"):
        mapped.zeros((3, 5), "float32", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("length", "item_bytes"), [(0, 4), (1, 4), (1000, 4), (7, 1000), (64, 8)])
def test_spans_are_all_items_in_order_in_small_parts(
    length: int, item_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "PART_BYTES", 64)
    found = list(mapped.spans(length, item_bytes))
    assert_array_equal([i for s in found for i in range(s.start, s.stop)], np.arange(length))
    assert all((s.stop - s.start) * item_bytes <= max(64, item_bytes) for s in found)


def test_nothing_is_lost_where_an_array_is_let_go_of(tmp_path: Path) -> None:
    """In memory, of a file that is only read, or of a copy of one, which is nowhere else."""
    path = tmp_path / "file"
    np.arange(8.0).tofile(path)
    memory, read, copied = np.arange(8.0), np.memmap(path, mode="r"), np.memmap(path, mode="c")
    copied[:] = 1
    for array in (memory, read, copied, memory[2:], copied[3:]):
        mapped.release(array)
    assert_array_equal(memory, np.arange(8.0))
    assert_array_equal(read.view(float), memory)
    assert (copied == 1).all()


def test_who_goes_through_a_file_takes_the_memory_of_a_part(tmp_path: Path) -> None:
    total = """
    found = 0.0
    for span in mapped.spans(len(array), array.strides[0]):
        found += array[span].sum(dtype=float)
        mapped.release(array)
    assert found == 10 * (1_000_000 * 999_999 / 2)
    """
    grown = grown_by(tmp_path, "array = filled(1_000_000, 10)", total)
    assert grown < 3 * mapped.PART_BYTES
    assert list(tmp_path.iterdir()) == []
