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
    """

    value: Array
    first: Array
    second: Array
    count: Array


def new_table(value: np.ndarray) -> Table:
    """A table at rest."""
    zeros = np.zeros_like(value)
    return Table(value, zeros, zeros.copy(), np.zeros((len(value), 1), value.dtype))


def adam_rows(rows: Table, gradient: Array, rate: Array) -> Table:
    """Rows `[B, columns]` after one Adam step on a loss with the given gradient."""
    count = rows.count + 1.0
    # m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    first = FIRST_DECAY * rows.first + (1.0 - FIRST_DECAY) * gradient
    second = SECOND_DECAY * rows.second + (1.0 - SECOND_DECAY) * gradient * gradient
    # theta <- theta - rate (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
    first_corrected = first / (1.0 - ops.exp(count * float(np.log(FIRST_DECAY))))
    second_corrected = second / (1.0 - ops.exp(count * float(np.log(SECOND_DECAY))))
    value = rows.value - rate * first_corrected / (ops.sqrt(second_corrected) + EPSILON)
    return Table(value, first, second, count)


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
