"""Links: inverse, log-determinant and gradients on NumPy, JAX and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
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
from pavi.bijectors.links import link
from pavi.dist import supports
from pavi.dist.supports import Support
from pavi.errors import GraphError

FRAMEWORKS = [name for name in ("jax", "tensorflow") if find_spec(name)]
DTYPES = ["float32", "float64"]
BATCH = (2, 3)

# name -> (support, event)
CASES: dict[str, tuple[Support, tuple[int, ...]]] = {
    "real": (supports.REAL, ()),
    "positive": (supports.POSITIVE, ()),
    "unit interval": (supports.UNIT_INTERVAL, ()),
    "interval": (supports.Interval(-1, np.array([2.5, 3.0, 9.0])), ()),
    "greater than": (supports.GreaterThan(0.1), ()),
    "less than": (supports.LessThan(np.array([0.1, 0.2, 0.3])), ()),
    "simplex": (supports.SIMPLEX, (4,)),
    "simplex of 1": (supports.SIMPLEX, (1,)),
    "simplex of 2": (supports.SIMPLEX, (2,)),
    "ordered": (supports.ORDERED, (4,)),
    "ordered of 1": (supports.ORDERED, (1,)),
    "lower Cholesky": (supports.LOWER_CHOLESKY, (3, 3)),
    "lower Cholesky of 1": (supports.LOWER_CHOLESKY, (1, 1)),
    "correlation Cholesky": (supports.CORRELATION_CHOLESKY, (4, 4)),
    "correlation Cholesky of 1": (supports.CORRELATION_CHOLESKY, (1, 1)),
}


def coordinates(case: str) -> np.ndarray:
    support, event = CASES[case]
    rng = np.random.default_rng(8)
    return 1.5 * rng.normal(size=(*BATCH, *support.unconstrained_event(event)))


def free_entries(case: str, value: Any) -> Any:
    """The entries of a value `[*batch, *event]` that its coordinates move freely: `[*batch, n]`."""
    support, event = CASES[case]
    if support.event_rank == 0:
        return value[..., None]
    if support.event_rank == 1:
        return value[..., : support.unconstrained_event(event)[0]]
    strict = isinstance(support, supports.CorrelationCholesky)
    rows = [value[..., i, : i if strict else i + 1] for i in range(event[0])]
    return ops.concat(rows, axis=-1)


def compiled(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one NumPy array, compiled by the framework, in that array's precision."""
    framework = import_module(name)
    if name == "tensorflow":
        traced = framework.function(function, jit_compile=True)
        return lambda x: framework.nest.map_structure(ops.to_numpy, traced(framework.constant(x)))

    def in_precision(x: np.ndarray) -> Any:
        before = framework.config.jax_enable_x64
        framework.config.update("jax_enable_x64", x.dtype == np.float64)
        result = framework.tree.map(np.asarray, framework.jit(function)(x))
        framework.config.update("jax_enable_x64", before)
        return result

    return in_precision


def vector_jacobian(name: str, function: Callable[..., Any], u: Any) -> Any:
    """Gradient of the sum of `function` at `u`."""
    if name == "jax":
        return import_module(name).grad(lambda u: ops.sum(function(u)))(u)
    with import_module(name).GradientTape() as tape:
        tape.watch(u)
        total = ops.sum(function(u))
    return tape.gradient(total, u, unconnected_gradients="zero")


def jacobian(name: str, case: str, u: Any) -> Any:
    """`[n, *batch, *unconstrained_event]`, one row for each free entry of the value.

    Elements of the batch do not mix, so that the gradient of a batch sum holds all their rows.
    """
    support, event = CASES[case]
    size = int(np.prod(support.unconstrained_event(event)))
    rows = [
        vector_jacobian(
            name,
            lambda u, i=i: free_entries(case, link(support).forward_and_log_det(u)[0])[..., i],
            u,
        )
        for i in range(size)
    ]
    return ops.stack(rows, axis=0)


@cache
def everything(name: str, dtype: str) -> dict[str, dict[str, np.ndarray]]:
    """All that is tested of every link, in one compilation; slopes in double precision only."""
    columns = {case: coordinates(case).astype(dtype) for case in CASES}
    packed = np.concatenate([u.reshape(-1) for u in columns.values()])

    def compute(packed: Any) -> Any:
        results, start = {}, 0
        for case, (support, _) in CASES.items():
            shape = columns[case].shape
            stop = start + columns[case].size
            u = ops.reshape(packed[start:stop], shape)
            start = stop
            value, log_det = link(support).forward_and_log_det(u)
            back, inverse_log_det = link(support).inverse_and_log_det(value)
            results[case] = {
                "value": value,
                "log_det": log_det,
                "back": back,
                "inverse_log_det": inverse_log_det,
            }
            if name != "numpy" and dtype == "float64" and u.shape[-1]:
                results[case]["jacobian"] = jacobian(name, case, u)
                for part, of in enumerate(("value slope", "log_det slope")):
                    results[case][of] = vector_jacobian(
                        name,
                        lambda u, s=support, p=part: ops.sin(link(s).forward_and_log_det(u)[p]),
                        u,
                    )
        return results

    return compute(packed) if name == "numpy" else compiled(name, compute)(packed)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["numpy", *FRAMEWORKS])
class TestLaws:
    def test_shapes_and_dtype(self, name: str, dtype: str, case: str) -> None:
        found = everything(name, dtype)[case]
        assert found["value"].shape == BATCH + CASES[case][1]
        assert found["log_det"].shape == BATCH
        assert found["inverse_log_det"].shape == BATCH
        assert found["back"].shape == coordinates(case).shape
        assert {array.dtype.name for array in found.values()} == {dtype}

    def test_value_is_in_the_support(self, name: str, dtype: str, case: str) -> None:
        assert CASES[case][0].contains(everything(name, dtype)[case]["value"]).all()

    def test_inverse_undoes_forward(self, name: str, dtype: str, case: str) -> None:
        found = everything(name, dtype)[case]
        tolerance = {"float32": 2e-4, "float64": 1e-11}[dtype]
        np.testing.assert_allclose(found["back"], coordinates(case), tolerance, tolerance)
        np.testing.assert_allclose(
            found["inverse_log_det"], -found["log_det"], tolerance, tolerance
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FRAMEWORKS)
class TestFrameworks:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_agrees_with_numpy(self, name: str, case: str, dtype: str) -> None:
        found, expected = everything(name, dtype)[case], everything("numpy", "float64")[case]
        tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
        for of in ("value", "log_det"):
            np.testing.assert_allclose(found[of], expected[of], tolerance, tolerance, err_msg=of)

    def test_eager_agrees_with_numpy(self, name: str, case: str) -> None:
        framework = import_module(name)
        u = coordinates(case).astype("float32")
        u = framework.numpy.asarray(u) if name == "jax" else framework.constant(u)
        value, log_det = link(CASES[case][0]).forward_and_log_det(u)
        back, _ = link(CASES[case][0]).inverse_and_log_det(value)
        assert ops.namespace(value).name == name
        assert {ops.dtype_name(x) for x in (value, log_det, back)} == {"float32"}
        expected = everything("numpy", "float64")[case]
        np.testing.assert_allclose(ops.to_numpy(value), expected["value"], 1e-5, 1e-5)
        np.testing.assert_allclose(ops.to_numpy(log_det), expected["log_det"], 1e-5, 1e-5)
        np.testing.assert_allclose(ops.to_numpy(back), coordinates(case), 2e-4, 2e-4)

    def test_log_det_is_that_of_the_jacobian(self, name: str, case: str) -> None:
        found = everything(name, "float64")[case]
        if "jacobian" in found:
            rows = np.moveaxis(found["jacobian"].reshape(-1, *BATCH, len(found["jacobian"])), 0, -2)
            expected = np.linalg.slogdet(rows)[1]
        else:
            # A single point: nothing moves.
            expected = np.zeros(BATCH)
        np.testing.assert_allclose(found["log_det"], expected, rtol=1e-10, atol=1e-11)

    def test_slopes(self, name: str, case: str) -> None:
        found, u = everything(name, "float64")[case], coordinates(case)
        if "jacobian" not in found:
            assert u.size == 0
            return
        for part, of in enumerate(("value slope", "log_det slope")):
            slopes = differences(
                lambda u, p=part: np.sin(link(CASES[case][0]).forward_and_log_det(u)[p]), u
            )
            np.testing.assert_allclose(found[of], slopes, rtol=1e-6, atol=1e-7, err_msg=of)


def differences(function: Callable[[np.ndarray], np.ndarray], u: np.ndarray) -> np.ndarray:
    """Central differences of the sum of `function`."""
    step, slopes = 1e-5, np.zeros(u.shape)
    for index in np.ndindex(u.shape):
        shift = np.zeros(u.shape)
        shift[index] = step
        slopes[index] = (function(u + shift) - function(u - shift)).sum() / (2 * step)
    return slopes


# In float32 an increment far below its neighbour is lost: an ordered vector can then have ties.
SATURATING = [case for case in CASES if "ordered" not in case and "of 1" not in case]


@pytest.mark.parametrize("case", SATURATING)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_far_out_all_stays_finite(case: str, name: str) -> None:
    support, _ = CASES[case]
    signs = np.sign(coordinates(case))
    u = np.concatenate([60.0 * signs, 1e4 * signs]).astype("float32")

    def compute(u: Any) -> Any:
        value, log_det = link(support).forward_and_log_det(u)
        slope = vector_jacobian(name, lambda u: link(support).forward_and_log_det(u)[1], u)
        value_slope = vector_jacobian(name, lambda u: link(support).forward_and_log_det(u)[0], u)
        return value, log_det, slope, value_slope

    results = compiled(name, compute)(u)
    assert support.contains(results[0]).all()
    assert all(np.isfinite(result).all() for result in results)


@settings(max_examples=50)
@given(data=st.data(), case=st.sampled_from(list(CASES)))
def test_inverse_undoes_forward_anywhere(data: st.DataObject, case: str) -> None:
    support, event = CASES[case]
    shape = (*BATCH, *support.unconstrained_event(event))
    u = data.draw(hnp.arrays("float64", shape, elements=st.floats(-6.0, 6.0)))
    value, log_det = link(support).forward_and_log_det(u)
    back, inverse_log_det = link(support).inverse_and_log_det(value)
    assert support.contains(value).all()
    np.testing.assert_allclose(back, u, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "centre"),
    [
        ("simplex", np.full(4, 0.25)),
        ("unit interval", 0.5),
        ("correlation Cholesky", np.eye(4)),
        ("lower Cholesky", np.eye(3)),
        ("ordered", np.arange(4.0)),
    ],
)
def test_zero_is_the_centre(case: str, centre: Any) -> None:
    value, _ = link(CASES[case][0]).forward_and_log_det(np.zeros_like(coordinates(case)))
    np.testing.assert_allclose(value, np.broadcast_to(centre, value.shape), atol=1e-15)


def test_packing_is_row_by_row() -> None:
    value, _ = link(supports.LOWER_CHOLESKY).forward_and_log_det(np.arange(6.0))
    np.testing.assert_allclose(
        value, [[1.0, 0.0, 0.0], [1.0, np.exp(2.0), 0.0], [3.0, 4.0, np.exp(5.0)]]
    )
    value, _ = link(supports.CORRELATION_CHOLESKY).forward_and_log_det(np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(value[1:, 0], np.tanh([0.1, 0.2]))


@pytest.mark.parametrize("support", [supports.BOOLEAN, supports.NON_NEGATIVE_INTEGER])
def test_discrete_supports_have_none(support: Support) -> None:
    with pytest.raises(GraphError, match="continuous support"):
        link(support)
