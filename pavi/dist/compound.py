"""Specs made of other specs: `Mixture` (its component marginalised) and `Censored`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from pavi import ops
from pavi.dist.moments import mixture_moments
from pavi.dist.spec import Array, Spec, TailedSpec, promote
from pavi.dist.supports import SIMPLEX, Support, hull, same_bounds
from pavi.errors import GraphError
from pavi.integers import is_integer


@dataclass(frozen=True, repr=False)
class Mixture(Spec):
    """A mixture of K specs; which of them a draw is from is summed out.

    `pavi.responsibilities` gives it back, as probabilities, once there is a posterior.

    The components have supports of one kind. Where an observed variable's differ in their bounds,
    as Binomial(5, p) and Binomial(10, p) do, the mixture's goes from the lowest to the highest of
    them, and a component has density 0 outside of its own.

    Its predictor is the vector of log weights. It informs a natural encoding where all components
    have a density that is written on `ops`; the components' own parameters are no predictors.

    Attributes:
        weights: `[..., K]`.
        components: K specs.
        reinterpreted_batch_ndims: how many trailing axes of the components belong to one draw, as
            of `tfd.Independent`: a mixture of `Normal`s over vectors, not over each of their
            elements, has 1.
    """

    weights: Array
    components: tuple[Spec, ...]
    reinterpreted_batch_ndims: int = 0

    parameter_supports: ClassVar[Mapping[str, Support]] = {"weights": SIMPLEX}

    def __post_init__(self) -> None:
        # A list is as good as a tuple to write, but would not hash.
        object.__setattr__(self, "components", tuple(self.components))
        given = ops.shape(self.weights)
        if not self.components or not given or given[-1] != len(self.components):
            raise GraphError(
                f"Mixture: `weights` must have one entry for each component on its last axis, "
                f"[..., {len(self.components)}]; given shape {given}."
            )
        if not is_integer(self.reinterpreted_batch_ndims, 0):
            raise GraphError(
                "Mixture: `reinterpreted_batch_ndims` must be 0 or a positive integer; given "
                f"{self.reinterpreted_batch_ndims!r}."
            )
        kinds = {(type(c.support).__name__, c.event_rank) for c in self.components}
        if len(kinds) > 1:
            raise GraphError(
                "Mixture: all components must have the same support; given "
                f"{', '.join(repr(c) for c in self.components)}."
            )

    @property
    def support(self) -> Support:
        return hull(*(component.support for component in self.components))

    @property
    def differing_bounds(self) -> bool:
        """Whether two components' supports have other bounds; all must be concrete."""
        first, *others = (component.support for component in self.components)
        inside = any(isinstance(c, Mixture) and c.differing_bounds for c in self.components)
        return inside or not all(same_bounds(first, other) for other in others)

    @property
    def event_rank(self) -> int:
        return self.components[0].event_rank + self.reinterpreted_batch_ndims

    @property
    def has_potential(self) -> bool:
        return all(hasattr(component, "log_density") for component in self.components)

    @property
    def predictor_rank(self) -> int:
        return 1

    def predictors(self) -> tuple[Array, ...]:
        if not self.has_potential:
            return ()
        return (self._log_weights(),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        if len(predictors) != len(self.predictors()):
            return super().with_predictors(predictors)
        (log_weights,) = promote(*predictors)
        return replace(self, weights=ops.softmax(log_weights, axis=-1))

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        """As `Spec`, with the observed information, where it is positive."""
        if not self.has_potential:
            return ()
        densities: list[Any] = list(self.components)
        log_densities = tuple(
            c.log_density(x) for c, x in zip(densities, self.inside(value), strict=True)
        )
        weights, after = promote(self.weights, self.responsibilities(log_densities, value))
        # r_k = p(component k | value): d log p / d l_k = r_k - w_k, of which the derivative by l_k
        # is r_k (1 - r_k) - w_k (1 - w_k)
        score, information = after - weights, weights * (1.0 - weights) - after * (1.0 - after)
        return ((score, ops.maximum(information, ops.zeros_like(information))),)

    def parameters(self) -> dict[str, Array]:
        named = {
            f"components[{k}].{name}": value
            for k, component in enumerate(self.components)
            for name, value in component.parameters().items()
        }
        return {"weights": self.weights, **named}

    def map_parameters(self, function: Callable[[Array], Array]) -> Self:
        weights = function(self.weights)  # first, as in `parameters`
        components = tuple(c.map_parameters(function) for c in self.components)
        return replace(self, weights=weights, components=components)

    def unconstrained_moments(self) -> tuple[Array, Array]:
        moments = [component.unconstrained_moments() for component in self.components]
        weights, *flat = promote(self.weights, *(array for pair in moments for array in pair))
        for _ in range(self.event_rank):
            weights = ops.expand_dims(weights, -2)
        return mixture_moments(weights, tuple(flat[::2]), tuple(flat[1::2]))

    def validate(self, name: str) -> None:
        super().validate(name)
        for component in self.components:
            component.validate(name)

    def inside(self, value: Array) -> tuple[Array, ...]:
        """`value` for each component, moved into its support: densities are finite there alone."""
        moved = []
        for component in self.components:
            low, high = _bounds(component.support)
            x, *_ = promote(value, *component.parameters().values())
            x = x if low is None else ops.maximum(x, ops.cast(low, x))
            moved.append(x if high is None else ops.minimum(x, ops.cast(high, x)))
        return tuple(moved)

    def combine(self, log_densities: tuple[Array, ...], value: Array) -> Array:
        """Log sum_k weights_k p_k(value), elementwise over `[...]`.

        Args:
            log_densities: log p_k at `inside(value)[k]`, for each component.
            value: tells which components have none of it.
        """
        terms = self._terms(log_densities, value)
        return ops.logsumexp(ops.stack(ops.broadcast_arrays(*terms), axis=-1), axis=-1)

    def responsibilities(self, log_densities: tuple[Array, ...], value: Array) -> Array:
        """Weights_k p_k(value) / sum_j weights_j p_j(value), `[..., K]`; as `combine`."""
        terms = self._terms(log_densities, value)
        return ops.softmax(ops.stack(ops.broadcast_arrays(*terms), axis=-1), axis=-1)

    def _log_weights(self) -> Array:
        """A weight of 0 leaves its component out, without a NaN from the gradient of log 0."""
        (weights,) = promote(self.weights)
        present = weights > 0.0
        return ops.where(present, ops.log(ops.where(present, weights, 1.0)), -1e30)

    def _terms(self, log_densities: tuple[Array, ...], value: Array) -> list[Array]:
        """Log weights_k p_k(value) of each component."""
        log_weights, *terms = promote(self._log_weights(), *log_densities)
        for k, (component, moved) in enumerate(
            zip(self.components, self.inside(value), strict=True)
        ):
            terms[k] = ops.maximum(terms[k], -1e30)
            if any(bound is not None for bound in _bounds(component.support)):
                x, moved, term = promote(value, moved, terms[k])
                # A value on a bound may have been rounded past it.
                eps = 4.0 * float(np.finfo(ops.dtype_name(x)).eps)
                outside = ops.abs(x - moved) > eps * ops.maximum(ops.abs(moved), 1.0)
                terms[k] = ops.where(outside, -1e30, term)
            if self.reinterpreted_batch_ndims:
                axes = tuple(range(-self.reinterpreted_batch_ndims, 0))
                terms[k] = ops.sum(terms[k], axis=axes)
        return [w + term for w, term in zip(ops.unstack(log_weights, -1), terms, strict=True)]


def _bounds(support: Support) -> tuple[Array | None, Array | None]:
    """The lower and the upper bound, as far as there are any to choose."""
    return getattr(support, "low", None), getattr(support, "high", None)


@dataclass(frozen=True, repr=False)
class Censored(Spec):
    """A distribution seen through censoring.

    Where `censoring` is 0 the value is the draw itself; where it is 1 the draw is known to exceed
    the value (right-censored), where it is -1 to be no more than it (left-censored).
    """

    base: TailedSpec
    censoring: Array

    _has_potential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.base, TailedSpec):
            raise GraphError(
                f"Censored: {type(self.base).__name__} has no distribution function here; use "
                "Normal, Logistic, LogNormal, Exponential or Weibull."
            )

    @property
    def support(self) -> Support:
        return self.base.support

    def parameters(self) -> dict[str, Array]:
        named = {f"base.{name}": value for name, value in self.base.parameters().items()}
        return {**named, "censoring": self.censoring}

    def map_parameters(self, function: Callable[[Array], Array]) -> Self:
        base, censoring = self.base.map_parameters(function), function(self.censoring)
        return replace(self, base=base, censoring=censoring)

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return self.base.unconstrained_moments()

    def predictors(self) -> tuple[Array, ...]:
        return self.base.predictors()

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, base=self.base.with_predictors(predictors))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return self.base.data_predictors(value)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        """As `Spec`, with the observed information where the value is censored."""
        seen = self.base.score_and_information(value)
        below = self.base.tail_score_and_information(value, upper=False)
        above = self.base.tail_score_and_information(value, upper=True)
        return tuple(
            (self.select(s[0], b[0], a[0]), self.select(s[1], b[1], a[1]))
            for s, b, a in zip(seen, below, above, strict=True)
        )

    def select(self, seen: Array, below: Array, above: Array) -> Array:
        """One of three arrays by the censoring of each element; all three must be finite."""
        seen, below, above, code = promote(seen, below, above, self.censoring)
        return ops.where(code > 0.5, above, ops.where(code < -0.5, below, seen))

    def observed(self, value: Array) -> Array:
        """`value` where it is the draw itself, else a point inside of the support."""
        # A bound may be 0, where the density of a positive variable and its gradient are infinite.
        value, one = promote(value, ops.ones_like(promote(value)[0]))
        return self.select(value, one, one)

    def combine(self, log_density: Array, value: Array) -> Array:
        """Log likelihood of `value`, elementwise, given the base's log density at `observed`."""
        return self.select(log_density, self.base.log_cdf(value), self.base.log_survival(value))

    def validate(self, name: str) -> None:
        self.base.validate(name)
