"""Files of safetensors by parts: the library reads what is written, and what it writes is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors import SafetensorError
from safetensors.numpy import load, save
from small_models import rng

from pavi import mapped, tensor_file
from pavi.lazy import is_mapped

ARRAYS = {
    "tables:b": rng(0).normal(size=(50, 3)).astype(np.float32),
    "tables:a": np.asfortranarray(rng(1).normal(size=(4, 7))),
    'weights:é " \n': rng(2).normal(size=(2, 3, 4)).astype(np.float16),
    "scalar": np.array(-1.5),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False, True]),
    "strided": np.arange(20, dtype=np.int32)[::3],
    "swapped": np.arange(5, dtype=">i8"),
    **{f"integers {d}": np.arange(3, dtype=d) for d in ("i1", "i2", "i8", "u1", "u2", "u4", "u8")},
}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_array_equal(found[name], value, err_msg=name)
        assert found[name].shape == value.shape
        assert found[name].dtype.name == value.dtype.name


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "PART_BYTES", 100)


@pytest.mark.usefixtures("small_parts")
def test_the_library_reads_what_is_written() -> None:
    parts = list(tensor_file.parts(ARRAYS))
    assert max(len(part) for part in parts[1:]) == 100
    same(load(b"".join(parts)), ARRAYS)
    assert load(b"".join(tensor_file.parts({}))) == {}


def test_of_one_dtype_it_is_the_librarys_file() -> None:
    arrays = {name: np.full((2, i), float(i)) for i, name in enumerate("cab")}
    assert b"".join(tensor_file.parts(arrays)) == save(arrays)


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("ours", [False, True])
def test_what_is_written_is_read(memory: int, ours: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    native = {n: v.astype(v.dtype.newbyteorder("="), order="C") for n, v in ARRAYS.items()}
    content = b"".join(tensor_file.parts(ARRAYS)) if ours else save(native, {"note": "by another"})
    path.write_bytes(content)
    found = tensor_file.read(path, "tables:", memory)
    same(found, native)
    for name, value in found.items():
        assert is_mapped(value) == (not memory and name.startswith("tables:"))
        assert value.flags.writeable != is_mapped(value)
        assert value.flags.aligned


def test_the_memory_is_for_all_tables_together(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(tensor_file.parts(ARRAYS)))
    size = ARRAYS["tables:a"].nbytes + ARRAYS["tables:b"].nbytes
    assert not is_mapped(tensor_file.read(path, "tables:", size)["tables:a"])
    assert is_mapped(tensor_file.read(path, "tables:", size - 1)["tables:a"])
    assert is_mapped(tensor_file.read(path, "tables:", size - 1)["tables:b"])


@pytest.mark.parametrize("kept", [0, 7, 30, -1])
def test_what_is_no_such_file_is_not_believed(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(tensor_file.parts(ARRAYS))[:kept])
    with pytest.raises(SafetensorError):
        tensor_file.read(path, "tables:", 0)
