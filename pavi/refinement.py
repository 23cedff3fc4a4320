"""How many nats a correction of its own would win each group: what amortization costs.

The correction moves and scales the base noise of each copy of each block in the groups,
eps' = m + exp(s) eps, given draws of the other latents. It needs no gradients from a framework:
with r = log p - log q', those of the ELBO are covariances under q',

    dELBO/dm = exp(-s) E[r eps],    dELBO/ds = E[r (eps^2 - 1)],

whose noise vanishes where r is constant; the Fisher information of (m, s) is (exp(-2 s), 2).
"""

from __future__ import annotations

import numpy as np

from pavi.backends.base import Arrays
from pavi.batch import Batch
from pavi.conditional import Conditional
from pavi.grouping import parts, pooled_to
from pavi.plan import BlockPlan, GuidePlan

_STEPS = 10
# Largest step, in standard deviations and in log scale.
_LONGEST = 0.5


def refined(conditional: Conditional, stands: int, seed: int) -> dict[str, np.ndarray]:
    """Nats that a free correction of each group wins, `{plate: [groups]}`.

    The correction is found on some noise and valued on other, so that what it wins is won: apart
    from noise, which may make it slightly negative, it is a lower bound.

    Args:
        conditional: the groups.
        stands: at how many draws of the other latents; the correction is the same at all of them,
            as a row of a free table is.
        seed: seed of the noise.
    """
    plan, batch, call = conditional.fitted.plan, conditional.batch, conditional.call
    blocks = [b for b in plan.blocks if b.name in conditional.groups.local]
    still = {b.name: (np.zeros(()), np.zeros(())) for b in blocks}
    first = [noise for _, noise in conditional.noise(stands, call, seed)]
    place = np.arange(call) % stands
    rest = {
        name: np.concatenate([noise[name][:1] for noise in first])[place]
        for name in first[0]
        if name not in still
    }
    move = dict(still)
    calls = conditional.noise(1, (_STEPS + 1) * call, seed)
    for step, (_, noise) in zip(range(_STEPS), calls, strict=False):
        rate = 1.0 / (1.0 + 0.25 * step)
        log_p, log_q = _moved(conditional, noise | rest, move)
        for block in blocks:
            ratio = _own(plan, block, log_p, log_q, batch)
            for stand in np.unique(place):
                ratio[place == stand] -= ratio[place == stand].mean(0)
            eps, (m, s) = noise[block.name], move[block.name]
            to_m = np.clip((ratio[..., None] * eps).mean(0), -_LONGEST, _LONGEST)
            to_s = (ratio[..., None] * (eps * eps - 1.0)).mean(0) / 2.0
            to_s = np.clip(to_s, -_LONGEST, _LONGEST)
            move[block.name] = (m + rate * np.exp(s) * to_m, s + rate * to_s)
    _, noise = next(calls)
    better, own = (
        parts(plan, conditional.groups, *_moved(conditional, noise | rest, by), batch).local
        for by in (move, still)
    )
    return {
        plate: (better[plate] - own[plate]).mean(0)[places]
        for plate, places in conditional.places.items()
    }


def _moved(
    conditional: Conditional, noise: Arrays, move: dict[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[Arrays, Arrays]:
    """Log p and log q' of the draws of corrected noise."""
    changed, log_density = dict(noise), {}
    for name, (m, s) in move.items():
        eps = noise[name]
        changed[name] = m + np.exp(s) * eps
        # log q' = log q(eps') + (eps'^2 - eps^2) / 2 - s, summed over the vector
        log_density[name] = (0.5 * (changed[name] ** 2 - eps**2) - s).sum(-1)
    _, log_p, log_q = conditional.terms(changed)
    return log_p, {n: q + log_density[n] if n in log_density else q for n, q in log_q.items()}


def _own(
    plan: GuidePlan, block: BlockPlan, log_p: Arrays, log_q: Arrays, batch: Batch
) -> np.ndarray:
    """Log p - log q of each copy of a block with all that lies below it, `[S, *plates]`."""
    total: np.ndarray | float = 0.0
    for variable in (*plan.graph.latents, *plan.graph.observed):
        if plan.graph.determines(variable.plates, block.plates):
            term = log_p[variable.name]
            total = total + pooled_to(plan, block.plates, term, variable.plates, batch)
    for other in plan.blocks:
        if plan.graph.determines(other.plates, block.plates):
            total = total - pooled_to(plan, block.plates, log_q[other.name], other.plates, batch)
    return np.asarray(total)
