"""Distributions on the positive half-line; most have one predictor, the log of a scale or mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pavi import ops
from pavi.dist.moments import (
    EULER,
    LARGEST_DEVIATION,
    LOG_ABSOLUTE_NORMAL_DEVIATION,
    LOG_ABSOLUTE_NORMAL_MEAN,
    LOG_EXPONENTIAL_DEVIATION,
    gamma_moments,
)
from pavi.dist.real import Normal
from pavi.dist.spec import Array, Spec, TailedSpec, promote
from pavi.dist.special import log1mexp
from pavi.dist.supports import POSITIVE, REAL, Support


@dataclass(frozen=True, repr=False)
class HalfScale(Spec):
    """Base of |scale w|, w symmetric about 0."""

    scale: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"scale": POSITIVE}
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE
    _log_moments: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Mean and sd of log |w|."""

    def unconstrained_moments(self) -> tuple[Array, Array]:
        (scale,) = promote(self.scale)
        mean, deviation = self._log_moments
        return ops.log(scale) + mean, deviation * ops.ones_like(scale)

    def predictors(self) -> tuple[Array, ...]:
        return (ops.log(*promote(self.scale)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, scale=ops.exp(predictors[0]))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (ops.log(*promote(value)),)


@dataclass(frozen=True, repr=False)
class HalfNormal(HalfScale):
    """The absolute value of a normal variable of mean 0."""

    _log_moments: ClassVar[tuple[float, float]] = (
        LOG_ABSOLUTE_NORMAL_MEAN,
        LOG_ABSOLUTE_NORMAL_DEVIATION,
    )

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, scale = promote(value, self.scale)
        z = value / scale
        return ((z * z - 1.0, 2.0 * ops.ones_like(z)),)


@dataclass(frozen=True, repr=False)
class HalfCauchy(HalfScale):
    """The absolute value of a Cauchy variable of location 0."""

    # log |w| of a Cauchy w has the hyperbolic secant density, of sd pi / 2
    _log_moments: ClassVar[tuple[float, float]] = (0.0, 1.5707963267948966)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, scale = promote(value, self.scale)
        square = (value / scale) * (value / scale)
        return ((2.0 * square / (1.0 + square) - 1.0, 0.5 * ops.ones_like(square)),)


@dataclass(frozen=True, repr=False)
class LogNormal(TailedSpec):
    """The exponential of a normal variable; `loc` and `scale` are those of the logarithm."""

    loc: Array
    scale: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"loc": REAL, "scale": POSITIVE}
    _has_potential: ClassVar[bool] = True
    quadratic: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE

    @property
    def log(self) -> Normal:
        """The distribution of the logarithm."""
        return Normal(self.loc, self.scale)

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return self.log.unconstrained_moments()

    def predictors(self) -> tuple[Array, ...]:
        return self.log.predictors()

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        log = self.log.with_predictors(predictors)
        return replace(self, loc=log.loc, scale=log.scale)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        return self.log.score_and_information(_log(value, self.loc))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return _log(value, self.loc), None

    def log_cdf(self, value: Array) -> Array:
        return self.log.log_cdf(_log(value, self.loc))

    def log_survival(self, value: Array) -> Array:
        return self.log.log_survival(_log(value, self.loc))

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        return self.log.tail_score_and_information(_log(value, self.loc), upper)


@dataclass(frozen=True, repr=False)
class Weibull(TailedSpec):
    """The Weibull distribution; its predictor is the log of the scale."""

    scale: Array
    concentration: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "scale": POSITIVE,
        "concentration": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE

    def unconstrained_moments(self) -> tuple[Array, Array]:
        scale, concentration = promote(self.scale, self.concentration)
        # log x = log scale + (log e) / concentration, e standard exponential
        deviation = LOG_EXPONENTIAL_DEVIATION / concentration
        ratio = ops.minimum(LARGEST_DEVIATION / deviation, 1.0)
        mean = ops.log(scale) - ratio * ratio * EULER / concentration
        return mean, ops.minimum(deviation, LARGEST_DEVIATION) + 0.0 * scale

    def predictors(self) -> tuple[Array, ...]:
        return (ops.log(*promote(self.scale)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, scale=ops.exp(predictors[0]))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (ops.log(*promote(value)),)

    def _cumulative_hazard(self, value: Array) -> tuple[Array, Array]:
        """H = (value / scale)^k and k, elementwise."""
        value, scale, concentration = promote(value, self.scale, self.concentration)
        positive = value > 0.0
        # A censoring time of 0 has H = 0, and no gradient through the log of 0.
        log_ratio = ops.log(ops.where(positive, value, 1.0)) - ops.log(scale)
        hazard = ops.where(positive, ops.exp(concentration * log_ratio), 0.0)
        return hazard, concentration

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        hazard, k = self._cumulative_hazard(value)
        return ((k * (hazard - 1.0), k * k * ops.ones_like(hazard)),)

    def log_cdf(self, value: Array) -> Array:
        hazard, _ = self._cumulative_hazard(value)
        return log1mexp(ops.maximum(hazard, 1e-30))

    def log_survival(self, value: Array) -> Array:
        hazard, _ = self._cumulative_hazard(value)
        return -hazard

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        hazard, k = self._cumulative_hazard(value)
        if upper:
            # log S = -H, d H / d log scale = -k H
            return ((k * hazard, k * k * hazard),)
        # log F = log(1 - e^-H): with g = H e^-H / (1 - e^-H), score = -k g,
        # -d score / d log scale = k^2 H e^-H (H - 1 + e^-H) / (1 - e^-H)^2
        hazard = ops.maximum(hazard, 1e-6)
        survived, failed = ops.exp(-hazard), -ops.expm1(-hazard)
        information = hazard * survived * ops.maximum(hazard - failed, 0.0) / (failed * failed)
        return ((-k * hazard * survived / failed, k * k * information),)


@dataclass(frozen=True, repr=False)
class Exponential(TailedSpec):
    """The exponential distribution; its predictor is the log of the mean, 1 / rate."""

    rate: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"rate": POSITIVE}
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE

    @property
    def _weibull(self) -> Weibull:
        (rate,) = promote(self.rate)
        return Weibull(1.0 / rate, ops.ones_like(rate))

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return self._weibull.unconstrained_moments()

    def predictors(self) -> tuple[Array, ...]:
        return (-ops.log(*promote(self.rate)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, rate=ops.exp(-predictors[0]))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return self._weibull.data_predictors(value)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        return self._weibull.score_and_information(value)

    def log_cdf(self, value: Array) -> Array:
        return self._weibull.log_cdf(value)

    def log_survival(self, value: Array) -> Array:
        return self._weibull.log_survival(value)

    def tail_score_and_information(
        self, value: Array, upper: bool
    ) -> tuple[tuple[Array, Array], ...]:
        return self._weibull.tail_score_and_information(value, upper)


@dataclass(frozen=True, repr=False)
class Gamma(Spec):
    """The gamma distribution; its predictor is the log of the mean, at a fixed concentration."""

    concentration: Array
    rate: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "concentration": POSITIVE,
        "rate": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return gamma_moments(*promote(self.concentration, self.rate))

    def predictors(self) -> tuple[Array, ...]:
        concentration, rate = promote(self.concentration, self.rate)
        return (ops.log(concentration) - ops.log(rate),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        log_mean, concentration = promote(predictors[0], self.concentration)
        return replace(self, rate=concentration * ops.exp(-log_mean))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (ops.log(*promote(value)),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, concentration, rate = promote(value, self.concentration, self.rate)
        score = value * rate - concentration
        return ((score, concentration * ops.ones_like(score)),)


@dataclass(frozen=True, repr=False)
class InverseGamma(Spec):
    """The reciprocal of a gamma variable; its predictor is the log of the rate."""

    concentration: Array
    rate: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "concentration": POSITIVE,
        "rate": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = POSITIVE

    def unconstrained_moments(self) -> tuple[Array, Array]:
        mean, deviation = gamma_moments(*promote(self.concentration, self.rate))
        return -mean, deviation

    def predictors(self) -> tuple[Array, ...]:
        return (ops.log(*promote(self.rate)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, rate=ops.exp(predictors[0]))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        value, concentration = promote(value, self.concentration)
        return (ops.log(value) + ops.log(concentration),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, concentration, rate = promote(value, self.concentration, self.rate)
        score = concentration - rate / value
        return ((score, concentration * ops.ones_like(score)),)


def _log(value: Array, like: Array) -> Array:
    """Log of a positive value, finite at 0 (a left-censoring bound may be that small)."""
    value, _ = promote(value, like)
    return ops.log(ops.maximum(value, 1e-30))
