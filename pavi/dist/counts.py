"""Distributions of counts; their predictors are a logit or the log of a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pavi import ops
from pavi.dist.spec import Array, Spec, promote
from pavi.dist.special import logit
from pavi.dist.supports import (
    BOOLEAN,
    NON_NEGATIVE_INTEGER,
    POSITIVE,
    REAL,
    UNIT_INTERVAL,
    IntegerInterval,
    Support,
)
from pavi.errors import GraphError


def require_one(spec: Spec, first: str, second: str) -> None:
    """Refuse both or neither of two ways to give the same parameter."""
    given = [name for name in (first, second) if getattr(spec, name) is not None]
    if len(given) != 1:
        raise GraphError(
            f"{type(spec).__name__}: give exactly one of {first!r} and {second!r}; "
            f"given {' and '.join(given) or 'neither'}."
        )


@dataclass(frozen=True, repr=False)
class Bernoulli(Spec):
    """0 or 1, by the probability of 1 or by its logit."""

    probs: Array | None = None
    logits: Array | None = None

    parameter_supports: ClassVar[Mapping[str, Support]] = {"probs": UNIT_INTERVAL, "logits": REAL}
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = BOOLEAN

    def __post_init__(self) -> None:
        require_one(self, "probs", "logits")

    def predictors(self) -> tuple[Array, ...]:
        if self.logits is not None:
            return promote(self.logits)
        return (logit(*promote(self.probs)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, probs=None, logits=predictors[0])

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (_smoothed_logit(*promote(value, 1.0)),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        return (_binomial_score(value, 1.0, *self.predictors()),)


@dataclass(frozen=True, repr=False)
class Binomial(Spec):
    """Successes among `total_count` trials, by the probability of success or by its logit."""

    total_count: Array
    probs: Array | None = None
    logits: Array | None = None

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "total_count": NON_NEGATIVE_INTEGER,
        "probs": UNIT_INTERVAL,
        "logits": REAL,
    }
    _has_potential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_one(self, "probs", "logits")

    @property
    def support(self) -> Support:
        return IntegerInterval(0, self.total_count)

    def predictors(self) -> tuple[Array, ...]:
        if self.logits is not None:
            return promote(self.logits)
        return (logit(*promote(self.probs)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, probs=None, logits=predictors[0])

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (_smoothed_logit(*promote(value, self.total_count)),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        return (_binomial_score(value, self.total_count, *self.predictors()),)


@dataclass(frozen=True, repr=False)
class BetaBinomial(Spec):
    """Binomial counts whose probability is Beta(concentration1, concentration0).

    Its predictor is the logit of the mean probability, at a fixed total concentration.
    """

    total_count: Array
    concentration1: Array
    concentration0: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "total_count": NON_NEGATIVE_INTEGER,
        "concentration1": POSITIVE,
        "concentration0": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True

    @property
    def support(self) -> Support:
        return IntegerInterval(0, self.total_count)

    def predictors(self) -> tuple[Array, ...]:
        c1, c0 = promote(self.concentration1, self.concentration0)
        return (ops.log(c1) - ops.log(c0),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        (mean_logit,) = predictors
        mean_logit, c1, c0 = promote(mean_logit, self.concentration1, self.concentration0)
        return replace(
            self,
            concentration1=(c1 + c0) * ops.sigmoid(mean_logit),
            concentration0=(c1 + c0) * ops.sigmoid(-mean_logit),
        )

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        return (_smoothed_logit(*promote(value, self.total_count)),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, n, c1, c0 = promote(
            value, self.total_count, self.concentration1, self.concentration0
        )
        total = c1 + c0
        # d c1 / d eta = -d c0 / d eta = (c1 + c0) mu (1 - mu), eta = logit mu
        slope = c1 * c0 / total
        score = slope * (
            ops.digamma(value + c1)
            - ops.digamma(c1)
            - ops.digamma(n - value + c0)
            + ops.digamma(c0)
        )
        # The quasi-likelihood's information, n mu (1 - mu) / (1 + (n - 1) / (1 + c1 + c0)): exact
        # for n = 1 and for c1 + c0 -> infinity, and a lower bound between (no closed form).
        information = n * slope / total / (1.0 + ops.maximum(n - 1.0, 0.0) / (1.0 + total))
        return ((score, information * ops.ones_like(score)),)

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise; NumPyro's log beta functions keep 7 digits in float64."""
        value, n, c1, c0 = promote(
            value, self.total_count, self.concentration1, self.concentration0
        )
        # C(n, y) B(y + c1, n - y + c0) / B(c1, c0)
        choices = ops.lgamma(n + 1.0) - ops.lgamma(value + 1.0) - ops.lgamma(n - value + 1.0)
        return choices + _log_beta(value + c1, n - value + c0) - _log_beta(c1, c0)


@dataclass(frozen=True, repr=False)
class Poisson(Spec):
    """Poisson counts, by the rate or by its log."""

    rate: Array | None = None
    log_rate: Array | None = None

    parameter_supports: ClassVar[Mapping[str, Support]] = {"rate": POSITIVE, "log_rate": REAL}
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = NON_NEGATIVE_INTEGER

    def __post_init__(self) -> None:
        require_one(self, "rate", "log_rate")

    def predictors(self) -> tuple[Array, ...]:
        if self.log_rate is not None:
            return promote(self.log_rate)
        return (ops.log(*promote(self.rate)),)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, rate=None, log_rate=predictors[0])

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        (value,) = promote(value)
        return (ops.log(value + 0.5),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        (log_rate,) = self.predictors()
        value, log_rate = promote(value, log_rate)
        rate = ops.exp(log_rate)
        return ((value - rate, rate * ops.ones_like(value)),)

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise, from the log rate: a rate of exp(-200) is no 0 in float32."""
        value, log_rate = promote(value, *self.predictors())
        return value * log_rate - ops.exp(log_rate) - ops.lgamma(value + 1.0)


@dataclass(frozen=True, repr=False)
class NegativeBinomial(Spec):
    """Overdispersed counts of this mean and of variance mean + mean^2 / concentration."""

    mean: Array
    concentration: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {
        "mean": POSITIVE,
        "concentration": POSITIVE,
    }
    _has_potential: ClassVar[bool] = True
    _support: ClassVar[Support] = NON_NEGATIVE_INTEGER

    def predictors(self) -> tuple[Array, ...]:
        mean, concentration = promote(self.mean, self.concentration)
        return ops.log(mean), ops.log(concentration)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        log_mean, log_concentration = predictors
        return replace(self, mean=ops.exp(log_mean), concentration=ops.exp(log_concentration))

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        (value,) = promote(value)
        return ops.log(value + 0.5), None

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        value, mean, r = promote(value, self.mean, self.concentration)
        kept = r / (r + mean)
        mean_score = (value - mean) * kept
        # d log p / d log r = r (psi(y + r) - psi(r) - log(1 + m / r)) - (y - m) r / (r + m)
        surprise = ops.digamma(value + r) - ops.digamma(r) - ops.log1p(mean / r)
        return (
            (mean_score, mean * kept * ops.ones_like(value)),
            (r * surprise - mean_score, _dispersion_information(mean, r) * ops.ones_like(value)),
        )


def _dispersion_information(mean: Array, r: Array) -> Array:
    """Information of log r in negative binomial counts, elementwise; it has no closed form.

    Both ends are exact, mean^2 / (2 r (r + 1)) for a small mean and r^2 psi'(r) - r for a large
    one, and so is the limit of large r. Between them it is a power mean whose power was fitted to
    the exact sums: within a fifth for r >= 1/2, within a factor of 2.5 for r >= 1/20.
    """
    # r^2 psi'(r) - r cancels in float32 for a large r, where it is 1/2 + 1/(6 r) + O(r^-3)
    moderate = ops.minimum(r, 20.0)
    exact = moderate * (moderate * ops.trigamma(moderate) - 1.0)
    high = ops.log(ops.where(r < 20.0, exact, 0.5 + 1.0 / (6.0 * r)))
    low = 2.0 * ops.log(ops.maximum(mean, 1e-15)) - ops.log(2.0 * r * (r + 1.0))
    power = 0.5 - 0.3 / ((1.0 + 1.45 * r) * (1.0 + 1.45 * r))
    # (e^(-p high) + e^(-p low))^(-1/p)
    return ops.exp(high - ops.softplus(power * (high - low)) / power)


def _log_beta(a: Array, b: Array) -> Array:
    """Log of the beta function, elementwise."""
    return ops.lgamma(a) + ops.lgamma(b) - ops.lgamma(a + b)


def _smoothed_logit(value: Array, total_count: Array) -> Array:
    """Logit of the share of successes, half a success and half a failure added."""
    return ops.log(value + 0.5) - ops.log(total_count - value + 0.5)


def _binomial_score(value: Array, total_count: Array, logits: Array) -> tuple[Array, Array]:
    """Score and information of the logit of a binomial, elementwise."""
    value, total_count, logits = promote(value, total_count, logits)
    # y - n p and n p (1 - p), p = sigmoid(logit)
    probability = ops.sigmoid(logits)
    information = total_count * probability * ops.sigmoid(-logits)
    return value - total_count * probability, information * ops.ones_like(value)
