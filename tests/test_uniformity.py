"""Envelopes of ranks: their simultaneous coverage, and what leaves them."""

from __future__ import annotations

import numpy as np
import pytest
from complaints import data_error
from scipy.stats import binom

from pavi.uniformity import MAX_POINTS, SIMULATIONS, Envelope, ecdf_envelope


def exact_coverage(envelope: Envelope) -> float:
    """The probability of staying within everywhere: counts are a Markov chain from left to right.

    With n of N ranks below z, those between z and z' are Binomial(N - n, (z' - z) / (1 - z)).
    """
    size = envelope.num_ranks
    share = np.arange(size + 1) / size
    probability, last = np.eye(1, size + 1)[0], 0.0
    for z, low, high in zip(envelope.uniform, envelope.lower, envelope.upper, strict=True):
        step = np.zeros((size + 1, size + 1))
        for n in range(size + 1):
            step[n, n:] = binom.pmf(np.arange(size - n + 1), size - n, (z - last) / (1 - last))
        probability = (probability @ step) * ((share >= low) & (share <= high))
        last = z
    return float(probability.sum())


@pytest.mark.parametrize(
    ("num_ranks", "num_draws", "probability"),
    [(60, 19, 0.95), (25, 60, 0.8), (40, 9, 0.99), (7, 1, 0.5)],
)
def test_simultaneous_coverage_is_the_stated_one(
    num_ranks: int, num_draws: int, probability: float
) -> None:
    envelope = ecdf_envelope(num_ranks, num_draws, probability)
    error = np.sqrt(probability * (1 - probability) / SIMULATIONS)
    found = exact_coverage(envelope)
    assert found > probability - 4 * error
    # Counts are whole: with few of them the next smaller envelope holds too little.
    share = np.arange(num_ranks + 1) / num_ranks
    atom = binom.pmf(np.arange(num_ranks + 1), num_ranks, envelope.uniform[:, None]).max()
    assert found < probability + 4 * error + (0.0 if len(envelope.below) > 5 else atom)
    assert np.isin(envelope.lower, share).all()


def test_uniform_ranks_stay_within_as_often_as_stated() -> None:
    envelope = ecdf_envelope(100, 500, 0.9)
    assert len(envelope.below) < MAX_POINTS
    ranks = np.random.default_rng(1).integers(0, 501, (2000, 100))
    inside = np.mean([envelope.holds(each) for each in ranks])
    # Both the envelope and this share are estimates.
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 * (1 / 2000 + 1 / SIMULATIONS))


def test_the_pointwise_probability_is_adjusted_upwards() -> None:
    envelope = ecdf_envelope(100, 99, 0.95)
    assert 0.99 < envelope.pointwise < 1
    apart = binom.interval(envelope.pointwise, 100, envelope.uniform)
    assert np.abs(100 * envelope.lower - apart[0]).max() <= 1
    assert np.abs(100 * envelope.upper - apart[1]).max() <= 1


@pytest.mark.parametrize(
    ("mean", "sd"), [(0.0, 0.7), (0.0, 1.4), (0.5, 1.0)], ids=["narrow", "wide", "shifted"]
)
def test_ranks_of_a_wrong_posterior_leave_the_envelope(mean: float, sd: float) -> None:
    rng = np.random.default_rng(2)
    draws = mean + sd * rng.normal(size=(400, 99))
    assert not ecdf_envelope(400, 99).holds((draws < rng.normal(size=(400, 1))).sum(1))
    right = rng.normal(size=(400, 99))
    assert ecdf_envelope(400, 99).holds((right < rng.normal(size=(400, 1))).sum(1))


def test_the_share_below_a_place_counts_whole_ranks() -> None:
    envelope = ecdf_envelope(4, 3)
    np.testing.assert_array_equal(envelope.below, [1, 2, 3])
    np.testing.assert_allclose(envelope.uniform, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(envelope.ecdf(np.array([3, 0, 1, 1])), [0.25, 0.75, 0.75])


def test_ranks_that_there_cannot_be() -> None:
    envelope = ecdf_envelope(3, 10)
    data_error(lambda: envelope.ecdf(np.array([0, 1])), "(2,)", "(3,)")
    data_error(lambda: envelope.ecdf(np.array([0.0, 1.0, 2.0])), "float64", "integers")
    data_error(lambda: envelope.ecdf(np.array([0, 11, 2])), "0 to 11", "10 draws", "num_draws")
    data_error(lambda: ecdf_envelope(0, 10), "num_ranks=0")
    data_error(lambda: ecdf_envelope(10, 0), "num_draws=0")
    data_error(lambda: ecdf_envelope(10, 10, 1.0), "probability=1.0")
