"""Compiling and running on JAX: one place for what XLA:CPU and its LAPACK need to be told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
from threadpoolctl import ThreadpoolController

# XLA:CPU hands reductions over short axes (events of size 2) to a library that takes ten times as
# long for them as XLA's own loops; dot products stay with it. The older emitters of these loops
# compile in half the time, to steps as fast.
_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    "xla_cpu_use_fusion_emitters": False,
}


@cache
def _options() -> dict[str, str | bool] | None:
    """The options, where this version of XLA knows them."""
    try:
        jax.jit(lambda x: x + 1.0, compiler_options=_OPTIONS)(jnp.zeros(()))
    except Exception as error:  # XLA's own error type is not public.
        if "option" not in str(error) and "xla_cpu" not in str(error):
            raise
        return None
    return _OPTIONS


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with the options that suit this work."""
    chosen = _options() if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=chosen, **options)


class _OneThread:
    """Limits BLAS to one thread while anyone needs it so, in whatever thread.

    The limit is the process's own: of several fits at once the first sets it, and the last one to
    end gives back what was there before.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._controller: ThreadpoolController | None = None
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                # Looking for the libraries takes longer than limiting them.
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limit, limit = None, self._limit
                limit.restore_original_limits()


_ONE_THREAD = _OneThread()


def one_blas_thread() -> AbstractContextManager[None]:
    """Keeps LAPACK to one thread: its matrices here are small, and XLA has threads of its own.

    On a busy machine LAPACK's threads wait for one another longer than they work. May be entered
    again, in the same thread or in others.
    """
    return _ONE_THREAD
