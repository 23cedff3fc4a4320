"""Bytes in words."""

from __future__ import annotations

import pytest

from pavi.byte_sizes import readable


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
    ],
)
def test_bytes_are_in_the_largest_unit(count: int, words: str) -> None:
    assert readable(count) == words
