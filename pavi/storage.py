"""A run's files: weights in safetensors, the rest in JSON, checked by SHA-256; no pickle, ever.

The description is the run: it names the file of its weights, which is called by its digest, and
replacing the description is one atomic step. Whatever cuts a save off leaves the old run or the new
one, and files that the next save removes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from pavi import tensor_file
from pavi.errors import StorageError
from pavi.tables import TABLE_MEMORY

FORMAT = 5
_RUN, _PART = "run.json", ".part"
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
# What weights are called until their digest is known.
_UNNAMED = "weights"
# What the names of free tables begin with, of a posterior as of a checkpoint.
_TABLES = "tables:"
# What `write` adds to a description.
_OWN_KEYS = ("format", "weights", "weights_sha256")


def check_folder(folder: Path) -> None:
    """Raises unless a run can be written to a folder: a new one, an empty one, or a run's.

    Raises:
        StorageError: the folder is a file, or holds something that is not a run.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, not a folder; give an empty or a new folder.")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # What an interrupted save leaves of a first run is nobody's work.
    if _RUN not in found and not all(map(_is_ours, found)):
        raise StorageError(
            f"{folder} holds files that are not a saved run; give an empty or a new folder."
        )


def write(folder: Path, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a run, whole or not at all; arrays in mapped files are not read into memory.

    Args:
        folder: where to; a run that is there already is replaced, other files beside it stay.
        description: what is not an array, as JSON has it.
        arrays: by name.

    Raises:
        StorageError: the folder holds something that is not a run.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The weights are on the disk before the description that names them is.
    digest = _place(folder, _UNNAMED, tensor_file.parts(arrays), _weights_name)
    name = _weights_name(digest)
    run = {**description, "format": FORMAT, "weights": name, "weights_sha256": digest}
    text = _text({"sha256": _seal(run), "run": run})
    _place(folder, _RUN, [memoryview(text.encode())])
    for path in list(folder.iterdir()):
        if _is_ours(path.name) and path.name not in (_RUN, name):
            os.unlink(path)


def read(
    folder: Path, keys: Iterable[str], table_memory: int = TABLE_MEMORY
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a run.

    Args:
        folder: where it was written.
        keys: what the description must have.
        table_memory: where the free tables take more bytes, they are mapped and not read: the
            file must then stay as it is.

    Raises:
        StorageError: not a run, or a file that is truncated, edited or of another version.
    """
    run = _read_description(folder, {*keys, *_OWN_KEYS})
    return run, _read_weights(folder, run["weights"], run["weights_sha256"], table_memory)


def _is_ours(name: str) -> bool:
    whole = name.removesuffix(_PART)
    named = whole == _RUN or _WEIGHTS.fullmatch(whole) is not None
    return named or name == f"{_UNNAMED}{_PART}"


def _weights_name(digest: str) -> str:
    return f"weights-{digest[:16]}.safetensors"


def _place(
    folder: Path,
    name: str,
    content: Iterable[memoryview],
    final: Callable[[str], str] | None = None,
) -> str:
    """Writes a file whole, on the disk when this returns, by parts of what it holds.

    Returns:
        Its SHA-256; `final` says what a file is called that is named by it.
    """
    part, digest = folder / f"{name}{_PART}", sha256()
    try:
        with part.open("wb") as stream:
            for piece in content:
                stream.write(piece)
                digest.update(piece)
            stream.flush()
            os.fsync(stream.fileno())
        found = digest.hexdigest()
        os.replace(part, folder / (final(found) if final else name))
    except OSError:
        # A disk that is full should not stay so for a part of a file.
        with suppress(OSError):
            os.unlink(part)
        raise
    if os.name != "nt":  # Windows opens no folders
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
    return found


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=1, sort_keys=True)


def _seal(description: Mapping[str, Any]) -> str:
    return sha256(_text(description).encode()).hexdigest()


def _read_description(folder: Path, keys: set[str]) -> dict[str, Any]:
    path = folder / _RUN
    if not path.is_file():
        raise StorageError(f"{folder} holds no saved run: {_RUN} is missing.")
    try:
        sealed = json.loads(path.read_text())
        run, seal = sealed["run"], sealed["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} is truncated or is not a run's description ({error}); restore it or fit again."
        ) from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise StorageError(
            f"{path} has format {run.get('format') if isinstance(run, dict) else None}; this "
            f"version of pavi reads format {FORMAT}."
        )
    if _seal(run) != seal:
        raise StorageError(f"{path} was edited after it was saved; restore it or fit again.")
    absent = sorted(keys - run.keys())
    if absent:
        raise StorageError(
            f"{path} says nothing of {', '.join(map(repr, absent))}; it was written by another "
            "version of pavi: fit again."
        )
    return run


def _read_weights(folder: Path, name: Any, digest: str, table_memory: int) -> dict[str, np.ndarray]:
    if not isinstance(name, str) or not _WEIGHTS.fullmatch(name):
        raise StorageError(
            f"{folder / _RUN} names {name!r} as its weights, which is no such file; restore it or "
            "fit again."
        )
    path = folder / name
    if not path.is_file():
        raise StorageError(f"{folder} holds no weights: {name} is missing; restore it.")
    with path.open("rb") as stream:
        found = file_digest(stream, "sha256").hexdigest()
    if found != digest:
        raise StorageError(
            f"{path} is truncated, was edited, or belongs to another run (its SHA-256 is not the "
            f"one in {_RUN}); restore it or fit again."
        )
    try:
        return tensor_file.read(path, _TABLES, table_memory)
    except SafetensorError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
