"""The parameters of a site as an expression of its parents, in row layout (see `expression`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from pavi.backends.numpyro.axes import (
    ELEMENTWISE,
    MOVES,
    REDUCTIONS,
    Axes,
    UnreadableError,
    moved_axes,
    picked,
)
from pavi.backends.numpyro.covariates import Covariates
from pavi.backends.numpyro.specs import Parts
from pavi.backends.numpyro.tracing import Reading, Site
from pavi.backends.numpyro.values import Known, Node, Value
from pavi.expression import Constant, Expression, Operand, Step

# Known arrays of no plate that are written into the graph; larger ones are covariates.
_CONSTANT_LIMIT = 64


def event_of(site: Site) -> tuple[int, ...]:
    """The event of a site's variable: axes of its batch that are no plates', and one draw's."""
    taken = {len(site.batch_shape) + dim for _, dim in site.plates}
    rest = [s for a, s in enumerate(site.batch_shape) if a not in taken and s > 1]
    return (*rest, *site.event_shape)


def event_axes(site: Site) -> list[int]:
    """The axes of a site's value that make its variable's event."""
    taken = {len(site.batch_shape) + dim for _, dim in site.plates}
    rest = [a for a, s in enumerate(site.batch_shape) if a not in taken and s > 1]
    start = len(site.batch_shape)
    return [*rest, *range(start, start + len(site.event_shape))]


class Emitter:
    """Writes the parameters of one site."""

    def __init__(self, reading: Reading, axes: Axes, covariates: Covariates, site: Site) -> None:
        self._reading, self._axes, self._covariates = reading, axes, covariates
        self._site = site
        self._rank = len(event_of(site))
        self._steps: list[Step] = []
        self._parents: dict[str, None] = {}
        self._done: dict[int, Operand] = {}

    def expression(self, parts: Parts) -> Expression:
        """The site's distribution as a function of its parents."""
        parameters: list[tuple[str, Operand]] = []
        for name, (value, rank) in parts.parameters.items():
            use = self._axes.use(value, self._site.name, name)
            operand = self._operand(value, use)
            events = self._axes.event(value, use)
            lead = len(value.shape) - rank
            wanted = [a for a in event_axes(self._site) if a < lead]
            wanted += range(lead, len(value.shape))
            order = [events.index(a) if a in events else -1 for a in wanted]
            if sorted(o for o in order if o >= 0) != list(range(len(events))):
                raise UnreadableError(f"its {name} has an axis that the site has not")
            operand = self._arranged(operand, len(events), order)
            parameters.append((name, self._whole(operand, value.shape[lead:])))
        return Expression(
            tuple(self._parents),
            tuple(self._steps),
            parts.kind,
            tuple(parameters),
            tuple(parts.settings.items()),
        )

    def _whole(self, operand: Operand, own: tuple[int, ...]) -> Operand:
        """A parameter with its own axes at their full sizes, which tell those of a draw."""
        if isinstance(operand, Constant):
            array = np.asarray(operand.array())
            lead = array.shape[: max(0, array.ndim - len(own))]
            return Constant.of(np.broadcast_to(array, (*lead, *own)))
        for axis, size in enumerate(own):
            if size > 1:
                operand = self._step("spread", operand, options=(axis - len(own), size))
        return operand

    def _step(self, function: str, *operands: Operand, options: Sequence[int] = ()) -> Operand:
        self._steps.append(Step(function, operands, tuple(options)))
        return len(self._steps) - 1

    def _arranged(self, operand: Operand, rank: int, order: Sequence[int]) -> Operand:
        if list(order) == list(range(rank)):
            return operand
        if isinstance(operand, Constant):
            if not operand.shape:
                return operand
            array = np.transpose(operand.array(), [o for o in order if o >= 0])
            shape = [operand.shape[o] if o >= 0 else 1 for o in order]
            return Constant.of(array.reshape(shape))
        return self._step("arrange", operand, options=(rank, *order))

    def _operand(self, value: Value, use: tuple[int, Any]) -> Operand:
        if isinstance(value, Known):
            return self._known(value, use)
        if id(value) not in self._done:
            self._done[id(value)] = self._node(value)
        return self._done[id(value)]

    def _inputs(self, node: Node) -> list[tuple[Operand, list[int]]]:
        """The operands, each with its event axes."""
        uses = [self._axes.use(value, node, i) for i, value in enumerate(node.inputs)]
        return [
            (self._operand(value, use), self._axes.event(value, use))
            for value, use in zip(node.inputs, uses, strict=True)
        ]

    def _known(self, known: Known, use: tuple[int, Any]) -> Operand:
        if known.number is not None:
            return self._known(known.number, use)
        if known.random:
            raise UnreadableError("it takes random numbers of its own")
        plates = [(self._axes.plate(use, a), a) for a, s in enumerate(known.shape) if s > 1]
        events = [a for plate, a in plates if plate is None]
        inside = [(plate, a) for plate, a in plates if plate is not None]
        size = prod(known.shape)
        if not inside and size <= _CONSTANT_LIMIT and known.concrete:
            array = np.asarray(known.value)
            return Constant.of(array.reshape([known.shape[a] for a in events]))
        return self._covariate(known, inside, events)

    def _covariate(
        self, known: Known, inside: Sequence[tuple[str, int]], events: Sequence[int]
    ) -> Operand:
        names = [plate for plate, _ in inside]
        if len(set(names)) < len(names):
            (twice, *_) = [name for name in names if names.count(name) > 1]
            raise UnreadableError(f"an array has two axes along the plate {twice!r}", twice)
        order = [*(axis for _, axis in inside), *events]
        covariate = self._covariates.of(known, names, order, self._site.name)
        return self._leaf(covariate.name, covariate.event, range(len(events)))

    def _leaf(self, name: str, event: tuple[int, ...], order: Sequence[int]) -> Operand:
        """A parent, of whose event the axes `order` are kept."""
        self._parents[name] = None
        return self._arranged(name, len(event) or self._rank, list(order))

    def _node(self, node: Node) -> Operand:
        name = node.primitive
        own = (id(node), None)
        events = self._axes.event(node, own)
        if name == "latent":
            return self._latent(node, events)
        if name in MOVES:
            ((operand, before),) = self._inputs(node)
            moved = moved_axes(node)
            olds = [moved[a] for a in events]
            order = [before.index(a) if a is not None and a in before else -1 for a in olds]
            return self._arranged(operand, len(before), order)
        if name == "gather":
            return self._gather(node, events)
        if name == "dot_general":
            return self._product(node, events)
        if name in REDUCTIONS:
            return self._reduction(node)
        if name == "concatenate":
            return self._concatenation(node, events)
        if name == "slice":
            return self._part(node)
        inputs = [
            self._arranged(o, len(e), [-1] * (len(events) - len(e)) + list(range(len(e))))
            for o, e in self._inputs(node)
        ]
        return self._elementwise(node, inputs, events)

    def _elementwise(self, node: Node, x: list[Operand], events: list[int]) -> Operand:
        name = node.primitive
        if name in ELEMENTWISE:
            return self._step(ELEMENTWISE[name], *x)
        if name == "copy":
            return x[0]
        if name == "convert_element_type":
            return self._cast(node, x[0])
        if name == "select_n" and len(x) == 3:
            return self._step("where", x[0], x[2], x[1])
        if name == "clamp":
            return self._step("minimum", self._step("maximum", x[1], x[0]), x[2])
        if name == "integer_pow":
            return self._step("whole_power", x[0], options=(node.params["y"],))
        if name == "square":
            return self._step("multiply", x[0], x[0])
        if name == "rsqrt":
            return self._step("divide", Constant((), (1.0,)), self._step("sqrt", x[0]))
        if name == "cumsum" and node.params["axis"] not in events:
            plate = self._axes.plate((id(node), None), node.params["axis"])
            raise UnreadableError(f"a sum runs along the plate {plate!r}", plate)
        if name == "cumsum" and not node.params["reverse"]:
            axis = events.index(node.params["axis"]) - len(events)
            return self._step("cumsum", self._long(x[0], node, events, axis), options=(axis,))
        if name == "cholesky" and events[-2:] == [len(node.shape) - 2, len(node.shape) - 1]:
            return self._step("cholesky", x[0])
        raise UnreadableError(f"the function {name!r} of JAX has no counterpart in pavi.ops")

    def _cast(self, node: Node, operand: Operand) -> Operand:
        """An array in another dtype: truth is 1 and 0, and a number is kept as it is."""
        (source,) = (v.dtype for v in node.inputs if isinstance(v, Node))
        before, after = np.dtype(source).kind, np.dtype(node.dtype).kind
        if before == after:
            return operand
        if before == "b":
            return self._step("where", operand, Constant((), (1.0,)), Constant((), (0.0,)))
        if after == "b":
            return self._step("not_equal", operand, Constant((), (0.0,)))
        if after in "iu" and before not in "iu":
            raise UnreadableError(f"a value of latents is cast to whole numbers ({node.dtype})")
        return operand

    def _long(self, operand: Operand, value: Value, events: list[int], axis: int) -> Operand:
        """The operand with an event axis (from the right) at its full size."""
        size = value.shape[events[axis]]
        return self._step("spread", operand, options=(axis, size))

    def _latent(self, node: Node, events: list[int]) -> Operand:
        site = self._reading.sites[node.site]
        if site.kind == "enumerated":
            raise UnreadableError(f"it depends on the enumerated site {site.name!r}")
        whole = event_axes(site)
        taken = {len(site.batch_shape) + dim for _, dim in site.plates}
        for axis in whole:
            plate = self._axes.plate((id(node), None), axis) if node.shape[axis] > 1 else None
            if plate is not None and axis not in taken:
                raise UnreadableError(
                    f"an axis of {site.name!r} that is no plate's is used along {plate!r}", plate
                )
        return self._leaf(site.name, event_of(site), [whole.index(a) for a in events])

    def _reduction(self, node: Node) -> Operand:
        ((operand, before),) = self._inputs(node)
        axes = [a for a in node.params["axes"] if node.inputs[0].shape[a] > 1]
        for axis in axes:
            if axis not in before:
                plate = self._axes.plate(self._axes.use(node.inputs[0], node, 0), axis)
                raise UnreadableError(f"{node.primitive!r} runs over the plate {plate!r}", plate)
        places = [before.index(a) - len(before) for a in axes]
        for place in places if node.primitive == "reduce_sum" else ():
            operand = self._long(operand, node.inputs[0], before, place)
        return self._step(REDUCTIONS[node.primitive], operand, options=places)

    def _product(self, node: Node, events: list[int]) -> Operand:
        contracted, shared = node.params["dimension_numbers"]
        start = len(shared[0])
        sides: list[Operand] = []
        inputs = self._inputs(node)
        count = 0
        for i, (operand, before) in enumerate(inputs):
            shape = node.inputs[i].shape
            free = [a for a in range(len(shape)) if a not in (*contracted[i], *shared[i])]
            home = dict(zip(shared[i], range(len(shared[i])), strict=True))
            home |= {a: start + j for j, a in enumerate(free)}
            start += len(free)
            summed = [a for a in contracted[i] if shape[a] > 1]
            for axis in summed:
                if axis not in before:
                    plate = self._axes.plate(self._axes.use(node.inputs[i], node, i), axis)
                    raise UnreadableError(f"a product sums over the plate {plate!r}", plate)
            count = len(summed)
            from_out = {out: a for a, out in home.items()}
            order = [before.index(from_out[e]) if from_out.get(e) in before else -1 for e in events]
            order += [before.index(a) for a in summed]
            sides.append(self._arranged(operand, len(before), order))
        out = self._step("multiply", *sides)
        for place in range(-count, 0):
            size = node.inputs[0].shape[
                [a for a in contracted[0] if node.inputs[0].shape[a] > 1][place]
            ]
            out = self._step("spread", out, options=(place, size))
        return self._step("sum", out, options=range(-count, 0)) if count else out

    def _concatenation(self, node: Node, events: list[int]) -> Operand:
        axis = node.params["dimension"]
        if axis not in events:
            plate = self._axes.plate((id(node), None), axis)
            raise UnreadableError(f"arrays are joined along the plate {plate!r}", plate)
        place = events.index(axis) - len(events)
        parts: list[Operand] = []
        for (operand, before), value in zip(self._inputs(node), node.inputs, strict=True):
            order = [before.index(a) if a in before else -1 for a in events]
            if isinstance(operand, Constant):
                array = operand.array()
                array = (
                    np.reshape(array, [operand.shape[o] if o >= 0 else 1 for o in order])
                    if operand.shape
                    else np.full((1,) * len(events), array)
                )
                parts.append(
                    Constant.of(
                        np.repeat(array, value.shape[axis], place)
                        if array.shape[place] == 1
                        else array
                    )
                )
                continue
            operand = self._arranged(operand, len(before), order)
            parts.append(self._step("spread", operand, options=(place, value.shape[axis])))
        return self._step("concat", *parts, options=(place,))

    def _part(self, node: Node) -> Operand:
        ((operand, before),) = self._inputs(node)
        shape, params = node.inputs[0].shape, node.params
        strides = params["strides"] or (1,) * len(shape)
        limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        kept = list(before)
        for axis, (start, stop, stride) in enumerate(limits):
            if shape[axis] == node.shape[axis]:
                continue
            if axis not in before:
                plate = self._axes.plate(self._axes.use(node.inputs[0], node, 0), axis)
                raise UnreadableError(f"some elements of the plate {plate!r} are cut out", plate)
            operand = self._sliced(operand, node.inputs[0], before, axis, (start, stop, stride))
            if node.shape[axis] == 1:
                kept.remove(axis)
        return self._arranged(operand, len(before), [before.index(a) for a in kept])

    def _sliced(
        self, operand: Operand, value: Value, events: list[int], axis: int, part: Sequence[int]
    ) -> Operand:
        """The operand with a part (start, stop, stride) of one event axis of its value."""
        place = events.index(axis) - len(events)
        return self._step(
            "slice", self._long(operand, value, events, place), options=(place, *part)
        )

    def _child(self, own: tuple[int, Any], axes: Sequence[int], rows: Sequence[int]) -> str | None:
        """The plate whose rows an index picks for, of the axes `rows` longer than one element."""
        if rows or not axes:
            return self._axes.plate(own, rows[0]) if len(rows) == 1 else None
        single = [p for p, _ in self._site.plates if len(self._reading.indices[p]) == 1]
        return single[0] if len(single) == 1 else None

    def _gather(self, node: Node, events: list[int]) -> Operand:
        found, use = picked(node), self._axes.use(node.inputs[0], node, 0)
        operand = self._operand(node.inputs[0], use)
        before = self._axes.event(node.inputs[0], use)
        own = (id(node), None)
        back = dict(zip(found.offset, found.kept, strict=True))
        rows = [a for a in found.rows if node.shape[a] > 1]
        chosen: list[tuple[int, Known]] = []
        for axis, column in zip(found.axes, found.columns, strict=True):
            place = column.repeated if axis in before else None
            if node.inputs[0].shape[axis] == 1:
                continue
            if place is not None and 0 <= place < node.inputs[0].shape[axis]:
                # One and the same element for all rows, as the 0 of b[group, 0]
                operand = self._sliced(operand, node.inputs[0], before, axis, (place, place + 1, 1))
                rest = [a for a in before if a != axis]
                operand = self._arranged(operand, len(before), [before.index(a) for a in rest])
                before = rest
                continue
            if axis in before:
                chosen.append((axis, column))
                continue
            owner = self._axes.plate(use, axis)
            child = self._child(own, found.rows, rows)
            if owner is None or child is None or not self._axes.belongs(child, owner, column):
                raise UnreadableError(
                    f"elements of the plate {owner!r} are picked by an index that is no membership "
                    f"of each row of one plate, or that disagrees with the plate's other indices",
                    owner,
                )
        if len(chosen) > 1:
            raise UnreadableError("an index picks along several axes that are no plates'")
        kept = [back.get(a) for a in events]
        order = [before.index(a) if a in before else -1 for a in kept]
        if not chosen:
            return self._arranged(operand, len(before), order)
        axis, column = chosen[0]
        count = node.inputs[0].shape[axis]
        operand = self._arranged(operand, len(before), [*order, before.index(axis)])
        labels = [(self._axes.plate(own, a), i) for i, a in enumerate(found.rows) if a in rows]
        inside = [(plate, i) for plate, i in labels if plate is not None]
        apart = [i for plate, i in labels if plate is None]
        index = self._covariate(column, inside, apart)
        places = [found.rows[i] for i in apart]
        index = self._arranged(
            index, len(apart), [places.index(a) if a in places else -1 for a in events]
        )
        return self._step("select", operand, index, options=(count,))
