"""Which rows a step sees, and what each of them stands for.

Indices are drawn, never a stream shuffled: a plate named in `batch` has that many of its rows drawn
uniformly without replacement at every step, whatever their order in the data. A plate that lies
within it follows: all the rows of the owners drawn, or, if it is named in `batch` too, that many
rows *of each owner* (two stages). All other plates are seen whole. Shapes are the same at every
step: where groups differ in size, rows are padded with weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.batch import Batch
from pavi.data import BoundData
from pavi.errors import DataError
from pavi.graph import PlateGraph

Array = Any


class Selection(NamedTuple):
    """Rows drawn for some steps: arrays `[steps, rows]`, for the plates that are not seen whole."""

    index: dict[str, Array]
    members: dict[str, Array]
    weights: dict[str, Array]


def full_batch(bound: BoundData, dtype: str) -> Batch:
    """All rows, each standing for itself.

    Args:
        bound: validated data.
        dtype: floating dtype of the run.

    Returns:
        The batch, of NumPy arrays.
    """
    sizes = bound.sizes
    return Batch(
        values={name: np.asarray(value, dtype) for name, value in bound.values.items()},
        masks={n: np.asarray(m, dtype) for n, m in bound.masks.items() if m is not None},
        members={
            f"{plate}/{owner}": np.asarray(position, np.int32)
            for plate, owners in bound.members.items()
            for owner, position in owners.items()
        },
        index={plate: np.arange(size, dtype=np.int32) for plate, size in sizes.items()},
        weights={plate: np.ones(size, dtype) for plate, size in sizes.items()},
    )


def gather(graph: PlateGraph, full: Batch, selection: Selection) -> Batch:
    """The rows of one step, `[rows]` arrays in `selection`; runs inside the compiled program."""

    def rows(value: Array, plates: tuple[str, ...]) -> Array:
        for axis, plate in enumerate(plates):
            if plate in selection.index:
                value = ops.take(value, selection.index[plate], axis)
        return value

    return Batch(
        values={n: rows(v, graph.variables[n].plates) for n, v in full.values.items()},
        masks={n: rows(m, graph.variables[n].plates) for n, m in full.masks.items()},
        members={**full.members, **selection.members},
        index={**full.index, **selection.index},
        weights={**full.weights, **selection.weights},
    )


class Sampler:
    """Draws the rows of each step.

    Args:
        bound: validated data.
        batch: reduced cardinality by plate; for a plate within another plate of `batch`, the number
            of rows of each owner.
        dtype: floating dtype of the weights.

    Raises:
        DataError: an unknown plate, or a reduced cardinality that is not in `[1, size]`.
    """

    def __init__(self, bound: BoundData, batch: Mapping[str, int], dtype: str) -> None:
        self._graph, self._sizes, self._dtype = bound.graph, bound.sizes, dtype
        self._batch = dict(batch)
        check_batch(bound, batch)
        self._members = bound.members
        self._anchor = {p: self._nearest(p) for p in self._ordered_plates()}
        self._positions: dict[str, np.ndarray] = {}
        self._csr: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.rows: dict[str, int] = {}
        for plate, anchor in self._anchor.items():
            if anchor is None:
                if plate in self._batch:
                    self.rows[plate] = self._batch[plate]
                continue
            owner_of = self._members[plate][anchor]
            counts = np.bincount(owner_of, minlength=self._sizes[anchor])
            self._csr[plate] = (
                np.argsort(owner_of, kind="stable"),
                np.concatenate([[0], np.cumsum(counts)]),
            )
            if plate in self._batch:
                counts = np.minimum(counts, self._batch[plate])
            slots = min(self.rows[anchor], len(counts))
            largest = np.partition(counts, len(counts) - slots)[len(counts) - slots :]
            self.rows[plate] = max(1, int(largest.sum()))
        for plate in self.rows:
            self._positions[plate] = np.full(self._sizes[plate], -1, np.int32)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of every plate in a batch, padding included."""
        return {plate: self.rows.get(plate, size) for plate, size in self._sizes.items()}

    def _ordered_plates(self) -> list[str]:
        return sorted(self._sizes, key=lambda p: len(self._graph.owners(p)))

    def _nearest(self, plate: str) -> str | None:
        """The nearest owner that is subsampled."""
        return next((o for o in self._graph.owners(plate) if o in self._batch), None)

    def draw(self, rng: np.random.Generator, steps: int) -> Selection:
        """Rows of `steps` steps, independent of one another."""
        drawn = [self._one(rng) for _ in range(steps)]
        return Selection(
            *(
                {key: np.stack([getattr(one, part)[key] for one in drawn]) for key in keys}
                for part, keys in zip(Selection._fields, drawn[0], strict=True)
            )
        )

    def _one(self, rng: np.random.Generator) -> Selection:
        selection = Selection({}, {}, {})
        for plate, anchor in self._anchor.items():
            if plate not in self.rows:
                continue
            if anchor is None:
                index = without_replacement(rng, self._sizes[plate], self._batch[plate])
                weight = np.full(len(index), self._sizes[plate] / len(index))
            else:
                index, weight = self._members_of(rng, plate, anchor, selection)
            self._place(selection, plate, index, weight)
        for plate, index in selection.index.items():
            self._positions[plate][index[index < self._sizes[plate]]] = -1
        return selection

    def _members_of(
        self, rng: np.random.Generator, plate: str, anchor: str, selection: Selection
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the owners drawn: all of them, or some of each."""
        order, start = self._csr[plate]
        owners = selection.index[anchor]
        present = owners < self._sizes[anchor]
        owners, owner_weight = owners[present], selection.weights[anchor][present]
        counts = start[owners + 1] - start[owners]
        if plate in self._batch:
            kept = np.minimum(counts, self._batch[plate])
            parts = [
                start[owner] + without_replacement(rng, int(n), int(k))
                for owner, n, k in zip(owners, counts, kept, strict=True)
                if k
            ]
            places = np.concatenate(parts) if parts else np.zeros(0, np.int64)
            weight = owner_weight * counts / np.maximum(kept, 1)
            counts = kept
        else:
            ends = np.cumsum(counts)
            places = np.arange(counts.sum()) + np.repeat(start[owners] - ends + counts, counts)
            weight = owner_weight
        return order[places], np.repeat(weight, counts)

    def _place(
        self, selection: Selection, plate: str, index: np.ndarray, weight: np.ndarray
    ) -> None:
        """Pads the rows, finds their owners in the batch, drops those whose owner is not in it."""
        size, padding = self._sizes[plate], self.rows[plate] - len(index)
        anchor = self._anchor[plate]
        above = set(self._graph.owners(anchor)) | {anchor} if anchor else set()
        for owner in self._graph.owners(plate):
            ground = self._members[plate][owner][index]
            position = self._positions[owner][ground] if owner in self.rows else ground
            if owner in self._batch and owner not in above:
                # Drawn independently of the anchor: a row needs both of its owners.
                weight = weight * self._sizes[owner] / self._batch[owner]
            weight = np.where(position < 0, 0.0, weight)
            position = np.maximum(position, 0)
            padded = np.concatenate([position, np.zeros(padding, position.dtype)])
            selection.members[f"{plate}/{owner}"] = padded.astype(np.int32)
        selection.index[plate] = np.concatenate(
            [index, np.full(padding, size, index.dtype)]
        ).astype(np.int32)
        selection.weights[plate] = np.concatenate([weight, np.zeros(padding)]).astype(self._dtype)
        self._positions[plate][index] = np.arange(len(index), dtype=np.int32)


def without_replacement(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` distinct integers below `size`, uniformly; the cost depends on `count` alone."""
    if count == size:
        return np.arange(size)
    if 4 * count > size:
        return rng.permutation(size)[:count]
    found = np.unique(rng.integers(size, size=count))
    while len(found) < count:
        # Drawing more and keeping the distinct ones in order of arrival is uniform.
        found = np.unique(np.concatenate([found, rng.integers(size, size=count - len(found))]))
    return found


def check_batch(bound: BoundData, batch: Mapping[str, int]) -> None:
    """Raises unless every entry of `batch` names a plate and fits it."""
    for plate, count in batch.items():
        if plate not in bound.sizes:
            raise DataError(
                f"batch={{{plate!r}: {count}}}: there is no plate {plate!r}; the plates are "
                f"{sorted(bound.sizes)}."
            )
        size = bound.sizes[plate]
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise DataError(
                f"batch={{{plate!r}: {count!r}}}: expected an integer between 1 and {size}."
            )
        if count > size:
            raise DataError(
                f"batch={{{plate!r}: {count}}} is larger than the plate, which has {size} "
                f"elements; give at most {size}, or leave {plate!r} out to see all of it."
            )
