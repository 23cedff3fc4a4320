"""Training on JAX: a loop of many steps inside one compiled call, its state donated."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pavi import objective
from pavi.backends.base import Arrays, Rates, Settings, stage
from pavi.backends.numpyro.compilation import compiled, one_blas_thread
from pavi.backends.numpyro.distributions import log_prob
from pavi.backends.numpyro.precision import precision
from pavi.batch import Batch
from pavi.feed import Call, together
from pavi.plan import GuidePlan
from pavi.tables import FIRST_DECAY, SECOND_DECAY, Table, moved_rows


class JaxState(NamedTuple):
    """What changes from step to step besides the tables, all on the device."""

    weights: Any
    average: Any
    optimizer: Any
    key: Any


class JaxProgram:
    """A plan compiled for training; see `backends.base.Program`."""

    def __init__(self, plan: GuidePlan, settings: Settings) -> None:
        self._plan, self._settings = plan, settings
        self._optimizer = optax.scale_by_adam(b1=FIRST_DECAY, b2=SECOND_DECAY)
        self._jitted = {
            path: compiled(partial(self._steps, path), donate_argnums=0) for path in (False, True)
        }
        self._executables: dict[Any, Future[Any]] = {}
        self._resident: Batch | None = None
        self._state: JaxState | None = None

    def initialise(self, resident: Batch, weights: Arrays, seed: int) -> None:
        """Begins a run; see `backends.base.Program`."""
        with precision(self._settings.dtype):
            self._resident = jax.tree.map(jnp.asarray, resident)
            self._state = JaxState(
                *self._at_rest(weights),
                # XLA's own generator: a fraction of the default one's code and time.
                key=jax.random.key(seed, impl="rbg"),
            )

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
        state = self._existing("run")
        with precision(self._settings.dtype), one_blas_thread():
            rates = Rates(*(np.asarray(rate, self._settings.dtype) for rate in rates))
            steps = len(rates.learning) if steps is None else steps
            inputs = jax.tree.map(jnp.asarray, (call, tables, rates, np.int32(steps)))
            arguments = (state, self._resident, *inputs)
            executable = self._executable(path, arguments).result()
            if path is False and self._settings.gradient == "auto":
                # The second estimator's program is compiled while the first one's steps are taken.
                self._executable(True, arguments)
            self._state, elbo, rows = executable(*arguments)
            return np.asarray(elbo, np.float64)[:steps], jax.tree.map(np.asarray, rows)

    def rebase(self, function: Callable[[Arrays], Arrays]) -> None:
        """Re-expresses the weights on the host; the dense optimizer starts at rest again."""
        state = self._existing("rebase")
        with precision(self._settings.dtype):
            host = function(jax.tree.map(np.asarray, state.weights))
            self._state = JaxState(*self._at_rest(host), key=state.key)

    def weights(self, *, averaged: bool) -> Arrays:
        """The shared weights: their running average, or the last iterate."""
        state = self._existing("weights")
        host: Arrays = jax.tree.map(np.asarray, state.average if averaged else state.weights)
        return host

    def memory(self) -> int | None:
        """Bytes that the programs compiled so far need: arguments, results, what lies between."""
        done = [f.result() for f in self._executables.values() if f.done() and not f.exception()]
        stats = [x for x in (executable.memory_analysis() for executable in done) if x is not None]
        if not stats:
            return None
        return max(
            x.argument_size_in_bytes
            + x.output_size_in_bytes
            + x.temp_size_in_bytes
            - x.alias_size_in_bytes
            for x in stats
        )

    def state(self) -> Arrays:
        """All that changes from step to step besides the tables, for `restore`."""
        state = self._existing("state")
        leaves = jax.tree_util.tree_leaves_with_path(
            state._replace(key=jax.random.key_data(state.key))
        )
        return {jax.tree_util.keystr(place): np.array(leaf) for place, leaf in leaves}

    def restore(self, state: Arrays) -> None:
        """Goes on from what `state` returned; to be called after `initialise`."""
        old = self._existing("restore")
        old = old._replace(key=jax.random.key_data(old.key))
        with precision(self._settings.dtype):
            new = jax.tree_util.tree_map_with_path(
                lambda place, _: jnp.asarray(state[jax.tree_util.keystr(place)]), old
            )
            self._state = new._replace(key=jax.random.wrap_key_data(new.key, impl="rbg"))

    def _at_rest(self, weights: Arrays) -> tuple[Any, Any, Any]:
        """Weights, their average and the optimizer's state, made on the host.

        Each kind of array that JAX makes itself is a program to compile.
        """
        # Copies: the state is donated, and on a CPU a device array may be the host's own.
        weights, average = (
            {name: np.array(w, self._settings.dtype) for name, w in weights.items()}
            for _ in range(2)
        )
        shapes = jax.eval_shape(self._optimizer.init, weights)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        on_device: tuple[Any, Any, Any] = jax.device_put((weights, average, zeros))
        return on_device

    def _existing(self, caller: str) -> JaxState:
        if self._state is None:
            raise RuntimeError(f"initialise() comes before {caller}().")
        return self._state

    def _executable(self, path: bool, arguments: Any) -> Future[Any]:
        """The program of these shapes, which another thread compiles if it is new."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        leaves, structure = jax.tree.flatten(shapes)
        key = (path, structure, tuple((x.shape, str(x.dtype)) for x in leaves))
        if key not in self._executables:
            found = self._executables[key] = Future()

            def compile_() -> None:
                try:
                    with precision(self._settings.dtype):
                        found.set_result(self._jitted[path].lower(*shapes).compile())
                except BaseException as error:  # told to whoever waits for the program
                    found.set_exception(error)

            Thread(target=compile_).start()
        return self._executables[key]

    def _steps(
        self,
        path: bool,
        state: JaxState,
        resident: Batch,
        call: Call | None,
        tables: dict[str, Table],
        rates: Rates,
        steps: jax.Array,
    ) -> tuple[JaxState, jax.Array, dict[str, Table]]:
        def body(step: jax.Array, carry: Any) -> Any:
            own, elbos = carry
            inputs = jax.tree.map(lambda x: x[step], (call, rates))
            own, elbo = self._step(path, resident, own, inputs)
            return own, elbos.at[step].set(elbo)

        # The number of steps is an argument: XLA would write out, and compile, each of a few.
        elbos = jnp.zeros(rates.learning.shape, self._settings.dtype)
        (state, tables), elbos = jax.lax.fori_loop(0, steps, body, ((state, tables), elbos))
        return state, elbos, tables

    def _step(
        self,
        path: bool,
        resident: Batch,
        carry: tuple[JaxState, dict[str, Table]],
        inputs: tuple[Call | None, Rates],
    ) -> tuple[tuple[JaxState, dict[str, Table]], jax.Array]:
        (state, tables), (call, rate) = carry, inputs
        batch = resident if call is None else together(resident, call.batch)
        places: dict[str, Any] = {} if call is None else call.places
        sizes = {plate: index.shape[0] for plate, index in batch.indices.items()}
        key, key_noise = jax.random.split(state.key)
        raised, held = stage(self._plan, self._settings, path=path)
        noise = objective.base_noise(
            self._plan,
            self._settings.num_particles,
            sizes,
            lambda count: jax.random.normal(key_noise, (count,), self._settings.dtype),
            raised,
        )
        drawn = {
            name: jax.tree.map(lambda x, p=places[name]: x[p], table) if name in places else table
            for name, table in tables.items()
        }

        def loss(weights: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
            weights, rows = (objective.held(part, held) for part in (weights, rows))
            shaped = {
                name: row.reshape((*(sizes[p] for p in self._plan.block(name).plates), -1))
                for name, row in rows.items()
            }
            elbo = objective.estimates(
                self._plan, raised, log_prob, weights, shaped, noise, batch, path=path
            ).mean()
            return -elbo, elbo

        (_, elbo), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            state.weights, {name: table.value for name, table in drawn.items()}
        )
        gradients = tuple(
            {n: g * rate.refine if n in self._plan.refining else g for n, g in part.items()}
            for part in gradients
        )
        updates, optimizer = self._optimizer.update(gradients[0], state.optimizer)
        weights = jax.tree.map(lambda w, u: w - rate.learning * u, state.weights, updates)
        average = jax.tree.map(lambda a, w: a + rate.averaging * (w - a), state.average, weights)
        rows = {
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
        # A step that overflowed is left out as a whole rather than let it end the run.
        finite = jnp.isfinite(elbo)
        for gradient in jax.tree.leaves(gradients):
            finite &= jnp.isfinite(gradient).all()
        weights, average, optimizer, rows = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (weights, average, optimizer, rows),
            (state.weights, state.average, state.optimizer, drawn),
        )
        tables = {
            name: jax.tree.map(lambda x, row, p=places[name]: x.at[p].set(row), table, rows[name])
            if name in places
            else rows[name]
            for name, table in tables.items()
        }
        elbo = jnp.where(finite, elbo, jnp.nan)
        return (JaxState(weights, average, optimizer, key), tables), elbo
