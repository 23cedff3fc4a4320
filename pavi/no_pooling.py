"""What each group's own data say of its latent, as if it knew no other group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.alignment import pool
from pavi.backends.base import Arrays
from pavi.batch import Batch
from pavi.binding import BoundData
from pavi.dist.spec import Spec
from pavi.errors import DataError, did_you_mean
from pavi.graph import PlateGraph
from pavi.model import evaluate_spec, observed_value, row_weights
from pavi.subsampling import full_batch

_STEPS = 60
_DIFFERENCE = 1e-5
_CLOSE = 1e-6


class NoPooling(NamedTuple):
    """Estimates of the groups from their own data alone.

    Attributes:
        estimate: `[*plates]`; NaN where there is none, as of a group without data, or of one whose
            outcomes are all 0.
        size: number of present outcomes of each group, `[*plates]`.
    """

    estimate: np.ndarray
    size: np.ndarray


def outcome_of(graph: PlateGraph, variable: str, outcome: str | None) -> str:
    """The observed variable that a latent is a parent of.

    Args:
        graph: the model.
        variable: the latent.
        outcome: its name, needed where there are several.

    Raises:
        DataError: there is none, or which one is not known.
    """
    observed = [v.name for v in graph.observed if variable in v.parents]
    if outcome is not None and outcome not in observed:
        raise DataError(
            f"outcome={outcome!r} is no observed variable with the parent {variable!r}."
            f"{did_you_mean(outcome, observed)}"
        )
    if not observed:
        raise DataError(
            f"{variable!r} is no parent of an observed variable, so that the data tell nothing of "
            f"it by itself. Give estimates as raw= and the groups' sizes as sizes=."
        )
    if outcome is None and len(observed) > 1:
        raise DataError(
            f"{variable!r} is a parent of several observed variables, {observed}. Choose one: "
            f"outcome={observed[0]!r}."
        )
    return outcome or observed[0]


def group_sizes(data: BoundData, variable: str, outcome: str) -> np.ndarray:
    """Number of present outcomes of each copy of a latent, `[*plates]`."""
    batch, graph = full_batch(data, "float64"), data.graph
    rows = _plain(_weights(graph, outcome, batch), len(graph.variables[outcome].plates), np.max)
    return _pooled(data, variable, outcome, rows, batch)


def no_pooling(
    data: BoundData,
    means: Mapping[str, np.ndarray],
    variable: str,
    outcome: str,
    component: tuple[int, ...] = (),
) -> NoPooling:
    """The likelihood's estimate of each copy of a latent, all others at the values given.

    With a Normal outcome that is linear in the latent, the mean of what is left of each group's
    outcomes when the rest of the predictor is taken off. In general Fisher's scoring, from the
    values given.

    Args:
        data: the data.
        means: a value for every latent, `{name: [*plates, *event]}`, such as posterior means.
        variable: the latent.
        outcome: the observed variable that it is a parent of.
        component: which element of its event; the others stay where they are.

    Raises:
        DataError: a likelihood whose score is not known.
    """
    graph, batch = data.graph, full_batch(data, "float64")
    if not graph.probe[outcome].has_potential:
        raise DataError(
            f"The likelihood of {outcome!r}, {type(graph.probe[outcome]).__name__}, has no score "
            f"by which {variable!r} could be estimated for each group. Give estimates as raw=."
        )
    values: Arrays = {n: np.asarray(v, np.float64)[None].copy() for n, v in means.items()}
    place: Any = (0, ..., *component)
    mask = _weights(graph, outcome, batch)
    observed = np.asarray(observed_value(graph, outcome, batch, 1))
    for _ in range(_STEPS):
        spec = evaluate_spec(graph, outcome, values, batch, 1)
        moved = {**values, variable: values[variable].copy()}
        moved[variable][place] += _DIFFERENCE
        beside = evaluate_spec(graph, outcome, moved, batch, 1)
        score, information = (
            _pooled(data, variable, outcome, rows, batch)
            for rows in _pull(spec, beside, observed, mask, len(graph.variables[outcome].plates))
        )
        # theta <- theta + score / information
        known = np.isfinite(score) & np.isfinite(information) & (information > 0)
        step = np.where(known, score, 0.0) / np.where(known, information, 1.0)
        values[variable][place] += step
        settled = known & (np.abs(step) <= _CLOSE * (1.0 + np.abs(values[variable][place])))
        if settled[known].all():
            break
    size = group_sizes(data, variable, outcome)
    return NoPooling(np.where(settled & (size > 0), values[variable][place], np.nan), size)


def _pull(
    spec: Spec, beside: Spec, observed: np.ndarray, mask: np.ndarray, plates: int
) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of the latent in each row, `[*plates]`."""
    score = information = np.zeros(())
    pairs = zip(spec.predictors(), beside.predictors(), strict=True)
    pulls = spec.score_and_information(observed)
    for (here, there), (first, second) in zip(pairs, pulls, strict=True):
        slope = (ops.to_numpy(there) - ops.to_numpy(here)) / _DIFFERENCE
        own = tuple(range(-spec.predictor_rank, 0))
        score = score + (slope * ops.to_numpy(first)).sum(axis=own)
        information = information + (slope**2 * ops.to_numpy(second)).sum(axis=own)
    # The first axis is that of the one draw.
    first, second = (_plain((part * mask)[0], plates, np.sum) for part in (score, information))
    return first, second


def _weights(graph: PlateGraph, outcome: str, batch: Batch) -> np.ndarray:
    """1 where an outcome is present, 0 where it is missing, `[*plates, *event of its draws]`."""
    weights = row_weights(graph, outcome, batch, importance=False)
    weights = np.ones(()) if weights is None else np.asarray(weights)
    variable, own = graph.variables[outcome], graph.probe[outcome].event_rank
    trailing = len(variable.event) - own - (weights.ndim - len(variable.plates))
    return weights.reshape(*weights.shape, *(1,) * trailing)


def _plain(rows: np.ndarray, plates: int, reduce: Callable[..., Any]) -> np.ndarray:
    """Rows without their event axes, `[*plates]`."""
    return np.asarray(reduce(rows, axis=tuple(range(plates, rows.ndim))))


def _pooled(
    data: BoundData, variable: str, outcome: str, rows: np.ndarray, batch: Batch
) -> np.ndarray:
    """Sums over the rows of each copy, `[*plates of the latent]`."""
    plates, below = data.graph.variables[variable].plates, data.graph.variables[outcome].plates
    rows = np.broadcast_to(rows, [data.sizes[plate] for plate in below])
    recipe = data.graph.alignment(plates, below)
    return np.asarray(pool(rows, recipe, below, data.sizes, batch.members, trailing=0))
