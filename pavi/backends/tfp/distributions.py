"""TFP distributions from the specs; read beside `backends/numpyro/distributions.py`.

A spec with a `log_density` of its own is one whose density NumPyro and TFP compute by formulas of
different accuracy; there TFP draws, and the shared formula scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pavi import dist
from pavi.dist.spec import Array, Spec, framework_dtype, promote
from pavi.errors import BackendError

tfd = tfp.distributions


class SpecDistribution(tfd.Distribution):
    """A spec as a TFP distribution: `sampler` draws, the spec's `log_density` scores."""

    def __init__(self, spec: Any, sampler: tfd.Distribution) -> None:
        parameters = {"spec": spec, "sampler": sampler}
        self.spec = spec
        self.sampler = sampler
        super().__init__(
            dtype=sampler.dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=type(spec).__name__,
        )

    def _batch_shape(self) -> tf.TensorShape:
        return self.sampler.batch_shape

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self.sampler.batch_shape_tensor()

    def _event_shape(self) -> tf.TensorShape:
        return self.sampler.event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self.sampler.event_shape_tensor()

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return self.sampler.experimental_default_event_space_bijector()

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        return self.sampler.sample(n, seed=seed)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.spec.log_density(value)


class Mixture(SpecDistribution):
    """Components marginalised by a log-sum-exp over them."""

    def __init__(self, spec: dist.Mixture) -> None:
        components = [build(component, spec.weights.dtype) for component in spec.components]
        own = spec.reinterpreted_batch_ndims
        wholes = [tfd.Independent(c, own) if own else c for c in components]
        batch = spec.weights.shape[:-1]
        for whole in wholes:
            batch = tf.broadcast_static_shape(batch, whole.batch_shape)
        # tfd.Mixture wants every part in the full batch shape.
        weights = tf.broadcast_to(spec.weights, [*batch, len(components)])
        parts = [tfd.BatchBroadcast(component, batch) for component in wholes]
        super().__init__(spec, tfd.Mixture(tfd.Categorical(probs=weights), parts))
        self.components = components

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        parts = zip(self.components, self.spec.inside(value), strict=True)
        return self.spec.combine(tuple(part.log_prob(x) for part, x in parts), value)


class Censored(SpecDistribution):
    """The base's density or a tail of it; `sample` draws from the base, uncensored."""

    def __init__(self, spec: dist.Censored) -> None:
        base = build(spec.base, spec.censoring.dtype)
        shape = tf.broadcast_static_shape(base.batch_shape, spec.censoring.shape)
        super().__init__(spec, tfd.BatchBroadcast(base, shape))
        self.base = base

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.spec.combine(self.base.log_prob(self.spec.observed(value)), value)


class Flat(tfd.Distribution):
    """Log density 0 on a support; it cannot be sampled."""

    def __init__(self, spec: dist.Flat, dtype: tf.DType = tf.float32) -> None:
        parameters = {"spec": spec, "dtype": dtype}
        self.spec = spec
        super().__init__(
            dtype=dtype,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name="Flat",
        )

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.zeros([0], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([None] * self.spec.event_rank)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.zeros_like(value), axis=list(range(-self.spec.event_rank, 0)))


def _truncated_normal(spec: dist.TruncatedNormal) -> tfd.Distribution:
    if spec.low is None and spec.high is None:
        return tfd.Normal(spec.loc, spec.scale)
    low, high = (
        tf.cast(infinity if bound is None else bound, spec.loc.dtype)
        for bound, infinity in ((spec.low, -math.inf), (spec.high, math.inf))
    )
    return SpecDistribution(spec, tfd.TruncatedNormal(spec.loc, spec.scale, low, high))


RULES: dict[type[Spec], Callable[[Any], tfd.Distribution]] = {
    dist.Normal: lambda s: tfd.Normal(s.loc, s.scale),
    dist.StudentT: lambda s: tfd.StudentT(s.df, s.loc, s.scale),
    dist.Laplace: lambda s: tfd.Laplace(s.loc, s.scale),
    dist.Cauchy: lambda s: tfd.Cauchy(s.loc, s.scale),
    dist.Logistic: lambda s: tfd.Logistic(s.loc, s.scale),
    dist.HalfNormal: lambda s: tfd.HalfNormal(s.scale),
    dist.HalfCauchy: lambda s: tfd.HalfCauchy(tf.zeros_like(s.scale), s.scale),
    dist.LogNormal: lambda s: tfd.LogNormal(s.loc, s.scale),
    dist.Exponential: lambda s: tfd.Exponential(s.rate),
    dist.Gamma: lambda s: tfd.Gamma(s.concentration, s.rate),
    dist.InverseGamma: lambda s: tfd.InverseGamma(s.concentration, s.rate),
    dist.Weibull: lambda s: tfd.Weibull(s.concentration, s.scale),
    dist.Beta: lambda s: tfd.Beta(s.concentration1, s.concentration0),
    dist.Uniform: lambda s: tfd.Uniform(s.low, s.high),
    dist.TruncatedNormal: _truncated_normal,
    dist.Flat: Flat,
    dist.Dirichlet: lambda s: tfd.Dirichlet(s.concentration),
    dist.MultivariateNormal: lambda s: tfd.MultivariateNormalTriL(s.loc, s.scale_tril),
    dist.LKJCholesky: lambda s: tfd.CholeskyLKJ(s.dimension, s.concentration),
    dist.Bernoulli: lambda s: tfd.Bernoulli(s.logits, s.probs, dtype=_dtype_of(s)),
    dist.Binomial: lambda s: tfd.Binomial(s.total_count, s.logits, s.probs),
    dist.BetaBinomial: lambda s: tfd.BetaBinomial(
        s.total_count, s.concentration1, s.concentration0
    ),
    dist.Poisson: lambda s: tfd.Poisson(s.rate, s.log_rate),
    dist.NegativeBinomial: lambda s: tfd.NegativeBinomial(
        s.concentration, tf.math.log(s.mean) - tf.math.log(s.concentration)
    ),
    dist.Categorical: lambda s: SpecDistribution(
        s, tfd.Categorical(s.logits, s.probs, dtype=_dtype_of(s))
    ),
    dist.OrderedLogistic: lambda s: SpecDistribution(
        s, tfd.OrderedLogistic(s.cutpoints, s.predictor, dtype=s.cutpoints.dtype)
    ),
    dist.Mixture: Mixture,
    dist.Censored: Censored,
}


def build(spec: Spec, dtype: Any = None) -> tfd.Distribution:
    """The TFP distribution of a spec.

    Args:
        spec: parameters may be numbers, NumPy arrays or tensors, eager or traced.
        dtype: floating dtype of the parameters; without one, that of the tensors among them, or
            float32 where there are none.

    Returns:
        A distribution of `batch_shape` the parameters' common shape; it validates nothing.

    Raises:
        BackendError: no rule is registered for this type of spec.
    """
    rule = RULES.get(type(spec))
    if rule is None:
        raise BackendError(
            f"The TFP backend has no rule for {type(spec).__name__}; add one to "
            "`pavi.backends.tfp.distributions.RULES`."
        )
    dtype = tf.as_dtype(dtype or framework_dtype(*spec.parameters().values()) or "float32")
    return rule(spec.map_parameters(lambda value: _tensor(value, dtype)))


def log_prob(spec: Spec, value: Array) -> Array:
    """Log density of `value`, in its dtype, the spec's own event axes summed over."""
    value, *_ = promote(value, *spec.parameters().values())
    value = tf.convert_to_tensor(value)
    return build(spec, value.dtype).log_prob(value)


def _tensor(value: Array, dtype: tf.DType) -> tf.Tensor:
    if tf.is_tensor(value):
        return tf.cast(value, dtype)
    return tf.constant(np.asarray(value).astype(dtype.as_numpy_dtype))


def _dtype_of(spec: dist.Bernoulli | dist.Categorical) -> tf.DType:
    """Dtype of the draws, that of the parameters: observed values are floating everywhere."""
    return next(iter(spec.parameters().values())).dtype
