"""The arrays of a model that is read: those known, and those that depend on latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


class Known:
    """An array that depends on no latent; computed when it is first asked for.

    Args:
        shape: its shape.
        compute: gives its value.
        number: the one number that it repeats, if it does.
        origin: tells how it was made; equal for arrays that were made alike.
        columns: what it is joined of along its last axis, where each part is one element there.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        compute: Callable[[], Array],
        number: Known | None = None,
        origin: Callable[[], Any] | None = None,
        columns: tuple[Known, ...] = (),
    ) -> None:
        self.shape, self.number, self.columns = tuple(shape), number, columns
        self._origin = origin
        self._compute: Callable[[], Array] | None = compute
        self._value: Array = None

    @property
    def value(self) -> Array:
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value

    @cached_property
    def origin(self) -> int:
        """The same for arrays that are made in the same way of the same ones."""
        return hash(self._origin()) if self._origin else id(self)

    def then(self, shape: tuple[int, ...], name: Any, function: Callable[[Array], Array]) -> Known:
        """A function of the array, on NumPy where its numbers are at hand."""

        def compute() -> Array:
            return function(np.asarray(self.value) if self.concrete else self.value)

        return Known(shape, compute, self.number, lambda: (name, self.origin))

    def column(self, k: int) -> Known:
        """The elements at the place `k` of its last axis."""
        shape = self.shape[:-1]
        if self.columns:
            return self.columns[k].then(shape, "column", lambda array: array.reshape(shape))
        return self.then(shape, k, lambda array: array[..., k])

    @property
    def repeated(self) -> Any:
        """The one number at all of its places; None where there are more, or none is known."""
        array = self if self.number is None else self.number
        numbers = np.unique(np.asarray(array.value)) if array.concrete else np.zeros(0)
        return numbers.item() if numbers.size == 1 else None

    @property
    def random(self) -> bool:
        """Whether it is a key of random numbers."""
        return bool(jnp.issubdtype(self.value.dtype, jax.dtypes.prng_key))

    @property
    def concrete(self) -> bool:
        """Whether its numbers are at hand, and not those of a program being traced."""
        return not isinstance(self.value, jax.core.Tracer)


@dataclass(eq=False)
class Node:
    """An array that depends on latents.

    Attributes:
        primitive: name of the function, or "latent".
        inputs: its operands.
        shape: its shape.
        params: the function's fixed parameters.
        site: the latent, where it is one.
        dtype: its dtype.
    """

    primitive: str
    inputs: tuple[Node | Known, ...]
    shape: tuple[int, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    site: str = ""
    dtype: Any = None


Value = Node | Known
