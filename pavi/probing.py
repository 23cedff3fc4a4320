"""Evaluating a graph's distributions on NumPy placeholders, to find mistakes before there are data.

Each distribution is evaluated twice, with other plate sizes and other values: what is the same in
both is a constant of the model, what differs depends on parents.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

from pavi import ops
from pavi.dist import supports
from pavi.dist.compound import Mixture
from pavi.dist.spec import Spec
from pavi.dist.supports import Support
from pavi.errors import GraphError
from pavi.ops.placeholder import NotPortableError, Placeholder, plain
from pavi.plates import Plates
from pavi.variables import Random, Variable, not_portable


@dataclass(frozen=True)
class Setting:
    """Sizes and values of the placeholders of one evaluation."""

    copies: int
    """elements of every plate"""
    batch: int
    """size of the one leading batch axis"""
    known: float
    """value of a covariate"""
    real: float
    """value of an unbounded variable"""
    positive: float
    """distance from the bound of a variable with one bound"""
    fraction: float
    """place of a variable between two bounds"""
    distinct: bool = False
    """whether each name and element has a value of its own, the same in every process"""


FIRST = Setting(copies=2, batch=3, known=1.0, real=0.5, positive=1.0, fraction=0.5)
# Sizes that no event is likely to have; a known 0 is a valid index, count and indicator, like 1.
SECOND = Setting(copies=7, batch=5, known=0.0, real=-0.25, positive=1.5, fraction=0.25)


# Tells functions of the same parents apart, such as `a + b * x` from `b + a * x`.
DISTINCT = replace(FIRST, distinct=True)


class _Varying:
    """Stands for a parameter that depends on parents."""

    def __repr__(self) -> str:
        return "..."


VARYING = _Varying()


def placeholder(
    support: Support, shape: tuple[int, ...], setting: Setting = FIRST, name: str = ""
) -> np.ndarray:
    """An array of `shape` inside `support`, all draws alike unless the setting is `distinct`."""
    if setting.distinct:
        return _distinct(support, _fractions(name, shape))
    if isinstance(support, supports.Positive):
        draw: Any = setting.positive
    elif isinstance(support, supports.UnitInterval):
        draw = setting.fraction
    elif isinstance(support, supports.Interval):
        low, high = _middle(support.low), _middle(support.high)
        draw = low + setting.fraction * (high - low)
    elif isinstance(support, supports.GreaterThan):
        draw = _middle(support.low) + setting.positive
    elif isinstance(support, supports.LessThan):
        draw = _middle(support.high) - setting.positive
    elif isinstance(support, supports.IntegerInterval):
        draw = _middle(support.low)
    elif isinstance(support, (supports.Boolean, supports.NonNegativeInteger)):
        draw = setting.known
    elif isinstance(support, supports.Simplex):
        draw = np.full(shape[-1:], 1.0 / shape[-1])
    elif isinstance(support, supports.Ordered):
        draw = setting.real + setting.positive * np.arange(shape[-1])
    elif support.event_rank == 2:  # Cholesky factors
        draw = np.eye(shape[-1])
    else:
        draw = setting.real
    return np.broadcast_to(np.asarray(draw, dtype=np.float64), shape).copy()


def _fractions(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between 0 and 1, another one for each element of each name."""
    start = int.from_bytes(sha256(name.encode()).digest()[:4], "big") / 2**32
    # frac(start + i phi) never meets itself; away from the ends
    places = start + np.arange(1, prod(shape) + 1) * (np.sqrt(5.0) - 1.0) / 2.0
    return np.asarray(0.05 + 0.9 * (places % 1.0)).reshape(shape)


def _distinct(support: Support, place: np.ndarray) -> np.ndarray:
    """An array inside `support`, of values that differ as those of `place` do."""
    low, high = getattr(support, "low", 0.0), getattr(support, "high", np.inf)
    if support.discrete:
        # 0 and 1 are valid indices, counts and indicators
        return np.minimum(_middle(low) + np.floor(2.0 * place), _middle(high))
    if isinstance(support, supports.Interval):
        return _middle(low) + place * (_middle(high) - _middle(low))
    if isinstance(support, supports.UnitInterval):
        return place
    if isinstance(support, (supports.Positive, supports.GreaterThan)):
        return _middle(low) + 0.5 + place
    if isinstance(support, supports.LessThan):
        return _middle(high) - 0.5 - place
    if isinstance(support, supports.Simplex):
        return np.asarray(place / place.sum(-1, keepdims=True))
    if isinstance(support, supports.Ordered):
        return np.cumsum(place, -1)
    if support.event_rank == 2:  # Cholesky factors, of correlation matrices among others
        factor = np.tril(place)
        return np.asarray(factor / np.linalg.norm(factor, axis=-1, keepdims=True))
    return place


def _middle(bound: Any) -> float:
    return float(np.mean(ops.to_numpy(bound)))


def probe(
    variable: Random,
    variables: Mapping[str, Variable],
    plates: Plates,
    specs: Mapping[str, Spec],
    setting: Setting,
) -> Spec:
    """The variable's distribution at placeholders of its parents, aligned to its axes.

    Args:
        variable: the variable to evaluate.
        variables: all variables of the graph by name.
        plates: the graph's plates.
        specs: distributions of the parents, from the same setting.
        setting: sizes and values of the placeholders.

    Raises:
        GraphError: the function fails, or gives a distribution that does not fit the variable.
    """
    values = {}
    for name in variable.parents:
        parent = variables[name]
        shape = aligned_shape(parent, variable, plates, setting)
        if name in specs:
            values[name] = placeholder(specs[name].support, shape, setting, name)
        elif setting.distinct:
            values[name] = 2.0 * _fractions(name, shape)
        else:
            values[name] = np.full(shape, setting.known)
    try:
        with np.errstate(all="ignore"):
            spec = variable.spec({k: v.view(Placeholder) for k, v in values.items()})
    except NotPortableError as error:
        raise GraphError(not_portable(variable, error.function)) from error
    except Exception as error:
        if isinstance(error, GraphError) and repr(variable.name) in str(error):
            raise
        shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items())
        raise GraphError(
            f"The distribution function of {variable.place} failed on placeholders with "
            f"{setting.copies} elements a plate ({shapes or 'no parents'}): "
            f"{type(error).__name__}: {error} Parents come as arrays [*batch, *plates, *event], "
            f"plate axes of size 1 where they do not vary: use pavi.ops and negative axes on them, "
            f"and pass per-element constants as a pavi.Covariate."
        ) from error
    if variable.parents:
        spec = _plain(spec)
    check_parameters(variable, spec)
    check_shape(variable, spec, (setting.batch, *[setting.copies] * len(variable.plates)))
    return spec


def _plain(spec: Spec) -> Spec:
    """`spec` with plain arrays as its parameters; it is not built anew."""
    out = copy(spec)
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, Spec):
            value = _plain(value)
        elif isinstance(value, tuple):
            value = tuple(_plain(v) if isinstance(v, Spec) else plain(v) for v in value)
        object.__setattr__(out, field.name, plain(value))
    return out


def aligned_shape(
    parent: Variable, child: Variable, plates: Plates, setting: Setting
) -> tuple[int, ...]:
    """Shape in which a parent arrives: `[batch, *child plates (size or 1), *parent event]`."""
    reached = {p for _, p in plates.alignment(parent.plates, child.plates)}
    axes = [setting.copies if p in reached else 1 for p in child.plates]
    return (setting.batch, *axes, *(parent.event or (1,) * len(child.event)))


def check_shape(variable: Random, spec: Spec, lead: tuple[int, ...]) -> None:
    """Raises GraphError if draws of `spec` are not of shape `[*lead, *event]`."""
    kind, rank, event = type(spec).__name__, spec.event_rank, variable.event
    if len(event) < rank:
        raise GraphError(
            f"{variable.place}: a draw of {kind} has {rank} event axes, but the variable has "
            f"{len(event)}. {_wanted_event(variable, spec, len(lead))}"
        )
    wanted = (*lead, *event)
    draw: tuple[int, ...] = ()
    for name, given in _draw_shapes(spec):
        axes = list(zip(given[::-1], wanted[::-1], strict=False))
        if len(given) > len(wanted) or any(g not in (1, w) for g, w in axes):
            raise GraphError(
                f"{variable.place}: {name!r} of {kind} gives values of shape {given}, wanted at "
                f"most [*batch, *plates, *event] = {wanted} (a trial, the batch and every plate of "
                f"a size of its own choice). Set `plates` and `event` to what the distribution "
                f"has, or sum over the axes in excess."
            )
        draw = np.broadcast_shapes(draw, given[len(given) - rank :])
    own = event[len(event) - rank :]
    if draw not in ((), own):
        raise GraphError(
            f"{variable.place}: a draw of {kind} has shape {draw}, wanted {own}, the last "
            f"{rank} axes of `event`. Write event={(*event[: len(event) - rank], *draw)}."
        )


def _wanted_event(variable: Random, spec: Spec, lead: int) -> str:
    """Names the event of one draw where parameters tell its size, which is not a plate's."""
    rank = spec.event_rank
    draws = set()
    for name, given in _draw_shapes(spec):
        # without an event of its own, a parent's last axes may be those of plates
        if name == "dimension" or not variable.parents or len(given) >= lead + rank:
            draws.add(given[len(given) - rank :])
    told = [draw for draw in draws if len(draw) == rank and max(draw) > 1]
    if len(told) != 1:
        return f"Give it its size, as in event={(3,) * rank}."
    return f"Write event={told[0]}."


# Trailing axes of one copy of a parameter, where the supports do not tell.
_OWN_AXES = {
    ("Categorical", "probs"): 1,
    ("Categorical", "logits"): 1,
    ("Mixture", "weights"): 1,
    ("LKJCholesky", "concentration"): 0,
}


def _draw_shapes(spec: Spec) -> list[tuple[str, tuple[int, ...]]]:
    """For each parameter, the shape `[*batch, *event]` of values that it alone would give."""
    kind, rank = type(spec).__name__, spec.event_rank
    out = []
    for field in fields(spec):
        value = getattr(spec, field.name)
        if value is None or isinstance(value, (Support, str)):
            continue
        if isinstance(value, Spec):
            out += _draw_shapes(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Spec):
            out += [pair for component in value for pair in _draw_shapes(component)]
        elif (kind, field.name) == ("LKJCholesky", "dimension"):
            out.append((field.name, (value, value)))
        else:
            support = spec.parameter_supports.get(field.name)
            least = rank if support is None else max(rank, support.event_rank)
            own = _OWN_AXES.get((kind, field.name), least)
            shape = _shape(value)
            batch = shape[: max(0, len(shape) - own)]
            # of its own axes those of the draw come first: the rows of a Cholesky factor
            carries = own >= rank and (kind, field.name) not in _OWN_AXES
            event = shape[len(batch) :][:rank] if carries else (1,) * rank
            out.append((field.name, (*batch, *event)))
    return out


def _shape(value: Any) -> tuple[int, ...]:
    return np.shape(value) if isinstance(value, (int, float, list, tuple)) else ops.shape(value)


def check_parameters(variable: Random, spec: Spec) -> None:
    """Raises GraphError for a parameter that is no number, or that is not given."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        nested = value if isinstance(value, tuple) else (value,)
        if any(isinstance(item, Spec) for item in nested):
            for component in nested:
                check_parameters(variable, component)
        elif (value is None and field.default is None) or isinstance(value, Support):
            continue
        elif value is None or np.asarray(ops.to_numpy(value)).dtype.kind not in "biuf":
            raise GraphError(
                f"{variable.place}: {field.name!r} of {type(spec).__name__} is {value!r}, which "
                f"is no number. Give a number or an array of numbers."
            )


def check_bounds(variable: Random, support: Support) -> None:
    """Raises GraphError if nothing lies between two constant bounds."""
    low, high = getattr(support, "low", -np.inf), getattr(support, "high", np.inf)
    empty = np.greater if support.discrete else np.greater_equal
    if np.any(empty(ops.to_numpy(low), ops.to_numpy(high))):
        raise GraphError(
            f"{variable.place} has no values: its lower bound is {low} and its upper bound "
            f"{high}. Give `low` below `high`."
        )


def constants(first: Spec, second: Spec) -> Spec:
    """`first` with every parameter that differs from `second`'s replaced by `VARYING`.

    The result is a record of what is constant, to be validated, printed or hashed: its other
    parameters are no numbers.
    """
    out = copy(first)
    for field in fields(first):
        value, other = getattr(first, field.name), getattr(second, field.name)
        object.__setattr__(out, field.name, _common(value, other))
    return out


def _common(a: Any, b: Any) -> Any:
    if isinstance(a, Spec) and type(a) is type(b):
        return constants(a, b)
    if isinstance(a, tuple) and any(isinstance(x, Spec) for x in a):
        return tuple(_common(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Support):
        return a if type(a) is type(b) else VARYING
    if a is None:
        return a
    a_array, b_array = (np.asarray(ops.to_numpy(x)) for x in (a, b))
    # a NaN is a constant too, and no valid one
    same = np.array_equal(a_array, b_array, equal_nan=a_array.dtype.kind == "f")
    if not same:
        return VARYING
    return a_array if isinstance(a, (list, tuple)) else a


def constant_support(first: Spec, second: Spec) -> Support:
    """The smallest support free of parents that holds both: bounds that vary become infinite."""
    if isinstance(first, Mixture) and isinstance(second, Mixture):
        # A component's bound may vary where another one's is the larger at both placeholders.
        pairs = zip(first.components, second.components, strict=True)
        return supports.hull(*(constant_support(a, b) for a, b in pairs))
    return _constant(first.support, second.support)


def _constant(first: Support, second: Support) -> Support:
    for bound in fields(first) if type(first) is type(second) else ():
        value, other = getattr(first, bound.name), getattr(second, bound.name)
        if not np.array_equal(ops.to_numpy(value), ops.to_numpy(other)):
            first = replace(first, **{bound.name: -np.inf if bound.name == "low" else np.inf})
    return first
