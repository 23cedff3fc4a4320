"""A posterior in parts of one shape: cells of a grid over the plates that nothing else owns.

A cell holds consecutive elements of each of these plates and all that lies within them. Every
cell has as many rows as the largest one, padded, so that one compiled program draws them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.errors import DataError
from pavi.plan import GuidePlan, evidence_beyond
from pavi.reading import Read
from pavi.subsampling import check_paths

# Elements of a plate that are looked at together while rows are counted.
_BLOCK = 1 << 20
# A plate that comes first is parted first, unless another one saves this much more.
_PREFERENCE = 1.05

Index = slice | np.ndarray


class Cell(NamedTuple):
    """One cell: its place along each parted plate, and the ground rows of each plate in parts."""

    place: dict[str, int]
    rows: dict[str, Index]

    def count(self, plate: str) -> int:
        """Rows of a plate in parts, without padding."""
        return _count(self.rows[plate])


class Grid:
    """Cells of given lengths.

    Args:
        bound: validated data.
        lengths: elements of a cell along each plate to part, one of `partable`.
    """

    def __init__(self, bound: BoundData, lengths: Mapping[str, int]) -> None:
        self._bound = bound
        self.lengths = {p: int(n) for p, n in lengths.items() if n < bound.sizes[p]}
        self.counts = {p: -(-bound.sizes[p] // n) for p, n in self.lengths.items()}
        self._roots = {
            plate: [p for p in self.lengths if p in bound.graph.reach((plate,))]
            for plate in bound.sizes
        }
        self._shared = Read({}, {})
        self._starts: dict[str, np.ndarray] = {}
        self._sorted: dict[str, bool] = {}
        for plate, roots in self._roots.items():
            if roots and plate not in self.lengths:
                self._starts[plate], self._sorted[plate] = self._counted(plate)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Rows of every plate in a cell's batch, padding included."""
        ragged = {p: max(1, int(np.diff(s).max())) for p, s in self._starts.items()}
        return {**self._bound.sizes, **self.lengths, **ragged}

    def parts(self, plate: str) -> int:
        """Into how many cells the rows of a plate are parted."""
        return prod(self.counts[p] for p in self._roots[plate])

    def scatters(self, plate: str) -> bool:
        """Whether the rows that a plate has in one cell lie among those of others."""
        return not self._sorted.get(plate, True)

    def cells(self) -> Iterator[Cell]:
        """All cells, in an order that depends on the grid alone."""
        for place in product(*(range(n) for n in self.counts.values())):
            yield self.cell(dict(zip(self.counts, place, strict=True)))

    def cell(self, place: Mapping[str, int]) -> Cell:
        """The cell at a place."""
        rows: dict[str, Index] = {}
        for plate, roots in self._roots.items():
            if plate in self.lengths:
                start = place[plate] * self.lengths[plate]
                stop = min(start + self.lengths[plate], self._bound.sizes[plate])
                rows[plate] = slice(start, stop)
            elif roots:
                number = 0
                for root in roots:
                    number = number * self.counts[root] + place[root]
                span = slice(*(int(n) for n in self._starts[plate][number : number + 2]))
                rows[plate] = span if self._sorted[plate] else _compact(self._order[plate][span])
        return Cell(dict(place), rows)

    def batch(self, cell: Cell, names: frozenset[str], dtype: str) -> Batch:
        """The batch of a cell; of the data only its rows are read.

        Args:
            cell: the cell.
            names: covariates and observed variables to hold.
            dtype: floating dtype of the run.
        """
        bound, sizes = self._bound, self.sizes
        members: dict[str, np.ndarray] = {}
        for plate, rows in cell.rows.items():
            for owner, ground in bound.members.get(plate, {}).items():
                place = self._places(cell, owner, ground[rows])
                members[f"{plate}/{owner}"] = _padded(place.astype(np.int32), sizes[plate], 0)
        indices = {
            plate: _padded(_ground(rows), sizes[plate], bound.sizes[plate])
            for plate, rows in cell.rows.items()
        }
        weights = {
            plate: (index < bound.sizes[plate]).astype(dtype) for plate, index in indices.items()
        }
        resident = self._resident(dtype)
        read = self._read(cell, names, dtype)
        batch = Batch(
            values=read.values,
            masks=read.masks,
            members={**resident.members, **members},
            indices={**resident.indices, **indices},
            weights={**resident.weights, **weights},
        )
        if names & set(bound.lazy.names):
            bound.lazy.check(*batch)
        return batch

    def _resident(self, dtype: str) -> Batch:
        """What all cells have whole, values aside."""
        whole = [plate for plate, roots in self._roots.items() if not roots]
        sizes = self._bound.sizes
        return Batch(
            values={},
            masks={},
            members={
                f"{plate}/{owner}": position.astype(np.int32)
                for plate in whole
                for owner, position in self._bound.members.get(plate, {}).items()
            },
            indices={plate: np.arange(sizes[plate], dtype=np.int32) for plate in whole},
            weights={plate: np.ones(sizes[plate], dtype) for plate in whole},
        )

    def _read(self, cell: Cell, names: frozenset[str], dtype: str) -> Read:
        """Rows of a cell, and which of them are present; what no cell parts is read once."""
        bound, variables = self._bound, self._bound.graph.variables
        parted = {n for n in names if any(self._roots[p] for p in variables[n].plates)}
        wanted = names - self._shared.values.keys()
        read = bound.lazy.read(
            [n for n in bound.lazy.names if n in wanted],
            {plate: self._present(cell, plate) for plate in cell.rows},
        )
        for name in wanted & bound.values.keys():
            plates, mask = variables[name].plates, bound.masks.get(name)
            read.values[name] = self._taken(bound.values[name], plates, cell)
            if mask is not None:
                read.masks[name] = self._taken(mask, plates, cell)
        out = Read(
            {n: value.astype(dtype) for n, value in read.values.items()} | self._shared.values,
            {n: mask.astype(dtype) for n, mask in read.masks.items()} | self._shared.masks,
        )
        for kept, arrays in zip(self._shared, out, strict=True):
            kept |= {n: array for n, array in arrays.items() if n not in parted}
        return out

    def _present(self, cell: Cell, plate: str) -> np.ndarray:
        """Ground rows of a cell to read: padding, whose weight is 0, reads one of the others."""
        rows = _ground(cell.rows[plate]) if cell.count(plate) else np.zeros(1, np.int64)
        return _padded(rows, self.sizes[plate], int(rows[-1]))

    def _taken(self, array: np.ndarray, plates: tuple[str, ...], cell: Cell) -> np.ndarray:
        """Rows of an array in memory, `[*plates, *event]`."""
        for axis, plate in enumerate(plates):
            if plate in cell.rows:
                array = np.take(array, self._present(cell, plate), axis)
        return array

    def _places(self, cell: Cell, owner: str, ground: np.ndarray) -> np.ndarray:
        """Places in a cell of ground elements of an owner; the cell has all of them."""
        rows = cell.rows.get(owner)
        if rows is None:
            return ground
        return ground - rows.start if isinstance(rows, slice) else np.searchsorted(rows, ground)

    def _numbers(self, plate: str, block: slice) -> np.ndarray:
        """The number, among the cells of a plate's own roots, of the cell of each row."""
        number: Any = 0
        for root in self._roots[plate]:
            owner = self._bound.members[plate][root][block]
            number = number * self.counts[root] + owner // self.lengths[root]
        return np.asarray(number)

    def _counted(self, plate: str) -> tuple[np.ndarray, bool]:
        """Where each cell's rows start when they are sorted by cell, and whether they are."""
        counts, last, in_order = np.zeros(self.parts(plate), np.int64), 0, True
        for start in range(0, self._bound.sizes[plate], _BLOCK):
            numbers = self._numbers(plate, slice(start, start + _BLOCK))
            counts += np.bincount(numbers, minlength=len(counts))
            in_order = in_order and last <= numbers[0] and bool((np.diff(numbers) >= 0).all())
            last = numbers[-1]
        return np.concatenate([[0], np.cumsum(counts)]), in_order

    @cached_property
    def _order(self) -> dict[str, np.ndarray]:
        """Rows by cell, of the plates whose rows do not lie so; those of one cell in order."""
        return {
            plate: np.argsort(self._numbers(plate, slice(None)), kind="stable").astype(np.int32)
            for plate, in_order in self._sorted.items()
            if not in_order
        }


def whole_plates(plan: GuidePlan) -> frozenset[str]:
    """Plates that are drawn whole, for an encoding needs all of their data, or all elements."""
    whole: set[str] = set()
    for block in plan.blocks:
        if block.joint:
            whole |= plan.graph.reach(block.plates)
        if block.evidence is not None:
            whole |= evidence_beyond(plan.graph, block.plates, block.evidence)
    return frozenset(whole)


def partable(plan: GuidePlan, bound: BoundData) -> tuple[str, ...]:
    """Plates that cells may part: nothing owns them, and what lies within is parted with them."""
    whole = whole_plates(plan)
    return tuple(
        plate
        for plate, size in bound.sizes.items()
        if size > 1
        and not bound.graph.owners(plate)
        and plate not in whole
        and _has_paths(bound, plate)
    )


def part(
    plan: GuidePlan,
    bound: BoundData,
    cost: Callable[[Mapping[str, int]], float],
    limit: float,
) -> Grid:
    """The grid of few cells whose cost is within a limit, or the finest one.

    Args:
        plan: the plan.
        bound: validated data.
        cost: what a cell costs, from the number of rows of every plate.
        limit: the most that it may.
    """
    lengths = {plate: bound.sizes[plate] for plate in partable(plan, bound)}
    while True:
        grid = Grid(bound, lengths)
        if cost(grid.sizes) <= limit:
            return grid
        costs = {p: cost(_halved(bound, grid.sizes, p)) for p, n in lengths.items() if n > 1}
        if not costs:
            return grid
        least = min(costs.values())
        plate = next(p for p, c in costs.items() if c <= _PREFERENCE * least)
        lengths[plate] = -(-lengths[plate] // 2)


def _halved(bound: BoundData, sizes: Mapping[str, int], plate: str) -> dict[str, int]:
    """About what a cell has where one plate is parted once more."""
    return {
        p: -(-size // 2) if plate in bound.graph.reach((p,)) else size for p, size in sizes.items()
    }


def _has_paths(bound: BoundData, plate: str) -> bool:
    """Whether every row has one element of a plate, so that it lies in one cell."""
    try:
        check_paths(bound, {plate: 1})
    except DataError:
        return False
    return True


def _count(index: Index) -> int:
    return index.stop - index.start if isinstance(index, slice) else len(index)


def _ground(index: Index) -> np.ndarray:
    return np.arange(index.start, index.stop) if isinstance(index, slice) else index


def _compact(rows: np.ndarray) -> Index:
    """A slice where the rows, which are in order, are consecutive."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows if len(rows) else slice(0, 0)


def _padded(index: np.ndarray, rows: int, filler: int) -> np.ndarray:
    return np.pad(index, (0, rows - len(index)), constant_values=filler).astype(np.int32)
