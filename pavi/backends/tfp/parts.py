"""Parts of a joint distribution as its user names them: shapes, observed values, plates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pavi.errors import GraphError, did_you_mean

tfd = tfp.distributions

AxesOfPlates = Mapping[str, Mapping[Any, int]]


@contextmanager
def refused_branches() -> Iterator[None]:
    """Says what is amiss where the model's Python code asks for a symbolic value."""
    try:
        yield
    except tf.errors.OperatorNotAllowedInGraphError as error:
        raise GraphError(
            "The model's Python code asks for the value of a part, as `if` and `for` do, so that "
            "the distribution or the support of a part would depend on the data. Use tf.where in "
            "its parameters: one distribution in either case."
        ) from error


def unpinned(joint: Any, observations: Any) -> tuple[Any, dict[str, Any]]:
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
    names = names_of(joint)
    if isinstance(observations, Mapping):
        given = {}
        for key, value in observations.items():
            name = names[key] if isinstance(key, int) and -len(names) <= key < len(names) else key
            if name not in names:
                raise GraphError(
                    f"observations[{key!r}]: the joint distribution has no such part; its parts "
                    f"are {list(names)}.{did_you_mean(str(key), names)}"
                )
            kind = np.asarray(value).dtype
            if value is not None and kind.kind not in "biuf":
                raise GraphError(
                    f"observations[{key!r}] has the dtype {kind}, wanted numbers for part "
                    f"{name!r}. Convert it; code categories as 0, 1, 2 and so on."
                )
            given[name] = value
        pinned = joint.experimental_pin(**given) if given else None
    else:
        pinned = joint.experimental_pin(observations)
    return joint, {**pins, **(dict(pinned.pins) if pinned is not None else {})}


def names_of(joint: Any) -> tuple[str, ...]:
    """Names of the parts."""
    if not (single := _distributions(joint)):
        raise GraphError("The joint distribution has no parts, so that there is nothing to infer.")
    parts = tuple(joint._flat_resolve_names())
    for part, distribution in zip(parts, single, strict=True):
        if isinstance(distribution, tfd.JointDistribution):
            raise GraphError(
                f"Part {part!r} is a joint distribution of its own. Make its parts those of the "
                f"whole, as by `yield from` its generator."
            )
    return parts


def _distributions(joint: Any) -> list[Any]:
    """The distributions of the parts at one draw."""
    try:
        return list(joint._get_single_sample_distributions())
    except StopIteration:
        # a coroutine without a yield
        return []


def shapes_of(joint: Any, parts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of the value of each part."""
    out = {}
    for part, d in zip(parts, _distributions(joint), strict=True):
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


def located_axes(
    plates: AxesOfPlates, parts: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], int]:
    """The dimension of each part that each plate is, by `(part, plate)`."""
    if not isinstance(plates, Mapping):
        raise GraphError(
            f"plates is {plates!r}, wanted the parts that lie in each plate and their axes, as in "
            f'plates={{"group": {{{parts[-1]!r}: 0}}}}.'
        )
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
            if (part, plate) in out:
                raise GraphError(
                    f"plates[{plate!r}] names part {part!r} twice, at axes {out[part, plate]} and "
                    f"{d}. A part lies in a plate along one axis: name it once, and give another "
                    f"axis a plate of its own."
                )
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
