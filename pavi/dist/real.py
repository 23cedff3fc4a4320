"""Location-scale distributions on the real line.

Their predictors are `(loc, log scale)`; z = (x - loc) / scale throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pavi import ops
from pavi.dist.spec import Array, Spec, TailedSpec, promote
from pavi.dist.special import log_ndtr, log_normal_density, log_sigmoid, normal_hazard
from pavi.dist.supports import POSITIVE, REAL, Support


@dataclass(frozen=True, repr=False)
class LocationScale(Spec):
    """Base of the families x = loc + scale w, w of a fixed shape."""

    loc: Array
    scale: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"loc": REAL, "scale": POSITIVE}
    _has_potential: ClassVar[bool] = True
    _deviation: ClassVar[float] = 1.0
    """Standard deviation of w, or a stand-in for it where it has none."""

    def unconstrained_moments(self) -> tuple[Array, Array]:
        loc, scale = promote(self.loc, self.scale)
        return loc, self._deviation * scale

    def predictors(self) -> tuple[Array, ...]:
        loc, scale = promote(self.loc, self.scale)
        return loc, ops.log(scale)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        loc, log_scale = predictors
        return replace(self, loc=loc, scale=ops.exp(log_scale))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return value, None


@dataclass(frozen=True, repr=False)
class Normal(LocationScale, TailedSpec):
    """The normal distribution, by its mean and standard deviation."""

    quadratic: ClassVar[bool] = True

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        z = (value - loc) / scale
        one = ops.ones_like(z)
        return (z / scale, one / (scale * scale)), (z * z - 1.0, 2.0 * one)

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise."""
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_normal_density((value - loc) / scale) - ops.log(scale)

    def log_cdf(self, value: Array) -> Array:
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_ndtr((value - loc) / scale)

    def log_survival(self, value: Array) -> Array:
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_ndtr((loc - value) / scale)

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        side = 1.0 if upper else -1.0
        z = side * (value - loc) / scale
        hazard = normal_hazard(z)
        # d hazard / dz = hazard (hazard - z)
        return symmetric_tail(z, scale, hazard, hazard * (hazard - z), side)


@dataclass(frozen=True, repr=False)
class Logistic(LocationScale, TailedSpec):
    """The logistic distribution."""

    _deviation: ClassVar[float] = math.pi / math.sqrt(3.0)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        z = (value - loc) / scale
        one = ops.ones_like(z)
        slope = ops.tanh(0.5 * z)
        return (
            (slope / scale, one / (3.0 * scale * scale)),
            # E (z tanh(z/2) - 1)^2 = (3 + pi^2) / 9
            (z * slope - 1.0, (3.0 + math.pi**2) / 9.0 * one),
        )

    def log_cdf(self, value: Array) -> Array:
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_sigmoid((value - loc) / scale)

    def log_survival(self, value: Array) -> Array:
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_sigmoid((loc - value) / scale)

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        side = 1.0 if upper else -1.0
        z = side * (value - loc) / scale
        # The hazard of the logistic is its own distribution function.
        hazard = ops.sigmoid(z)
        return symmetric_tail(z, scale, hazard, hazard * ops.sigmoid(-z), side)


@dataclass(frozen=True, repr=False)
class Laplace(LocationScale):
    """The double exponential distribution."""

    _deviation: ClassVar[float] = math.sqrt(2.0)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        z = (value - loc) / scale
        one = ops.ones_like(z)
        sign = ops.where(z > 0.0, one, ops.where(z < 0.0, -one, 0.0 * one))
        return (sign / scale, one / (scale * scale)), (sign * z - 1.0, one)


@dataclass(frozen=True, repr=False)
class StudentT(Spec):
    """Student's t distribution; its degrees of freedom are held fixed among the predictors."""

    df: Array
    loc: Array
    scale: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "df": POSITIVE,
        "loc": REAL,
        "scale": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True

    def unconstrained_moments(self) -> tuple[Array, Array]:
        df, loc, scale = promote(self.df, self.loc, self.scale)
        # sd = scale sqrt(df / (df - 2)), held at twice the scale below df = 8/3
        inflation = ops.sqrt(df / ops.maximum(df - 2.0, 0.25 * df))
        return loc + 0.0 * df, scale * inflation

    def predictors(self) -> tuple[Array, ...]:
        loc, scale = promote(self.loc, self.scale)
        return loc, ops.log(scale)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        loc, log_scale = predictors
        return replace(self, loc=loc, scale=ops.exp(log_scale))

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, df, loc, scale = promote(value, self.df, self.loc, self.scale)
        return student_score(value, df, loc, scale)

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return value, None


@dataclass(frozen=True, repr=False)
class Cauchy(LocationScale):
    """The Cauchy distribution: Student's t with one degree of freedom."""

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        return student_score(value, ops.ones_like(loc), loc, scale)


def student_score(
    value: Array, df: Array, loc: Array, scale: Array
) -> tuple[tuple[Array, Array], ...]:
    """Score and information of (loc, log scale) under Student's t, elementwise."""
    z = (value - loc) / scale
    one = ops.ones_like(z)
    weight = (df + 1.0) / (df + z * z)
    return (
        (weight * z / scale, (df + 1.0) / (df + 3.0) / (scale * scale) * one),
        (weight * z * z - 1.0, 2.0 * df / (df + 3.0) * one),
    )


def symmetric_tail(
    z: Array, scale: Array, hazard: Array, slope: Array, side: float
) -> tuple[tuple[Array, Array], ...]:
    """Score and information of (loc, log scale) of a tail of a symmetric family.

    Args:
        z: distance of the bound into the tail, in units of `scale`.
        scale: scale of the family.
        hazard: h(z), density over tail mass in standard units.
        slope: dh/dz.
        side: 1 for the upper tail, -1 for the lower.
    """
    # log S(z), z = side (x - loc) / scale: d/d loc = side h / scale, d/d log scale = z h;
    # minus the second derivatives: h' / scale^2 and z h + z^2 h'
    return (
        (side * hazard / scale, ops.maximum(slope, 0.0) / (scale * scale)),
        (z * hazard, ops.maximum(z * hazard + z * z * slope, 0.0)),
    )
