"""Symbolic arrays whose axes are known by what they run over: a plate, or an event.

An axis is a union-find node. Operations unify the axes that they bring together; the axes that the
user names are labelled by plates, and a label reaches everything that runs along with it. An axis
of size 1 is None: it runs over nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pavi.errors import GraphError


class Axis:
    """What an axis of symbolic arrays runs over."""

    def __init__(self, size: int, plate: str | None = None) -> None:
        self.size = size
        self._plate = plate
        self._parent: Axis | None = None

    def root(self) -> Axis:
        """The representative of all axes that run along with this one."""
        node = self
        while node._parent is not None:
            node = node._parent
        return node

    @property
    def plate(self) -> str | None:
        """The plate, None for an axis of events."""
        return self.root()._plate

    def join(self, other: Axis, where: str) -> None:
        """Makes the two run along with each other.

        Raises:
            GraphError: they are on different plates.
        """
        a, b = self.root(), other.root()
        if a is b:
            return
        if a._plate and b._plate and a._plate != b._plate:
            raise GraphError(
                f"{where}: an axis of size {a.size} is on plate {a._plate!r} and also on plate "
                f"{b._plate!r}. Correct `plates`, or take the values of one along the other by "
                f"tf.gather with a constant index."
            )
        b._parent = a
        a._plate = a._plate or b._plate

    def label(self, plate: str, where: str) -> None:
        """Puts the axis on a plate."""
        self.join(Axis(self.size, plate), where)


Axes = tuple[Axis | None, ...]


@dataclass(frozen=True, eq=False)
class Symbol:
    """A symbolic array.

    Attributes:
        axes: what each of its dimensions runs over.
    """

    axes: Axes

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.axes)


@dataclass(frozen=True, eq=False)
class Known(Symbol):
    """An array that depends on no part of the model."""

    value: np.ndarray


@dataclass(frozen=True, eq=False)
class PartValue(Symbol):
    """The value of a part."""

    name: str


@dataclass(frozen=True, eq=False)
class Elementwise(Symbol):
    """An operation of `pavi.expression` on arrays that broadcast."""

    operation: str
    arguments: tuple[Symbol, ...]


@dataclass(frozen=True, eq=False)
class Move(Symbol):
    """Another order of dimensions; `sources[i]` is that of the argument, None for a new one."""

    argument: Symbol
    sources: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Reduce(Symbol):
    """A sum, mean or maximum over dimensions, which are dropped."""

    operation: str
    argument: Symbol
    dimensions: tuple[int, ...]
    where: str


@dataclass(frozen=True, eq=False)
class Along(Symbol):
    """An operation along one dimension that keeps its size: a softmax, a running sum."""

    operation: str
    argument: Symbol
    dimension: int
    where: str


@dataclass(frozen=True, eq=False)
class Gather(Symbol):
    """Entries of one dimension by a constant index `[n]`."""

    argument: Symbol
    dimension: int
    index: np.ndarray
    where: str


@dataclass(frozen=True, eq=False)
class Pick(Symbol):
    """One entry of a dimension, which is dropped."""

    argument: Symbol
    dimension: int
    position: int
    where: str


@dataclass(frozen=True, eq=False)
class Join(Symbol):
    """Arrays joined along a dimension."""

    arguments: tuple[Symbol, ...]
    dimension: int
    where: str


def fresh(shape: Sequence[int]) -> Axes:
    """An axis of its own for each dimension of more than one entry."""
    return tuple(Axis(size) if size != 1 else None for size in shape)


def known(value: Any) -> Known:
    """A constant, its axes yet to be told."""
    array = np.asarray(value)
    return Known(fresh(array.shape), array)


def broadcast(symbols: Sequence[Symbol], where: str) -> Axes:
    """Unifies the dimensions of arrays that broadcast, and gives those of the result."""
    rank = max(symbol.rank for symbol in symbols)
    out: list[Axis | None] = []
    for place in range(-rank, 0):
        axes = [s.axes[place] for s in symbols if s.rank >= -place and s.axes[place] is not None]
        found: Axis | None = None
        for axis in axes:
            if axis is None:
                continue
            if found is None or (found.size == 1 and axis.size != 1):
                found = axis
            elif axis.size != 1 or found.size == 1:
                found.join(axis, where)
        out.append(found)
    return tuple(out)


def elementwise(operation: str, *arguments: Symbol, where: str) -> Symbol:
    """An elementwise operation."""
    return Elementwise(broadcast(arguments, where), operation, arguments)


def move(argument: Symbol, sources: Sequence[int | None], new: Axes | None = None) -> Symbol:
    """The argument's dimensions in another order; `new` are the axes of those that it has not."""
    if list(sources) == list(range(argument.rank)) and new is None:
        return argument
    added = new or (None,) * len(sources)
    axes = tuple(
        added[i] if source is None or argument.axes[source] is None else argument.axes[source]
        for i, source in enumerate(sources)
    )
    return Move(axes, argument, tuple(sources))


def reduce(
    operation: str, argument: Symbol, dimensions: Sequence[int], keep: bool, where: str
) -> Symbol:
    """A reduction over dimensions."""
    dropped = tuple(sorted(d % argument.rank for d in dimensions))
    axes = tuple(a for d, a in enumerate(argument.axes) if d not in dropped)
    out: Symbol = Reduce(axes, operation, argument, dropped, where)
    if keep:
        left = iter(range(len(axes)))
        out = move(out, [None if d in dropped else next(left) for d in range(argument.rank)])
    return out


def contract(
    terms: Sequence[Symbol], labels: Sequence[Sequence[str]], result: Sequence[str], where: str
) -> Symbol:
    """A sum of products, as Einstein's convention has it."""
    order = [*result, *dict.fromkeys(x for own in labels for x in own if x not in result)]
    moved = [
        move(term, [own.index(x) if x in own else None for x in order])
        for term, own in zip(terms, labels, strict=True)
    ]
    total = moved[0]
    for other in moved[1:]:
        total = elementwise("multiply", total, other, where=where)
    summed = range(len(result), len(order))
    return reduce("sum", total, list(summed), False, where) if summed else total


def einsum(equation: str, terms: Sequence[Symbol], where: str) -> Symbol | None:
    """The sum of products of an equation as `"...ij,...j->...i"`; None where a label repeats."""
    given, result = equation.split("->")
    labels = [_letters(x, s.rank) for x, s in zip(given.split(","), terms, strict=True)]
    if any(len(set(own)) < len(own) for own in labels):
        return None
    longest = max(labels, key=lambda own: sum(c.isdigit() for c in own))
    hidden = [c for c in longest if c.isdigit()]
    before, dots, after = result.partition("...")
    return contract(terms, labels, [*before, *(hidden if dots else []), *after], where)


def _letters(subscripts: str, rank: int) -> list[str]:
    """Labels of an operand's dimensions; those under `...` are numbers, counted from the right."""
    if "..." not in subscripts:
        return list(subscripts)
    before, after = subscripts.split("...")
    hidden = rank - len(before) - len(after)
    return [*before, *(str(n) for n in range(hidden, 0, -1)), *after]


def sizes(x: Symbol) -> list[int]:
    """The shape."""
    return [1 if axis is None else axis.size for axis in x.axes]


def broadcast_to(x: Symbol, shape: Sequence[int]) -> Symbol:
    """The array repeated to a shape."""
    missing = len(shape) - x.rank
    sources: list[int | None] = [None] * missing + list(range(x.rank))
    held = [None if s is None or x.axes[s] is None else s for s in sources]
    new = tuple(
        Axis(size) if s is None and size != 1 else None for s, size in zip(held, shape, strict=True)
    )
    return move(x, held, new)


def reshaped(x: Symbol, shape: Sequence[int], where: str) -> Symbol:
    """The array in another shape: dimensions of size 1 come and go, the others keep their order."""
    given = sizes(x)
    kept = iter([d for d, size in enumerate(given) if size != 1])
    if [size for size in given if size != 1] != [size for size in shape if size != 1]:
        raise GraphError(
            f"{where}: the reshape from {tuple(given)} to {tuple(shape)} merges or splits axes, so "
            f"that it cannot be told which runs along a plate. Use x[..., tf.newaxis], tf.squeeze "
            f"and tf.gather instead."
        )
    return move(x, [None if size == 1 else next(kept) for size in shape])


def parts_of(symbol: Symbol) -> frozenset[str]:
    """Names of the parts that an array is computed from."""
    if isinstance(symbol, PartValue):
        return frozenset({symbol.name})
    if isinstance(symbol, Elementwise | Join):
        return frozenset().union(*map(parts_of, symbol.arguments))
    argument = getattr(symbol, "argument", None)
    return frozenset() if argument is None else parts_of(argument)
