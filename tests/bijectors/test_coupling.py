"""The coupling of splines: which half moves, what moves it, and what is left of it at size 1."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights

from pavi.bijectors import SplineCoupling


@pytest.mark.parametrize(("size", "reverse", "moved"), [(5, False, [2, 3, 4]), (2, True, [0])])
def test_each_dimension_that_moves_depends_on_itself_the_other_half_and_the_context(
    size: int, reverse: bool, moved: list[int]
) -> None:
    flow = SplineCoupling(size, 2, hidden=(6,), bins=4, reverse=reverse)
    rng = np.random.default_rng(0)
    params = random_weights(flow.parameter_specs(), rng)
    joint = 0.5 * rng.standard_normal(size + 2)
    steps = 1e-6 * np.eye(size + 2)

    def forward(joint: np.ndarray) -> np.ndarray:
        return flow.forward_and_log_det(params, joint[:, :size], joint[:, size:])[0]

    point = joint[None]
    back, log_det = flow.inverse_and_log_det(params, forward(point), point[:, size:])
    np.testing.assert_allclose(back, point[:, :size], atol=1e-10)
    jacobian = (forward(joint + steps) - forward(joint - steps)).T / 2e-6
    kept = [i for i in range(size) if i not in moved]
    expected = np.eye(size, size + 2, dtype=bool)
    expected[np.ix_(moved, [*kept, size, size + 1])] = True
    np.testing.assert_array_equal(np.abs(jacobian) > 1e-6, expected)
    np.testing.assert_allclose(jacobian[np.ix_(kept, kept)], np.eye(len(kept)), atol=1e-8)
    slopes = np.diag(jacobian[:, :size])
    np.testing.assert_allclose(log_det, -np.log(slopes).sum(), atol=1e-6)


def test_of_one_dimension_the_spline_sees_the_context_alone() -> None:
    assert list(SplineCoupling(1).parameter_specs()) == ["output/bias"]
    specs = SplineCoupling(1, 3, hidden=(4,)).parameter_specs()
    assert specs["input/context"].shape == (3, 4)
    assert "input/weight" not in specs
