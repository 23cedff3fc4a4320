"""Several parts' values in one mapping, told apart by a prefix of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def prefixed(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    """A part's values, by the names that they have among other parts'."""
    return {prefix + name: value for name, value in values.items()}


def part_of(prefix: str, values: Mapping[str, T]) -> dict[str, T]:
    """The values of the part that has a prefix, by its own names."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
