"""Values that are read when a step asks for them, from arrays beyond memory or from a function.

Whatever is read is checked as values in memory are when they are bound: shape and dtype, finite
covariates, what is missing. Of the whole only an evenly spaced sample is looked at beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pavi.alignment import product
from pavi.checks import Part, all_missing, check_finite, check_support, fill_rows, stand_in
from pavi.dist.supports import Real
from pavi.errors import DataError, did_you_mean
from pavi.graph import Covariate, Observed, PlateGraph, Variable
from pavi.lazy import Source, as_array

Rows: TypeAlias = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]

# The sample: most rows of an array, and most numbers.
SAMPLE_ROWS, SAMPLE_NUMBERS = 1024, 1 << 20
# Most bytes of an array that is read as a whole, where no batch is asked for.
WHOLE_BYTES = 4 << 30
# Positions that a message lists.
_SHOWN = 5


class Read(NamedTuple):
    """Values, and for observed ones of floating dtype which draws are present."""

    values: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


class Sample(NamedTuple):
    """Evenly spaced rows of an array, and which of their draws are present: None if all are."""

    value: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True, eq=False)
class LazyValues:
    """The covariates and observed variables of bound data that are not in memory.

    Attributes:
        graph: the graph.
        sizes: number of elements of every plate.
        sources: arrays `[*plates, *event]`.
        rows: gives the rows of all the other variables at once.
        asked: those variables.
        dtypes: dtype of each variable's sample.
        samples: evenly spaced rows of each variable.
        harmless: for every observed one what stands in for a missing draw.
    """

    graph: PlateGraph
    sizes: Mapping[str, int]
    sources: Mapping[str, Source]
    rows: Rows | None
    asked: tuple[str, ...]
    dtypes: dict[str, np.dtype[Any]]
    samples: dict[str, Sample]
    harmless: dict[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that are not in memory."""
        return (*self.sources, *self.asked)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable's whole array."""
        variable = self.graph.variables[name]
        return (*(self.sizes[p] for p in variable.plates), *variable.event)

    def kind(self, name: str) -> str:
        """Where a variable comes from, in words."""
        return self.sources[name].kind if name in self.sources else "function"

    def read(self, names: Iterable[str], indices: Mapping[str, np.ndarray]) -> Read:
        """Rows of some variables, each once however often it is asked for.

        Args:
            names: the variables.
            indices: positions of the rows by plate, in any order; of other plates all.

        Returns:
            `[*rows, *event]` in the dtypes they have.

        Raises:
            DataError: what is read is not what it should be, or cannot be read.
        """
        names = list(names)
        distinct: dict[str, np.ndarray] = {}
        back: dict[str, np.ndarray] = {}
        for plate in {p for name in names for p in self.graph.variables[name].plates}:
            index = indices.get(plate)
            if index is None:
                distinct[plate] = np.arange(self.sizes[plate])
            elif (index[1:] > index[:-1]).all():
                distinct[plate] = index
            else:
                distinct[plate], back[plate] = np.unique(index, return_inverse=True)
        out = Read({}, {})
        for name, value in self._raw(names, distinct).items():
            variable = self.graph.variables[name]
            part = Part(self.shape(name), tuple(distinct[p] for p in variable.plates))
            mask = None
            if isinstance(variable, Observed):
                value, mask = fill_rows(self.graph, variable, value, self.harmless[name], part)
            elif isinstance(variable, Covariate):
                check_finite(variable, value, part)
            for axis, plate in enumerate(variable.plates):
                if plate in back:
                    value = np.take(value, back[plate], axis)
                    mask = None if mask is None else np.take(mask, back[plate], axis)
            out.values[name] = value
            if mask is not None:
                out.masks[name] = mask
        return out

    def read_steps(self, names: Iterable[str], indices: Mapping[str, np.ndarray]) -> Read:
        """Rows of some steps, `[steps, *rows, *event]`, for positions `[steps, rows]` by plate.

        An array with one plate drawn is read once for all steps: what is stored in chunks is
        unpacked by chunks. Of one with several, the steps together would be many more rows.
        """
        one_by_one: list[str] = []
        together: dict[str, list[str]] = {}
        for name in names:
            drawn = [p for p in self.graph.variables[name].plates if p in indices]
            if len(drawn) == 1 and name in self.sources:
                together.setdefault(drawn[0], []).append(name)
            else:
                one_by_one.append(name)
        out = Read({}, {})
        for plate, group in together.items():
            steps, rows = indices[plate].shape
            read = self.read(group, {plate: indices[plate].ravel()})
            for arrays, parts in zip(out, read, strict=True):
                for name, array in parts.items():
                    axis = self.graph.variables[name].plates.index(plate)
                    shape = (*array.shape[:axis], steps, rows, *array.shape[axis + 1 :])
                    arrays[name] = np.moveaxis(array.reshape(shape), axis, 0)
        if one_by_one:
            count = len(next(iter(indices.values())))
            reads = [
                self.read(one_by_one, {p: index[step] for p, index in indices.items()})
                for step in range(count)
            ]
            for part, arrays in enumerate(out):
                for name in reads[0][part]:
                    arrays[name] = np.stack([read[part][name] for read in reads])
        return out

    def check_whole(self, names: Iterable[str], dtype: str) -> None:
        """Raises DataError where an array that is read as a whole would take too much memory."""
        for name in names:
            variable, shape = self.graph.variables[name], self.shape(name)
            needed = prod(shape) * np.dtype(dtype).itemsize
            if needed <= WHOLE_BYTES:
                continue
            largest = max(variable.plates, key=self.sizes.__getitem__, default="")
            raise DataError(
                f"{variable.kind.capitalize()} {name!r} {variable.axes} of shape {shape}, a "
                f"{self.kind(name)}, would be read as a whole, {needed / 2**30:,.1f} GiB in "
                f"{dtype}, more than the {WHOLE_BYTES / 2**30:,.1f} GiB that are allowed. Fit with "
                f"batch={{{largest!r}: ...}}, draw with sample(..., plates={{{largest!r}: [...]}}) "
                f"or write the whole posterior with Posterior.export."
            )

    def check(
        self,
        values: Mapping[str, np.ndarray],
        masks: Mapping[str, np.ndarray],
        members: Mapping[str, np.ndarray],
        indices: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray],
    ) -> None:
        """Raises DataError where a row that was read is outside its distribution's support.

        Args:
            values: rows of one step, in memory all along or not.
            masks: which draws are present, where some may be missing.
            members: position of each row's owner, by `"plate/owner"`.
            indices: position of each row, by plate.
            weights: 0 for rows that do not count, whose owners may be others.
        """
        for name in self.checked:
            if name not in values:
                continue
            observed = self.graph.variables[name]
            if not isinstance(observed, Observed):
                continue
            trailing = len(observed.event) - self.graph.probe[name].event_rank
            weight = product(weights, observed.plates, trailing)
            present = np.asarray(True) if weight is None else np.asarray(weight > 0)
            if name in masks:
                present = present & (masks[name] > 0)
            part = Part(self.shape(name), tuple(indices[p] for p in observed.plates))
            check_support(self.graph, observed, values, present, members, part)

    @property
    def checked(self) -> tuple[str, ...]:
        """Observed variables that are to be held against their support whenever rows are read."""
        lazy = set(self.names)
        return tuple(
            v.name
            for v in self.graph.observed
            if lazy & {v.name, *v.parents}
            # All that is finite is a real number, and what is read is.
            and not isinstance(self.graph.probe[v.name].support, Real)
        )

    def _raw(
        self, names: Sequence[str], indices: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """What is stored: rows at distinct positions in order, of the shape and dtype they need."""
        out: dict[str, np.ndarray] = {}
        wanted = [name for name in names if name in self.asked]
        if wanted:
            needed = {p for name in wanted for p in self.graph.variables[name].plates}
            every = {p for name in self.asked for p in self.graph.variables[name].plates}
            # Of plates that nothing wanted is on, one element is as much as must be asked for.
            answer = self._answer(
                {
                    p: indices[p] if p in needed else np.zeros(1, np.int64)
                    for p in self.sizes
                    if p in every
                }
            )
            out |= {name: answer[name] for name in wanted}
        for name in names:
            if name in self.sources:
                out[name] = self._stored(name, indices)
        return out

    def _stored(self, name: str, indices: Mapping[str, np.ndarray]) -> np.ndarray:
        variable = self.graph.variables[name]
        own = {p: indices[p] for p in variable.plates}
        where = f"reading {variable.kind} {name!r} {variable.axes}, a {self.kind(name)}, at "
        where += _positions(own)
        try:
            value = self.sources[name].read(tuple(own.values()))
        except Exception as error:
            raise DataError(
                f"{where}: {type(error).__name__}: {error} Check that the file is there, whole and "
                f"readable, then fit again; a checkpoint goes on where it was."
            ) from error
        return self._fitting(variable, value, own, where)

    def _answer(self, indices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the function gives for positions of the plates of its variables."""
        where = f"rows({_positions(indices)})"
        names = ", ".join(map(repr, self.asked))
        if self.rows is None:
            return {}
        try:
            # The function may keep or change what it is given.
            answer = self.rows({plate: np.array(index) for plate, index in indices.items()})
        except Exception as error:
            raise DataError(
                f"{where}, asked for {names}, raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(answer, Mapping):
            raise DataError(
                f"{where} gave {type(answer).__name__}, wanted a mapping from the names "
                f"{names} to arrays [*len of each plate's positions, *event]."
            )
        for name in answer:
            if name not in self.asked:
                raise DataError(
                    f"{where} gave {name!r}, which is none of the variables that `values` does not "
                    f"have: {names}. Leave it out.{did_you_mean(str(name), self.asked)}"
                )
        out = {}
        for name in self.asked:
            variable = self.graph.variables[name]
            if name not in answer:
                raise DataError(
                    f"{where} gave no {variable.kind} {name!r}, wanted an array {variable.axes}. "
                    f"Return it with the others, or put the whole array into `values`."
                )
            own = {p: indices[p] for p in variable.plates}
            # A copy: the function may fill one array again and again.
            value = np.array(as_array(name, answer[name]))
            out[name] = self._fitting(variable, value, own, f"{where}: {variable.kind} {name!r}")
        return out

    def _fitting(
        self, variable: Variable, value: np.ndarray, own: Mapping[str, np.ndarray], where: str
    ) -> np.ndarray:
        """`value`, if its shape and dtype are right."""
        shape = (*(len(index) for index in own.values()), *variable.event)
        if value.shape != shape:
            fewer = value.ndim == len(shape) and any(
                a < b for a, b in zip(value.shape, shape, strict=True)
            )
            raise DataError(
                f"{where}: got {'fewer rows, ' if fewer else ''}an array of shape {value.shape}, "
                f"wanted {shape}: {variable.axes}, one row for each position asked for, in their "
                f"order."
            )
        if value.dtype.kind not in "biuf":
            raise DataError(
                f"{where}: got dtype {value.dtype}, wanted numbers. Convert it; code categories "
                f"as 0, 1, 2 and so on."
            )
        known = self.dtypes.get(variable.name)
        if known is not None and value.dtype.kind == "f" and known.kind != "f":
            raise DataError(
                f"{where}: got dtype {value.dtype}, but {known} when the data were bound, where "
                f"none can be missing. Give the same dtype for all rows: floats, if any is NaN."
            )
        return value


def lazy_values(
    graph: PlateGraph,
    sizes: Mapping[str, int],
    sources: Mapping[str, Source],
    rows: Rows | None,
    asked: tuple[str, ...],
    *,
    need_outcomes: bool,
) -> LazyValues:
    """Looks at evenly spaced rows of every array, and asks the function for some; checks these."""
    lazy = LazyValues(graph, sizes, sources, rows, asked, {}, {}, {})
    found: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
    for name in sources:
        index = _sampled(graph.variables[name], sizes)
        found[name] = lazy._stored(name, index), index
    if asked:
        every: dict[str, np.ndarray] = {}
        for name in asked:
            for plate, positions in _sampled(graph.variables[name], sizes).items():
                # Of each plate as few as any of its variables allows.
                if plate not in every or len(positions) < len(every[plate]):
                    every[plate] = positions
        every = {p: every[p] for p in sizes if p in every}
        for name, value in lazy._answer(every).items():
            found[name] = value, {p: every[p] for p in graph.variables[name].plates}
    for name, (value, index) in found.items():
        variable = graph.variables[name]
        part = Part(lazy.shape(name), tuple(index.values()))
        lazy.dtypes[name] = value.dtype
        mask = None
        if isinstance(variable, Observed):
            missing = np.isnan(value) if value.dtype.kind == "f" else np.zeros(value.shape, bool)
            rank = graph.probe[name].event_rank
            present = np.asarray(~missing.any(axis=tuple(range(-rank, 0))))
            lazy.harmless[name] = stand_in(graph, variable, value, present)
            value, mask = fill_rows(graph, variable, value, lazy.harmless[name], part)
            if need_outcomes and value.shape == part.shape and not present.any():
                raise DataError(all_missing(variable, part.shape))
            # Bounds that depend on other data are looked at when rows of all are read.
            check_support(graph, variable, {name: value}, mask, {}, part)
            mask = None if mask is None or mask.all() else mask
        elif isinstance(variable, Covariate):
            check_finite(variable, value, part)
        lazy.samples[name] = Sample(np.array(value, order="C"), mask)
    return lazy


def _sampled(variable: Variable, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Evenly spaced positions of each plate of a variable, the first one included."""
    rows = max(1, min(SAMPLE_ROWS, SAMPLE_NUMBERS // max(1, prod(variable.event))))
    out: dict[str, np.ndarray] = {}
    by_size = sorted(variable.plates, key=sizes.__getitem__)
    for left, plate in zip(range(len(by_size), 0, -1), by_size, strict=True):
        # What a small plate does not use is left to the larger ones.
        count = min(sizes[plate], max(1, int(rows ** (1 / left) + 1e-9)))
        out[plate] = np.arange(count) * sizes[plate] // count
        rows //= count
    return {plate: out[plate] for plate in variable.plates}


def _positions(indices: Mapping[str, np.ndarray]) -> str:
    parts = []
    for plate, index in indices.items():
        shown = ", ".join(map(str, index[:_SHOWN].tolist()))
        more = f", ... {index[-1]}] ({len(index):,})" if len(index) > _SHOWN else "]"
        parts.append(f"{plate!r}: [{shown}{more}")
    return "{" + ", ".join(parts) + "}"
