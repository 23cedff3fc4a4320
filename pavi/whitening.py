"""Between a block's whitened coordinates and its latents: the prior's own location and scale.

    u = m(parents) + s(parents) w,    theta = link(u)

m and s are the prior mean and standard deviation of the unconstrained value (method.md, 4.3). The
variables of a block go in the graph's order, so that m and s of a later one may depend on an
earlier one: the map is triangular and its log-determinant is the sum of the log s and the links'.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from pavi import ops
from pavi.batch import Batch
from pavi.bijectors.links import link
from pavi.dist.spec import Spec
from pavi.model import evaluate_spec
from pavi.plan import BlockPlan, GuidePlan, Slot

Array = Any


def from_whitened(
    plan: GuidePlan, block: BlockPlan, w: Array, values: Mapping[str, Array], batch: Batch
) -> tuple[dict[str, Array], Array]:
    """Latents of a block from whitened coordinates.

    Args:
        plan: the plan.
        block: the block.
        w: `[*lead, *plates, size]`, one vector for each copy.
        values: latents of the earlier blocks.
        batch: the batch.

    Returns:
        `{name: [*lead, *plates, *event]}` and the log-determinant `[*lead, *plates]`.
    """
    leading = ops.shape(w)[:-1]
    lead = len(leading) - len(block.plates)
    known, out = dict(values), {}
    log_det: Array = 0.0
    for slot in block.slots:
        part = ops.reshape(w[..., slot.start : slot.stop], (*leading, *slot.unconstrained_event))
        spec = evaluate_spec(plan.graph, slot.name, known, batch, lead)
        mean, scale = _moments(plan, block, slot, spec, part)
        value, link_log_det = link(spec.support).forward_and_log_det(mean + scale * part)
        known[slot.name] = out[slot.name] = value
        log_det = log_det + _over_event(ops.log(scale) + ops.zeros_like(part), len(leading))
        log_det = log_det + _over_event(link_log_det, len(leading))
    return out, log_det


def to_whitened(
    plan: GuidePlan, block: BlockPlan, values: Mapping[str, Array], batch: Batch
) -> tuple[Array, Array]:
    """The inverse of `from_whitened`.

    Args:
        plan: the plan.
        block: the block.
        values: latents of this block and of the earlier ones, `[*lead, *plates, *event]`.
        batch: the batch.

    Returns:
        w `[*lead, *plates, size]` and the log-determinant of the inverse `[*lead, *plates]`.
    """
    parts: list[Array] = []
    log_det: Array = 0.0
    for slot in block.slots:
        value = values[slot.name]
        leading = ops.shape(value)[: len(ops.shape(value)) - len(slot.event)]
        spec = evaluate_spec(plan.graph, slot.name, values, batch, len(leading) - len(block.plates))
        u, link_log_det = link(spec.support).inverse_and_log_det(value)
        mean, scale = _moments(plan, block, slot, spec, u)
        parts.append(ops.reshape((u - mean) / scale, (*leading, slot.size)))
        log_det = log_det - _over_event(ops.log(scale) + ops.zeros_like(u), len(leading))
        log_det = log_det + _over_event(link_log_det, len(leading))
    return ops.concat(parts, -1) if len(parts) > 1 else parts[0], log_det


def prior_moments(
    plan: GuidePlan,
    block: BlockPlan,
    values: Mapping[str, Array],
    batch: Batch,
    like: Array,
) -> tuple[Array, Array]:
    """Prior location and scale of a block's unconstrained values, its own w held at 0.

    Args:
        plan: the plan.
        block: the block.
        values: latents of the earlier blocks.
        batch: the batch.
        like: an array `[*lead, *plates, size]` (its values are not read).

    Returns:
        m and s, each `[*lead, *plates, size]`.
    """
    leading = ops.shape(like)[:-1]
    lead = len(leading) - len(block.plates)
    known = dict(values)
    means: list[Array] = []
    scales: list[Array] = []
    for slot in block.slots:
        zero = ops.zeros_like(
            ops.reshape(like[..., slot.start : slot.stop], (*leading, *slot.unconstrained_event))
        )
        spec = evaluate_spec(plan.graph, slot.name, known, batch, lead)
        mean, scale = _moments(plan, block, slot, spec, zero)
        known[slot.name] = link(spec.support).forward_and_log_det(mean + zero)[0]
        means.append(ops.reshape(mean + zero, (*leading, slot.size)))
        scales.append(ops.reshape(scale + zero, (*leading, slot.size)))
    return ops.concat(means, -1), ops.concat(scales, -1)


def _moments(
    plan: GuidePlan, block: BlockPlan, slot: Slot, spec: Spec, like: Array
) -> tuple[Array, Array]:
    """Location and scale of the unconstrained value, of the rank of `like`."""
    if block.whitened:
        mean, scale = spec.unconstrained_moments()
    else:
        moments = plan.graph.probe[slot.name].unconstrained_moments()
        mean, scale = (float(np.mean(np.asarray(moment))) for moment in moments)
    shape = ops.shape(like)
    return _ranked(mean, like, len(shape)), _ranked(scale, like, len(shape))


def _ranked(x: Array, like: Array, rank: int) -> Array:
    x = ops.asarray(x, like=like)
    shape = ops.shape(x)
    return ops.reshape(x, (*(1,) * (rank - len(shape)), *shape)) if len(shape) < rank else x


def _over_event(x: Array, keep: int) -> Array:
    """Sums all axes behind the first `keep`."""
    rank = len(ops.shape(x))
    return ops.sum(x, axis=tuple(range(keep, rank))) if rank > keep else x


def split_copies(block: BlockPlan, vector: Array, batch: Batch) -> Array:
    """A joint block's vector `[*lead, copies * size]` as one vector a copy; others unchanged."""
    if not block.joint:
        return vector
    sizes = [ops.shape(batch.indices[plate])[0] for plate in block.plates]
    return ops.reshape(vector, (*ops.shape(vector)[:-1], *sizes, block.size))


def merge_copies(block: BlockPlan, per_copy: Array) -> Array:
    """The inverse of `split_copies`."""
    if not block.joint:
        return per_copy
    shape = ops.shape(per_copy)
    lead = shape[: len(shape) - len(block.plates) - 1]
    return ops.reshape(per_copy, (*lead, prod(shape[len(lead) :])))


def block_diagonal(block: BlockPlan, square: Array) -> Array:
    """A joint block's `[*lead, *plates, d, d]` as one block-diagonal matrix; others unchanged."""
    if not block.joint:
        return square
    lead = ops.shape(square)[: -len(block.plates) - 2]
    square = ops.reshape(square, (*lead, block.copies, block.size, 1, block.size))
    identity = np.eye(block.copies).reshape(block.copies, 1, block.copies, 1)
    dense = square * ops.asarray(identity, like=square)
    return ops.reshape(dense, (*lead, block.dimension, block.dimension))
