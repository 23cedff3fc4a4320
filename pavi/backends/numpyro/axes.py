"""Which plate each axis of each array of a model lies along, by what the arrays meet in.

Axes that an elementwise function brings together are one class; the latents' plates, and those of
the sites that the arrays are parameters of, name the classes. An index array that picks elements of
one plate for the rows of another is the membership of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from pavi.backends.numpyro.tracing import Reading, Site
from pavi.backends.numpyro.values import Known, Node, Value

ELEMENTWISE = {
    "add": "add",
    "add_any": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "maximum",
    "min": "minimum",
    "pow": "power",
    "neg": "negative",
    "sign": "sign",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
    "and": "both",
    "or": "either",
    "is_finite": "finite",
    "logistic": "sigmoid",
    "asinh": "arcsinh",
    "stop_gradient": "stop_gradient",
    **{name: name for name in ("exp", "log", "log1p", "expm1", "sqrt", "abs", "sin", "cos")},
    **{name: name for name in ("sinh", "cosh", "tanh", "softplus", "lgamma", "digamma", "erf")},
}
_SAME_AXES = {
    *ELEMENTWISE,
    "select_n",
    "clamp",
    "integer_pow",
    "square",
    "rsqrt",
    "convert_element_type",
    "copy",
    "cumsum",
    "cholesky",
}
REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max"}
MOVES = ("broadcast_in_dim", "transpose", "squeeze", "reshape", "expand_dims")

Array = Any
Key = tuple[int, Any, int]


class UnreadableError(Exception):
    """A part of a model that no graph of ours can say.

    Args:
        why: what it is.
        coupled: a plate whose elements it brings together.
    """

    def __init__(self, why: str, coupled: str | None = None) -> None:
        super().__init__(why)
        self.coupled = coupled


@dataclass(frozen=True)
class Picked:
    """A gather by a known index.

    Attributes:
        axes: the operand's axes that are picked from.
        columns: the index of each of them, of the shape of `rows`.
        rows: the result's axes along which the index runs.
        kept: the operand's other axes, in the order of `offset`.
        offset: the result's axes that they become.
    """

    axes: tuple[int, ...]
    columns: tuple[Known, ...]
    rows: tuple[int, ...]
    kept: tuple[int, ...]
    offset: tuple[int, ...]


def moved_axes(node: Node) -> list[int | None]:
    """For each axis of the result the operand's axis that it is; None for a new one."""
    shape, out = node.inputs[0].shape, node.shape
    if node.primitive == "broadcast_in_dim":
        places = list(node.params["broadcast_dimensions"])
        found = [places.index(axis) if axis in places else None for axis in range(len(out))]
        return [a if a is not None and shape[a] == out[i] else None for i, a in enumerate(found)]
    if node.primitive == "transpose":
        return list(node.params["permutation"])
    long = [axis for axis, size in enumerate(shape) if size > 1]
    if [shape[axis] for axis in long] != [size for size in out if size > 1]:
        raise UnreadableError(f"a reshape from {shape} to {out} joins or divides axes")
    left = iter(long)
    return [next(left) if size > 1 else None for size in out]


def picked(node: Node) -> Picked:
    """A gather in words."""
    operand, index = node.inputs[0], node.inputs[1]
    numbers = node.params["dimension_numbers"]
    if not isinstance(index, Known) or isinstance(operand, Known):
        raise UnreadableError("an index depends on latents")
    axes, sizes = tuple(numbers.collapsed_slice_dims), node.params["slice_sizes"]
    plain = not numbers.operand_batching_dims and set(numbers.start_index_map) == set(axes)
    kept = tuple(a for a in range(len(operand.shape)) if a not in axes)
    if not plain or any(sizes[a] != operand.shape[a] for a in kept):
        raise UnreadableError("an index picks windows, not elements")
    rows = tuple(a for a in range(len(node.shape)) if a not in numbers.offset_dims)
    columns = tuple(index.column(numbers.start_index_map.index(a)) for a in axes)
    return Picked(axes, columns, rows, kept, tuple(numbers.offset_dims))


class Axes:
    """The plate of each axis, and the memberships that the model's indices tell."""

    def __init__(self, reading: Reading) -> None:
        self.members: dict[tuple[str, str], Known | None] = {}
        self._parent: dict[Key, Key] = {}
        self._plates: dict[Key, set[str]] = {}
        self._reading = reading
        nodes = list(_nodes(reading))
        for node in nodes:
            try:
                self._join(node)
            except UnreadableError:
                continue  # said again where a site needs it
        for node in nodes:
            if node.primitive == "latent":
                self._name(reading.sites[node.site], node, (id(node), None), leaf=True)
        for name, parts in reading.parts.items():
            for key, (value, _) in parts.parameters.items() if parts else ():
                self._name(reading.sites[name], value, self.use(value, name, key), leaf=False)
        for node in nodes:
            if node.primitive == "gather":
                try:
                    self._membership(node, picked(node))
                except UnreadableError:
                    continue
        for pair, position in self.members.items():
            if position is not None and not self._agrees(*pair, position):
                self.members[pair] = None

    def use(self, value: Value, owner: Any, place: Any) -> tuple[int, Any]:
        """The identity of an operand: a known array is another one at each of its uses."""
        if isinstance(value, Node):
            return (id(value), None)
        return (id(owner) if isinstance(owner, Node) else hash(owner), place)

    def plate(self, use: tuple[int, Any], axis: int) -> str | None:
        """The plate of an axis, None where it lies along no plate."""
        plates = self._plates.get(self._root((*use, axis)), set())
        if len(plates) > 1:
            raise UnreadableError(f"elements of the plates {sorted(plates)} meet by position")
        return next(iter(plates), None)

    def event(self, value: Value, use: tuple[int, Any]) -> list[int]:
        """The axes of an array that are longer than 1 and lie along no plate."""
        return [a for a, s in enumerate(value.shape) if s > 1 and self.plate(use, a) is None]

    def belongs(self, child: str, owner: str, position: Known) -> bool:
        """Whether each row of a plate has one owner, which an index picks for it.

        Args:
            child: the plate of the rows.
            owner: the plate of the owners.
            position: the index. It tells the owner of a single row, whose axis tells no plate.
        """
        if child != owner and position.shape and prod(position.shape) == 1:
            self.members.setdefault((child, owner), _flat(position))
        return self.members.get((child, owner)) is not None

    def _root(self, key: Key) -> Key:
        while (above := self._parent.get(key, key)) != key:
            key = above
        return key

    def _unite(self, a: Key, b: Key) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self._parent[a] = b

    def _join(self, node: Node) -> None:
        own = (id(node), None)
        uses = [self.use(value, node, i) for i, value in enumerate(node.inputs)]
        if node.primitive in _SAME_AXES:
            for value, use in zip(node.inputs, uses, strict=True):
                if value.shape == node.shape:
                    self._pair(range(len(node.shape)), range(len(node.shape)), use, own)
        elif node.primitive in MOVES:
            for axis, old in enumerate(moved_axes(node)):
                if old is not None:
                    self._unite((*uses[0], old), (*own, axis))
        elif node.primitive in REDUCTIONS:
            rank = len(node.inputs[0].shape)
            kept = [a for a in range(rank) if a not in node.params["axes"]]
            self._pair(kept, range(len(kept)), uses[0], own)
        elif node.primitive == "dot_general":
            (left, right), (batch, others) = node.params["dimension_numbers"]
            self._pair(left, right, uses[0], uses[1])
            self._pair(batch, range(len(batch)), uses[0], own)
            self._pair(others, range(len(batch)), uses[1], own)
            start = len(batch)
            for i, (contracted, shared) in enumerate(((left, batch), (right, others))):
                rank = len(node.inputs[i].shape)
                free = [a for a in range(rank) if a not in (*contracted, *shared)]
                self._pair(free, range(start, start + len(free)), uses[i], own)
                start += len(free)
        elif node.primitive == "concatenate":
            for value, use in zip(node.inputs, uses, strict=True):
                same = [a for a in range(len(value.shape)) if a != node.params["dimension"]]
                self._pair(same, same, use, own)
        elif node.primitive == "slice":
            shape = node.inputs[0].shape
            same = [a for a in range(len(shape)) if shape[a] == node.shape[a]]
            self._pair(same, same, uses[0], own)
        elif node.primitive == "gather":
            found = picked(node)
            self._pair(found.kept, found.offset, uses[0], own)
            self._pair(range(len(found.rows)), found.rows, uses[1], own)

    def _pair(
        self, first: Sequence[int], second: Sequence[int], a: tuple[int, Any], b: tuple[int, Any]
    ) -> None:
        for one, other in zip(first, second, strict=True):
            self._unite((*a, one), (*b, other))

    def _name(self, site: Site, value: Value, use: tuple[int, Any], *, leaf: bool) -> None:
        """Names the classes of a site's plate axes, or says that they follow another plate."""
        for plate, dim in site.plates:
            axis = len(site.batch_shape) + dim
            if value.shape[axis] == 1:
                continue
            plates = self._plates.setdefault(self._root((*use, axis)), set())
            if leaf or not plates:
                plates.add(plate)
            elif plate not in plates and len(plates) == 1:
                # Rows that take the elements of another plate one by one, in their order
                size = site.batch_shape[axis]
                (owner,) = plates
                self.members.setdefault((plate, owner), Known((size,), partial(np.arange, size)))

    def _membership(self, node: Node, found: Picked) -> None:
        use = self.use(node.inputs[0], node, 0)
        long = [i for i, axis in enumerate(found.rows) if node.shape[axis] > 1]
        if len(long) != 1:
            return
        child = self.plate((id(node), None), found.rows[long[0]])
        for axis, column in zip(found.axes, found.columns, strict=True):
            owner = self.plate(use, axis)
            if child is None or owner is None or child == owner:
                continue
            flat = _flat(column)
            before = self.members.get((child, owner), flat)
            same = before is not None and _same(before, flat)
            self.members[child, owner] = before if same else None

    def _agrees(self, child: str, owner: str, position: Known) -> bool:
        """Whether an owner is also that of the rows' other owners, as far as numbers tell."""
        return not position.concrete or all(
            np.array_equal(np.asarray(position.value), way) for way in self._ways(child, owner)
        )

    def _ways(self, child: str, owner: str) -> Iterator[Array]:
        """The rows' owners by each other plate that lies between."""
        for (rows, middle), first in self.members.items():
            if rows != child or middle == owner or first is None or not first.concrete:
                continue
            above = self.members.get((middle, owner))
            seconds = [] if above is None or not above.concrete else [np.asarray(above.value)]
            for second in (*seconds, *self._ways(middle, owner)):
                # JAX takes the last element for what is beyond it; others say so.
                yield np.take(second, np.asarray(first.value), mode="clip")


def _flat(known: Known) -> Known:
    return known.then((prod(known.shape),), "flat", lambda value: value.reshape(-1))


def _same(one: Known, other: Known) -> bool:
    """Whether two indices are one: by their numbers, or by how they are made where none are."""
    if one.concrete and other.concrete:
        return np.array_equal(np.asarray(one.value), np.asarray(other.value))
    return one.origin == other.origin


def _nodes(reading: Reading) -> Iterator[Node]:
    """The arrays that sites' parameters are computed from, operands first."""
    seen: set[int] = set()
    stack: list[tuple[Value, bool]] = [
        (value, False)
        for parts in reading.parts.values()
        if parts
        for value, _ in parts.parameters.values()
    ]
    while stack:
        value, done = stack.pop()
        if isinstance(value, Known) or (not done and id(value) in seen):
            continue
        if done:
            yield value
            continue
        seen.add(id(value))
        stack.append((value, True))
        stack += [(operand, False) for operand in value.inputs]
