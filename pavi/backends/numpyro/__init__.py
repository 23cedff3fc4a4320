"""The NumPyro adapter: programs on JAX, guides and models of NumPyro."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["AutoPAVI"]


def __getattr__(name: str) -> Any:
    """Resolves the autoguide on first use: the package itself does not load JAX."""
    if name not in __all__:
        raise AttributeError(f"module 'pavi.backends.numpyro' has no attribute {name!r}")
    return getattr(import_module("pavi.backends.numpyro.autoguide"), name)
