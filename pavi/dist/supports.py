"""The sets on which distributions live, and the shapes of their unconstrained coordinates.

A value of a support is `[*batch, *event]` with `len(event) == event_rank`: a number, a vector or a
matrix. The maps between a support and its unconstrained coordinates are in `bijectors/links.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from pavi import ops

Array: TypeAlias = Any

# Largest departure from an equality constraint (a sum or a norm of 1) put down to rounding; data
# often pass through float32.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Support(ABC):
    """A set of values; subclasses say which.

    Bounds may be numbers or arrays of any framework, as when a parent variable is a bound.
    """

    event_rank: ClassVar[int] = 0
    discrete: ClassVar[bool] = False

    def unconstrained_event(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the unconstrained coordinates of a value of shape `event`."""
        return event

    @abstractmethod
    def contains(self, value: np.ndarray) -> np.ndarray:
        """Whether each value `[*batch, *event]` is in the set: booleans `[*batch]`."""

    @abstractmethod
    def __str__(self) -> str:
        """The set in words, for messages."""


@dataclass(frozen=True)
class Real(Support):
    """Finite numbers."""

    def contains(self, value: np.ndarray) -> np.ndarray:
        return np.isfinite(value)

    def __str__(self) -> str:
        return "real numbers"


@dataclass(frozen=True)
class Positive(Support):
    """Finite numbers above 0."""

    def contains(self, value: np.ndarray) -> np.ndarray:
        return np.isfinite(value) & (np.asarray(value) > 0)

    def __str__(self) -> str:
        return "positive numbers"


@dataclass(frozen=True)
class UnitInterval(Support):
    """Numbers from 0 to 1, both included."""

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        return (value >= 0) & (value <= 1)

    def __str__(self) -> str:
        return "numbers from 0 to 1"


@dataclass(frozen=True)
class Interval(Support):
    """Numbers from `low` to `high`, both included."""

    low: Array
    high: Array

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        return (value >= _bound(self.low, value)) & (value <= _bound(self.high, value))

    def __str__(self) -> str:
        return f"numbers from {_words(self.low)} to {_words(self.high)}"


@dataclass(frozen=True)
class GreaterThan(Support):
    """Finite numbers from `low` up."""

    low: Array

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        return np.isfinite(value) & (value >= _bound(self.low, value))

    def __str__(self) -> str:
        return f"numbers from {_words(self.low)} up"


@dataclass(frozen=True)
class LessThan(Support):
    """Finite numbers up to `high`."""

    high: Array

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        return np.isfinite(value) & (value <= _bound(self.high, value))

    def __str__(self) -> str:
        return f"numbers up to {_words(self.high)}"


@dataclass(frozen=True)
class Simplex(Support):
    """Vectors `[K]` of non-negative numbers that sum to 1."""

    event_rank: ClassVar[int] = 1

    def unconstrained_event(self, event: tuple[int, ...]) -> tuple[int, ...]:
        return (event[-1] - 1,)

    def contains(self, value: np.ndarray) -> np.ndarray:
        total = np.sum(value, axis=-1, dtype=np.float64)
        return np.all(np.asarray(value) >= 0, axis=-1) & (np.abs(total - 1) <= TOLERANCE)

    def __str__(self) -> str:
        return "vectors of non-negative numbers that sum to 1"


@dataclass(frozen=True)
class Ordered(Support):
    """Vectors `[K]` of increasing finite numbers."""

    event_rank: ClassVar[int] = 1

    def contains(self, value: np.ndarray) -> np.ndarray:
        finite = np.all(np.isfinite(value), axis=-1)
        # inf - inf is NaN, which compares false, as it should
        with np.errstate(invalid="ignore"):
            return finite & np.all(np.diff(value, axis=-1) > 0, axis=-1)

    def __str__(self) -> str:
        return "vectors of increasing numbers"


@dataclass(frozen=True)
class LowerCholesky(Support):
    """Lower triangular matrices `[d, d]` with a positive diagonal."""

    event_rank: ClassVar[int] = 2

    def unconstrained_event(self, event: tuple[int, ...]) -> tuple[int, ...]:
        d = event[-1]
        return (d * (d + 1) // 2,)

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        finite = np.all(np.isfinite(value), axis=(-2, -1))
        lower = np.all(np.triu(value, 1) == 0, axis=(-2, -1))
        return finite & lower & np.all(np.diagonal(value, axis1=-2, axis2=-1) > 0, axis=-1)

    def __str__(self) -> str:
        return "lower triangular matrices with a positive diagonal"


@dataclass(frozen=True)
class CorrelationCholesky(Support):
    """Cholesky factors `[d, d]` of correlation matrices: lower triangular, rows of norm 1."""

    event_rank: ClassVar[int] = 2

    def unconstrained_event(self, event: tuple[int, ...]) -> tuple[int, ...]:
        d = event[-1]
        return (d * (d - 1) // 2,)

    def contains(self, value: np.ndarray) -> np.ndarray:
        norms = np.sum(np.square(np.asarray(value, dtype=np.float64)), axis=-1)
        return LOWER_CHOLESKY.contains(value) & np.all(np.abs(norms - 1) <= TOLERANCE, axis=-1)

    def __str__(self) -> str:
        return "Cholesky factors of correlation matrices"


@dataclass(frozen=True)
class Boolean(Support):
    """0 or 1."""

    discrete: ClassVar[bool] = True

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        return (value == 0) | (value == 1)

    def __str__(self) -> str:
        return "0 or 1"


@dataclass(frozen=True)
class NonNegativeInteger(Support):
    """0, 1, 2 and so on."""

    discrete: ClassVar[bool] = True

    def contains(self, value: np.ndarray) -> np.ndarray:
        return _integral(value) & (np.asarray(value) >= 0)

    def __str__(self) -> str:
        return "integers from 0 up"


@dataclass(frozen=True)
class IntegerInterval(Support):
    """Integers from `low` to `high`, both included."""

    low: Array
    high: Array

    discrete: ClassVar[bool] = True

    def contains(self, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        inside = (value >= _bound(self.low, value)) & (value <= _bound(self.high, value))
        return _integral(value) & inside

    def __str__(self) -> str:
        return f"integers from {_words(self.low)} to {_words(self.high)}"


def hull(first: Support, *others: Support) -> Support:
    """The smallest support that holds all of the given ones, which are of one kind."""
    wider = {"low": ops.minimum, "high": ops.maximum}
    for other in others:
        pairs = {f.name: (getattr(first, f.name), getattr(other, f.name)) for f in fields(first)}
        changed = {name: wider[name](a, b) for name, (a, b) in pairs.items() if not _same(a, b)}
        first = replace(first, **changed)
    return first


def same_bounds(first: Support, second: Support) -> bool:
    """Whether two supports of one kind are known to have the same bounds."""
    names = [field.name for field in fields(first)]
    return all(_same(getattr(first, name), getattr(second, name)) for name in names)


def _same(a: Array, b: Array) -> bool:
    if a is b:
        return True
    # Values of a traced program are not known.
    return ops.namespace(a, b).name == "numpy" and np.array_equal(a, b)


def _bound(bound: Array, value: np.ndarray) -> np.ndarray:
    # In the precision of the values: float32's 0.1 is above float64's.
    bound = ops.to_numpy(bound)
    return bound.astype(value.dtype) if value.dtype.kind == "f" else bound


def _integral(value: np.ndarray) -> np.ndarray:
    return np.isfinite(value) & (np.floor(value) == np.asarray(value))


def _words(bound: Array) -> str:
    return str(bound) if ops.shape(bound) == () else f"an array {list(ops.shape(bound))}"


REAL = Real()
POSITIVE = Positive()
UNIT_INTERVAL = UnitInterval()
SIMPLEX = Simplex()
ORDERED = Ordered()
LOWER_CHOLESKY = LowerCholesky()
CORRELATION_CHOLESKY = CorrelationCholesky()
BOOLEAN = Boolean()
NON_NEGATIVE_INTEGER = NonNegativeInteger()
