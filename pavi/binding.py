"""Binding data to a graph: every plate gets its size, every row its owners, every array a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi.checks import check_finite, check_support, fill_absent, fill_missing
from pavi.errors import DataError, did_you_mean
from pavi.fingerprints import digest
from pavi.graph import PlateGraph, Variable
from pavi.lazy import Source, Value, is_mapped
from pavi.reading import LazyValues, Sample, lazy_values
from pavi.sizes import Members, missing_membership, plate_sizes

if TYPE_CHECKING:
    from pavi.data import Data

# Numbers of an array that are looked at together in double precision.
_BLOCK = 2**20


@dataclass(frozen=True, eq=False, repr=False)
class BoundData:
    """Data that fit a graph.

    Attributes:
        graph: the graph they are bound to.
        sizes: number of elements of every plate.
        values: `[*plates, *event]` of every covariate and observed variable in memory, as given;
            where an observed value is missing, a value from its support stands in. Read-only
            copies.
        masks: for every observed variable whether each draw is present,
            `[*plates, *event without the axes of one draw]`; None if all are.
        members: `members[plate][owner]`, int64 `[plate]`: position of each row's owner, for the
            owners at all levels.
        coords: labels of the plates' elements, where they were given.
        lazy: the covariates and observed variables that are not in memory.
    """

    graph: PlateGraph
    sizes: dict[str, int]
    values: dict[str, np.ndarray]
    masks: dict[str, np.ndarray | None]
    members: Members
    coords: dict[str, np.ndarray]
    lazy: LazyValues

    def looked_at(self) -> dict[str, Sample]:
        """Every array with what is present of it; of what is not in memory a sample of rows."""
        whole = {n: Sample(value, self.masks.get(n)) for n, value in self.values.items()}
        known = {**whole, **self.lazy.samples}
        return {v.name: known[v.name] for v in (*self.graph.covariates, *self.graph.observed)}

    def fingerprint(self, dtype: str = "float64") -> str:
        """SHA-256 over sizes, names, shapes and contents; see `fingerprints`."""
        parts = (sorted(self.sizes.items()), sorted(self.fingerprints(dtype).items()))
        return sha256(repr(parts).encode()).hexdigest()

    def fingerprints(self, dtype: str = "float64") -> dict[str, str]:
        """SHA-256 of each array's shape and contents.

        A very large array enters by a sample, as one that is not in memory does.

        Args:
            dtype: floating dtype in which values are compared, that of a run: data stored in
                another one, or as integers, are the same data.

        Returns:
            By the name of a variable, `"which of y are missing"`, or `"members of home in county"`.
        """
        out = {}
        for name, (value, mask) in self.looked_at().items():
            out[name] = digest(value, dtype)
            if mask is not None:
                out[f"which of {name} are missing"] = digest(mask, "bool")
        for plate, owners in self.members.items():
            for owner, index in owners.items():
                out[f"members of {plate} in {owner}"] = digest(index, "int64")
        return out

    def __repr__(self) -> str:
        lines = ["BoundData"]
        for plate, size in self.sizes.items():
            owners = ", ".join(f"{o} ({self.sizes[o]})" for o in self.members[plate])
            lines.append(f"  plate {plate}: {size}{f' in {owners}' if owners else ''}")
        for name, value in self.values.items():
            mask = self.masks.get(name)
            missing = f", {int(mask.size - mask.sum())} missing" if mask is not None else ""
            kind = self.graph.variables[name].kind
            lines.append(f"  {kind} {name}: {value.dtype}{list(value.shape)}{missing}")
        for name in self.lazy.names:
            kind, source = self.graph.variables[name].kind, self.lazy.kind(name)
            what = f"{self.lazy.dtypes[name]}{list(self.lazy.shape(name))}"
            lines.append(f"  {kind} {name}: {what}, read by rows from a {source}")
        return "\n".join(lines)


def bind(data: Data, graph: PlateGraph, *, need_outcomes: bool = True) -> BoundData:
    """Checks `data` against `graph`; see `Data.bind`."""
    _check_names(data, graph, need_outcomes)
    known = (*graph.covariates, *graph.observed)
    given = {v.name: _oriented(data, v) for v in known if v.name in data.values}
    asked = tuple(v.name for v in known if v.name not in given and data.rows is not None)
    left_out = [v for v in graph.observed if v.name not in given and v.name not in asked]
    index = _checked_members(data, graph)
    sizes = plate_sizes(data, graph, given, index)
    members = _composed(graph, _direct(graph, index, sizes), index)
    sources = {name: value for name, value in given.items() if isinstance(value, Source)}
    lazy = lazy_values(graph, sizes, sources, data.rows, asked, need_outcomes=need_outcomes)
    arrays = {name: value for name, value in given.items() if not isinstance(value, Source)}
    values: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray | None] = {}
    for covariate in graph.covariates:
        if covariate.name in arrays:
            check_finite(covariate, arrays[covariate.name])
            values[covariate.name] = arrays[covariate.name]
    observed_arrays = [v for v in graph.observed if v.name in arrays]
    for observed in observed_arrays:
        name = observed.name
        values[name], masks[name] = fill_missing(
            graph, observed, arrays[name], need_outcomes=need_outcomes
        )
    for observed in left_out:
        name = observed.name
        shape = (*(sizes[plate] for plate in observed.plates), *observed.event)
        values[name], masks[name] = fill_absent(graph, observed, shape)
    positions = {f"{p}/{o}": rows for p, owners in members.items() for o, rows in owners.items()}
    for observed in observed_arrays:
        check_support(graph, observed, values, masks[observed.name], positions)
    coords = {p: v for p, v in data.coords.items() if p in graph.plates}
    # What the caller does with these arrays from now on is no business of a fit's.
    return BoundData(
        graph,
        sizes,
        _owned(values),
        {name: None if mask is None else _frozen(mask) for name, mask in masks.items()},
        {plate: _owned(owners) for plate, owners in members.items()},
        _owned(coords),
        lazy,
    )


def standards(data: BoundData) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each data array, over what is present.

    Those of an array that is not in memory are over a sample of its rows.
    """
    out: dict[str, tuple[float, float]] = {}
    for name, (value, mask) in data.looked_at().items():
        array = np.asarray(value)
        if mask is not None:
            array = array[mask]
        mean, scale = _mean_and_scale(array.reshape(-1))
        out[name] = mean, scale if scale > 0 else 1.0
    return out


def _mean_and_scale(array: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation in double precision, without a copy of the array in it."""
    count, mean, squares = 0, 0.0, 0.0
    for start in range(0, len(array), _BLOCK):
        part = array[start : start + _BLOCK].astype(np.float64)
        first = float(part[0])
        part -= first
        own = float(part.mean())
        part -= own
        # Chan, Golub and LeVeque (1979): M2 <- M2 + M2_b + (m_b - m)^2 n n_b / (n + n_b)
        away = first + own - mean
        total = count + len(part)
        squares += float(part @ part) + away * away * count * len(part) / total
        mean, count = mean + away * len(part) / total, total
    return mean, (squares / max(count, 1)) ** 0.5


def _check_names(data: Data, graph: PlateGraph, need_outcomes: bool) -> None:
    known = [v.name for v in (*graph.covariates, *graph.observed)]
    for name in data.values:
        if name in known:
            continue
        if name in graph.variables:
            raise DataError(
                f"{name!r} is a latent variable, which the fit infers, but the data hold a value "
                f"for it. Leave it out of `values`, or declare it pavi.Observed({name!r}, ...)."
            )
        raise DataError(
            f"The data hold a value for {name!r}, which is no covariate or observed variable of "
            f"the graph. Leave it out, or add it to the graph.{did_you_mean(name, known)}"
        )
    if data.rows is not None and all(name in data.values for name in known):
        raise DataError(
            "Data(rows=...) has nothing to give: `values` holds every covariate and observed "
            "variable. Leave one of the two out."
        )
    absent = [name for name in known if name not in data.values and data.rows is None]
    for name in absent:
        variable = graph.variables[name]
        held = [child for child in graph.children(name) if child not in absent]
        if variable.kind == "observed" and not need_outcomes:
            if held:
                raise DataError(
                    f"The data hold no value for the observed variable {name!r}, wanted an array "
                    f"{variable.axes}, which is a parent of {held[0]!r}. Add it to `values`, or "
                    f"leave both out, where both are to be predicted."
                )
        else:
            raise DataError(
                f"The data hold no value for the {variable.kind} variable {name!r}, wanted an "
                f"array {variable.axes}. Add it to `values`.{_closest(name, data.values, known)}"
            )
    # a dimension of a dataset may be an event axis, whose labels have no use here
    events = {d for dims in data.dims.values() for d in dims}
    coords = {p for p in data.coords if p not in events}
    for argument, given in (("members", data.members), ("sizes", data.sizes), ("coords", coords)):
        for plate in given:
            if plate not in graph.plates:
                raise DataError(
                    f"{argument}[{plate!r}]: the graph has no plate {plate!r}."
                    f"{did_you_mean(plate, graph.plates)}"
                )
    for plate, owners in data.members.items():
        for owner in owners:
            if owner not in graph.plates.ancestors(plate):
                raise DataError(
                    f"members[{plate!r}][{owner!r}]: in the graph plate {plate!r} does not belong "
                    f"to plate {owner!r}. Write pavi.Plate({plate!r}, within={owner!r}) or leave "
                    f"the membership out.{did_you_mean(owner, graph.plates.ancestors(plate))}"
                )


def _closest(name: str, given: Mapping[str, Any], known: list[str]) -> str:
    unknown = [other for other in given if other not in known]
    return did_you_mean(name, unknown) if unknown else ""


def _oriented(data: Data, variable: Variable) -> Value:
    """The variable's array as numbers, its axes in the order of the graph."""
    array = data.values[variable.name]
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"The value of {variable.kind} {variable.name!r} {variable.axes} has dtype "
            f"{array.dtype}, wanted numbers. Convert it; code categories as 0, 1, 2 and so on."
        )
    dims = data.dims.get(variable.name)
    if dims is not None:
        absent = [p for p in variable.plates if p not in dims]
        if absent:
            raise DataError(
                f"The array of {variable.name!r} has the dimensions {dims}, wanted "
                f"{variable.axes}: the dimension {absent[0]!r} is not there. Rename its dimension "
                f"to the plate's name, or change `plates`."
            )
        rest = [d for d in dims if d not in variable.plates]
        order = tuple(dims.index(d) for d in (*variable.plates, *rest))
        array = array.transposed(order) if isinstance(array, Source) else np.transpose(array, order)
    lead = len(variable.plates)
    if array.ndim != variable.rank or array.shape[lead:] != variable.event:
        raise DataError(
            f"The array of {variable.kind} {variable.name!r} has shape {array.shape}, wanted "
            f"{variable.axes}: one axis for each of its plates {variable.plates}, in this order, "
            f"and then its event {variable.event}. Reshape the array, or change `plates` or "
            f"`event` of the variable."
        )
    return array


def _checked_members(data: Data, graph: PlateGraph) -> Members:
    """The memberships that were given, as int64 `[plate]`."""
    out: Members = {}
    for plate, owners in data.members.items():
        for owner, index in owners.items():
            where = f"The membership of plate {plate!r} in {owner!r}"
            if index.dtype.kind not in "iu":
                raise DataError(
                    f"{where} has dtype {index.dtype}, wanted integers from 0: the position of "
                    f"each row's {owner}. Convert floats by .astype(int) once none is missing; "
                    f"labels by Data.from_frame or np.unique(labels, return_inverse=True)[1]."
                )
            if index.ndim != 1:
                raise DataError(
                    f"{where} has shape {index.shape}, wanted one axis, [{plate}]. Flatten it to "
                    f"one position for each row."
                )
            if index.size and index.min() < 0:
                row = int(np.argmax(index < 0))
                raise DataError(
                    f"{where} is negative: {index[row]} at row {row}. Positions run from 0; "
                    f"negative codes often mark missing labels. Drop these rows or give them an "
                    f"owner."
                )
            out.setdefault(plate, {})[owner] = index.astype(np.int64, copy=False)
    return out


def _direct(graph: PlateGraph, given: Members, sizes: Mapping[str, int]) -> Members:
    """The membership of every plate in the owners that its `within` names."""
    out: Members = {}
    for plate in graph.plates.values():
        for owner in plate.within:
            index = given.get(plate.name, {}).get(owner)
            if index is None:
                index = _derived(plate.name, owner, given, sizes[plate.name])
            out.setdefault(plate.name, {})[owner] = index
    return out


def _derived(plate: str, owner: str, given: Mapping[str, Any], size: int) -> np.ndarray:
    """The membership of `plate` in `owner` from the rows of a finer plate that have both."""
    for finer, owners in given.items():
        if plate not in owners or owner not in owners:
            continue
        rows, their_owner = owners[plate], owners[owner]
        index = np.full(size, -1, dtype=np.int64)
        index[rows] = their_owner
        wrong = index[rows] != their_owner
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"Element {rows[row]} of plate {plate!r} belongs to elements {their_owner[row]} "
                f"and {index[rows[row]]} of {owner!r} by the rows of {finer!r}, wanted one. If "
                f"labels of {plate!r} repeat in several {owner!r}, join the two labels, as in "
                f"Data.from_frame(members={{{plate!r}: ({owner!r}, {plate!r})}})."
            )
        if (index < 0).any():
            element = int(np.argmax(index < 0))
            raise DataError(
                f"Element {element} of plate {plate!r} has no {finer!r}, so that its {owner!r} is "
                f"not known. Give members={{{plate!r}: {{{owner!r}: index}}}} of shape ({size},)."
            )
        return index
    raise DataError(missing_membership(plate, owner, size))


def _composed(graph: PlateGraph, direct: Members, given: Members) -> Members:
    """The memberships in the owners at all levels: a pupil's authority is that of its school."""
    out: Members = {}
    for plate in graph.plates:
        out[plate] = {o: _follow(direct, graph.path(plate, o)) for o in graph.owners(plate)}
        for owner, index in given.get(plate, {}).items():
            other = graph.plates.indirect_path(plate, owner)
            if other is None:
                continue
            differ = _follow(direct, other) != index
            if differ.any():
                row = int(np.argmax(differ))
                raise DataError(
                    f"The membership of plate {plate!r} in {owner!r} contradicts the way "
                    f"{' -> '.join(other)}: row {row} belongs to {index[row]} of {owner!r}, but to "
                    f"{_follow(direct, other)[row]} through {other[1]!r}. Leave out the first, or "
                    f"correct one of them."
                )
    return out


def _follow(direct: Members, path: tuple[str, ...]) -> np.ndarray:
    index = direct[path[0]][path[1]]
    for plate, owner in pairwise(path[1:]):
        # owner of a row = owner of its owner
        index = direct[plate][owner][index]
    return index


def _owned(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read-only arrays that share no memory with the caller's, memory maps excepted."""
    return {k: _frozen(v.view() if is_mapped(v) else np.array(v)) for k, v in arrays.items()}


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
