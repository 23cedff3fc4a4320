"""How often a fit has seen the data that its free rows are of.

A row that is trained for one copy has nothing but the copy's own data, of which a batch may hold a
part. If each of these was seen n times, no schedule brings the row nearer to its posterior than the
scatter of the batches allows, which is 1 / sqrt(n) of the posterior's standard deviation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pavi.plan import GuidePlan
from pavi.subsampling import Sampler

# Times that the rarest data have to be seen: for rows within a tenth of a standard deviation.
ENOUGH = 100
# Steps whose batches are looked at, to find the rarest rows.
_STEPS = 250


class Visits(NamedTuple):
    """The data that were seen least often.

    Attributes:
        times: how many times each of them was seen, on average; infinite where no free row depends
            on data that a batch holds a part of.
        block: the block whose free rows they belong to.
        observed: the observed variable.
    """

    times: float = np.inf
    block: str = ""
    observed: str = ""


def rarest(plan: GuidePlan, sampler: Sampler | None, steps: int, seed: int) -> Visits:
    """The data that free rows depend on and that were seen least often in so many steps."""
    blocks = [
        block
        for block in plan.blocks
        if block.free_potential and block.table_width and not block.site and plan.share(block) < 1.0
    ]
    if sampler is None or not blocks:
        return Visits()
    weights = sampler.draw(seed, _STEPS).weights
    found = Visits()
    for block in blocks:
        for observed in plan.graph.observed:
            if not plan.graph.determines(observed.plates, block.plates):
                continue
            # A row is in a batch with the inverse of its weight as its probability.
            weight = np.prod([weights[p].max() for p in observed.plates if p in weights])
            found = min(found, Visits(steps / float(weight), block.name, observed.name))
    return found
