"""The contract of every bijector: one conditional map with its log-determinant.

A bijector holds hyperparameters only. Its weights are a flat dictionary of arrays that any
framework may own, its mathematics is written once on `pavi.ops`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from pavi import ops
from pavi.errors import FamilyError, PaviError

Array: TypeAlias = Any
Params: TypeAlias = Mapping[str, Array]
Initializer: TypeAlias = Literal["zeros", "normal", "eye", "constant"]


@dataclass(frozen=True)
class ParameterSpec:
    """Shape and initial law of one weight: zeros, `scale * N(0, 1)`, `scale * eye`, or `scale`.

    A weight that is not `trainable` is set by `Bijector.rebase` alone, and gets no gradient. One
    that `refines` the shape of a density is held until its place and scale have been found.
    """

    shape: tuple[int, ...]
    init: Initializer = "zeros"
    scale: float = 1.0
    trainable: bool = True
    refines: bool = False


def initial_parameters(
    specs: Mapping[str, ParameterSpec], rng: np.random.Generator, dtype: Any
) -> dict[str, np.ndarray]:
    """Draws initial weights, in the order of `specs`, so that one seed gives the same weights.

    Draws are made in float64 and rounded: two dtypes start from the same point.
    """
    parameters: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        if spec.init == "zeros":
            value = np.zeros(spec.shape)
        elif spec.init == "normal":
            value = spec.scale * rng.standard_normal(spec.shape)
        elif spec.init == "constant":
            value = np.full(spec.shape, spec.scale)
        elif spec.init == "eye":
            if len(spec.shape) < 2:
                raise FamilyError(
                    f"Expected a shape of rank 2 or more for the 'eye' init of parameter "
                    f"'{name}'; got {spec.shape}."
                )
            rows, columns = spec.shape[-2:]
            value = np.broadcast_to(spec.scale * np.eye(rows, columns), spec.shape)
        else:
            raise FamilyError(
                f"Expected init 'zeros', 'normal', 'eye' or 'constant' for parameter '{name}'; "
                f"got {spec.init!r}."
            )
        parameters[name] = np.array(value, dtype=dtype)
    return parameters


def linear(x: Array, weight: Array) -> Array:
    """Product `x @ weight` of x `[..., n]` and a shared weight `[n, m]`.

    All the leading axes are merged: one large matrix product instead of a batch of small ones.
    """
    *batch, size = ops.shape(x)
    rows = ops.reshape(x, (math.prod(batch), size))
    return ops.reshape(ops.matmul(rows, weight), (*batch, ops.shape(weight)[-1]))


@dataclass(frozen=True)
class Bijector(ABC):
    """A conditional bijection of R^size, `y = f(x; params, context)`.

    The shape contract, checked here once for all the families: `x` is `[..., size]`, `context` is
    `[..., context_size]` (None where `context_size` is 0), their leading axes broadcast, and the
    log-determinant has these leading axes. `params` has the plain shapes of `parameter_specs`.
    """

    size: int
    context_size: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise FamilyError(f"Expected size >= 1; got {self.size}.")
        if self.context_size < 0:
            raise FamilyError(f"Expected context_size >= 0; got {self.context_size}.")

    @property
    def label(self) -> str:
        """What the printed plan calls the map."""
        return type(self).__name__

    @abstractmethod
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Returns name, shape and initial law of every weight."""

    @abstractmethod
    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        """Maps checked arguments; the log-determinant may lack leading axes (it is broadcast)."""

    @abstractmethod
    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        """Inverts checked arguments; the log-determinant is the inverse map's."""

    def forward_and_log_det(
        self, params: Params, x: Array, context: Any = None
    ) -> tuple[Array, Array]:
        """Maps x `[..., size]` to y `[..., size]` and log |det dy/dx| `[...]`."""
        self._check(params, x, context)
        y, log_det = self._forward(params, x, context)
        return y, ops.broadcast_to(log_det, ops.shape(y)[:-1])

    def inverse_and_log_det(
        self, params: Params, y: Array, context: Any = None
    ) -> tuple[Array, Array]:
        """Maps y `[..., size]` to x `[..., size]` and log |det dx/dy| `[...]`."""
        self._check(params, y, context)
        x, log_det = self._inverse(params, y, context)
        return x, ops.broadcast_to(log_det, ops.shape(x)[:-1])

    def rebase(self, params: Params) -> dict[str, np.ndarray]:
        """Weights of the same map, re-expressed so that gradient steps fit its present scale."""
        return {name: np.asarray(value) for name, value in params.items()}

    def moments(self, params: Params) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviations `[size]` of an affine map of N(0, I), whatever its context.

        Of a chain, those of its last map; None where that is none.
        """
        return None

    def _check(self, params: Params, x: Array, context: Any) -> None:
        for name, spec in self.parameter_specs().items():
            if name not in params:
                raise PaviError(
                    f"Expected parameter '{name}' of shape {spec.shape}; got {sorted(params)}."
                )
            if ops.shape(params[name]) != spec.shape:
                raise PaviError(
                    f"Expected parameter '{name}' of shape {spec.shape}; "
                    f"got {ops.shape(params[name])}."
                )
        shape = ops.shape(x)
        if not shape or shape[-1] != self.size:
            raise PaviError(f"Expected an array of shape [..., {self.size}]; got {shape}.")
        self._check_context(shape[:-1], context)

    def _check_context(self, batch: tuple[int, ...], context: Any) -> None:
        if self.context_size == 0:
            if context is not None:
                raise PaviError(
                    f"Expected no context, as context_size is 0; got {type(context).__name__}."
                )
            return
        wanted = f"a context of shape [..., {self.context_size}]"
        if context is None:
            raise PaviError(f"Expected {wanted}; got None.")
        shape = ops.shape(context)
        if not shape or shape[-1] != self.context_size:
            raise PaviError(f"Expected {wanted}; got {shape}.")
        check_batch(batch, shape[:-1])


def check_batch(batch: tuple[int, ...], context_batch: tuple[int, ...]) -> None:
    """Raises unless the leading axes of the context broadcast with the argument's."""
    try:
        np.broadcast_shapes(batch, context_batch)
    except ValueError:
        raise PaviError(
            f"Expected leading axes of the context that broadcast with {batch}; "
            f"got {context_batch}."
        ) from None


@dataclass(frozen=True)
class Chain(Bijector):
    """Composition: `bijectors[0]` is applied first.

    Weights of member i are named `"i/..."`. A context is handed to every member that takes one;
    a *list* of contexts, one for each member, serves members whose contexts differ.
    """

    size: int = field(init=False)
    context_size: int = field(init=False)
    bijectors: tuple[Bijector, ...]

    def __init__(self, bijectors: Sequence[Bijector]) -> None:
        object.__setattr__(self, "bijectors", tuple(bijectors))
        if not self.bijectors:
            raise FamilyError("Expected at least one bijector in a Chain; got none.")
        sizes = [bijector.size for bijector in self.bijectors]
        if len(set(sizes)) > 1:
            raise FamilyError(f"Expected bijectors of one size in a Chain; got sizes {sizes}.")
        object.__setattr__(self, "size", sizes[0])
        context_size = max(bijector.context_size for bijector in self.bijectors)
        object.__setattr__(self, "context_size", context_size)

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return {
            f"{index}/{name}": spec
            for index, bijector in enumerate(self.bijectors)
            for name, spec in bijector.parameter_specs().items()
        }

    def rebase(self, params: Params) -> dict[str, np.ndarray]:
        return {
            f"{index}/{name}": value
            for index, bijector in enumerate(self.bijectors)
            for name, value in bijector.rebase(self._own_parameters(params, index)).items()
        }

    def moments(self, params: Params) -> tuple[np.ndarray, np.ndarray] | None:
        last = len(self.bijectors) - 1
        return self.bijectors[last].moments(self._own_parameters(params, last))

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        total: Array = None
        for index, own_context in enumerate(self._contexts(context)):
            own = self._own_parameters(params, index)
            x, log_det = self.bijectors[index].forward_and_log_det(own, x, own_context)
            total = log_det if total is None else total + log_det
        return x, total

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        total: Array = None
        for index, own_context in reversed(list(enumerate(self._contexts(context)))):
            own = self._own_parameters(params, index)
            y, log_det = self.bijectors[index].inverse_and_log_det(own, y, own_context)
            total = log_det if total is None else total + log_det
        return y, total

    def _own_parameters(self, params: Params, index: int) -> dict[str, Array]:
        names = self.bijectors[index].parameter_specs()
        return {name: params[f"{index}/{name}"] for name in names}

    def _contexts(self, context: Any) -> list[Any]:
        if isinstance(context, list):
            return context
        return [context if bijector.context_size else None for bijector in self.bijectors]

    def _check_context(self, batch: tuple[int, ...], context: Any) -> None:
        # Each member checks the context it is handed.
        if isinstance(context, list):
            if len(context) != len(self.bijectors):
                raise PaviError(
                    f"Expected a list of {len(self.bijectors)} contexts, one for each bijector "
                    f"of the Chain; got {len(context)}."
                )
        elif context is not None and self.context_size == 0:
            super()._check_context(batch, context)


@dataclass(frozen=True)
class Inverse(Bijector):
    """The inverse map of a bijector, with its weights and its context."""

    size: int = field(init=False)
    context_size: int = field(init=False)
    bijector: Bijector

    def __init__(self, bijector: Bijector) -> None:
        object.__setattr__(self, "bijector", bijector)
        object.__setattr__(self, "size", bijector.size)
        object.__setattr__(self, "context_size", bijector.context_size)

    @property
    def label(self) -> str:
        return f"Inverse[{self.bijector.label}]"

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return self.bijector.parameter_specs()

    def rebase(self, params: Params) -> dict[str, np.ndarray]:
        return self.bijector.rebase(params)

    def _forward(self, params: Params, x: Array, context: Any) -> tuple[Array, Array]:
        return self.bijector._inverse(params, x, context)

    def _inverse(self, params: Params, y: Array, context: Any) -> tuple[Array, Array]:
        return self.bijector._forward(params, y, context)

    def _check_context(self, batch: tuple[int, ...], context: Any) -> None:
        self.bijector._check_context(batch, context)
