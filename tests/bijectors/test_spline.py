"""The rational-quadratic spline: its knots, its slopes, its tails, and hard parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pavi.bijectors.spline import MIN_DERIVATIVE, MIN_SHARE, rational_quadratic_spline
from pavi.errors import PaviError

BOUND = 3.0


def raw(seed: int, bins: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    widths, heights, derivatives = (scale * rng.standard_normal(n) for n in (bins, bins, bins - 1))
    return widths, heights, derivatives


def knots(sizes: np.ndarray) -> np.ndarray:
    share = np.exp(sizes) / np.exp(sizes).sum()
    share = MIN_SHARE / sizes.size + (1.0 - MIN_SHARE) * share
    return BOUND * (2.0 * np.cumsum(share) - 1.0)[:-1]


def test_it_passes_the_inner_knots_at_the_given_slopes() -> None:
    widths, heights, derivatives = raw(0, 5)
    x = knots(widths)
    y, log_slope = rational_quadratic_spline(x, widths, heights, derivatives, BOUND)
    np.testing.assert_allclose(y, knots(heights), rtol=1e-10)
    slope = MIN_DERIVATIVE + (1.0 - MIN_DERIVATIVE) * np.log1p(np.exp(derivatives)) / np.log(2.0)
    np.testing.assert_allclose(np.exp(log_slope), slope, rtol=1e-9)
    # From the left of each knot too: the slope is continuous.
    _, left = rational_quadratic_spline(x - 1e-9, widths, heights, derivatives, BOUND)
    np.testing.assert_allclose(left, log_slope, atol=1e-5)


def test_it_is_the_identity_outside_and_continuous_at_the_bound() -> None:
    widths, heights, derivatives = raw(1, 4)
    x = np.array([-1e30, -5.0, -BOUND, BOUND, 5.0, 1e30])
    for inverse in (False, True):
        y, log_slope = rational_quadratic_spline(x, widths, heights, derivatives, BOUND, inverse)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(log_slope, 0.0)
        near = np.array([-BOUND, BOUND]) * (1.0 - 1e-9)
        y, log_slope = rational_quadratic_spline(near, widths, heights, derivatives, BOUND, inverse)
        np.testing.assert_allclose(y, near, rtol=1e-8)
        np.testing.assert_allclose(log_slope, 0.0, atol=1e-6)


@given(
    seed=st.integers(0, 1000), bins=st.integers(2, 12), scale=st.sampled_from([0.1, 1.0, 5.0, 50.0])
)
def test_it_increases_and_inverts(seed: int, bins: int, scale: float) -> None:
    parameters = raw(seed, bins, scale)
    x = np.linspace(-1.2 * BOUND, 1.2 * BOUND, 301)
    y, log_slope = rational_quadratic_spline(x, *parameters, BOUND)
    assert np.all(np.diff(y) > 0.0)
    back, inverse_log_slope = rational_quadratic_spline(y, *parameters, BOUND, inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(inverse_log_slope, -log_slope, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_single_precision_stays_finite_with_its_gradients(scale: float) -> None:
    jax = pytest.importorskip("jax")
    x = np.concatenate([np.linspace(-4.0, 4.0, 201), knots(raw(2, 8)[0])]).astype("float32")
    parameters = [part.astype("float32") for part in raw(2, 8, scale)]
    for inverse in (False, True):

        def loss(x: object, *parameters: object, inverse: bool = inverse) -> object:
            y, log_slope = rational_quadratic_spline(x, *parameters, BOUND, inverse)
            return y.sum() + log_slope.sum()

        value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(x, *parameters)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_wrong_parameters_are_an_error() -> None:
    one, two, three = np.zeros(1), np.zeros(2), np.zeros(3)
    with pytest.raises(PaviError, match="3 heights and 2 inner derivatives for 3 widths; got 2"):
        rational_quadratic_spline(0.0, three, two, two, BOUND)
    with pytest.raises(PaviError, match="bins >= 2; got 1"):
        rational_quadratic_spline(0.0, one, one, np.zeros(0), BOUND)
    with pytest.raises(PaviError, match="bound > 0; got -1"):
        rational_quadratic_spline(0.0, two, two, one, -1.0)
