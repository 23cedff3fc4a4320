"""The size of every plate, from all that the data say of it; they must agree."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pavi.errors import DataError, PaviWarning
from pavi.graph import PlateGraph
from pavi.integers import is_integer
from pavi.lazy import Value

if TYPE_CHECKING:
    from pavi.data import Data

Members: TypeAlias = dict[str, dict[str, np.ndarray]]

# What tells a size.
_COORDS = "its coords"
_LARGEST = "the largest index"


def plate_sizes(
    data: Data, graph: PlateGraph, arrays: Mapping[str, Value], given: Members
) -> dict[str, int]:
    """The size of every plate: by arrays, memberships, `sizes`, labels, else the largest index."""
    found: dict[str, tuple[int, str]] = {}

    def claim(plate: str, size: int, source: str) -> None:
        known, other = found.setdefault(plate, (size, source))
        if known != size:
            raise DataError(
                f"The size of plate {plate!r} is {known} by {other}, but {size} by {source}. "
                f"Make them agree: each needs one entry for each {plate}, in the same order."
            )
        if size == 0:
            raise DataError(
                f"Plate {plate!r} is empty by {source}: wanted at least one element. Leave out "
                f"the plate and its variables, or check how the data were selected."
            )

    for name, array in arrays.items():
        variable = graph.variables[name]
        for axis, plate in enumerate(variable.plates):
            source = f"the {variable.kind} {name!r} {variable.axes} of shape {array.shape}"
            claim(plate, array.shape[axis], source)
    for plate, owners in given.items():
        for owner, index in owners.items():
            source = f"its membership in {owner!r} of shape {index.shape}"
            claim(plate, len(index), source)
    for plate, size in data.sizes.items():
        if not is_integer(size, 0):
            raise DataError(
                f"sizes[{plate!r}] must be a positive integer, got {size!r}. Write the number of "
                f"elements of the plate."
            )
        claim(plate, int(size), f"sizes[{plate!r}]")
    for plate, labels in data.coords.items():
        if plate in graph.plates:
            _check_labels(plate, labels)
            claim(plate, len(labels), f"{_COORDS} of shape {labels.shape}")
    for owner, range_ in _ranges(given).items():
        if owner not in found:
            found[owner] = (range_.stop, _LARGEST)
            _warn_if_from_one(owner, range_)
    for plate in graph.plates:
        if plate not in found:
            sizes = {name: size for name, (size, _) in found.items()}
            raise DataError(_unknown_size(plate, graph, given, sizes))
    for plate, owners in given.items():
        for owner, index in owners.items():
            _check_range(plate, owner, index, *found[owner])
    return {plate: found[plate][0] for plate in graph.plates}


def _ranges(given: Members) -> dict[str, range]:
    """Smallest to largest position of each owner in any of its memberships."""
    out: dict[str, range] = {}
    for owners in given.values():
        for owner, index in owners.items():
            low, high = int(index.min()), int(index.max()) + 1
            known = out.get(owner, range(low, high))
            out[owner] = range(min(low, known.start), max(high, known.stop))
    return out


def _warn_if_from_one(owner: str, positions: range) -> None:
    if positions.start == 1:
        warnings.warn(
            f"Element 0 of plate {owner!r} has no members: the positions in {owner!r} run from 1 "
            f"to {positions.stop - 1}, as if they were counted from 1, but pavi counts from 0. "
            f"Subtract 1; or write sizes={{{owner!r}: {positions.stop}}} if they are as meant.",
            PaviWarning,
            stacklevel=5,  # where Data.bind is called
        )


def _unknown_size(plate: str, graph: PlateGraph, given: Members, sizes: Mapping[str, int]) -> str:
    """Asks for a membership in the plate, which tells its size, before it asks for the size."""
    for child in graph.plates.values():
        if plate in child.within and plate not in given.get(child.name, {}):
            return missing_membership(child.name, plate, sizes.get(child.name))
    return (
        f"The size of plate {plate!r} is not known: there is no array on it and no membership of "
        f"it or in it. Add sizes={{{plate!r}: ...}} to the data."
    )


def missing_membership(plate: str, owner: str, size: int | None) -> str:
    """Says that a membership is missing, and how to give it."""
    shape = f"[{plate}]" if size is None else f"({size},)"
    return (
        f"The membership of plate {plate!r} in {owner!r} is missing, wanted integers of shape "
        f"{shape}. Add members={{{plate!r}: {{{owner!r}: index}}}} to the data."
    )


def _check_labels(plate: str, labels: np.ndarray) -> None:
    if labels.ndim != 1:
        raise DataError(
            f"coords[{plate!r}] has shape {labels.shape}, wanted one axis, [{plate}]. Give one "
            f"label for each {plate}."
        )
    row = repeated(labels)
    if row is not None:
        raise DataError(
            f"coords[{plate!r}] of shape {labels.shape} holds the label {labels.tolist()[row]!r} "
            f"twice, again at index {row}: labels tell the elements of a plate apart. Make them "
            f"unique, or leave the coords out."
        )


def repeated(labels: np.ndarray) -> int | None:
    """Index of the first label that stands there a second time."""
    seen: set[object] = set()
    for row, label in enumerate(labels.tolist()):
        if label in seen:
            return row
        seen.add(label)
    return None


def _check_range(plate: str, owner: str, index: np.ndarray, size: int, source: str) -> None:
    if index.max() < size:
        return
    row = int(np.argmax(index >= size))
    one_based = index.min() >= 1 and index.max() == size
    if source.startswith(_COORDS) and not one_based:
        raise DataError(
            f"coords[{owner!r}] has {size} labels, but the membership of plate {plate!r} in "
            f"{owner!r} goes up to position {index.max()}: wanted a label for each {owner}, at "
            f"least {int(index.max()) + 1}. Give them all, in the order of their positions from 0."
        )
    remedy = (
        "They look counted from 1: subtract 1."
        if one_based
        else f"Correct the index, or write sizes={{{owner!r}: ...}} and arrays for more of them."
    )
    raise DataError(
        f"The membership of plate {plate!r} in {owner!r} is out of range: {index[row]} at row "
        f"{row}, but {owner!r} has {size} elements by {source}, so positions run from 0 to "
        f"{size - 1}. {remedy}"
    )
