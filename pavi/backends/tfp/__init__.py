"""The TFP adapter: programs on TensorFlow, surrogates and joint distributions of TFP."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["build_pavi_surrogate_posterior", "build_pavi_surrogate_posterior_stateless"]


def __getattr__(name: str) -> Any:
    """Resolves a builder on first use: the package itself does not load TensorFlow."""
    if name not in __all__:
        raise AttributeError(f"module 'pavi.backends.tfp' has no attribute {name!r}")
    return getattr(import_module("pavi.backends.tfp.surrogate"), name)
