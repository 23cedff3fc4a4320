"""A plate graph as a TFP joint distribution; read beside `backends/numpyro/model.py`.

Each variable is one part whose event is `[*plates, *event]`, all of its rows: the rows of a
reduced batch have weights, which a part's log density must sum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from pavi import dist
from pavi.backends.tfp.distributions import build, log_prob
from pavi.batch import Batch
from pavi.bijectors.links import link
from pavi.data import Data
from pavi.dist.spec import Spec
from pavi.dist.supports import Support
from pavi.graph import PlateGraph, Random
from pavi.model import aligned_parents, log_terms, row_weights
from pavi.subsampling import full_batch

tfb = tfp.bijectors
tfd = tfp.distributions

Array = Any


class LinkBijector(tfb.Bijector):
    """The link of a support as a TFP bijector.

    Args:
        support: its bounds may be tensors, which broadcast against the rows.
        event: shape of one draw.
        dtype: floating dtype of the run.
    """

    def __init__(self, support: Support, event: Sequence[int], dtype: tf.DType) -> None:
        parameters = dict(locals())
        self._link = link(support)
        self._event = self._no_dependency(tuple(event))
        self._free = self._no_dependency(support.unconstrained_event(tuple(event)))
        super().__init__(
            forward_min_event_ndims=len(self._free),
            inverse_min_event_ndims=len(self._event),
            dtype=dtype,
            parameters=parameters,
            name=type(support).__name__,
        )

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        return self._link.forward_and_log_det(x)[0]

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        return self._link.inverse_and_log_det(y)[0]

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return self._link.forward_and_log_det(x)[1]

    def _inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        return self._link.inverse_and_log_det(y)[1]

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[: len(shape) - len(self._free)].concatenate(self._event)

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[: len(shape) - len(self._event)].concatenate(self._free)

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[: shape.shape[0] - len(self._free)], _sizes(self._event)], 0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[: shape.shape[0] - len(self._event)], _sizes(self._free)], 0)


def _sizes(shape: Sequence[int]) -> tf.Tensor:
    return tf.constant(list(shape), tf.int32)


class Rows(tfd.Distribution):
    """All rows of a variable, as one event; its log density is their weighted sum.

    Args:
        spec: the distribution of a row, its parameters `[*lead, *plates, *event]` or broadcasting.
        weights: `[*plates]` or more axes, None for a variable without plates or missing values.
        lead: leading axes of its parents' draws.
        shape: `[*plates, *event]`.
        dtype: floating dtype of the run.
        name: the variable's.
    """

    def __init__(
        self,
        spec: Spec,
        weights: Array | None,
        lead: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: tf.DType,
        name: str,
    ) -> None:
        parameters = dict(locals())
        self.spec, self.weights = spec, weights
        self.lead, self.shape = self._no_dependency(lead), self._no_dependency(shape)
        scalar = shape[: len(shape) - spec.event_rank]
        self.base = tfd.BatchBroadcast(build(spec, dtype), (*lead, *scalar))
        super().__init__(
            dtype=dtype,
            reparameterization_type=self.base.reparameterization_type,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape(self.lead)

    def _batch_shape_tensor(self) -> tf.Tensor:
        return _sizes(self.lead)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape(self.shape)

    def _event_shape_tensor(self) -> tf.Tensor:
        return _sizes(self.shape)

    def _default_event_space_bijector(self) -> tfb.Bijector:
        # The guide's own: some of TFP 0.25's fail under NumPy 2.4, and `Flat` has none.
        split = len(self.shape) - self.spec.event_rank
        return LinkBijector(self.spec.support, self.shape[split:], self.dtype)

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        if isinstance(self.spec, dist.Flat):
            # An improper prior has no draws. These show shapes, and are places to start a chain.
            bijector = self._default_event_space_bijector()
            shape = bijector.inverse_event_shape((*self.lead, *self.shape))
            seed = tfp.random.sanitize_seed(seed)
            return bijector.forward(tf.random.stateless_normal((n, *shape), seed, dtype=self.dtype))
        return tf.cast(self.base.sample(n, seed=seed), self.dtype)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        term = log_prob(self.spec, value)
        rank = len(self.shape) - self.spec.event_rank
        if self.weights is not None:
            missing = rank - len(self.weights.shape)
            term = term * tf.reshape(self.weights, (*self.weights.shape, *(1,) * missing))
        return tf.reduce_sum(term, axis=list(range(-rank, 0)))


def make_joint_distribution(graph: PlateGraph, batch: Batch) -> tfd.JointDistribution:
    """The graph as a joint distribution of its latents and observed variables.

    Its log density on a reduced batch counts every row for the N / N^r rows that it stands for,
    and padding and missing values for none (paper, eq. 8).

    Args:
        graph: the model's template.
        batch: gives the covariates, the memberships and the number of rows.

    Returns:
        A `tfd.JointDistributionCoroutine` whose parts are named by variables. Pin the data by
        `joint.experimental_pin(**{v.name: batch.values[v.name] for v in graph.observed})`.
    """
    batch = as_tensors(batch)
    sizes = {plate: index.shape[0] for plate, index in batch.indices.items()}
    dtype = _dtype(batch)
    variables = [v for v in graph.variables.values() if isinstance(v, Random)]

    def model() -> Iterator[Any]:
        drawn: dict[str, Array] = {}
        known = batch
        for variable in variables:
            lead = tf.TensorShape([])
            above = [graph.variables[p] for p in variable.parents if p in drawn]
            for parent in above:
                rank = len(parent.plates) + len(parent.event)
                shape = drawn[parent.name].shape
                lead = tf.broadcast_static_shape(lead, shape[: len(shape) - rank])
            parents = aligned_parents(graph, variable.name, drawn, known, len(lead))
            part = Rows(
                spec=graph.spec(variable.name, parents),
                weights=row_weights(graph, variable.name, batch),
                lead=tuple(lead),
                shape=(*(sizes[plate] for plate in variable.plates), *variable.event),
                dtype=dtype,
                name=variable.name,
            )
            value = yield part if above else tfd.JointDistributionCoroutine.Root(part)
            drawn[variable.name] = value
            # What is below an observed variable sees the value drawn or pinned.
            known = known._replace(values={**known.values, variable.name: value})

    return tfd.JointDistributionCoroutine(model, batch_ndims=0)


def bound_joint_distribution(graph: PlateGraph, data: Data, dtype: str) -> Any:
    """The graph on data, pinned; see `PlateGraph.to_tfp_joint_distribution`."""
    batch = full_batch(data.bind(graph), dtype)
    joint = make_joint_distribution(graph, batch)
    values = {v.name: tf.constant(batch.values[v.name]) for v in graph.observed}
    return joint.experimental_pin(**values) if values else joint


def make_joint_log_prob(graph: PlateGraph, batch: Batch) -> Callable[..., tf.Tensor]:
    """The log joint density on a batch as a `target_log_prob_fn`, weighted as eq. 8 says.

    Args:
        graph: the model's template.
        batch: the data.

    Returns:
        `target(**latents)` or `target(latents)`, of values `[*sample shape, *plates, *event]`;
        it gives `[*sample shape]`.
    """
    batch = as_tensors(batch)
    dtype = _dtype(batch)

    @tf.autograph.experimental.do_not_convert
    def target(latents: Mapping[str, Array] | None = None, /, **named: Array) -> tf.Tensor:
        values, sample_shape = with_one_lead(graph, {**(latents or {}), **named}, dtype)
        terms = log_terms(graph, log_prob, values, batch)
        return tf.reshape(tf.add_n(list(terms.values())), sample_shape)

    return target


def with_one_lead(
    graph: PlateGraph, values: Mapping[str, Array], dtype: tf.DType
) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Latents with their leading axes made one, `[S, *plates, *event]`, and those axes."""
    out: dict[str, Array] = {}
    sample_shape: tuple[int, ...] = ()
    for latent in graph.latents:
        value = tf.cast(values[latent.name], dtype)
        split = len(value.shape) - len(latent.plates) - len(latent.event)
        sample_shape = tuple(value.shape[:split])
        out[latent.name] = tf.reshape(value, (-1, *value.shape[split:]))
    return out, sample_shape


def as_tensors(batch: Batch) -> Batch:
    """The batch as tensors, which compiled functions take as inputs rather than as constants."""
    out: Batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
    return out


def _dtype(batch: Batch) -> tf.DType:
    """The floating dtype of the run: what is not an index or a position has it."""
    floating = (*batch.values.values(), *batch.weights.values())
    return next((x.dtype for x in floating), tf.float32)
