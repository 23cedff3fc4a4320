"""Data for a plate graph: arrays, memberships, sizes, labels; from arrays, frames or datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi.binding import BoundData, bind
from pavi.errors import DataError
from pavi.lazy import Value, as_array, as_value
from pavi.sizes import repeated
from pavi.sources import Columns, parts_of_dataset, parts_of_frame

if TYPE_CHECKING:
    from pavi.graph import PlateGraph

__all__ = ["BoundData", "Data"]


@dataclass(frozen=True, init=False, eq=False)
class Data:
    """What is known: values of observed variables and covariates, and who belongs to whom.

    Args:
        values: an array `[*plates, *event]` for every observed variable and covariate. NaN in an
            observed one means missing. A NumPy memory map, a Zarr array or an xarray `DataArray`
            that is not loaded is never read as a whole: a fit with `batch` reads the rows of each
            step, and checks them then.
        members: `{"home": {"county": index}}`: for each row of a plate the position of its owner,
            integers from 0. An owner further up is found through those between, or from rows that
            have both.
        sizes: `{"county": 85}`, where arrays leave a size open, as for owners without members.
        coords: `{"county": labels}`: labels of a plate's elements.
        dims: `{"y": ("vertex", "subject")}`: names of an array's axes, where they are not in the
            order of the graph.
        rows: a function for the variables that `values` does not have. It is given the positions
            of the elements that a step sees, `{"county": positions, "home": positions}`, distinct
            and in order, for every plate that one of these variables is on, and returns
            `{name: array [*len of each plate's positions, *event]}` of all of them. The same
            positions must give the same rows at any time. It is called in another thread than
            the caller's. The sizes of plates that nothing else tells go into `sizes`.

    Raises:
        DataError: a value cannot be made an array. All else is found by `bind`.
    """

    values: dict[str, Value]
    members: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, int]
    coords: dict[str, np.ndarray]
    dims: dict[str, tuple[str, ...]]
    rows: Callable[[dict[str, np.ndarray]], Mapping[str, Any]] | None

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        members: Mapping[str, Mapping[str, Any]] | None = None,
        sizes: Mapping[str, int] | None = None,
        coords: Mapping[str, Any] | None = None,
        *,
        dims: Mapping[str, Sequence[str]] | None = None,
        rows: Callable[[dict[str, np.ndarray]], Mapping[str, Any]] | None = None,
    ) -> None:
        for argument, given in (("values", values), ("members", members), ("sizes", sizes)):
            if given is not None and not isinstance(given, Mapping):
                raise DataError(
                    f"Data({argument}=...) must be a mapping by name, got {type(given).__name__}. "
                    f'Write {{"name": ...}}; for a table use Data.from_frame.'
                )
        for plate, owners in (members or {}).items():
            if not isinstance(owners, Mapping):
                raise DataError(
                    f"members[{plate!r}] must be a mapping from owner to index, got "
                    f'{type(owners).__name__}. Write members={{{plate!r}: {{"owner": index}}}}.'
                )
        if rows is not None and not callable(rows):
            raise DataError(
                f"Data(rows=...) must be a function from positions by plate to arrays by name, got "
                f"{type(rows).__name__}. Arrays go into `values`."
            )
        set_field = object.__setattr__  # the class is frozen
        set_field(self, "values", {k: as_value(k, v) for k, v in (values or {}).items()})
        index = {
            p: {o: as_array(f"members[{p!r}][{o!r}]", v) for o, v in owners.items()}
            for p, owners in (members or {}).items()
        }
        set_field(self, "members", index)
        set_field(self, "sizes", dict(sizes or {}))
        set_field(self, "coords", {p: np.asarray(v) for p, v in (coords or {}).items()})
        set_field(self, "dims", {k: tuple(v) for k, v in (dims or {}).items()})
        set_field(self, "rows", rows)

    def bind(self, graph: PlateGraph, *, need_outcomes: bool = True) -> BoundData:
        """The data checked against `graph`, with every plate's size and every membership.

        Args:
            graph: the model.
            need_outcomes: whether an observed variable that is missing throughout, or left out
                altogether, is a mistake, as it is in a fit.

        Raises:
            DataError: the data do not fit the graph; the message says where and what to do.
        """
        return bind(self, graph, need_outcomes=need_outcomes)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        graph: PlateGraph | None = None,
        *,
        plate: str | None = None,
        values: Columns | None = None,
        members: Mapping[str, str | Sequence[str]] | None = None,
        group_values: Mapping[str, Columns] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> Data:
        """Data from a table with one row for each element of `plate`.

        Args:
            frame: a pandas or Polars data frame, or a mapping from column to array.
            graph: fills in what is not given below, by columns of the variables' and plates' names.
                Outcomes without a column are left out, as where they are to be predicted.
            plate: the plate whose elements are the rows.
            values: columns on `plate`: a list of names, or `{variable: column}`; a list of columns
                for one variable makes a trailing event axis.
            members: `{owner: column of labels}`; several columns make one label together, for
                labels that are unique only within another owner. Sorted labels become coordinates.
            group_values: `{owner: columns}` of values that are the same in all rows of an owner.
            coords: `{owner: labels}`, where there are owners without rows or an order to keep.
                The frame's index labels the rows where it is unique and not just their numbers.

        Raises:
            DataError: a column is not there, a label is missing, a value differs within a group.
        """
        parts = parts_of_frame(frame, graph, plate, values, members, group_values, coords)
        # An index of rows is often that of another table: it labels them only where it can.
        given = coords or {}
        labels = {p: v for p, v in parts.pop("coords").items() if p in given or _unique(v)}
        return cls(**parts, coords=labels)

    @classmethod
    def from_xarray(
        cls, dataset: Any, *, members: Mapping[str, Mapping[str, str]] | None = None
    ) -> Data:
        """Data from an xarray `Dataset` whose dimensions are plates.

        Args:
            dataset: its data variables are the values, in any order of their dimensions; its
                coordinates are kept.
            members: `{"home": {"county": name}}`: the variable or coordinate along `home` that
                holds labels of counties.

        Raises:
            DataError: a name is not there, or a label is not among the owner's coordinates.
        """
        if not hasattr(dataset, "data_vars"):
            name = getattr(dataset, "name", None) or "y"
            remedy = (
                f"Data.from_xarray(array.to_dataset(name={name!r}))"
                if hasattr(dataset, "to_dataset")
                else f"Data({{{name!r}: ...}}) for plain arrays"
            )
            raise DataError(
                f"Data.from_xarray takes an xarray Dataset, got {type(dataset).__name__}. Write "
                f"{remedy}."
            )
        return cls(**parts_of_dataset(dataset, members))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}{list(v.shape)}" for name, v in self.values.items())
        index = [f"{p} in {o}" for p, owners in self.members.items() for o in owners]
        function = [] if self.rows is None else ["rows by a function"]
        return f"Data({'; '.join(filter(None, (shapes, *function, ', '.join(index))))})"


def _unique(labels: np.ndarray) -> bool:
    return labels.ndim == 1 and repeated(labels) is None
