"""Rows that travel are told from rows that tremble."""

from __future__ import annotations

import numpy as np
import pytest
from grounded import Setup
from small_models import bound, rng

from pavi import Family
from pavi.movement import WINDOW, Movement
from pavi.tables import TableStore


def watched(encoding: str = "free") -> tuple[Movement, TableStore]:
    plan = Setup(bound("county"), Family(encoding=encoding)).plan
    store = TableStore(plan, "float32")
    return Movement(plan, store), store


@pytest.mark.parametrize(("speed", "low", "high"), [(1.0, 0.8, 1.0), (0.0, -0.8, 0.1)])
def test_agreement_of_moves(speed: float, low: float, high: float) -> None:
    movement, store = watched()
    noise, random = store.packed["county"], rng(0)
    way = random.normal(size=noise.shape)
    found = []
    for step in range(60):
        noise[:] = speed * step * way + random.normal(size=noise.shape)
        movement.record()
        found.append(movement.agreement)
    assert found[:2] == [0.0, 0.0]
    assert low < np.mean(found[2 * WINDOW :]) < high


def test_only_rows_that_stand_alone_are_watched() -> None:
    """A residual corrects an encoding: it may wander where the data do not hold it."""
    movement, store = watched("encoder+free")
    for step in range(10):
        store.packed["county"][:] = step
        movement.record()
    assert movement.agreement == 0.0
