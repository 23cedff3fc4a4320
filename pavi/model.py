"""The model's log density on a batch: parents aligned by name, terms weighted and masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pavi import ops
from pavi.alignment import align, product
from pavi.batch import Batch
from pavi.dist.spec import Spec
from pavi.graph import PlateGraph

Array = Any
LogProb = Callable[[Spec, Array], Array]


def with_lead(value: Array, lead: int, rank: int) -> Array:
    """`value` with leading singleton axes, so that `lead` axes stand before its last `rank`."""
    missing = lead + rank - len(ops.shape(value))
    return ops.reshape(value, ((1,) * missing + tuple(ops.shape(value)))) if missing else value


def aligned_parents(
    graph: PlateGraph, name: str, values: Mapping[str, Array], batch: Batch, lead: int
) -> dict[str, Array]:
    """The parents of a variable, brought to its rows.

    Args:
        graph: the model.
        name: the child.
        values: latents drawn so far, `[*lead axes, *plates, *event]`.
        batch: data of the batch.
        lead: number of leading axes of the result.

    Returns:
        `{parent: [*lead axes, *child plates (size or 1), *parent event]}`.
    """
    child = graph.variables[name]
    out: dict[str, Array] = {}
    for parent_name in child.parents:
        parent = graph.variables[parent_name]
        value = values[parent_name] if parent.kind == "latent" else batch.values[parent_name]
        value = align(
            value,
            graph.alignment(parent.plates, child.plates),
            child.plates,
            batch.members,
            event_rank=len(parent.event),
            child_event_rank=len(child.event),
        )
        event_rank = len(parent.event) or len(child.event)
        out[parent_name] = with_lead(value, lead, len(child.plates) + event_rank)
    return out


def evaluate_spec(
    graph: PlateGraph, name: str, values: Mapping[str, Array], batch: Batch, lead: int
) -> Spec:
    """The distribution of a variable given its parents' values in the batch."""
    return graph.spec(name, aligned_parents(graph, name, values, batch, lead))


def observed_value(graph: PlateGraph, name: str, batch: Batch, lead: int) -> Array:
    """An observed variable's values with `lead` leading singleton axes."""
    variable = graph.variables[name]
    return with_lead(batch.values[name], lead, len(variable.plates) + len(variable.event))


def present(batch: Batch, plates: Sequence[str]) -> Array | None:
    """1 for the rows of a batch and 0 for its padding, `[*plates]`; None for no plates."""
    return product({p: ops.cast(batch.weights[p] > 0, batch.weights[p]) for p in plates}, plates)


def row_weights(
    graph: PlateGraph, name: str, batch: Batch, *, importance: bool = True
) -> Array | None:
    """Weights of the rows of a variable, `[*plates]`, None for a variable without plates.

    Args:
        graph: the model.
        name: the variable.
        batch: the batch.
        importance: whether each row stands for N / N^r rows (paper, eq. 8), or for itself.
    """
    variable = graph.variables[name]
    plates = variable.plates
    out = product(batch.weights, plates) if importance else present(batch, plates)
    mask = batch.masks.get(name)
    if mask is None:
        return out
    # A missing element of a vector event leaves the event's other elements in the likelihood.
    trailing = len(ops.shape(mask)) - len(variable.plates)
    out = ops.reshape(out, (*ops.shape(out), *(1,) * trailing)) if out is not None else 1.0
    return out * mask


def pointwise_terms(
    graph: PlateGraph, log_prob: LogProb, values: Mapping[str, Array], batch: Batch
) -> dict[str, Array]:
    """Log density of every copy of each latent and observed variable, without weights.

    Args:
        graph: the model.
        log_prob: the backend's log density of a `dist` spec.
        values: latents, `[S, *plates, *event]`.
        batch: data of the batch.

    Returns:
        `{name: [S, *plates]}`, or `[1, *plates]` where no latent enters. What is missing of a copy
        is left out of its term, which is 0 where all is; a row of padding has a term as well.
    """
    out: dict[str, Array] = {}
    for variable in (*graph.latents, *graph.observed):
        name = variable.name
        spec = evaluate_spec(graph, name, values, batch, lead=1)
        if variable.kind == "latent":
            value = values[name]
        else:
            value = observed_value(graph, name, batch, lead=1)
        term = log_prob(spec, value)
        if name in batch.masks:
            term = term * ops.expand_dims(batch.masks[name], 0)
        event = tuple(range(1 + len(variable.plates), len(ops.shape(term))))
        out[name] = ops.sum(term, axis=event) if event else term
    return out


def log_terms(
    graph: PlateGraph, log_prob: LogProb, values: Mapping[str, Array], batch: Batch
) -> dict[str, Array]:
    """Weighted log density of each latent and observed variable, summed over the batch: `[S]`.

    L_r's model terms: (N_i / N_i^r) sum_n log p(theta_{i,n} | parents) (paper, eq. 8).
    """
    terms = pointwise_terms(graph, log_prob, values, batch)
    return {n: weighted_sum(t, batch, graph.variables[n].plates) for n, t in terms.items()}


def weighted_sum(term: Array, batch: Batch, plates: Sequence[str]) -> Array:
    """Sum of `[S, *plates]`, each copy's term standing for N_i / N_i^r copies: `[S]`."""
    weights = product(batch.weights, plates)
    if weights is None:
        return term
    return ops.sum(term * ops.expand_dims(weights, 0), axis=tuple(range(1, 1 + len(plates))))
