"""Supports: membership at and off the boundary, and the shapes of unconstrained coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from pavi.dist import supports
from pavi.dist.supports import Support

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("support", "inside", "outside"),
    [
        (supports.REAL, [-3.0, 0.0, 1e30], [NAN, INF, -INF]),
        (supports.POSITIVE, [1e-30, 2.0], [0.0, -1.0, INF, NAN]),
        (supports.UNIT_INTERVAL, [0.0, 0.5, 1.0], [-0.1, 1.1, NAN]),
        (supports.Interval(-1.0, 2.0), [-1.0, 0.0, 2.0], [-1.1, 2.1, NAN]),
        (supports.GreaterThan(2), [2.0, 9.0], [1.9, INF, NAN]),
        (supports.LessThan(2), [2.0, -9.0], [2.1, -INF, NAN]),
        (supports.BOOLEAN, [0, 1], [2, -1, 0.5, NAN]),
        (supports.NON_NEGATIVE_INTEGER, [0, 7, 3.0], [-1, 0.5, INF, NAN]),
        (supports.IntegerInterval(0, 4), [0, 4, 2.0], [-1, 5, 1.5, NAN]),
    ],
    ids=str,
)
def test_scalars(support: Support, inside: list[float], outside: list[float]) -> None:
    assert support.contains(np.array(inside)).all()
    assert not support.contains(np.array(outside)).any()
    assert support.unconstrained_event(()) == ()
    assert support.event_rank == 0


@pytest.mark.parametrize(
    ("support", "inside", "outside", "unconstrained"),
    [
        (
            supports.SIMPLEX,
            [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]],
            [[0.2, 0.3, 0.6], [-0.1, 0.6, 0.5], [NAN, 0.5, 0.5]],
            (2,),
        ),
        (
            supports.ORDERED,
            [[-1.0, 0.0, 5.0]],
            [[0.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 1.0, INF], [-INF, INF, INF]],
            (3,),
        ),
        (
            supports.LOWER_CHOLESKY,
            [[[2.0, 0.0], [-3.0, 1.0]]],
            [[[2.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [NAN, 1.0]]],
            (3,),
        ),
        (
            supports.CORRELATION_CHOLESKY,
            [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]],
            [[[1.0, 0.0], [0.6, 0.9]], [[1.0, 0.0], [0.6, -0.8]], [[2.0, 0.0], [0.6, 0.8]]],
            (1,),
        ),
    ],
    ids=str,
)
def test_vectors_and_matrices(
    support: Support, inside: list[object], outside: list[object], unconstrained: tuple[int, ...]
) -> None:
    held, refused = np.array(inside), np.array(outside)
    assert support.contains(held).tolist() == [True] * len(inside)
    assert support.contains(refused).tolist() == [False] * len(outside)
    # Leading axes are batch axes, any number of them.
    assert support.contains(held[0]).shape == ()
    assert support.contains(held[None, None]).shape == (1, 1, len(inside))
    assert support.event_rank == held.ndim - 1
    assert support.unconstrained_event(held.shape[1:]) == unconstrained


@pytest.mark.parametrize(
    ("support", "event", "unconstrained"),
    [
        (supports.SIMPLEX, (1,), (0,)),
        (supports.ORDERED, (1,), (1,)),
        (supports.LOWER_CHOLESKY, (4, 4), (10,)),
        (supports.CORRELATION_CHOLESKY, (4, 4), (6,)),
        (supports.CORRELATION_CHOLESKY, (1, 1), (0,)),
    ],
)
def test_unconstrained_event(
    support: Support, event: tuple[int, ...], unconstrained: tuple[int, ...]
) -> None:
    assert support.unconstrained_event(event) == unconstrained


def test_bounds_broadcast() -> None:
    interval = supports.Interval(np.array([[0.0], [10.0]]), np.array([[1.0], [20.0]]))
    assert interval.contains(np.array([0.5, 15.0])).tolist() == [[True, False], [False, True]]
    assert "an array [2, 1]" in str(interval)


def test_single_precision_values_reach_their_bound() -> None:
    # float32's 0.1 is above float64's.
    assert supports.LessThan(0.1).contains(np.array([0.1], "float32")).all()


def test_discrete() -> None:
    discrete = [supports.BOOLEAN, supports.NON_NEGATIVE_INTEGER, supports.IntegerInterval(0, 1)]
    assert all(support.discrete for support in discrete)
    assert not supports.REAL.discrete


def test_supports_compare_by_value() -> None:
    assert supports.Interval(0, 1) == supports.Interval(0, 1)
    assert supports.Interval(0, 1) != supports.Interval(0, 2)
    assert supports.Real() == supports.REAL
    assert supports.Real() != supports.POSITIVE
