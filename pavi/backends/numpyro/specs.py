"""NumPyro's distributions read as specs: the parameters that a spec is made of, by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
from numpyro.distributions import constraints, transforms
from numpyro.distributions.truncated import (
    LeftTruncatedDistribution,
    RightTruncatedDistribution,
    TwoSidedTruncatedDistribution,
)

from pavi import dist
from pavi.dist import supports
from pavi.dist.spec import Spec
from pavi.dist.supports import Support

Array = Any


@dataclass(frozen=True)
class Parts:
    """What a spec is made of.

    Attributes:
        kind: the spec's class.
        parameters: its arrays, each with the number of its own trailing axes.
        settings: what is no array.
    """

    kind: type[Spec]
    parameters: dict[str, tuple[Array, int]]
    settings: dict[str, Support | int] = field(default_factory=dict)


def stripped(fn: npd.Distribution) -> tuple[npd.Distribution, list[tuple[Array, int]]]:
    """The distribution inside of `to_event`, `expand` and `mask`, and the masks on the way.

    A mask comes with the number of event axes of what it masks.
    """
    masks: list[tuple[Array, int]] = []
    while isinstance(fn, npd.Independent | npd.ExpandedDistribution | npd.MaskedDistribution):
        if isinstance(fn, npd.MaskedDistribution):
            masks.append((fn._mask, fn.event_dim))
        fn = fn.base_dist
    return fn, masks


def parts(fn: npd.Distribution) -> Parts | None:
    """What the spec of a distribution is made of; None where there is no such spec."""
    for kinds, rule in RULES:
        for kind in kinds if isinstance(kinds, tuple) else (kinds,):
            # A subclass with a density of its own is another law.
            if isinstance(fn, kind) and type(fn).log_prob is kind.log_prob:
                return rule(fn)
    return None


def support_of(constraint: Any) -> Support | None:
    """The support of a constraint whose bounds are numbers; None where there is none."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    for kind, support in _SUPPORTS:
        if constraint is kind:
            return support
    name = type(constraint).__name__
    try:
        if name in ("_Interval", "_OpenInterval"):
            low, high = (_bound(constraint, side) for side in ("lower_bound", "upper_bound"))
            return supports.Interval(low, high)
        if name in ("_GreaterThan", "_GreaterThanEq"):
            return supports.GreaterThan(_bound(constraint, "lower_bound"))
        if name in ("_LessThan", "_LessThanEq"):
            return supports.LessThan(_bound(constraint, "upper_bound"))
    except (TypeError, ValueError):
        return None  # bounds that are traced, or differ from element to element
    return None


def _bound(constraint: Any, side: str) -> float:
    return float(np.asarray(getattr(constraint, side)))


_SUPPORTS: tuple[tuple[Any, Support], ...] = (
    (constraints.real, supports.REAL),
    (constraints.real_vector, supports.REAL),
    (constraints.real_matrix, supports.REAL),
    (constraints.positive, supports.POSITIVE),
    (constraints.nonnegative, supports.POSITIVE),
    (constraints.softplus_positive, supports.POSITIVE),
    (constraints.unit_interval, supports.UNIT_INTERVAL),
    (constraints.simplex, supports.SIMPLEX),
    (constraints.ordered_vector, supports.ORDERED),
    (constraints.lower_cholesky, supports.LOWER_CHOLESKY),
    (constraints.corr_cholesky, supports.CORRELATION_CHOLESKY),
)


def _named(kind: type[Spec], *names: str) -> Callable[[Any], Parts]:
    """A rule for a class whose parameters have the names of the spec's."""
    return lambda fn: Parts(kind, {name: (getattr(fn, name), 0) for name in names})


def _truncated(fn: Any) -> Parts | None:
    if not isinstance(fn.base_dist, npd.Normal):
        return None
    given = {"loc": fn.base_dist.loc, "scale": fn.base_dist.scale}
    bounds = {side: getattr(fn, side, None) for side in ("low", "high")}
    given |= {side: bound for side, bound in bounds.items() if bound is not None}
    return Parts(dist.TruncatedNormal, {name: (value, 0) for name, value in given.items()})


def _transformed(fn: Any) -> Parts | None:
    """A normal that is shifted and scaled, and perhaps exponentiated."""
    base, _ = stripped(fn.base_dist)
    if not isinstance(base, npd.Normal):
        return None
    loc, scale = base.loc, base.scale
    kind: type[Spec] = dist.Normal
    for transform in fn.transforms:
        if isinstance(transform, transforms.AffineTransform) and kind is dist.Normal:
            loc = transform.loc + transform.scale * loc
            scale = jnp.abs(transform.scale) * scale
        elif isinstance(transform, transforms.ExpTransform) and kind is dist.Normal:
            kind = dist.LogNormal
        else:
            return None
    return Parts(kind, {"loc": (loc, 0), "scale": (scale, 0)})


def _improper(fn: Any) -> Parts | None:
    support = support_of(fn.support)
    return Parts(dist.Flat, {}, {"support": support}) if support is not None else None


def _counts(fn: Any) -> Parts:
    # a gamma mixture of Poissons, of mean concentration / rate
    mean = fn.concentration / fn.rate
    return Parts(dist.NegativeBinomial, {"mean": (mean, 0), "concentration": (fn.concentration, 0)})


def _trials(name: str) -> Callable[[Any], Parts]:
    return lambda fn: Parts(
        dist.Binomial, {"total_count": (fn.total_count, 0), name: (getattr(fn, name), 0)}
    )


RULES: tuple[tuple[Any, Callable[[Any], Parts | None]], ...] = (
    (npd.Normal, _named(dist.Normal, "loc", "scale")),
    (npd.LogNormal, _named(dist.LogNormal, "loc", "scale")),
    (npd.StudentT, _named(dist.StudentT, "df", "loc", "scale")),
    (npd.Laplace, _named(dist.Laplace, "loc", "scale")),
    (npd.Cauchy, _named(dist.Cauchy, "loc", "scale")),
    (npd.Logistic, _named(dist.Logistic, "loc", "scale")),
    (npd.HalfNormal, _named(dist.HalfNormal, "scale")),
    (npd.HalfCauchy, _named(dist.HalfCauchy, "scale")),
    (npd.Exponential, _named(dist.Exponential, "rate")),
    (npd.InverseGamma, _named(dist.InverseGamma, "concentration", "rate")),
    (npd.Chi2, _named(dist.Gamma, "concentration", "rate")),
    (npd.Gamma, _named(dist.Gamma, "concentration", "rate")),
    (npd.Weibull, _named(dist.Weibull, "scale", "concentration")),
    (npd.Beta, _named(dist.Beta, "concentration1", "concentration0")),
    (npd.Uniform, _named(dist.Uniform, "low", "high")),
    (
        (TwoSidedTruncatedDistribution, LeftTruncatedDistribution, RightTruncatedDistribution),
        _truncated,
    ),
    (npd.ImproperUniform, _improper),
    (npd.Dirichlet, lambda fn: Parts(dist.Dirichlet, {"concentration": (fn.concentration, 1)})),
    (
        npd.MultivariateNormal,
        lambda fn: Parts(
            dist.MultivariateNormal, {"loc": (fn.loc, 1), "scale_tril": (fn.scale_tril, 2)}
        ),
    ),
    (
        npd.LKJCholesky,
        lambda fn: Parts(
            dist.LKJCholesky,
            {"concentration": (fn.concentration, 0)},
            {"dimension": fn.dimension},
        ),
    ),
    (npd.BernoulliLogits, _named(dist.Bernoulli, "logits")),
    (npd.BernoulliProbs, _named(dist.Bernoulli, "probs")),
    (
        npd.BetaBinomial,
        _named(dist.BetaBinomial, "total_count", "concentration1", "concentration0"),
    ),
    (npd.BinomialLogits, _trials("logits")),
    (npd.BinomialProbs, _trials("probs")),
    (npd.Poisson, _named(dist.Poisson, "rate")),
    (npd.GammaPoisson, _counts),
    (
        npd.OrderedLogistic,
        lambda fn: Parts(
            dist.OrderedLogistic, {"predictor": (fn.predictor, 0), "cutpoints": (fn.cutpoints, 1)}
        ),
    ),
    (npd.CategoricalLogits, lambda fn: Parts(dist.Categorical, {"logits": (fn.logits, 1)})),
    (npd.CategoricalProbs, lambda fn: Parts(dist.Categorical, {"probs": (fn.probs, 1)})),
    (npd.TransformedDistribution, _transformed),
)
