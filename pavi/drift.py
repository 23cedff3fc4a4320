"""Whether the guide's affine maps still travel, in units of their own scale.

The ELBO tells little of a location that is a tenth of its posterior's standard deviation off, and
with batches nothing at all. Where a map's place and scale go the same way from record to record
they are under way; where they tremble about a place their moves cancel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pavi.plan import GuidePlan
from pavi.prefixes import part_of

# Records that are looked at; the halves of them are compared.
WINDOW = 8
# The part of its path that a coordinate must have got ahead by, to be said to travel.
ONE_WAY = 0.75
# Windows in a row in which nothing may travel: a journey has its halts.
QUIET = 4


class Travel(NamedTuple):
    """The longest way that a coordinate has gone one way of late.

    Attributes:
        distance: between the means of the two halves of the window, in standard deviations (of a
            log scale: in itself).
        block: whose it is; "" where nothing travels.
    """

    distance: float = 0.0
    block: str = ""


STILL = Travel()


class Drift:
    """Watches the affine maps of a plan's blocks along a fit.

    Args:
        plan: the plan.
    """

    def __init__(self, plan: GuidePlan) -> None:
        self._plan = plan
        self._seen: deque[np.ndarray] = deque(maxlen=WINDOW + QUIET - 1)
        self._owner: list[str] = []

    @property
    def travel(self) -> Travel:
        """The longest of the latest windows; none until there is one."""
        seen = list(self._seen)
        windows = [seen[len(seen) - WINDOW - i :][:WINDOW] for i in range(len(seen) - WINDOW + 1)]
        return max(map(self._within, windows), default=STILL)

    def record(self, weights: Mapping[str, np.ndarray]) -> None:
        """Remembers where the maps of these weights put a draw, and how widely."""
        places: list[np.ndarray] = []
        self._owner = []
        for block in self._plan.blocks:
            moments = block.flow.moments(part_of(f"{block.name}/flow/", weights))
            if moments is not None:
                places.append(np.stack(moments, -1))
                self._owner += [block.name] * len(moments[0])
        if places:
            self._seen.append(np.concatenate(places))

    def _within(self, window: list[np.ndarray]) -> Travel:
        mean, scale = np.moveaxis(np.stack(window), -1, 0)
        with np.errstate(all="ignore"):
            y = np.concatenate([mean / scale[-1], np.log(scale)], 1)
            early, late = y[: WINDOW // 2].mean(0), y[WINDOW // 2 :].mean(0)
            path = np.abs(np.diff(y, axis=0)).sum(0)
            one_way = np.abs(y[-1] - y[0]) > ONE_WAY * path
        distance = np.where(one_way, np.abs(late - early), 0.0)
        furthest = int(np.argmax(np.nan_to_num(distance)))
        return Travel(float(distance[furthest]), self._owner[furthest % len(self._owner)])

    def state(self) -> dict[str, np.ndarray]:
        """The records, for `restore`."""
        return {f"{place:03d}": values for place, values in enumerate(self._seen)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned."""
        self._seen.clear()
        self._seen.extend(state[place] for place in sorted(state))
