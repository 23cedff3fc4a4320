"""The rows that one step sees: one index source for the model, the guide and the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Array = Any


class Batch(NamedTuple):
    """Arrays of a full or a reduced model, a pytree for either framework.

    Attributes:
        values: covariates and observed values, `[*plates, *event]`, in the run's float dtype.
        masks: 1 where present and 0 where missing, for observed variables with missing values.
        members: position, within the batch, of the owner of each row, by `"plate/owner"`.
        indices: ground index of each row, by plate; the plate's size for padding.
        weights: inverse probability that the row is in the batch, its owners' included; 0 for
            padding.
    """

    values: Mapping[str, Array]
    masks: Mapping[str, Array]
    members: Mapping[str, Array]
    indices: Mapping[str, Array]
    weights: Mapping[str, Array]

    def __repr__(self) -> str:
        parts = [
            f"{part}: {', '.join(f'{name}{_shape(array)}' for name, array in arrays.items())}"
            for part, arrays in self._asdict().items()
            if arrays
        ]
        return f"Batch({'; '.join(parts)})"


def _shape(array: Array) -> str:
    """`[3, 2]`; nothing for what a framework puts in an array's place."""
    shape = getattr(array, "shape", None)
    return "" if shape is None else str(list(shape))
