"""Which rows a step sees, and what each of them stands for.

Indices are drawn, never a stream shuffled: a plate named in `batch` has that many of its rows drawn
uniformly without replacement at every step, whatever their order in the data, and successive steps
take turns until each row has been drawn equally often. A plate that lies within it follows: all
the rows of the owners drawn, or, if it is named in `batch` too, that many rows *of each owner* (two
stages). All other plates are seen whole. Shapes are the same at every step: where groups differ in
size, rows are padded with weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.balanced import balanced_draws, stream_key
from pavi.batch import Batch
from pavi.data import BoundData
from pavi.errors import DataError
from pavi.graph import PlateGraph
from pavi.integers import is_integer

Array = Any


class Selection(NamedTuple):
    """Rows drawn for some steps: arrays `[steps, rows]`, for the plates that are not seen whole."""

    indices: dict[str, Array]
    members: dict[str, Array]
    weights: dict[str, Array]


def full_batch(bound: BoundData, dtype: str, without: frozenset[str] = frozenset()) -> Batch:
    """All rows, each standing for itself.

    Args:
        bound: validated data.
        dtype: floating dtype of the run.
        without: plates to leave out, with all that lies on them.

    Returns:
        The batch, of NumPy arrays.
    """
    graph = bound.graph
    kept = {p: size for p, size in bound.sizes.items() if p not in without}
    lazy = [n for n in bound.lazy.names if not without & set(graph.variables[n].plates)]
    bound.lazy.check_whole(lazy, dtype)
    return with_lazy(bound, _in_memory(bound, dtype, kept), lazy, dtype)


def _in_memory(bound: BoundData, dtype: str, kept: Mapping[str, int]) -> Batch:
    """All rows of what is in memory and lies on the plates `kept`, by their sizes."""
    graph = bound.graph
    names = [n for n in bound.values if kept.keys() >= set(graph.variables[n].plates)]
    masks = {n: bound.masks.get(n) for n in names}
    return Batch(
        values={n: np.asarray(bound.values[n], dtype) for n in names},
        masks={n: np.asarray(mask, dtype) for n, mask in masks.items() if mask is not None},
        members={
            f"{plate}/{owner}": np.asarray(position, np.int32)
            for plate in kept
            for owner, position in bound.members.get(plate, {}).items()
        },
        indices={plate: np.arange(size, dtype=np.int32) for plate, size in kept.items()},
        weights={plate: np.ones(size, dtype) for plate, size in kept.items()},
    )


def with_lazy(bound: BoundData, batch: Batch, names: Sequence[str], dtype: str) -> Batch:
    """A batch with the rows of variables that are not in memory, read and checked.

    Args:
        bound: validated data.
        batch: the batch, without padding.
        names: which variables to add.
        dtype: floating dtype of the run.

    Raises:
        DataError: what is read is not what it should be, or cannot be read.
    """
    if not names:
        return batch
    read = bound.lazy.read(names, batch.indices)
    full = batch._replace(
        values={**batch.values, **{n: v.astype(dtype) for n, v in read.values.items()}},
        masks={**batch.masks, **{n: m.astype(dtype) for n, m in read.masks.items()}},
    )
    bound.lazy.check(*full)
    return full


def gather(graph: PlateGraph, full: Batch, selection: Selection) -> Batch:
    """The rows of one step, `[rows]` arrays in `selection`."""

    def rows(value: Array, plates: tuple[str, ...]) -> Array:
        for axis, plate in enumerate(plates):
            if plate in selection.indices:
                value = ops.take(value, selection.indices[plate], axis)
        return value

    return Batch(
        values={n: rows(v, graph.variables[n].plates) for n, v in full.values.items()},
        masks={n: rows(m, graph.variables[n].plates) for n, m in full.masks.items()},
        members={**full.members, **selection.members},
        indices={**full.indices, **selection.indices},
        weights={**full.weights, **selection.weights},
    )


class _Chosen(NamedTuple):
    """Rows drawn of a plate, and how often each of them has been drawn before."""

    rows: np.ndarray
    visits: np.ndarray


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
        check_paths(bound, batch)
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

    def draw(self, seed: int, steps: int, start: int = 0) -> Selection:
        """Rows of `steps` steps from the step `start` on: the same whatever the steps before."""
        keys = {plate: stream_key(seed, plate) for plate in self._batch}
        number = np.arange(start, start + steps)
        roots = {p: self._roots(keys[p], p, number) for p in self._batch if not self._anchor[p]}
        drawn = [
            self._one(keys, {p: _Chosen(*(part[i] for part in root)) for p, root in roots.items()})
            for i in range(steps)
        ]
        return Selection(
            *(
                {name: np.stack([getattr(one, part)[name] for one in drawn]) for name in arrays}
                for part, arrays in zip(Selection._fields, drawn[0], strict=True)
            )
        )

    def at(self, chosen: Mapping[str, np.ndarray]) -> Selection:
        """The selection of given elements of the plates of `batch`, rows unpadded."""
        keys = {plate: stream_key(plate) for plate in self._batch}
        roots = {p: _Chosen(index, np.zeros_like(index)) for p, index in chosen.items()}
        selection = self._one(keys, roots)
        kept = {p: selection.indices[p] < self._sizes[p] for p in self.rows}
        return Selection(
            {p: index[kept[p]] for p, index in selection.indices.items()},
            {k: m[kept[k.split("/")[0]]] for k, m in selection.members.items()},
            {p: weight[kept[p]] for p, weight in selection.weights.items()},
        )

    def _roots(self, key: np.uint64, plate: str, number: np.ndarray) -> _Chosen:
        """The draws of these numbers of a plate within no other one that is drawn."""
        steps = len(number)
        size, count = (np.full(steps, x) for x in (self._sizes[plate], self._batch[plate]))
        drawn = balanced_draws(size, count, number, np.full(steps, key))
        return _Chosen(*(part.reshape(steps, -1) for part in drawn))

    def _one(self, keys: Mapping[str, np.uint64], roots: Mapping[str, _Chosen]) -> Selection:
        selection = Selection({}, {}, {})
        factors: dict[str, np.ndarray] = {}
        visits: dict[str, np.ndarray] = {}
        for plate, anchor in self._anchor.items():
            if plate not in self.rows:
                continue
            if anchor is None:
                index, visits[plate] = roots[plate]
                factor = np.full(len(index), self._sizes[plate] / len(index))
            elif plate in self._batch:
                owners = _Chosen(selection.indices[anchor], visits[anchor])
                (index, visits[plate]), factor = self._some(keys[plate], plate, anchor, owners)
            else:
                index = self._all(plate, anchor, selection.indices[anchor])
                factor = np.ones(len(index))
            self._place(selection, factors, plate, index, factor)
        for plate, index in selection.indices.items():
            self._positions[plate][index[index < self._sizes[plate]]] = -1
        return selection

    def _some(
        self, key: np.uint64, plate: str, anchor: str, chosen: _Chosen
    ) -> tuple[_Chosen, np.ndarray]:
        """Some rows of each owner drawn, and N / N^r within the owner."""
        order, start = self._csr[plate]
        # Padding comes last and was never drawn.
        owners = chosen.rows[: len(chosen.visits)]
        counts = start[owners + 1] - start[owners]
        kept = np.minimum(counts, self._batch[plate])
        place, visits = balanced_draws(counts, kept, chosen.visits, key + owners.astype(np.uint64))
        index = order[np.repeat(start[owners], kept) + place]
        return _Chosen(index, visits), np.repeat(counts / np.maximum(kept, 1), kept)

    def _all(self, plate: str, anchor: str, owners: np.ndarray) -> np.ndarray:
        """All rows of the owners drawn."""
        order, start = self._csr[plate]
        owners = owners[owners < self._sizes[anchor]]
        counts = start[owners + 1] - start[owners]
        ends = np.cumsum(counts)
        places = np.arange(counts.sum()) + np.repeat(start[owners] - ends + counts, counts)
        return np.asarray(order[places])

    def _place(
        self,
        selection: Selection,
        factors: dict[str, np.ndarray],
        plate: str,
        index: np.ndarray,
        factor: np.ndarray,
    ) -> None:
        """Pads the rows, finds their owners in the batch, drops those whose owner is not in it.

        A row is in the batch if it is drawn and each of its owners that are drawn is: its weight is
        the product of their factors, each N / N^r of one independent draw.
        """
        size, padding = self._sizes[plate], self.rows[plate] - len(index)
        weight = factors[plate] = factor
        for owner in self._graph.owners(plate):
            ground = self._members[plate][owner][index]
            position = self._positions[owner][ground] if owner in self.rows else ground
            absent, position = position < 0, np.maximum(position, 0)
            if owner in self._batch:
                # An owner that no row was drawn of has no factor at all.
                known = np.append(factors[owner], 0.0)
                weight = weight * known[np.where(absent, -1, position)]
            weight = np.where(absent, 0.0, weight)
            padded = np.concatenate([position, np.zeros(padding, position.dtype)])
            selection.members[f"{plate}/{owner}"] = padded.astype(np.int32)
        selection.indices[plate] = np.concatenate(
            [index, np.full(padding, size, index.dtype)]
        ).astype(np.int32)
        selection.weights[plate] = np.concatenate([weight, np.zeros(padding)]).astype(self._dtype)
        self._positions[plate][index] = np.arange(len(index), dtype=np.int32)


def subset(bound: BoundData, chosen: Mapping[str, np.ndarray], dtype: str) -> Batch:
    """The rows of chosen elements of some plates, and of what lies within them.

    Args:
        bound: validated data.
        chosen: elements to keep, by plate.
        dtype: floating dtype.

    Returns:
        A batch of NumPy arrays, without padding; the chosen elements keep their order.
    """
    sampler = Sampler(bound, {plate: len(index) for plate, index in chosen.items()}, dtype)
    batch = gather(bound.graph, _in_memory(bound, dtype, bound.sizes), sampler.at(chosen))
    return with_lazy(bound, batch, bound.lazy.names, dtype)


def check_batch(bound: BoundData, batch: Mapping[str, int]) -> None:
    """Raises unless every entry of `batch` names a plate and fits it."""
    for plate, count in batch.items():
        if plate not in bound.sizes:
            raise DataError(
                f"batch={{{plate!r}: {count}}}: there is no plate {plate!r}; the plates are "
                f"{sorted(bound.sizes)}."
            )
        size = bound.sizes[plate]
        if not is_integer(count, 1):
            raise DataError(
                f"batch={{{plate!r}: {count!r}}}: expected an integer between 1 and {size}."
            )
        if count > size:
            raise DataError(
                f"batch={{{plate!r}: {count}}} is larger than the plate, which has {size} "
                f"elements; give at most {size}, or leave {plate!r} out to see all of it."
            )


def check_paths(bound: BoundData, batch: Mapping[str, int]) -> None:
    """Raises unless each row has one element only of every plate that is drawn.

    A row with two, as a rating by a user of one country of a film of another one, is in a batch of
    countries with a probability that no product of weights gives.
    """
    graph, members = bound.graph, bound.members
    for drawn in batch:
        for plate in graph.plates:
            if drawn not in graph.plates.ancestors(plate):
                continue
            own = members[plate].get(drawn)
            between = [o for o in graph.owners(plate) if drawn in graph.owners(o)]
            ways = [members[o][drawn][members[plate][o]] for o in between]
            if own is None or any((way != own).any() for way in ways):
                raise DataError(
                    f"batch={{{drawn!r}: {batch[drawn]}}}: a row of {plate!r} belongs to several "
                    f"elements of {drawn!r}, by way of {' and '.join(map(repr, between))}, so that "
                    f"a batch would hold a part only of what it depends on. Subsample "
                    f"{plate!r} or one of its other owners, and leave {drawn!r} out."
                )
        for variable in graph.variables.values():
            within = [
                p for p in variable.plates if drawn == p or drawn in graph.plates.ancestors(p)
            ]
            if len(within) > 1:
                raise DataError(
                    f"batch={{{drawn!r}: {batch[drawn]}}}: {variable.name!r} is on the plates "
                    f"{' and '.join(map(repr, within))}, which both belong to {drawn!r}. Leave "
                    f"{drawn!r} out."
                )
