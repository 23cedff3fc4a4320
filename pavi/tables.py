"""Steps of the rows of free tables: a row moves when it is drawn, and sleeps otherwise.

Each row keeps its own count of updates, so that its moments are corrected for the gradients it has
had; a row that slept is treated as if it had slept, not as if its gradients had been zero.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pavi import mapped, ops
from pavi.batch import Batch
from pavi.byte_sizes import readable
from pavi.errors import PaviError
from pavi.integers import is_integer
from pavi.mapped import release, spans
from pavi.plan import GuidePlan

Array = Any

FIRST_DECAY = 0.9
SECOND_DECAY = 0.99
EPSILON = 1e-8
# The n-th natural gradient of a site is taken by rho_n = (n + n_0)^-kappa of its length.
FORGETTING = 0.75
# Largest first step.
FIRST_STEP = 0.2
# Bytes of tables that are held in memory; larger ones are held in files.
TABLE_MEMORY = 4 * 2**30
_REMEDY = (
    "Make room there; give a checkpoint folder on a larger disk, where the tables are then, or set "
    "TMPDIR to one; give a larger table_memory, to hold them in memory; or "
    "Family(encoding='encoder'), which has no tables."
)


class Table(NamedTuple):
    """Rows of a free table and their optimizer's state.

    Attributes:
        value: `[rows, columns]`.
        first: running mean of the gradients, as `value`.
        second: running mean of their squares, as `value`.
        count: number of updates that each row has had, `[rows, 1]`.
        average: running mean of the iterates that were averaged, as `value`.
        averaged: how many these were, `[rows, 1]`.
    """

    value: Array
    first: Array
    second: Array
    count: Array
    average: Array
    averaged: Array


def packed_width(columns: int) -> int:
    """Numbers of a row with its optimizer's state, side by side as `Table` orders them."""
    return 4 * columns + 2


def fitted_shapes(plan: GuidePlan) -> dict[str, tuple[int, int]]:
    """The fitted tables: a row for each copy, and a last one for padding."""
    return {b.name: (b.copies + 1, b.table_width) for b in plan.blocks if b.table_width}


def fitted_bytes(plan: GuidePlan, dtype: str) -> int:
    """Bytes of the fitted tables."""
    return np.dtype(dtype).itemsize * sum(rows * n for rows, n in fitted_shapes(plan).values())


def packed_bytes(plan: GuidePlan, dtype: str) -> int:
    """Bytes of the tables with their optimizer's state."""
    numbers = sum(rows * packed_width(n) for rows, n in fitted_shapes(plan).values())
    return np.dtype(dtype).itemsize * numbers


@dataclass(frozen=True)
class TableSpace:
    """Where free tables are held.

    Attributes:
        memory: where they and their optimizer's state take more bytes, they are in files.
        folder: the folder of the files, or one to be made; None for the system's folder of
            temporary files.
    """

    memory: int = TABLE_MEMORY
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not is_integer(self.memory, 0):
            raise PaviError(
                f"table_memory={self.memory!r}: expected a number of bytes, an integer such as "
                f"{TABLE_MEMORY}; 0 to hold free tables in files."
            )

    def folder_of(self, plan: GuidePlan, dtype: str) -> Path | None:
        """The folder of a run's tables; None where they are in memory."""
        if packed_bytes(plan, dtype) <= self.memory:
            return None
        folder = (self.folder or Path(tempfile.gettempdir())).absolute()
        return next(path for path in (folder, *folder.parents) if path.is_dir())


def moved_rows(
    plan: GuidePlan, block: str, rows: Table, gradient: Array, rate: Array, averaging: Array = 0.0
) -> Table:
    """Rows `[B, columns]` after one step on a loss with the given gradient.

    Sites go along their natural gradients, whatever the rate; all others take a step of Adam. Where
    `averaging` is positive the new iterate joins the row's average, which counts the row's own
    updates: rows are drawn at different steps.
    """
    rows = rows._replace(count=rows.count + 1.0)
    own = plan.block(block)
    if own.site:
        rows = _natural_step(rows, gradient, rate, plan.share(own))
    else:
        rows = _adam_step(rows, gradient, rate)
    joins = ops.cast(averaging + ops.zeros_like(rows.count) > 0, rows.count)
    averaged = rows.averaged + joins
    average = rows.average + joins / ops.maximum(averaged, ops.ones_like(averaged)) * (
        rows.value - rows.average
    )
    return rows._replace(average=average, averaged=averaged)


def _adam_step(rows: Table, gradient: Array, rate: Array) -> Table:
    # m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    first = FIRST_DECAY * rows.first + (1.0 - FIRST_DECAY) * gradient
    second = SECOND_DECAY * rows.second + (1.0 - SECOND_DECAY) * gradient * gradient
    # theta <- theta - rate (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)
    first_corrected = first / (1.0 - ops.exp(rows.count * float(np.log(FIRST_DECAY))))
    second_corrected = second / (1.0 - ops.exp(rows.count * float(np.log(SECOND_DECAY))))
    value = rows.value - rate * first_corrected / (ops.sqrt(second_corrected) + EPSILON)
    return rows._replace(value=value, first=first, second=second)


def _natural_step(rows: Table, gradient: Array, rate: Array, share: float) -> Table:
    """A step of sites, whose gradient is natural (see `encoders.site_potential`).

    The first steps are as long as the share of a copy's data that a batch has: what a batch says is
    added up, and no site is more certain than what has been seen of it. Rows that have been drawn
    often move by less: they become the mean of what their batches say.
    """
    # rho_n = (n + n_0)^-kappa (Robbins and Monro), of which the first is the share
    begun = min(share, FIRST_STEP) ** (-1.0 / FORGETTING)
    length = ops.exp(-FORGETTING * ops.log(rows.count - 1.0 + begun))
    # None where the rate is 0.
    length = length * ops.cast(rate + ops.zeros_like(length) > 0, length)
    size = ops.shape(rows.value)[-1] // 2
    shift, precision = rows.value[..., :size], rows.value[..., size:]
    # h <- h - rho dloss/dE[u];  L <- L + 2 rho dloss/dE[u^2]
    firmer = 2.0 * length * gradient[..., size:]
    # No step takes more than half of a precision: it would not stay positive.
    lost = ops.maximum(-firmer, ops.zeros_like(firmer))
    least = ops.maximum(lost, 0.5 * precision)
    some = least > 0
    taken = ops.where(some, 0.5 * precision / ops.where(some, least, 1.0), 1.0)
    shift = shift - taken * length * gradient[..., :size]
    return rows._replace(value=ops.concat([shift, precision + taken * firmer], -1))


def table_rows(plan: GuidePlan, block: str, batch: Batch) -> Array:
    """Places in a block's table of the batch's rows, `[product of the plates' rows]`.

    Indices `[steps, rows]` give the places of each step, `[steps, product of the plates' rows]`. A
    row that is padding in any of its plates reads and writes the table's last row.
    """
    sizes = [plan.sizes[plate] for plate in plan.block(block).plates]
    indices = [batch.indices[plate] for plate in plan.block(block).plates]
    flat, padding = indices[0], indices[0] >= sizes[0]
    for size, index in zip(sizes[1:], indices[1:], strict=True):
        place = ops.expand_dims(flat, -1) * size + ops.expand_dims(index, -2)
        beyond = ops.expand_dims(padding, -1) | ops.expand_dims(index >= size, -2)
        flat, padding = (ops.reshape(x, (*x.shape[:-2], -1)) for x in (place, beyond))
    return ops.where(padding, ops.zeros_like(flat) + int(np.prod(sizes)), flat)


def rows_of(
    plan: GuidePlan, tables: Mapping[str, np.ndarray], batch: Batch
) -> dict[str, np.ndarray]:
    """Rows of each table that belong to a batch, `{block: [*plates, columns]}`."""
    out: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        sizes = [len(batch.indices[p]) for p in plan.block(name).plates]
        out[name] = table[table_rows(plan, name, batch)].reshape(*sizes, -1)
        release(table)
    return out


class TableStore:
    """Free tables on the host, a row for each copy and a last one for padding.

    A row and its optimizer's state lie side by side, so that to fetch one costs the same however
    many there are. All start at zero. In memory they are written at once: memory that was only
    promised would be handed out page by page in the steps. In files they have their place on the
    disk from the beginning, and so have the fitted tables: a disk that fills up costs no fit.

    Args:
        plan: the plan.
        dtype: floating dtype of the run.
        space: where they are held. Their files have no names, and are gone with the store.

    Raises:
        PaviError: the files would not fit on their disk.
    """

    def __init__(self, plan: GuidePlan, dtype: str, space: TableSpace | None = None) -> None:
        self._dtype, self._shapes = dtype, fitted_shapes(plan)
        space = space or TableSpace()
        self._folder = space.folder_of(plan, dtype)
        self._reserved: dict[str, np.ndarray] = {}
        if self._folder is not None:
            _check_room(plan, dtype, space, self._folder)
            self._reserved = {name: self._zeros(shape) for name, shape in self._shapes.items()}
        self.packed: dict[str, np.ndarray] = {
            name: self._zeros((rows, packed_width(columns)))
            for name, (rows, columns) in self._shapes.items()
        }

    def take(self, name: str, rows: np.ndarray | None) -> Table:
        """Rows of a table, those of all copies where None."""
        packed = self.packed[name]
        taken = packed[:-1] if rows is None else np.take(packed, rows, axis=0, mode="clip")
        return self._unpacked(name, taken)

    def put(self, name: str, rows: np.ndarray | None, table: Table) -> None:
        """Writes rows back where they were taken."""
        columns = np.concatenate([np.asarray(part) for part in table], 1)
        self.packed[name][slice(-1) if rows is None else rows] = columns

    def values(self, *, averaged: bool) -> dict[str, np.ndarray]:
        """The tables, `[copies + 1, columns]`: averaged rows, or the last iterate of each.

        Of a row that was never averaged, the last iterate stands for the average.
        """
        out: dict[str, np.ndarray] = {}
        for name, packed in self.packed.items():
            reserved = self._reserved.pop(name, None)
            out[name] = self._zeros(self._shapes[name]) if reserved is None else reserved
            for span in spans(len(packed), packed.strides[0]):
                table = self._unpacked(name, packed[span])
                chosen = (table.averaged > 0) & averaged
                out[name][span] = np.where(chosen, table.average, table.value)
                release(packed)
                release(out[name])
        return out

    def restore(self, packed: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `packed` was."""
        for name, own in self.packed.items():
            for span in spans(len(own), own.strides[0]):
                own[span] = packed[name][span]
                release(own)
                release(packed[name])

    def _zeros(self, shape: tuple[int, int]) -> np.ndarray:
        if self._folder is None:
            return np.full(shape, 0.0, self._dtype)
        try:
            return mapped.zeros(shape, self._dtype, self._folder)
        except OSError as error:
            raise PaviError(
                f"The free tables cannot be held in files in {self._folder}: {error}. {_REMEDY}"
            ) from error

    def _unpacked(self, name: str, packed: np.ndarray) -> Table:
        width = self._shapes[name][1]
        edges = np.cumsum([width, width, width, 1, width])
        return Table(*(np.ascontiguousarray(x) for x in np.split(packed, edges, axis=1)))


def _check_room(plan: GuidePlan, dtype: str, space: TableSpace, folder: Path) -> None:
    """Raises unless there is room in a folder for a run's tables, those of its end included."""
    packed, fitted = packed_bytes(plan, dtype), fitted_bytes(plan, dtype)
    free = shutil.disk_usage(folder).free
    if packed + fitted <= free:
        return
    raise PaviError(
        f"The free tables take more than table_memory={space.memory} bytes, and files of "
        f"{readable(packed + fitted)} in {folder}, of which {readable(fitted)} are for the fitted "
        f"tables; {readable(free)} are free there. {_REMEDY}"
    )
