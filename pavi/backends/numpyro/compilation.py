"""Compiling and running on JAX: one place for what XLA:CPU and its LAPACK need to be told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
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


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with the options that suit this work."""
    chosen = _options() if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=chosen, **options)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keeps LAPACK to one thread: its matrices here are small, and XLA has threads of its own.

    On a busy machine LAPACK's threads wait for one another longer than they work.
    """
    return _controller().limit(limits=1, user_api="blas")
