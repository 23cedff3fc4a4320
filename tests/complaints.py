"""What a test of a mistake asserts: the kind of the error, and what its message names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import pavi


def graph_error(build: Callable[[], object], *parts: str) -> None:
    """`build` raises a GraphError whose message has every one of `parts`."""
    _raises(pavi.GraphError, build, parts)


def data_error(build: Callable[[], object], *parts: str) -> None:
    """`build` raises a DataError whose message has every one of `parts`."""
    _raises(pavi.DataError, build, parts)


def _raises(kind: type[Exception], build: Callable[[], object], parts: tuple[str, ...]) -> None:
    with pytest.raises(kind) as caught:
        build()
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in {caught.value}"
    assert isinstance(caught.value, pavi.PaviError)
    assert isinstance(caught.value, ValueError)
    assert re.search(r"[.?]$", str(caught.value)), "a message ends with its remedy, a sentence"
