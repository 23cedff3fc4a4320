"""A plate-amortized surrogate posterior of a TFP joint distribution, in TFP's own manner.

Named and shaped like `tfp.experimental.vi.build_*_surrogate_posterior`: the stateful builder gives
a distribution with `tf.Variable`s, the stateless one a pair of functions, from the same recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pavi.backends.tfp.guide import SurrogatePosterior
from pavi.backends.tfp.layout import Layout
from pavi.backends.tfp.model import as_tensors
from pavi.backends.tfp.parts import AxesOfPlates
from pavi.backends.tfp.portable import ReadModel, read_joint_distribution
from pavi.batch import Batch
from pavi.bijectors import ParameterSpec
from pavi.binding import standards
from pavi.checks import nan_places
from pavi.errors import GraphError
from pavi.family import Family
from pavi.lowering import lower
from pavi.plan import GuidePlan
from pavi.subsampling import full_batch
from pavi.tables import fitted_shapes

InitFn = Callable[..., tuple[tf.Tensor, ...]]
ApplyFn = Callable[..., SurrogatePosterior]


def build_pavi_surrogate_posterior(
    joint_distribution: Any,
    *,
    plates: AxesOfPlates,
    observations: Any = None,
    family: Family | None = None,
    dtype: Any = None,
    seed: Any = None,
) -> SurrogatePosterior:
    """Builds a plate-amortized surrogate posterior of the unobserved parts of a model.

    Args:
        joint_distribution: a `tfd.JointDistributionNamed`, `...Sequential` or `...Coroutine`, or an
            AutoBatched form of it, pinned by `experimental_pin` or not.
        plates: for each plate the parts that lie in it, and which axis of their values it is:
            `{"school": {"theta": 0, "y": 0}}`. Parts go by name, or by their position; axes may be
            negative. A part's axes that are named nowhere are events.
        observations: values of the observed parts, as `experimental_pin` takes them, or by
            position, where the joint distribution is not pinned.
        family: the variational family, `pavi.Family()` by default.
        dtype: floating dtype of the surrogate, that of the unobserved parts by default.
        seed: PRNG seed of the initial weights; see `tfp.random.sanitize_seed`.

    Returns:
        A `tfd.JointDistribution` of the unobserved parts, structured as they are, for
        `tfp.vi.fit_surrogate_posterior`. Its `trainable_variables` are the weights.

    Raises:
        GraphError: the model or `plates` cannot be read, or an observed value is NaN; the message
            names the part and the remedy.

    #### Examples

    ```python
    model = tfd.JointDistributionNamed(dict(
        mu=tfd.Normal(0.0, 5.0),
        tau=tfd.HalfNormal(5.0),
        theta=lambda mu, tau: tfd.Sample(tfd.Normal(mu, tau), 8),
        y=lambda theta: tfd.Independent(tfd.Normal(theta, sigma), 1),
    ))
    target = model.experimental_pin(y=y)
    surrogate = build_pavi_surrogate_posterior(
        target, plates={"school": {"theta": 0, "y": 0}}
    )
    losses = tfp.vi.fit_surrogate_posterior(
        target.unnormalized_log_prob,
        surrogate,
        optimizer=tf_keras.optimizers.Adam(0.05),
        num_steps=1000,
        sample_size=16,
    )
    ```
    """
    recipe = _recipe(joint_distribution, plates, observations, family, dtype)
    values = recipe.initial(seed)
    variables = [
        tf.Variable(value, name=f"pavi/{name}")
        for name, value in zip(recipe.trained, values, strict=True)
    ]
    return recipe.surrogate(variables)


def build_pavi_surrogate_posterior_stateless(
    joint_distribution: Any,
    *,
    plates: AxesOfPlates,
    observations: Any = None,
    family: Family | None = None,
    dtype: Any = None,
) -> tuple[InitFn, ApplyFn]:
    """The surrogate of `build_pavi_surrogate_posterior` without state.

    Args:
        joint_distribution: as there.
        plates: as there.
        observations: as there.
        family: as there.
        dtype: as there.

    Returns:
        `init_fn(seed)`, which gives the initial parameters as a tuple of tensors, and
        `apply_fn(*parameters)`, which gives the surrogate at these; for
        `tfp.vi.fit_surrogate_posterior_stateless`.

    Raises:
        GraphError: the model or `plates` cannot be read; the message names the part and the remedy.
    """
    recipe = _recipe(joint_distribution, plates, observations, family, dtype)

    def init_fn(seed: Any = None) -> tuple[tf.Tensor, ...]:
        return recipe.initial(seed)

    def apply_fn(*parameters: Any) -> SurrogatePosterior:
        whole = len(parameters) == 1 and isinstance(parameters[0], (list, tuple))
        given = parameters[0] if whole else parameters
        recipe.check(given)
        return recipe.surrogate(given)

    return init_fn, apply_fn


@dataclass(frozen=True, eq=False)
class _Recipe:
    """What both builders make a surrogate from.

    Attributes:
        plan: the plan.
        batch: all rows, as tensors.
        dtype: floating dtype of the run.
        structure: the unobserved parts' names in the structure of their values.
        layouts: of the unobserved parts.
    """

    plan: GuidePlan
    batch: Batch
    dtype: tf.DType
    structure: Any
    layouts: Mapping[str, Layout]

    @property
    def specs(self) -> dict[str, ParameterSpec]:
        """The shared weights."""
        return {f"{b.name}/{key}": s for b in self.plan.blocks for key, s in b.parameters}

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of what is trained: weights, then tables."""
        weights = [name for name, spec in self.specs.items() if spec.trainable]
        return (*weights, *(f"{name}/table" for name in fitted_shapes(self.plan)))

    def check(self, trained: Any) -> None:
        """Refuses values of another model's surrogate.

        Raises:
            GraphError: their number or a shape is another; the message names the first.
        """
        shapes = fitted_shapes(self.plan)
        wanted = {
            name: tuple(self.specs[name].shape if name in self.specs else shapes[name[:-6]])
            for name in self.trained
        }
        if len(trained) != len(wanted):
            raise GraphError(
                f"apply_fn was given {len(trained)} parameters, wanted {len(wanted)}: "
                f"{', '.join(wanted)}. Give it those that its own init_fn returns."
            )
        for (name, shape), value in zip(wanted.items(), trained, strict=True):
            if tuple(value.shape) != shape:
                raise GraphError(
                    f"Parameter {name!r} has the shape {tuple(value.shape)}, wanted {shape}: it is "
                    f"of another model, or of plates of other sizes. Give apply_fn the parameters "
                    f"that its own init_fn returns."
                )

    def initial(self, seed: Any) -> tuple[tf.Tensor, ...]:
        """Initial values of what is trained."""
        specs = [spec for spec in self.specs.values() if spec.trainable]
        seeds = tfp.random.split_seed(tfp.random.sanitize_seed(seed), n=max(len(specs), 1))
        weights = [
            _initial(spec, self.dtype, own)
            for spec, own in zip(specs, tf.unstack(seeds)[: len(specs)], strict=True)
        ]
        tables = [tf.zeros(shape, self.dtype) for shape in fitted_shapes(self.plan).values()]
        return (*weights, *tables)

    def surrogate(self, trained: Any) -> SurrogatePosterior:
        """The surrogate with these variables or tensors for what is trained."""
        given = dict(zip(self.trained, trained, strict=True))
        # What gradients leave alone stays at its start, which is not drawn.
        weights = {
            name: given[name] if spec.trainable else _initial(spec, self.dtype, None)
            for name, spec in self.specs.items()
        }
        tables = {name: given[f"{name}/table"] for name in fitted_shapes(self.plan)}
        return SurrogatePosterior(
            self.plan, weights, tables, self.batch, "pavi", self.structure, self.layouts
        )


def _recipe(
    joint_distribution: Any,
    plates: AxesOfPlates,
    observations: Any,
    family: Family | None,
    dtype: Any,
) -> _Recipe:
    read = read_joint_distribution(joint_distribution, plates=plates, observations=observations)
    names = [name for name in read.names if name not in read.observed]
    if not names:
        raise GraphError(
            f"All parts of the joint distribution are observed ({', '.join(read.names)}), so that "
            f"there is nothing to infer. Leave those out of the pins that are to be inferred."
        )
    _check_values(read)
    bound = read.data.bind(read.graph)
    run_dtype = tf.as_dtype(dtype) if dtype is not None else _dtype(read, names)
    if run_dtype not in (tf.float32, tf.float64):
        raise GraphError(f"dtype={run_dtype.name!r}: give tf.float32 or tf.float64.")
    plan = lower(read.graph, family or Family(), bound.sizes, standards=standards(bound))
    return _Recipe(
        plan,
        as_tensors(full_batch(bound, run_dtype.name)),
        run_dtype,
        _structure(read),
        {name: read.layouts[name] for name in names},
    )


def _check_values(read: ReadModel) -> None:
    """Refuses observed values at which the joint distribution itself has no density."""
    for part in read.observed:
        missing = nan_places(np.asarray(read.data.values[part]))
        if missing:
            raise GraphError(
                f"The observed value of part {part!r} is {missing} along its plates, and so is any "
                f"loss. Leave these out of the model, or fit pavi.PlateGraph.from_tfp(...), for "
                f"which NaN is missing."
            )


def _dtype(read: ReadModel, names: list[str]) -> tf.DType:
    """The dtype of the unobserved parts."""
    flat = read.joint._model_flatten(read.joint.dtype)
    by_part = dict(zip(read.names, map(tf.as_dtype, flat), strict=True))
    found = {by_part[name] for name in names}
    if len(found) > 1:
        listed = ", ".join(f"{name} {by_part[name].name}" for name in names)
        raise GraphError(
            f"The unobserved parts have different dtypes ({listed}). Give one by dtype=..., and "
            f"parameters of one dtype to the model."
        )
    return found.pop()


def _structure(read: ReadModel) -> Any:
    """The unobserved parts' names in the structure of their values."""
    whole = read.joint._model_unflatten(read.names)
    if not read.observed:
        return whole
    pins = dict.fromkeys(read.observed, 0.0)
    pinned = tfp.experimental.distributions.JointDistributionPinned(read.joint, **pins)
    return pinned._prune(whole, retain="unpinned")


def _initial(spec: ParameterSpec, dtype: tf.DType, seed: Any) -> tf.Tensor:
    """The initial value of a weight, drawn only where it is random."""
    if spec.init == "normal":
        return spec.scale * tf.random.stateless_normal(spec.shape, seed, dtype=dtype)
    if spec.init == "eye":
        *batch, rows, columns = spec.shape
        return spec.scale * tf.eye(rows, columns, batch_shape=batch, dtype=dtype)
    value = {"zeros": 0.0, "constant": spec.scale}[spec.init]
    return tf.constant(np.full(spec.shape, value), dtype)
