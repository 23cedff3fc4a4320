"""A plan as a TFP surrogate posterior; read beside `backends/numpyro/guide.py`.

The mathematics is `pavi.guide`'s. Here weights become `tf.Variable`s, and the latents the parts of
a `tfd.JointDistribution`. Latents of one block are jointly dense, so that no part has a density of
its own: sampling and evaluation of the whole are overridden, and what needs the parts one by one
(`log_prob_parts`, `sample_distributions`, pinning) says that it is not available.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pavi import guide
from pavi.backends.tfp.layout import Layout, entries, leaves, restructured
from pavi.backends.tfp.model import as_tensors, with_one_lead
from pavi.batch import Batch
from pavi.plan import GuidePlan
from pavi.tables import table_rows

tfd = tfp.distributions

Array = Any
Variables = Mapping[str, "np.ndarray | tf.Variable | tf.Tensor"]


class Part(tfd.Distribution):
    """Shape, dtype and name of one latent; the density is the whole's."""

    def __init__(self, shape: tuple[int, ...], dtype: tf.DType, name: str) -> None:
        parameters = dict(locals())
        self.shape = self._no_dependency(shape)
        super().__init__(
            dtype=dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.zeros([0], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape(self.shape)

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant(list(self.shape), tf.int32)


class StaticAttributes(NamedTuple):
    """What a joint distribution asks of its parts without running them, each a list by part."""

    batch_shape: list[tf.TensorShape]
    dtype: list[tf.DType]
    event_shape: list[tf.TensorShape]
    experimental_shard_axis_names: list[Any]
    name: list[str]
    reparameterization_type: list[Any]


class SurrogatePosterior(tfd.JointDistribution):
    """A guide on a batch: a dict of latents by name, `[*sample shape, *plates, *event]`.

    Args:
        plan: the plan.
        weights: shared weights, `{"block/...": array}`; arrays become variables, tensors stay.
        tables: free tables, `{block: [copies + 1, columns]}`, likewise.
        batch: the rows that the latents are on, and the data that encoders read. On a reduced batch
            `log_prob` counts every row for the N / N^r rows that it stands for (paper, eq. 8).
        name: prefix of the variables' names.
        structure: what a value is, with the latents' names in the places of their values, where
            that is no dict by name: `["mu", "theta"]`.
        layouts: the axes of a latent's value, where they are not `[*plates, *event]`.
    """

    def __init__(
        self,
        plan: GuidePlan,
        weights: Variables,
        tables: Variables,
        batch: Batch,
        name: str = "pavi",
        structure: Any = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        fixed = {f"{b.name}/{k}" for b in plan.blocks for k, s in b.parameters if not s.trainable}
        self.weights = {
            k: _variable(v, f"{name}/{k}", trainable=k not in fixed) for k, v in weights.items()
        }
        self.tables = {
            k: _variable(v, f"{name}/{k}/table", trainable=True) for k, v in tables.items()
        }
        batch = as_tensors(batch)
        self._plan, self._batch = plan, self._no_dependency(batch)
        self._sizes = self._no_dependency({p: i.shape[0] for p, i in batch.indices.items()})
        whole = [p for p, i in batch.indices.items() if _is_whole(i, plan.sizes[p])]
        self._whole = self._no_dependency(frozenset(whole))
        # A guide that is exact has no weights.
        numbers = (*self.weights.values(), *self.tables.values(), *batch.values.values())
        self._run_dtype = numbers[0].dtype
        names = [latent.name for latent in plan.graph.latents]
        self._structure = self._no_dependency(structure or {name: name for name in names})
        self._layouts = self._no_dependency(dict(layouts or {}))
        for latent in plan.graph.latents:
            sizes = (*(self._sizes[p] for p in latent.plates), *latent.event)
            self._layouts.setdefault(latent.name, Layout.of(sizes))
        self._parts = self._no_dependency(
            [
                Part(self._layouts[name].shape, self._run_dtype, name)
                for name in leaves(self._structure)
            ]
        )
        super().__init__(
            dtype=None,
            validate_args=False,
            # A copy shares the variables.
            parameters={
                "plan": plan,
                "weights": self.weights,
                "tables": self.tables,
                "batch": batch,
                "name": name,
                "structure": structure,
                "layouts": layouts,
            },
            name=name,
            batch_ndims=0,
        )

    def _model_flatten(self, xs: Any) -> tuple[Any, ...]:
        return entries(self._structure, xs)

    def _model_unflatten(self, xs: Iterable[Any]) -> Any:
        return restructured(self._structure, xs)

    def _get_single_sample_distributions(self, candidate_dists: Any = None) -> list[Part]:
        return list(self._parts)

    def _get_static_distribution_attributes(self, seed: Any = None) -> StaticAttributes:
        return StaticAttributes(
            *([getattr(p, field) for p in self._parts] for field in StaticAttributes._fields)
        )

    def _draw(self, sample_shape: Any, seed: Any, value: Any) -> tuple[guide.Draw, list[int]]:
        """Draws `[S, *plates, *event]`, and the sample shape, whose product is S."""
        if value is not None and any(x is not None for x in self._model_flatten(value)):
            self._execute_model()
        shape = tf.get_static_value(tf.convert_to_tensor(sample_shape, tf.int32))
        if shape is None:
            raise ValueError(f"{self.name}: the sample shape must be known when a graph is traced.")
        shape = [int(size) for size in np.atleast_1d(shape)]
        shapes = guide.noise_shapes(self._plan, prod(shape), self._sizes)
        seeds = tfp.random.split_seed(tfp.random.sanitize_seed(seed), n=len(shapes))
        noise = {
            block: tf.random.stateless_normal(noise_shape, seed, dtype=self._run_dtype)
            for seed, (block, noise_shape) in zip(seeds, shapes.items(), strict=True)
        }
        weights, rows = self._read()
        return guide.sample(self._plan, weights, rows, noise, self._batch), shape

    def _read(self) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """The weights, and the rows of the tables that are in the batch."""
        rows = {}
        for name, table in self.tables.items():
            plates = self._plan.block(name).axes
            sizes = [self._sizes[plate] for plate in plates]
            if all(plate in self._whole for plate in plates):
                # dense gradients, which optimizers of pure functions want
                picked = table[:-1]
            else:
                picked = tf.gather(table, table_rows(self._plan, name, self._batch))
            rows[name] = tf.reshape(picked, (*sizes, table.shape[-1]))
        return {k: tf.convert_to_tensor(v) for k, v in self.weights.items()}, rows

    def _shaped(self, draw: guide.Draw, shape: list[int]) -> Any:
        return self._model_unflatten(
            self._layouts[part.name].to_host(draw.values[part.name], shape) for part in self._parts
        )

    def _sample_n(self, sample_shape: Any, seed: Any, value: Any = None) -> Any:
        return self._shaped(*self._draw(sample_shape, seed, value))

    def _sample_and_log_prob(
        self, sample_shape: Any, seed: Any, value: Any = None, **kwargs: Any
    ) -> tuple[Any, tf.Tensor]:
        value = self._resolve_value(value=value, allow_partially_specified=True, **kwargs)
        draw, shape = self._draw(sample_shape, seed, value)
        log_q = guide.weighted_log_prob(self._plan, draw, self._batch)
        return self._shaped(draw, shape), tf.reshape(log_q, shape)

    def _log_prob(self, value: Any) -> tf.Tensor:
        own = {
            part.name: self._layouts[part.name].to_variable(self._checked(part, x))
            for part, x in zip(self._parts, self._model_flatten(value), strict=True)
        }
        values, sample_shape = with_one_lead(self._plan.graph, own, self._run_dtype)
        weights, rows = self._read()
        draw = guide.log_prob(self._plan, weights, rows, values, self._batch)
        return tf.reshape(guide.weighted_log_prob(self._plan, draw, self._batch), sample_shape)

    def _checked(self, part: Part, value: Any) -> tf.Tensor:
        """A latent's value, `[*sample shape, *shape]`."""
        shape = () if value is None else tuple(tf.convert_to_tensor(value).shape)
        rank = len(part.shape)
        if value is None or len(shape) < rank or shape[len(shape) - rank :] != part.shape:
            given = "no value" if value is None else f"a value of shape {shape}"
            raise ValueError(
                f"{self.name}: latent {part.name!r} has {given}, wanted [sample shape, "
                f"{', '.join(map(str, part.shape))}]. Give all latents as `sample` returns them."
            )
        return tf.cast(value, self._run_dtype)

    def _unnormalized_log_prob(self, value: Any) -> tf.Tensor:
        return self._log_prob(value)

    def _execute_model(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"{self.name}: latents of one block are jointly dense, so that no part has a "
            "distribution of its own. Use `sample`, `log_prob` and "
            "`experimental_sample_and_log_prob` on all of them."
        )


def make_surrogate(
    plan: GuidePlan, initial_weights: Variables, initial_tables: Variables, batch: Batch
) -> SurrogatePosterior:
    """The plan as a surrogate posterior with trainable variables.

    Args:
        plan: the plan.
        initial_weights: initial values of the shared weights; variables are used as they are, so
            that `make_surrogate(plan, other.weights, other.tables, batch)` is `other` on another
            batch.
        initial_tables: those of the free tables.
        batch: the batch.

    Returns:
        A `tfd.JointDistribution` for `tfp.vi.fit_surrogate_posterior`, with
        `make_joint_log_prob(plan.graph, batch)` for its target.
    """
    return SurrogatePosterior(plan, initial_weights, initial_tables, batch)


def _is_whole(index: tf.Tensor, size: int) -> bool:
    """Whether an index is known to be all rows in order."""
    static = tf.get_static_value(index)
    return static is not None and np.array_equal(static, np.arange(size))


def _variable(
    value: np.ndarray | tf.Variable | tf.Tensor, name: str, *, trainable: bool
) -> tf.Variable | tf.Tensor:
    if tf.is_tensor(value):
        return value
    return tf.Variable(value, name=name, trainable=trainable)
