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
from pavi.backends.tfp.parts import (
    AxesOfPlates,
    located_axes,
    names_of,
    refused_branches,
    shapes_of,
    unpinned,
)
from pavi.backends.tfp.specs import Law, read_law
from pavi.backends.tfp.tracing import Tracer
from pavi.data import Data
from pavi.dist.spec import Spec
from pavi.errors import GraphError
from pavi.expression import Constant, Expression
from pavi.graph import Covariate, Latent, Observed, Plate, PlateGraph, Variable


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


@refused_branches()
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
    joint, pins = unpinned(joint_distribution, observations)
    parts = names_of(joint)
    shapes = shapes_of(joint, parts)
    located = located_axes(plates, parts, shapes)
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
        if part in pins:
            _refuse_bounds(part, parameters[part], frozenset(pins))
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
        if batch > len(law.dimensions):
            raise GraphError(
                f"Part {part!r}, parameter {name!r} has the shape {tuple(axes.sizes(symbol))}, "
                f"with more axes than the {len(law.dimensions)} along which {law.spec.__name__} is "
                f"repeated. Give it one axis for each of the part's own."
            )
        at = law.dimensions[len(law.dimensions) - batch :]
        sources = [at.index(d) if d in at else None for d in range(scalar)]
        moved = axes.move(symbol, [*sources, *range(batch, symbol.rank)])
        rows = axes.Symbol(moved.axes[:scalar])
        where = f"Part {part!r}, parameter {name!r}"
        axes.broadcast([rows, axes.Symbol(value.axes[:scalar])], where)
        out[name] = moved
    return out


def _refuse_bounds(
    part: str, parameters: Mapping[str, axes.Symbol], observed: frozenset[str]
) -> None:
    """Refuses an observed part whose support moves with a latent."""
    for name in ("low", "high"):
        latents = axes.parts_of(parameters[name]) - observed if name in parameters else frozenset()
        if latents:
            raise GraphError(
                f"Part {part!r} is observed and its support depends on {sorted(latents)} by "
                f"{name!r}: where a draw excludes a value that was observed, the density is 0 and "
                f"the loss infinite. Give it a distribution of fixed support, or bounds that are "
                f"constants."
            )


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
