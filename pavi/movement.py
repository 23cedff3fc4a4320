"""Whether the rows of free tables still travel, or only tremble where they are.

With batches the noise of the ELBO hides the journey of rows that are seldom drawn. Their own moves
do not: over two windows in turn those of a travelling row agree, those of a trembling one do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from pavi.plan import GuidePlan
from pavi.tables import TableStore

# Rows of each table that are watched, evenly spaced, and records in one window.
WATCHED = 4096
WINDOW = 4


class Movement:
    """Watches rows of the free tables along a fit.

    Args:
        plan: the plan; tables whose rows are potentials are watched, residuals are not.
        tables: the tables.

    Attributes:
        agreement: correlation of the rows' moves in the last two windows of records; 0 before there
            are two. Near 1 where they travel, 0 in a random walk, negative where they tremble about
            a place.
    """

    def __init__(self, plan: GuidePlan, tables: TableStore) -> None:
        self._tables = tables
        self._rows = {
            block.name: np.unique(np.linspace(0, block.copies - 1, WATCHED).astype(int))
            for block in plan.blocks
            if block.free_potential and block.table_width
        }
        self.agreement = 0.0
        self._seen: deque[np.ndarray] = deque(maxlen=2 * WINDOW + 1)

    def record(self) -> None:
        """Remembers where the rows are."""
        values = [self._tables.take(name, rows).value for name, rows in self._rows.items()]
        if values:
            self._seen.append(np.concatenate([np.ravel(value) for value in values]))
            self.agreement = self._correlation()

    def _correlation(self) -> float:
        if len(self._seen) < 3:
            return 0.0
        window = min(WINDOW, (len(self._seen) - 1) // 2)
        end, middle, start = (self._seen[-1 - i * window].astype(np.float64) for i in range(3))
        late, early = end - middle, middle - start
        size = float(np.sqrt((late @ late) * (early @ early)))
        return float(late @ early) / size if size > 0 else 0.0

    def state(self) -> dict[str, np.ndarray]:
        """The records, for `restore`."""
        return {f"{place:03d}": values for place, values in enumerate(self._seen)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned."""
        self._seen.clear()
        self._seen.extend(state[place] for place in sorted(state))
        self.agreement = self._correlation()
