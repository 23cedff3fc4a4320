"""Predictors of the observed rows, linearised in the whitened coordinates of the blocks.

The slopes are found by central differences at the sigma points z +- e_j: exact for a linear or
quadratic predictor, no automatic differentiation needed. Where a predictor is linear the points
z + e_j are enough, once for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pavi import ops
from pavi.alignment import align
from pavi.batch import Batch
from pavi.dist.real import Normal
from pavi.dist.spec import Spec
from pavi.model import evaluate_spec, observed_value, row_weights
from pavi.plan import BlockPlan, Evidence, Factor, GuidePlan
from pavi.whitening import from_whitened

Array = Any


@dataclass(frozen=True)
class Rows:
    """The rows of one observed variable, its predictors linearised around a point.

    Attributes:
        factor: the variable, and the blocks that its predictors depend on.
        spec: its distribution.
        value: what was observed.
        weights: how many rows each row stands for, `[*plates, *event]` or fewer axes; None for one.
        merged: axes of `[S, *plates, *event]` along which all rows are one, see `_merged`.
        rank: axes of a predictor, the points' own with them.
        centres: each predictor at the point, `[1, S, *plates, *event]`.
        slopes: of each predictor, by block, `[S, *plates, *event, d]`; None where it is constant.
    """

    factor: Factor
    spec: Spec
    value: Array
    weights: Array | None
    merged: frozenset[int]
    rank: int
    centres: tuple[Array, ...]
    slopes: tuple[dict[str, Array] | None, ...]


def linearise(
    plan: GuidePlan,
    evidence: Evidence,
    blocks: list[BlockPlan],
    origin: Mapping[str, Array],
    values: Mapping[str, Array],
    batch: Batch,
    *,
    importance: bool,
) -> list[Rows]:
    """Predictors of all observed rows around `origin` (one vector for each copy).

    Args:
        plan: the plan.
        evidence: which observed variables, through which blocks.
        blocks: the blocks to move, in the order of the plan.
        origin: where to, in their whitened coordinates.
        values: latents of the blocks before them.
        batch: the batch.
        importance: whether each row stands for N / N^r rows (paper, eq. 8), or for itself.
    """
    widths = {b.name: b.size for b in blocks}
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    total = sum(widths.values())
    # Sigma points: the origin, then + e_j, then - e_j for every coordinate j.
    points = np.concatenate([np.zeros((1, total)), np.eye(total), -np.eye(total)])
    if evidence.straight:
        points = points[: 1 + total]
    known = dict(values)
    for b in blocks:
        base = origin[b.name]
        offsets = points[:, starts[b.name] : starts[b.name] + b.size]
        shape = (len(points), *(1,) * (len(ops.shape(base)) - 1), b.size)
        moved = ops.expand_dims(base, 0) + ops.asarray(offsets.reshape(shape), like=base)
        known |= from_whitened(plan, b, moved, known, batch)[0]
    return [
        _around(plan, evidence, factor, widths, known, batch, len(points), importance)
        for factor in evidence.factors
    ]


def _around(
    plan: GuidePlan,
    evidence: Evidence,
    factor: Factor,
    widths: Mapping[str, int],
    known: Mapping[str, Array],
    batch: Batch,
    points: int,
    importance: bool,
) -> Rows:
    """Predictors of one observed variable from their values at the sigma points.

    `widths` are the sizes of the blocks, in the order of the sigma points.
    """
    total = sum(widths.values())
    spec = evaluate_spec(plan.graph, factor.observed, known, batch, lead=2)
    value = observed_value(plan.graph, factor.observed, batch, lead=2)
    rank = len(ops.shape(value)) - spec.event_rank + spec.predictor_rank
    centres: list[Array] = []
    slopes: list[dict[str, Array] | None] = []
    for p in spec.predictors():
        if not _varies(p, rank, points):
            centres.append(p)
            slopes.append(None)
            continue
        if points > 1 + total:
            # J_j = (f(z + e_j) - f(z - e_j)) / 2
            centre, ahead, behind = ops.split(p, [1, total, total], 0)
            jacobian = 0.5 * (ahead - behind)
        else:
            centre, ahead = ops.split(p, [1, total], 0)
            jacobian = ahead - centre
        moved = zip(widths, ops.split(jacobian, list(widths.values()), 0), strict=True)
        centres.append(centre)
        slopes.append({name: _last(part) for name, part in moved if name in factor.through})
    weights = row_weights(plan.graph, factor.observed, batch, importance=importance)
    merged: frozenset[int] = frozenset()
    # A block that crosses the target widens each row by itself: rows must stay apart.
    if not any(slopes[1:]) and not set(evidence.crossed) & set(factor.through):
        value, weights, merged = _merged(spec, value, weights)
    return Rows(factor, spec, value, weights, merged, rank, tuple(centres), tuple(slopes))


def _merged(
    spec: Spec, value: Array, weights: Array | None
) -> tuple[Array, Array | None, frozenset[int]]:
    """Rows that share all parameters of a normal law as one: their mean, with their total weight.

    The score is linear in the value: sum_n w_n (x_n - f) h = (sum_n w_n) (mean x - f) h. So nothing
    that gradients pass through is as large as the data.

    Returns:
        The value, the weights, and the axes that were merged, not counting the points'.
    """
    shape = ops.shape(value)
    rank = len(shape)
    own = [ops.shape(getattr(spec, f.name)) for f in fields(spec)]
    axes = [
        a
        for a in range(2, rank)
        if shape[a] > 1 and all(len(s) < rank - a or s[a - rank] == 1 for s in own)
    ]
    if not isinstance(spec, Normal) or weights is None or not axes:
        return value, weights, frozenset()
    given = ops.shape(weights)
    each = ops.broadcast_to(
        ops.reshape(weights, (*given, *(1,) * (rank - 2 - len(given)))), shape[2:]
    )
    total = ops.sum(each, axis=tuple(a - 2 for a in axes), keepdims=True)
    summed = ops.sum(each * value, axis=tuple(axes), keepdims=True)
    mean = summed / ops.where(total > 0.0, total, 1.0)
    return mean, total, frozenset(a - 1 for a in axes)


def at_origin(plan: GuidePlan, rows: Rows, origin: Mapping[str, Array], batch: Batch) -> Rows:
    """Straight predictors that were linearised around 0, at `origin`."""
    plates = plan.graph.variables[rows.factor.observed].plates
    centres = []
    for centre, slopes in zip(rows.centres, rows.slopes, strict=True):
        for name, slope in (slopes or {}).items():
            offset = at_rows(plan, name, origin[name], plates, rows.rank, batch)
            centre = centre + ops.expand_dims(ops.sum(slope * offset, -1), 0)
        centres.append(centre)
    return replace(rows, centres=tuple(centres))


def _varies(predictor: Array, rank: int, points: int) -> bool:
    """Whether a predictor was evaluated at each sigma point, or depends on none of the blocks."""
    shape = ops.shape(predictor)
    return len(shape) == rank and shape[0] == points


def _last(x: Array) -> Array:
    """The first axis moved behind all the others."""
    rank = len(ops.shape(x))
    return ops.transpose(x, (*range(1, rank), 0))


def at_rows(
    plan: GuidePlan,
    name: str,
    values: Array,
    plates: tuple[str, ...],
    rank: int,
    batch: Batch,
    *,
    event_rank: int = 1,
) -> Array:
    """A block's vectors `[S, *plates, d]` at the rows of an observed variable, event axes of 1.

    Matrices `[S, *plates, d, c]` so with an `event_rank` of 2; `rank` is a predictor's.
    """
    recipe = plan.graph.alignment(plan.block(name).plates, plates)
    out = align(values, recipe, plates, batch.members, event_rank=event_rank, child_event_rank=0)
    shape = ops.shape(out)
    own = shape[len(shape) - event_rank :]
    events = (1,) * (rank - 1 - len(plates) - 1)
    return ops.reshape(out, (*shape[: len(shape) - event_rank], *events, *own))
