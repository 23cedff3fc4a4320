"""Which elements of the plates are asked for: by position or by label, with what lies within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pavi.binding import BoundData
from pavi.errors import DataError, did_you_mean

# Labels that a message lists.
_SHOWN = 20


def chosen(data: BoundData, plates: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Positions of the elements that are named, by plate.

    Raises:
        DataError: an unknown plate or label, a position out of range, an element named twice.
    """
    out: dict[str, np.ndarray] = {}
    for plate, elements in plates.items():
        if plate not in data.sizes:
            raise DataError(
                f"plates={{{plate!r}: ...}}: there is no plate {plate!r}."
                f"{did_you_mean(plate, data.sizes)}"
            )
        size, index = data.sizes[plate], _positions(plate, elements, data.coords.get(plate))
        if index.min() < 0 or index.max() >= size:
            raise DataError(
                f"plates={{{plate!r}: ...}}: elements must lie between 0 and "
                f"{size - 1}, got {index.min()} to {index.max()}."
            )
        if len(np.unique(index)) < len(index):
            raise DataError(f"plates={{{plate!r}: ...}}: an element is named twice.")
        out[plate] = index
    return out


def _positions(plate: str, elements: Sequence[Any], labels: np.ndarray | None) -> np.ndarray:
    index = np.asarray(elements)
    if index.ndim == 1 and len(index) and index.dtype.kind in "iu":
        return index
    integers = index.ndim == 1 and any(isinstance(e, int | np.integer) for e in elements)
    if index.ndim != 1 or not len(index) or integers or labels is None:
        without = "" if labels is not None else f"; {plate!r} has no labels, see Data(coords=...)"
        raise DataError(
            f"plates={{{plate!r}: ...}}: expected a list of integers, or one of labels, got "
            f"{elements!r}{without}."
        )
    place = {label: position for position, label in enumerate(labels.tolist())}
    wanted = index.tolist()
    for label in wanted:
        if label not in place:
            names = list(map(str, place))
            hint = did_you_mean(label, names)
            if "Did you mean" not in hint and len(names) > _SHOWN:
                hint = f" It has {len(names):,}, such as {', '.join(map(repr, names[:3]))}."
            raise DataError(
                f"plates={{{plate!r}: ...}}: there is no {plate} with the label {label!r}.{hint}"
            )
    return np.array([place[label] for label in wanted])


def kept(data: BoundData, chosen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Elements of each plate that are chosen, or within chosen ones; none of other plates."""
    out: dict[str, np.ndarray] = {}
    for plate, size in data.sizes.items():
        owners = [owner for owner in data.graph.owners(plate) if owner in chosen]
        inside = np.ones(size, bool)
        for owner in owners:
            inside &= np.isin(data.members[plate][owner], chosen[owner])
        if plate in chosen:
            out[plate] = chosen[plate]
            outside = chosen[plate][~inside[chosen[plate]]]
            if len(outside):
                raise DataError(
                    f"plates={{{plate!r}: ...}}: element {outside[0]} does not lie within the "
                    f"chosen elements of {' and '.join(map(repr, owners))}; choose its owner "
                    f"too, or name {plate!r} alone."
                )
        elif owners:
            out[plate] = np.flatnonzero(inside)
    return out


def taken(value: np.ndarray, plates: Sequence[str], at: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draws `[S, *plates, ...]` at the given places of those plates that have some."""
    for axis, plate in enumerate(plates):
        if plate in at:
            value = np.take(value, at[plate], axis=1 + axis)
    return value


def places(indices: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Places of ground elements among the rows of a batch, which has all of them."""
    order = np.argsort(indices, kind="stable")
    return order[np.searchsorted(indices, elements, sorter=order)]
