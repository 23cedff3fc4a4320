"""Row-wise Adam for free tables: a row moves when it is drawn, and sleeps otherwise.

Each row keeps its own count of updates, so that its moments are corrected for the gradients it has
had; a row that slept is treated as if it had slept, not as if its gradients had been zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.batch import Batch
from pavi.plan import GuidePlan

Array = Any

FIRST_DECAY = 0.9
SECOND_DECAY = 0.99
EPSILON = 1e-8


class Table(NamedTuple):
    """A free table and its optimizer's state; the last row is for padding.

    Attributes:
        value: `[copies + 1, columns]`.
        first: running mean of the gradients, as `value`.
        second: running mean of their squares, as `value`.
        count: number of updates that each row has had, `[copies + 1, 1]`.
        average: running mean of the iterates that were averaged, as `value`.
        averaged: how many these were, `[copies + 1, 1]`.
    """

    value: Array
    first: Array
    second: Array
    count: Array
    average: Array
    averaged: Array


def new_table(value: np.ndarray) -> Table:
    """A table at rest."""
    never = np.zeros((len(value), 1), value.dtype)
    return Table(
        value=value,
        first=np.zeros_like(value),
        second=np.zeros_like(value),
        count=never,
        average=np.array(value),
        averaged=never.copy(),
    )


def adam_rows(rows: Table, gradient: Array, rate: Array, averaging: Array = 0.0) -> Table:
    """Rows `[B, columns]` after one Adam step on a loss with the given gradient.

    Where `averaging` is positive the new iterate joins the row's average, which counts the row's
    own updates: rows are drawn at different steps.
    """
    count = rows.count + 1.0
    # m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    first = FIRST_DECAY * rows.first + (1.0 - FIRST_DECAY) * gradient
    second = SECOND_DECAY * rows.second + (1.0 - SECOND_DECAY) * gradient * gradient
    # theta <- theta - rate (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
    first_corrected = first / (1.0 - ops.exp(count * float(np.log(FIRST_DECAY))))
    second_corrected = second / (1.0 - ops.exp(count * float(np.log(SECOND_DECAY))))
    value = rows.value - rate * first_corrected / (ops.sqrt(second_corrected) + EPSILON)
    joins = ops.cast(averaging + ops.zeros_like(count) > 0, count)
    averaged = rows.averaged + joins
    average = rows.average + joins / ops.maximum(averaged, ops.ones_like(averaged)) * (
        value - rows.average
    )
    return Table(value, first, second, count, average, averaged)


def settled(table: Table) -> np.ndarray:
    """The averaged rows, and the last iterate of rows that were never averaged; NumPy arrays."""
    average, value = np.asarray(table.average), np.asarray(table.value)
    return np.asarray(np.where(np.asarray(table.averaged) > 0, average, value))


def table_rows(plan: GuidePlan, block: str, batch: Batch) -> Array:
    """Places in a block's table of the batch's rows, `[product of the plates' rows]`.

    A row that is padding in any of its plates reads and writes the table's last row.
    """
    sizes = [plan.sizes[plate] for plate in plan.block(block).plates]
    indices = [batch.indices[plate] for plate in plan.block(block).plates]
    flat, padding = indices[0], indices[0] >= sizes[0]
    for size, index in zip(sizes[1:], indices[1:], strict=True):
        flat = ops.reshape(ops.expand_dims(flat, 1) * size + ops.expand_dims(index, 0), (-1,))
        padding = ops.reshape(
            ops.expand_dims(padding, 1) | ops.expand_dims(index >= size, 0), (-1,)
        )
    return ops.where(padding, ops.zeros_like(flat) + int(np.prod(sizes)), flat)
