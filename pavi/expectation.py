"""Score and information of a likelihood, expected under the Gaussian law of its predictor.

Where a Newton step takes them at a point, it finds the mode and the curvature there; where it takes
their expectations, the Gaussian nearest to the posterior (Opper and Archambeau, *The variational
Gaussian approximation revisited*, Neural Computation 21, 2009, eq. 16 to 18).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pavi import ops
from pavi.batch import Batch
from pavi.linearisation import Rows, at_rows
from pavi.plan import BlockPlan, GuidePlan

Array = Any

# The law of a predictor in a few points: of 5, moments up to the ninth are exact.
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(5)


class Known(NamedTuple):
    """What is known of a block given the coarser ones, the finer ones integrated out.

    Attributes:
        block: the block.
        inverse: inverse of its precision's factor L, `[S, *axes, d, d]`.
        cross: L^{-1} times its precision with each coarser block, `[S, *axes, d, d_other]`.
    """

    block: BlockPlan
    inverse: Array
    cross: Mapping[str, Array]


# Of each block, finest first and the target last.
Posterior = list[Known]


def known(block: BlockPlan, cholesky: Array, cross: Mapping[str, Array]) -> Known:
    """A block's law, of the factor of its precision."""
    identity = ops.asarray(np.eye(ops.shape(cholesky)[-1]), like=cholesky)
    return Known(block, ops.solve_triangular(cholesky, identity), cross)


def variance(
    plan: GuidePlan,
    slopes: Mapping[str, Array],
    posterior: Posterior,
    plates: tuple[str, ...],
    rank: int,
    batch: Batch,
) -> Array:
    """Variance of a predictor `[S, *plates, *event]`; joint blocks are taken for known."""
    parts, total = dict(slopes), 0.0
    for block, inverse, crosses in posterior:
        slope = parts.pop(block.name, None)
        if slope is None:
            continue
        # Var f = J (L L')^{-1} J' = |t|^2,  t = L^{-1} J'
        rows = at_rows(plan, block.name, inverse, plates, rank, batch, event_rank=2)
        t = ops.matmul(rows, ops.expand_dims(slope, -1))[..., 0]
        total = total + ops.sum(t * t, -1)
        for name, cross in crosses.items():
            if plan.block(name).joint:
                continue
            # A coarser block moves the mean of this one too: J_c <- J_c - t' X_c
            rows = at_rows(plan, block.name, cross, plates, rank, batch, event_rank=2)
            pulled = ops.matmul(ops.expand_dims(t, -2), rows)[..., 0, :]
            parts[name] = parts[name] - pulled if name in parts else -pulled
    return total


def expected(rows: Rows, place: int, spread: Array) -> tuple[Array, Array]:
    """Expected score and information of one predictor, normal around its centre."""
    centre, spec = rows.centres[place], rows.spec
    axes = (len(_NODES), *(1,) * rows.rank)[: rows.rank]
    nodes = ops.asarray(_NODES.reshape(axes), like=centre)
    shares = ops.asarray((_SHARES / _SHARES.sum()).reshape(axes), like=centre)
    # A root has no slope at 0, where no block moves the predictor.
    scale = ops.sqrt(ops.expand_dims(spread, 0) + 1e-12)
    moved = (*rows.centres[:place], centre + scale * nodes, *rows.centres[place + 1 :])
    pulls = spec.with_predictors(moved).score_and_information(rows.value)[place]
    score, information = (ops.sum(shares * pull, 0, keepdims=True) for pull in pulls)
    return score, information
