"""Training on JAX: a scan of many steps inside one compiled call, its state donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pavi import objective
from pavi.backends.base import Arrays, Rates, Settings
from pavi.backends.numpyro.compilation import compiled, one_blas_thread
from pavi.backends.numpyro.distributions import log_prob
from pavi.backends.numpyro.precision import precision
from pavi.batch import Batch
from pavi.guide import noise_shapes
from pavi.plan import GuidePlan
from pavi.subsampling import Selection, gather
from pavi.tables import FIRST_DECAY, SECOND_DECAY, adam_rows, new_table, settled, table_rows


class JaxState(NamedTuple):
    """Everything that changes from step to step, all on the device."""

    weights: Any
    average: Any
    tables: Any
    optimizer: Any
    key: Any


class JaxProgram:
    """A plan compiled for training; see `backends.base.Program`."""

    def __init__(self, plan: GuidePlan, full: Batch, settings: Settings) -> None:
        self._plan, self._settings = plan, settings
        self._optimizer = optax.scale_by_adam(b1=FIRST_DECAY, b2=SECOND_DECAY)
        with precision(settings.dtype):
            self._full = jax.tree.map(jnp.asarray, full)
        self._run = {
            path: compiled(partial(self._steps, path), donate_argnums=0) for path in (False, True)
        }
        self._state: JaxState | None = None

    def initialise(self, weights: Arrays, tables: Arrays, seed: int) -> None:
        """Sets the weights, the tables and the random state; the optimizer starts at rest."""
        with precision(self._settings.dtype):
            weights = jax.tree.map(jnp.asarray, weights)
            self._state = JaxState(
                weights=weights,
                average=jax.tree.map(jnp.copy, weights),
                tables={k: jax.tree.map(jnp.asarray, new_table(v)) for k, v in tables.items()},
                optimizer=self._optimizer.init(weights),
                key=jax.random.key(seed),
            )

    def run(self, selection: Selection | None, rates: Rates) -> np.ndarray:
        """Takes `len(rates.learning)` steps.

        Returns:
            The ELBO estimate of each, the mean of its draws; NaN where the step was left out.
        """
        if self._state is None:
            raise RuntimeError("initialise() comes before run().")
        with precision(self._settings.dtype), one_blas_thread():
            rates = Rates(*(np.asarray(rate, self._settings.dtype) for rate in rates))
            run = self._run[bool(rates.path[0])]
            self._state, elbo = run(self._state, self._full, selection, rates)
            return np.asarray(elbo, np.float64)

    def rebase(self, function: Callable[[Arrays], Arrays]) -> None:
        """Re-expresses the weights on the host; the dense optimizer starts at rest again."""
        if self._state is None:
            raise RuntimeError("initialise() comes before rebase().")
        with precision(self._settings.dtype):
            host = function(jax.tree.map(np.asarray, self._state.weights))
            weights = jax.tree.map(jnp.asarray, host)
            self._state = self._state._replace(
                weights=weights,
                average=jax.tree.map(jnp.copy, weights),
                optimizer=self._optimizer.init(weights),
            )

    def weights(self, *, averaged: bool) -> tuple[Arrays, Arrays]:
        """Weights (the running average or the last iterate) and tables."""
        if self._state is None:
            raise RuntimeError("initialise() comes before weights().")
        chosen = self._state.average if averaged else self._state.weights
        tables = {
            name: settled(table) if averaged else np.asarray(table.value)
            for name, table in self._state.tables.items()
        }
        return jax.tree.map(np.asarray, chosen), tables

    def _steps(
        self, path: bool, state: JaxState, full: Batch, selection: Selection | None, rates: Rates
    ) -> tuple[JaxState, jax.Array]:
        return jax.lax.scan(partial(self._step, path, full), state, (selection, rates))

    def _step(
        self, path: bool, full: Batch, state: JaxState, inputs: tuple[Selection | None, Rates]
    ) -> tuple[JaxState, jax.Array]:
        selection, rate = inputs
        batch = full if selection is None else gather(self._plan.graph, full, selection)
        sizes = {plate: index.shape[0] for plate, index in batch.indices.items()}
        key, key_noise = jax.random.split(state.key)
        shapes = noise_shapes(self._plan, self._settings.num_particles, sizes)
        keys = jax.random.split(key_noise, len(shapes))
        noise = {
            name: jax.random.normal(k, shape, self._settings.dtype)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        places = {
            name: slice(self._plan.block(name).copies)
            if selection is None
            else table_rows(self._plan, name, batch)
            for name in state.tables
        }
        drawn = {
            name: jax.tree.map(lambda x, p=places[name]: x[p], table)
            for name, table in state.tables.items()
        }

        def loss(weights: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
            shaped = {
                name: row.reshape((*(sizes[p] for p in self._plan.block(name).plates), -1))
                for name, row in rows.items()
            }
            elbo = objective.elbo_samples(
                self._plan,
                log_prob,
                weights,
                shaped,
                noise,
                batch,
                path=1.0 if path else None,
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
            name: adam_rows(drawn[name], gradients[1][name], rate.learning, rate.averaging)
            for name in state.tables
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
            for name, table in state.tables.items()
        }
        elbo = jnp.where(finite, elbo, jnp.nan)
        return JaxState(weights, average, tables, optimizer, key), elbo
