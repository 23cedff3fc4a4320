"""The order of dependence of the masked flow, and that nothing in it is out of sight."""

from __future__ import annotations

import numpy as np
import pytest

from pavi.bijectors import MaskedAutoregressive

STEP = 1e-6


def finite_difference(flow: MaskedAutoregressive, params: dict[str, np.ndarray]) -> np.ndarray:
    """Jacobian dx/dy of the inverse at one point, and dx/dcontext beside it."""
    rng = np.random.default_rng(3)
    y = 0.5 * rng.standard_normal(flow.size)
    context = 0.5 * rng.standard_normal(flow.context_size) if flow.context_size else None
    joint = y if context is None else np.concatenate([y, context])

    def inverse(joint: np.ndarray) -> np.ndarray:
        own = joint[:, flow.size :] if flow.context_size else None
        return flow.inverse_and_log_det(params, joint[:, : flow.size], own)[0]

    steps = STEP * np.eye(joint.size)
    return (inverse(joint + steps) - inverse(joint - steps)).T / (2.0 * STEP)


@pytest.mark.parametrize("transformer", ["spline", "affine"])
@pytest.mark.parametrize("hidden", [(16,), (2,), (9, 4, 11)])
@pytest.mark.parametrize("context_size", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_each_dimension_depends_on_all_those_before_and_on_the_context(
    transformer: str, hidden: tuple[int, ...], context_size: int, reverse: bool
) -> None:
    flow = MaskedAutoregressive(5, context_size, hidden, transformer, bins=4, reverse=reverse)
    rng = np.random.default_rng(0)
    params = {
        name: 0.3 * rng.standard_normal(spec.shape) for name, spec in flow.parameter_specs().items()
    }
    jacobian = finite_difference(flow, params)
    own = jacobian[::-1, 4::-1] if reverse else jacobian[:, :5]
    np.testing.assert_allclose(own, np.tril(own), atol=1e-8)
    assert np.all(np.abs(own[np.tril_indices(5)]) > 1e-6)
    assert np.all(np.abs(jacobian[:, 5:]) > 1e-6)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("context_size", [0, 3])
@pytest.mark.parametrize("width", [1, 3, 6, 32])
def test_degrees_are_sorted_and_start_at_the_first_thing_to_see(
    size: int, context_size: int, width: int
) -> None:
    degrees = MaskedAutoregressive(size, context_size).degrees(width)
    assert degrees.shape == (width,)
    assert np.all(np.diff(degrees) >= 0)
    if size > 1 or context_size:
        assert degrees[0] == (0 if context_size else 1)
        assert degrees[-1] <= size - 1
        if width >= size:
            assert degrees[-1] == size - 1


def test_a_flow_of_one_dimension_without_context_has_no_network() -> None:
    assert list(MaskedAutoregressive(1).parameter_specs()) == ["output/bias"]
