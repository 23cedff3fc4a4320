"""What a compiled call is given: the rows of its steps, gathered beforehand, and where tables go.

Rows are gathered here, on the host, so that a compiled program holds what its steps see and never
the data they were drawn from. Tables likewise: a call is given the rows that its steps touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.plan import GuidePlan
from pavi.subsampling import Sampler, Selection, full_batch
from pavi.tables import table_rows

Array = Any

# Most bytes of gathered rows in one call.
CALL_BYTES = 1 << 26


class Call(NamedTuple):
    """What one compiled call is given besides its state.

    Attributes:
        batch: arrays `[steps, ...]` of what differs from step to step.
        places: rows of the call's tables that each step sees, `[steps, rows]`, by block; a step
            sees all rows of the other blocks' tables.
    """

    batch: Batch
    places: dict[str, Array]


class Drawn(NamedTuple):
    """A call, and the rows of each table that it is given: all copies where None."""

    call: Call | None
    rows: dict[str, np.ndarray | None]


def together(resident: Batch, own: Batch) -> Batch:
    """The batch of one step: what all steps share, and its own arrays."""
    return Batch(*({**shared, **mine} for shared, mine in zip(resident, own, strict=True)))


class Feed:
    """Gathers the calls of a run.

    Args:
        plan: the plan.
        bound: validated data.
        sampler: draws the rows of each step; None where every step sees all of them.
        dtype: floating dtype of the run.

    Attributes:
        resident: the part of the batch that all steps share.
    """

    def __init__(
        self, plan: GuidePlan, bound: BoundData, sampler: Sampler | None, dtype: str
    ) -> None:
        self._plan, self._bound, self._sampler, self._dtype = plan, bound, sampler, dtype
        drawn = set(sampler.rows) if sampler else set()
        self.resident = full_batch(bound, dtype, without=frozenset(drawn))
        self._tables = {b.name: bool(drawn & set(b.plates)) for b in plan.blocks if b.table_width}

    def steps_per_call(self, most: int) -> int:
        """Steps of one call: a divisor of `most` whose rows stay within `CALL_BYTES`."""
        if self._sampler is None:
            return most
        numbers = sum(self._sampler.sizes[plate] * 3 for plate in self._sampler.rows)
        for name in (*self._bound.values, *self._bound.lazy.names):
            variable = self._plan.graph.variables[name]
            if set(variable.plates) & self._sampler.rows.keys():
                sizes = [self._sampler.sizes[plate] for plate in variable.plates]
                numbers += 2 * prod((*sizes, *variable.event))
        fitting = CALL_BYTES // (numbers * np.dtype(self._dtype).itemsize)
        return max(n for n in range(1, most + 1) if most % n == 0 and n <= max(fitting, 1))

    def draw(self, seed: int, steps: int, start: int = 0) -> Drawn:
        """The rows of `steps` steps from the step `start` on."""
        if self._sampler is None:
            return Drawn(None, dict.fromkeys(self._tables))
        selection = self._sampler.draw(seed, steps, start)
        places: dict[str, Array] = {}
        rows: dict[str, np.ndarray | None] = dict.fromkeys(self._tables)
        for name in (name for name, reduced in self._tables.items() if reduced):
            rows[name], places[name] = self._places(name, selection)
        return Drawn(Call(self._gathered(selection), places), rows)

    def _gathered(self, selection: Selection) -> Batch:
        """`[steps, *rows, *event]` of all arrays on the plates drawn."""
        drawn = {plate: self._ground(plate, index) for plate, index in selection.indices.items()}

        def gathered(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            out = {}
            for name, array in arrays.items():
                plates = self._plan.graph.variables[name].plates
                if set(plates) & drawn.keys():
                    out[name] = np.asarray(array[self._index(plates, drawn)], self._dtype)
            return out

        bound = self._bound
        masks = {name: mask for name, mask in bound.masks.items() if mask is not None}
        variables = self._plan.graph.variables
        lazy = [n for n in bound.lazy.names if set(variables[n].plates) & drawn.keys()]
        read = bound.lazy.read_steps(lazy, drawn)
        batch = Batch(
            values=gathered(bound.values)
            | {name: value.astype(self._dtype) for name, value in read.values.items()},
            masks=gathered(masks)
            | {name: mask.astype(self._dtype) for name, mask in read.masks.items()},
            members=dict(selection.members),
            indices=dict(selection.indices),
            weights=dict(selection.weights),
        )
        self._check(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        """Raises where an observation read for one of the steps is outside its support."""
        lazy = self._bound.lazy
        if batch.values.keys() & set(lazy.checked):
            for step in range(len(next(iter(batch.indices.values())))):
                own = Batch(*({name: v[step] for name, v in part.items()} for part in batch))
                lazy.check(*together(self.resident, own))

    def _ground(self, plate: str, index: np.ndarray) -> np.ndarray:
        """Positions of the rows of each step; padding, whose weight is 0, reads one of the rows."""
        size = self._bound.sizes[plate]
        return np.where(index < size, index, np.minimum(index[:, :1], size - 1))

    def _index(
        self, plates: tuple[str, ...], drawn: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """Where the rows of each step lie, one array an axis, that broadcast to all of them."""
        out = []
        for axis, plate in enumerate(plates):
            index = drawn.get(plate)
            if index is None:
                index = np.arange(self._bound.sizes[plate])[None]
            shape = [len(index)] + [1] * len(plates)
            shape[1 + axis] = index.shape[1]
            out.append(index.reshape(shape))
        return tuple(out)

    def _places(self, name: str, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a table that some steps touch, padded to one length, and their places."""
        copies = self._plan.block(name).copies
        steps = together(self.resident, Batch({}, {}, {}, selection.indices, {}))
        ground = table_rows(self._plan, name, steps)
        length = min(ground.size, copies) + 1
        if length == copies + 1:
            return np.arange(copies + 1), ground.astype(np.int32)
        touched, places = np.unique(ground, return_inverse=True)
        # The table's last row is for padding.
        rows = np.concatenate([touched, np.full(length - len(touched), copies)])
        return rows, places.reshape(ground.shape).astype(np.int32)
