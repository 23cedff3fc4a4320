"""What `pavi` raises: one base class and a kind for each stage that finds mistakes; its warning."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BackendError",
    "DataError",
    "FamilyError",
    "GraphError",
    "PaviError",
    "PaviWarning",
    "StorageError",
    "did_you_mean",
]


class PaviError(ValueError):
    """A mistake that the user can mend: the message names it and says how."""


class GraphError(PaviError):
    """The plate graph is not a well-formed model."""


class DataError(PaviError):
    """The data do not fit the plate graph."""


class FamilyError(PaviError):
    """The variational family cannot be built for this graph."""


class BackendError(PaviError):
    """The backend is unknown, not installed, or cannot do what was asked."""


class StorageError(PaviError):
    """A saved run cannot be read, or belongs to another graph or to other data."""


class PaviWarning(UserWarning):
    """What may be a mistake, and may be meant: the message says how to tell which."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`" Did you mean 'county'?"` where a known name is close to `name`, else the known names."""
    names = list(known)
    close = get_close_matches(str(name), names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(map(repr, names))}." if names else ""
