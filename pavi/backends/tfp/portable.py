"""A TFP joint distribution as a plate graph with data.

The model's own functions are run once on symbolic values of all parts. What they compute from these
is followed axis by axis: the user names the axes that are plates, and whatever runs along with one
of them lies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pavi.backends.tfp import axes
from pavi.backends.tfp.emission import Emitter, Knowns
from pavi.backends.tfp.layout import Layout
from pavi.backends.tfp.specs import Law, read_law
from pavi.backends.tfp.tracing import Tracer
from pavi.data import Data
from pavi.dist.spec import Spec
from pavi.errors import GraphError, did_you_mean
from pavi.expression import Constant, Expression
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph, Variable

AxesOfPlates = Mapping[str, Mapping[Any, int]]


@dataclass(frozen=True)
class ReadModel:
    """A joint distribution as a plate graph.

    Attributes:
        graph: the graph.
        data: its covariates, memberships and observed values.
        names: the variable of each part, in the order of the joint distribution's flat values.
        layouts: by variable.
        joint: the joint distribution, without pins.
        observed: names of the parts that are pinned or observed.
    """

    graph: PlateGraph
    data: Data
    names: tuple[str, ...]
    layouts: dict[str, Layout]
    joint: Any
    observed: frozenset[str]


def read_joint_distribution(
    joint_distribution: Any, *, plates: AxesOfPlates, observations: Any = None
) -> ReadModel:
    """Reads a joint distribution.

    Args:
        joint_distribution: a `tfd.JointDistribution`, pinned or not.
        plates: for each plate the parts that lie in it, and which axis of their values it is:
            `{"school": {"theta": 0, "y": 0}}`. Parts go by name, or by position; axes may be
            negative.
        observations: values of the parts that are observed, as `experimental_pin` takes them, or by
            position.

    Raises:
        GraphError: the model cannot be read; the message names the part, and what to do.
    """
    joint, pins = _unpinned(joint_distribution, observations)
    parts = tuple(joint._flat_resolve_names())
    shapes = _shapes(joint, parts)
    located = _located(plates, parts, shapes)
    traced = _traced(joint, parts, shapes)
    symbols = {part: _part_symbol(part, shapes[part], traced.laws[part], located) for part in parts}
    tracer = Tracer(
        traced.graph,
        {traced.placeholders[part]: symbols[part] for part in parts},
        traced.captured,
    )
    parameters: dict[str, dict[str, axes.Symbol]] = {}
    for part in parts:
        tracer.part = part
        parameters[part] = _parameters(tracer, traced.laws[part], symbols[part], part)
    tracer.close()
    knowns = Knowns({*parts, *plates})
    variables: list[Variable] = []
    layouts, values = {}, {}
    for part in parts:
        variable, layouts[part] = _variable(
            part, symbols[part], traced.laws[part], parameters[part], knowns, part in pins
        )
        variables.append(variable)
        if part in pins:
            values[part] = _observed_value(part, pins[part], layouts[part])
    variables += [
        Covariate(n, plates=on, event=knowns.values[n].shape[len(on) :])
        for n, on in knowns.plates.items()
    ]
    graph = PlateGraph(
        [Plate(name, within=tuple(knowns.members.get(name, ()))) for name in plates], variables
    )
    sizes = {p: shapes[part][d] for (part, p), d in located.items()}
    data = Data({**values, **knowns.values}, members=knowns.members, sizes=sizes)
    return ReadModel(graph, data, parts, layouts, joint, frozenset(pins))


def _unpinned(joint: Any, observations: Any) -> tuple[Any, dict[str, Any]]:
    """The joint distribution, and the values of its observed parts by name."""
    pins: dict[str, Any] = {}
    if hasattr(joint, "pins") and hasattr(joint, "distribution"):
        joint, pins = joint.distribution, dict(joint.pins)
    if not hasattr(joint, "sample_distributions"):
        raise GraphError(
            f"Expected a tfd.JointDistribution, got {type(joint).__name__}. Wrap the model in "
            f"tfd.JointDistributionSequential, Named or Coroutine."
        )
    if observations is None:
        return joint, pins
    names = joint._flat_resolve_names()
    if isinstance(observations, Mapping):
        given = {}
        for key, value in observations.items():
            name = names[key] if isinstance(key, int) and -len(names) <= key < len(names) else key
            if name not in names:
                raise GraphError(
                    f"observations[{key!r}]: the joint distribution has no such part; its parts "
                    f"are {list(names)}.{did_you_mean(str(key), names)}"
                )
            given[name] = value
        pinned = joint.experimental_pin(**given) if given else None
    else:
        pinned = joint.experimental_pin(observations)
    return joint, {**pins, **(dict(pinned.pins) if pinned is not None else {})}


def _shapes(joint: Any, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of the value of each part."""
    single = joint._get_single_sample_distributions()
    out = {}
    for part, d in zip(parts, single, strict=True):
        shape = d.batch_shape.concatenate(d.event_shape)
        if not shape.is_fully_defined():
            raise GraphError(
                f"Part {part!r} has the shape {shape}, which is not known before the model is run. "
                f"Give its distribution parameters of static shape."
            )
        if joint.batch_ndims is None and d.batch_shape.rank:
            raise GraphError(
                f"Part {part!r} has the batch shape {tuple(d.batch_shape)}, as if there were so "
                f"many models. Wrap its distribution in tfd.Independent or tfd.Sample, or use the "
                f"AutoBatched form of the joint distribution."
            )
        out[part] = tuple(int(size) for size in shape)
    if joint.batch_ndims:
        raise GraphError(
            f"The joint distribution has batch_ndims={joint.batch_ndims}, as if it were several "
            f"models. Build it without, and name the batch in `plates`."
        )
    return out


def _located(
    plates: AxesOfPlates, parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], int]:
    """The dimension of each part that each plate is, by `(part, plate)`."""
    out: dict[tuple[str, str], int] = {}
    for plate, lying in plates.items():
        if not isinstance(lying, Mapping) or not lying:
            raise GraphError(
                f"plates[{plate!r}] is {lying!r}, wanted the axis of each part that lies in it, "
                f"as in plates={{{plate!r}: {{{parts[-1]!r}: 0}}}}."
            )
        first: tuple[str, int] | None = None
        for key, axis in lying.items():
            place = isinstance(key, int) and -len(parts) <= key < len(parts)
            part = parts[key] if place else key
            if part not in parts:
                raise GraphError(
                    f"plates[{plate!r}]: the joint distribution has no part {key!r}; its parts are "
                    f"{list(parts)}.{did_you_mean(str(key), parts)}"
                )
            shape = shapes[part]
            if not isinstance(axis, (int, np.integer)) or not -len(shape) <= axis < len(shape):
                raise GraphError(
                    f"plates[{plate!r}][{key!r}] is axis {axis!r}, but the values of part {part!r} "
                    f"have the shape {shape}. Give one of its axes, an integer from {-len(shape)} "
                    f"to {len(shape) - 1}."
                    if shape
                    else f"plates[{plate!r}][{key!r}] is axis {axis!r}, but the values of part "
                    f"{part!r} are numbers, without axes. Leave it out of plate {plate!r}."
                )
            d = int(axis) % len(shape)
            other = next((q for (n, q), e in out.items() if n == part and e == d), None)
            if other is not None:
                raise GraphError(
                    f"Axis {d} of part {part!r} is on plate {other!r} and on plate {plate!r}. An "
                    f"axis is one plate: take the owner's values along it by tf.gather."
                )
            first = first or (part, shape[d])
            if shape[d] != first[1]:
                raise GraphError(
                    f"Plate {plate!r} has {first[1]} elements on part {first[0]!r}, but axis "
                    f"{axis} of part {part!r}, of shape {shape}, has {shape[d]}. Correct the axis, "
                    f"or name another plate."
                )
            out[part, plate] = d
    return out


class _Traced(NamedTuple):
    """The model run on symbolic values."""

    graph: Any
    laws: dict[str, Law]
    placeholders: dict[str, str]
    captured: dict[str, np.ndarray]


def _traced(joint: Any, parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> _Traced:
    laws: dict[str, Law] = {}
    placeholders: dict[str, str] = {}

    @tf.autograph.experimental.do_not_convert
    def run(*values: Any) -> Any:
        placeholders.update({part: value.name for part, value in zip(parts, values, strict=True)})
        found, _ = joint.sample_distributions(value=joint._model_unflatten(values))
        for part, distribution in zip(parts, joint._model_flatten(found), strict=True):
            try:
                laws[part] = read_law(distribution)
            except GraphError as error:
                raise GraphError(f"Part {part!r}: {error}") from None
        return tf.zeros([])

    dtypes = joint._model_flatten(joint.dtype)
    signature = [
        tf.TensorSpec(shapes[p], dtype, f"value_{i}")
        for i, (p, dtype) in enumerate(zip(parts, dtypes, strict=True))
    ]
    graph = tf.function(run, autograph=False).get_concrete_function(*signature).graph
    captured = {
        inner.name: outer.numpy()
        for outer, inner in graph.captures
        if outer.dtype != tf.resource and hasattr(outer, "numpy")
    }
    return _Traced(graph, laws, placeholders, captured)


def _part_symbol(
    part: str, shape: tuple[int, ...], law: Law, located: Mapping[tuple[str, str], int]
) -> axes.PartValue:
    """The value of a part, its axes labelled by plates."""
    own = list(axes.fresh(shape))
    drawn = range(len(shape) - law.rank, len(shape))
    for d in drawn:
        own[d] = axes.Axis(shape[d])
    for (name, plate), d in located.items():
        if name != part:
            continue
        if d in drawn:
            raise GraphError(
                f"Axis {d} of part {part!r} is on plate {plate!r}, but it is an event axis of "
                f"{law.spec.__name__}, whose entries depend on one another. Leave it out of plate "
                f"{plate!r}."
            )
        own[d] = axes.Axis(shape[d], plate)
    return axes.PartValue(tuple(own), part)


def _parameters(tracer: Tracer, law: Law, value: axes.Symbol, part: str) -> dict[str, axes.Symbol]:
    """The law's parameters, `[*dimensions of the value but those of a draw, *own]`."""
    scalar = value.rank - law.rank
    out = {}
    for name, (tensor, own) in law.parameters.items():
        symbol = tracer.symbol(tensor)
        batch = symbol.rank - own
        at = law.dimensions[len(law.dimensions) - batch :]
        sources = [at.index(d) if d in at else None for d in range(scalar)]
        moved = axes.move(symbol, [*sources, *range(batch, symbol.rank)])
        rows = axes.Symbol(moved.axes[:scalar])
        where = f"Part {part!r}, parameter {name!r}"
        axes.broadcast([rows, axes.Symbol(value.axes[:scalar])], where)
        out[name] = moved
    return out


def _variable(
    part: str,
    symbol: axes.PartValue,
    law: Law,
    parameters: Mapping[str, axes.Symbol],
    knowns: Knowns,
    observed: bool,
) -> tuple[Variable, Layout]:
    """The variable of a part."""
    on = [(d, axis.plate) for d, axis in enumerate(symbol.axes) if axis is not None and axis.plate]
    events = [d for d, axis in enumerate(symbol.axes) if axis is not None and not axis.plate]
    scalar = symbol.rank - law.rank
    emitter = Emitter(part, len(events), knowns)
    operands = {
        name: emitter.parameter(
            moved, name, [d for d in events if d < scalar], law.parameters[name].own
        )
        for name, moved in parameters.items()
    }
    distribution: Spec | Callable[..., Spec]
    if all(isinstance(operand, Constant) for operand in operands.values()):
        numbers = {n: o.array() for n, o in operands.items() if isinstance(o, Constant)}
        distribution = law.spec(**numbers, **law.fixed)
    else:
        distribution = Expression(
            tuple(emitter.parents),
            tuple(emitter.steps),
            law.spec,
            tuple(operands.items()),
            tuple(law.fixed.items()),
        )
    sizes = [axis.size if axis is not None else 1 for axis in symbol.axes]
    order = [*(d for d, _ in on), *events]
    rest = [d for d in range(symbol.rank) if d not in order]
    kind = Observed if observed else Latent
    variable = kind(
        part,
        distribution,
        plates=tuple(plate for _, plate in on),
        event=tuple(sizes[d] for d in events),
    )
    layout = Layout(tuple(sizes), (*order, *rest), tuple(sizes[d] for d in order))
    return variable, layout


def _observed_value(part: str, given: Any, layout: Layout) -> np.ndarray:
    """The data of a part, in its variable's layout."""
    value = given.numpy() if hasattr(given, "numpy") else np.asarray(given)
    if value.shape != layout.shape:
        try:
            value = np.broadcast_to(value, layout.shape)
        except ValueError:
            raise GraphError(
                f"The value that part {part!r} is observed at has the shape {value.shape}, wanted "
                f"{layout.shape}, that of the part's values."
            ) from None
    return np.transpose(value, layout.order).reshape(layout.sizes)
