"""Groups whose data an encoder never saw the like of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pavi.alignment import pool
from pavi.binding import BoundData
from pavi.plan import GuidePlan


class Unfamiliar(NamedTuple):
    """One thing in which groups lie beyond what was seen in training.

    Attributes:
        feature: what it is, in words.
        low: smallest value in training.
        high: largest value in training.
        elements: positions of the groups beyond, the farthest first.
        values: their values.
    """

    feature: str
    low: float
    high: float
    elements: np.ndarray
    values: np.ndarray


def unfamiliar(
    plan: GuidePlan, plate: str, data: BoundData, trained: BoundData
) -> tuple[Unfamiliar, ...]:
    """In what the groups of a plate in `data` lie beyond all of those in `trained`.

    The natural encoder adds up evidence, and only its correction was trained: what matters to it is
    how much evidence there is, so that rows are counted. A deep set also meets the data themselves:
    the mean of each array is compared. Groups without data are not listed: their posterior is near
    the prior. Arrays that are not in memory are left out.
    """
    encoders = {b.encoder for b in plan.blocks if plate in plan.graph.reach(b.plates)} - {None}
    if not encoders:
        return ()
    means = "deep_set" in encoders
    seen, now = _features(plan, plate, trained, means), _features(plan, plate, data, means)
    out = []
    for feature, values in now.items():
        known = seen[feature][np.isfinite(seen[feature]) & (seen[feature] != _NONE)]
        if not len(known):
            continue
        low, high = float(known.min()), float(known.max())
        slack = 1e-6 * max(abs(low), abs(high))
        away = np.maximum(low - values, values - high)
        beyond = np.flatnonzero(np.isfinite(values) & (values != _NONE) & (away > slack))
        if len(beyond):
            beyond = beyond[np.argsort(-away[beyond], kind="stable")]
            out.append(Unfamiliar(feature, low, high, beyond, values[beyond]))
    return tuple(out)


# What a group without rows has in the place of a feature.
_NONE = -np.inf


def _features(plan: GuidePlan, plate: str, data: BoundData, means: bool) -> dict[str, np.ndarray]:
    """Of each group the number of rows of each outcome, and with `means` those of its arrays."""
    graph = plan.graph
    out: dict[str, np.ndarray] = {}
    for observed in graph.observed:
        name, plates = observed.name, observed.plates
        if not graph.determines(plates, (plate,)):
            continue
        present = _present(data, name)
        count = _pooled(plan, plate, data, present, plates)
        out[f"number of {name}"] = np.where(count > 0, count, _NONE)
        if not means:
            continue
        covariates = (p for p in observed.parents if graph.variables[p].kind == "covariate")
        for array in (name, *covariates):
            own = graph.variables[array].plates
            if array not in data.values or not graph.determines(own, (plate,)):
                continue
            value = np.asarray(data.values[array], np.float64)
            value = np.nan_to_num(value).reshape(*value.shape[: len(own)], -1).mean(-1)
            rows = present if array == name else np.ones(value.shape)
            size = _pooled(plan, plate, data, rows, own)
            total = _pooled(plan, plate, data, rows * value, own)
            mean = total / np.maximum(size, 1.0)
            out[f"mean of {array}"] = np.where((size > 0) & (count > 0), mean, _NONE)
    return out


def _present(data: BoundData, observed: str) -> np.ndarray:
    """1 where a part at least of an outcome's event is there, `[*plates]`."""
    plates = data.graph.variables[observed].plates
    mask = data.masks.get(observed)
    if mask is None:
        return np.ones([data.sizes[p] for p in plates])
    axes = tuple(range(len(plates), np.ndim(mask)))
    return np.asarray(np.asarray(mask, bool).any(axis=axes), np.float64)


def _pooled(
    plan: GuidePlan, plate: str, data: BoundData, rows: np.ndarray, plates: tuple[str, ...]
) -> np.ndarray:
    """Sums `[*plates]` over all that lies in each element of a plate."""
    members: Mapping[str, np.ndarray] = {
        f"{p}/{owner}": position
        for p in data.sizes
        for owner, position in data.members.get(p, {}).items()
    }
    recipe = plan.graph.alignment((plate,), plates)
    return np.asarray(pool(rows, recipe, plates, data.sizes, members, trailing=0))
