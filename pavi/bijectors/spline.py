"""Monotone rational-quadratic splines (Durkan et al. 2019, arXiv 1906.04032)."""

from __future__ import annotations

import math

from pavi import ops
from pavi.bijectors.base import Array
from pavi.errors import FamilyError

# Smallest width and height of a bin, as fractions of the equal share, and smallest slope at a knot.
# They bound the map's condition, so that float32 inverts it.
MIN_SHARE = 0.02
MIN_DERIVATIVE = 0.01


def rational_quadratic_spline(
    x: Array, widths: Array, heights: Array, derivatives: Array, bound: float, inverse: bool = False
) -> tuple[Array, Array]:
    """Maps each element of x by its own increasing spline, the identity outside [-bound, bound].

    Args:
        x: `[...]`.
        widths: Raw widths of the K bins `[..., K]`, any real numbers.
        heights: Raw heights of the K bins `[..., K]`.
        derivatives: Raw slopes at the K - 1 inner knots `[..., K - 1]`; the outer slopes are 1.
        bound: Half-width of the interval.
        inverse: Whether to map back, with the log-determinant of the inverse map.

    Returns:
        y `[...]` and log |dy/dx| `[...]`. Raw parameters of zero give the identity.
    """
    bins = ops.shape(widths)[-1]
    _check_shapes(bins, ops.shape(heights)[-1], ops.shape(derivatives)[-1], bound)
    width, left = _bins(widths, bound)
    height, bottom = _bins(heights, bound)
    # softplus(0) / log 2 = 1: the slope of the identity.
    slope = MIN_DERIVATIVE + (1.0 - MIN_DERIVATIVE) / math.log(2.0) * ops.softplus(derivatives)
    outer = ops.ones_like(width[..., :1])

    inside = ops.abs(x) < bound
    # Outside, the spline is evaluated at 0, where its gradients are finite, and then discarded.
    x_inside = ops.where(inside, x, 0.0)
    bin_ = _one_hot_bin(x_inside, bottom if inverse else left)

    def at_bin(values: Array) -> Array:
        return ops.sum(bin_ * values, -1)

    w, h, x_k, y_k = at_bin(width), at_bin(height), at_bin(left), at_bin(bottom)
    slope_left = at_bin(ops.concat([outer, slope], -1))
    slope_right = at_bin(ops.concat([slope, outer], -1))
    s = h / w
    if inverse:
        # (25) of the paper for xi, with t and s in units of the bin: (s - b) xi^2 + b xi = s t, of
        # discriminant b^2 + 4 (s - b) s t = (b - 2 s t)^2 + 4 s^2 t (1 - t), a sum of squares.
        t = (x_inside - y_k) / h
        tilt = slope_left * (1.0 - t) - slope_right * t
        b = tilt + 2.0 * s * t
        root = ops.sqrt(tilt * tilt + 4.0 * s * s * ops.maximum(t * (1.0 - t), 0.0))
        # Of the root's two forms, the one without cancellation.
        positive = b >= 0.0
        xi = ops.where(positive, 2.0 * s * t, root - b)
        xi = xi / ops.where(positive, b + root, 2.0 * (s - b))
    else:
        xi = (x_inside - x_k) / w
    xi_bar = 1.0 - xi
    # denominator = s + (d_{k+1} + d_k - 2 s) xi (1 - xi), written as a sum of positive terms
    product = xi * xi_bar
    denominator = s * (1.0 - 2.0 * product) + (slope_right + slope_left) * product
    # dy/dx = s^2 (d_{k+1} xi^2 + 2 s xi (1 - xi) + d_k (1 - xi)^2) / denominator^2
    numerator = slope_right * xi * xi + 2.0 * s * product + slope_left * xi_bar * xi_bar
    log_det = 2.0 * ops.log(s) + ops.log(numerator) - 2.0 * ops.log(denominator)
    if inverse:
        y, log_det = x_k + w * xi, -log_det
    else:
        # y = y_k + h (s xi^2 + d_k xi (1 - xi)) / denominator
        y = y_k + h * (s * xi * xi + slope_left * product) / denominator
    return ops.where(inside, y, x), ops.where(inside, log_det, 0.0)


def num_parameters(bins: int) -> int:
    """Raw parameters of one spline: widths, heights, and slopes at the inner knots."""
    return 3 * bins - 1


def unpacked(raw: Array, bins: int) -> tuple[Array, Array, Array]:
    """Raw widths, heights and inner derivatives of `[..., num_parameters(bins)]`."""
    return raw[..., :bins], raw[..., bins : 2 * bins], raw[..., 2 * bins :]


def _bins(raw: Array, bound: float) -> tuple[Array, Array]:
    """Returns sizes `[..., K]`, that sum to 2 bound, and lower ends `[..., K]` of the bins."""
    count = ops.shape(raw)[-1]
    fraction = MIN_SHARE / count + (1.0 - MIN_SHARE) * ops.softmax(raw, -1)
    size = 2.0 * bound * fraction
    return size, ops.cumsum(size, -1) - size - bound


def _one_hot_bin(x: Array, lower: Array) -> Array:
    """Indicator `[..., K]` of the bin that holds x `[...]`: comparisons, no search, no gather."""
    inner = lower[..., 1:]
    reached = ops.where(ops.expand_dims(x, -1) >= inner, ops.ones_like(inner), 0.0)
    first = ops.ones_like(reached[..., :1])
    reached = ops.concat([first, reached, ops.zeros_like(first)], -1)
    return reached[..., :-1] - reached[..., 1:]


def _check_shapes(bins: int, heights: int, derivatives: int, bound: float) -> None:
    if heights != bins or derivatives != bins - 1:
        raise FamilyError(
            f"Expected {bins} heights and {bins - 1} inner derivatives for {bins} widths; "
            f"got {heights} and {derivatives}."
        )
    check_bins(bins, bound)


def check_bins(bins: int, bound: float) -> None:
    """Raises unless a spline can have so many bins on `[-bound, bound]`."""
    if bins < 2:
        raise FamilyError(f"Expected bins >= 2; got {bins}.")
    if bound <= 0.0:
        raise FamilyError(f"Expected bound > 0; got {bound}.")
