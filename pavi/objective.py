"""The reduced ELBO (paper, eq. 8), its gradient estimators, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from pavi import guide, ops
from pavi.batch import Batch
from pavi.model import LogProb, log_terms, pointwise_terms
from pavi.plan import GuidePlan

Array = Any
Gradient = Literal["auto", "path", "total"]


def elbo_samples(
    plan: GuidePlan,
    log_prob: LogProb,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    noise: Mapping[str, Array],
    batch: Batch,
    *,
    path: bool = False,
) -> Array:
    """One-sample estimates of the reduced ELBO, one for each draw.

        L_r = sum_i (N_i / N_i^r) sum_n [log p(theta_{i,n} | .) - log q_i(theta_{i,n} | .)]
            + (N_X / N_X^r) sum_n log p(x_n | .)

    Its expectation over batches and noise is the full ELBO.

    Args:
        plan: the plan.
        log_prob: the backend's log density of a `dist` spec.
        params: shared weights.
        rows: rows of the free tables in the batch.
        noise: standard normal noise, `{block: [S, *axes, dimension]}`.
        batch: the batch.
        path: whether the gradient leaves out the score of q. Its mean is zero but its noise is not
            (arXiv 1703.09194): without it the gradient vanishes, draw by draw, where q is exact.
            The total gradient is the steadier one far from there: where q is too narrow, the path's
            is all noise. The value is the same.

    Returns:
        `[S]`.
    """
    draw = guide.sample(plan, params, rows, noise, batch)
    evaluated = draw
    if path:
        evaluated = guide.evaluate(plan, held(params, params), held(rows, rows), draw, batch)
    log_q = guide.weighted_log_prob(plan, evaluated, batch)
    terms = log_terms(plan.graph, log_prob, draw.values, batch)
    log_p: Array = 0.0
    for term in terms.values():
        log_p = log_p + term
    return log_p - log_q


class Terms(NamedTuple):
    """Draws of a guide, and the ELBO's terms at each before they are weighted and summed.

    Attributes:
        values: `{latent: [S, *plates, *event]}`.
        log_p: log density of each copy given its parents, summed over the event; what is missing of
            an observed one is left out; `{variable: [S, *plates]}`.
        log_q: log density of each copy of a block given the earlier ones, `{block: [S, *axes]}`.
    """

    values: dict[str, Array]
    log_p: dict[str, Array]
    log_q: dict[str, Array]


def terms(
    plan: GuidePlan,
    log_prob: LogProb,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    noise: Mapping[str, Array],
    batch: Batch,
) -> Terms:
    """The terms of which `elbo_samples` is the weighted sum; same arguments."""
    draw = guide.sample(plan, params, rows, noise, batch)
    samples = ops.shape(next(iter(noise.values())))[0]
    log_p = {
        name: ops.broadcast_to(term, (samples, *ops.shape(term)[1:]))
        for name, term in pointwise_terms(plan.graph, log_prob, draw.values, batch).items()
    }
    return Terms(draw.values, log_p, draw.log_prob)


def base_noise(
    plan: GuidePlan, samples: int, sizes: Mapping[str, int], normal: Callable[[int], Array]
) -> dict[str, Array]:
    """Standard normal noise of one step, `{block: [S, *axes, dimension]}`, in pairs if need be.

    Args:
        plan: the plan.
        samples: S.
        sizes: rows of every plate in the batch.
        normal: makes a vector of so many standard normal numbers.
    """
    drawn = -(-samples // 2) if plan.paired else samples
    shapes = guide.noise_shapes(plan, drawn, sizes)
    ends = np.cumsum([prod(shape) for shape in shapes.values()])
    flat, out, start = normal(int(ends[-1])), {}, 0
    for (name, shape), end in zip(shapes.items(), ends, strict=True):
        part = ops.reshape(flat[start:end], shape)
        out[name] = ops.concat([part, -part[: samples - drawn]], 0) if samples > drawn else part
        start = end
    return out


def held(params: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    """Weights or rows, those named without their gradients."""
    return {n: ops.stop_gradient(x) if n in names else x for n, x in params.items()}
