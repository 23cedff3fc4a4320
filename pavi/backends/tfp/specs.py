"""TFP distributions as specs of `pavi.dist`: which law, on which parameters, along which axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pavi import dist
from pavi.dist.spec import Spec
from pavi.errors import GraphError

tfb, tfd = tfp.bijectors, tfp.distributions


class Parameter(NamedTuple):
    """A parameter of a law.

    Attributes:
        value: a tensor, `[*batch of the law, *own axes]` or broadcasting.
        own: number of its own trailing axes.
    """

    value: Any
    own: int = 0


@dataclass(frozen=True)
class Law:
    """The distribution of a part, without the wrappers that say which of its axes are events.

    Attributes:
        spec: the spec's type.
        parameters: its parameters by the spec's names.
        dimensions: dimension of the part's value that each batch axis of the law is.
        rank: trailing dimensions of the value that are one draw's.
        fixed: parameters of the spec that are no tensors.
    """

    spec: type[Spec]
    parameters: dict[str, Parameter]
    dimensions: tuple[int, ...]
    rank: int
    fixed: dict[str, Any] = field(default_factory=dict)


class _Found(NamedTuple):
    """A law apart from where it stands."""

    spec: type[Spec]
    parameters: dict[str, Parameter]
    rank: int = 0
    fixed: dict[str, Any] = {}  # noqa: RUF012 - never written to


class _Move(NamedTuple):
    """A map of a distribution's values, whose axes are these dimensions of the part's value."""

    bijector: Any
    dimensions: Sequence[int]


class _Placed(NamedTuple):
    """A law, and the dimensions of the part's value that its batch axes are."""

    law: _Found
    dimensions: tuple[int, ...]


def _scalars(spec: type[Spec], *names: str, **renamed: str) -> Callable[[Any], _Found]:
    """A rule for a law whose parameters are elementwise, by the spec's and the host's names."""
    pairs = {**{name: name for name in names}, **renamed}
    return lambda d: _Found(
        spec, {own: Parameter(getattr(d, theirs)) for own, theirs in pairs.items()}
    )


def _either(spec: type[Spec], first: str, second: str, own: int = 0, **others: str) -> Any:
    """A rule for a law that has one of two parameters."""

    def rule(d: Any) -> _Found:
        given = first if getattr(d, first) is not None else second
        parameters = {given: Parameter(getattr(d, given), own)}
        more = {name: Parameter(getattr(d, theirs)) for name, theirs in others.items()}
        return _Found(spec, {**more, **parameters})

    return rule


def _half_cauchy(d: Any) -> _Found:
    loc = tf.get_static_value(d.loc)
    if loc is None or np.any(loc):
        raise GraphError("HalfCauchy is read with loc=0 alone. Shift it in its children.")
    return _Found(dist.HalfCauchy, {"scale": Parameter(d.scale)})


def _gamma(d: Any) -> _Found:
    rate = d.rate if d.rate is not None else tf.exp(d.log_rate)
    return _Found(
        dist.Gamma, {"concentration": Parameter(d.concentration), "rate": Parameter(rate)}
    )


def _negative_binomial(d: Any) -> _Found:
    logits = d.logits if d.logits is not None else tf.math.log(d.probs) - tf.math.log1p(-d.probs)
    count = tf.convert_to_tensor(d.total_count, logits.dtype)
    return _Found(
        dist.NegativeBinomial,
        {"mean": Parameter(count * tf.exp(logits)), "concentration": Parameter(count)},
    )


def _diagonal(d: Any) -> _Found:
    """A multivariate normal of independent entries: its event is one of scalars."""
    scale = d.scale.diag_part()
    loc = d.loc if d.loc is not None else tf.zeros_like(scale)
    return _Found(dist.Normal, {"loc": Parameter(loc), "scale": Parameter(scale)})


def _triangular(d: Any) -> _Found:
    scale = d.scale.to_dense()
    if not isinstance(d.scale, tf.linalg.LinearOperatorLowerTriangular):
        scale = tf.linalg.cholesky(tf.matmul(scale, scale, transpose_b=True))
    loc = d.loc if d.loc is not None else tf.zeros_like(scale[..., 0])
    return _Found(
        dist.MultivariateNormal, {"loc": Parameter(loc, 1), "scale_tril": Parameter(scale, 2)}, 1
    )


RULES: dict[str, Callable[[Any], _Found]] = {
    "Normal": _scalars(dist.Normal, "loc", "scale"),
    "HalfNormal": _scalars(dist.HalfNormal, "scale"),
    "StudentT": _scalars(dist.StudentT, "df", "loc", "scale"),
    "Laplace": _scalars(dist.Laplace, "loc", "scale"),
    "Cauchy": _scalars(dist.Cauchy, "loc", "scale"),
    "HalfCauchy": _half_cauchy,
    "Logistic": _scalars(dist.Logistic, "loc", "scale"),
    "LogNormal": _scalars(dist.LogNormal, "loc", "scale"),
    "Exponential": _scalars(dist.Exponential, "rate"),
    "Gamma": _gamma,
    "Chi2": lambda d: _Found(
        dist.Gamma,
        {"concentration": Parameter(0.5 * d.df), "rate": Parameter(tf.constant(0.5, d.dtype))},
    ),
    "InverseGamma": _scalars(dist.InverseGamma, "concentration", rate="scale"),
    "Weibull": _scalars(dist.Weibull, "scale", "concentration"),
    "Beta": _scalars(dist.Beta, "concentration1", "concentration0"),
    "Uniform": _scalars(dist.Uniform, "low", "high"),
    "TruncatedNormal": _scalars(dist.TruncatedNormal, "loc", "scale", "low", "high"),
    "Dirichlet": lambda d: _Found(
        dist.Dirichlet, {"concentration": Parameter(d.concentration, 1)}, 1
    ),
    "MultivariateNormalDiag": _diagonal,
    "MultivariateNormalTriL": _triangular,
    "MultivariateNormalFullCovariance": _triangular,
    "MultivariateNormalLinearOperator": _triangular,
    "CholeskyLKJ": lambda d: _Found(
        dist.LKJCholesky,
        {"concentration": Parameter(d.concentration)},
        2,
        {"dimension": int(d.dimension)},
    ),
    "Bernoulli": _either(dist.Bernoulli, "logits", "probs"),
    "Binomial": _either(dist.Binomial, "logits", "probs", total_count="total_count"),
    "BetaBinomial": _scalars(dist.BetaBinomial, "total_count", "concentration1", "concentration0"),
    "Poisson": _either(dist.Poisson, "log_rate", "rate"),
    "NegativeBinomial": _negative_binomial,
    "Categorical": _either(dist.Categorical, "logits", "probs", own=1),
    "OrderedLogistic": lambda d: _Found(
        dist.OrderedLogistic,
        {"predictor": Parameter(d.loc), "cutpoints": Parameter(d.cutpoints, 1)},
    ),
}

# laws that are read in another form
_INSTEAD = {
    "LKJ": "Use tfd.CholeskyLKJ, and multiply its factor by its transpose where that is needed.",
    "Deterministic": "Compute its value in the distributions of its children.",
    "VectorDeterministic": "Compute its value in the distributions of its children.",
    "MixtureSameFamily": "Write the model as a pavi.PlateGraph, with dist.Mixture.",
    "Mixture": "Write the model as a pavi.PlateGraph, with dist.Mixture.",
    "Masked": "Leave out the rows that are masked, and take their parents by tf.gather.",
}


def _through(found: _Found, base: str, moves: Sequence[_Move], own: Sequence[int]) -> _Placed:
    """The law of a value that was drawn from another law and mapped elementwise.

    Args:
        found: the other law.
        base: its name.
        moves: the maps, the first of them first.
        own: dimensions of the value that the batch axes of the law are.
    """
    for bijector, dimensions in moves:
        if found.spec is dist.Normal and type(bijector) is tfb.Exp:
            found = found._replace(spec=dist.LogNormal)
        elif (
            found.spec in _LOCATION_SCALE
            and bijector.is_constant_jacobian
            and bijector.forward_min_event_ndims == 0
            and bijector._is_injective
        ):
            # the map may differ along axes over which the law is repeated
            aligned = {
                name: Parameter(_aligned(parameter.value, own, dimensions))
                for name, parameter in found.parameters.items()
            }
            own = dimensions
            # loc + scale z  ->  b(loc) + |b(1) - b(0)| scale z
            loc, scale = aligned["loc"].value, aligned["scale"].value
            zero = tf.zeros([], loc.dtype)
            slope = tf.abs(bijector.forward(zero + 1.0) - bijector.forward(zero))
            moved = {"loc": Parameter(bijector.forward(loc)), "scale": Parameter(slope * scale)}
            found = found._replace(parameters={**aligned, **moved})
        else:
            raise GraphError(
                f"TransformedDistribution of {base} by {type(bijector).__name__} is no law of "
                f"pavi.dist. Declare {base} itself, and transform its value in the distributions "
                f"of its children."
            )
    return _Placed(found, tuple(own))


def _aligned(value: Any, own: Sequence[int], wanted: Sequence[int]) -> Any:
    """An array whose axes are the last of `own` with one for each of `wanted` from its first on."""
    held = own[len(own) - len(value.shape) :]
    axes = [slice(None) if d in held else tf.newaxis for d in wanted if held and d >= held[0]]
    return value if len(axes) == len(held) else value[tuple(axes)]


_LOCATION_SCALE = {dist.Normal, dist.StudentT, dist.Laplace, dist.Cauchy, dist.Logistic}


def read_law(distribution: Any) -> Law:
    """The law of a part.

    Args:
        distribution: the part's distribution, its parameters concrete or symbolic.

    Raises:
        GraphError: it is no law of `pavi.dist`; the message does not say which part it is.
    """
    shape = (*distribution.batch_shape, *distribution.event_shape)
    return _placed(distribution, range(len(shape)))


def _placed(d: Any, dimensions: Sequence[int], moves: tuple[_Move, ...] = ()) -> Law:
    """The law of a distribution whose batch and event axes are the last of these dimensions.

    `moves` map what it draws to the part's value, the first of them first.
    """
    batch, event = len(d.batch_shape), len(d.event_shape)
    dimensions = dimensions[len(dimensions) - batch - event :]
    name = _name(d)
    if name in ("Independent", "BatchBroadcast"):
        return _placed(d.distribution, dimensions, moves)
    if name == "Sample":
        batch, event = len(d.distribution.batch_shape), len(d.distribution.event_shape)
        kept = (*dimensions[:batch], *dimensions[len(dimensions) - event :])
        return _placed(d.distribution, kept, moves)
    if name == "TransformedDistribution":
        own = tuple(_Move(bijector, dimensions) for bijector in _chain(d.bijector))
        return _placed(d.distribution, dimensions, (*own, *moves))
    # not by its bases: what derives from a law, or transforms one, is another
    rule = RULES.get(name)
    if rule is None:
        whose = "" if name else f" of module {type(d).__module__}"
        raise GraphError(
            f"{type(d).__name__}{whose} is no law of pavi.dist. "
            + _INSTEAD.get(
                name,
                f"Write it with one of TFP's {', '.join(RULES)}, in Independent, Sample or "
                f"BatchBroadcast where it is a vector.",
            )
        )
    law = rule(d)
    found, repeated = _through(law, name, moves, dimensions[: len(dimensions) - law.rank])
    return Law(found.spec, found.parameters, repeated, found.rank, dict(found.fixed))


def _name(d: Any) -> str:
    """The name of a distribution of TFP's own, "" for another's, whatever it is called."""
    kind = type(d)
    own = kind.__module__.startswith(f"{tfp.__name__}.")
    return kind.__name__.removeprefix("_") if own else ""


def _chain(bijector: Any) -> tuple[Any, ...]:
    """The bijectors that one is composed of, the first to be applied first."""
    if type(bijector).__name__.removeprefix("_") != "Chain":
        return (bijector,)
    return tuple(b for inner in reversed(bijector.bijectors) for b in _chain(inner))
