"""Files of safetensors part by part: the library makes one of all its bytes, and reads all of one.

A file is the length of its header, 8 bytes, little-endian; the header, in JSON; the arrays' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from pavi.mapped import release, spans

# How the format calls a dtype.
_NAMES = {
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in _NAMES.items()}


def parts(arrays: Mapping[str, np.ndarray]) -> Iterator[memoryview]:
    """The file of some arrays; it takes the memory of a part, not of a mapped array."""
    # The largest items come first, so that each array lies at a multiple of its items' size.
    values = {name: np.asarray(value) for name, value in arrays.items()}
    names = sorted(values, key=lambda name: (-values[name].itemsize, name))
    header, end = {}, 0
    for name in names:
        value, start = values[name], end
        end += value.nbytes
        header[name] = {
            "dtype": _NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        dtype = _DTYPES[_NAMES[values[name].dtype.name]]
        content = np.asarray(values[name], dtype, order="C").reshape(-1).view(np.uint8)
        for span in spans(len(content), 1):
            yield content[span].data
            release(content)


def read(path: Path, prefix: str, memory: int) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Args:
        path: the file.
        prefix: what the names of arrays that may be large begin with.
        memory: where these together take more bytes, they are mapped, read-only.

    Raises:
        safetensors.SafetensorError: it is no such file.
    """
    # The library checks the header before any of it is believed.
    with safe_open(path, framework="np") as file:
        places = _places(path)
        large = {name: place for name, place in places.items() if name.startswith(prefix)}
        if sum(prod(shape) * dtype.itemsize for dtype, shape, _ in large.values()) <= memory:
            large = {}
        out: dict[str, np.ndarray] = {}
        for name in places:
            if name in large:
                dtype, shape, start = large[name]
                out[name] = np.asarray(np.memmap(path, dtype, "r", start, shape))
            else:
                out[name] = file.get_tensor(name)
    return out


def _places(path: Path) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]:
    """Dtype, shape and first byte of each array of a file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: (
            _DTYPES[entry["dtype"]],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
