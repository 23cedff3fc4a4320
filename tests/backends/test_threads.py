"""BLAS is kept to one thread while any fit needs it so, and set free again behind the last one."""

from __future__ import annotations

from threading import Barrier, Thread
from typing import Any

import pytest

pytest.importorskip("jax")
threadpoolctl = pytest.importorskip("threadpoolctl")

from pavi.backends.numpyro import compilation  # noqa: E402


class FakeController:
    """Counts limits; each remembers what it found, as threadpoolctl's do."""

    threads = 8

    def limit(self, **_: Any) -> FakeController:
        self.before, FakeController.threads = FakeController.threads, 1
        return self

    def restore_original_limits(self) -> None:
        FakeController.threads = self.before

    # What `with` does on a limit of threadpoolctl
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.restore_original_limits()


@pytest.fixture(autouse=True)
def controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeController, "threads", 8)
    monkeypatch.setattr(compilation, "ThreadpoolController", FakeController)
    monkeypatch.setattr(compilation, "_ONE_THREAD", compilation._OneThread())


def test_it_may_be_entered_again() -> None:
    with compilation.one_blas_thread():
        with compilation.one_blas_thread():
            assert FakeController.threads == 1
        assert FakeController.threads == 1
    assert FakeController.threads == 8


def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(KeyError), compilation.one_blas_thread():
        raise KeyError
    assert FakeController.threads == 8


def test_the_first_to_end_leaves_the_others_their_limit() -> None:
    both_in, one_out = Barrier(2, timeout=30), Barrier(2, timeout=30)
    seen: list[int] = []

    def first() -> None:
        with compilation.one_blas_thread():
            both_in.wait()
        one_out.wait()

    def second() -> None:
        with compilation.one_blas_thread():
            both_in.wait()
            one_out.wait()
            seen.append(FakeController.threads)

    threads = [Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [1]
    assert FakeController.threads == 8


def test_the_limit_is_blas_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "ThreadpoolController", threadpoolctl.ThreadpoolController)

    def threads() -> set[int]:
        found = threadpoolctl.threadpool_info()
        return {library["num_threads"] for library in found if library["user_api"] == "blas"}

    before = threads()
    with compilation.one_blas_thread():
        assert threads() <= {1}
    assert threads() == before
