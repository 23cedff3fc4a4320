"""What a saved run says of itself besides its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pavi.binding import BoundData
from pavi.plan import GuidePlan
from pavi.schedule import History


def description(
    plan: GuidePlan, data: BoundData, dtype: str, history: History, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """A run as JSON has it.

    Args:
        plan: the plan.
        data: the data of the fit.
        dtype: floating dtype of the run.
        history: the ELBO along the fit.
        facts: what else there is to say, as JSON has it.
    """
    return {
        "graph": plan.graph.fingerprint(),
        "variables": list(plan.graph.variables),
        "data": data.fingerprint(dtype),
        "arrays": data.fingerprints(dtype),
        "sizes": dict(plan.sizes),
        "batch": dict(plan.batch),
        "standards": {name: list(pair) for name, pair in plan.standards.items()},
        "family": plan.family.to_json(),
        "blocks": [[block.name, block.joint, block.encoding] for block in plan.blocks],
        "dtype": dtype,
        "history": {
            "step": history.step.tolist(),
            "elbo": _numbers(history.elbo),
            "elbo_se": _numbers(history.elbo_se),
            "phase": history.phase.tolist(),
        },
        **facts,
    }


def _numbers(array: np.ndarray) -> list[float | None]:
    """JSON has no NaN: null stands for it."""
    return [float(x) if np.isfinite(x) else None for x in array]
