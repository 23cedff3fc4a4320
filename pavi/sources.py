"""Reading tables and labelled arrays: labels become positions, columns become plates' arrays.

Neither pandas nor xarray is imported: their objects are used by what they can do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from pavi.graph import PlateGraph

Columns = Sequence[str] | Mapping[str, str | Sequence[str]]


def parts_of_frame(
    frame: Any,
    graph: PlateGraph | None,
    plate: str | None,
    values: Columns | None,
    members: Mapping[str, str | Sequence[str]] | None,
    group_values: Mapping[str, Columns] | None,
    coords: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The arguments of `Data` from a table; those of `Data.from_frame` are described there."""
    columns = list(getattr(frame, "columns", frame))
    if graph is not None:
        plate = _finest_plate(graph) if plate is None else plate
        if members is None:
            members = {o: o for o in graph.owners(plate) if o in columns}
        if values is None:
            values = _columns_on(graph, plate, columns, required=True)
        if group_values is None:
            on = {o: _columns_on(graph, o, columns, required=False) for o in members}
            group_values = {o: names for o, names in on.items() if names}
    if plate is None or values is None:
        raise DataError(
            "Data.from_frame needs `plate`, whose elements are the rows, and `values`, the "
            "columns on it; or give the graph as its second argument."
        )
    arrays = {k: _column(frame, columns, c, f"variable {k!r}") for k, c in _pairs(values).items()}
    labels: dict[str, np.ndarray] = {}
    index: dict[str, np.ndarray] = {}
    for owner, column in (members or {}).items():
        where = f"the membership of plate {plate!r} in {owner!r}"
        row_labels = _labels(frame, columns, column, where)
        given = None if coords is None else coords.get(owner)
        labels[owner], index[owner] = _positions(row_labels, given, where)
    for owner, group in (group_values or {}).items():
        if owner not in index:
            raise DataError(
                f"group_values[{owner!r}] needs the column of {owner!r}'s labels: add it to "
                f"members, as in members={{{owner!r}: 'column'}}."
            )
        for name, column in _pairs(group).items():
            rows = _column(frame, columns, column, f"variable {name!r}")
            arrays[name] = _constant_in_groups(rows, index[owner], labels[owner], name, owner)
    out_coords = {p: np.asarray(v) for p, v in (coords or {}).items()} | labels
    rows_index = getattr(frame, "index", None)
    if plate not in out_coords and hasattr(rows_index, "to_numpy"):
        row_names = np.asarray(rows_index)
        if not np.array_equal(row_names, np.arange(len(row_names))):
            out_coords[plate] = row_names
    return {"values": arrays, "members": {plate: index} if index else {}, "coords": out_coords}


def parts_of_dataset(
    dataset: Any, members: Mapping[str, Mapping[str, str]] | None
) -> dict[str, Any]:
    """The arguments of `Data` from an xarray dataset; see `Data.from_xarray`."""
    known = [str(name) for name in dataset.variables]
    labels = {str(d): np.asarray(dataset.coords[d]) for d in dataset.dims if d in dataset.coords}
    index: dict[str, dict[str, np.ndarray]] = {}
    used: set[str] = set()
    for plate, owners in (members or {}).items():
        for owner, name in owners.items():
            where = f"the membership of plate {plate!r} in {owner!r}"
            if name not in known:
                raise DataError(
                    f"The dataset has no variable {name!r}, needed for {where}."
                    f"{did_you_mean(name, known)}"
                )
            row_labels = np.asarray(dataset[name])
            _check_present(row_labels, where)
            labels[owner], positions = _positions(row_labels, labels.get(owner), where)
            index.setdefault(plate, {})[owner] = positions
            used.add(name)
    names = [name for name in map(str, dataset.data_vars) if name not in used]
    return {
        # not .data, which would read an array that is not in memory
        "values": {name: dataset[name] for name in names},
        "members": index,
        "coords": labels,
        "dims": {name: tuple(map(str, dataset[name].dims)) for name in names},
    }


def _finest_plate(graph: PlateGraph) -> str:
    owners = {owner for plate in graph.plates.values() for owner in plate.within}
    finest = [name for name in graph.plates if name not in owners]
    if len(finest) != 1:
        raise DataError(
            f"Data.from_frame cannot tell which plate the rows are, of {finest}. Give `plate`."
        )
    return finest[0]


def _columns_on(graph: PlateGraph, plate: str, columns: Sequence[str], required: bool) -> list[str]:
    """Names of the known variables on `plate` that have a column, and of covariates if `required`.

    Outcomes may be left out, where they are to be predicted; a fit asks for them itself.
    """
    names = {v.name for v in graph.covariates} if required else set()
    known = [v.name for v in (*graph.covariates, *graph.observed) if v.plates == (plate,)]
    return [name for name in known if name in names or name in columns]


def _pairs(columns: Columns) -> dict[str, str | Sequence[str]]:
    if isinstance(columns, str):
        return {columns: columns}
    return dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}


def _column(
    frame: Any, columns: Sequence[str], column: str | Sequence[str], where: str
) -> np.ndarray:
    """A column `[rows]`, or several of them `[rows, columns]`."""
    if isinstance(column, (list, tuple)):
        return np.stack([_column(frame, columns, c, where) for c in column], axis=-1)
    if column not in columns:
        raise DataError(
            f"The table has no column {column!r}, needed for {where}."
            f"{did_you_mean(column, map(str, columns))}"
        )
    return np.asarray(frame[column])


def _labels(
    frame: Any, columns: Sequence[str], column: str | Sequence[str], where: str
) -> np.ndarray:
    """Labels of the rows; those in several columns are joined by a colon.

    Labels that this would confuse, as ("x:y", "z") and ("x", "y:z"), are shown in quotes instead.
    """
    if not isinstance(column, (list, tuple)):
        labels = _column(frame, columns, column, where)
        _check_present(labels, where)
        return labels
    parts = [_labels(frame, columns, c, where) for c in column]
    rows = [tuple(map(str, row)) for row in zip(*parts, strict=True)]
    different = set(rows)
    count = Counter(map(":".join, different))
    text = {row: ":".join(row) if count[":".join(row)] == 1 else repr(row) for row in different}
    if len(set(text.values())) < len(text):
        # A label may itself look like others in quotes; those of all are never the same.
        text = {row: repr(row) for row in different}
    return np.array([text[row] for row in rows])


def _check_present(labels: np.ndarray, where: str) -> None:
    if labels.dtype == object:
        missing = np.array([_is_missing(label) for label in labels], dtype=bool)
    else:
        missing = labels != labels
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} labels are missing in {where}, the first at row "
            f"{int(np.argmax(missing))}. Drop these rows, or give them an owner."
        )


def _is_missing(label: Any) -> bool:
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


def _positions(labels: np.ndarray, known: Any | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The owners' labels, sorted unless `known`, and the position of each row's among them."""
    try:
        unique, inverse = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise DataError(
            f"The labels in {where} cannot be sorted, as their types differ: {error}. "
            f"Make them all strings."
        ) from error
    if known is None:
        return unique, inverse
    owners = np.asarray(known)
    place = {label: i for i, label in enumerate(owners.tolist())}
    if len(place) < len(owners):
        raise DataError(f"The coordinates for {where} hold a label twice. Make them unique.")
    unknown = [label for label in unique.tolist() if label not in place]
    if unknown:
        raise DataError(
            f"The label {unknown[0]!r} in {where} is not among the coordinates. Add it to them."
            f"{did_you_mean(unknown[0], map(str, place))}"
        )
    return owners, np.array([place[label] for label in unique.tolist()])[inverse]


def _constant_in_groups(
    rows: np.ndarray, index: np.ndarray, labels: np.ndarray, name: str, owner: str
) -> np.ndarray:
    """One value for each owner from rows that all have it; NaN for an owner without rows."""
    if rows.dtype.kind not in "biuf":
        raise DataError(
            f"The column of {name!r} on plate {owner!r} has dtype {rows.dtype}, wanted numbers."
        )
    found = np.zeros(len(labels), dtype=bool)
    found[index] = True
    shape = (len(labels), *rows.shape[1:])
    out = np.zeros(shape, rows.dtype) if found.all() else np.full(shape, np.nan)
    out[index] = rows
    same = (out[index] == rows) | ((out[index] != out[index]) & (rows != rows))
    if not same.all():
        row = int(np.argmin(same.reshape(len(rows), -1).all(axis=1)))
        raise DataError(
            f"{name!r} is on plate {owner!r}, but differs between the rows of "
            f"{owner} {labels.tolist()[index[row]]!r}: {rows[row]} and {out[index[row]]}. Put it "
            f"on the plate of the rows, or reduce it (to a mean, say) beforehand."
        )
    return out
