"""Affine maps that travel are told from maps that tremble."""

from __future__ import annotations

import numpy as np
import pytest
from grounded import Setup
from small_models import bound, rng

from pavi import Family
from pavi.drift import WINDOW, Drift


def watched() -> tuple[Drift, dict[str, np.ndarray], str]:
    """A drift, weights, and the prefix of the flow of the globals, a full affine map."""
    setup = Setup(bound("county"), Family(flow="none"))
    weights = {name: np.array(value, np.float64) for name, value in setup.params.items()}
    return Drift(setup.plan), weights, "globals/flow/"


def travelled(speed: float, noise: float, key: str, records: int = 40) -> list[float]:
    drift, weights, prefix = watched()
    random, start = rng(0), weights[f"{prefix}{key}"].copy()
    found = []
    for step in range(records):
        tremble = noise * random.normal(size=start.shape)
        weights[f"{prefix}{key}"] = start + speed * step + tremble
        drift.record(weights)
        found.append(drift.travel.distance)
    return found


def test_nothing_is_said_before_there_is_a_window() -> None:
    found = travelled(1.0, 0.0, "loc")
    assert found[: WINDOW - 1] == [0.0] * (WINDOW - 1)
    assert found[WINDOW - 1] > 0.0


@pytest.mark.parametrize("key", ["log_diagonal", "reference_loc"])
def test_a_map_that_travels_is_seen(key: str) -> None:
    """By half a window's way: between the means of its halves."""
    drift, weights, prefix = watched()
    for _ in range(WINDOW):
        weights[f"{prefix}{key}"] = weights[f"{prefix}{key}"] + 0.1
        drift.record(weights)
    assert drift.travel.block == "globals"
    _, scale = drift._plan.block("globals").flow.moments(
        {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    )
    unit = 1.0 if key == "log_diagonal" else scale.min()
    if key == "reference_loc":
        np.testing.assert_allclose(drift.travel.distance, 0.1 * WINDOW / 2 / unit)
    else:
        assert 0.0 < drift.travel.distance <= 0.1 * WINDOW / 2 / unit + 1e-9


def test_a_map_that_trembles_hardly_travels() -> None:
    assert np.median(travelled(0.0, 0.05, "reference_loc")[2 * WINDOW :]) < 0.1
    assert min(travelled(0.5, 0.05, "reference_loc")[2 * WINDOW :]) > 0.1


def test_a_halt_is_no_end() -> None:
    """A few records of trembling after a journey do not end it."""
    drift, weights, prefix = watched()
    key, far = f"{prefix}reference_loc", 0.0
    for step in range(WINDOW + 3):
        far += 1.0 if step < WINDOW else (-1.0) ** step * 2.0
        weights[key] = weights[key] * 0.0 + far
        drift.record(weights)
    assert drift.travel.distance > 1.0


def test_a_drift_goes_on_where_it_was_kept() -> None:
    one, weights, prefix = watched()
    for step in range(2 * WINDOW):
        weights[f"{prefix}loc"] = weights[f"{prefix}loc"] + 0.1 * step
        one.record(weights)
    other, _, _ = watched()
    other.restore(one.state())
    other.record(weights)
    one.record(weights)
    assert other.travel == one.travel
