"""Checkpoints of a fit: each a folder written whole or not at all, the last few kept."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pavi import storage
from pavi.errors import StorageError
from pavi.tables import TABLE_MEMORY

KEPT = 3
SECONDS = 60.0
_FOLDER = re.compile(r"step-(\d{12})")


class Checkpoints:
    """The checkpoints in one folder, all of one run.

    Args:
        folder: where they are; made if need be.
        identity: what a run is known by; a checkpoint of another run is refused.
        every: seconds between two checkpoints; 0 for one after each record.
        table_memory: where a checkpoint's tables take more bytes, they are mapped and not read.

    Raises:
        StorageError: the folder holds something else.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        every: float = SECONDS,
        table_memory: int = TABLE_MEMORY,
    ) -> None:
        self._folder, self._identity, self._every = folder, dict(identity), every
        self._table_memory = table_memory
        self._last = time.monotonic()
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{folder} is a file, not a folder; give an empty or a new folder.")
        foreign = [p.name for p in folder.iterdir() if not _is_ours(p)] if folder.exists() else []
        if foreign:
            raise StorageError(
                f"{folder} holds {foreign[0]!r}, which is no checkpoint; give an empty or a new "
                "folder."
            )

    def latest(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The newest checkpoint that is whole; None where there is none at all.

        A torn one is named in a warning, and the one before it is taken.

        Raises:
            StorageError: none is whole, or the newest whole one is of another run.
        """
        torn: list[str] = []
        for path in sorted(self._found(), reverse=True):
            try:
                keys = {"identity", "state"}
                description, arrays = storage.read(path, keys, self._table_memory)
            except StorageError as error:
                torn.append(str(error))
                continue
            self._check(path, description["identity"])
            for complaint in torn:
                warnings.warn(f"A checkpoint is passed over: {complaint}", stacklevel=2)
            return description["state"], arrays
        if torn:
            raise StorageError(
                f"No checkpoint in {self._folder} is whole: {' '.join(torn)} Start anew with "
                "resume=False."
            )
        return None

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._every

    def save(self, step: int, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a checkpoint, then removes those beyond the last few.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._folder / f"step-{step:012d}"
        try:
            storage.write(path, {"identity": self._identity, "state": dict(state)}, arrays)
        except OSError as error:
            # Where nothing was written there is no checkpoint to be passed over.
            with suppress(OSError):
                path.rmdir()
            raise StorageError(
                f"The fit stopped at step {step}, where its checkpoint could not be written: "
                f"{error}. Those before it in {self._folder} are whole: make room, and the same "
                "call goes on from the newest."
            ) from error
        for old in sorted(self._found())[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._last = time.monotonic()

    def clear(self) -> None:
        """Removes all of them."""
        for path in self._found():
            shutil.rmtree(path)

    def _found(self) -> list[Path]:
        return [p for p in self._folder.iterdir() if _is_ours(p)] if self._folder.exists() else []

    def _check(self, path: Path, identity: Any) -> None:
        if not isinstance(identity, dict):
            raise StorageError(f"{path} does not say what run it is of; start with resume=False.")
        names = sorted(identity.keys() | self._identity.keys())
        differing = [n for n in names if identity.get(n) != self._identity.get(n)]
        if differing:
            shown = "; ".join(
                f"{name}: {_short(identity.get(name))} there, {_short(self._identity.get(name))} "
                "here"
                for name in differing
            )
            raise StorageError(
                f"{path} is a checkpoint of another run ({shown}). Give another folder, or "
                "resume=False to start anew in this one."
            )


@contextmanager
def stop_requests(*, enabled: bool = True) -> Iterator[list[int]]:
    """Signals that ask the process to end, collected instead of obeyed until the block is over.

    SIGINT and SIGTERM where they are not ignored, in the main thread; a second one of a kind is
    obeyed at once.
    """
    received: list[int] = []
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {int(number): signal.getsignal(number) for number in numbers}
    # What the process ignores, or what was set outside of Python, is left alone.
    before = {k: v for k, v in before.items() if v not in (signal.SIG_IGN, None)}

    def collect(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, collect)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ours(path: Path) -> bool:
    return path.is_dir() and _FOLDER.fullmatch(path.name) is not None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
