"""How many draws of the guide a step takes where nobody says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pavi.plan import GuidePlan

# Small models are cheap: more draws a step make it quieter at hardly any cost.
_MAX_PARTICLES, _PARTICLE_NUMBERS = 8, 50_000


def particles(plan: GuidePlan, sizes: Mapping[str, int]) -> int:
    """Draws a step: as many as keep it small, by the numbers that one of them takes."""
    variables = (*plan.graph.latents, *plan.graph.observed)
    numbers = sum(math.prod((*(sizes[p] for p in v.plates), *v.event)) for v in variables)
    # A dense precision of each copy, which is most of the work where vectors are long.
    dense = (block for block in plan.blocks if not block.elementwise)
    numbers += sum(math.prod(sizes[p] for p in b.axes) * b.dimension**2 for b in dense)
    step = 2 if plan.paired else 1
    return step * int(np.clip(_PARTICLE_NUMBERS // (step * numbers), 1, _MAX_PARTICLES // step))
