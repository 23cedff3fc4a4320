"""Compiling on TensorFlow: one place for what XLA:CPU needs to be told."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import tensorflow as tf

# As on JAX: reductions over short axes stay with XLA's own loops, and those with its older
# emitters. TensorFlow has no options for one function, and XLA ends the process over a flag that it
# does not know: hence the versions.
_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    " --xla_cpu_use_fusion_emitters=false"
)
_VERSIONS = ("2.21.",)
_VARIABLE = "XLA_FLAGS"


@cache
def _set_flags() -> None:
    """Has XLA read the flags, which it does once in a process, at its first compilation.

    The environment is left as it was found. Without effect where XLA has compiled before.
    """
    before = os.environ.get(_VARIABLE)
    if not tf.__version__.startswith(_VERSIONS) or (before and "xla_cpu_" in before):
        return
    os.environ[_VARIABLE] = f"{before or ''} {_FLAGS}".strip()
    try:
        tf.function(lambda: tf.constant(1.0), autograph=False, jit_compile=True)()
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `tf.function` compiled by XLA, with the flags that suit this work."""
    _set_flags()
    return tf.function(function, autograph=False, jit_compile=True)
