"""The reduced ELBO (paper, eq. 8), tighter bounds, their gradient estimators, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from pavi import guide, ops
from pavi.batch import Batch
from pavi.errors import PaviError
from pavi.grouping import grouping, parts
from pavi.integers import is_integer
from pavi.model import LogProb, log_terms, pointwise_terms, weighted_sum
from pavi.plan import GuidePlan

Array = Any
Gradient = Literal["auto", "path", "total"]


@dataclass(frozen=True)
class Objective:
    """A lower bound of the log evidence, which training raises.

    From K draws z_k, with the log ratios r_k = log p(x, z_k) - log q(z_k), the variational Renyi
    bound of order alpha (Li and Turner, arXiv 1602.02311, eq. 7):

        L_K = 1 / (1 - alpha) log 1/K sum_k exp((1 - alpha) r_k)

    It is the ELBO where K = 1 or alpha tends to 1, and the importance-weighted bound (Burda et al.,
    arXiv 1509.00519, eq. 8) where alpha = 0, which tends to the log evidence as K grows.

    Args:
        weights: what has importance weights of its own: `"none"`, for the ELBO; `"local"`, each
            group given the other latents, so that the bound is a sum over groups and batches of
            them are unbiased (Geffner and Domke, arXiv 2203.04176, section 4); `"global"`, all
            latents together (IWAE), which needs all data at each step.
        draws: K; 1 for the ELBO.
        alpha: order of the bound, in [0, 1).

    Raises:
        PaviError: a number out of its range.
    """

    weights: Literal["none", "local", "global"] = "none"
    draws: int = 1
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.weights not in ("none", "local", "global"):
            raise PaviError(f"weights={self.weights!r}: expected 'none', 'local' or 'global'.")
        if not is_integer(self.draws, 1) or (self.weights == "none") != (self.draws == 1):
            wanted = "1, as there are no weights" if self.weights == "none" else "2 or more"
            raise PaviError(
                f"draws={self.draws!r} with weights={self.weights!r}: expected {wanted}."
            )
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not (number and 0.0 <= self.alpha < 1.0):
            raise PaviError(f"alpha={self.alpha!r}: expected a number in [0, 1).")


ELBO = Objective()
_NAMED = {"elbo": ELBO, "local": Objective("local", 8), "global": Objective("global", 8)}


def resolved(asked: str | Objective, plan: GuidePlan) -> Objective:
    """The objective that is meant for a plan.

    Args:
        asked: an objective; `"elbo"`; `"local"` or `"global"`, with 8 draws; or `"auto"`: local
            weights where a block is the Gaussian nearest to its law, which nothing is learned of,
            and each step sees whole groups; else the ELBO.
        plan: the plan.

    Raises:
        PaviError: an objective that is none, or that cannot be estimated from the plan's batches.
    """
    if asked == "auto":
        local = grouping(plan).local
        nearest = any(block.nearest and block.name in local for block in plan.blocks)
        return _NAMED["local"] if nearest and not _objection("local", plan) else ELBO
    asked = _NAMED.get(asked, asked) if isinstance(asked, str) else asked
    if not isinstance(asked, Objective):
        raise PaviError(
            f"objective={asked!r}: expected 'auto', 'elbo', 'local', 'global' or a pavi.Objective."
        )
    objection = _objection(asked.weights, plan)
    if objection:
        raise PaviError(f"objective: no {asked.weights} importance weights here: {objection}.")
    return asked


def _objection(weights: str, plan: GuidePlan) -> str:
    """Why an objective cannot be estimated from the batches of a plan; empty if it can be."""
    if weights == "none":
        return ""
    if plan.paired:
        return "free rows of long vectors are trained along natural gradients of the ELBO"
    if weights == "global":
        return (
            f"batch={dict(plan.batch)} holds a part of the data at each step, and they weigh draws "
            "by all; take 'local', or no batch"
            if plan.batch
            else ""
        )
    groups = grouping(plan)
    if not groups.groups:
        reasons = [f"plate {plate!r}: {reason}" for plate, reason in groups.missing.items()]
        return "; ".join(reasons) or "no plate has latents"
    graph = plan.graph
    for variable in (*graph.latents, *graph.observed):
        plate = groups.of(plan, variable.plates)
        inside = sorted(graph.reach(variable.plates) & set(plan.batch) - {plate})
        if plate is not None and inside:
            return (
                f"of an element of plate {plate!r} a step sees some of {variable.name!r} only, and "
                f"the weights of its draws need all; leave {inside[0]!r} out of `batch`"
            )
    return ""


def estimates(
    plan: GuidePlan,
    objective: Objective,
    log_prob: LogProb,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    noise: Mapping[str, Array],
    batch: Batch,
    *,
    path: bool = False,
) -> Array:
    """Estimates of an objective from each of S times K draws; arguments as of `elbo_samples`.

    The noise is that of `base_noise`. With `path`, the score of q is left out: of all of q where it
    is weighted as a whole (Tucker et al., arXiv 1810.04152, eq. 8, at any order: Daudel et al.,
    arXiv 2210.06226, theorem 2), and of what lies outside the groups where these are weighted.

    Returns:
        `[S]`.
    """
    if objective.weights == "local":
        return _local(plan, objective, log_prob, params, rows, noise, batch, path=path)
    ratio = elbo_samples(plan, log_prob, params, rows, noise, batch, path=path)
    if objective.weights == "none":
        return ratio
    return _bound(ops.reshape(ratio, (-1, objective.draws)), objective, path=path)


def _local(
    plan: GuidePlan,
    objective: Objective,
    log_prob: LogProb,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    noise: Mapping[str, Array],
    batch: Batch,
    *,
    path: bool,
) -> Array:
    """Estimates of the bound of which each group is weighted by itself, `[S]`."""
    draw, evaluated = _drawn(plan, params, rows, noise, batch, path=path)
    groups = grouping(plan)
    log_p = pointwise_terms(plan.graph, log_prob, draw.values, batch)
    log_q = evaluated.log_prob | {name: draw.log_prob[name] for name in groups.local}
    own = parts(plan, groups, log_p, log_q, batch)
    total = own.rest
    if ops.shape(total)[0] > 1:
        total = ops.reshape(total, (-1, objective.draws))[:, 0]
    for plate, ratio in own.local.items():
        ratio = ops.reshape(ratio, (-1, objective.draws, ops.shape(ratio)[-1]))
        each = _bound(ops.transpose(ratio, (0, 2, 1)), objective, path=False)
        total = total + weighted_sum(each, batch, (plate,))
    return total


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
    draw, evaluated = _drawn(plan, params, rows, noise, batch, path=path)
    log_p: Array = 0.0
    for term in log_terms(plan.graph, log_prob, draw.values, batch).values():
        log_p = log_p + term
    return log_p - guide.weighted_log_prob(plan, evaluated, batch)


def _drawn(
    plan: GuidePlan,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    noise: Mapping[str, Array],
    batch: Batch,
    *,
    path: bool,
) -> tuple[guide.Draw, guide.Draw]:
    """A draw, and the same with a density whose score `path` leaves out."""
    draw = guide.sample(plan, params, rows, noise, batch)
    if not path:
        return draw, draw
    return draw, guide.evaluate(plan, held(params, params), held(rows, rows), draw, batch)


def _bound(ratio: Array, objective: Objective, *, path: bool) -> Array:
    """The bound from log ratios `[..., K]`."""
    order = 1.0 - objective.alpha
    scaled = order * ratio
    value = (ops.logsumexp(scaled, -1) - float(np.log(objective.draws))) / order
    if not path:
        return value
    weight = ops.stop_gradient(ops.softmax(scaled, -1))
    # dL = sum_k (alpha w_k + (1 - alpha) w_k^2) dr_k, along the draws alone
    surrogate = ops.sum((objective.alpha * weight + order * weight * weight) * ratio, -1)
    return ops.stop_gradient(value) + surrogate - ops.stop_gradient(surrogate)


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
    plan: GuidePlan,
    samples: int,
    sizes: Mapping[str, int],
    normal: Callable[[int], Array],
    objective: Objective = ELBO,
) -> dict[str, Array]:
    """Standard normal noise of one step, `{block: [S K, *axes, dimension]}`, in pairs if need be.

    Where groups have importance weights, the K draws of a group stand at one draw of what lies
    outside, whose noise is `[1, ...]` where S = 1.

    Args:
        plan: the plan.
        samples: S.
        sizes: rows of every plate in the batch.
        normal: makes a vector of so many standard normal numbers.
        objective: the objective.
    """
    each = dict.fromkeys((block.name for block in plan.blocks), samples)
    local = grouping(plan).local if objective.weights == "local" else each
    each |= {name: samples * objective.draws for name in each if name in local}
    shapes, drawn = {}, {}
    for name, count in each.items():
        drawn[name] = -(-count // 2) if plan.paired else count
        shapes[name] = guide.noise_shapes(plan, drawn[name], sizes)[name]
    ends = np.cumsum([prod(shape) for shape in shapes.values()])
    flat, out, start = normal(int(ends[-1])), {}, 0
    for (name, shape), end in zip(shapes.items(), ends, strict=True):
        eps, missing = ops.reshape(flat[start:end], shape), each[name] - drawn[name]
        start = end
        if missing:
            eps = ops.concat([eps, -eps[:missing]], 0)
        if name not in local and samples > 1:
            # Each of the S, K times over.
            repeated = ops.broadcast_to(
                ops.expand_dims(eps, 1), (samples, objective.draws, *shape[1:])
            )
            eps = ops.reshape(repeated, (samples * objective.draws, *shape[1:]))
        out[name] = eps
    return out


def held(params: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
    """Weights or rows, those named without their gradients."""
    return {n: ops.stop_gradient(x) if n in names else x for n, x in params.items()}
