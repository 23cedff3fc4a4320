"""The base of every distribution spec: a frozen, printable record of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from pavi import ops
from pavi.dist.supports import REAL, Support
from pavi.errors import GraphError

Array: TypeAlias = Any
"""A number, a NumPy array, or an array or tracer of a loaded framework."""


def is_framework_array(value: object) -> bool:
    """Whether `value` belongs to JAX or TensorFlow (neither is imported to find out)."""
    return ops.namespace(value).name != "numpy"


def is_floating(value: Array) -> bool:
    """Whether an array of any framework holds floating-point numbers."""
    return "float" in ops.dtype_name(value)


def promote(*values: Array) -> tuple[Array, ...]:
    """Bring numbers and arrays to one framework and one floating dtype.

    The first floating framework array decides; without one, NumPy in its own floating dtype
    (float64 for integers and Python numbers). A NumPy float64 constant never widens a float32 run.
    """
    like = next((v for v in values if is_framework_array(v) and is_floating(v)), None)
    if like is None:
        arrays = [np.asarray(v) for v in values]
        return tuple(a if a.dtype.kind == "f" else a.astype(np.float64) for a in arrays)
    return tuple(ops.cast(ops.asarray(v, like=like), like) for v in values)


def framework_dtype(*values: Array) -> str | None:
    """Name of the dtype of the first floating framework array; None where there is none."""
    floating = (v for v in values if is_framework_array(v) and is_floating(v))
    return next((ops.dtype_name(v) for v in floating), None)


@dataclass(frozen=True, repr=False)
class Spec:
    """A distribution by name and parameters; the backends build their own objects from it.

    Parameters broadcast against each other to `[*batch, *plates, *event]`. A spec has a few
    mathematical facts besides: the moments of its unconstrained value (for the whitening of
    `method.md` §4.3) and, as a likelihood, the score and the information of its predictors (for the
    Gaussian potentials). They are written on `ops`, hence differentiable in the parameters.
    """

    parameter_supports: ClassVar[Mapping[str, Support]] = {}
    _has_potential: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    """Whether log p is exactly quadratic in the first predictor, at an information free of it."""
    _support: ClassVar[Support] = REAL

    @property
    def support(self) -> Support:
        """The set of values of one draw."""
        return self._support

    @property
    def event_rank(self) -> int:
        """Number of trailing axes of one draw."""
        return self.support.event_rank

    @property
    def has_potential(self) -> bool:
        """Whether `predictors` and `score_and_information` are defined."""
        return self._has_potential

    @property
    def discrete(self) -> bool:
        """Whether draws are integers."""
        return self.support.discrete

    def parameters(self) -> dict[str, Array]:
        """The parameters that are set, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def map_parameters(self, function: Callable[[Array], Array]) -> Self:
        """The same spec with `function` applied to every parameter."""
        return replace(self, **{name: function(v) for name, v in self.parameters().items()})

    def unconstrained_moments(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the unconstrained value under this distribution.

        Returns:
            Two arrays that broadcast to `[*batch, *plates, *unconstrained event]`.
        """
        raise GraphError(
            f"{type(self).__name__} is discrete and has no unconstrained value: "
            "marginalise it (see dist.Mixture) or use it for an observed variable."
        )

    def predictors(self) -> tuple[Array, ...]:
        """The parameters a likelihood is a function of, on their unconstrained scale."""
        return ()

    @property
    def predictor_rank(self) -> int:
        """Trailing axes of a predictor that belong to one draw: the categories, say."""
        return 0

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        """The same spec at other predictors: the inverse of `predictors`."""
        if predictors:
            raise GraphError(f"{type(self).__name__} defines no predictors; got {len(predictors)}.")
        return self

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        """For each predictor, d log p(value) / d predictor and its expected information (>= 0)."""
        return ()

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        """For each predictor, a guess from the datum alone; None where it tells nothing."""
        return tuple(None for _ in self.predictors())

    def validate(self, name: str) -> None:
        """Check the concrete parameters against their supports.

        Args:
            name: the variable that has this distribution, for the message.

        Raises:
            GraphError: a number or NumPy array lies outside of its parameter's support.
        """
        for parameter, value in self.parameters().items():
            support = self.parameter_supports.get(parameter)
            if support is None or not isinstance(value, (int, float, np.ndarray, np.generic)):
                continue
            array = np.asarray(value, dtype=np.float64)
            valid = np.asarray(support.contains(array))
            if not valid.all():
                raise GraphError(
                    f"Variable {name!r}: parameter {parameter!r} of {type(self).__name__} takes "
                    f"{support}; given {_first_invalid(array, valid)} in shape {array.shape}."
                    " Correct the value, or transform it, e.g. by `ops.exp`."
                )

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = ", ".join(f"{k}={_show(v)}" for k, v in values.items() if v is not None)
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, repr=False)
class TailedSpec(Spec):
    """Base of the specs whose tails have a closed form on `ops`, as `Censored` needs."""

    def log_cdf(self, value: Array) -> Array:
        """Log P(X <= value), elementwise."""
        raise NotImplementedError

    def log_survival(self, value: Array) -> Array:
        """Log P(X > value), elementwise."""
        raise NotImplementedError

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        """As `score_and_information`, of log P(X > value) where `upper`, else of log P(X <= value).

        The information is the observed one: a bound has no distribution of its own.
        """
        raise NotImplementedError


def _first_invalid(array: np.ndarray, valid: np.ndarray) -> str:
    """The first offending draw, for a message."""
    draws = array.reshape((valid.size, -1)) if valid.size else array
    first = draws[int(np.argmin(valid.reshape(-1)))]
    return str(first[0] if first.size == 1 else first)


def _show(value: object) -> str:
    """A parameter in a `repr`: numbers and specs in full, arrays by dtype and shape."""
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, tuple):
        return "(" + ", ".join(_show(v) for v in value) + ")"
    if isinstance(value, np.ndarray) or is_framework_array(value):
        return f"{ops.dtype_name(value)}{list(ops.shape(value))}"
    return repr(value)
