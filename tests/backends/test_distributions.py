"""Both hosts' distributions against the NumPy oracle, for every spec: values, gradients, draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from dist.cases import CASES
from dist.oracle import log_prob as oracle

import pavi
from pavi import dist
from pavi.dist.spec import Spec

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
names = pytest.mark.parametrize("name", CASES)

# What a spec tells beside its density; each gives a tuple of arrays.
FACTS: tuple[Callable[[Spec, Any], Any], ...] = (
    lambda s, x: () if s.discrete else s.unconstrained_moments(),
    lambda s, x: s.predictors(),
    lambda s, x: sum(s.score_and_information(x), ()),
    lambda s, x: [g for g in s.data_predictors(x) if g is not None],
)


def parameters(spec: Spec) -> list[Any]:
    """Every parameter, in the order of `map_parameters`."""
    found: list[Any] = []
    spec.map_parameters(lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found


def rebuilt(spec: Spec, values: list[Any]) -> Spec:
    remaining: Iterator[Any] = iter(values)
    return spec.map_parameters(lambda _: next(remaining))


def differentiate(
    backend: str, function: Callable[[list[Any]], Any], inputs: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value of a compiled function of arrays, and the gradients of its sum."""
    if backend == "numpyro":
        jax = import_module("jax")

        def total(xs: list[Any]) -> tuple[Any, Any]:
            output = function(xs)
            return jax.numpy.sum(output), output

        with jax.enable_x64(inputs[0].dtype == "float64"):
            arrays = [jax.numpy.asarray(x) for x in inputs]
            gradients, output = jax.jit(jax.grad(total, has_aux=True))(arrays)
            return jax.tree.map(np.asarray, (output, gradients))
    tf = import_module("tensorflow")

    @tf.function(jit_compile=True)
    def compiled(xs: list[Any]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(xs)
            output = function(xs)
            total = tf.reduce_sum(output)
        return output, tape.gradient(total, xs, unconnected_gradients="zero")

    return tf.nest.map_structure(lambda x: x.numpy(), compiled([tf.constant(x) for x in inputs]))


def host(backend: str) -> Any:
    return import_module(f"pavi.backends.{backend}.distributions")


@cache
def evaluated(backend: str, dtype: str, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Log density of a case, and the gradients of its sum: compiled, every number an argument."""
    spec, value = CASES[name]
    inputs = [np.asarray(x, dtype) for x in (*parameters(spec), value)]
    return differentiate(backend, partial(log_density_of, backend, spec), inputs)


def log_density_of(backend: str, spec: Spec, inputs: list[Any]) -> Any:
    return host(backend).log_prob(rebuilt(spec, inputs[:-1]), inputs[-1])


def close(actual: Any, expected: Any, dtype: str, factor: float = 1.0) -> None:
    """Within the tolerance, relative to max(1, |expected|)."""
    assert actual.dtype == dtype
    error = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    assert np.all(error <= factor * TOLERANCE[dtype]), error.max()


@names
@dtypes
def test_log_density_is_the_oracle_s(backend: str, dtype: str, name: str) -> None:
    spec, value = CASES[name]
    log_density, _ = evaluated(backend, dtype, name)
    assert log_density.shape == (3,)
    close(log_density, oracle(spec, value), dtype)


@names
@dtypes
def test_gradients_are_finite(backend: str, dtype: str, name: str) -> None:
    _, gradients = evaluated(backend, dtype, name)
    assert all(np.all(np.isfinite(g)) for g in gradients)


@names
def test_gradients_agree_between_the_hosts(name: str) -> None:
    pytest.importorskip("numpyro")
    pytest.importorskip("tensorflow_probability")
    spec, _ = CASES[name]
    one, other = (evaluated(b, "float64", name)[1] for b in ("numpyro", "tfp"))
    compared = dict(zip((*spec.parameters(), "value"), zip(one, other, strict=True), strict=True))
    # A number of trials is an integer to NumPyro; to a fixed entry, L_11 = 1, no host need respond.
    compared = {k: pair for k, pair in compared.items() if not k.endswith("total_count")}
    if isinstance(spec, dist.LKJCholesky):
        compared.pop("value")
    for first, second in compared.values():
        close(first, second, "float64", factor=10.0)


@names
def test_facts_of_a_spec_are_those_of_numpy(backend: str, name: str) -> None:
    spec, value = CASES[name]
    module = import_module({"numpyro": "jax.numpy", "tfp": "tensorflow"}[backend])
    convert = getattr(module, "asarray", None) or module.constant
    with import_module("jax").enable_x64(True) if backend == "numpyro" else nullcontext():
        given = spec.map_parameters(lambda x: convert(np.asarray(x, "float64")))
        tensor = convert(value)
        for fact in FACTS:
            for actual, expected in zip(fact(given, tensor), fact(spec, value), strict=True):
                close(np.asarray(actual), expected, "float64", factor=10.0)


@names
def test_draws_lie_in_the_support(backend: str, name: str) -> None:
    spec, value = CASES[name]
    if isinstance(spec, dist.Flat):
        with pytest.raises(NotImplementedError):
            drawn(backend, spec)
        return
    draws = drawn(backend, spec)
    assert draws.shape[: draws.ndim - spec.event_rank] in {(5,), (5, 1), (5, 3)}
    assert (
        draws.shape[draws.ndim - spec.event_rank :] == value.shape[value.ndim - spec.event_rank :]
    )
    assert np.all(spec.support.contains(draws))


def drawn(backend: str, spec: Spec) -> np.ndarray:
    if backend == "numpyro":
        key = import_module("jax").random.key(0)
        return np.asarray(host(backend).build(spec).sample(key, (5,)))
    return host(backend).build(spec).sample(5, seed=0).numpy()


EDGES: dict[str, tuple[Spec, np.ndarray]] = {
    "a weight of 0": (
        dist.Mixture(np.array([0.0, 1.0]), (dist.Normal(0.0, 1.0), dist.Normal(9.0, 0.1))),
        np.array([0.0, 9.0]),
    ),
    "a distant component": (
        dist.Mixture(np.array([0.5, 0.5]), (dist.Normal(0.0, 1e-3), dist.Normal(1e3, 1e-3))),
        np.array([0.0, 1e3]),
    ),
    "beyond a component's trials": (
        dist.Mixture(np.array([0.5, 0.5]), (dist.Binomial(5, 0.4), dist.Binomial(10, 0.6))),
        np.array([7.0, 10.0]),
    ),
    "beyond a component's bounds": (
        dist.Mixture(
            np.array([0.5, 0.5]),
            (dist.TruncatedNormal(0.0, 1.0, -1.0, 1.0), dist.TruncatedNormal(0.0, 1.0, -5.0, 5.0)),
        ),
        np.array([4.0, -3.0]),
    ),
    "censored at 0": (dist.Censored(dist.LogNormal(0.0, 1.0), np.ones(1)), np.zeros(1)),
    "Weibull censored at 0": (dist.Censored(dist.Weibull(1.0, 0.7), np.ones(1)), np.zeros(1)),
    "censored far out": (
        dist.Censored(dist.Normal(0.0, 1.0), np.array([1.0, -1.0, 1.0])),
        np.array([40.0, -40.0, -40.0]),
    ),
    "a tiny rate": (dist.Poisson(log_rate=np.array([-200.0, -200.0])), np.array([0.0, 3.0])),
    "an extreme logit": (dist.Bernoulli(logits=np.array([200.0, -200.0])), np.array([1.0, 1.0])),
    "an extreme predictor": (
        dist.OrderedLogistic(np.array([-80.0, 80.0, 80.0]), np.array([-1.0, 1.0])),
        np.array([2.0, 0.0, 1.0]),
    ),
    "a category never seen": (dist.Categorical(np.array([0.0, 0.4, 0.6])), np.array([1.0, 2.0])),
    "truncated at its mode": (dist.TruncatedNormal(0.0, 1.0, low=0.0), np.array([0.0, 1.0])),
    "truncated in its tail": (
        dist.TruncatedNormal(0.0, 1.0, np.array([20.0, -21.0]), np.array([21.0, -20.0])),
        np.array([20.5, -20.5]),
    ),
    "counts close to Poisson": (dist.NegativeBinomial(3.0, 1e5), np.array([0.0, 2.0])),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges_are_finite_in_float32(backend: str, edge: str) -> None:
    spec, value = EDGES[edge]
    inputs = [np.asarray(x, "float32") for x in (*parameters(spec), value)]
    function = partial(log_density_of, backend, spec)
    log_density, gradients = differentiate(backend, function, inputs)
    assert np.all(np.isfinite(log_density))
    # The parameters' alone: a value at the end of its support has no derivative.
    assert all(np.all(np.isfinite(g)) for g in gradients[:-1])
    if edge in ("censored far out", "truncated in its tail", "a tiny rate", "a weight of 0"):
        exact = spec.map_parameters(lambda x: np.asarray(x, "float32"))
        close(log_density, oracle(exact, value), "float32")


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (dist.Normal(0.0, 1), None, "float32"),
        (dist.Normal(np.zeros(2), 1.0), None, "float32"),
        (dist.Normal(np.zeros(2), 1.0), "float64", "float64"),
    ],
)
def test_the_dtype_of_a_host_object(
    backend: str, spec: Spec, given: str | None, expected: str
) -> None:
    module = host(backend)
    context = import_module("jax").enable_x64(True) if backend == "numpyro" else nullcontext()
    with context:
        built = module.build(spec, given)
        assert np.dtype(getattr(built.loc.dtype, "name", built.loc.dtype)) == expected
        assert built.batch_shape == np.shape(spec.parameters()["loc"])


@dtypes
def test_a_numpy_constant_takes_the_dtype_of_the_value(backend: str, dtype: str) -> None:
    def function(xs: list[Any]) -> Any:
        return host(backend).log_prob(dist.Normal(np.zeros(3), 2), xs[0])

    log_density, _ = differentiate(backend, function, [np.arange(3, dtype=dtype)])
    close(log_density, oracle(dist.Normal(0.0, 2.0), np.arange(3.0)), dtype)


def test_an_unknown_spec_is_refused_by_name(backend: str) -> None:
    class Novel(dist.Normal):
        pass

    with pytest.raises(pavi.BackendError, match=r"Novel.*RULES"):
        host(backend).build(Novel(0.0, 1.0))


def test_both_hosts_have_a_rule_for_every_spec(backend: str) -> None:
    assert set(host(backend).RULES) == {type(spec) for spec, _ in CASES.values()}


def test_lkj_densities_agree_in_every_dimension() -> None:
    jax, tf = pytest.importorskip("jax"), pytest.importorskip("tensorflow")
    for dimension in (2, 3, 5):
        factor = np.linalg.cholesky(0.4 * np.eye(dimension) + 0.6)
        for concentration in (0.6, 1.0, 4.0):
            spec = dist.LKJCholesky(dimension, concentration)
            with jax.enable_x64(True):
                first = host("numpyro").log_prob(spec, jax.numpy.asarray(factor))
            second = host("tfp").log_prob(spec, tf.constant(factor)).numpy()
            close(np.asarray(first), oracle(spec, factor), "float64")
            close(second, oracle(spec, factor), "float64")


def test_a_spec_is_a_jax_pytree() -> None:
    jax = pytest.importorskip("jax")
    module = host("numpyro")
    for spec, _ in CASES.values():
        leaves, structure = jax.tree.flatten(spec)
        assert len(leaves) == len(spec.parameters())
        assert type(structure.unflatten(leaves)) is type(spec)
    spec, value = CASES["censored_weibull"]
    given = spec.map_parameters(jax.numpy.asarray)
    inside = jax.jit(module.log_prob)(given, value)
    np.testing.assert_allclose(inside, oracle(spec, value), rtol=1e-5)
    built = jax.jit(module.build)(given)
    np.testing.assert_allclose(built.log_prob(value), oracle(spec, value), rtol=1e-5)
