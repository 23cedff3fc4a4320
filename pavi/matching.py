"""Which groups of other data are groups of the fit: by label, by position, or as it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from pavi.binding import BoundData
from pavi.errors import DataError, did_you_mean

Relation: TypeAlias = str | Sequence[int]
"""`"known"`, `"new"`, `"mixed"`, or the position of each element in the fit, -1 for a new one."""

_RELATIONS = ("known", "new", "mixed")
# Labels that a message lists.
_SHOWN = 5


def known_elements(
    fit: BoundData, new: BoundData, groups: Mapping[str, Relation]
) -> dict[str, np.ndarray]:
    """Position in the fit of every element of every plate that latents lie on, -1 for a new one.

    Args:
        fit: the data of the fit.
        new: other data of the same graph.
        groups: how the elements of a plate relate to those of the fit, `"known"` by default.

    Returns:
        `{plate: [size in the new data]}`.

    Raises:
        DataError: it cannot be told which groups are which, or they belong to other owners.
    """
    graph = fit.graph
    with_latents = [p for p in graph.plates if any(p in v.plates for v in graph.latents)]
    for plate in groups:
        if plate not in graph.plates:
            raise DataError(
                f"groups[{plate!r}]: the graph has no plate {plate!r}."
                f"{did_you_mean(plate, graph.plates)}"
            )
        if plate not in with_latents:
            raise DataError(
                f"groups[{plate!r}]: no latent is on plate {plate!r}, so that each of its elements "
                f"is as good as any other. Leave it out; latents are on {with_latents}."
            )
    out = {p: _positions(fit, new, p, groups.get(p, "known")) for p in with_latents}
    for plate in with_latents:
        for owner in graph.owners(plate):
            if owner in out:
                _check_owner(fit, new, plate, owner, out)
    return out


def _positions(fit: BoundData, new: BoundData, plate: str, relation: Relation) -> np.ndarray:
    if not isinstance(relation, str):
        return _given(fit, new, plate, relation)
    if relation not in _RELATIONS:
        raise DataError(
            f"groups[{plate!r}]={relation!r}: expected one of {', '.join(map(repr, _RELATIONS))}, "
            f"or a list of positions in the fit with -1 for new elements."
        )
    size, fitted = new.sizes[plate], fit.sizes[plate]
    labels, known = new.coords.get(plate), fit.coords.get(plate)
    if labels is None or known is None:
        if relation == "new":
            return np.full(size, -1)
        if relation == "known" and labels is None and size == fitted:
            return np.arange(size)
        raise DataError(_unmatched(plate, size, fitted, labels is not None, known is not None))
    place = {label: position for position, label in enumerate(known.tolist())}
    out = np.array([place.get(label, -1) for label in labels.tolist()])
    wrong = {"known": out < 0, "new": out >= 0, "mixed": np.zeros(size, bool)}[relation]
    if wrong.any():
        shown = [repr(label) for label in labels[wrong][:_SHOWN].tolist()]
        count = int(wrong.sum())
        which = f"{count} of the {size} elements of plate {plate!r} ({', '.join(shown)}"
        which += ", ...)" if count > len(shown) else ")"
        if relation == "new":
            raise DataError(
                f"groups[{plate!r}]='new', but {which} have labels of the fit's {fitted}. Say "
                f"'mixed' to draw these from the posterior and the others from their prior, or "
                f"give new ones labels of their own."
            )
        raise DataError(
            f"predict: {which} are not among the fit's {fitted}. Correct the labels; or say "
            f"groups={{{plate!r}: 'mixed'}} to draw the latents of new ones from their prior given "
            f"the coarser ones; or, where they have outcomes, posterior.encode(data).predict(...)."
            f"{did_you_mean(str(labels[wrong].tolist()[0]), map(str, place))}"
        )
    return out


def _unmatched(plate: str, size: int, fitted: int, labelled: bool, known: bool) -> str:
    """Says why the elements cannot be matched."""
    if labelled or known:
        has, lacks = ("the data", "the fit") if labelled else ("the fit", "the data")
        cause = f"{has} have labels for plate {plate!r} and {lacks} have none"
    else:
        cause = f"plate {plate!r} has no labels"
    return (
        f"predict: {cause}, with {size} elements in the data and {fitted} in the fit, so that it "
        f"cannot be told which is which. Give their positions in the fit, -1 for new ones, as in "
        f"groups={{{plate!r}: [0, 3, -1]}}; say groups={{{plate!r}: 'new'}} if none was in the "
        f"fit; or fit and predict with labels, Data(coords={{{plate!r}: ...}})."
    )


def _given(fit: BoundData, new: BoundData, plate: str, relation: Sequence[int]) -> np.ndarray:
    index, size, fitted = np.asarray(relation), new.sizes[plate], fit.sizes[plate]
    if index.shape != (size,) or index.dtype.kind not in "iu":
        raise DataError(
            f"groups[{plate!r}] has shape {index.shape} and dtype {index.dtype}, wanted integers "
            f"of shape ({size},): the position in the fit of each {plate} of the data, -1 for new."
        )
    if index.min() < -1 or index.max() >= fitted:
        raise DataError(
            f"groups[{plate!r}] goes from {index.min()} to {index.max()}, wanted positions in the "
            f"fit, 0 to {fitted - 1}, or -1 for a new {plate}."
        )
    return index.astype(np.int64)


def _check_owner(
    fit: BoundData, new: BoundData, plate: str, owner: str, places: Mapping[str, np.ndarray]
) -> None:
    """A group that the fit knows must belong to the element that it belonged to."""
    known = places[plate] >= 0
    now = places[owner][new.members[plate][owner]]
    before = fit.members[plate][owner][np.maximum(places[plate], 0)]
    moved = known & (now != before)
    if moved.any():
        row = int(np.argmax(moved))
        where = f"element {now[row]}" if now[row] >= 0 else "a new element"
        raise DataError(
            f"predict: element {row} of plate {plate!r} is element {places[plate][row]} of the "
            f"fit, where it belongs to element {before[row]} of {owner!r}, but in the data it "
            f"belongs to {where}. Correct the membership or the labels; if it is another one, "
            f"mark it as new: groups={{{plate!r}: 'mixed'}} with a label of its own, or -1."
        )
