"""The Zarr store of an export: what it says of itself, how it is filled, when it is whole.

It is of Zarr's format 2, which all readers know and which has strings as labels. A chunk is
replaced in one step, and so is what the store says of itself: an export that is killed leaves
cells that are written and cells that are not.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pavi.errors import BackendError, StorageError

FORMAT = 1
_ATTRIBUTES, _CONSOLIDATED = ".zattrs", ".zmetadata"
# How Zarr calls a file before it is whole.
_PARTIAL = ".partial"
# Zarr's compressor takes chunks of up to 2 GB.
_CHUNK_BYTES = 1 << 29


@dataclass(frozen=True)
class Target:
    """An array to be filled: its axes are named, and read and written by chunks."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str


class Store:
    """An export in a folder, new or begun.

    Args:
        path: the folder.
        identity: what the export is known by, as JSON has it; it becomes the store's attributes.

    Attributes:
        path: the folder.
        complete: whether all is written.
        layout: how it is parted, as given to `create`; None before.
        done: how many cells are written.

    Raises:
        BackendError: Zarr is not installed.
        StorageError: the folder holds another export, or something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._zarr = _import_zarr()
        self.path = path
        self._identity: dict[str, Any] = {"format": FORMAT, **json.loads(json.dumps(identity))}
        self.complete, self.done, self._cells = False, 0, 0
        self.layout: dict[str, Any] | None = None
        self._group: Any = None
        self._arrays: dict[str, Any] = {}
        found = self._found()
        if found is None:
            return
        self.complete = found["complete"] is True
        if "cells_done" in found:
            self.layout = json.loads(found["layout"])
            self.done, self._cells = int(found["cells_done"]), int(found["cells"])
            self._group = self._open("r+")
        if self.complete and not self._is_consolidated():
            self.finish()

    def create(
        self,
        targets: Sequence[Target],
        coordinates: Mapping[str, np.ndarray],
        layout: Mapping[str, Any],
        cells: int,
    ) -> None:
        """Makes the arrays, empty, and writes the coordinates.

        Args:
            targets: the arrays.
            coordinates: labels by the name of their axis.
            layout: how the export is parted, as JSON has it: whoever goes on needs it.
            cells: how many cells there will be.
        """
        with self._writing():
            self._group = self._open("a")
            self._group.attrs.put({**self._identity, "complete": False})
            for target in targets:
                self._group.create_array(
                    target.name,
                    shape=target.shape,
                    chunks=_capped(target.chunks, np.dtype(target.dtype).itemsize),
                    dtype=target.dtype,
                    fill_value=np.nan,
                    attributes={"_ARRAY_DIMENSIONS": list(target.dims)},
                    overwrite=True,
                )
            for name, labels in coordinates.items():
                array = self._group.create_array(
                    name,
                    shape=labels.shape,
                    chunks=_capped(labels.shape, labels.dtype.itemsize),
                    dtype=labels.dtype,
                    fill_value=None,  # any value would be read as a missing one
                    attributes={"_ARRAY_DIMENSIONS": [name]},
                    overwrite=True,
                )
                array[:] = labels
            self._consolidate()
            self._cells, self.done = cells, 0
            self._group.attrs.update(
                {"layout": json.dumps(dict(layout)), "cells": cells, "cells_done": 0}
            )

    def write(self, name: str, region: tuple[slice | np.ndarray, ...], value: np.ndarray) -> None:
        """Writes a part of an array."""
        with self._writing():
            if name not in self._arrays:
                self._arrays[name] = self._group[name]
            array = self._arrays[name]
            array.set_orthogonal_selection(region, value.astype(array.dtype, copy=False))

    def advance(self) -> None:
        """Says that one more cell is written."""
        with self._writing():
            self._group.attrs.update({"cells_done": self.done + 1})
        self.done += 1

    def finish(self) -> None:
        """Says that all is written, once it is on the disk."""
        with self._writing():
            for file in list(self.path.rglob("*")):
                if file.name.endswith(_PARTIAL):
                    # What was being written when an export was killed.
                    file.unlink()
                elif file.is_file() and os.name != "nt":  # Windows syncs no file open for reading
                    _sync(file)
            group = self._open("r+")
            group.attrs.update({"complete": True})
            self._consolidate()
        self.complete = True

    def _open(self, mode: str) -> Any:
        return self._zarr.open_group(
            str(self.path), mode=mode, zarr_format=2, use_consolidated=False
        )

    def _consolidate(self) -> None:
        self._zarr.consolidate_metadata(str(self.path), zarr_format=2)

    def _is_consolidated(self) -> bool:
        path = self.path / _CONSOLIDATED
        found = json.loads(path.read_text()) if path.is_file() else {}
        return bool(found.get("metadata", {}).get(_ATTRIBUTES, {}).get("complete", False))

    def _found(self) -> dict[str, Any] | None:
        """What the folder says of itself; None where nothing was begun."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file, not a folder; export to a new folder.")
        names = {p.name for p in path.iterdir()} if path.exists() else set()
        # What is left of an export that was cut off before it could say what it is.
        if all(name == ".zgroup" or name.endswith(_PARTIAL) for name in names):
            return None
        try:
            found = json.loads((path / _ATTRIBUTES).read_text())
            identity = {key: found.get(key) for key in self._identity}
            ours = isinstance(found["complete"], bool) and "posterior" in found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            ours = False
        if not ours:
            raise StorageError(f"{path} holds something that is no export; export to a new folder.")
        differ = [key for key, value in self._identity.items() if identity[key] != value]
        if differ:
            parts = "; ".join(_difference(k, identity[k], self._identity[k]) for k in differ)
            raise StorageError(
                f"{path} holds {'an' if found['complete'] else 'an unfinished'} export that "
                f"differs from this one: {parts}. Export to a new folder, or remove it."
            )
        return dict(found)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says how far the export has come where a file cannot be written."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The export to {self.path} stopped after {self.done} of {self._cells} cells: "
                f"{error}. It is not complete, and its attribute `complete` is false; make room "
                "and call export again with the same arguments, and it goes on."
            ) from error


def _import_zarr() -> Any:
    try:
        return importlib.import_module("zarr")
    except ImportError as error:
        raise BackendError(
            f"An export needs Zarr, which cannot be imported: {error}. Install its extra, "
            "pip install 'pavi-vi[export]'."
        ) from error


def _difference(key: str, there: Any, here: Any) -> str:
    digests = isinstance(here, str) and len(here) == 64
    return f"another {key}" if digests else f"{key} is {there!r} there and {here!r} here"


def _capped(chunks: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks that are cut, along the first axes first, to what can be compressed."""
    out = [max(n, 1) for n in chunks]
    for axis in range(len(out)):
        while prod(out) * itemsize > _CHUNK_BYTES and out[axis] > 1:
            out[axis] = -(-out[axis] // 2)
    return tuple(out)


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
