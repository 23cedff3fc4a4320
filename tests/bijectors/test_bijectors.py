"""Laws that every registered bijector obeys, on NumPy and on each framework installed.

Weights and contexts are random, never the initial ones: at its start a flow is the identity, and
most mistakes are invisible there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

from pavi import ops
from pavi.bijectors import (
    REGISTRY,
    Bijector,
    Chain,
    DiagonalPotential,
    GaussianPotential,
    PseudoConjugateAffine,
    initial_parameters,
)

SAMPLES, ROWS = 4, 3
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


class Numpy:
    """The oracle; the other voices have its face, and derivatives too."""

    def scope(self, dtype: str) -> Any:
        return nullcontext()

    def constant(self, array: np.ndarray) -> Any:
        return array

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class Jax(Numpy):
    def __init__(self) -> None:
        self.jax = importlib.import_module("jax")

    def scope(self, dtype: str) -> Any:
        return self.jax.enable_x64(dtype == "float64")

    def constant(self, array: np.ndarray) -> Any:
        return self.jax.numpy.asarray(array)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # Compiled in a hurry: the sizes are tiny.
        return self.jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})

    def jacobian(self, function: Callable[[Any], Any], x: Any) -> np.ndarray:
        """Blocks `[..., d, d]`: rows do not mix, so that one tangent serves all of them."""
        basis = [np.broadcast_to(row, x.shape) for row in np.eye(x.shape[-1])]
        column = self.compile(lambda z, tangent: self.jax.jvp(function, (z,), (tangent,))[1])
        return np.stack([column(x, self.constant(tangent)) for tangent in basis], -1)

    def gradients(self, loss: Callable[[list[Any]], Any], leaves: list[Any]) -> list[Any]:
        return self.compile(self.jax.grad(loss))(leaves)


class Tensorflow(Numpy):
    def __init__(self) -> None:
        self.tf = importlib.import_module("tensorflow")

    def constant(self, array: np.ndarray) -> Any:
        return self.tf.constant(array)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.tf.function(function, jit_compile=True)

    def jacobian(self, function: Callable[[Any], Any], x: Any) -> np.ndarray:
        with self.tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = function(x)
            totals = [self.tf.reduce_sum(y[..., i]) for i in range(y.shape[-1])]
        return np.stack([tape.gradient(total, x) for total in totals], -2)

    def gradients(self, loss: Callable[[list[Any]], Any], leaves: list[Any]) -> list[Any]:
        with self.tf.GradientTape() as tape:
            tape.watch(leaves)
            value = loss(leaves)
        return tape.gradient(value, leaves, unconnected_gradients="zero")


FRAMEWORKS = {
    name: voice for name, voice in (("jax", Jax), ("tensorflow", Tensorflow)) if find_spec(name)
}


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: tree_map(function, leaf) for name, leaf in tree.items()}
    if isinstance(tree, GaussianPotential | DiagonalPotential):
        return type(tree)(*(function(leaf) for leaf in tree))
    if isinstance(tree, list):
        return [tree_map(function, leaf) for leaf in tree]
    return function(tree)


def random_context(bijector: Bijector, rng: np.random.Generator) -> Any:
    if isinstance(bijector, PseudoConjugateAffine):
        root = rng.standard_normal((ROWS, bijector.size, 2))
        shift = rng.standard_normal((ROWS, bijector.size))
        return GaussianPotential(root @ np.swapaxes(root, -1, -2), shift)
    if isinstance(bijector, Chain):
        members = [random_context(member, rng) for member in bijector.bijectors]
        if any(isinstance(member, GaussianPotential) for member in members):
            return members
    return rng.standard_normal((ROWS, bijector.context_size)) if bijector.context_size else None


class Case:
    """One bijector with random weights, argument `[SAMPLES, ROWS, d]`, context `[ROWS, ...]`."""

    def __init__(self, name: str, dtype: str = "float64") -> None:
        rng = np.random.default_rng(len(name))
        self.bijector = REGISTRY[name]()
        params = random_weights(self.bijector.parameter_specs(), rng)
        x = 1.5 * rng.standard_normal((SAMPLES, ROWS, self.bijector.size))
        arguments = {"params": params, "x": x, "context": random_context(self.bijector, rng)}
        self.arguments = tree_map(lambda leaf: leaf.astype(dtype), arguments)
        self.params, self.x, self.context = self.arguments.values()

    def leaves(self) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        tree_map(found.append, self.arguments)
        return found

    def rebuild(self, leaves: list[Any]) -> dict[str, Any]:
        remaining = iter(leaves)
        return tree_map(lambda _: next(remaining), self.arguments)


names = pytest.mark.parametrize("name", REGISTRY)
frameworks = pytest.mark.parametrize("framework", FRAMEWORKS)


def both_ways(case: Case, voice: Numpy) -> list[np.ndarray]:
    """Forward, then inverse of what came out, of compiled code where the framework compiles."""

    def function(leaves: list[Any]) -> Any:
        given = case.rebuild(leaves)
        y, log_det = case.bijector.forward_and_log_det(**given)
        given = {"params": given["params"], "y": y, "context": given["context"]}
        return y, log_det, *case.bijector.inverse_and_log_det(**given)

    with voice.scope(case.x.dtype.name):
        results = voice.compile(function)([voice.constant(leaf) for leaf in case.leaves()])
        return [ops.to_numpy(result) for result in results]


@names
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_framework_inverts_and_agrees_with_numpy(name: str, dtype: str) -> None:
    case = Case(name, dtype)
    tolerance = TOLERANCE[dtype]
    oracle = both_ways(case, Numpy())
    for voice in (Numpy, *FRAMEWORKS.values()):
        results = both_ways(case, voice())
        for result, expected in zip(results, oracle, strict=True):
            assert result.dtype == dtype
            np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
        y, log_det, x, inverse_log_det = results
        assert y.shape == case.x.shape
        assert log_det.shape == inverse_log_det.shape == (SAMPLES, ROWS)
        # The inverse amplifies the rounding of y where the map is flat.
        np.testing.assert_allclose(x, case.x, rtol=10 * tolerance, atol=10 * tolerance)
        np.testing.assert_allclose(inverse_log_det, -log_det, rtol=0, atol=10 * tolerance)


@names
@frameworks
def test_log_determinant_is_that_of_the_jacobian(name: str, framework: str) -> None:
    case, voice = Case(name), FRAMEWORKS[framework]()
    with voice.scope("float64"):
        given = tree_map(voice.constant, case.arguments)
        params, context = given["params"], given["context"]

        def forward(x: Any) -> Any:
            return case.bijector.forward_and_log_det(params, x, context)[0]

        _, log_det = case.bijector.forward_and_log_det(case.params, case.x, case.context)
        jacobian = voice.jacobian(forward, given["x"])
    np.testing.assert_allclose(
        log_det, np.linalg.slogdet(jacobian).logabsdet, rtol=1e-10, atol=1e-10
    )


@names
@frameworks
@pytest.mark.parametrize("method", ["forward_and_log_det", "inverse_and_log_det"])
def test_every_leaf_receives_its_gradient(name: str, framework: str, method: str) -> None:
    case, voice = Case(name), FRAMEWORKS[framework]()
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(case.x.shape)

    def loss(leaves: list[Any]) -> Any:
        y, log_det = getattr(case.bijector, method)(*case.rebuild(leaves).values())
        return ops.sum(ops.asarray(weight, like=y) * y * y) + ops.sum(log_det * log_det)

    leaves = case.leaves()
    with voice.scope("float64"):
        gradients = voice.gradients(loss, [voice.constant(leaf) for leaf in leaves])
        gradients = [ops.to_numpy(gradient) for gradient in gradients]
    labels = [*case.params, "x", *("context" for _ in leaves[len(case.params) + 1 :])]
    specs = case.bijector.parameter_specs()
    trained = [label not in specs or specs[label].trainable for label in labels]
    for label, leaf, gradient, is_trained in zip(labels, leaves, gradients, trained, strict=True):
        assert gradient.shape == leaf.shape, label
        assert np.all(np.isfinite(gradient)), label
        # The reference of an affine map is moved by `rebase`, never by a gradient.
        assert np.any(gradient != 0.0) == is_trained, label
    # The derivative along one random direction, against a central difference of the oracle.
    direction = [
        rng.standard_normal(leaf.shape) * is_trained
        for leaf, is_trained in zip(leaves, trained, strict=True)
    ]
    for i, leaf in enumerate(leaves):
        if leaf.ndim == 3 and leaf is not case.x:
            # A precision stays symmetric: what is read of an asymmetric one is nobody's promise.
            direction[i] = direction[i] + np.swapaxes(direction[i], -1, -2)
    step = 1e-6
    ahead = loss([leaf + step * part for leaf, part in zip(leaves, direction, strict=True)])
    behind = loss([leaf - step * part for leaf, part in zip(leaves, direction, strict=True)])
    slope = sum(np.sum(g * part) for g, part in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


@names
def test_leading_axes_broadcast(name: str) -> None:
    case = Case(name)
    y, log_det = case.bijector.forward_and_log_det(case.params, case.x, case.context)
    one_row = tree_map(lambda leaf: leaf[1], case.context)
    y_row, log_det_row = case.bijector.forward_and_log_det(case.params, case.x[0, 1], one_row)
    np.testing.assert_allclose(y_row, y[0, 1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det_row, log_det[0, 1], rtol=1e-12, atol=1e-12)
    if case.context is not None:
        # One argument under every row's context, then what came out of the first row's.
        wide = case.bijector.forward_and_log_det(case.params, case.x[:, :1], case.context)
        assert wide[0].shape == y.shape
        assert wide[1].shape == log_det.shape
        back, _ = case.bijector.inverse_and_log_det(case.params, y[:, :1], case.context)
        assert back.shape == y.shape
        np.testing.assert_allclose(back[:, 0], case.x[:, 0], rtol=1e-9, atol=1e-9)


@names
def test_initial_weights_are_the_identity(name: str) -> None:
    case = Case(name)
    context = case.context
    if isinstance(context, GaussianPotential | list):
        # A potential of zero leaves the prior as it is.
        context = tree_map(np.zeros_like, context)
    specs = case.bijector.parameter_specs()
    params = initial_parameters(specs, np.random.default_rng(1), "float64")
    assert {key: value.shape for key, value in params.items()} == {
        key: spec.shape for key, spec in specs.items()
    }
    for method in (case.bijector.forward_and_log_det, case.bijector.inverse_and_log_det):
        y, log_det = method(params, case.x, context)
        np.testing.assert_allclose(y, case.x, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(log_det, 0.0, atol=1e-14)


@names
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rebase_leaves_the_map_as_it_is(name: str, dtype: str) -> None:
    case, tolerance = Case(name, dtype), TOLERANCE[dtype]
    specs = case.bijector.parameter_specs()
    rebased = case.bijector.rebase(case.params)
    assert {n: (w.shape, w.dtype.name) for n, w in rebased.items()} == {
        n: (spec.shape, dtype) for n, spec in specs.items()
    }
    once = case.bijector.forward_and_log_det(case.params, case.x, case.context)
    again = case.bijector.forward_and_log_det(rebased, case.x, case.context)
    for mine, theirs in zip(again, once, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=10 * tolerance, atol=10 * tolerance)
    # Everything that came to the reference has left the free part.
    for key, value in rebased.items():
        part = key.rpartition("reference_loc")
        if part[1]:
            loc = f"{part[0]}loc"
            np.testing.assert_array_equal(rebased[loc], np.zeros_like(rebased[loc]))
            assert np.all(value != case.params[key])
        elif specs[key].trainable and key.rpartition("/")[2] not in (
            "loc",
            "log_diagonal",
            "off_diagonal",
        ):
            np.testing.assert_array_equal(value, case.params[key])


@names
def test_rebase_at_home_changes_the_basis_alone(name: str) -> None:
    # A second time nothing has moved: the free part is the identity and stays it.
    case = Case(name)
    home = case.bijector.rebase(case.bijector.rebase(case.params))
    for key, value in case.bijector.rebase(home).items():
        np.testing.assert_allclose(value, home[key], rtol=1e-12, atol=1e-12, err_msg=key)
