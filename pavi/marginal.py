"""Density ratios of the latents outside the groups, with the groups integrated out by draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pavi.conditional import Conditional

# Draws of the groups at each draw of the other latents: as many as bring the noise of the integral
# down to so many nats, in these bounds.
_BOUNDS = (4, 128)
_NOISE = 0.2


class Overall(NamedTuple):
    """What draws of everything tell.

    Attributes:
        joint: log p - log q of all that was drawn, one draw of the groups each, `[S]`.
        marginal: the same with the groups integrated out, `[S]`.
        noise: standard deviation of the integral's noise.
        rest: mean of log p - log q of what lies in no group, over `[S]` draws.
        local: the same of each group, `{plate: [S, groups]}`.
    """

    joint: np.ndarray
    marginal: np.ndarray
    noise: float
    rest: np.ndarray
    local: dict[str, np.ndarray]


def marginal(conditional: Conditional, num_samples: int, seed: int) -> Overall:
    """What draws of everything tell, with as many draws of the groups as it takes."""
    least, most = _BOUNDS
    if not conditional.places:
        return integrated(conditional, num_samples, 1, seed)
    found = integrated(conditional, num_samples, least, seed)
    # The variance of the noise falls as the number of draws.
    wanted = least * (found.noise / _NOISE) ** 2
    if not conditional.whole or wanted <= least:
        return found
    return integrated(conditional, num_samples, int(min(np.ceil(wanted), most)), seed)


def integrated(conditional: Conditional, num_samples: int, each: int, seed: int) -> Overall:
    """What draws of everything tell, `each` of the groups at each of the others'."""
    joint, rest = np.zeros(num_samples), np.zeros(num_samples)
    shapes = {plate: (num_samples, len(at)) for plate, at in conditional.places.items()}
    mean = {plate: np.zeros(shape) for plate, shape in shapes.items()}
    first = {plate: np.full(shape, -np.inf) for plate, shape in shapes.items()}
    second = {plate: np.full(shape, -np.inf) for plate, shape in shapes.items()}
    flat = 0
    for given, parts, _ in conditional.draw(num_samples, each, seed):
        leads = (flat + np.arange(len(given))) % each == 0
        flat += len(given)
        rest[given] = parts.rest
        joint[given[leads]] = parts.rest[leads]
        for plate, ratio in parts.local.items():
            joint[given[leads]] += ratio[leads].sum(1)
            np.add.at(mean[plate], given, ratio / each)
            # log sum_k w_k and log sum_k w_k^2
            np.logaddexp.at(first[plate], given, ratio)
            np.logaddexp.at(second[plate], given, 2.0 * ratio)
    marginal, variance = rest.copy(), np.zeros(num_samples)
    for plate in mean:
        marginal += (first[plate] - np.log(each)).sum(1)
        # Var log Zhat ~ sum w^2 / (sum w)^2 - 1 / K
        spread = np.exp(second[plate] - 2.0 * first[plate]) - 1.0 / each
        variance += np.maximum(spread, 0.0).sum(1) * each / max(each - 1, 1)
    return Overall(joint, marginal, float(np.sqrt(variance.mean())), rest, mean)


def elbo_of(conditional: Conditional, overall: Overall) -> tuple[float, float]:
    """The ELBO of the whole model, from all groups or a random sample of them."""
    total, sampling = overall.rest.copy(), 0.0
    for plate, ratio in overall.local.items():
        size, taken = conditional.fitted.data.sizes[plate], ratio.shape[1]
        total += ratio.sum(1) * (size / taken)
        if 1 < taken < size:
            # Of a mean of n of N without replacement: (1 - n / N) s^2 / n
            sampling += size**2 * (1.0 - taken / size) * ratio.mean(0).var(ddof=1) / taken
    error = np.sqrt(total.var(ddof=1) / len(total) + sampling)
    return float(total.mean()), float(error)
