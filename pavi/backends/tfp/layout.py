"""Values of a joint distribution and of the latents of a graph: their axes and structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Layout(NamedTuple):
    """How a part's value relates to its variable's array `[*plates, *event]`.

    Attributes:
        shape: of the part's value.
        order: its dimensions in the order of the variable's axes; those of size 1 that the variable
            does not have come last.
        sizes: of the variable's array.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, sizes: tuple[int, ...]) -> Layout:
        """That of a value which is the variable's array itself."""
        return cls(sizes, tuple(range(len(sizes))), sizes)

    def to_host(self, value: tf.Tensor, lead: Sequence[int]) -> tf.Tensor:
        """`[S, *plates, *event]` as `[*lead, *shape]`, the product of `lead` being S."""
        if self.order == tuple(range(len(self.shape))):
            return tf.reshape(value, (*lead, *self.shape))
        ordered = tf.reshape(value, (prod(lead), *(self.shape[d] for d in self.order)))
        back = np.argsort(self.order)
        return tf.reshape(tf.transpose(ordered, (0, *(1 + back))), (*lead, *self.shape))

    def to_variable(self, value: tf.Tensor) -> tf.Tensor:
        """`[*lead, *shape]` as `[*lead, *plates, *event]`."""
        lead = len(value.shape) - len(self.shape)
        if self.order != tuple(range(len(self.shape))):
            value = tf.transpose(value, (*range(lead), *(lead + d for d in self.order)))
        return tf.reshape(value, (*value.shape[:lead], *self.sizes))


def leaves(structure: Any) -> tuple[Any, ...]:
    """The entries of a dict, of a named tuple or of a sequence."""
    return tuple(structure.values()) if isinstance(structure, Mapping) else tuple(structure)


def entries(structure: Any, value: Any) -> tuple[Any, ...]:
    """The entries of `value`, in the order of `structure`."""
    if isinstance(structure, Mapping):
        return tuple(value[key] for key in structure)
    if hasattr(structure, "_fields") and isinstance(value, Mapping):
        return tuple(value[field] for field in structure._fields)
    return tuple(value)


def restructured(structure: Any, entries: Iterable[Any]) -> Any:
    """`structure` with other entries, in the same order."""
    given: Iterator[Any] = iter(entries)
    if isinstance(structure, Mapping):
        return type(structure)((key, next(given)) for key in structure)  # type: ignore[call-arg]
    if hasattr(structure, "_fields"):
        return type(structure)(*given)
    return type(structure)(given)
