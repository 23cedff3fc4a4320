"""Running a function of a problem's arrays on NumPy, JAX or TensorFlow, and differentiating it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from dist.oracle import log_prob as oracle
from varied_models import Problem

from pavi import objective, ops
from pavi.batch import Batch

Tree = Any


def host_log_prob(voice: str) -> Any:
    """The log density of a spec: SciPy's, NumPyro's or TFP's."""
    if voice == "numpy":
        return oracle
    return import_module(f"pavi.backends.{voice}.distributions").log_prob


def on(voice: str, function: Callable[..., Tree], dtype: str) -> Callable[..., Tree]:
    """`function` of NumPy arrays: JAX compiles it, TensorFlow runs it op by op."""
    if voice == "numpy":
        return function
    if voice == "tfp":
        import tensorflow as tf

        def eager(*arguments: Tree) -> Tree:
            out = function(*tf.nest.map_structure(tf.convert_to_tensor, arguments))
            return tf.nest.map_structure(lambda x: x.numpy(), out)

        return eager
    import jax

    from pavi.backends.numpyro.precision import precision

    # Compiled in a hurry: the sizes are tiny.
    quick = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})

    def compiled(*arguments: Tree) -> Tree:
        with precision(dtype):
            return jax.tree.map(np.asarray, quick(*jax.tree.map(jax.numpy.asarray, arguments)))

    return compiled


def differentiated(
    voice: str, loss: Callable[[Tree, Tree], Tree], weights: Tree, rows: Tree
) -> tuple[Tree, Tree]:
    """Value and gradients of `loss`; to be called inside a function given to `on`."""
    if voice == "numpyro":
        import jax

        return jax.value_and_grad(loss, argnums=(0, 1))(weights, rows)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch((weights, rows))
        value = loss(weights, rows)
    return value, tape.gradient(value, (weights, rows), unconnected_gradients="zero")


class Elbo:
    """The mean ELBO of a problem and its gradients; compiled once for each shape."""

    def __init__(self, voice: str, p: Problem, path: bool) -> None:
        def run(weights: Tree, rows: Tree, noise: Tree, batch: Batch) -> Tree:
            def mean(weights: Tree, rows: Tree) -> Tree:
                log_prob = host_log_prob(voice)
                return ops.mean(
                    objective.elbo_samples(p.plan, log_prob, weights, rows, noise, batch, path=path)
                )

            return differentiated(voice, mean, weights, rows)

        self._run = on(voice, run, p.dtype)
        self._problem = p

    def __call__(
        self, noise: Tree, rows: Tree | None = None, batch: Batch | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The ELBO, and its gradients with respect to the weights and to the rows."""
        p = self._problem
        rows = p.rows if rows is None else rows
        value, (weights, rows) = self._run(p.weights, rows, noise, batch or p.batch)
        return value, weights, rows
