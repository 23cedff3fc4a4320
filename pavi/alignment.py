"""Moving arrays between plates by name: from a parent's plates to a child's, and back by summing.

`align` brings a parent's values to a child's rows (an axis in common is kept, an owner's axis is
gathered by membership); `pool` is its transpose: it sums a child's rows into the owner's elements.
Both act on the plate axes only; leading batch axes and trailing event axes are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from pavi import ops

Array = Any
Recipe = tuple[tuple[str, str], ...]


def _grouped(recipe: Recipe) -> dict[str, list[str]]:
    """Groups a recipe `((parent plate, child plate), ...)` by the child's plate."""
    groups: dict[str, list[str]] = {}
    for parent_plate, child_plate in recipe:
        groups.setdefault(child_plate, []).append(parent_plate)
    return groups


def _position(
    child_plate: str,
    parent_plates: Sequence[str],
    sizes: Sequence[int],
    members: Mapping[str, Array],
) -> Array:
    """Flat position, in the product of `parent_plates`, of the owner of each row."""
    position: Array = 0
    for parent_plate, size in zip(parent_plates, sizes, strict=True):
        position = position * size + members[f"{child_plate}/{parent_plate}"]
    return position


def align(
    value: Array,
    recipe: Recipe,
    child_plates: Sequence[str],
    members: Mapping[str, Array],
    *,
    event_rank: int,
    child_event_rank: int,
) -> Array:
    """Brings a parent's values to the rows of a child.

    Args:
        value: the parent's values, `[*batch, *parent plates, *parent event]`.
        recipe: `PlateGraph.alignment(parent_plates, child_plates)`.
        child_plates: names of the child's plates, in the order of its axes.
        members: position of each row's owner, by `"plate/owner"`.
        event_rank: number of event axes of the parent.
        child_event_rank: number of event axes of the child; a scalar parent is given as many
            trailing singleton axes, so that it broadcasts against the child's event.

    Returns:
        `[*batch, *child plates (size or 1), *parent event]`.
    """
    lead = len(ops.shape(value)) - len(recipe) - event_rank
    labels = [parent_plate for parent_plate, _ in recipe]
    for child_plate, parent_plates in _grouped(recipe).items():
        if parent_plates == [child_plate]:
            continue
        value, labels = _side_by_side(value, labels, parent_plates, lead)
        start = lead + labels.index(parent_plates[0])
        shape = ops.shape(value)
        sizes = shape[start : start + len(parent_plates)]
        value = ops.reshape(
            value, (*shape[:start], prod(sizes), *shape[start + len(parent_plates) :])
        )
        value = ops.take(value, _position(child_plate, parent_plates, sizes, members), start)
        first = labels.index(parent_plates[0])
        labels[first : first + len(parent_plates)] = [child_plate]
    present = [plate for plate in child_plates if plate in labels]
    value = _permuted(value, labels, present, lead)
    shape = ops.shape(value)
    sizes_by_plate = dict(zip(present, shape[lead : lead + len(present)], strict=True))
    trailing = shape[lead + len(present) :] if event_rank else (1,) * child_event_rank
    target = (*shape[:lead], *(sizes_by_plate.get(p, 1) for p in child_plates), *trailing)
    return value if target == shape else ops.reshape(value, target)


def pool(
    value: Array,
    recipe: Recipe,
    child_plates: Sequence[str],
    sizes: Mapping[str, int],
    members: Mapping[str, Array],
    *,
    trailing: int,
) -> Array:
    """Sums a child's rows into the elements of the plates named in `recipe`: `align` transposed.

    Args:
        value: `[*batch, *child plates, *trailing]`, every plate axis at its full size.
        recipe: `PlateGraph.alignment(parent_plates, child_plates)`.
        child_plates: names of the child's plates.
        sizes: number of rows of each plate in the batch.
        members: position of each row's owner, by `"plate/owner"`.
        trailing: number of axes behind the plates.

    Returns:
        `[*batch, *parent plates, *trailing]`, plates in the order of `recipe`.
    """
    lead = len(ops.shape(value)) - len(child_plates) - trailing
    groups = _grouped(recipe)
    unused = tuple(lead + i for i, plate in enumerate(child_plates) if plate not in groups)
    if unused:
        value = ops.sum(value, axis=unused)
    labels = [plate for plate in child_plates if plate in groups]
    for child_plate, parent_plates in groups.items():
        if parent_plates == [child_plate]:
            continue
        axis = lead + labels.index(child_plate)
        counts = [sizes[plate] for plate in parent_plates]
        position = _position(child_plate, parent_plates, counts, members)
        value = ops.segment_sum(value, position, prod(counts), axis)
        shape = ops.shape(value)
        value = ops.reshape(value, (*shape[:axis], *counts, *shape[axis + 1 :]))
        labels[axis - lead : axis - lead + 1] = parent_plates
    return _permuted(value, labels, [parent_plate for parent_plate, _ in recipe], lead)


def _side_by_side(
    value: Array, labels: list[str], plates: Sequence[str], lead: int
) -> tuple[Array, list[str]]:
    """Moves the axes of `plates` next to each other, in that order, where the first one stands."""
    rest = [label for label in labels if label not in plates]
    first = sum(label not in plates for label in labels[: labels.index(plates[0])])
    order = [*rest[:first], *plates, *rest[first:]]
    return _permuted(value, labels, order, lead), order


def _permuted(value: Array, labels: Sequence[str], order: Sequence[str], lead: int) -> Array:
    """Transposes the plate axes from the order `labels` to the order `order`."""
    if list(labels) == list(order):
        return value
    rank = len(ops.shape(value))
    middle = [lead + list(labels).index(label) for label in order]
    return ops.transpose(value, (*range(lead), *middle, *range(lead + len(labels), rank)))


def product(factors: Mapping[str, Array], plates: Sequence[str], trailing: int = 0) -> Array | None:
    """Outer product over `plates` of one vector a plate, `[*plates, 1 ...]`; None for no plates."""
    out: Array | None = None
    for axis, plate in enumerate(plates):
        shape = (*(-1 if i == axis else 1 for i in range(len(plates))), *(1,) * trailing)
        factor = ops.reshape(factors[plate], shape)
        out = factor if out is None else out * factor
    return out
