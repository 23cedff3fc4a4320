"""The array namespace: NumPy is the oracle, eager and compiled JAX and TensorFlow the accused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pavi import ops
from pavi.ops import unrolled

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FRAMEWORKS = [name for name in ("jax", "tensorflow") if find_spec(name)]
MODES = [(name, compiled) for name in FRAMEWORKS for compiled in (False, True)]
DTYPES = ["float32", "float64"]

RNG = np.random.default_rng(20)
REALS = RNG.normal(size=(3, 5)) * 3.0
POSITIVES = RNG.gamma(1.5, size=(3, 5)) + 0.05
ROOT = RNG.normal(size=(4, 12, 12))
COVARIANCE = ROOT @ ROOT.swapaxes(-1, -2) + np.eye(12)
LOWER = np.linalg.cholesky(COVARIANCE)
IDS = np.array([0, 2, -1, 3, 2])

# name -> (function, NumPy arrays that become the framework's)
CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "exp": (ops.exp, (REALS,)),
    "log": (ops.log, (POSITIVES,)),
    "log1p": (ops.log1p, (POSITIVES * 1e-4,)),
    "expm1": (ops.expm1, (REALS * 1e-4,)),
    "sqrt": (ops.sqrt, (POSITIVES,)),
    "abs": (ops.abs, (REALS,)),
    "sin": (ops.sin, (REALS,)),
    "cos": (ops.cos, (REALS,)),
    "sinh": (ops.sinh, (REALS,)),
    "cosh": (ops.cosh, (REALS,)),
    "arcsinh": (ops.arcsinh, (np.append(REALS, [-1e6, 1e6, -1e-4]),)),
    "tanh": (ops.tanh, (REALS,)),
    "sigmoid": (ops.sigmoid, (REALS * 10,)),
    "softplus": (ops.softplus, (np.append(REALS, [-80.0, 80.0, 1e4]),)),
    "lgamma": (ops.lgamma, (POSITIVES,)),
    "digamma": (ops.digamma, (POSITIVES,)),
    "trigamma": (ops.trigamma, (np.append(POSITIVES, [1e-3, 100.0, 1e5]),)),
    "erf": (ops.erf, (REALS,)),
    "where": (lambda x, y: ops.where(x > 0, x, y), (REALS, POSITIVES)),
    "where, constants": (
        lambda x: ops.where(x > np.zeros(5), 1, ops.where(x < -1, x, np.ones(5))),
        (REALS,),
    ),
    "maximum": (ops.maximum, (REALS, POSITIVES)),
    "maximum, constant": (lambda x: ops.maximum(np.full(5, 0.5), x), (REALS,)),
    "minimum": (ops.minimum, (REALS, POSITIVES)),
    "minimum, NaN": (ops.minimum, (np.array([np.nan, 1.0, 2.0]), np.array([1.0, np.nan, 0.0]))),
    "clip, double bound": (lambda x: ops.clip(x, -1.0, np.float64(2.0)), (REALS,)),
    "clip, integer bounds": (lambda x: ops.clip(x, -1, np.array(2)), (REALS,)),
    "sum": (ops.sum, (REALS,)),
    "sum, axes": (lambda x: ops.sum(x, axis=(0, -1), keepdims=True), (REALS,)),
    "mean": (lambda x: ops.mean(x, axis=-1), (REALS,)),
    "max": (lambda x: ops.max(x, axis=0), (REALS,)),
    "logsumexp": (lambda x: ops.logsumexp(x * 100, axis=-1), (REALS,)),
    "logsumexp, all": (ops.logsumexp, (REALS,)),
    "logsumexp, kept": (lambda x: ops.logsumexp(x, axis=0, keepdims=True), (REALS,)),
    "logsumexp, of nothing": (lambda x: ops.logsumexp(x, axis=-1), (np.full((2, 3), -np.inf),)),
    "softmax": (lambda x: ops.softmax(x * 30, axis=0), (REALS,)),
    "cumsum": (lambda x: ops.cumsum(x, axis=0), (REALS,)),
    "segment_sum": (lambda x: ops.segment_sum(x, IDS, 3, axis=1), (REALS,)),
    "segment_sum, first": (lambda x: ops.segment_sum(x, IDS[:3], 4, axis=0), (REALS,)),
    "segment_sum, middle": (lambda x: ops.segment_sum(x, IDS[:3], 2, axis=-2), (REALS[None],)),
    "concat, constant": (
        lambda x, y: ops.concat([x, np.ones((3, 1)), y], axis=-1),
        (REALS, POSITIVES),
    ),
    "unstack": (lambda x: ops.stack(ops.unstack(x, 1)[::-1], axis=0), (REALS,)),
    "split": (lambda x: ops.concat(ops.split(x, [2, 3], -1)[::-1], axis=1), (REALS,)),
    "sum, longer": (lambda x: ops.sum(x, axis=1), (RNG.normal(size=(3, 64, 2)),)),
    "sum, of no two factors": (lambda x: ops.sum(x, axis=(-1,)), (RNG.normal(size=(3, 67)),)),
    "stack": (lambda x, y: ops.stack([x, y], axis=1), (REALS, POSITIVES)),
    "stack, numbers": (lambda x: ops.stack([x[0, 0], 1.0, 2], axis=0), (REALS,)),
    "reshape": (lambda x: ops.reshape(x, (5, -1)), (REALS,)),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (2, 3, 5)), (REALS,)),
    "broadcast_arrays": (lambda x, y: ops.broadcast_arrays(x[:, :1], y)[0], (REALS, POSITIVES)),
    "expand_dims": (lambda x: ops.expand_dims(x, -2), (REALS,)),
    "squeeze": (lambda x: ops.squeeze(x[:, :1], -1), (REALS,)),
    "transpose": (ops.transpose, (REALS,)),
    "transpose, order": (lambda x: ops.transpose(x[None], (1, 0, 2)), (REALS,)),
    "take": (lambda x: ops.take(x, np.array([[0, 2], [1, 1]]), axis=0), (REALS,)),
    "take, outside": (lambda x: ops.take(x, np.array([-1, 4, 5]), axis=-1), (REALS,)),
    "matmul": (lambda x, y: ops.matmul(x, ops.transpose(y)), (REALS, POSITIVES)),
    "matmul, batch": (lambda a, x: ops.matmul(a[:, :2, :5], ops.transpose(x)), (LOWER, REALS)),
    "matmul, vector": (lambda x: ops.matmul(x, np.arange(5.0)), (REALS,)),
    "matmul, vector first": (lambda x: ops.matmul(np.arange(3.0), x), (REALS,)),
    "matmul, vectors": (lambda x: ops.matmul(x[0], np.arange(5.0)), (REALS,)),
    "einsum": (lambda a, x: ops.einsum("bij,kj->bki", a[..., :5], x), (LOWER, REALS)),
    "zeros_like": (ops.zeros_like, (REALS,)),
    "ones_like": (ops.ones_like, (REALS,)),
    "cast, integers": (lambda x: ops.cast(np.arange(5), x) * x, (REALS,)),
    "one_hot": (lambda x: ops.one_hot(IDS, 3, like=x), (REALS,)),
    "one_hot, float": (lambda x: ops.one_hot(ops.cast(IDS, x), 3, like=x), (REALS,)),
    "stop_gradient": (ops.stop_gradient, (REALS,)),
    "asarray": (lambda x: ops.asarray(np.arange(5) / 7.0, like=x), (REALS,)),
    "asarray, number": (lambda x: ops.asarray(0.1, like=x), (REALS,)),
    "asarray, own": (ops.asarray, (REALS,)),
    **{
        f"cholesky, {n}": (ops.cholesky, (COVARIANCE[:, :n, :n],))
        for n in (1, 2, unrolled.LARGEST, unrolled.LARGEST + 1, 12)
    },
    **{
        f"solve_triangular, {n}, {transpose}": (
            lambda a, b, transpose=transpose: ops.solve_triangular(a, b, transpose=transpose),
            # A batch to broadcast, and an upper triangle that must not be read.
            (LOWER[:, None, :n, :n] + np.triu(np.full((n, n), 9.0), 1), ROOT[:1, :n, :2]),
        )
        for n in (1, 3, unrolled.LARGEST + 1)
        for transpose in (False, True)
    },
}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Float64 enabled in JAX: float32 must then survive by itself."""
    if "jax" not in FRAMEWORKS:
        yield
        return
    jax = import_module("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def run(mode: tuple[str, bool], function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """`function` of the framework's `arrays`, eager or compiled."""
    name, compiled = mode
    framework = import_module(name)
    if name == "jax":
        function = framework.jit(function) if compiled else function
        return function(*map(framework.numpy.asarray, arrays))
    function = framework.function(function, jit_compile=True) if compiled else function
    return function(*map(framework.constant, arrays))


@cache
def all_results(mode: tuple[str, bool], dtype: str) -> dict[str, Any]:
    """Every case at once: one compilation instead of one a case."""
    flat = [x.astype(dtype) for _, inputs in CASES.values() for x in inputs]

    def everything(*arrays: Any) -> list[Any]:
        rest = list(arrays)
        results = []
        for function, inputs in CASES.values():
            results.append(function(*rest[: len(inputs)]))
            del rest[: len(inputs)]
        return results

    return dict(zip(CASES, run(mode, everything, *flat), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_frameworks_agree_with_numpy(case: str, mode: tuple[str, bool], dtype: str) -> None:
    function, arrays = CASES[case]
    result = all_results(mode, dtype)[case]
    assert ops.dtype_name(result) == dtype
    assert ops.namespace(result).name == mode[0]
    # The oracle always in double precision, at the inputs that the framework was given.
    expected = function(*(x.astype(dtype).astype("float64") for x in arrays))
    assert ops.shape(result) == expected.shape
    tolerance = {"float32": 3e-5, "float64": 1e-10}[dtype]
    np.testing.assert_allclose(
        ops.to_numpy(result),
        expected,
        rtol=tolerance,
        atol=tolerance * np.abs(expected).max() if np.isfinite(expected).all() else 0.0,
    )


@pytest.mark.parametrize("case", [case for case in CASES if "," not in case])
def test_numpy_keeps_single_precision(case: str) -> None:
    # Cases with a comma mix in float64 constants, which NumPy promotes to.
    function, arrays = CASES[case]
    assert ops.dtype_name(function(*(x.astype("float32") for x in arrays))) == "float32"


def gradient(name: str, function: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    """Gradient of the sum of `function`."""
    framework = import_module(name)
    if name == "jax":
        return np.asarray(
            framework.grad(lambda x: ops.sum(function(x)))(framework.numpy.asarray(x))
        )
    x = framework.constant(x)
    with framework.GradientTape() as tape:
        tape.watch(x)
        total = ops.sum(function(x))
    return framework.convert_to_tensor(tape.gradient(total, x)).numpy()


@pytest.mark.parametrize("name", FRAMEWORKS)
class TestGradients:
    @pytest.mark.parametrize(
        ("function", "derivative"),
        [
            (ops.lgamma, ops.digamma),
            (ops.digamma, ops.trigamma),
            (ops.softplus, ops.sigmoid),
            (ops.log1p, lambda x: 1 / (1 + x)),
            (ops.arcsinh, lambda x: 1 / np.sqrt(1 + x * x)),
            (ops.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x)),
            (lambda x: ops.logsumexp(x, axis=-1), lambda x: ops.softmax(x, axis=-1)),
            (lambda x: ops.stop_gradient(x) * x, lambda x: x),
        ],
    )
    def test_closed_forms(self, name: str, function: Any, derivative: Any) -> None:
        np.testing.assert_allclose(gradient(name, function, POSITIVES), derivative(POSITIVES), 1e-9)

    def test_trigamma(self, name: str) -> None:
        step = 1e-5
        expected = (ops.trigamma(POSITIVES + step) - ops.trigamma(POSITIVES - step)) / (2 * step)
        np.testing.assert_allclose(gradient(name, ops.trigamma, POSITIVES), expected, 1e-4)

    @pytest.mark.parametrize("function", [ops.maximum, ops.minimum])
    def test_first_argument_wins_a_tie(self, name: str, function: Any) -> None:
        x = np.zeros(2)
        np.testing.assert_array_equal(gradient(name, lambda x: function(x, 0.0), x), [1.0, 1.0])
        np.testing.assert_array_equal(gradient(name, lambda x: function(0.0, x), x), [0.0, 0.0])

    def test_clip_has_none_outside(self, name: str) -> None:
        x = np.array([-2.0, -1.0, 0.5, 2.0])
        slopes = gradient(name, lambda x: ops.clip(x, -1.0, 1.0), x)
        np.testing.assert_array_equal(slopes, [0.0, 1.0, 1.0, 0.0])

    def test_take_and_segment_sum_are_adjoint(self, name: str) -> None:
        ids = np.array([0, 2, 2, 1, 0])
        weights = np.arange(5.0)
        slopes = gradient(name, lambda x: ops.take(x, ids, axis=0) * weights, np.zeros(3))
        np.testing.assert_array_equal(slopes, ops.segment_sum(weights, ids, 3, axis=0))
        slopes = gradient(
            name, lambda x: ops.segment_sum(x, IDS, 3, axis=0) * np.array([1.0, 2.0, 3.0]), weights
        )
        np.testing.assert_array_equal(slopes, [1.0, 3.0, 0.0, 0.0, 3.0])

    @pytest.mark.parametrize("n", [3, unrolled.LARGEST + 2])
    @pytest.mark.parametrize("transpose", [False, True])
    def test_linear_algebra(self, name: str, n: int, transpose: bool) -> None:
        root, right = ROOT[0, :n, :n], ROOT[1, :n, :2]

        def solution(root: Any) -> Any:
            covariance = ops.matmul(root, ops.transpose(root)) + np.eye(n)
            factor = ops.cholesky(covariance)
            return ops.sin(ops.solve_triangular(factor, right, transpose=transpose))

        step = 1e-5
        expected = np.zeros((n, n))
        for i, j in np.ndindex(n, n):
            shift = np.zeros((n, n))
            shift[i, j] = step
            change = solution(root + shift) - solution(root - shift)
            expected[i, j] = change.sum() / (2 * step)
        np.testing.assert_allclose(gradient(name, solution, root), expected, 1e-5, 1e-7)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("n", [2, unrolled.LARGEST])
def test_small_factor_of_an_indefinite_matrix_is_nan(mode: tuple[str, bool], n: int) -> None:
    matrix = np.eye(n)
    matrix[-1, -1] = -1.0
    assert np.isnan(ops.to_numpy(run(mode, ops.cholesky, matrix))[-1, -1])


LISTED = st.lists(st.integers(-2, 5), min_size=6, max_size=6)


@pytest.mark.parametrize("name", ["numpy", *FRAMEWORKS])
@settings(max_examples=30, deadline=None)
@given(ids=LISTED, x=hnp.arrays("float64", (2, 6, 3), elements=st.floats(-100, 100)))
def test_segment_sum_is_a_product_with_indicators(name: str, ids: list[int], x: Any) -> None:
    # Rows of one_hot are zero where the id is outside, so that dropping is covered.
    expected = np.einsum("sic,ig->sgc", x, ops.one_hot(np.array(ids), 4, like=x))
    given_x = x if name == "numpy" else run((name, False), ops.asarray, x)
    result = ops.to_numpy(ops.segment_sum(given_x, np.array(ids), 4, axis=1))
    np.testing.assert_allclose(result, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["numpy", *FRAMEWORKS])
@settings(max_examples=50, deadline=None)
@given(x=hnp.arrays("float64", 4, elements=st.floats(-1e4, 1e4)))
def test_softplus_is_stable(name: str, x: Any) -> None:
    given_x = x if name == "numpy" else run((name, False), ops.asarray, x)
    # log(1 + e^x) - log(1 + e^-x) = x
    odd = ops.to_numpy(ops.softplus(given_x) - ops.softplus(-given_x))
    np.testing.assert_allclose(odd, x, rtol=1e-12, atol=1e-12)
    assert (ops.to_numpy(ops.softplus(given_x)) >= np.maximum(x, 0.0)).all()


@pytest.mark.parametrize("name", FRAMEWORKS)
class TestConversion:
    def test_asarray_leaves_integers(self, name: str) -> None:
        like = run((name, False), ops.asarray, np.zeros(2, "float32"))
        assert ops.dtype_name(ops.asarray(np.arange(3, dtype="int32"), like=like)) == "int32"
        assert ops.dtype_name(ops.asarray(np.zeros(3), like=like)) == "float32"
        assert ops.namespace(ops.asarray(1.0, like=like)).name == name

    def test_cast_to_double_is_exact(self, name: str) -> None:
        like = run((name, False), ops.asarray, np.zeros(2))
        assert float(ops.cast(0.1, like)) == 0.1

    def test_cast_by_name(self, name: str) -> None:
        x = run((name, False), ops.asarray, np.array([1.7, -0.2]))
        assert ops.dtype_name(ops.cast(x, "int32")) == "int32"
        np.testing.assert_array_equal(ops.to_numpy(ops.cast(x, "int32")), [1, 0])

    def test_integers_join_floats(self, name: str) -> None:
        x = run((name, False), ops.asarray, np.array([1, 2], "int32"))
        half = run((name, False), ops.asarray, np.array([0.5, 0.5], "float32"))
        assert ops.dtype_name(ops.maximum(x, half)) == "float32"

    def test_integers_stay_among_themselves(self, name: str) -> None:
        x = run((name, False), ops.asarray, np.array([1, 2], "int32"))
        assert ops.dtype_name(ops.maximum(x, 1)) == "int32"
        assert ops.dtype_name(ops.sum(x > 1)).startswith("int")


def test_tensorflow_variables_are_arrays() -> None:
    if "tensorflow" in FRAMEWORKS:
        variable = import_module("tensorflow").Variable([[4.0, 0.0], [0.0, 9.0]])
        assert ops.namespace(variable).name == "tensorflow"
        assert ops.shape(variable) == (2, 2)
        np.testing.assert_allclose(ops.to_numpy(ops.cholesky(variable)), [[2.0, 0.0], [0.0, 3.0]])


def test_python_numbers_go_to_numpy() -> None:
    assert ops.namespace(1.0, 2).name == "numpy"
    assert ops.exp(0.0) == 1.0
    assert ops.shape(3) == ()
    assert ops.dtype_name(3.0) == "float64"


def test_nothing_is_imported_for_numpy() -> None:
    program = (
        "import sys, numpy as np; from pavi import ops; ops.exp(np.ones(2)); "
        "print([name for name in ('jax', 'tensorflow', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
