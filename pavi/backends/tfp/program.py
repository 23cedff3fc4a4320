"""Training on TensorFlow: a loop of many steps inside one compiled call, its state in variables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from pavi import objective
from pavi.backends.base import Arrays, Rates, Settings, stage
from pavi.backends.tfp.compilation import compiled
from pavi.backends.tfp.distributions import log_prob
from pavi.batch import Batch
from pavi.feed import Call, together
from pavi.plan import GuidePlan
from pavi.tables import EPSILON, FIRST_DECAY, SECOND_DECAY, Table, moved_rows


class TensorFlowState(NamedTuple):
    """What changes from step to step besides the tables and the optimizer, all variables.

    The shared weights lie end to end in one vector: one update instead of one for each of them.
    """

    weights: tf.Variable
    average: tf.Variable
    seed: tf.Variable
    step: tf.Variable


class TensorFlowProgram:
    """A plan compiled for training; see `backends.base.Program`."""

    def __init__(self, plan: GuidePlan, settings: Settings) -> None:
        self._plan, self._settings = plan, settings
        # optax.scale_by_adam, to the last constant
        self._optimizer = tf_keras.optimizers.Adam(
            beta_1=FIRST_DECAY, beta_2=SECOND_DECAY, epsilon=EPSILON, jit_compile=False
        )
        self._run = {path: compiled(partial(self._steps, path)) for path in (False, True)}
        self._shapes = {
            f"{block.name}/{name}": spec.shape
            for block in plan.blocks
            for name, spec in block.parameters
        }
        self._resident: Batch | None = None
        self._state: TensorFlowState | None = None

    def initialise(self, resident: Batch, weights: Arrays, seed: int) -> None:
        """Begins a run; see `backends.base.Program`."""
        self._resident = tf.nest.map_structure(tf.convert_to_tensor, resident)
        flat = self._flat(weights)
        start = TensorFlowState(flat, flat, seed=np.int64(seed), step=np.int64(0))
        if self._state is None:
            self._state = tf.nest.map_structure(tf.Variable, start)
            self._optimizer.build([self._state.weights])
        else:
            # The compiled program holds on to its variables.
            tf.nest.map_structure(lambda old, new: old.assign(new), self._state, start)
            self._rest()

    def run(
        self,
        call: Call | None,
        tables: dict[str, Table],
        rates: Rates,
        *,
        path: bool,
        steps: int | None = None,
    ) -> tuple[np.ndarray, dict[str, Table]]:
        """Takes steps; see `backends.base.Program`."""
        self._existing("run")
        rates = Rates(*(np.asarray(rate, self._settings.dtype) for rate in rates))
        steps = len(rates.learning) if steps is None else steps
        # Nothing of its own is everything; None would be a leaf to TensorFlow.
        call = call or Call(Batch({}, {}, {}, {}, {}), {})
        inputs = tf.nest.map_structure(tf.convert_to_tensor, (call, rates))
        tables = tf.nest.map_structure(tf.convert_to_tensor, tables)
        elbo, tables = self._run[path](self._resident, inputs, tables, tf.constant(steps))
        host = tf.nest.map_structure(lambda x: x.numpy(), tables)
        return np.asarray(elbo, np.float64)[:steps], host

    def rebase(self, function: Callable[[Arrays], Arrays]) -> None:
        """Re-expresses the weights on the host; the dense optimizer starts at rest again."""
        state = self._existing("rebase")
        weights = self._flat(function(self.weights(averaged=False)))
        state.weights.assign(weights)
        state.average.assign(weights)
        self._rest()

    def weights(self, *, averaged: bool) -> Arrays:
        """The shared weights: their running average, or the last iterate."""
        state = self._existing("weights")
        chosen = state.average if averaged else state.weights
        return {name: w.numpy() for name, w in self._split(chosen).items()}

    def memory(self) -> int | None:
        """TensorFlow does not tell."""
        return None

    def state(self) -> Arrays:
        """All that changes from step to step besides the tables, for `restore`."""
        return {name: variable.numpy() for name, variable in self._variables("state").items()}

    def restore(self, state: Arrays) -> None:
        """Goes on from what `state` returned; to be called after `initialise`."""
        for name, variable in self._variables("restore").items():
            variable.assign(state[name])

    def _variables(self, caller: str) -> dict[str, tf.Variable]:
        """All variables by name: the optimizer's by their place."""
        own = self._existing(caller)._asdict()
        return own | {f"optimizer/{i}": v for i, v in enumerate(self._optimizer.variables)}

    def _existing(self, caller: str) -> TensorFlowState:
        if self._state is None:
            raise RuntimeError(f"initialise() comes before {caller}().")
        return self._state

    def _rest(self) -> None:
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def _flat(self, weights: Arrays) -> np.ndarray:
        """The weights end to end."""
        parts = [np.ravel(weights[name]) for name in self._shapes]
        return np.concatenate([np.zeros(0), *parts]).astype(self._settings.dtype)

    def _split(self, flat: tf.Tensor) -> dict[str, tf.Tensor]:
        """The weights by name, from the vector that holds them all."""
        sizes = np.array([prod(shape) for shape in self._shapes.values()], np.int32)
        parts = tf.split(flat, sizes) if len(sizes) else []
        return {
            name: tf.reshape(part, shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }

    def _steps(
        self,
        path: bool,
        resident: Batch,
        inputs: tuple[Call, Rates],
        tables: dict[str, Table],
        steps: tf.Tensor,
    ) -> tuple[tf.Tensor, dict[str, Table]]:
        state, most = self._existing("run"), inputs[1].learning.shape[0]

        def body(
            step: tf.Tensor, average: tf.Tensor, tables: Any, elbos: tf.TensorArray
        ) -> tuple[Any, ...]:
            own = tf.nest.map_structure(lambda x: tf.gather(x, step), inputs)
            average, tables, elbo = self._step(
                path, resident, average, tables, state.step + tf.cast(step, tf.int64), own
            )
            return step + 1, average, tables, elbos.write(step, elbo)

        _, average, tables, elbos = tf.while_loop(
            lambda step, *_: step < steps,
            body,
            (
                tf.constant(0),
                tf.convert_to_tensor(state.average),
                tables,
                tf.TensorArray(self._settings.dtype, most, element_shape=()),
            ),
            maximum_iterations=most,
        )
        state.average.assign(average)
        state.step.assign_add(tf.cast(steps, tf.int64))
        return elbos.stack(), tables

    def _step(
        self,
        path: bool,
        resident: Batch,
        average: tf.Tensor,
        tables: dict[str, Table],
        step: tf.Tensor,
        inputs: tuple[Call, Rates],
    ) -> tuple[tf.Tensor, dict[str, Table], tf.Tensor]:
        state = self._existing("run")
        (own, places), rate = inputs
        batch = together(resident, own)
        sizes = {plate: index.shape[0] for plate, index in batch.indices.items()}
        raised, held = stage(self._plan, self._settings, path=path)
        # A generator of no state: the bits depend on the seed and the step alone.
        noise = objective.base_noise(
            self._plan,
            self._settings.num_particles,
            sizes,
            lambda count: tf.random.stateless_normal(
                [count], tf.stack([state.seed, step]), dtype=self._settings.dtype
            ),
            raised,
        )
        drawn = {
            name: Table(*(tf.gather(x, places[name]) for x in table)) if name in places else table
            for name, table in tables.items()
        }

        weights = self._split(tf.convert_to_tensor(state.weights))
        rows = {name: table.value for name, table in drawn.items()}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((weights, rows))
            shaped = {
                name: tf.reshape(row, (*(sizes[p] for p in self._plan.block(name).plates), -1))
                for name, row in objective.held(rows, held).items()
            }
            trained = objective.held(weights, held)
            elbo = tf.reduce_mean(
                objective.estimates(
                    self._plan, raised, log_prob, trained, shaped, noise, batch, path=path
                )
            )
            loss = -elbo
        gradients = tape.gradient(loss, (weights, rows), unconnected_gradients="zero")
        gradients = tuple(
            {n: g * rate.refine if n in self._plan.refining else g for n, g in part.items()}
            for part in gradients
        )
        # A step that overflowed is left out as a whole rather than let it end the run.
        finite = tf.math.is_finite(elbo)
        for part in tf.nest.flatten(gradients):
            finite &= tf.reduce_all(tf.math.is_finite(part))
        changing = [state.weights, *self._optimizer.variables]
        before = [tf.identity(variable) for variable in changing]
        # tf-keras holds the rate in float32 whatever the weights' dtype.
        self._optimizer.learning_rate = tf.cast(rate.learning, self._optimizer.learning_rate.dtype)
        # A guide of sites alone has no weights.
        none = tf.zeros([0], self._settings.dtype)
        parts = [tf.reshape(gradients[0][name], [-1]) for name in self._shapes]
        gradient = tf.concat([none, *parts], 0)
        self._optimizer.apply_gradients([(gradient, state.weights)])
        for variable, old in zip(changing, before, strict=True):
            variable.assign(tf.where(finite, variable, old))
        moved = average + rate.averaging * (state.weights - average)
        average = tf.where(finite, moved, average)
        new_rows = {
            name: moved_rows(
                self._plan,
                name,
                drawn[name],
                gradients[1][name],
                rate.learning,
                rate.averaging,
            )
            for name in tables
        }
        new_rows = tf.nest.map_structure(
            lambda new, old: tf.where(finite, new, old), new_rows, drawn
        )
        tables = {
            name: Table(
                *(
                    tf.tensor_scatter_nd_update(x, places[name][:, None], row)
                    for x, row in zip(table, new_rows[name], strict=True)
                )
            )
            if name in places
            else new_rows[name]
            for name, table in tables.items()
        }
        elbo = tf.where(finite, elbo, float("nan"))
        return average, tables, elbo
