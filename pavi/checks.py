"""What values of covariates and observed variables must be: finite, present, in their support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from pavi import ops
from pavi.alignment import align
from pavi.dist.bounded import Beta
from pavi.dist.multivariate import Dirichlet
from pavi.dist.spec import Spec
from pavi.dist.supports import Support
from pavi.errors import DataError
from pavi.graph import Covariate, Observed, PlateGraph
from pavi.probing import FIRST, SECOND, constant_support, placeholder

# Elements looked at together, so that a memory map is never read as a whole.
CHUNK = 1 << 20


class Part(NamedTuple):
    """Of which array some rows are, to name the element that is wrong.

    Attributes:
        shape: shape of the whole array.
        rows: position in the whole of each row, for each of the leading axes.
    """

    shape: tuple[int, ...]
    rows: tuple[np.ndarray, ...]


def check_finite(covariate: Covariate, value: np.ndarray, part: Part | None = None) -> None:
    """Raises DataError where a covariate is NaN or infinite."""
    if value.dtype.kind != "f":
        return
    for start, rows in _chunks(value):
        wrong = ~np.isfinite(rows)
        if wrong.any():
            index = _first(wrong, start)
            raise DataError(
                f"Covariate {covariate.name!r} {covariate.axes} {_of(value, part)} is "
                f"{value[index]} at {_shown(index, part)}. Covariates must be finite: impute "
                f"the value, drop the row, or declare the variable pavi.Observed with a "
                f"distribution, where NaN means missing."
            )


def nan_places(value: np.ndarray) -> str:
    """Where an array is no number, in words; empty where it is nowhere."""
    missing = np.argwhere(np.isnan(value) if value.dtype.kind == "f" else False)
    first = [tuple(map(int, place)) for place in missing[:3]]
    return f"NaN in {len(missing)} places, the first of which are {first}" if len(missing) else ""


def fill_missing(
    graph: PlateGraph, observed: Observed, value: np.ndarray, *, need_outcomes: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Replaces missing observations by a value that does no harm.

    Args:
        graph: the graph.
        observed: the variable.
        value: `[*plates, *event]`, NaN where missing.
        need_outcomes: whether it is a mistake that all are missing.

    Returns:
        The value, itself if nothing is missing; and whether each draw is present,
        `[*plates, *event without the axes of one draw]`, or None if all are.

    Raises:
        DataError: an observation is infinite, or missing where it may not be.
    """
    if value.dtype.kind != "f":
        return value, None
    mask = _present(graph, observed, value)
    if mask is None:
        return value, None
    if need_outcomes and not mask.any():
        raise DataError(all_missing(observed, value.shape))
    filled = np.array(value)
    filled[~mask] = stand_in(graph, observed, value, mask)
    return filled, mask


def fill_absent(
    graph: PlateGraph, observed: Observed, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """As `fill_missing`, for an observed variable that the data do not hold at all."""
    mask = np.zeros(shape[: len(shape) - _draw_rank(graph, observed)], bool)
    value = np.empty(shape)
    value[~mask] = stand_in(graph, observed, value, mask)
    return value, mask


def fill_rows(
    graph: PlateGraph, observed: Observed, value: np.ndarray, harmless: np.ndarray, part: Part
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `fill_missing`, for some rows of an array; see `stand_in` for what is harmless.

    The mask is there wherever values may be missing, and not only where some are: other rows may
    have some, and a compiled program takes arrays of the same names at every step.
    """
    if value.dtype.kind != "f":
        return value, None
    mask = _present(graph, observed, value, part)
    if mask is None:
        return value, np.ones(value.shape[: value.ndim - _draw_rank(graph, observed)], bool)
    filled = np.array(value)
    filled[~mask] = harmless
    return filled, mask


def stand_in(
    graph: PlateGraph, observed: Observed, value: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """One draw that does no harm where an observation is missing: one of those present, if any."""
    draw = value.shape[value.ndim - _draw_rank(graph, observed) :]
    support = graph.constant_support(observed.name)
    # 0 is a valid count whatever the number of trials; else any observation is as good
    if support.discrete and bool(support.contains(np.zeros(()))):
        return np.zeros(draw, value.dtype)
    if mask is None:
        return np.asarray(value.reshape(-1, *draw)[0])
    if mask.any():
        return np.asarray(value[np.unravel_index(int(mask.argmax()), mask.shape)])
    return placeholder(graph.probe[observed.name].support, draw).astype(value.dtype)


def all_missing(observed: Observed, shape: tuple[int, ...]) -> str:
    """Says that there is no observation at all."""
    return (
        f"All observations of {observed.name!r} {observed.axes} of shape {shape} are "
        f"missing. Leave the variable out of the graph, or declare it pavi.Latent."
    )


def _draw_rank(graph: PlateGraph, observed: Observed) -> int:
    return graph.probe[observed.name].event_rank


def _present(
    graph: PlateGraph, observed: Observed, value: np.ndarray, part: Part | None = None
) -> np.ndarray | None:
    """Which draws are present, None if all are; raises at infinities and NaN that may not be."""
    any_missing = False
    for start, rows in _chunks(value):
        infinite = np.isinf(rows)
        if infinite.any():
            index = _first(infinite, start)
            raise DataError(
                f"Observed {observed.name!r} {observed.axes} {_of(value, part)} is "
                f"{value[index]} at {_shown(index, part)}. Observations must be finite: write NaN "
                f"for a missing one, or dist.Censored for one beyond a limit."
            )
        any_missing |= bool(np.isnan(rows).any())
    if not any_missing:
        return None
    children = graph.children(observed.name)
    if children:
        raise DataError(
            f"Observed {observed.name!r} {observed.axes} has missing values, but is a parent of "
            f"{children[0]!r}, which needs them all. Impute them, or drop these rows."
        )
    draw_axes = tuple(range(-_draw_rank(graph, observed), 0))
    absent = np.isnan(value)
    partly = absent.any(axis=draw_axes) & ~absent.all(axis=draw_axes)
    if partly.any():
        raise DataError(
            f"Observed {observed.name!r} {observed.axes} {_of(value, part)} is partly "
            f"missing at {_shown(_first(partly, 0), part)}: a draw of "
            f"{type(graph.probe[observed.name]).__name__} is missing as a whole or not at all. "
            f"Write NaN for all of it, or impute it."
        )
    return np.asarray(~absent.any(axis=draw_axes))


def check_support(
    graph: PlateGraph,
    observed: Observed,
    values: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
    members: Mapping[str, np.ndarray],
    part: Part | None = None,
) -> None:
    """Raises DataError where an observation lies outside the support of its distribution.

    Bounds that depend on covariates are looked up; those that depend on latents are left out.

    Args:
        graph: the graph.
        observed: the variable.
        values: of it and of its parents among the data.
        mask: which draws to look at, all if None.
        members: position of each row's owner, by `"plate/owner"`.
        part: where the values are rows of larger arrays, those of this one.
    """
    value, spec = values[observed.name], graph.probe[observed.name]
    support = graph.constant_support(observed.name)
    bounds = [getattr(support, field.name) for field in fields(support)]
    if any(ops.shape(b) == () and np.isinf(ops.to_numpy(b)) for b in bounds):
        support = _support_given_data(graph, observed, values, members)
        bounds = [getattr(support, field.name) for field in fields(support)]
    whole = any(ops.shape(b) for b in bounds) or value.ndim == support.event_rank
    for start, rows in [(0, value)] if whole else _chunks(value):
        wrong = ~np.asarray(support.contains(rows))
        wrong = wrong | _at_a_pole(spec, rows)
        if mask is not None:
            seen = mask[start : start + len(rows)] if mask.ndim else mask
            # A draw of several elements is there as a whole.
            wrong = wrong & seen.reshape(*seen.shape, *(1,) * (wrong.ndim - seen.ndim))
        if wrong.any():
            index = _first(wrong, start)
            raise DataError(
                f"Observed {observed.name!r} {observed.axes} {_of(value, part)} is "
                f"{value[index]} at {_shown(index, part)}, outside the support of "
                f"{type(spec).__name__}: {_limits(support, index, value)}"
                f"{', both excluded' if isinstance(spec, Beta) else ''}. "
                f"Correct the value, write NaN if it is missing, or choose another distribution."
            )


def _at_a_pole(spec: Spec, value: np.ndarray) -> np.ndarray:
    """Where the density is 0 or infinite at the bounds: a Beta's 0 and 1, a Dirichlet's 0."""
    if isinstance(spec, Beta):
        return np.logical_or(value <= 0, value >= 1)
    if isinstance(spec, Dirichlet):
        return np.any(value <= 0, axis=-1)
    return np.zeros((), dtype=bool)


def _support_given_data(
    graph: PlateGraph,
    observed: Observed,
    values: Mapping[str, np.ndarray],
    members: Mapping[str, np.ndarray],
) -> Support:
    """The support at the data, bounds that depend on latents infinite."""
    specs = []
    for setting in (FIRST, SECOND):
        parents = {}
        for name in observed.parents:
            parent = graph.variables[name]
            if name in values:
                recipe = graph.alignment(parent.plates, observed.plates)
                parents[name] = align(
                    np.asarray(values[name], dtype=np.float64),
                    recipe,
                    observed.plates,
                    members,
                    event_rank=len(parent.event),
                    child_event_rank=len(observed.event),
                )
            else:
                event = parent.event or (1,) * len(observed.event)
                shape = (*(1,) * len(observed.plates), *event)
                # A bound that it moves is infinite; a covariate may be yet to be read.
                parents[name] = (
                    np.full(shape, setting.known)
                    if isinstance(parent, Covariate)
                    else placeholder(graph.probe[name].support, shape, setting)
                )
        with np.errstate(all="ignore"):
            specs.append(graph.spec(observed.name, parents))
    return constant_support(*specs)


def _limits(support: Support, index: tuple[int, ...], value: np.ndarray) -> str:
    """The support in words, with the bounds of one element."""
    named = {}
    for field in fields(support):
        bound = np.asarray(ops.to_numpy(getattr(support, field.name)))
        named[field.name] = np.broadcast_to(bound, value.shape)[index] if bound.ndim else bound
    return str(type(support)(**{k: np.asarray(v).item() for k, v in named.items()}))


def _chunks(value: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Slices of the leading axis, each with its start."""
    if value.ndim == 0 or value.size <= CHUNK:
        yield 0, value
        return
    step = max(1, CHUNK * len(value) // value.size)
    for start in range(0, len(value), step):
        yield start, value[start : start + step]


def _first(where: np.ndarray, start: int) -> tuple[int, ...]:
    """Index of the first true element, `start` added on the leading axis."""
    index = np.unravel_index(int(np.argmax(where)), where.shape)
    return tuple(int(i) + (start if axis == 0 else 0) for axis, i in enumerate(index))


def _of(value: np.ndarray, part: Part | None) -> str:
    return f"of shape {value.shape if part is None else part.shape}"


def _shown(index: tuple[int, ...], part: Part | None = None) -> str:
    if part is not None:
        known = [int(rows[i]) for rows, i in zip(part.rows, index, strict=False)]
        index = (*known, *index[len(known) :])
    if not index:
        return "its only element"
    return f"index {index[0] if len(index) == 1 else index}"
