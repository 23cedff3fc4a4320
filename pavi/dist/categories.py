"""Distributions of one of K categories, numbered from 0: `Categorical` and `OrderedLogistic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pavi import ops
from pavi.dist.counts import require_one
from pavi.dist.spec import Array, Spec, promote
from pavi.dist.special import log1mexp, log_sigmoid
from pavi.dist.supports import ORDERED, REAL, SIMPLEX, IntegerInterval, Support

_OUTERMOST = 1e4
"""A cutpoint so far out that no category lies beyond it, and no gradient becomes NaN at it."""


@dataclass(frozen=True, repr=False)
class Categorical(Spec):
    """One of K categories, by probabilities or logits `[..., K]`; a predictor for each logit."""

    probs: Array | None = None
    logits: Array | None = None

    parameter_supports: ClassVar[Mapping[str, Support]] = {"probs": SIMPLEX, "logits": REAL}
    _has_potential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_one(self, "probs", "logits")

    @property
    def num_categories(self) -> int:
        """K."""
        return ops.shape(self.probs if self.logits is None else self.logits)[-1]

    @property
    def support(self) -> Support:
        return IntegerInterval(0, self.num_categories - 1)

    @property
    def predictor_rank(self) -> int:
        return 1

    def predictors(self) -> tuple[Array, ...]:
        return (ops.log(*promote(self.probs)) if self.logits is None else promote(self.logits)[0],)

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, probs=None, logits=predictors[0])

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        indicator, _ = self._indicator(value)
        # log of the indicator, a K-th of an observation added to every category
        return (ops.log(indicator + 1.0 / self.num_categories),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        indicator, logits = self._indicator(value)
        probs = ops.softmax(logits, axis=-1)
        return ((indicator - probs, probs * (1.0 - probs) * ops.ones_like(indicator)),)

    def _indicator(self, value: Array) -> tuple[Array, Array]:
        """Which category a value is, `[..., K]`, and the logits."""
        value, logits = promote(value, *self.predictors())
        indicator = ops.one_hot(ops.cast(value, "int32"), self.num_categories, like=logits)
        return indicator, logits

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise; `value` may be floating."""
        given = self.probs if self.logits is None else self.logits
        value, given = promote(value, given)
        if self.logits is None:
            # A probability of 0 belongs to a category that is not seen: no gradient from it.
            logits = ops.log(ops.maximum(given, 1e-37))
        else:
            logits = given - ops.logsumexp(given, axis=-1, keepdims=True)
        indicator = ops.one_hot(ops.cast(value, "int32"), self.num_categories, like=given)
        return ops.sum(indicator * logits, axis=-1)


@dataclass(frozen=True, repr=False)
class OrderedLogistic(Spec):
    """A logistic variable of location `predictor`, cut into K at `cutpoints` `[..., K-1]`."""

    predictor: Array
    cutpoints: Array

    parameter_supports: ClassVar[Mapping[str, Support]] = {"predictor": REAL, "cutpoints": ORDERED}
    _has_potential: ClassVar[bool] = True

    @property
    def num_categories(self) -> int:
        """K, one more than the cutpoints."""
        return ops.shape(self.cutpoints)[-1] + 1

    @property
    def support(self) -> Support:
        return IntegerInterval(0, self.num_categories - 1)

    def predictors(self) -> tuple[Array, ...]:
        return promote(self.predictor, self.cutpoints)[:1]

    def with_predictors(self, predictors: tuple[Array, ...]) -> Self:
        return replace(self, predictor=predictors[0])

    def _edges(self, value: Array) -> tuple[Array, Array]:
        """Lower and upper cutpoint of each category given, relative to the predictor."""
        value, predictor, cutpoints = promote(value, self.predictor, self.cutpoints)
        indicator = ops.one_hot(ops.cast(value, "int32"), self.num_categories, like=cutpoints)
        low = ops.sum(indicator[..., 1:] * cutpoints, axis=-1) - _OUTERMOST * indicator[..., 0]
        high = ops.sum(indicator[..., :-1] * cutpoints, axis=-1) + _OUTERMOST * indicator[..., -1]
        return low - predictor, high - predictor

    def data_predictors(self, value: Array) -> tuple[Array | None, ...]:
        value, cutpoints, _ = promote(value, self.cutpoints, self.predictor)
        # The middle of the category; one unit outside of the last cutpoint for the two at the ends
        middles = ops.concat(
            [
                cutpoints[..., :1] - 1.0,
                0.5 * (cutpoints[..., 1:] + cutpoints[..., :-1]),
                cutpoints[..., -1:] + 1.0,
            ],
            axis=-1,
        )
        indicator = ops.one_hot(ops.cast(value, "int32"), self.num_categories, like=cutpoints)
        return (ops.sum(indicator * middles, axis=-1),)

    def score_and_information(self, value: Array) -> tuple[tuple[Array, Array], ...]:
        low, high = self._edges(value)
        # p_k = F(high) - F(low), d log p_k / d predictor = F(high) + F(low) - 1
        score = ops.sigmoid(high) + ops.sigmoid(low) - 1.0
        information = ops.zeros_like(score)
        for k in range(self.num_categories):
            low, high = self._edges(ops.zeros_like(score) + float(k))
            below, above = ops.sigmoid(low), ops.sigmoid(high)
            information = information + (above - below) * (above + below - 1.0) ** 2
        return ((score, information),)

    def log_density(self, value: Array) -> Array:
        """Log p(value), elementwise; `value` may be floating."""
        low, high = self._edges(value)
        # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))
        return log_sigmoid(high) + log_sigmoid(-low) + log1mexp(high - low)
