"""The reduced ELBO (paper, eq. 8), its gradient estimators, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pavi import guide, ops
from pavi.batch import Batch
from pavi.model import LogProb, log_terms
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
    path: Array | float | None = None,
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
        path: share of the score of q that the gradient leaves out, between 0 and 1 (None for 0).
            Its mean is zero but its noise is not (arXiv 1703.09194): with 1, the gradient vanishes,
            draw by draw, where q is exact. With 0 everything is differentiated, which is the
            steadier far from there: where q is too narrow, the path's gradient is all noise. The
            value is the same.

    Returns:
        `[S]`.
    """
    draw = guide.sample(plan, params, rows, noise, batch)
    evaluated = draw
    if path is not None:
        evaluated = guide.evaluate(plan, _held(params, path), _held(rows, path), draw, batch)
    log_q = guide.weighted_log_prob(plan, evaluated, batch)
    terms = log_terms(plan.graph, log_prob, draw.values, batch)
    log_p: Array = 0.0
    for term in terms.values():
        log_p = log_p + term
    return log_p - log_q


def _held(params: Mapping[str, Array], share: Array | float) -> dict[str, Array]:
    """The same numbers, that pass on `1 - share` of their gradient."""
    if isinstance(share, float) and share == 1.0:
        # Known beforehand: nothing is differentiated with respect to them.
        return {name: ops.stop_gradient(x) for name, x in params.items()}
    return {name: x + share * (ops.stop_gradient(x) - x) for name, x in params.items()}
