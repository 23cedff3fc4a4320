"""Checkpoints: whole or passed over, of one run, the last few kept; signals wait for a save."""

from __future__ import annotations

import errno
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pavi.checkpoint import KEPT, Checkpoints, stop_requests
from pavi.errors import StorageError
from pavi.lazy import is_mapped

RUN = {"seed": 0, "steps": 4}


def saved(folder: Path, count: int = 5) -> Checkpoints:
    kept = Checkpoints(folder, RUN, every=0.0)
    for step in range(1, count + 1):
        kept.save(step, {"step": step}, {"x": np.full(3, float(step))})
    return kept


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new", RUN).latest() is None


def test_the_newest_is_found_and_the_last_few_are_kept(tmp_path: Path) -> None:
    found = saved(tmp_path).latest()
    assert found is not None
    state, arrays = found
    assert state == {"step": 5}
    np.testing.assert_array_equal(arrays["x"], np.full(3, 5.0))
    assert len(list(tmp_path.iterdir())) == KEPT


def test_one_is_due_once_its_time_has_come(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, RUN, every=0.0).due()
    assert not Checkpoints(tmp_path, RUN, every=60.0).due()


@pytest.mark.parametrize("harm", ["truncate", "edit", "remove", "description"])
def test_a_torn_one_is_named_and_the_one_before_it_used(tmp_path: Path, harm: str) -> None:
    kept = saved(tmp_path)
    newest = max(tmp_path.iterdir())
    (weights,) = newest.glob("weights-*")
    match harm:
        case "truncate":
            weights.write_bytes(weights.read_bytes()[:-4])
        case "edit":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        case "remove":
            weights.unlink()
        case "description":
            (newest / "run.json").write_text("{")
    with pytest.warns(UserWarning, match=newest.name):
        found = kept.latest()
    assert found is not None
    assert found[0] == {"step": 4}


def test_where_none_is_whole_an_error_names_them(tmp_path: Path) -> None:
    kept = saved(tmp_path, 2)
    for path in tmp_path.glob("*/run.json"):
        path.unlink()
    with pytest.raises(StorageError, match=r"step-000000000002.*resume=False"):
        kept.latest()


def test_one_of_another_run_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(StorageError, match=r"seed: 0 there, 7 here.*resume=False"):
        Checkpoints(tmp_path, RUN | {"seed": 7}).latest()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        Checkpoints(tmp_path, RUN)
    with pytest.raises(StorageError, match="is a file"):
        Checkpoints(tmp_path / "thesis.tex", RUN)


def test_all_may_be_removed(tmp_path: Path) -> None:
    kept = saved(tmp_path)
    kept.clear()
    assert kept.latest() is None


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_disk_that_fills_up_leaves_the_one_before(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the weights, at their end, or in the description that makes them a checkpoint."""
    kept, count = saved(tmp_path), iter(range(10))
    sync = os.fsync

    def full(handle: int) -> None:
        if next(count) == writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"step 6.*No space.*make room"):
            kept.save(6, {"step": 6}, {"x": np.full(3, 6.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error" if not writes else "ignore")
        found = Checkpoints(tmp_path, RUN).latest()
    assert found is not None
    assert found[0] == {"step": 5}
    np.testing.assert_array_equal(found[1]["x"], np.full(3, 5.0))
    kept.save(6, {"step": 6}, {"x": np.full(3, 6.0)})
    found = kept.latest()
    assert found is not None
    assert found[0] == {"step": 6}


def test_large_tables_are_mapped_and_removed_nevertheless(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, RUN, table_memory=0)
    for step in range(1, 6):
        kept.save(step, {"step": step}, {"tables:x": np.full(3, float(step)), "x": np.zeros(2)})
        if step == 1:
            found = kept.latest()
    assert found is not None
    assert is_mapped(found[1]["tables:x"])
    assert not is_mapped(found[1]["x"])
    np.testing.assert_array_equal(found[1]["tables:x"], np.ones(3))
    assert len(list(tmp_path.iterdir())) == KEPT


@pytest.fixture
def handlers() -> Iterator[None]:
    """Python's own handler of SIGINT, which a test runner may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_the_end_of_the_block(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as received:
        os.kill(os.getpid(), number)
        assert received == [number]
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_is_obeyed_at_once() -> None:
    with stop_requests() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_requests() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == []
