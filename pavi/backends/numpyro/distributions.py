"""NumPyro distributions from the specs; read beside `backends/tfp/distributions.py`.

A spec with a `log_density` of its own is one whose density NumPyro and TFP compute by formulas of
different accuracy; there NumPyro draws, and the shared formula scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as npd
from numpyro.distributions import constraints

from pavi import dist
from pavi.dist import supports
from pavi.dist.spec import Array, Spec, framework_dtype, promote
from pavi.errors import BackendError

UNCHECKED: dict[str, Any] = {"validate_args": False}


class SpecDistribution(npd.Distribution):
    """A spec as a NumPyro distribution: `sampler` draws, the spec's `log_density` scores."""

    pytree_data_fields = ("spec", "sampler")

    def __init__(self, spec: Any, sampler: npd.Distribution) -> None:
        self.spec = spec
        self.sampler = sampler
        super().__init__(sampler.batch_shape, sampler.event_shape, **UNCHECKED)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self.sampler.support

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sampler.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        return self.spec.log_density(value)


class Mixture(SpecDistribution):
    """Components marginalised by a log-sum-exp over them."""

    def __init__(self, spec: dist.Mixture) -> None:
        components = [
            build(component, spec.weights.dtype).to_event(spec.reinterpreted_batch_ndims)
            for component in spec.components
        ]
        choice = npd.CategoricalProbs(spec.weights, **UNCHECKED)
        super().__init__(spec, npd.MixtureGeneral(choice, components, **UNCHECKED))

    def log_prob(self, value: Array) -> Array:
        inside = self.spec.inside(value)
        parts = zip(self.spec.components, inside, strict=True)
        return self.spec.combine(tuple(build(c, x.dtype).log_prob(x) for c, x in parts), value)


class Censored(SpecDistribution):
    """The base's density or a tail of it; `sample` draws from the base, uncensored."""

    def __init__(self, spec: dist.Censored) -> None:
        base = build(spec.base, spec.censoring.dtype)
        shape = jnp.broadcast_shapes(base.batch_shape, jnp.shape(spec.censoring))
        super().__init__(spec, base.expand(shape))

    def log_prob(self, value: Array) -> Array:
        return self.spec.combine(self.sampler.log_prob(self.spec.observed(value)), value)


class Flat(npd.ImproperUniform):
    """Log density 0 on a support; its event shape, (1, ...), only tells the rank of a draw."""

    def __init__(self, spec: dist.Flat) -> None:
        constraint = CONSTRAINTS[type(spec.support)](spec.support)
        super().__init__(constraint, (), (1,) * spec.event_rank, **UNCHECKED)

    def log_prob(self, value: Array) -> Array:
        # Not jnp.zeros of a shape, which would be float64 in a float32 run under `enable_x64`
        return jnp.sum(jnp.zeros_like(value), axis=tuple(range(-len(self.event_shape), 0)))


CONSTRAINTS: dict[type[supports.Support], Callable[[Any], constraints.Constraint]] = {
    supports.Real: lambda s: constraints.real,
    supports.Positive: lambda s: constraints.positive,
    supports.UnitInterval: lambda s: constraints.unit_interval,
    supports.Interval: lambda s: constraints.interval(s.low, s.high),
    supports.GreaterThan: lambda s: constraints.greater_than(s.low),
    supports.LessThan: lambda s: constraints.less_than(s.high),
    supports.Simplex: lambda s: constraints.simplex,
    supports.Ordered: lambda s: constraints.ordered_vector,
    supports.LowerCholesky: lambda s: constraints.lower_cholesky,
    supports.CorrelationCholesky: lambda s: constraints.corr_cholesky,
}


def _whole(count: jax.Array) -> jax.Array:
    """A number of trials as integers, without which NumPyro cannot draw."""
    return count.astype(int)


RULES: dict[type[Spec], Callable[[Any], npd.Distribution]] = {
    dist.Normal: lambda s: npd.Normal(s.loc, s.scale, **UNCHECKED),
    dist.StudentT: lambda s: npd.StudentT(s.df, s.loc, s.scale, **UNCHECKED),
    dist.Laplace: lambda s: npd.Laplace(s.loc, s.scale, **UNCHECKED),
    dist.Cauchy: lambda s: npd.Cauchy(s.loc, s.scale, **UNCHECKED),
    dist.Logistic: lambda s: npd.Logistic(s.loc, s.scale, **UNCHECKED),
    dist.HalfNormal: lambda s: npd.HalfNormal(s.scale, **UNCHECKED),
    dist.HalfCauchy: lambda s: npd.HalfCauchy(s.scale, **UNCHECKED),
    dist.LogNormal: lambda s: npd.LogNormal(s.loc, s.scale, **UNCHECKED),
    dist.Exponential: lambda s: npd.Exponential(s.rate, **UNCHECKED),
    dist.Gamma: lambda s: npd.Gamma(s.concentration, s.rate, **UNCHECKED),
    dist.InverseGamma: lambda s: npd.InverseGamma(s.concentration, s.rate, **UNCHECKED),
    dist.Weibull: lambda s: npd.Weibull(s.scale, s.concentration, **UNCHECKED),
    dist.Beta: lambda s: npd.Beta(s.concentration1, s.concentration0, **UNCHECKED),
    dist.Uniform: lambda s: npd.Uniform(s.low, s.high, **UNCHECKED),
    dist.TruncatedNormal: lambda s: SpecDistribution(
        s, npd.TruncatedNormal(s.loc, s.scale, low=s.low, high=s.high, **UNCHECKED)
    ),
    dist.Flat: Flat,
    dist.Dirichlet: lambda s: npd.Dirichlet(s.concentration, **UNCHECKED),
    dist.MultivariateNormal: lambda s: SpecDistribution(
        s, npd.MultivariateNormal(s.loc, scale_tril=s.scale_tril, **UNCHECKED)
    ),
    dist.LKJCholesky: lambda s: npd.LKJCholesky(s.dimension, s.concentration, **UNCHECKED),
    dist.Bernoulli: lambda s: npd.Bernoulli(s.probs, s.logits, **UNCHECKED),
    dist.Binomial: lambda s: npd.Binomial(_whole(s.total_count), s.probs, s.logits, **UNCHECKED),
    dist.BetaBinomial: lambda s: SpecDistribution(
        s,
        npd.BetaBinomial(s.concentration1, s.concentration0, _whole(s.total_count), **UNCHECKED),
    ),
    dist.Poisson: lambda s: SpecDistribution(
        s, npd.Poisson(jnp.exp(s.log_rate) if s.rate is None else s.rate, **UNCHECKED)
    ),
    dist.NegativeBinomial: lambda s: npd.NegativeBinomialLogits(
        s.concentration, jnp.log(s.mean) - jnp.log(s.concentration), **UNCHECKED
    ),
    dist.Categorical: lambda s: SpecDistribution(
        s, npd.Categorical(s.probs, s.logits, **UNCHECKED)
    ),
    dist.OrderedLogistic: lambda s: SpecDistribution(
        s, npd.OrderedLogistic(s.predictor, s.cutpoints, **UNCHECKED)
    ),
    dist.Mixture: Mixture,
    dist.Censored: Censored,
}


def build(spec: Spec, dtype: Any = None) -> npd.Distribution:
    """The NumPyro distribution of a spec.

    Args:
        spec: parameters may be numbers, NumPy arrays, JAX arrays or tracers.
        dtype: floating dtype of the parameters; without one, that of the JAX arrays among them, or
            float32 where there are none.

    Returns:
        A distribution of `batch_shape` the parameters' common shape; it validates nothing.

    Raises:
        BackendError: no rule is registered for this type of spec.
    """
    rule = RULES.get(type(spec))
    if rule is None:
        raise BackendError(
            f"The NumPyro backend has no rule for {type(spec).__name__}; add one to "
            "`pavi.backends.numpyro.distributions.RULES`."
        )
    dtype = dtype or framework_dtype(*spec.parameters().values()) or "float32"
    return rule(spec.map_parameters(lambda value: jnp.asarray(value, dtype)))


def log_prob(spec: Spec, value: Array) -> Array:
    """Log density of `value`, in its dtype, the spec's own event axes summed over."""
    value, *_ = promote(value, *spec.parameters().values())
    value = jnp.asarray(value)
    # NumPyro turns counts into JAX's default float, which may be wider than this run's.
    return build(spec, value.dtype).log_prob(value).astype(value.dtype)


def _flatten(spec: Spec) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A spec as a JAX pytree: arrays and component specs are children, the rest is static."""
    names = [f.name for f in fields(spec)]
    static = {"dimension", "support", "reinterpreted_batch_ndims"}
    children = tuple(getattr(spec, name) for name in names if name not in static)
    return children, (type(spec), tuple((n, getattr(spec, n)) for n in names if n in static))


def _unflatten(structure: tuple[Any, ...], children: tuple[Any, ...]) -> Spec:
    kind, static = structure
    # Not through `__init__`, which looks at shapes: JAX unflattens placeholders too.
    spec = object.__new__(kind)
    names = [f.name for f in fields(kind) if f.name not in dict(static)]
    for name, value in (*zip(names, children, strict=True), *static):
        object.__setattr__(spec, name, value)
    return spec


for _kind in RULES:
    jax.tree_util.register_pytree_node(_kind, _flatten, _unflatten)
