"""Distributions on an interval: `Beta`, `Uniform`, `TruncatedNormal`; and `Flat` on any support."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pavi import ops
from pavi.dist.moments import beta_moments, gamma_moments, matched_beta, matched_gamma
from pavi.dist.spec import Array, Spec, promote
from pavi.dist.special import log1mexp, log_ndtr, log_normal_density, logit
from pavi.dist.supports import (
    POSITIVE,
    REAL,
    UNIT_INTERVAL,
    GreaterThan,
    Interval,
    LessThan,
    Support,
)


@dataclass(frozen=True, repr=False)
class Flat(Spec):
    """The improper uniform distribution on a support: log density 0 everywhere."""

    support: Support = REAL

    def parameters(self) -> dict[str, Array]:
        return {}

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return promote(0.0, 1.0)


@dataclass(frozen=True, repr=False)
class Beta(Spec):
    """The beta distribution; its predictor is the logit of the mean at a fixed concentration."""

    concentration1: Array
    concentration0: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "concentration1": POSITIVE,
        "concentration0": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = UNIT_INTERVAL

    def unconstrained_moments(self) -> tuple[Array, Array]:
        return beta_moments(*promote(self.concentration1, self.concentration0))

    def predictors(self) -> tuple[Array, ...]:
        concentration1, concentration0 = promote(self.concentration1, self.concentration0)
        return (ops.log(concentration1) - ops.log(concentration0),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        (mean_logit,) = predictors
        mean_logit, c1, c0 = promote(mean_logit, self.concentration1, self.concentration0)
        return replace(
            self,
            concentration1=(c1 + c0) * ops.sigmoid(mean_logit),
            concentration0=(c1 + c0) * ops.sigmoid(-mean_logit),
        )

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, c1, c0 = promote(value, self.concentration1, self.concentration0)
        # d c1 / d eta = -d c0 / d eta = (c1 + c0) mu (1 - mu), eta = logit mu
        slope = c1 * c0 / (c1 + c0)
        surprise = logit(value) - ops.digamma(c1) + ops.digamma(c0)
        information = slope * slope * (ops.trigamma(c1) + ops.trigamma(c0))
        return ((slope * surprise, information * ops.ones_like(surprise)),)

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (logit(value),)


@dataclass(frozen=True, repr=False)
class Uniform(Spec):
    """The uniform distribution between two bounds."""

    low: Array
    high: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"low": REAL, "high": REAL}

    @property
    def support(self) -> Support:
        return Interval(self.low, self.high)

    def unconstrained_moments(self) -> tuple[Array, Array]:
        low, high = promote(self.low, self.high)
        # logit of a uniform is standard logistic
        zero = ops.zeros_like(low + high)
        return zero, zero + math.pi / math.sqrt(3.0)


@dataclass(frozen=True, repr=False)
class TruncatedNormal(Spec):
    """A normal distribution restricted to [low, high]; either bound may be left out."""

    loc: Array
    scale: Array
    low: Array | None = None
    high: Array | None = None

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "loc": REAL,
        "scale": POSITIVE,
        "low": REAL,
        "high": REAL,
    }
    _has_potential: ClassVar[bool] = True

    @property
    def support(self) -> Support:
        if self.low is not None and self.high is not None:
            return Interval(self.low, self.high)
        if self.low is not None:
            return GreaterThan(self.low)
        return REAL if self.high is None else LessThan(self.high)

    def _standardised(self) -> tuple[Array, Array | None, Array | None]:
        """The log of the normal mass kept, and the bounds in standard units."""
        loc, scale = promote(self.loc, self.scale)
        low = None if self.low is None else (promote(self.low, loc, scale)[0] - loc) / scale
        high = None if self.high is None else (promote(self.high, loc, scale)[0] - loc) / scale
        if low is None and high is None:
            return ops.zeros_like(loc + scale), None, None
        if low is None:
            return log_ndtr(high), None, high
        if high is None:
            return log_ndtr(-low), low, None
        # Phi(b) - Phi(a), from whichever tail is the thinner: no cancellation on either side
        flip = low > 0.0
        outer = log_ndtr(ops.where(flip, -low, high))
        inner = log_ndtr(ops.where(flip, -high, low))
        return outer + log1mexp(outer - inner), low, high

    def _moments(self) -> tuple[Array, Array, Array]:
        """E w, E w^2, E w^4 of w = (x - loc) / scale."""
        log_mass, low, high = self._standardised()
        first, second, third = 0.0 * log_mass, 0.0 * log_mass, 0.0 * log_mass
        # E w = (phi(a) - phi(b)) / Z, E w^2 = 1 + (a phi(a) - b phi(b)) / Z,
        # E w^4 = 3 E w^2 + (a^3 phi(a) - b^3 phi(b)) / Z
        for sign, bound in ((1.0, low), (-1.0, high)):
            if bound is not None:
                ratio = sign * ops.exp(log_normal_density(bound) - log_mass)
                first = first + ratio
                second = second + bound * ratio
                third = third + bound * bound * bound * ratio
        return first, 1.0 + second, 3.0 * (1.0 + second) + third

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise; `value` is taken to lie within the bounds."""
        log_mass, _, _ = self._standardised()
        value, loc, scale = promote(value, self.loc, self.scale)
        return log_normal_density((value - loc) / scale) - ops.log(scale) - log_mass

    def unconstrained_moments(self) -> tuple[Array, Array]:
        loc, scale = promote(self.loc, self.scale)
        first, second, _ = self._moments()
        mean = loc + scale * first
        variance = scale * scale * ops.maximum(second - first * first, 1e-6)
        # A gamma (one bound) or a beta (two) of the same mean and variance has closed forms.
        if self.low is not None and self.high is not None:
            low, high, mean = promote(self.low, self.high, mean)
            width = high - low
            return beta_moments(*matched_beta((mean - low) / width, variance / (width * width)))
        if self.low is not None:
            return gamma_moments(*matched_gamma(mean - promote(self.low, mean)[0], variance))
        if self.high is not None:
            return gamma_moments(*matched_gamma(promote(self.high, mean)[0] - mean, variance))
        return loc, scale

    def predictors(self) -> tuple[Array, ...]:
        loc, scale = promote(self.loc, self.scale)
        return loc, ops.log(scale)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        loc, log_scale = predictors
        return replace(self, loc=loc, scale=ops.exp(log_scale))

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, loc, scale = promote(value, self.loc, self.scale)
        first, second, fourth = self._moments()
        z = (value - loc) / scale
        one = ops.ones_like(z)
        spread = ops.maximum(second - first * first, 0.0) * one
        kurtosis = ops.maximum(fourth - second * second, 0.0) * one
        return ((z - first) / scale, spread / (scale * scale)), (z * z - second, kurtosis)

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return value, None
