"""Subsets that take turns: each is uniform, and a cycle of them has every element as often."""

from __future__ import annotations

from itertools import combinations
from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from pavi.balanced import balanced_draws, permuted, stream_key


def draws(size: int, count: int, number: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`[draws, count]`: the elements, and how often each has been drawn before."""
    same = (np.full(len(number), x) for x in (size, count))
    drawn = balanced_draws(*same, number, np.full(len(number), stream_key(seed)))
    return drawn[0].reshape(-1, count), drawn[1].reshape(-1, count)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (9, 2), (6, 5), (4, 4), (3, 1), (8, 4)])
def test_each_draw_is_uniform_over_subsets(size: int, count: int) -> None:
    """One draw of each of 20,000 cycles: chi-square below its 99.9 % point, seed 2."""
    stats = pytest.importorskip("scipy.stats")
    cycle, number = size // gcd(size, count), np.arange(20_000)
    subsets = {s: i for i, s in enumerate(combinations(range(size), count))}
    drawn, _ = draws(size, count, number * cycle + number % cycle, 2)
    seen = np.bincount([subsets[tuple(sorted(row))] for row in drawn.tolist()])
    assert len(seen) == len(subsets)
    expected = len(number) / len(subsets)
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square <= stats.chi2.ppf(0.999, max(len(subsets) - 1, 1))


@given(size=st.integers(1, 300), part=st.floats(0, 1), cycle=st.integers(0, 5))
def test_a_cycle_has_every_element_as_often(size: int, part: float, cycle: int) -> None:
    count = 1 + int(part * (size - 1))
    steps = size // gcd(size, count)
    drawn, visits = draws(size, count, np.arange(steps) + cycle * steps, 0)
    assert all(len(np.unique(row)) == count for row in drawn)
    assert_array_equal(np.bincount(drawn.ravel(), minlength=size), count // gcd(size, count))
    # The visits of an element are numbered one after the other.
    order = np.lexsort((np.repeat(np.arange(steps), count), drawn.ravel()))
    numbers = visits.ravel()[order].reshape(size, -1)
    assert_array_equal(
        numbers, np.arange(numbers.shape[1]) + cycle * numbers.shape[1] + 0 * numbers
    )


@given(size=st.integers(1, 500), seed=st.integers(0, 100))
def test_places_are_permuted(size: int, seed: int) -> None:
    place = np.arange(size)
    ordered = permuted(place, np.full(size, size), np.full(size, stream_key(seed)))
    assert_array_equal(np.sort(ordered), place)


def test_sequences_of_many_sizes_are_drawn_together_as_apart() -> None:
    size, count = np.array([7, 0, 1, 40, 5000]), np.array([3, 0, 1, 4, 100])
    number, key = np.arange(5) * 11, np.array([stream_key(i) for i in range(5)])
    together = balanced_draws(size, count, number, key)
    apart = [balanced_draws(*(x[i : i + 1] for x in (size, count, number, key))) for i in range(5)]
    for part, others in zip(together, zip(*apart, strict=True), strict=True):
        assert_array_equal(part, np.concatenate(others))


def test_a_draw_costs_its_count_and_not_the_size() -> None:
    drawn, _ = draws(10**12, 1000, np.arange(3), 3)
    assert len(np.unique(drawn)) == 3000
    assert drawn.min() >= 0
    assert drawn.max() < 10**12


def test_keys_are_told_apart_by_their_parts() -> None:
    keys = [stream_key(0, "a"), stream_key(1, "a"), stream_key(0, "b"), stream_key("0", "a")]
    assert len({int(key) for key in keys}) == len(keys)
