"""Which component of a mixture each draw is from: the labels that `dist.Mixture` sums out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from pavi.backends.base import Arrays, get_adapter
from pavi.batch import Batch
from pavi.dist.compound import Mixture
from pavi.errors import DataError, did_you_mean
from pavi.graph import PlateGraph, Random
from pavi.model import LogProb, evaluate_spec, observed_value
from pavi.posterior import Posterior
from pavi.summaries import Summary


def responsibilities(
    posterior: Posterior,
    num_samples: int = 1000,
    *,
    seed: int = 0,
    variables: Sequence[str] | None = None,
) -> Arrays:
    """Posterior probability of each component of each draw of a `dist.Mixture`.

    The mean over posterior draws of w_k p_k(x) / sum_j w_j p_j(x); of what is missing, that of its
    weights. For rows that were not in the fit: those of `posterior.encode(data)`. Components are
    told apart by their place in the mixture alone: the model must order them, or give them priors
    that differ.

    Args:
        posterior: of a model with mixtures, observed or latent.
        num_samples: number of draws that the mean is taken over.
        seed: seed of the draws, those of `posterior.sample`.
        variables: which of the mixtures, all by default.

    Returns:
        `{name: [*plates, *event, components]}`, without the event axes that belong to one draw.

    Raises:
        DataError: a variable that is no mixture, or no mixture at all.
        BackendError: the posterior's backend is not installed.
    """
    graph, data = posterior.graph, posterior.data
    chosen = _mixtures(graph, variables)
    fitted, density = posterior._fitted, _density(posterior.backend)
    shapes: dict[str, tuple[int, ...]] = {}
    for variable in chosen:
        spec: Any = graph.probe[variable.name]
        outer = variable.event[: len(variable.event) - spec.event_rank]
        plates = (data.sizes[p] for p in variable.plates)
        shapes[variable.name] = (*plates, *outer, len(spec.components))
    out: dict[str, Summary] = {}
    beside = 2 * sum(prod(shape) for shape in shapes.values())
    for values in fitted.draws(num_samples, seed, fitted.full, beside=beside):
        count = len(next(iter(values.values())))
        for name, shape in shapes.items():
            found = np.broadcast_to(
                _given(graph, name, values, fitted.full, density), (count, *shape)
            )
            if name not in out:
                out[name] = Summary(found, ("mean",), held=0)
            out[name].add(found)
    return {name: summary.mean() for name, summary in out.items()}


def _mixtures(graph: PlateGraph, variables: Sequence[str] | None) -> list[Random]:
    """The variables asked for, all of which are mixtures."""
    known = [v for v in graph.variables.values() if isinstance(v, Random)]
    mixed = {v.name: v for v in known if isinstance(graph.probe[v.name], Mixture)}
    if not mixed:
        raise DataError(
            "responsibilities: no variable of this graph is a dist.Mixture, so that there are no "
            f"components to be told apart; it has {[v.name for v in known]}."
        )
    if isinstance(variables, str):
        raise DataError(f"responsibilities: variables={variables!r}: expected a list of names.")
    for name in variables or ():
        if name not in mixed:
            raise DataError(
                f"responsibilities: {name!r} is no dist.Mixture of this graph; these are: "
                f"{list(mixed)}.{did_you_mean(name, list(mixed))}"
            )
    return list(mixed.values()) if variables is None else [mixed[name] for name in variables]


def _density(backend: str) -> LogProb:
    """The backend's log density of a spec."""
    get_adapter(backend)  # tells what is not installed
    density: LogProb = importlib.import_module(f"pavi.backends.{backend}.distributions").log_prob
    return density


def _given(
    graph: PlateGraph, name: str, values: Arrays, batch: Batch, density: LogProb
) -> np.ndarray:
    """Responsibilities given draws of the latents, `[S or 1, *plates, *event, components]`."""
    spec: Any = evaluate_spec(graph, name, values, batch, lead=1)
    if graph.variables[name].kind == "latent":
        value = values[name]
    else:
        value = observed_value(graph, name, batch, lead=1)
    parts = zip(spec.components, spec.inside(value), strict=True)
    log_densities = tuple(np.asarray(density(part, x), np.float64) for part, x in parts)
    found = np.asarray(spec.responsibilities(log_densities, value))
    mask = batch.masks.get(name)
    return found if mask is None else np.where(mask[None, ..., None] > 0, found, spec.weights)
