"""Symbolic arrays as expressions of a variable's parents, aligned to its rows; see `expression`.

Axes of plates vanish: a parent arrives at its child's rows, whichever index took it there. Axes of
events stay, in the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pavi.backends.tfp import axes
from pavi.backends.tfp.axes import Symbol
from pavi.errors import GraphError
from pavi.expression import Constant, Operand, Step

# operation of `axes` -> a function of `expression` with settings
_SAME = {
    "and": "both",
    "or": "either",
    "is_finite": "finite",
}

_COUNTED = {("mean", True), ("sum", False)}


@dataclass
class Knowns:
    """What a graph knows besides its observed variables: covariates and memberships.

    Attributes:
        values: the covariates' arrays, `[*plates, *event]`.
        plates: their plates.
        members: `members[plate][owner]`: the owner of each row.
        taken: names that are not free.
    """

    taken: set[str]
    values: dict[str, np.ndarray] = field(default_factory=dict)
    plates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    members: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def covariate(self, value: np.ndarray, plates: tuple[str, ...], name: str) -> str:
        """The name of the covariate with these values, a new one unless there is one."""
        for other, array in self.values.items():
            if self.plates[other] == plates and np.array_equal(array, value):
                return other
        free, count = name, 1
        while free in self.taken:
            count += 1
            free = f"{name}_{count}"
        self.taken.add(free)
        self.values[free], self.plates[free] = value, plates
        return free

    def member(self, plate: str, owner: str, index: np.ndarray, where: str) -> None:
        """Notes that each row of a plate takes its element of the owner by this index."""
        owners = self.members.setdefault(plate, {})
        if owner in owners and not np.array_equal(owners[owner], index):
            raise GraphError(
                f"{where}: plate {plate!r} takes its elements of {owner!r} by two different "
                f"indices. A row has one owner: give the second role a plate of its own."
            )
        owners[owner] = index


class _Value(NamedTuple):
    """An operand, and the dimensions of its symbol that it has as event axes, in order."""

    operand: Operand
    present: tuple[int, ...]


class Emitter:
    """The steps that give the parameters of one variable.

    Args:
        name: the variable's, for the names of covariates and messages.
        event_rank: number of its event axes.
        knowns: where covariates and memberships are noted.
    """

    def __init__(self, name: str, event_rank: int, knowns: Knowns) -> None:
        self.steps: list[Step] = []
        self.parents: dict[str, int] = {}  # their event axes
        self._name, self._event_rank, self._knowns = name, event_rank, knowns
        self._found: dict[int, _Value] = {}
        self._keep: list[Symbol] = []
        self._hint = ""

    def parameter(self, symbol: Symbol, hint: str, dimensions: Sequence[int], own: int) -> Operand:
        """A parameter laid out as `[*rows, *event, *own]`.

        Args:
            symbol: its last `own` dimensions are its own.
            hint: its name.
            dimensions: those of the others that are events of the variable.
            own: number of its own dimensions.
        """
        self._hint = hint
        value = self._value(symbol)
        if isinstance(value.operand, Constant) and not value.operand.shape and not own:
            return value.operand
        wanted = (*dimensions, *range(symbol.rank - own, symbol.rank))
        missing = [d for d in wanted[len(dimensions) :] if d not in value.present]
        operand = self._arranged(value, wanted)
        for d in missing:
            axis = symbol.axes[d]
            if axis is not None:
                place = wanted.index(d) - len(wanted)
                operand = self._step("spread", (operand,), (place, axis.size))
        return operand

    def _step(
        self, function: str, operands: tuple[Operand, ...], options: tuple[int, ...] = ()
    ) -> int:
        step = Step(function, operands, options)
        self.steps.append(step)
        return len(self.steps) - 1

    def _value(self, symbol: Symbol) -> _Value:
        if id(symbol) not in self._found:
            self._keep.append(symbol)  # an identity is told by what lives
            self._found[id(symbol)] = self._emitted(symbol)
        return self._found[id(symbol)]

    def _arranged(self, value: _Value, wanted: Sequence[int]) -> Operand:
        """The operand with event axes for the dimensions `wanted`, of size 1 where it has none."""
        operand, present = value
        order = tuple(present.index(d) if d in present else -1 for d in wanted)
        if order == tuple(range(len(present))):
            return operand
        if isinstance(operand, Constant):
            array = np.asarray(operand.values).reshape(operand.shape)
            kept = [d for d in order if d >= 0]
            rest = [d for d in range(len(present)) if d not in kept]
            moved = np.transpose(array, (*kept, *rest))
            return Constant.of(moved.reshape([array.shape[d] if d >= 0 else 1 for d in order]))
        return self._step("arrange", (operand,), (len(present), *order))

    def _emitted(self, symbol: Symbol) -> _Value:
        if isinstance(symbol, axes.Known):
            return self._known(symbol)
        if isinstance(symbol, axes.PartValue):
            events = _events(symbol.axes)
            return _Value(self._parent(symbol.name, len(events)), events)
        if isinstance(symbol, axes.Elementwise):
            return self._elementwise(symbol)
        if isinstance(symbol, axes.Move):
            value = self._value(symbol.argument)
            present = tuple(i for i, s in enumerate(symbol.sources) if s in value.present)
            sources = [symbol.sources[i] for i in present]
            return _Value(self._arranged(value, [s for s in sources if s is not None]), present)
        if isinstance(symbol, axes.Reduce):
            return self._reduced(symbol)
        if isinstance(symbol, axes.Along):
            return self._along(symbol)
        if isinstance(symbol, axes.Gather):
            return self._gathered(symbol)
        if isinstance(symbol, axes.Pick):
            return self._picked(symbol)
        if isinstance(symbol, axes.Join):
            return self._joined(symbol)
        raise TypeError(f"{type(symbol).__name__} is no symbol of `axes`.")

    def _parent(self, name: str, rank: int) -> Operand:
        """A parent; a scalar one comes with an axis for each event axis of the variable."""
        self.parents[name] = rank
        if rank or not self._event_rank:
            return name
        return self._step("arrange", (name,), (self._event_rank,))

    def _known(self, symbol: axes.Known) -> _Value:
        array, own = symbol.value, list(symbol.axes)
        for d, axis in enumerate(own):
            if axis is None or axis.plate is None:
                continue
            first = np.take(array, [0], d)
            if np.array_equal(np.broadcast_to(first, array.shape), array):
                # the same for all elements
                array, own[d] = first, None
        plated = [d for d, axis in enumerate(own) if axis is not None and axis.plate]
        events = [d for d, axis in enumerate(own) if axis is not None and not axis.plate]
        sizes = [array.shape[d] for d in (*plated, *events)]
        rest = [d for d in range(array.ndim) if d not in plated and d not in events]
        ordered = np.transpose(array, (*plated, *events, *rest)).reshape(sizes)
        operand: Operand
        if plated:
            plates = tuple(a.plate for d in plated if (a := own[d]) is not None and a.plate)
            name = self._knowns.covariate(ordered, plates, f"{self._name}_{self._hint}")
            operand = self._parent(name, len(events))
        else:
            operand = Constant.of(ordered)
        if array.dtype.kind == "b":
            operand = self._step("greater", (operand, Constant.of(0.5)))
        return _Value(operand, tuple(events))

    def _broadcast(self, symbol: Symbol, arguments: Sequence[Symbol]) -> list[_Value]:
        """Arguments with the same event axes, by the dimensions of the result."""
        values = []
        for argument in arguments:
            operand, present = self._value(argument)
            shift = symbol.rank - argument.rank
            values.append(_Value(operand, tuple(d + shift for d in present)))
        wanted = tuple(sorted({d for value in values for d in value.present}))
        out = []
        for value in values:
            number = isinstance(value.operand, Constant) and not value.operand.shape
            operand = value.operand if number else self._arranged(value, wanted)
            out.append(_Value(operand, wanted))
        return out

    def _elementwise(self, symbol: axes.Elementwise) -> _Value:
        given = self._broadcast(symbol, symbol.arguments)
        operands, present = tuple(value.operand for value in given), given[0].present
        name = _SAME.get(symbol.operation, symbol.operation)
        if name == "square":
            return _Value(self._step("whole_power", operands, (2,)), present)
        if name == "number":
            numbers = (self._arranged(self._one(), present), Constant.of(0.0))
            return _Value(self._step("where", (*operands, *numbers)), present)
        if name == "reciprocal":
            return _Value(self._step("whole_power", operands, (-1,)), present)
        if name == "not":
            one, zero = Constant.of(1.0), Constant.of(0.0)
            number = self._step("where", (*operands, one, zero))
            return _Value(self._step("less", (number, Constant.of(0.5))), present)
        if name == "divide_no_nan":
            a, b = operands
            none = self._step("equal", (b, Constant.of(0.0)))
            safe = self._step("where", (none, Constant.of(1.0), b))
            ratio = self._step("divide", (a, safe))
            return _Value(self._step("where", (none, Constant.of(0.0), ratio)), present)
        return _Value(self._step(name, operands), present)

    def _one(self) -> _Value:
        """The number 1 in the dtype of the run, which is that of all parents."""
        name, rank = next(iter(self.parents.items()))
        operand = self._parent(name, rank)
        if rank:
            operand = self._step("sum", (operand,), tuple(range(-rank, 0)))
        return _Value(self._step("whole_power", (operand,), (0,)), ())

    def _event(self, symbol: Symbol, d: int, where: str, what: str) -> None:
        """Refuses a plate as an axis to compute along."""
        axis = symbol.axes[d]
        if axis is not None and axis.plate:
            raise GraphError(
                f"{where}: {what} plate {axis.plate!r}, whose elements are independent given their "
                f"parents. Make what runs over {axis.plate!r} a parent of variables on it instead, "
                f"or leave it out of `plates`, where it is few elements."
            )

    def _reduced(self, symbol: axes.Reduce) -> _Value:
        argument = symbol.argument
        for d in symbol.dimensions:
            self._event(argument, d, symbol.where, f"takes a {symbol.operation} over")
        value = self._value(argument)
        operand, present = value
        places = tuple(i - len(present) for i, d in enumerate(present) if d in symbol.dimensions)
        count = 1
        for d in symbol.dimensions:
            axis = argument.axes[d]
            # the mean divides by what was summed, a sum counts what was not repeated
            if axis is not None and (symbol.operation, d in present) in _COUNTED:
                count *= axis.size
        if places:
            operand = self._step("max" if symbol.operation == "max" else "sum", (operand,), places)
        if count > 1:
            scale = Constant.of(count)
            by = "divide" if symbol.operation == "mean" else "multiply"
            operand = self._step(by, (operand, scale))
        kept = [d for d in range(argument.rank) if d not in symbol.dimensions]
        return _Value(operand, tuple(kept.index(d) for d in present if d in kept))

    def _along(self, symbol: axes.Along) -> _Value:
        d = symbol.dimension
        self._event(symbol, d, symbol.where, f"takes a {symbol.operation} along")
        value = self._present(symbol.argument, d)
        operand, present = value
        place = present.index(d) - len(present)
        if symbol.operation == "cumsum":
            return _Value(self._step("cumsum", (operand,), (place,)), present)
        rest = _Value(self._step("max", (operand,), (place,)), tuple(x for x in present if x != d))
        shifted = self._step("subtract", (operand, self._arranged(rest, present)))
        exponent = self._step("exp", (shifted,))
        total = rest._replace(operand=self._step("sum", (exponent,), (place,)))
        return _Value(self._step("divide", (exponent, self._arranged(total, present))), present)

    def _present(self, symbol: Symbol, d: int) -> _Value:
        """The value with an event axis of its full size for dimension `d`."""
        value = self._value(symbol)
        if d in value.present:
            return value
        wanted = tuple(sorted((*value.present, d)))
        operand = self._arranged(value, wanted)
        axis = symbol.axes[d]
        if axis is not None:
            place = wanted.index(d) - len(wanted)
            operand = self._step("spread", (operand,), (place, axis.size))
        return _Value(operand, wanted)

    def _gathered(self, symbol: axes.Gather) -> _Value:
        d, index = symbol.dimension, symbol.index
        source, target = symbol.argument.axes[d], symbol.axes[d]
        value = self._value(symbol.argument)
        plate = target.plate if target is not None else None
        if source is not None and source.plate:
            owner = source.plate
            if plate == owner and np.array_equal(index, np.arange(source.size)):
                return value
            if plate is None or plate == owner:
                raise GraphError(
                    f"{symbol.where}: takes elements of plate {owner!r} along an axis of "
                    f"{len(index)} that is "
                    + ("on no plate" if plate is None else f"on plate {owner!r} itself")
                    + ". Name the plate of that axis in `plates`, one of its own."
                )
            self._knowns.member(plate, owner, index.astype(np.int64), symbol.where)
            return value
        if d not in value.present:
            return value
        if plate:
            others = tuple(x for x in value.present if x != d)
            last = self._arranged(value, (*others, d))
            name = self._knowns.covariate(index, (plate,), f"{self._name}_index")
            rows = self._arranged(_Value(self._parent(name, 0), ()), others)
            size = symbol.argument.axes[d]
            count = size.size if size is not None else 1
            return _Value(self._step("select", (last, rows), (count,)), others)
        place = value.present.index(d) - len(value.present)
        parts = tuple(
            self._step("slice", (value.operand,), (place, int(i), int(i) + 1, 1)) for i in index
        )
        operand = self._step("concat", parts, (place,)) if len(parts) > 1 else parts[0]
        if target is not None:
            return _Value(operand, value.present)
        others = tuple(x for x in value.present if x != d)
        return _Value(self._arranged(_Value(operand, value.present), others), others)

    def _picked(self, symbol: axes.Pick) -> _Value:
        d = symbol.dimension
        self._event(symbol.argument, d, symbol.where, "takes one element of")
        operand, present = self._value(symbol.argument)
        if d in present:
            place = present.index(d) - len(present)
            at = symbol.position
            operand = self._step("slice", (operand,), (place, at, at + 1, 1))
            rest = tuple(x for x in present if x != d)
            operand = self._arranged(_Value(operand, present), rest)
        return _Value(operand, tuple(x - (x > d) for x in present if x != d))

    def _joined(self, symbol: axes.Join) -> _Value:
        d = symbol.dimension
        for argument in symbol.arguments:
            self._event(argument, d, symbol.where, "joins arrays along")
        self._event(symbol, d, symbol.where, "joins arrays along")
        values = [self._present(argument, d) for argument in symbol.arguments]
        wanted = tuple(sorted({x for value in values for x in value.present}))
        parts = tuple(self._arranged(value, wanted) for value in values)
        place = wanted.index(d) - len(wanted)
        return _Value(self._step("concat", parts, (place,)), wanted)


def _events(own: axes.Axes) -> tuple[int, ...]:
    """The dimensions that are events."""
    return tuple(d for d, axis in enumerate(own) if axis is not None and not axis.plate)
